"""Environments as streams of rows: dm_control and Gymnasium tasks, corruption, worker processes, rendering.

Importing this package imports neither PyTorch nor MuJoCo; the names below load their module on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldrl.envs.checks import check_spaces
    from worldrl.envs.families.dmc import DMCEnv, dmc_tasks
    from worldrl.envs.families.gym import GymEnv
    from worldrl.envs.make import EnvConfig
    from worldrl.envs.rendering import choose_backend, describe_backend, gl_string
    from worldrl.envs.stream import RowStream, episode_seed
    from worldrl.envs.vector import VectorEnv, WorkerError, make_envs
    from worldrl.envs.wrappers import Corruption

_HOME = {
    "Corruption": "wrappers",
    "DMCEnv": "families.dmc",
    "EnvConfig": "make",
    "GymEnv": "families.gym",
    "RowStream": "stream",
    "VectorEnv": "vector",
    "WorkerError": "vector",
    "check_spaces": "checks",
    "choose_backend": "rendering",
    "describe_backend": "rendering",
    "dmc_tasks": "families.dmc",
    "episode_seed": "stream",
    "gl_string": "rendering",
    "make_envs": "vector",
}

__all__ = [
    "Corruption",
    "DMCEnv",
    "EnvConfig",
    "GymEnv",
    "RowStream",
    "VectorEnv",
    "WorkerError",
    "check_spaces",
    "choose_backend",
    "describe_backend",
    "dmc_tasks",
    "episode_seed",
    "gl_string",
    "make_envs",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'worldrl.envs' has no attribute '{name}'")
    return getattr(importlib.import_module(f"worldrl.envs.{_HOME[name]}"), name)
