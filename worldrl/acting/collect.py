"""Recording of data sets: rows of one stream, from a policy that acts in an environment."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from worldrl.acting.episodes import RANDOM_ACTIONS, Act, AgentActs, Alone, check_environment, own_randomness, play
from worldrl.agent import Agent
from worldrl.envs.make import EnvConfig, describe, make_env
from worldrl.envs.stream import TRAIN, RowStream
from worldrl.types import EnvSpec

Columns = dict[str, np.ndarray]
Recorder = Callable[[EnvSpec], Act]  # makes a policy for an environment


class Collected(NamedTuple):
    """What was recorded."""

    columns: Columns  # of the contract, each (rows, ...), actions in [-1, 1]; an episode of n steps is n + 1 rows
    spec: EnvSpec
    cuts: list[str]  # what failed in each episode that the environment cut


def collect(env: EnvConfig, task: str, seed: int, steps: int, make_act: Recorder) -> Collected:
    """Record a number of steps; the last episode is cut at the end.

    Args:
        env: The environment's settings, corruption as in training.
        task: Its name.
        seed: Of the episodes, and of all that the policy draws.
        steps: Agent steps.
        make_act: Called once with the environment's spec.
    """
    made = make_env(env, task)
    spec = describe(made, env)
    rows: list[dict[str, Any]] = []
    left = steps
    with contextlib.closing(RowStream(made, seed, TRAIN, 0)) as stream, own_randomness(seed, 0x44415441):
        stage = Alone(stream, spec, seed, enduring=True)
        for tick in play(stage, make_act(spec), longest=sys.maxsize):
            rows.append({name: values[0] for name, values in tick.rows.items()})
            left -= int(not rows[-1]["is_first"])
            if not left:
                break
    ends = [row["is_first"] > 0 for row in [*rows[1:], {"is_first": 1.0}]]
    rows = [row for row, end in zip(rows, ends, strict=True) if not (end and row["is_first"])]  # cut before a step
    names = (*spec.obs, "action", "reward", "is_first", "is_terminal")
    return Collected({name: np.stack([row[name] for row in rows]) for name in names}, spec, stage.cuts)


def at_random(seed: int) -> Recorder:
    """Uniform over all actions."""
    rng = np.random.default_rng([seed, RANDOM_ACTIONS])
    return lambda spec: lambda rows: spec.actions.random(rng, 1)


def exploring(agent: Agent, epsilon: float) -> Recorder:
    """A trained agent as it acts in training: with draws of its policy, its action noise and ``epsilon``."""
    return _of(agent, explore=True, perturb=True, epsilon=epsilon)


def by_mode(agent: Agent) -> Recorder:
    """A trained agent without exploration."""
    return _of(agent)


def _of(agent: Agent, **how: Any) -> Recorder:
    def make(spec: EnvSpec) -> Act:
        check_environment(agent.spec, spec)
        return AgentActs(agent, 1, **how)

    return make
