"""Many environments as one batch of row streams, in this process or in workers, and exactly resumable."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NoReturn, Protocol

import gymnasium
import numpy as np

from worldrl.envs.make import EnvConfig, describe, make_env
from worldrl.envs.spaces import Array
from worldrl.envs.stream import EVAL, TRAIN, RowStream, episode_seed
from worldrl.envs.workers import Failure, Recipe, Rows, failing_as, start_workers
from worldrl.errors import UserError


class WorkerError(UserError):
    """An environment failed, or its worker process died or fell silent. ``index`` says which environment."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


class VectorEnv:
    """``N`` row streams of one task that tick together.

    Every call to ``reset``, ``step`` and ``restore`` returns rows: a dict of arrays (N, ...) that the caller may keep,
    with the observation keys, ``reward``, ``is_first``, ``is_terminal``, ``is_last`` (float32) and ``frames`` (int32);
    see ``RowStream``. Rows do not depend on ``N`` or on where the environments run.

    Any failure of an environment ends in a WorkerError; ``state`` and ``close`` still work after it.
    """

    def __init__(self, config: EnvConfig, task: str, seed: int, num_envs: int, training: bool) -> None:
        self.num_envs = num_envs
        self._task, self._config = task, config
        self._key = (seed, TRAIN if training else EVAL)
        env = make_env(config, task, training)
        self.spec = describe(env, task, config)
        self._log = _EpisodeLog(num_envs, self.spec.action_dim)
        recipe = Recipe(config, task, seed, training)
        self._streams: _Streams = _Local(env, *self._key) if num_envs == 1 else start_workers(env, recipe, num_envs)

    def reset(self, episode: int = 0) -> Rows:
        """Start the given episode in every environment."""
        return self.restore({"episode": np.full(self.num_envs, episode), "actions": self._log.no_actions()})

    def step(self, actions: Array) -> Rows:
        """Tick once. ``actions`` (N, A) in [-1, 1]; an entry is ignored where the row before was a last row."""
        self.send(actions)
        return self.receive()

    def send(self, actions: Array) -> None:
        """Start a tick; workers step while the caller does something else, until ``receive``."""
        if not self._log.started:
            raise RuntimeError("call reset() or restore() before step()")
        actions = np.array(actions, np.float32)
        expected = (self.num_envs, self.spec.action_dim)
        if actions.shape != expected:
            raise ValueError(f"actions have shape {actions.shape}, expected {expected}")
        self._sent = actions
        with self._naming_failures():
            self._streams.send(actions)

    def receive(self) -> Rows:
        """The rows of the tick that ``send`` started."""
        with self._naming_failures():
            rows = self._streams.receive(self._config.timeout_s)
        self._log.record(self._sent, rows)
        return rows

    def state(self) -> dict[str, Any]:
        """What ``restore`` needs: ``episode`` (N,) and ``actions``, one array (n, A) per environment."""
        return self._log.state()

    def restore(self, state: dict[str, Any]) -> Rows:
        """Bring every environment back to where ``state`` was taken, and return the rows it had there.

        Raises:
            UserError: for the state of another number of environments.
        """
        self._check_state(state)
        self._log.load(state)
        with self._naming_failures():
            rows = self._streams.reset(state, self._config.timeout_s)
        self._log.ended = rows["is_last"] > 0
        return rows

    def render(self, height: int = 240, width: int = 320) -> Array:
        """Environment 0 as it is now, (height, width, 3) uint8, for videos; works for state observations too.

        Raises:
            UserError: where nothing can draw.
        """
        with self._naming_failures():
            return self._streams.render(height, width, self._config.timeout_s)

    def close(self) -> None:
        """End the environments; never hangs, may be called twice."""
        self._streams.close()

    def _check_state(self, state: dict[str, Any]) -> None:
        found = len(state["episode"])
        if found != self.num_envs or len(state["actions"]) != found:
            raise UserError(
                f"the saved state is of {found} environments, this run has {self.num_envs}; set env.num_envs={found}"
            )

    @contextlib.contextmanager
    def _naming_failures(self) -> Iterator[None]:
        try:
            yield
        except Failure as failure:
            self._raise(failure)

    def _raise(self, failure: Failure) -> NoReturn:
        episode = self._log.current_episode(failure.index)
        raise WorkerError(
            f"environment {failure.index} of {self._task} (episode {episode}, episode seed "
            f"{episode_seed(*self._key, failure.index, episode)}) {failure.what}",
            failure.index,
        ) from (failure.__cause__ or failure)


def make_envs(config: EnvConfig, task: str, seed: int, num_envs: int | None = None, training: bool = True) -> VectorEnv:
    """Make ``num_envs`` environments (``config.num_envs`` if None), in worker processes if more than one.

    Episode ``e`` of environment ``i`` has the seed ``episode_seed(seed, TRAIN or EVAL, i, e)``. Corruption applies
    where ``config.corruption.apply`` says so.

    Raises:
        UserError: for bad settings or a task that does not exist or does not fit.
    """
    n = config.num_envs if num_envs is None else num_envs
    if n < 1:
        raise UserError(f"env.num_envs={n}: expected 1 or more")
    if seed < 0:
        raise UserError(f"seed={seed}: expected 0 or more")
    return VectorEnv(config, task, seed, n, training)


class _EpisodeLog:
    """What has to be repeated to get back: per environment the episode and its actions so far.

    Kept beside the streams, not in them, so that it outlives a dead worker.
    """

    def __init__(self, num_envs: int, action_dim: int) -> None:
        self._empty = np.zeros((0, action_dim), np.float32)
        self._episode = np.zeros(num_envs, np.int64)
        self._actions: list[list[Array]] = [[] for _ in range(num_envs)]
        self.ended = np.zeros(num_envs, bool)
        self.started = False

    def no_actions(self) -> list[Array]:
        return [self._empty for _ in self._actions]

    def record(self, actions: Array, rows: Rows) -> None:
        for i, first in enumerate(rows["is_first"]):
            if first:
                self._episode[i] += 1
                self._actions[i] = []
            else:
                self._actions[i].append(actions[i].copy())
        self.ended = rows["is_last"] > 0

    def state(self) -> dict[str, Any]:
        return {
            "episode": self._episode.copy(),
            "actions": [np.stack(a) if a else self._empty.copy() for a in self._actions],
        }

    def load(self, state: dict[str, Any]) -> None:
        self._episode = np.array(state["episode"], np.int64)
        self._actions = [list(np.array(a, np.float32)) for a in state["actions"]]
        self.ended[:] = False
        self.started = True

    def current_episode(self, index: int) -> int:
        """The episode that the next tick of an environment belongs to."""
        return int(self._episode[index] + self.ended[index])


class _Streams(Protocol):
    def reset(self, options: dict[str, Any], timeout_s: float) -> Rows: ...

    def send(self, actions: Array) -> None: ...

    def receive(self, timeout_s: float) -> Rows: ...

    def render(self, height: int, width: int, timeout_s: float) -> Array: ...

    def close(self) -> None: ...


class _Local:
    """One stream in this process. There is no time limit: nobody else could enforce it."""

    def __init__(self, env: gymnasium.Env[Any, Any], run_seed: int, stream: int) -> None:
        self._stream = RowStream(env, run_seed, stream, 0)

    def reset(self, options: dict[str, Any], timeout_s: float) -> Rows:
        with failing_as(0, but=UserError):
            return _batch_of_one(self._stream.reset(options=options)[0])

    def send(self, actions: Array) -> None:
        self._action = actions[0]

    def receive(self, timeout_s: float) -> Rows:
        with failing_as(0):
            return _batch_of_one(self._stream.step(self._action)[0])

    def render(self, height: int, width: int, timeout_s: float) -> Array:
        with failing_as(0, but=UserError):
            return self._stream.task_env.video_frame(height, width)

    def close(self) -> None:
        self._stream.close()


def _batch_of_one(row: dict[str, Array]) -> Rows:
    return {k: np.array(v)[None] for k, v in row.items()}
