"""Small experiences, and a tick of the loop without the learning."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tests.toy_runs import STATE_SAC
from tests.training import toy_experiences
from worldrl.agent import Agent
from worldrl.config import Config, config_from_dict
from worldrl.runs.data import Rows
from worldrl.training.experience.base import Experience
from worldrl.types import EnvSpec, ObsSpec, box

SPEC = EnvSpec("data", {"state": ObsSpec((3,), "float32")}, box(1))
SETTINGS = {**STATE_SAC, "task": "tests.envs.toy_envs:Count", "replay.capacity": 300, "schedule.prefill": 10}


def config(**changes: Any) -> Config:
    return config_from_dict({**SETTINGS, **changes})


def columns(rows: int, episode: int = 6) -> dict[str, np.ndarray]:
    """The reward is minus the row's number, which no environment gives."""
    rng = np.random.default_rng(rows)
    return {
        "state": rng.standard_normal((rows, 3)).astype(np.float32),
        "action": rng.uniform(-1, 1, (rows, 1)).astype(np.float32),
        "reward": -np.arange(rows, dtype=np.float32),
        "is_first": (np.arange(rows) % episode == 0).astype(np.float32),
        "is_terminal": np.zeros(rows, np.float32),
    }


def found(columns: dict[str, np.ndarray]) -> Rows:
    return toy_experiences.rows(columns, SPEC)


def attached(experience: Experience, c: Config) -> Any:
    torch.manual_seed(0)
    experience.attach(Agent(c, experience.spec))
    return experience


def tick(experience: Experience) -> int:
    """One tick of the loop; how many updates it had."""
    experience.send()
    updates = 0
    while experience.due():
        updates += 1
    experience.receive()
    return updates
