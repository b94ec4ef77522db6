"""The cost of useless actions: frames to a good return by their number, and the prior's mass on them.

``worldrl studies useless RUN_DIR...`` reads runs on tasks such as ``CartPole-v1+16dominated`` and on those without such
actions. A return is good from Gymnasium's own threshold of the task on, and on a grid within ``SHARE`` of the best.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from worldrl.envs.families import grid, useless
from worldrl.errors import UserError
from worldrl.report.curves import ACTING, Curve, Run, align, read_runs, unlabelled_differences
from worldrl.report.plots import COLOURS, DASHES, INK, PALE, PANEL, draw_band, legend, looks_of, number_of, picture
from worldrl.runs.folder import METRICS
from worldrl.runs.metrics import read_records
from worldrl.statistics import mean_interval
from worldrl.tabular.grid import distance

SHARE = 0.05
KINDS = ("duplicates", "dominated")
PRIOR = "policy/prior/"  # and the number of an action: what MIRL logs


class Trial(NamedTuple):
    """One run."""

    task: str  # without its useless actions
    kind: str  # of them; "" where there are none
    useless: int  # how many
    agent: str
    seed: int
    frames: float  # to the first good evaluation; without one, to the end
    reached: bool
    end: float  # frames up to which the runs of a task are compared
    run: Path


class Point(NamedTuple):
    """Trials that differ only in their seeds. Those without success count with their end: the mean is a lower bound."""

    task: str
    kind: str
    useless: int
    agent: str
    seeds: int
    reached: int
    end: float  # frames
    mean: float  # frames
    half: float  # half the width of its 95 % interval; NaN if a trial had no success


# --- reading ----------------------------------------------------------------------------------------------------------


def split(task: str) -> tuple[str, str, int]:
    """The task without its useless actions, their kind, their number."""
    if not useless.claims(task):
        return task, "", 0
    own, number, kind = useless.parts(task)
    return own, kind if number else "", number


def good_return(task: str) -> float:
    """The least return that counts as good.

    Raises:
        UserError: it is not known for this task.
    """
    if grid.claims(task):
        best = best_return(task)
        return best - SHARE * abs(best)
    threshold = gymnasium.registry[task].reward_threshold if task in gymnasium.registry else None
    if threshold is None:
        expected = "a grid, or a task whose threshold Gymnasium has, such as CartPole-v1"
        raise UserError(task, "no return that counts as good", expected)
    return float(threshold)


def best_return(task: str) -> float:
    """The mean return of a grid's shortest paths over its start states; every step except the last costs 1."""
    world = grid.Grid(task)
    returns = world.mdp.reward.max() + 1.0 - distance(world.side)
    return float(world.mdp.start @ returns)


def read_trials(paths: Sequence[Path]) -> tuple[list[Trial], list[str]]:
    """One trial per run at or below these folders, and notes on what was left out.

    All runs of a task are compared up to the last evaluation of the shortest.
    """
    read, notes = read_runs(paths, "eval/return")
    learnt = {split(run.task)[0] for run in read if run.curve.frames[-1] > 0}
    runs = [run for run in read if not _unfit(run, learnt)]
    notes += [f"left out {run.name}: {why}" for run in read if (why := _unfit(run, learnt))]
    if not runs:
        raise UserError(str(paths[0]), "runs that learned from data only", "runs whose time is frames")
    names = {key: unlabelled_differences(same) for key, same in _groups(runs, _agent_and_task).items()}
    tasks = _groups(runs, lambda run: split(run.task)[0])
    good = {task: good_return(task) for task in tasks}
    lengths = {task: [float(run.curve.frames[-1]) for run in same] for task, same in tasks.items()}
    ends = {task: min(found) for task, found in lengths.items()}
    notes += [
        f"{task}: runs end at {ends[task]:,.0f} to {max(found):,.0f} frames, and all count up to the shortest"
        for task, found in lengths.items()
        if ends[task] < max(found)
    ]
    return [_trial(run, names[_agent_and_task(run)], good, ends) for run in runs], notes


def _unfit(run: Run, learnt: Collection[str]) -> str:
    """Why a run cannot be compared, or nothing. ``learnt``: tasks with runs beyond their first evaluation."""
    if run.phase != ACTING:
        return "its time is updates, not frames"
    early = run.curve.frames[-1] == 0 and split(run.task)[0] in learnt
    return "it has no evaluation after its first frame" if early else ""


def _agent_and_task(run: Run) -> tuple[str, str]:
    return run.agent, split(run.task)[0]


def _groups(items: Sequence[Any], key: Any) -> dict[Any, list[Any]]:
    found: dict[Any, list[Any]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def _trial(run: Run, names: Sequence[str], good: Mapping[str, float], ends: Mapping[str, float]) -> Trial:
    task, kind, number = split(run.task)
    end = ends[task]
    there = run.curve.frames[(run.curve.values >= good[task]) & (run.curve.frames <= end)]
    reached = len(there) > 0
    frames = float(there[0]) if reached else end
    return Trial(task, kind, number, run.label(names), run.seed, frames, reached, end, run.path)


def read_mass(trial: Trial) -> Curve | None:
    """The prior's mass on useless actions over a run; empty for a run that does not log its prior."""
    records = [record for record in read_records(trial.run / METRICS)[0] if record.get(f"{PRIOR}0") is not None]
    if not records or not trial.useless:
        return None
    actions = sum(key.startswith(PRIOR) for key in records[0])
    keys = [f"{PRIOR}{i}" for i in range(actions - trial.useless, actions)]
    frames = [float(record["frames"]) for record in records]
    return Curve(np.array(frames), np.array([sum(record[key] for key in keys) for record in records], float))


# --- numbers ----------------------------------------------------------------------------------------------------------


def points(trials: Sequence[Trial]) -> list[Point]:
    """By task, kind, agent and number. Runs without useless actions count under both kinds."""
    each = [(trial.task, kind, trial.agent, trial.useless, trial) for trial in trials for kind in _kinds(trial)]
    return [
        _point(key[1], [row[4] for row in rows]) for key, rows in sorted(_groups(each, lambda row: row[:4]).items())
    ]


def _kinds(trial: Trial) -> tuple[str, ...]:
    return (trial.kind,) if trial.kind else KINDS


def _point(kind: str, same: Sequence[Trial]) -> Point:
    mean, half = mean_interval([trial.frames for trial in same])
    first, reached = same[0], sum(trial.reached for trial in same)
    width = float(half) if reached == len(same) else math.nan
    counts = {"useless": first.useless, "seeds": len(same), "reached": reached}
    return Point(first.task, kind, agent=first.agent, end=first.end, mean=float(mean), half=width, **counts)


# --- the picture ------------------------------------------------------------------------------------------------------


def draw(path: Path, trials: Sequence[Trial], masses: Mapping[Path, Curve]) -> None:
    """A row for each task: frames against the number of duplicates and of dominated actions, and the prior's mass."""
    tasks = sorted({trial.task for trial in trials})
    looks = looks_of(trial.agent for trial in trials)
    columns = len(KINDS) + bool(masses)
    with picture(path, PANEL[0] * columns, (PANEL[1] + 0.3) * len(tasks) + 0.4) as figure:
        cells = figure.subplots(len(tasks), columns, squeeze=False)
        for row, task in zip(cells, tasks, strict=True):
            of_task = [trial for trial in trials if trial.task == task]
            for ax, kind in zip(row, KINDS, strict=False):
                draw_frames(ax, [trial for trial in of_task if kind in _kinds(trial)], kind, looks)
                ax.set(title=f"{task}, {kind}", xlabel="useless actions")
            row[0].set_ylabel(f"frames to a return of {good_return(task):.4g}")
            if masses:
                draw_masses(row[-1], [trial for trial in of_task if trial.run in masses], masses)
                row[-1].set(title=f"{task}, prior", xlabel="environment frames", ylabel="mass on useless actions")
        seeds = _groups(trials, lambda trial: trial.agent)
        counts = {agent: number_of("seed", {p.seeds for p in points(same)}) for agent, same in seeds.items()}
        legend(figure, counts, looks)


def draw_frames(ax: Any, trials: Sequence[Trial], kind: str, looks: Mapping[str, Any]) -> None:
    """Means with intervals, and each seed; an open triangle at the end is a seed without success."""
    numbers = sorted({trial.useless for trial in trials})
    for i, (agent, same) in enumerate(sorted(_groups(trials, lambda trial: trial.agent).items())):
        shift, look = 0.12 * (i - (len(looks) - 1) / 2), looks[agent]
        found = [point for point in points(same) if point.kind == kind]
        x = [numbers.index(p.useless) + shift for p in found]
        ax.errorbar(x, [p.mean for p in found], [p.half for p in found], **look, markersize=5, capsize=2, linewidth=1.2)
        for trial in same:
            there = (
                {"marker": ".", "alpha": 0.35} if trial.reached else {"marker": "^", "fillstyle": "none", "alpha": 0.8}
            )
            at = numbers.index(trial.useless) + shift
            ax.plot(at, trial.frames, **there, color=look["color"], markersize=5, clip_on=False)
    if trials:
        ax.axhline(trials[0].end, color=PALE, linewidth=0.8, linestyle=":")
        ax.set_ylim(0.0, 1.05 * trials[0].end)
    ax.set_xticks(range(len(numbers)), map(str, numbers))
    ax.grid(axis="y")


def draw_masses(ax: Any, trials: Sequence[Trial], masses: Mapping[Path, Curve]) -> None:
    """A colour for each number; dashed lines are duplicates, which cannot be distinguished from their originals."""
    numbers = sorted({trial.useless for trial in trials})
    for (kind, number), same in sorted(_groups(trials, lambda trial: (trial.kind, trial.useless)).items()):
        frames, values = align([masses[trial.run] for trial in same])
        look = {"color": COLOURS[numbers.index(number) % len(COLOURS)], "linestyle": DASHES[kind == KINDS[0]]}
        draw_band(ax, frames.tolist(), values, look)
        ax.plot([], [], **look, label=f"{number} {kind}")
    ax.set_ylim(0.0, 1.0)
    ax.grid(axis="y")
    if numbers:
        ax.legend(frameon=False, fontsize="x-small", labelcolor=INK, loc="center left", bbox_to_anchor=(1.0, 0.5))


# --- the study --------------------------------------------------------------------------------------------------------


def run(options: Any, path: Path) -> dict[str, Any]:
    """Print, draw and return the results; next to the picture, the means as CSV, and every run."""
    trials, notes = read_trials(options.run_dirs)
    masses = {trial.run: mass for trial in trials if (mass := read_mass(trial)) is not None}
    found = points(trials)
    for point in found:
        print(line(point))
    for note in notes:
        print(note)
    draw(path, trials, masses)
    last = [{**trial._asdict(), "run": str(trial.run), "mass": _last(masses.get(trial.run))} for trial in trials]
    _write(path.with_suffix(".csv"), Point._fields, found)
    columns = ("task", "kind", "useless", "agent", "seed", "frames", "reached", "mass")
    _write(path.with_name(f"{path.stem}_runs.csv"), columns, [[trial[name] for name in columns] for trial in last])
    return {"points": [point._asdict() for point in found], "runs": last}


def _write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def line(point: Point) -> str:
    """``CartPole-v1 + 4 dominated, mirl: 8,000 ± 900 frames (10 of 10 seeds within 20,000)``."""
    p = point
    least = "at least " if p.reached < p.seeds else ""
    half = f" ± {p.half:,.0f}" if p.seeds > 1 and not least else ""
    reached = f"({p.reached} of {number_of('seed', {p.seeds})} within {p.end:,.0f})"
    return f"{p.task} + {p.useless} {p.kind}, {p.agent}: {least}{p.mean:,.0f}{half} frames {reached}"


def _last(mass: Curve | None) -> float | None:
    return None if mass is None else float(mass.values[-1])
