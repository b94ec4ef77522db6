"""Experiences for whole runs, made in child processes too."""

from __future__ import annotations

import numpy as np

from worldrl.config import Config
from worldrl.training.experience import DataSet, Mixed, Stream
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
    return DataSet(config, SPEC, columns(), updates=config.frames)


def mixed(config: Config) -> Mixed:
    return Mixed(config, data(config), share=0.5)
