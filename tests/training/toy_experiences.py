"""Experiences for whole runs, made in child processes too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from worldrl.config import Config
from worldrl.runs.data import Rewards, Rows
from worldrl.training.experience.dataset import DataSet
from worldrl.training.experience.mixed import Mixed
from worldrl.training.experience.stream import Stream
from worldrl.types import EnvSpec, ObsSpec, box

SPEC = EnvSpec("data", {"state": ObsSpec((5,), "float32")}, box(1))  # the shapes of cartpole_swingup
ROWS = 600

stream = Stream


def columns() -> dict[str, np.ndarray]:
    """Episodes of 20 rows in which nothing but noise happens."""
    rng = np.random.default_rng(0)
    return {
        "state": rng.standard_normal((ROWS, 5)).astype(np.float32),
        "action": rng.uniform(-1, 1, (ROWS, 1)).astype(np.float32),
        "reward": rng.random(ROWS).astype(np.float32),
        "is_first": (np.arange(ROWS) % 20 == 0).astype(np.float32),
        "is_terminal": np.zeros(ROWS, np.float32),
    }


def data(config: Config) -> DataSet:
    return DataSet(_on_data(config, config.updates or config.frames, frames=0), rows(columns(), SPEC))


def mixed(config: Config) -> Mixed:
    return Mixed(_on_data(config, updates=0, frames=config.frames), rows(columns(), SPEC))


def then(config: Config) -> Mixed:
    """From data to environment."""
    return Mixed(_on_data(config, config.frames // 2, config.frames), rows(columns(), SPEC))


def _on_data(config: Config, updates: int, frames: int) -> Config:
    return replace(config, updates=updates, frames=frames, data=replace(config.data, name="toy"))


def rows(columns: dict[str, np.ndarray], spec: EnvSpec) -> Rows:
    return Rows(columns, spec, Rewards(), None, "0", int(columns["is_first"].sum()))
