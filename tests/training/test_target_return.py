"""Return-conditioned cloning: asked for much, it does what the data did where they got much."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import worldrl
from tests.data.formats.test_formats import npz
from tests.runs.test_data import SMALL
from worldrl.__main__ import main
from worldrl.data.returns import RETURN_TO_GO
from worldrl.envs.corruption import CorruptionConfig
from worldrl.envs.make import EnvConfig, make_env
from worldrl.errors import UserError
from worldrl.evaluation.evaluate import evaluate_run
from worldrl.evaluation.playing import cell_noise
from worldrl.report.grids import Cell

STEPS, GOOD = 5, 0.8
PAID = f"{__name__}:Paid"


class Paid(gymnasium.Env[np.ndarray, np.ndarray]):
    """The reward is the action; what is seen is noise."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.now = 0
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.now += 1
        return self._seen(), float(action[0]), False, self.now == STEPS, {}

    def _seen(self) -> np.ndarray:
        return self.np_random.standard_normal(2).astype(np.float32)


def two_modes(path: Path, episodes: int = 60) -> Path:
    """In every second episode each action is the good one, in the others the bad one."""
    rng, n = np.random.default_rng(0), STEPS * episodes
    action = np.where(np.arange(n) // STEPS % 2 == 0, GOOD, -GOOD)[:, None]
    arrays = {"observations": rng.standard_normal((n, 2)), "next_observations": rng.standard_normal((n, 2))}
    ends = np.arange(n) % STEPS == STEPS - 1
    arrays["next_observations"][~ends] = arrays["observations"][1:][~ends[:-1]]
    return npz(path, {**arrays, "actions": action, "rewards": action[:, 0], "terminals": 0 * ends, "timeouts": ends})


def settings(path: Path, **changes: Any) -> dict[str, Any]:
    head = {"head": "bc", "head.units": 32, "head.actor_layers": 1, "head.actor_lr": 1e-2}
    usual = {name: value for name, value in SMALL.items() if not name.startswith("head")}
    given = {"data": str(path), "task": PAID, "data.normalize": True, "env.target_return": 4.0, "replay.batch": 64}
    return {**usual, **head, **given, "updates": 150, **changes}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asked")
    return worldrl.train(settings(two_modes(folder / "modes.npz")), run_dir=folder / "run")


def test_it_does_what_it_is_asked_for(run: Path) -> None:
    best, worst = STEPS * GOOD, -STEPS * GOOD
    for asked, expected in ((None, best), (best, best), (worst, worst)):
        found = evaluate_run(run, episodes=3, target_return=asked)
        np.testing.assert_allclose(found["returns"], expected, atol=0.4)


def test_without_it_a_clone_gets_neither(tmp_path: Path) -> None:
    plain = settings(two_modes(tmp_path / "modes.npz"), **{"env.target_return": None})
    found = evaluate_run(worldrl.train(plain, run_dir=tmp_path / "run"), episodes=3)
    assert np.abs(found["returns"]).max() < 2.0
    with pytest.raises(UserError, match="target-return"):
        evaluate_run(tmp_path / "run", target_return=3.0)


def test_the_command_says_what_was_asked(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.json"
    arguments = ["--episodes", "1", "--target-return", "-4", "--json", str(out), "--allow", "tests"]
    assert main(["eval", str(run), *arguments]) == 0
    assert "asked for -4" in capsys.readouterr().out
    assert json.loads(out.read_text())["target_return"] == -4.0
    assert main(["eval", str(run), "--fqe", "--allow", "tests"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_loaded_policy_is_asked_by_the_user(run: Path) -> None:
    policy = worldrl.load(run, allow="tests")
    assert policy.spec.obs[RETURN_TO_GO].shape == (1,)
    actions = {}
    for asked in (4.0, -4.0):
        policy.reset()
        actions[asked] = float(policy.act({"state": np.zeros(2), RETURN_TO_GO: np.array([asked])})[0])
    assert actions[4.0] > 0.6
    assert actions[-4.0] < -0.6
    policy.reset()
    with pytest.raises(UserError, match=RETURN_TO_GO):
        policy.act({"state": np.zeros(2)})


def test_data_of_it_are_those_of_the_task(run: Path, tmp_path: Path) -> None:
    made = ["data", "make", str(tmp_path / "more"), "--policy", str(run), "--steps", "20", "--allow", "tests"]
    assert main(made) == 0
    again = settings(tmp_path / "more", updates=1)
    assert worldrl.load(worldrl.train(again, run_dir=tmp_path / "run"), allow="tests").spec.obs["state"].shape == (2,)


def test_the_environment_subtracts_what_was_received() -> None:
    env = make_env(EnvConfig(obs="state", action_repeat=2, target_return=3.0), PAID)
    for _ in range(2):  # the second episode begins anew
        seen = [env.reset(seed=0)[0], *(env.step(np.array([a], np.float32))[0] for a in (0.5, -1.0))]
        assert [float(obs[RETURN_TO_GO][0]) for obs in seen] == [3.0, 2.0, 4.0]
    assert env.observation_space.contains(seen[0])


def test_what_is_asked_for_is_never_corrupted(run: Path) -> None:
    noise = cell_noise(Cell("gaussian", 0.5), CorruptionConfig(), worldrl.load(run, allow="tests").spec)
    noise.begin(0)
    seen = noise({"state": np.zeros(2, np.float32), RETURN_TO_GO: np.ones(1, np.float32)})
    assert seen[RETURN_TO_GO] == 1.0
    assert np.abs(seen["state"]).min() > 0


def test_it_learns_without_an_environment(tmp_path: Path) -> None:
    changes = {"task": "", "updates": 1, "data.reward": "minus_1"}
    alone = worldrl.train(settings(two_modes(tmp_path / "modes.npz"), **changes), run_dir=tmp_path / "run")
    agent = worldrl.load(alone).agent
    assert agent.normalizer is not None
    of_both = np.concatenate([sign * GOOD * np.arange(STEPS + 1) for sign in (1, -1)])  # of the rewards as they are
    assert float(agent.normalizer.get_buffer(f"std_{RETURN_TO_GO}")) == pytest.approx(of_both.std() + 1e-3, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"data": "", "frames": 10, "updates": 0, "data.normalize": False}, "env.target_return"),
        ({"frames": 10}, "frames"),
        ({"data.normalize": False}, "data.normalize"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, changes: dict[str, Any], where: str) -> None:
    with pytest.raises(UserError) as refused:
        worldrl.train(settings(two_modes(tmp_path / "modes.npz"), **changes), run_dir=tmp_path / "run")
    assert refused.value.where == where
    assert not (tmp_path / "run").exists()
