"""Data to learn from in a second: a linear expert that errs to one side, rewarded for being near to what is best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tests.conftest import STATE_SPEC
from tests.training.toy_experiences import rows as rows_of
from worldrl.agent import Agent
from worldrl.config import config_from_dict
from worldrl.registry import tiny_settings
from worldrl.training.experience.dataset import DataSet
from worldrl.types import Actions, EnvSpec, box, choice

ROWS, EPISODES = 11, 400  # of an episode, and how many of them
KINDS = {"box": box(2), "choice": choice(2)}
WEIGHT = np.random.default_rng(7).normal(0.0, 0.3, (5, 2)).astype(np.float32)


@dataclass
class Data:
    """Rows, and what a perfect clone of them would regret: see ``regret``."""

    spec: EnvSpec
    columns: dict[str, np.ndarray]
    cloned: float


def best(state: np.ndarray, actions: Actions) -> np.ndarray:
    """(N, 5) -> (N, 2): the linear expert; of a choice the larger of its two numbers."""
    wanted = np.clip(state @ WEIGHT, -1.0, 1.0)
    return wanted if actions.kind == "box" else np.eye(2, dtype=np.float32)[wanted.argmax(-1)]


def biased(wanted: np.ndarray, rng: np.random.Generator, actions: Actions, bias: float, noise: float) -> np.ndarray:
    """What was done: too much by ``bias``, with noise; of a choice the worse one with probability 0.5 + bias."""
    if actions.kind == "choice":
        return np.where(rng.random((len(wanted), 1)) < 0.5 + bias, 1.0 - wanted, wanted)
    return np.clip(wanted + bias + noise * rng.standard_normal(wanted.shape), -1.0, 1.0)


def linear_expert(bias: float, kind: str = "box", noise: float = 0.4, seed: int = 0) -> Data:
    """States are drawn anew at every step. Every second episode ends by itself, the others by a time limit."""
    actions, rng, n = KINDS[kind], np.random.default_rng(seed), ROWS * EPISODES
    state = rng.standard_normal((n, 5)).astype(np.float32)
    wanted = best(state, actions)
    taken = biased(wanted, rng, actions, bias, noise)
    distance, first = np.square(taken - wanted).mean(-1), np.arange(n) % ROWS == 0
    columns = {
        "state": state,
        "action": np.where(first[:, None], 0.0, np.roll(taken, 1, 0)).astype(np.float32),  # it LED to the row
        "reward": np.where(first, 0.0, -np.roll(distance, 1)).astype(np.float32),
        "is_first": first.astype(np.float32),
        "is_terminal": (np.arange(n) % (2 * ROWS) == ROWS - 1).astype(np.float32),
    }
    usual = np.mean([biased(wanted, rng, actions, bias, noise) for _ in range(64)], 0)
    clone = usual if kind == "box" else usual.round()
    return Data(STATE_SPEC._replace(actions=actions), columns, float(np.square(clone - wanted).mean()))


def learn(head: str, data: Data, updates: int = 400, rows: int = 2, **settings: Any) -> Agent:
    """An agent that has learned from the data, by batches of 256 transitions."""
    torch.manual_seed(0)
    fast = {"head.actor_lr": 3e-3, **tiny_settings("head", head), "head.units": 64}
    values = {"belief": "identity", "head": head, "device": "cpu", **fast, **settings}
    config = config_from_dict({**values, "replay.batch": 256, "replay.length": rows})
    agent, experience = Agent(config, data.spec), DataSet(config, rows_of(data.columns, data.spec))
    experience.attach(agent)
    for _ in range(updates):
        batch, extra = experience.sample(256, rows, agent.head.needs)
        agent.update(agent.next_phase(), batch, extra)
        agent.updates += 1
    return agent


def regret(agent: Agent) -> float:
    """Mean squared distance of what the agent thinks best from what is best, in states that it has not seen."""
    state = np.random.default_rng(99).standard_normal((500, 5)).astype(np.float32)
    rows = {"state": state, "action": np.zeros((500, 2), np.float32), "is_first": np.ones(500, np.float32)}
    action = agent.act({}, rows, explore=False)[1]
    return float(np.square(action - best(state, agent.spec.actions)).mean())
