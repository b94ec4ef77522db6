"""Settings that the finished agent refuses, and consequences that are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.formats.test_formats import arrays, npz
from tests.toy_runs import STATE_SAC
from tests.training.running import STATE, make_trainer
from worldrl import train
from worldrl.errors import UserError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"belief.burn_in": 5}, "replay.length: found 6, expected 7 or more: the belief keeps 5 rows to itself"),
        ({"belief": "identity", "head": "sac", "schedule.pretrain": 3}, "this belief has nothing to learn"),
        ({"belief": "identity", "head": "sac", "schedule.model_every": 2}, "schedule.model_every: found 2, expected 1"),
        (
            {"head": "virel", "head.temperature": "residual"},
            "replay.capacity=400: found 400 rows at env.num_envs=1, expected more than 4096",
        ),
        (  # a ring of whole ticks keeps fewer rows than its capacity
            {
                "head": "virel",
                "head.temperature": "residual",
                "head.residual_batch": 99,
                "replay.capacity": 100,
                "env.num_envs": 3,
            },
            "replay.capacity=100: found 99 rows at env.num_envs=3, expected more than 99",
        ),
    ],
)
def test_what_only_the_agent_can_judge_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    kept = {k: v for k, v in STATE.items() if not k.startswith(("belief", "head")) or k in ("belief", "head")}
    with pytest.raises(UserError, match=message):
        make_trainer({**kept, **settings}, tmp_path / "run")


def test_a_run_that_cannot_learn_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train({**STATE, "frames": 400}, tmp_path / "run")
    told = capsys.readouterr().out
    assert "nothing will be learned: schedule.prefill=1000 is not below frames=400" in told
    assert "evaluated only before training: eval.every=2000 is above frames=400" in told


def test_a_run_that_is_not_evaluated_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = npz(tmp_path / "a.npz", arrays(True))
    train({"agent": "bc", "data": str(data), "updates": 2, "device": "cpu"}, tmp_path / "run")
    assert "nothing is evaluated" in capsys.readouterr().out


@pytest.mark.parametrize(("evaluation", "said"), [(1, False), (1_000_000, True)])
def test_a_policy_that_never_improves_says_so(
    evaluation: int, said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"head": "onestep", "frames": 40, "schedule.prefill": 10, "schedule.updates_per_1000_frames": 100}
    more |= {"head.evaluation_updates": evaluation, "eval.every": 0}
    train({**STATE_SAC, **more}, tmp_path / "run")
    assert ("the policy stays a clone" in capsys.readouterr().out) is said


@pytest.mark.parametrize(("length", "said"), [(2, True), (6, False)])
def test_a_recurrent_belief_on_pairs_of_rows_says_so(
    length: int, said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train({**STATE, "frames": 1, "eval.every": 0, "replay.length": length}, tmp_path / "run")
    assert ("the belief cannot learn to remember" in capsys.readouterr().out) is said


@pytest.mark.parametrize(("noise", "said"), [(0.0, True), (0.1, False)])
def test_a_deterministic_agent_without_noise_says_so(
    noise: float, said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**STATE_SAC, "head": "td3", "schedule.action_noise": noise, "frames": 1, "eval.every": 0}
    train(settings, tmp_path / "run")
    assert ("will not explore: its policy is deterministic" in capsys.readouterr().out) is said


def test_a_flow_over_one_action_says_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = "tests.envs.toy_envs:Count", "reacher_easy"
    for i, (policy, task, said) in enumerate([("flow", one, True), ("own", one, False), ("flow", two, False)]):
        settings = {**STATE_SAC, "policy": policy, "task": task, "frames": 1, "eval.every": 0}
        train(settings, tmp_path / str(i))
        assert ("this flow is a tanh-Gaussian" in capsys.readouterr().out) is said
