"""The scripts of ``docs/examples`` run as they are, except for their length; what they define is checked elsewhere."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import worldrl
from worldrl.commands.train import train
from worldrl.evaluation import robustness
from worldrl.testing import check_head

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"
ACTING = {
    "frames": 240,
    "schedule.prefill": 160,
    "schedule.pretrain": 0,
    "schedule.updates_per_1000_frames": 30,
    "checkpoint.minutes": 60,
}
DATA = {"updates": 3}
ALWAYS = {
    "eval.every": 1_000,
    "eval.episodes": 1,
    "eval.video": False,
    "log": {"tensorboard": False, "progress": False},
}


def briefly(settings: Mapping[str, Any] | None = None, run_dir: str | None = None, **arguments: Any) -> Path:
    """``worldrl.train``, for a moment."""
    asked = {**(settings or {}), **arguments, **(DATA if "data" in arguments else ACTING)}
    return train({**asked, **ALWAYS}, run_dir)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The examples in a folder of their own, which is the current one; trainings in it are short."""
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(worldrl, "train", briefly, raising=False)
    monkeypatch.setattr(robustness, "evaluate_grid", partial(robustness.evaluate_grid, num_envs=1))
    return tmp_path


def test_the_tutorial_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = (folder / "tutorial.py").read_text(encoding="utf-8")
    (folder / "tutorial.py").write_text(code.replace("episodes=10", "episodes=1"), encoding="utf-8")
    runpy.run_path("tutorial.py")
    runs = {path.parent.parent.name for path in folder.glob("runs/cartpole_swingup/*/*/config.yaml")}
    assert runs == {"latent_sac", "smac@rssm"}
    assert "return" in capsys.readouterr().out


def test_own_data_is_learned_from(folder: Path) -> None:
    runpy.run_path("own_data.py", run_name="__main__")
    saved = np.load(folder / "point.npz")
    assert saved["rewards"].shape == (40 * 50,)
    assert saved["rewards"].mean() > 0.5  # uniform positions have 0.19
    assert list(folder.glob("runs/*/td3_bc/*/config.yaml"))


@pytest.mark.usefixtures("folder")
def test_the_small_head_is_a_head() -> None:
    check_head("my_head:MeanSAC", units=8)
