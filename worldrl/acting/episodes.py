"""The only player of episodes: for evaluations, recordings, grids, studies and baselines.

``play`` is the only loop. It takes any environments that tick together and any policy, and yields a ``Tick`` for every
row; a caller that wants returns, a film or a record reads the ticks, and stops when it has enough.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from worldrl.acting.video import Video
from worldrl.agent import Agent
from worldrl.envs.make import EnvConfig, describe, make_task
from worldrl.envs.stream import RANDOM, RowStream, episode_seed
from worldrl.envs.vector import HOPELESS, VectorEnv, WorkerError
from worldrl.envs.workers import Failure, Rows, failing_as
from worldrl.errors import UserError
from worldrl.types import NOISE, Belief, EnvSpec, Noise

VIDEO_SIZE = (256, 336)
LONGEST_VIDEO = 4_000  # pictures; the rest of an episode is not recorded
GAME_SPEED = 15.0  # pictures per second: an action of the Atari protocol lasts four frames of a console with 60
RANDOM_ACTIONS = 0x52414E44  # a part of the seed of random actions
LONGEST = 200_000  # frames of an episode

Act = Callable[[Rows], np.ndarray]  # rows (N, ...) -> actions (N, A) in [-1, 1]; those on last rows are ignored


class Interrupted(Exception):
    """Episodes were abandoned because the caller was asked to stop."""


class Endless(UserError):
    """An episode has not ended after very many frames."""


# --- the player -------------------------------------------------------------------------------------------------------


class Stage(Protocol):
    """Environments that tick together and return rows (N, ...), such as a ``VectorEnv``."""

    num_envs: int
    spec: EnvSpec

    def reset(self, episode: int = 0) -> Rows: ...

    def step(self, actions: np.ndarray) -> Rows: ...


class Tick(NamedTuple):
    """The rows of all environments, with the returns and lengths of their episodes so far."""

    rows: Rows  # (N, ...) each, with the action that led there
    returns: np.ndarray  # (N,) undiscounted, so far
    frames: np.ndarray  # (N,) of the environment, so far

    @property
    def ended(self) -> list[int]:
        """The environments whose episode ends in this row, or was cut before it, so this row begins the next one."""
        return np.flatnonzero(self.rows["is_last"] + self.rows["is_cut"]).tolist()

    def caption(self, i: int) -> str:
        """The caption of a picture of environment ``i``."""
        return f"return {self.returns[i]:.0f}  frame {self.frames[i]}"


def play(
    envs: Stage, act: Act, first: int = 0, stop: Callable[[], object] = bool, longest: int | None = None
) -> Iterator[Tick]:
    """Play episodes endlessly, from number ``first``; the first tick has their first rows.

    Raises:
        Interrupted: ``stop``, which is called before every step, returned true.
        Endless: an episode has not ended after ``longest`` frames, ``LONGEST`` by default.
    """
    n = envs.num_envs
    rows = _complete(envs.reset(first), np.zeros((n, envs.spec.actions.size), np.float32))
    returns, frames = np.zeros(n), np.zeros(n, np.int64)
    while True:
        yield Tick(rows, returns, frames)
        over = rows["is_last"] + rows["is_cut"] > 0
        check_length(envs.spec.task, int(frames[~over].max(initial=0)), longest)
        if stop():
            raise Interrupted
        action = act(rows)
        rows = _complete(envs.step(action), action)
        returns = np.where(over, 0.0, returns) + rows["reward"]
        frames = np.where(over, 0, frames) + rows["frames"]


def _complete(rows: Rows, action: np.ndarray) -> Rows:
    """Rows with the ``action`` that led to them, zero where an episode begins; only what they report is cut."""
    led_here = (action * (1.0 - rows["is_first"])[:, None]).astype(np.float32)
    return {"is_cut": np.zeros(len(action), np.float32), **rows, "action": led_here}


class AgentActs:
    """A fixed agent that acts.

    Args:
        n: Environments.
        explore: Sample the policy instead of its mode.
        deterministic: Use the posterior mean instead of a posterior draw.
        particles: Act on the mean of the modes over this many more filtered paths.
        noise: Where its random numbers come from.
        perturb: When exploring, add the training's action noise.
        epsilon: The probability of a random choice in place of the agent's.

    Attributes:
        belief: The agent's belief at its last action.
    """

    belief: Belief

    def __init__(
        self,
        agent: Agent,
        n: int,
        explore: bool = False,
        deterministic: bool = False,
        particles: int = 0,
        noise: Noise = NOISE,
        perturb: bool = False,
        epsilon: float = 0.0,
    ) -> None:
        self.agent, self.explore, self.deterministic, self.noise = agent, explore, deterministic, noise
        self.perturb, self.epsilon = perturb, epsilon
        self.state = agent.initial(n, particles)

    def __call__(self, rows: Rows) -> np.ndarray:
        self.state, action, self.belief = self.agent.act(
            self.state,
            rows,
            self.explore,
            self.deterministic,
            perturb=self.perturb,
            noise=self.noise,
            epsilon=self.epsilon,
        )
        return action


class Alone:
    """One stream of rows in this process as a ``Stage``; a failure of the environment names the episode.

    ``enduring``: a step that fails cuts its episode, and the next one begins, as in a ``VectorEnv``; an episode that
    cannot begin is left out. ``cuts`` has a line about each. A broken contract, and ``HOPELESS`` episodes in a row that
    fail at their first step, remain errors.
    """

    num_envs = 1

    def __init__(self, stream: RowStream, spec: EnvSpec, seed: int, enduring: bool = False) -> None:
        self.stream, self.spec, self.seed, self.enduring = stream, spec, seed, enduring
        self.cuts: list[str] = []
        self._barren = 0  # episodes in a row that were cut before they had a step

    def reset(self, episode: int = 0) -> Rows:
        try:
            return self._begin(episode)
        except Failure as failure:
            self._barren += 1
            return self._next(failure, np.zeros(1, np.float32))

    def step(self, actions: np.ndarray) -> Rows:
        try:
            with failing_as(0):
                rows = self._batch(self.stream.step(actions[0])[0])
        except Failure as failure:
            is_cut = 1.0 - self._rows["is_last"]
            self._barren += int(self._rows["is_first"][0] or not is_cut[0])
            return self._next(failure, is_cut)
        self._barren = 0 if not rows["is_first"][0] else self._barren
        return rows

    def _begin(self, episode: int) -> Rows:
        with failing_as(0):
            return self._batch(self.stream.reset(options={"episode": [episode]})[0])

    def _next(self, failure: Failure, is_cut: np.ndarray) -> Rows:
        """The first row after an episode that is cut, or could not begin."""
        while self.enduring and not failure.final and self._barren < HOPELESS:
            self.cuts.append(f"{self.spec.task} in {self} {failure.what}")
            try:
                return {**self._begin(self.stream.episode + 1), "is_cut": is_cut}
            except Failure as another:
                failure, self._barren = another, self._barren + 1
        raise UserError(f"{self.spec.task} in {self}", f"that it {failure.what}") from failure.__cause__

    def _batch(self, row: dict[str, Any]) -> Rows:
        self._rows = {key: np.array(value)[None] for key, value in row.items()}
        return self._rows

    def __str__(self) -> str:
        return f"episode {self.stream.episode} of seed {self.seed}"


# --- what is played ---------------------------------------------------------------------------------------------------


class Episodes(NamedTuple):
    """The results of several episodes; ``video`` of the first one if asked for, to be saved."""

    returns: list[float]
    lengths: list[int]  # environment frames
    video: Video | None
    cut: int = 0  # how many of them the environment cut (``VectorEnv``): they count up to there


def run_episodes(
    envs: VectorEnv,
    act: Act,
    episodes: int,
    first: int = 0,
    video: Path | None = None,
    stop: Callable[[], object] = bool,
    tell: Callable[[int, int], object] = max,
    without: Callable[[UserError], object] | None = None,
) -> Episodes:
    """Play ``episodes`` episodes, from number ``first``, spread over the vector's environments.

    Args:
        video: where a film of environment 0's first episode will be saved.
        without: called in place of raising an error of the film, of which there is then none.
        tell: called at every tick with the number of episodes that have ended, and the frames of the present one.

    Raises:
        Interrupted, Endless: As ``play``.
    """
    n = envs.num_envs
    shares = [episodes // n + (i < episodes % n) for i in range(n)]
    played: list[list[tuple[float, int, bool]]] = [[] for _ in range(n)]
    film: Video | None = None
    for t, tick in enumerate(play(envs, act, first, stop)):
        if video is not None and not played[0] and not tick.rows["is_cut"][0] and t < LONGEST_VIDEO:
            try:
                film = film or Video(video, film_speed(envs.spec))
                film.add(envs.render(*VIDEO_SIZE), tick.caption(0))
            except UserError as error:
                if without is None or isinstance(error, WorkerError):
                    raise
                without(error)
                film = video = None
        for i in tick.ended:
            played[i].append((float(tick.returns[i]), int(tick.frames[i]), bool(tick.rows["is_cut"][i])))
        tell(sum(min(len(mine), share) for mine, share in zip(played, shares, strict=True)), int(tick.frames[0]))
        if all(len(mine) >= share for mine, share in zip(played, shares, strict=True)):
            break
    kept = [episode for mine, share in zip(played, shares, strict=True) for episode in mine[:share]]
    returns, frames, cut = (list(column) for column in zip(*kept, strict=True))
    return Episodes(returns, frames, film, sum(cut))


def film_speed(spec: EnvSpec) -> float:
    """Pictures per second that show an episode of full length (by default 1000 frames) in ten seconds.

    An episode with a limit that is hardly ever reached is a game: it is shown at the speed at which people play.
    """
    pictures = (spec.max_frames or 1000) / spec.action_repeat
    return GAME_SPEED if pictures > LONGEST_VIDEO else max(10.0, min(60.0, pictures / 10))


def random_return(config: EnvConfig, task: str, seed: int, episodes: int) -> list[float]:
    """Undiscounted returns of the uniform random policy, one per seeded episode; nothing is rendered."""
    returns: list[float] = []
    with contextlib.closing(make_task(config, task, draws=False)) as env:
        spec = describe(env, config)
        stage = Alone(RowStream(env, seed, RANDOM, 0), spec, seed, enduring=True)
        for episode in range(episodes):
            start = episode_seed(seed, RANDOM, 0, episode)  # Gymnasium makes its own generator of this number
            rng = np.random.default_rng([start, RANDOM_ACTIONS])
            ticks = play(stage, lambda rows, rng=rng: spec.actions.random(rng, 1), episode)  # type: ignore[misc]
            returns.append(next(float(tick.returns[0]) for tick in ticks if tick.ended))
    return returns


# --- helpers ----------------------------------------------------------------------------------------------------------


def check_environment(trained: EnvSpec, found: EnvSpec) -> None:
    """Raise UserError unless the environment has the observations and actions that the agent was trained on."""
    if trained.obs == found.obs and trained.actions[:2] == found.actions[:2]:
        return
    expected = f"{_interface(trained)}, on which the agent was trained"
    fix = "use the environment of that time, or train again"
    raise UserError(f"the environment {found.task}", _interface(found), expected, fix)


def _interface(spec: EnvSpec) -> str:
    obs = ", ".join(f"{key} {obs.shape} {obs.dtype}" for key, obs in spec.obs.items())
    return f"{obs}, actions {spec.actions.kind} of {spec.actions.size}"


def check_length(task: str, frames: int, longest: int | None = None) -> None:
    """Raise Endless if an episode with this many ``frames`` continues, which may never end."""
    longest = LONGEST if longest is None else longest
    if frames > longest:
        expected = "one that terminates or is truncated, for example by gymnasium.wrappers.TimeLimit"
        raise Endless(task, f"an evaluation episode without an end after {longest:,} frames", expected)


@contextlib.contextmanager
def naming_failures(task: str, where: object) -> Iterator[None]:
    """Turn any exception of the environment in this block into one line that names the episode."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{task} in {where}", f"that it failed with {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def own_randomness(seed: int, *key: int) -> Iterator[None]:
    """Seeded torch noise inside the block; the noise outside continues as if there were no block."""
    cuda = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(int(np.random.SeedSequence([seed, *key]).generate_state(1)[0]))
        yield
