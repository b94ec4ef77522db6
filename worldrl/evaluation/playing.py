"""How a grid plays its episodes: one agent, several environments, any cell in any of them.

Episode ``e`` of seed ``s`` starts in the same state and draws the same posterior and policy noise in every cell, for
any number of environments.

Environments and agent are created once. The environments stay clean and are all in this process; observations are
corrupted on the way to the agent. A free environment takes the next episode of the grid, whatever its cell, so the
agent's batch stays full to the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import gymnasium
import numpy as np
import torch

from worldrl.acting.episodes import LONGEST_VIDEO, AgentActs, Tick, check_environment, naming_failures, play
from worldrl.acting.film import Film
from worldrl.acting.noise import RowNoise
from worldrl.agent import Agent
from worldrl.data.returns import RETURN_TO_GO
from worldrl.envs import episode_seed
from worldrl.envs.corruption import CorruptionConfig, Noise
from worldrl.envs.make import EnvConfig, describe, make_env
from worldrl.envs.spaces import Observation
from worldrl.envs.stream import EVAL
from worldrl.envs.workers import Failure, Rows, failing_as
from worldrl.errors import UserError
from worldrl.report.grids import CLEAN, Cell
from worldrl.types import SEEN, EnvSpec

POLICY_STREAM = 0x504F4C  # separates the agent's draws from every other use of an episode's seed

Env = gymnasium.Env[Any, Any]


class Job(NamedTuple):
    """One episode of the grid."""

    cell: Cell
    seed: int
    episode: int

    def __str__(self) -> str:
        return f"episode {self.episode} of seed {self.seed}, {self.cell}"


class Played(NamedTuple):
    """The result of an episode; ``frames`` are environment frames."""

    job: Job
    episode_return: float
    frames: int
    cut: bool = False  # by a step that failed, as a simulator that diverges does: it counts up to there


def cell_noise(cell: Cell, base: CorruptionConfig, spec: EnvSpec) -> Noise:
    """The noise of a cell on the observations of ``spec``; groups and length of bursts are those of ``base``.

    Raises:
        UserError: they are not compatible.
    """
    settings: dict[str, Any] = {} if cell == CLEAN else {cell.corruption: cell.level}
    sensors = {key: obs for key, obs in spec.obs.items() if key != RETURN_TO_GO}  # a target return is not a sensor
    return Noise(dataclasses.replace(base, **settings), sensors, spec.groups)


@contextlib.contextmanager
def make_clean_envs(config: EnvConfig, task: str, n: int, trained: EnvSpec) -> Iterator[list[Env]]:
    """``n`` environments without corruption in this process, closed at the end.

    Raises:
        UserError: they do not match the agent's training.
    """
    clean = dataclasses.replace(config, corruption=CorruptionConfig())
    with contextlib.ExitStack() as stack:
        envs: list[Env] = []
        for _ in range(n):
            envs.append(make_env(clean, task, training=False))
            stack.callback(envs[-1].close)
            check_environment(trained, describe(envs[-1], clean))
        yield envs


class _Seat:
    """One environment and the episode that it is playing, if any."""

    def __init__(self, env: Env, spec: EnvSpec, base: CorruptionConfig, known_dropout: bool) -> None:
        self.env, self.spec, self.base, self.known_dropout = env, spec, base, known_dropout
        self.cut = ""  # what failed in the present episode
        self.generator = torch.Generator()  # of the agent's draws
        self.job: Job | None = None

    def begin(self, job: Job) -> Observation:
        self.job, self.cut = job, ""
        seed = episode_seed(job.seed, EVAL, 0, job.episode)
        self.generator.manual_seed(policy_seed(job.seed, job.episode))
        self.noise = cell_noise(job.cell, self.base, self.spec)
        self.noise.begin(seed)
        with naming_failures(self.spec.task, job):
            clean, _ = self.env.reset(seed=seed)
        return self._row(clean, is_first=1.0)

    def step(self, action: np.ndarray) -> Observation:
        try:
            with failing_as(0):
                clean, reward, terminated, truncated, info = self.env.step(action)
        except Failure as failure:
            if failure.final:
                raise UserError(f"{self.spec.task} in {self.job}", f"that it {failure.what}") from failure.__cause__
            self.cut = failure.what
            return self._row(self.clean, is_last=1.0)
        return self._row(clean, float(reward), info["frames"], is_last=float(terminated or truncated))

    def leave(self) -> Observation:
        """Nothing is left to play: the last row, without an end, fills the batch."""
        self.job = None
        return {**self.told, **_extras()}

    def _row(
        self, clean: Observation, reward: float = 0.0, frames: int = 0, is_first: float = 0.0, is_last: float = 0.0
    ) -> Observation:
        self.clean, self.seen, self.ended = clean, self.noise(clean), is_last > 0
        masks = {SEEN + key: mask for key, mask in self.noise.seen.items()} if self.known_dropout else {}
        self.told = {**self.seen, **masks}
        return {**self.told, **_extras(reward, frames, is_first, is_last)}


def _extras(reward: float = 0.0, frames: int = 0, is_first: float = 0.0, is_last: float = 0.0) -> Observation:
    flags = {"is_first": np.asarray(is_first, np.float32), "is_last": np.asarray(is_last, np.float32)}
    return {"reward": np.asarray(reward), "frames": np.asarray(frames), **flags}


class _Seats:
    """A ``Stage`` of environments in this process: a free one takes the next episode."""

    def __init__(
        self, envs: Sequence[Env], spec: EnvSpec, jobs: Sequence[Job], base: CorruptionConfig, known_dropout: bool
    ) -> None:
        self.seats = [_Seat(env, spec, base, known_dropout) for env, _ in zip(envs, jobs, strict=False)]
        self.num_envs, self.spec, self._todo = len(self.seats), spec, iter(jobs)

    def reset(self, episode: int = 0) -> Rows:
        return _stacked([seat.begin(next(self._todo)) for seat in self.seats])

    def step(self, actions: np.ndarray) -> Rows:
        return _stacked([self._step(seat, action) for seat, action in zip(self.seats, actions, strict=True)])

    def _step(self, seat: _Seat, action: np.ndarray) -> Observation:
        if seat.job is not None and not seat.ended:
            return seat.step(action)
        job = next(self._todo, None)
        return seat.leave() if job is None else seat.begin(job)


def _stacked(rows: Sequence[Observation]) -> Rows:
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def play_grid(
    agent: Agent,
    envs: Sequence[Env],
    jobs: Sequence[Job],
    base: CorruptionConfig = CorruptionConfig(),  # noqa: B008 (immutable)
    explore: bool = False,
    films: Mapping[Job, Film] = MappingProxyType({}),
    known_dropout: bool = False,
    tell: Callable[[float, int], Any] = lambda done, frames: None,
) -> list[Played]:
    """Play all jobs, spread over the environments, and return their results, in order.

    An episode does not depend on which environment plays it, nor on what the others play: its start, the noise on its
    observations and the agent's draws come from its own seed. Only rounding can differ with the size of the batch.

    Args:
        films: the films to record, by job.
        known_dropout: as ``evaluate_grid``.
        tell: called after every tick with the episodes done, counting parts of running ones, and the frames.
    """
    stage = _Seats(envs, agent.spec, jobs, base, known_dropout)
    noise = RowNoise([seat.generator for seat in stage.seats])
    act = AgentActs(agent, stage.num_envs, explore, noise=noise)
    played: dict[Job, Played] = {}
    for tick in play(stage, act):
        for i, seat in enumerate(stage.seats):
            film = films.get(seat.job) if seat.job is not None else None
            if film is not None and len(film.clean) < LONGEST_VIDEO:
                film.add(seat.clean, seat.seen, tick.caption(i))
        for i in tick.ended:
            job = cast("Job", stage.seats[i].job)
            played[job] = Played(job, float(tick.returns[i]), int(tick.frames[i]), bool(stage.seats[i].cut))
        tell(*_progress(played, tick, agent.spec.max_frames))
        if len(played) == len(jobs):
            break
    if all(p.cut and not p.frames for p in played.values()):
        raise UserError(agent.spec.task, f"that the first step of every episode {stage.seats[0].cut}")
    return [played[job] for job in jobs]


def policy_seed(seed: int, episode: int) -> int:
    """Seed of the agent's draws in an episode: the same in every cell."""
    return int(np.random.SeedSequence([seed, POLICY_STREAM, episode]).generate_state(1)[0])


def _progress(played: Mapping[Job, Played], tick: Tick, max_frames: int) -> tuple[float, int]:
    running = int(tick.frames[tick.rows["is_last"] == 0].sum())
    return len(played) + (running / max_frames if max_frames else 0), sum(p.frames for p in played.values()) + running
