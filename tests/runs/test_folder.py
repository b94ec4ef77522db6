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
