"""Data sets are recorded with the exploration of training, or without any."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from worldrl.acting.collect import by_mode, collect, exploring
from worldrl.agent import Agent
from worldrl.config import config_from_dict
from worldrl.envs.make import EnvConfig
from worldrl.errors import UserError
from worldrl.registry import tiny_settings
from worldrl.types import Actions, EnvSpec, ObsSpec, box, choice

ENV, STEPS = EnvConfig(obs="state", action_repeat=1), 600


def agent(head: str, actions: Actions, **settings: Any) -> Agent:
    torch.manual_seed(0)
    parts = {"belief": "identity", "head": head, **tiny_settings("head", head), "device": "cpu", **settings}
    return Agent(config_from_dict(parts), EnvSpec("toy", {"state": ObsSpec((3,), "float32")}, actions))


def actions_of(task: str, make_act: Any) -> np.ndarray:
    columns, *_ = collect(ENV, f"tests.envs.toy_envs:{task}", 1, STEPS, make_act)
    return columns["action"][columns["is_first"] == 0]


@pytest.mark.parametrize("head", ["dqn", "mirl"])
def test_choices_are_explored_by_epsilon_and_the_prior_of_the_run(head: str) -> None:
    acting, epsilon, explored = agent(head, choice(4)), 0.4, np.full(4, 0.25)
    for parameter in acting.head.critic.parameters():
        parameter.data.zero_()  # every choice is as good: the first, or the one with the largest prior
    if head == "mirl":
        explored = np.array([0.7, 0.2, 0.1, 0.0])
        acting.head.prior.copy_(torch.from_numpy(explored))
    best = np.eye(4)[0]
    np.testing.assert_array_equal(actions_of("Choice", by_mode(acting)).mean(0), best)
    found = actions_of("Choice", exploring(acting, epsilon)).mean(0)
    np.testing.assert_allclose(found, epsilon * explored + (1 - epsilon) * best, atol=4 * np.sqrt(0.25 / STEPS))
    assert found[0] < 1


def test_a_deterministic_policy_is_recorded_with_its_action_noise() -> None:
    acting = agent("td3", box(1), **{"schedule.action_noise": 0.1})
    for parameter in acting.head.policy.parameters():
        parameter.data.zero_()
    assert not actions_of("Count", by_mode(acting)).any()
    assert actions_of("Count", exploring(acting, 0.0)).std() == pytest.approx(0.1, rel=0.15)


def test_an_episode_that_fails_is_cut_and_nothing_else_is_lost() -> None:
    """Episode 2 fails at its first step: the rows are those of the others, and a line names it."""
    begun = []

    def act(rows: Any) -> np.ndarray:
        begun.extend(rows["is_first"][rows["is_first"] > 0])
        return np.full((1, 1), float(len(begun) == 3), np.float32)  # what the environment breaks on

    columns, _, cuts = collect(ENV, "tests.envs.toy_envs:Raises", 7, STEPS, lambda spec: act)
    assert len(cuts) == 1
    assert "in episode 2 of seed 7 failed" in cuts[0]
    assert (columns["is_first"] == 0).sum() == STEPS
    whole, _, none = collect(ENV, "tests.envs.toy_envs:Count", 7, STEPS, lambda spec: lambda rows: np.zeros((1, 1)))
    assert not none
    first, second = (np.flatnonzero(c["is_first"]) for c in (columns, whole))
    np.testing.assert_array_equal(columns["state"][: first[2]], whole["state"][: second[2]])
    np.testing.assert_array_equal(columns["state"][first[2]], whole["state"][second[3]])  # the third has no step


@pytest.mark.parametrize("seed", range(4))
def test_a_recording_leaves_out_episodes_that_cannot_begin(seed: int) -> None:
    task = "tests.envs.toy_envs:SometimesStarts"
    columns, _, cuts = collect(ENV, task, seed, STEPS, lambda spec: lambda rows: np.zeros((1, 1)))
    assert (columns["is_first"] == 0).sum() == STEPS
    assert (columns["state"][:, 2] >= 0.5).all()
    assert all("lies on its back" in cut for cut in cuts)


@pytest.mark.parametrize(
    ("task", "found"), [("NeverSteps", "no such robot"), ("WrongShape", "observation_space")], ids=["hopeless", "final"]
)
def test_an_environment_that_never_works_is_an_error(task: str, found: str) -> None:
    with pytest.raises(UserError, match=found):
        collect(ENV, f"tests.envs.toy_envs:{task}", 7, STEPS, lambda spec: lambda rows: np.zeros((1, 1)))


def test_a_recording_may_be_one_endless_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldrl.acting.episodes.LONGEST", 3)
    columns, *_ = collect(ENV, "tests.envs.toy_envs:Count", 7, 50, lambda spec: lambda rows: np.zeros((1, 1)))
    assert (columns["is_first"] == 0).sum() == 50
