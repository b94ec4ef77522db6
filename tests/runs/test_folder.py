"""What a run folder promises."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from worldrl.errors import UserError
from worldrl.runs.folder import sole_use


def test_a_refused_run_leaves_no_folders(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match="not today"), sole_use(tmp_path / "runs" / "a" / "b"):
        raise UserError("not today")
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]


def test_a_refused_run_keeps_a_folder_that_was_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not today"), sole_use(tmp_path):
        raise UserError("not today")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Some clusters have one: a run begins without ``flock``, or says in one line why it cannot."""

    def refuse(*given: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    if code == errno.ENOSYS:
        with sole_use(tmp_path / "run"):
            pass
    else:
        with pytest.raises(UserError, match="lock"), sole_use(tmp_path / "run"):
            pass


@pytest.mark.parametrize("name", ["lock", "metrics.jsonl", "config.yaml.partial", "checkpoints", "videos/eval-1.mp4"])
def test_nothing_is_written_through_a_link(tmp_path: Path, name: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(precious)
    with pytest.raises(UserError) as caught, sole_use(tmp_path / "run"):
        pass
    assert (caught.value.where, caught.value.found) == (str(link), "a link")
    assert precious.read_text() == "mine"
