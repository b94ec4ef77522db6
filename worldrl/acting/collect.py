"""Recording of data sets: rows of one stream, from a policy that acts in an environment."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from worldrl.acting.episodes import RANDOM_ACTIONS, Act, AgentActs, Alone, own_randomness, play
from worldrl.agent import Agent
from worldrl.envs.make import EnvConfig, describe, make_env
from worldrl.envs.stream import TRAIN, RowStream
from worldrl.types import EnvSpec

Columns = dict[str, np.ndarray]
Recorder = Callable[[EnvSpec], Act]  # makes a policy for an environment


def collect(env: EnvConfig, task: str, seed: int, steps: int, make_act: Recorder) -> tuple[Columns, EnvSpec]:
    """Record a number of steps; the last episode is cut at the end.

    Args:
        env: The environment's settings, corruption as in training.
        task: Its name.
        seed: Of the episodes, and of all that the policy draws.
        steps: Agent steps.
        make_act: Called once with the environment's spec.

    Returns:
        The columns of the contract, each (rows, ...), with actions in [-1, 1]; an episode of n steps is n + 1 rows.
    """
    made = make_env(env, task)
    spec = describe(made, env)
    rows: list[dict[str, Any]] = []
    left = steps
    with contextlib.closing(RowStream(made, seed, TRAIN, 0)) as stream, own_randomness(seed, 0x44415441):
        for tick in play(Alone(stream, spec, seed), make_act(spec)):
            rows.append({name: values[0] for name, values in tick.rows.items()})
            left -= int(not rows[-1]["is_first"])
            if not left:
                break
    names = (*spec.obs, "action", "reward", "is_first", "is_terminal")
    return {name: np.stack([row[name] for row in rows]) for name in names}, spec


def at_random(seed: int) -> Recorder:
    """Uniform over all actions."""
    rng = np.random.default_rng([seed, RANDOM_ACTIONS])
    return lambda spec: lambda rows: spec.actions.random(rng, 1)


def exploring(agent: Agent, epsilon: float) -> Recorder:
    """A trained agent as it acts in training: with draws of its policy, its action noise and ``epsilon``."""
    return lambda spec: AgentActs(agent, 1, explore=True, perturb=True, epsilon=epsilon)


def by_mode(agent: Agent) -> Recorder:
    """A trained agent without exploration."""
    return lambda spec: AgentActs(agent, 1)
