"""Learning curves of run folders: find runs, read any key of ``metrics.jsonl``, put curves on one axis.

A curve is piecewise linear between the times at which its key was logged: environment frames where the agent acts,
updates where it learns from data. A run that does both has a curve for each phase. Settings are read as text, without
the classes behind them, so runs of other versions and of a user's own parts can be read anywhere.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from worldrl.config import YAML_BYTES, flatten, may_change, read_yaml
from worldrl.errors import UserError, counted, printable, unknown, wrong
from worldrl.files import read_text
from worldrl.origin import commit_of
from worldrl.runs.folder import METRICS
from worldrl.runs.metrics import COUNTERS, Record, read_records
from worldrl.runs.settings import CONFIG_FILE

Array = NDArray[np.float64]
Lines = dict[int, Record]  # of a file, by their numbers

DATA, ACTING = "data", "acting"
UNITS = {DATA: "updates", ACTING: "frames"}  # phase -> the counter of a record that is its time
LONGEST = 200  # characters of a name
LARGEST = 1e100  # of numbers that are read; squares of larger ones overflow
PLACE = ("device", "replay.device", "threads")  # settings of the machine, which do not affect learning


class Curve(NamedTuple):
    """Values (n,) over increasing frames (n,); they are strictly increasing unless a method says otherwise."""

    frames: Array
    values: Array

    def at(self, frames: float | Array) -> Array:
        """The values at ``frames``, interpolated linearly; beyond its ends the curve is level."""
        return np.interp(np.asarray(frames), self.frames, self.values)

    def covers(self, frames: float) -> bool:
        """Whether it has a value there."""
        return bool(self.frames[0] <= frames <= self.frames[-1])

    def until(self, frames: float) -> Curve:
        """The part up to ``frames``, with a point there if the curve continues."""
        end = min(frames, self.frames[-1])
        before = self.frames < end
        return Curve(np.append(self.frames[before], end), np.append(self.values[before], self.at(end)))

    def smoothed(self, window: float) -> Curve:
        """Each value replaced by the mean of those in the ``window`` frames that end with it."""
        first = np.searchsorted(self.frames, self.frames - window, side="right")
        means = [self.values[start:end].mean() for end, start in enumerate(first, 1)]
        return Curve(self.frames, np.array(means, np.float64))

    def averaged(self, n: int) -> Curve:
        """The mean of every ``n`` consecutive points, at the last of them; empty if there are fewer.

        Points may share a time, as episodes of several environments do; of their means only the last stays.
        """
        if len(self.values) < n:
            return Curve(self.frames[:0], self.values[:0])
        frames, means = self.frames[n - 1 :], np.convolve(self.values, np.full(n, 1.0 / n), "valid")
        last = np.append(frames[1:] > frames[:-1], True)
        return Curve(frames[last], means[last])

    def merged(self) -> Curve:
        """Points of the same time replaced by their mean."""
        at, index = np.unique(self.frames, return_inverse=True)
        return Curve(at, np.bincount(index, self.values) / np.bincount(index))


class Run(NamedTuple):
    """One phase of a run folder: the settings by dotted key, the curve of one metric, the time of the last record."""

    path: Path
    settings: Mapping[str, Any]
    curve: Curve
    end: float
    notes: tuple[str, ...] = ()
    phase: str = ACTING
    commit: str = ""  # of the code that wrote it, if known

    @property
    def task(self) -> str:
        """The task; if there is no environment, the name of the data without its folder and suffix."""
        task = self.settings["task"]
        return task_name(task) if task else Path(str(self.settings.get("data", ""))).stem

    @property
    def unit(self) -> str:
        """The unit of the curve's time: ``"frames"`` or ``"updates"``."""
        return UNITS[self.phase]

    @property
    def name(self) -> str:
        """For notes: the folder, and the phase unless it is the usual one."""
        return f"{self.path}" if self.phase == ACTING else f"{self.path} ({self.phase})"

    @property
    def agent(self) -> str:
        return self.settings["agent"]

    @property
    def seed(self) -> int:
        return self.settings["seed"]

    def label(self, keys: Sequence[str] = ()) -> str:
        """The agent's name, and those of the settings ``keys`` that this run has: ``smac num_particles=16``."""
        return labelled(self.agent, self.settings, keys)


class Seeded(Protocol):
    """Anything that belongs to one run."""

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def seed(self) -> int: ...


def labelled(agent: str, settings: Mapping[str, Any], keys: Sequence[str]) -> str:
    """``agent`` and those of the settings ``keys`` that exist."""
    return " ".join([agent, *(f"{key.rpartition('.')[2]}={settings[key]}" for key in keys if key in settings)])


def task_name(task: str) -> str:
    """``walker-walk`` and ``walker_walk`` are one task; Gymnasium ids and ``module:Class`` are not changed."""
    return task if re.search(r"-v\d+(\+|$)|:", task) else task.replace("-", "_")


# --- reading ----------------------------------------------------------------------------------------------------------


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Every run folder at or below ``paths``, at any depth; each once, in order.

    Raises:
        UserError: a path that is not a folder, or that has no run below it.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(str(path), "no folder", "run folders, or folders with runs")
        below = list(_runs_below(path))
        if not below:
            files = f"{CONFIG_FILE} and {METRICS}"
            raise UserError(str(path), "no run in or below it", f"folders with {files}, as train.py writes them")
        for run_dir in below:
            found.setdefault(run_dir.resolve(), run_dir)
    return list(found.values())


def _runs_below(path: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(path):
        subfolders.sort()
        if CONFIG_FILE in files and METRICS in files:
            subfolders.clear()  # a replay has many files, and there are no runs inside runs
            yield Path(folder)


def read_runs(paths: Sequence[Path], metric: str, merge: bool = True) -> tuple[list[Run], list[str]]:
    """Every phase of the runs at or below ``paths`` that has logged ``metric``, and notes on what was left out.

    ``merge=False`` keeps values of the same time, for ``Curve.averaged``.

    Raises:
        UserError: nothing found, a damaged file, or a metric that no run has (with the nearest names).
    """
    runs = {run_dir: read_phases(run_dir, metric, merge) for run_dir in find_runs(paths)}
    every = [run for phases in runs.values() for run in phases]
    begun = [run for run in every if len(run.curve.frames)]
    if not begun:
        raise _nothing_read(list(runs), metric)
    without = runs.keys() - {run.path for run in begun}
    notes = [note for run in every for note in run.notes]
    return begun, notes + [f"left out {run_dir}: it has no {metric}" for run_dir in runs if run_dir in without]


def _nothing_read(runs: Sequence[Path], metric: str) -> UserError:
    logged = {key for run_dir in runs for record in read_records(run_dir / METRICS)[0] for key in record} - COUNTERS
    where = f"{runs[0]}" + (f" and {len(runs) - 1} more" if len(runs) > 1 else "")
    if metric in logged:
        return UserError(where, f"no value of {metric} that is finite and within ±{LARGEST:g}", "one")
    if not logged:
        return UserError(where, "no record yet", "a run that has logged something")
    if metric == "eval/return":
        expected = "a record with it (evaluations need a task, and eval.every above 0; eval RUN_DIR --fqe needs none)"
        return UserError(
            where, f"no {metric}", expected, f"choose another metric: {', '.join(sorted(logged)[:3])}, ..."
        )
    return unknown("metric", metric, logged)


def read_run(run_dir: Path, metric: str) -> Run:
    """The last phase of ``read_phases``."""
    return read_phases(run_dir, metric)[-1]


def read_phases(run_dir: Path, metric: str, merge: bool = True) -> list[Run]:
    """A run's settings and its curve of ``metric`` in each phase that it has begun, in order; at least one.

    A curve is empty if nothing was logged. Records of earlier versions have no phase: they are of acting.

    Raises:
        UserError: a file that is damaged or not of a run (the error names file and line).
    """
    path = run_dir / METRICS
    settings = _read_settings(run_dir / CONFIG_FILE)
    commit = printable(commit_of(read_text(run_dir / CONFIG_FILE, YAML_BYTES)))
    records, half_line = read_records(path)
    phases: dict[str, Lines] = {}
    for line, record in enumerate(records, 1):
        if record:
            phases.setdefault(_phase(path, line, record), {})[line] = record
    runs = [_read_phase(run_dir, settings, phase, found, metric) for phase, found in (phases or {ACTING: {}}).items()]
    runs = [run._replace(commit=commit, curve=run.curve.merged() if merge else run.curve) for run in runs]
    if half_line:
        told = f"{path}: ignored half a line at its end: the run is still writing, or was killed"
        runs[-1] = runs[-1]._replace(notes=(told, *runs[-1].notes))
    return runs


def _phase(path: Path, line: int, record: Record) -> str:
    phase = record.get("phase", ACTING)
    if phase not in list(UNITS):  # which may be of any type
        raise wrong(f"{path}, line {line}: phase", phase, " or ".join(UNITS))
    return str(phase)


def _read_phase(run_dir: Path, settings: Mapping[str, Any], phase: str, records: Lines, metric: str) -> Run:
    path = run_dir / METRICS
    curve, lost = _curve(path, records, metric, UNITS[phase])
    told = f"{path}: left out {counted(lost, 'value')} of {metric}, not finite or beyond ±{LARGEST:g}"
    end = max((_number(path, line, record, UNITS[phase]) for line, record in records.items()), default=0.0)
    return Run(run_dir, settings, curve, end, (told,) if lost else (), phase)


def _read_settings(path: Path) -> dict[str, Any]:
    found = {printable(key): _harmless(value) for key, value in flatten(read_yaml(path)).items()}
    settings = {"updates": 0, "schedule.prefill": 0} | found  # which runs of earlier versions lack
    for key, kind in {"task": str, "agent": str, "seed": int, "updates": int, "schedule.prefill": int}.items():
        if not isinstance(settings.get(key), kind) or len(str(settings[key])) > LONGEST:
            raise wrong(f"{path}: {key}", settings.get(key), "the settings that train.py wrote")
    return settings


def _harmless(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


def _number(path: Path, line: int, record: Record, key: str) -> float:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or (key in COUNTERS and not _fits(value)):
        raise wrong(f"{path}, line {line}: {key}", value, f"a number up to {LARGEST:g}")
    return value


def _fits(value: float) -> bool:
    return abs(value) <= LARGEST  # and not NaN


def _curve(path: Path, records: Lines, metric: str, unit: str) -> tuple[Curve, int]:
    """The curve of ``metric``, its times increasing but not strictly, and how many values were null or too large."""
    frames, values, lost = [], [], 0
    for line, record in records.items():
        if metric not in record:
            continue
        value = math.nan if record[metric] is None else _number(path, line, record, metric)
        if not _fits(value):
            lost += 1
            continue
        frames.append(_number(path, line, record, unit))
        values.append(value)
        if len(frames) > 1 and frames[-1] < frames[-2]:
            expected = f"{frames[-2]:,.0f} or more"
            raise UserError(f"{path}, line {line}: {unit}", f"{frames[-1]:,.0f}", expected)
    return Curve(np.array(frames, np.float64), np.array(values, np.float64)), lost


# --- comparing --------------------------------------------------------------------------------------------------------


def align(curves: Sequence[Curve]) -> tuple[Array, Array]:
    """Frames (n,) and values (curves, n) where all curves are defined, at every point that any of them has there."""
    first = max(curve.frames[0] for curve in curves)
    last = min(curve.frames[-1] for curve in curves)
    points = np.unique(np.concatenate([curve.frames for curve in curves]))
    frames = points[(first <= points) & (points <= last)]
    return frames, np.stack([curve.at(frames) for curve in curves])


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean of these curves where all of them have values."""
    frames, values = align(curves)
    return Curve(frames, values.mean(0))


def meeting(curves: Sequence[Curve]) -> float:
    """Where as many of these curves as possible have a value; the last of such frames."""
    ends = [float(curve.frames[-1]) for curve in curves]
    return max(ends, key=lambda end: (sum(curve.covers(end) for curve in curves), end))


def unlabelled_differences(runs: Sequence[Seeded]) -> list[str]:
    """Settings in which these runs, meant as seeds of one agent, differ, except those without effect on learning."""
    keys = {key for run in runs for key in run.settings}
    told = [key for key in keys if key not in ("task", "agent", "seed", *PLACE) and not may_change(key)]
    return sorted(key for key in told if len({repr(run.settings.get(key)) for run in runs}) > 1)
