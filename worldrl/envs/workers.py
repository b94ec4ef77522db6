"""Row streams in worker processes, with a time limit on every reply."""

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
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from worldrl.envs.make import EnvConfig, make_env
from worldrl.envs.spaces import Array, BrokenContractError
from worldrl.envs.stream import EVAL, TRAIN, RowStream, row_space
from worldrl.errors import UserError, place_of, starved

Rows = dict[str, Array]  # observation keys and the stream's extras, each (N, ...)

START_GRACE_S = 60.0  # a worker imports its simulator before its first reply
REPLAY_S = 1.0  # additional time for each action that is replayed
CLOSE_S = 3.0
SHARED_MEMORY = "they share memory in /dev/shm, which must have space and be writable; or set env.num_envs=1"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Failure(Exception):
    """Environment ``index`` failed; ``what`` continues the sentence that names it.

    ``lost``: its process died or hangs. ``final``: it broke its contract, and would in any episode.
    """

    def __init__(self, index: int, what: str, lost: bool = False, final: bool = False) -> None:
        super().__init__(what)
        self.index, self.what, self.lost, self.final = index, what, lost, final


@contextlib.contextmanager
def failing_as(index: int, but: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Turn every exception except ``but`` into the failure of an environment."""
    try:
        yield
    except but:
        raise
    except Exception as error:
        raise Failure(index, f"failed: {in_words(error)}", final=isinstance(error, BrokenContractError)) from error


def in_words(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    place = place_of(error)
    return f"{type(error).__name__}: {text}" + (f" ({place})" if place else "")


def _told(error: BaseException) -> dict[str, Any]:
    """A failure as the ``info`` that a worker returns."""
    return {"failure": in_words(error), "final": isinstance(error, BrokenContractError)}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a worker creates its environment."""

    config: EnvConfig
    task: str
    seed: int
    training: bool

    def build(self, index: int) -> RowStream:
        env = make_env(self.config, self.task, self.training)
        return RowStream(env, self.seed, TRAIN if self.training else EVAL, index)


class _WorkerStream(gymnasium.Env[dict[str, Array], Array]):
    """A stream inside a worker: made at its first reset, and answering failures as data.

    So neither a slow start nor an exception can stop a worker from replying; the parent has the time limit and informs
    the user. In the parent process the same object only has the spaces.
    """

    def __init__(self, recipe: Recipe, index: int, row: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = row, action
        self._recipe, self._index = recipe, index
        self._stream: RowStream | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Rows, dict[str, Any]]:
        try:
            self._stream = self._stream or self._recipe.build(self._index)
            return self._stream.reset(options=options)
        except Exception as error:
            return self._nothing(), _told(error)

    def step(self, action: Array) -> tuple[Rows, float, bool, bool, dict[str, Any]]:
        try:
            assert self._stream is not None
            return self._stream.step(action)
        except Exception as error:
            return self._nothing(), 0.0, False, False, _told(error)

    def video(self, height: int, width: int) -> Array | str | None:
        """The image; the failure in words; None for all but environment 0."""
        if self._index != 0 or self._stream is None:
            return None
        try:
            return self._stream.task_env.video_frame(height, width)
        except Exception as error:
            return in_words(error)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def _nothing(self) -> Rows:
        assert isinstance(self.observation_space, spaces.Dict)
        return {k: np.zeros(s.shape or (), s.dtype) for k, s in self.observation_space.spaces.items()}


@dataclasses.dataclass(frozen=True)
class _WorkerFactory:
    """Pickled into each worker, which calls it."""

    recipe: Recipe
    index: int
    row: spaces.Space[Any]
    action: spaces.Space[Any]
    parent: int

    def __call__(self) -> _WorkerStream:
        if os.getpid() != self.parent:  # signals to the process group are handled by the parent, which ends its workers
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                if hasattr(signal, name):  # the last one does not exist everywhere
                    signal.signal(getattr(signal, name), signal.SIG_IGN)
        return _WorkerStream(self.recipe, self.index, self.row, self.action)


def start_workers(env: gymnasium.Env[Any, Any], recipe: Recipe, num_envs: int) -> Workers:
    row, action = row_space(env.observation_space), env.action_space
    env.close()
    return Workers([_WorkerFactory(recipe, i, row, action, os.getpid()) for i in range(num_envs)])


class Workers:
    """Streams in worker processes, with a time limit on every reply."""

    def __init__(self, factories: Sequence[_WorkerFactory]) -> None:
        self._factories = factories
        self._started, self._lost = False, False
        with _one_thread(), _explaining_start():
            self._envs = AsyncVectorEnv(
                factories, shared_memory=True, context="spawn", autoreset_mode=AutoresetMode.DISABLED
            )
        self._at_exit = partial(_close_at_exit, weakref.ref(self))
        atexit.register(self._at_exit)  # otherwise Python would end them by SIGTERM, which they ignore, and wait

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
            raise Failure(0, f"cannot be drawn: {image}")
        return image

    def again(self) -> Workers:
        """Replace these workers, one of which was lost, by new ones."""
        self.close()
        return Workers(self._factories)

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
                raise Failure(index, f"failed: {info['failure'][index]}", final=bool(info["final"][index]))
        return rows

    @contextlib.contextmanager
    def _watching(self, timeout_s: float) -> Iterator[None]:
        if self._envs.closed or self._lost:
            fix = "create new ones and restore the saved state"
            raise UserError("the environments are closed or lost a worker", fix=fix)
        try:
            yield
        except multiprocessing.TimeoutError as error:
            self._lost = True
            what = f"gave no reply within {timeout_s:g} s; its worker hangs"
            raise Failure(self._silent(), what, lost=True) from error
        except (EOFError, OSError) as error:
            self._lost = True
            index = self._dead()
            code = self._envs.processes[index].exitcode
            raise Failure(index, f"lost its worker process ({_exit_reason(code)})", lost=True) from error

    def _silent(self) -> int:
        return next((i for i, pipe in enumerate(self._envs.parent_pipes) if not pipe.poll(0)), 0)

    def _dead(self) -> int:
        deadline = time.monotonic() + 1.0  # the pipe closes a moment before the process appears as dead
        while time.monotonic() < deadline:
            for index, process in enumerate(self._envs.processes):
                if not process.is_alive():
                    return index
            time.sleep(0.01)
        return 0


def _close_at_exit(workers: weakref.ref[Workers]) -> None:
    if (alive := workers()) is not None:
        alive.close()


@contextlib.contextmanager
def _explaining_start() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        fix = "a script that uses env.num_envs > 1 must do its work under: if __name__ == '__main__'"
        raise UserError("worker processes died while they started (see their output above)", fix=fix) from error
    except OSError as error:
        refused = UserError("worker processes cannot start", error.strerror or str(error), fix=SHARED_MEMORY)
        raise starved(error) or refused from error


def _exit_reason(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    return f"killed by {signal.Signals(-code).name}; out of memory is a common reason"


def _end(process: Any, deadline: float) -> None:
    process.join(max(deadline - time.monotonic(), 0))
    if process.is_alive():
        process.kill()  # it ignores SIGTERM
        process.join(1.0)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Workers start with single-threaded numerics; otherwise N of them would compete for the cores."""
    before = {k: os.environ.get(k) for k in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(before, "1"))
    try:
        yield
    finally:
        for k, v in before.items():
            os.environ.pop(k) if v is None else os.environ.update({k: v})
