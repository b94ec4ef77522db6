"""The evaluations of a run: when they are due, the episodes that they play, and the returns so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from worldrl.acting.episodes import AgentActs, Endless, Interrupted, own_randomness, run_episodes
from worldrl.acting.video import Video
from worldrl.agent import Agent
from worldrl.config import Config
from worldrl.envs import make_envs
from worldrl.envs.vector import VectorEnv, WorkerError
from worldrl.errors import UserError, one_line
from worldrl.runs.folder import VIDEOS
from worldrl.statistics import mean_and_deviation, normalized
from worldrl.training.clocks import Every
from worldrl.training.progress import Progress

EVALUATION = 0x4556414C  # a part of the seed of their random numbers


class Evaluations:
    """Plays the evaluation episodes of one run. Each evaluation has its own episodes and random numbers.

    Attributes:
        last: The mean return of the last evaluation; NaN before the first.
        best: The highest of them, of an agent that had learned.
    """

    def __init__(self, config: Config, agent: Agent, run_dir: Path) -> None:
        self.config, self.agent = config, agent
        self.count = 0
        self.last = self.best = float("nan")
        self._films = run_dir / VIDEOS
        self._envs: VectorEnv | None = None  # made by the first evaluation
        self._patient = False  # whether the due evaluation has failed before
        self._filmless = False  # whether a film could not be made
        self._cut = False  # whether the environment cut an episode of the last evaluation
        self.begin_phase()

    def begin_phase(self) -> None:
        """Set the clock to zero, where every phase of a run begins."""
        self.clock = Every(self.config.eval.every)

    @contextmanager
    def if_due(self, now: int, say: Callable[[str], None]) -> Iterator[bool]:
        """Whether an evaluation is due. If a signal interrupts it in this block, it is still due in the resumed run.

        An evaluation that fails ends the run the first time; if it fails again in the resumed run, it is skipped. One
        with an episode that does not end is skipped at once.
        """
        before = self.clock.state_dict()
        try:
            yield self.clock(now)
        except Interrupted:
            self.clock.load_state_dict(before)
        except Endless as error:
            say(f"{one_line(error)}; this evaluation is skipped")
            self._skip()
        except WorkerError as error:
            if not self._patient:
                self._patient = True
                self.clock.load_state_dict(before)
                raise
            say(f"{error}; it failed there before, so this evaluation is skipped")
            self._skip()

    def _skip(self) -> None:
        self.close()
        self._envs, self._patient = None, False
        self.count += 1

    def play(self, position: int, stop: Callable[[], object], progress: Progress) -> dict[str, float]:
        """Play episodes with the mode action, and save a film of one; returns the metrics.

        The random state of training is restored.

        Raises:
            Interrupted: ``stop``, which is called before every step, returned true.
            Endless: an episode did not end.
            WorkerError: the environment failed.
        """
        c, envs = self.config, self._environments()
        first = self.count * -(-c.eval.episodes // envs.num_envs)
        film = self._films / f"eval-{position:09d}.mp4" if c.eval.video and not self._filmless else None
        with own_randomness(c.seed, EVALUATION, self.count):
            act, n = AgentActs(self.agent, envs.num_envs), c.eval.episodes
            without = partial(self._go_on_without_films, progress.say)
            played = run_episodes(envs, act, n, first, film, stop, partial(progress.evaluate, n), without)
        self.count, self._patient = self.count + 1, False
        self.last, deviation = mean_and_deviation(played.returns)
        self._cut = played.cut > 0
        if played.cut:
            how_many = f"{played.cut} of {c.eval.episodes} evaluation episodes were cut short"
            progress.say(f"{how_many}; the last one: {envs.cuts[-1]}")
        if played.video is not None:
            _save(played.video, progress.say)
        cut = {"eval/cut": float(played.cut)} if played.cut else {}
        score = {"eval/score": 100.0 * normalized(self.last, c.data.reference)} if c.data.reference else {}
        return {"eval/return": self.last, "eval/return_std": deviation, **score, **cut}

    def _go_on_without_films(self, say: Callable[[str], None], error: UserError) -> None:
        """A film is worth less than the run: one that cannot be made is told once."""
        self._filmless = True
        say(f"evaluations are not filmed: {one_line(error)}")

    def _environments(self) -> VectorEnv:
        c = self.config
        if self._envs is None:
            self._envs = make_envs(c.env, c.task, c.seed, min(c.env.num_envs, c.eval.episodes), training=False)
        self._envs.patient = self._patient
        return self._envs

    def improved(self) -> bool:
        """Whether the agent has learned and its last return is above all others; then that is the best from now on.

        An evaluation with an episode that the environment cut does not count: where rewards are costs, failing early
        would be best.
        """
        better = math.isnan(self.best) or self.last > self.best
        improved = self.agent.updates > 0 and better and not self._cut
        if improved:
            self.best = self.last
        return improved

    def state_dict(self) -> dict[str, Any]:
        return {"evaluations": self.count, "patient": self._patient, "returns": (self.last, self.best)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self._patient = state["evaluations"], state["patient"]
        self.last, self.best = state["returns"]

    def close(self) -> None:
        if self._envs is not None:
            self._envs.close()


def _save(film: Video, say: Callable[[str], None]) -> None:
    """Write a film, or say why that failed; training continues."""
    try:
        film.save()
    except UserError as error:
        say(one_line(error))
