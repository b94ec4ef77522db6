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
from worldrl.errors import UserError, wrong

HOPELESS = 10  # episodes in a row that fail at their first step


class WorkerError(UserError):
    """An environment failed, or its worker process died or hung. ``index`` is the environment's number."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index


class VectorEnv:
    """``N`` row streams of one task that tick together.

    Every call to ``reset``, ``step`` and ``restore`` returns rows: a dict of arrays (N, ...) that the caller may keep,
    with the observation keys, the ``action`` (N, A) that led there (zero on a first row), ``reward``, ``is_first``,
    ``is_terminal``, ``is_last`` (float32) and ``frames`` (int32), see ``RowStream``; and ``is_cut``, 1 on a first row
    whose environment cut the previous episode without a last row. Rows do not depend on ``N`` or on where the
    environments run.

    An environment that raises or returns something that is not finite is played again from the start of its episode. If
    it fails again, as a simulator that diverges does, the episode is cut there: the next one begins, and ``cuts`` has a
    line about it. All environments are played again; an episode that is then not the same is cut too.
    Other failures end in a WorkerError: a lost worker, a broken contract, or ``HOPELESS`` episodes in a
    row that fail at their first step. ``state`` and ``close`` still work after it.

    Attributes:
        cuts: what failed in each episode that was cut, or skipped because it could not begin.
        patient: whether other failures are treated in this way too. It becomes true with a WorkerError and is part of
            the state: at first the user may want to change something, but a resumed run gets past the failure.
    """

    def __init__(self, config: EnvConfig, task: str, seed: int, num_envs: int, training: bool) -> None:
        self.num_envs = num_envs
        self._task, self._config = task, config
        self._key = (seed, TRAIN if training else EVAL)
        env = make_env(config, task, training)
        self.spec = describe(env, config)
        self._log = _EpisodeLog(num_envs, self.spec.action_dim)
        recipe = Recipe(config, task, seed, training)
        self._streams: _Streams = _Local(env, *self._key) if num_envs == 1 else start_workers(env, recipe, num_envs)
        self.cuts: list[str] = []
        self._barren = np.zeros(num_envs, np.int64)  # episodes in a row that were cut before they had a step
        self.patient = False
        self._now: Rows = {}  # the present rows

    def reset(self, episode: int = 0) -> Rows:
        """Start the given episode in every environment, or the next one if it cannot begin."""
        self._log.before(episode)
        self._sent = self._log.no_action()
        try:
            return self._start_tick(np.zeros(self.num_envs, np.int64))
        except Failure as failure:
            return self._again(failure)

    def step(self, actions: Array) -> Rows:
        """Tick once. ``actions`` (N, A) in [-1, 1]; an entry is ignored if the previous row was a last row."""
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
        try:
            rows = self._streams.receive(self._config.timeout_s)
        except Failure as failure:
            return self._again(failure)
        self._log.record(self._sent, rows)
        return self._whole(rows)

    def state(self) -> dict[str, Any]:
        """What ``restore`` needs: ``episode`` (N,), ``actions``, one array (n, A) per environment; and ``patient``."""
        return {**self._log.state(), "patient": self.patient}

    def restore(self, state: dict[str, Any]) -> Rows:
        """Bring every environment back to where ``state`` was taken, and return its rows from there.

        Raises:
            UserError: if the state has another number of environments.
        """
        self._check_state(state)
        self._log.load(state)
        self._sent, self.patient = self._log.last_action(), state.get("patient", False)
        with self._naming_failures():
            rows = self._streams.reset(state, self._config.timeout_s)
        self._log.ended = rows["is_last"] > 0
        return self._whole(rows)

    def _whole(self, rows: Rows) -> Rows:
        """Rows with what the streams do not know: the action that led there, and that no episode was cut."""
        self._barren[rows["is_first"] == 0] = 0
        rows["action"] = (self._sent * (1.0 - rows["is_first"])[:, None]).astype(np.float32)
        rows["is_cut"] = np.zeros(self.num_envs, np.float32)
        self._now = rows
        return rows

    # --- what fails ---------------------------------------------------------------------------------------------------

    def _again(self, failure: Failure) -> Rows:
        """Play the tick again from the start of its episodes; an environment that fails twice skips to its next one."""
        failed: set[int] = set()
        skipped = np.zeros(self.num_envs, np.int64)  # episodes that were cut or left out
        compared = False
        while True:
            self._check_use(failure, skipped)
            if failure.index in failed:
                self._skip(failure, skipped)
            failed.add(failure.index)
            if failure.lost:
                self._streams = self._streams.again()
            if not compared:
                self._compare(skipped)
                compared = True
            try:
                return self._start_tick(skipped)
            except Failure as another:
                failure = another

    def _compare(self, skipped: Array) -> None:
        """Play all up to the present rows: where these are not the same, cut the episode."""
        if not self._now or self._log.ended.all():
            return
        try:
            rows = self._streams.reset(self._log.state(), self._config.timeout_s)
        except Failure as failure:  # of whichever environment: it is dealt with where the tick is played
            if failure.lost:
                self._streams = self._streams.again()
            return
        for i in range(self.num_envs):
            same = all(np.array_equal(rows[key][i], self._now[key][i]) for key in self.spec.obs)
            if not same and not self._log.ended[i]:
                self._skip(Failure(i, "did not replay exactly: its seed does not determine its episodes"), skipped)

    def _start_tick(self, skipped: Array) -> Rows:
        """The rows after the actions sent, by a replay; (N,) ``skipped`` episodes end before them."""
        state = self._log.after(self._sent, skipped)
        rows = self._streams.reset(state, self._config.timeout_s)
        is_cut = (skipped > 0) & ~self._log.ended
        self._log.load(state)
        self._log.ended = rows["is_last"] > 0
        return {**self._whole(rows), "is_cut": is_cut.astype(np.float32)}

    def _check_use(self, failure: Failure, skipped: Array) -> None:
        """Raise WorkerError if playing again would not help, or is left to the user."""
        i = failure.index
        bad = failure.lost or failure.final or self._barren[i] >= HOPELESS
        if skipped[i] >= HOPELESS or (bad and not self.patient):
            self.patient = True
            hopeless = not failure.lost and not failure.final
            told = f" (after {HOPELESS} episodes in a row that failed at their first step)" if hopeless else ""
            self._raise(failure, skipped[i], told)

    def _skip(self, failure: Failure, skipped: Array) -> None:
        i = failure.index
        self.cuts.append(self._words(failure, skipped[i]))
        if skipped[i] or self._log.ended[i] or not self._log.steps(i):
            self._barren[i] += 1
        skipped[i] += 1

    # --- the rest -----------------------------------------------------------------------------------------------------

    def render(self, height: int = 240, width: int = 320) -> Array:
        """The current image of environment 0, (height, width, 3) uint8, for videos; also for state observations.

        Raises:
            UserError: if nothing can render.
        """
        with self._naming_failures():
            return self._streams.render(height, width, self._config.timeout_s)

    def close(self) -> None:
        """Close the environments; never hangs, may be called twice."""
        self._streams.close()

    def _check_state(self, state: dict[str, Any]) -> None:
        found = len(state["episode"])
        if found != self.num_envs or len(state["actions"]) != found:
            raise wrong("env.num_envs", self.num_envs, f"{found}, as in the saved state")

    @contextlib.contextmanager
    def _naming_failures(self) -> Iterator[None]:
        try:
            yield
        except Failure as failure:
            self._raise(failure)

    def _raise(self, failure: Failure, skipped: int = 0, more: str = "") -> NoReturn:
        raise WorkerError(self._words(failure, skipped) + more, failure.index) from (failure.__cause__ or failure)

    def _words(self, failure: Failure, skipped: int) -> str:
        episode = self._log.current_episode(failure.index) + skipped
        seed = episode_seed(*self._key, failure.index, episode)
        name = f"environment {failure.index} of {self._task} (episode {episode}, episode seed {seed})"
        return f"{name} {failure.what}"


def make_envs(config: EnvConfig, task: str, seed: int, num_envs: int | None = None, training: bool = True) -> VectorEnv:
    """Create ``num_envs`` environments (``config.num_envs`` if None), in worker processes if there are several.

    Episode ``e`` of environment ``i`` has the seed ``episode_seed(seed, TRAIN or EVAL, i, e)``. Corruption applies
    where ``config.corruption.apply`` says so.

    Raises:
        UserError: for invalid settings, or a task that does not exist or does not fit.
    """
    n = config.num_envs if num_envs is None else num_envs
    if n < 1:
        raise wrong("env.num_envs", n, "1 or more")
    if seed < 0:
        raise wrong("seed", seed, "0 or more")
    return VectorEnv(config, task, seed, n, training)


class _EpisodeLog:
    """What has to be replayed in order to restore: per environment the episode and its actions so far.

    Kept next to the streams, not in them, so that it outlives a dead worker.
    """

    def __init__(self, num_envs: int, action_dim: int) -> None:
        self._empty = np.zeros((0, action_dim), np.float32)
        self._episode = np.zeros(num_envs, np.int64)
        self._actions: list[list[Array]] = [[] for _ in range(num_envs)]
        self.ended = np.zeros(num_envs, bool)
        self.started = False

    def before(self, episode: int) -> None:
        """The state whose next tick begins ``episode`` everywhere."""
        self._episode[:] = episode - 1
        self._actions = [[] for _ in self._actions]
        self.ended[:] = True
        self.started = True

    def no_action(self) -> Array:
        """(N, A) zeros."""
        return np.zeros((len(self._actions), self._empty.shape[1]), np.float32)

    def last_action(self) -> Array:
        """(N, A): the actions that led to the current rows, zero where an episode has just begun."""
        return np.stack([a[-1] if a else self._empty.sum(0) for a in self._actions])

    def steps(self, index: int) -> int:
        """The number of steps of an environment's current episode."""
        return len(self._actions[index])

    def after(self, actions: Array, skipped: Array) -> dict[str, Any]:
        """The state after a tick of ``actions``; environments with ``skipped`` episodes go to a later one instead."""
        state = self.state()
        for i, ended in enumerate(self.ended):
            if ended or skipped[i]:
                state["episode"][i] += int(ended) + skipped[i]
                state["actions"][i] = self._empty.copy()
            else:
                state["actions"][i] = np.concatenate([state["actions"][i], actions[i][None]])
        return state

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

    def again(self) -> _Streams: ...

    def close(self) -> None: ...


class _Local:
    """One stream in this process. There is no time limit, because nothing could enforce it."""

    def __init__(self, env: gymnasium.Env[Any, Any], run_seed: int, stream: int) -> None:
        self._stream = RowStream(env, run_seed, stream, 0)

    def reset(self, options: dict[str, Any], timeout_s: float) -> Rows:
        with failing_as(0):
            return _batch_of_one(self._stream.reset(options=options)[0])

    def send(self, actions: Array) -> None:
        self._action = actions[0]

    def receive(self, timeout_s: float) -> Rows:
        with failing_as(0):
            return _batch_of_one(self._stream.step(self._action)[0])

    def render(self, height: int, width: int, timeout_s: float) -> Array:
        with failing_as(0, but=UserError):
            return self._stream.task_env.video_frame(height, width)

    def again(self) -> _Local:
        return self  # it cannot be lost

    def close(self) -> None:
        self._stream.close()


def _batch_of_one(row: dict[str, Array]) -> Rows:
    return {k: np.array(v)[None] for k, v in row.items()}
