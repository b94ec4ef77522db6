"""The estimates of an agent's entropy while it learns: runs are trained further and measured at intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from worldrl.errors import UserError
from worldrl.files import damaged
from worldrl.report.curves import read_run, unlabelled_differences
from worldrl.runs.checkpoint import Checkpoints
from worldrl.runs.settings import run_folder
from worldrl.studies import entropy
from worldrl.studies.pools import run_pools
from worldrl.training.loop import resume

ANOTHER = "choose another folder with --out"

Point = dict[str, float]  # frames, lower and upper bound of the truth, and each estimator's value, in nats


class Look(NamedTuple):
    """How far to train the runs, how often to measure, and how precisely."""

    until: int  # frames
    every: int  # frames
    states: int
    pool: int | None  # latents for the truth
    particles: int

    def extend(self, run: Path, points: list[Point]) -> Iterator[Point]:
        """Add to the points of a run, and yield, one for its present state and one after each further training.

        Points of an earlier study stay, except for those that the run has not reached.

        Raises:
            Diverged: a loss of the run was not finite; the run stays at its last good checkpoint.
        """
        for frames in self.stages(run):  # the actual frames: an action may go a few frames too far
            points[:] = [point for point in points if point["frames"] <= frames]
            if not points or points[-1]["frames"] < frames:
                points.append(self.point(run, frames))
                yield points[-1]

    def stages(self, run: Path) -> Iterator[int]:
        """The frames at which a run is measured: the present ones, and those after each further training."""
        target = frames = Checkpoints(run).frames() or 0
        yield frames
        while frames < self.until:
            target = min(self.until, target + self.every)
            resume(run, {"frames": target})
            frames = Checkpoints(run).frames() or 0
            yield frames

    def point(self, run: Path, frames: int) -> Point:
        """The truth and the estimates in states that the agent of this run visits now."""
        truth, estimates = entropy.study(run_pools(run, self.states, self.pool), [self.particles])
        values = {name: by_k[self.particles] for name, by_k in estimates.items()}
        return {"frames": float(frames), **truth._asdict(), **values}


def labels(runs: Sequence[Path]) -> dict[Path, str]:
    """Names of runs for a picture: the agent, the task and settings in which these runs differ, and the seed."""
    read = {run: read_run(run_folder(run), "eval/return") for run in runs}
    differ = unlabelled_differences(list(read.values()))
    tasks = ["task"] * (len({each.task for each in read.values()}) > 1)
    return {run: each.label([*tasks, *differ, "seed"]) for run, each in read.items()}


def known_runs(numbers: Path, settings: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """By run, what an earlier study found (``label``, ``points``, ``diverged``), from its file of numbers.

    Raises:
        UserError: It had other ``settings``, or the file is not one of this study.
    """
    if not numbers.exists():
        return {}
    try:
        record = json.loads(numbers.read_text())
        found = {key: record["settings"][key] for key in settings}
        runs = {str(run): _read_run(of) for run, of in record["runs"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(numbers, f"{type(error).__name__}", "the numbers of this study", ANOTHER) from error
    if found != settings:
        raise UserError(str(numbers), f"points with {_options(found)}", _options(settings), ANOTHER)
    return runs


def _options(settings: Mapping[str, str]) -> str:
    return " ".join(f"--{key} {value}" for key, value in settings.items() if value != str(None))


def _read_run(found: Mapping[str, Any]) -> dict[str, Any]:
    label, diverged = found["label"], found["diverged"]
    if not isinstance(label, str) or not isinstance(diverged, str | None):
        raise TypeError("a label or an end that is not text")
    return {"label": label, "points": [_read(p) for p in found["points"]], "diverged": diverged}


def _read(point: Mapping[str, float | None]) -> Point:
    return {key: math.nan if value is None else value for key, value in point.items()}
