"""What eval.py tells of one agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldrl.commands.evaluate import eval_main
from worldrl.compose import compose
from worldrl.evaluation import evaluate
from worldrl.evaluation.evaluate import evaluate_run, told
from worldrl.training.loop import train

SETTINGS: dict[str, Any] = {
    "agent": "sac", "task": "cartpole_balance", "seed": 1, "env.obs": "state", "env.action_repeat": 8, "head.units": 8,
    "frames": 400, "schedule.prefill": 200, "replay.capacity": 5000, "eval.every": 0, "log.progress": False,
    "log.tensorboard": False, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(compose(SETTINGS), folder)
    return folder


def test_settings_that_are_not_the_checkpoints_are_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (run / "config.yaml").read_text()
    assert eval_main([str(run), "--episodes", "1"]) == 0
    same = capsys.readouterr()
    assert same.err == ""
    assert same.out.endswith("over one episode\n")
    for old, new in (("action_repeat: 8", "action_repeat: 4"), ("seed: 1\n", "seed: 2\n"), ("timeout_s", "timeout_s")):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "checkpoints").symlink_to(run / "checkpoints")
    assert eval_main([str(tmp_path), "--episodes", "1"]) == 0
    place = f"{tmp_path / 'config.yaml'}: "
    assert set(capsys.readouterr().err.splitlines()) == {
        f"{place}env.action_repeat is 4, not 8 as in training",
        f"{place}seed is 2, not 1 as in training",
    }


def test_the_deviation_has_the_divisor_n_minus_1(run: Path) -> None:
    result = evaluate_run(run, episodes=3, device="cpu")
    assert result["return_std"] == pytest.approx(np.std(result["returns"], ddof=1))
    assert "3 episodes, standard deviation" in told(result)
    assert "divisor n - 1" in told(result)


def test_a_long_evaluation_is_not_silent(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "SILENCE", 0.0)
    evaluate_run(run, episodes=2, device="cpu")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 * 126  # a line for each row: 125 steps of eight frames, and the first one
    assert said[-2] == "1/2 episodes, 992 frames of the next"
