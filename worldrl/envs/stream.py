"""An environment as one endless stream of rows: every tick returns one row, including resets."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldrl.envs.spaces import Array, Observation, TaskEnv

Row = dict[str, Array]
TRAIN, EVAL, RANDOM = 0, 1, 2  # stream ids

EXTRAS: dict[str, type] = {
    "reward": np.float32,
    "is_first": np.float32,
    "is_terminal": np.float32,
    "is_last": np.float32,
    "frames": np.int32,
}


def episode_seed(run_seed: int, stream: int, index: int, episode: int) -> int:
    """Seed of episode ``episode`` of environment ``index``: ``SeedSequence([run_seed, stream, index, episode])``.

    ``stream`` is TRAIN, EVAL or RANDOM, so no two of them share an episode. The result is a 32-bit integer.
    """
    return int(np.random.SeedSequence([run_seed, stream, index, episode]).generate_state(1)[0])


def row_space(observation: spaces.Space[Any]) -> spaces.Dict:
    """The space of a row: the observation's keys and the extras of the time contract."""
    assert isinstance(observation, spaces.Dict)
    return spaces.Dict({**observation.spaces, **{k: _scalar(dtype) for k, dtype in EXTRAS.items()}})


def _scalar(dtype: type) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (), dtype) if dtype == np.float32 else spaces.Box(0, 2**31 - 1, (), dtype)


class RowStream(gymnasium.Env[Any, Any]):
    """One environment as a stream of rows.

    A row has the observation keys, ``reward`` received on arriving, ``is_first``, ``is_terminal``, ``is_last``
    (float32, 0 or 1) and ``frames`` simulated to reach it (int32). After a last row the next step ignores its action
    and returns the first row of the next episode (reward 0, frames 0). Termination and truncation are never reported to
    the caller, so automatic resets of vector wrappers have nothing to do.

    ``reset()`` starts episode 0. ``reset(options={"episode": [...], "actions": [...]})``, one entry per environment
    of the run, starts that episode and replays those actions, each array (n, A). It renders and returns only the last
    row, which is bitwise the same as before.
    """

    def __init__(self, env: gymnasium.Env[Observation, Array], run_seed: int, stream: int, index: int) -> None:
        self.env = env
        self.observation_space = row_space(env.observation_space)
        self.action_space = env.action_space
        self._key = (run_seed, stream, index)
        self._draws = self.task_env.render_pixels
        self.episode = 0  # the number of the present one
        self._ended = False

    @property
    def task_env(self) -> TaskEnv:
        """The task below all wrappers."""
        assert isinstance(self.env.unwrapped, TaskEnv)
        return self.env.unwrapped

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Row, dict[str, Any]]:
        """Start an episode and replay its actions; ``seed`` is ignored, because episodes have their own seeds."""
        index, options = self._key[2], options or {}
        episode = int(options["episode"][index]) if "episode" in options else 0
        actions = options["actions"][index] if "actions" in options else ()
        return self._replay(episode, actions), {}

    def step(self, action: Array) -> tuple[Row, float, bool, bool, dict[str, Any]]:
        """The next row; ``action`` (A,) in [-1, 1] is ignored where an episode starts."""
        row = self._start(self.episode + 1) if self._ended else self._advance(action)
        return row, 0.0, False, False, {}

    def close(self) -> None:
        self.env.close()

    def _replay(self, episode: int, actions: Any) -> Row:
        task = self.task_env
        try:
            task.render_pixels = self._draws and len(actions) == 0
            row = self._start(episode)
            for left, action in zip(range(len(actions) - 1, -1, -1), actions, strict=True):
                if self._ended:  # before its time: its seed does not determine it, and it may refuse further steps
                    break
                task.render_pixels = self._draws and left == 0
                row = self._advance(action)
        finally:
            task.render_pixels = self._draws
        return row

    def _start(self, episode: int) -> Row:
        self.episode, self._ended = episode, False
        obs, _ = self.env.reset(seed=episode_seed(*self._key, episode))
        return _row(obs, is_first=1)

    def _advance(self, action: Array) -> Row:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._ended = terminated or truncated
        return _row(obs, reward, is_terminal=terminated, is_last=self._ended, frames=info["frames"])


def _row(
    obs: Observation, reward: Any = 0.0, is_first: int = 0, is_terminal: bool = False, is_last: bool = False,
    frames: int = 0,
) -> Row:  # fmt: skip
    values = (reward, is_first, is_terminal, is_last, frames)
    return obs | {k: np.asarray(v, dtype) for (k, dtype), v in zip(EXTRAS.items(), values, strict=True)}
