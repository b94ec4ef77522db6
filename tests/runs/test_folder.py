"""What a run folder promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldrl.errors import UserError
from worldrl.runs.folder import sole_use


def test_a_refused_run_leaves_no_folders(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match="not today"), sole_use(tmp_path / "runs" / "a" / "b"):
        raise UserError("not today")
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]


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
