"""Many environments as one batch of row streams, in this process or in workers, and exactly resumable."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import multiprocessing
import os
import signal
import time
import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from worldrl.config import EnvConfig
from worldrl.envs.corruption import Corruption, check_corruption, is_active
from worldrl.envs.gym import GymEnv, is_gym_task
from worldrl.envs.spaces import Array, TaskEnv
from worldrl.envs.stream import EVAL, RANDOM, TRAIN, RowStream, episode_seed, row_space
from worldrl.errors import UserError

if TYPE_CHECKING:
    from worldrl.types import EnvSpec  # imports torch, which workers do without

Rows = dict[str, Array]  # observation keys and the stream's extras, each (N, ...)

START_GRACE_S = 60.0  # a worker imports its simulator before its first reply
REPLAY_S = 1.0  # of more patience for each action that is repeated
CLOSE_S = 3.0
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


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
        recipe = _Recipe(config, task, seed, training)
        self._streams: _Streams = _Local(env, *self._key) if num_envs == 1 else _start_workers(env, recipe, num_envs)

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
        except _Failure as failure:
            self._raise(failure)

    def _raise(self, failure: _Failure) -> NoReturn:
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


def make_env(config: EnvConfig, task: str, training: bool = True) -> gymnasium.Env[Any, Any]:
    """One environment with its corruption, in this process. Raises UserError as ``make_envs`` does."""
    check_corruption(config.corruption)
    env = _make_task(config, task)
    noisy = Corruption(env, config.corruption)  # refuses what does not fit, also where it does not apply
    return noisy if is_active(config.corruption, training) else env


def random_return(config: EnvConfig, task: str, seed: int, episodes: int) -> list[float]:
    """Undiscounted returns of the uniform random policy, one per seeded episode; nothing is drawn."""
    env = _make_task(config if is_gym_task(task) else dataclasses.replace(config, obs="state"), task)
    env.render_pixels = False
    with contextlib.closing(env):
        return [_random_episode(env, seed, e) for e in range(episodes)]


def describe(env: gymnasium.Env[Any, Any], task: str, config: EnvConfig) -> EnvSpec:
    """The EnvSpec of an environment made by ``make_env``."""
    from worldrl.types import EnvSpec, ObsSpec

    inner = env.unwrapped
    assert isinstance(inner, TaskEnv)
    assert isinstance(env.observation_space, spaces.Dict)
    assert isinstance(env.action_space, spaces.Box)
    return EnvSpec(
        task=getattr(inner, "task", task),
        obs={k: ObsSpec(tuple(v.shape or ()), str(v.dtype)) for k, v in env.observation_space.spaces.items()},
        action_dim=env.action_space.shape[0],
        action_repeat=config.action_repeat,
        terminates=inner.terminates,
        max_frames=inner.max_frames,
        groups={"state": inner.groups} if inner.groups else {},
    )


def _make_task(config: EnvConfig, task: str) -> TaskEnv:
    if is_gym_task(task):
        return GymEnv(task, config.obs, config.action_repeat, config.render)
    from worldrl.envs.dmc import DMCEnv

    return DMCEnv(task, config.obs, config.action_repeat, config.render)


def _random_episode(env: TaskEnv, seed: int, episode: int) -> float:
    episode_key = episode_seed(seed, RANDOM, 0, episode)
    rng = np.random.default_rng(episode_key)
    shape = env.action_space.shape or ()
    env.reset(seed=episode_key)
    total, done = 0.0, False
    while not done:
        _, reward, terminated, truncated, _ = env.step(rng.uniform(-1, 1, shape).astype(np.float32))
        total, done = total + float(reward), terminated or truncated
    return total


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


class _Failure(Exception):
    """Environment ``index`` failed; ``what`` continues the sentence that names it."""

    def __init__(self, index: int, what: str) -> None:
        super().__init__(what)
        self.index, self.what = index, what


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
        with _failing_as(0, but=UserError):
            return _batch_of_one(self._stream.reset(options=options)[0])

    def send(self, actions: Array) -> None:
        self._action = actions[0]

    def receive(self, timeout_s: float) -> Rows:
        with _failing_as(0):
            return _batch_of_one(self._stream.step(self._action)[0])

    def render(self, height: int, width: int, timeout_s: float) -> Array:
        with _failing_as(0, but=UserError):
            return self._stream.task_env.video_frame(height, width)

    def close(self) -> None:
        self._stream.close()


def _batch_of_one(row: dict[str, Array]) -> Rows:
    return {k: np.array(v)[None] for k, v in row.items()}


@contextlib.contextmanager
def _failing_as(index: int, but: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Turn every exception ``but`` these into the failure of an environment."""
    try:
        yield
    except but:
        raise
    except Exception as error:
        raise _Failure(index, f"failed: {_what(error)}") from error


def _what(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


@dataclasses.dataclass(frozen=True)
class _Recipe:
    """How a worker makes its environment."""

    config: EnvConfig
    task: str
    seed: int
    training: bool

    def build(self, index: int) -> RowStream:
        env = make_env(self.config, self.task, self.training)
        return RowStream(env, self.seed, TRAIN if self.training else EVAL, index)


class _WorkerStream(gymnasium.Env[dict[str, Array], Array]):
    """A stream inside a worker: made at its first reset, and answering failures as data.

    So neither a slow start nor an exception can stop a worker from replying; the parent has the time limit and tells
    the user. In the parent process the same object only carries the spaces.
    """

    def __init__(self, recipe: _Recipe, index: int, row: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = row, action
        self._recipe, self._index = recipe, index
        self._stream: RowStream | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Rows, dict[str, Any]]:
        try:
            self._stream = self._stream or self._recipe.build(self._index)
            return self._stream.reset(options=options)
        except Exception as error:
            return self._nothing(), {"failure": _what(error)}

    def step(self, action: Array) -> tuple[Rows, float, bool, bool, dict[str, Any]]:
        try:
            assert self._stream is not None
            return self._stream.step(action)
        except Exception as error:
            return self._nothing(), 0.0, False, False, {"failure": _what(error)}

    def video(self, height: int, width: int) -> Array | str | None:
        """The image; the failure in words; None for all but environment 0."""
        if self._index != 0 or self._stream is None:
            return None
        try:
            return self._stream.task_env.video_frame(height, width)
        except Exception as error:
            return _what(error)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def _nothing(self) -> Rows:
        assert isinstance(self.observation_space, spaces.Dict)
        return {k: np.zeros(s.shape or (), s.dtype) for k, s in self.observation_space.spaces.items()}


@dataclasses.dataclass(frozen=True)
class _WorkerFactory:
    """Pickled into each worker, which calls it."""

    recipe: _Recipe
    index: int
    row: spaces.Space[Any]
    action: spaces.Space[Any]
    parent: int

    def __call__(self) -> _WorkerStream:
        if os.getpid() != self.parent:  # what reaches the whole process group is the parent's, which ends its workers
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
        return _WorkerStream(self.recipe, self.index, self.row, self.action)


def _start_workers(env: gymnasium.Env[Any, Any], recipe: _Recipe, num_envs: int) -> _Workers:
    row, action = row_space(env.observation_space), env.action_space
    env.close()
    return _Workers([_WorkerFactory(recipe, i, row, action, os.getpid()) for i in range(num_envs)])


class _Workers:
    """Streams in worker processes, with a time limit on every reply."""

    def __init__(self, factories: Sequence[_WorkerFactory]) -> None:
        self._started, self._lost = False, False
        with _one_thread(), _explaining_start():
            self._envs = AsyncVectorEnv(
                factories, shared_memory=True, context="spawn", autoreset_mode=AutoresetMode.DISABLED
            )
        self._at_exit = partial(_close_at_exit, weakref.ref(self))
        atexit.register(self._at_exit)  # else Python would end them by SIGTERM, which they ignore, and wait

    def reset(self, options: dict[str, Any], timeout_s: float) -> Rows:
        limit = timeout_s if self._started else timeout_s + START_GRACE_S
        limit += REPLAY_S * max(map(len, options.get("actions", [()])))
        with self._watching(limit):
            self._envs.reset_async(options=options)
            rows, info = self._envs.reset_wait(limit)
        self._started = True
        return self._checked(rows, info)

    def send(self, actions: Array) -> None:
        with self._watching(0.0):
            self._envs.step_async(actions)

    def receive(self, timeout_s: float) -> Rows:
        with self._watching(timeout_s):
            rows, _, _, _, info = self._envs.step_wait(timeout_s)
        return self._checked(rows, info)

    def render(self, height: int, width: int, timeout_s: float) -> Array:
        with self._watching(timeout_s):
            self._envs.call_async("video", height, width)
            image = self._envs.call_wait(timeout_s)[0]
        if isinstance(image, str):
            raise _Failure(0, f"cannot be drawn: {image}")
        return image

    def close(self) -> None:
        """Ask each worker to end, then end those that did not. Gymnasium's own close can wait forever."""
        if self._envs.closed:
            return
        self._envs.closed = True
        atexit.unregister(self._at_exit)
        deadline = time.monotonic() + CLOSE_S
        for pipe in self._envs.parent_pipes:
            with contextlib.suppress(OSError, ValueError):
                pipe.send(("close", None))
        for process in self._envs.processes:
            _end(process, deadline)
        for pipe in self._envs.parent_pipes:
            pipe.close()
        self._envs.error_queue.close()

    def _checked(self, rows: Any, info: dict[str, Any]) -> Rows:
        for index, failed in enumerate(info.get("_failure", ())):
            if failed:
                raise _Failure(index, f"failed: {info['failure'][index]}")
        return rows

    @contextlib.contextmanager
    def _watching(self, timeout_s: float) -> Iterator[None]:
        if self._envs.closed or self._lost:
            raise UserError("the environments are closed or lost a worker; make new ones and restore the saved state")
        try:
            yield
        except multiprocessing.TimeoutError as error:
            self._lost = True
            raise _Failure(self._silent(), f"gave no reply within {timeout_s:g} s; its worker hangs") from error
        except (EOFError, OSError) as error:
            self._lost = True
            index = self._dead()
            code = self._envs.processes[index].exitcode
            raise _Failure(index, f"lost its worker process ({_exit_reason(code)})") from error

    def _silent(self) -> int:
        return next((i for i, pipe in enumerate(self._envs.parent_pipes) if not pipe.poll(0)), 0)

    def _dead(self) -> int:
        deadline = time.monotonic() + 1.0  # the pipe closes a moment before the process can be seen to be dead
        while time.monotonic() < deadline:
            for index, process in enumerate(self._envs.processes):
                if not process.is_alive():
                    return index
            time.sleep(0.01)
        return 0


def _close_at_exit(workers: weakref.ref[_Workers]) -> None:
    if (alive := workers()) is not None:
        alive.close()


@contextlib.contextmanager
def _explaining_start() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:
        raise UserError(
            "worker processes died while they started (their own words are above); a script that uses env.num_envs > 1 "
            "must do its work under: if __name__ == '__main__'"
        ) from error


def _exit_reason(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    return f"killed by {signal.Signals(-code).name}; out of memory is a common reason"


def _end(process: Any, deadline: float) -> None:
    process.join(max(deadline - time.monotonic(), 0))
    if process.is_alive():
        process.kill()  # it ignores a mere SIGTERM
        process.join(1.0)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Workers are started with single-threaded numerics, else N of them fight over the cores."""
    before = {k: os.environ.get(k) for k in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(before, "1"))
    try:
        yield
    finally:
        for k, v in before.items():
            os.environ.pop(k) if v is None else os.environ.update({k: v})
