"""The trained agent inside the package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import worldrl
from tests.toy_runs import STATE_SAC, make_run
from worldrl.data.settings import DEMO
from worldrl.errors import UserError
from worldrl.evaluation.evaluate import evaluate_run
from worldrl.evaluation.fitted_q import evaluate_on_data
from worldrl.runs.checkpoint import Checkpoints
from worldrl.runs.settings import load_config, run_folder
from worldrl.training.loop import resume

INSIDE = Path(worldrl.__file__).parent / DEMO


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_has_learned_its_task() -> None:
    result = evaluate_run(Path(DEMO), episodes=1, device="cpu")
    assert result["return"] > 700  # the random policy: 130


def test_a_run_of_that_name_comes_first(elsewhere: Path) -> None:
    (elsewhere / "demo" / "robustness").mkdir(parents=True)  # which eval.py demo --corruption leaves
    assert run_folder("demo") == run_folder(Path("./demo")) == INSIDE
    (elsewhere / "demo" / "robustness").rmdir()
    (elsewhere / "demo").rmdir()
    make_run(elsewhere / "demo", STATE_SAC)
    assert worldrl.load("demo", device="cpu", allow="tests").spec.task == STATE_SAC["task"]


def test_it_cannot_be_resumed_and_leaves_nothing(elsewhere: Path) -> None:
    with pytest.raises(UserError, match="init_from=demo"):
        resume(Path(DEMO))
    assert not [*elsewhere.iterdir()]


def test_it_has_no_replay_to_learn_from() -> None:
    with pytest.raises(UserError, match="no replay"):
        evaluate_on_data(Path(DEMO), device="cpu")


def test_it_is_small_and_says_how_it_was_made() -> None:
    assert sum(path.stat().st_size for path in INSIDE.rglob("*") if path.is_file()) < 3 * 2**20
    told, config = (INSIDE / "README.md").read_text(), load_config(Path(DEMO))
    (frames,) = re.findall(r"frames=([\d_]+)", told)
    assert config.frames == Checkpoints(INSIDE).frames() == int(frames)
    assert f"task={config.task} " in told
    assert f"seed={config.seed} " in told
