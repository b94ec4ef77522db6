"""The experience that a run's settings describe."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, cast

from worldrl.acting.episodes import VIDEO_SIZE
from worldrl.config import Config
from worldrl.envs.make import describe, make_env
from worldrl.runs.data import load_rows
from worldrl.training.experience.base import Experience
from worldrl.training.experience.dataset import DataSet
from worldrl.training.experience.mixed import Mixed
from worldrl.training.experience.stream import Stream
from worldrl.types import EnvSpec

if TYPE_CHECKING:
    from worldrl.envs.spaces import TaskEnv


def make_experience(config: Config) -> Experience:
    """The experience of these settings: acting, data, or data and then acting."""
    if not config.data.name:
        return Stream(config)
    if config.frames:
        return Mixed(config)
    spec = _described(config) if config.task else None
    returns = config.env.target_return is not None
    return DataSet(config, load_rows(config.data, spec, returns), spec)


def _described(config: Config) -> EnvSpec:
    """The spec of an environment that is only for evaluation; refuses a video that cannot be rendered."""
    with contextlib.closing(make_env(config.env, config.task, training=False)) as env:
        if config.eval.video and config.eval.every:
            env.reset(seed=0)
            cast("TaskEnv", env.unwrapped).video_frame(*VIDEO_SIZE)
        return describe(env, config.env)
