"""Learning curves and statistics of any set of runs: ``worldrl report RUN_DIR... --out FOLDER``.

A picture with one panel per task, and tables of what the seeds say. ``docs/report.md`` defines every number.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldrl.errors import UserError, unknown, writing, wrong
from worldrl.report.curves import Run, Seeded, check_overlap, read_runs, task_name, unlabelled_differences
from worldrl.report.grids import by_agent, draw_grids, grid_rows, read_grids
from worldrl.report.plots import Line, Panels, draw, picture_formats
from worldrl.report.tables import (
    ALL,
    Row,
    Score,
    agent_rows,
    aggregate_rows,
    common_tasks,
    pair_rows,
    to_csv,
    to_markdown,
)
from worldrl.statistics import Estimate
from worldrl.terminal import Parser, command, number, positive, whole

METRIC = "eval/return"
OTHER_OUT = "--out takes a folder, or a picture such as x.png"
AXES = {METRIC: "evaluation return\n(sum of rewards)", "episode/return": "training return\n(sum of rewards)"}
FILES = {  # the page and the tables of each kind of report; tables without a row are left out
    "curves": ("report.md", "agents.csv", "aggregate.csv", "pairs.csv", "runs.csv"),
    "robustness": ("robustness.md", "robustness.csv"),
}
SHORT = 0.9  # a run that ends before this share of the longest one is named

Groups = dict[str, dict[str, list[Run]]]  # task -> agent -> its runs
Notes = list[str]


# --- what is compared -------------------------------------------------------------------------------------------------


def learnt(runs: Sequence[Run]) -> tuple[list[Run], Notes]:
    """The runs that have learnt, where another one of their task has; notes name those that were stopped before."""
    able = {run.task for run in runs if _has_learnt(run)}
    kept = [run for run in runs if _has_learnt(run) or run.task not in able]
    return kept, [
        f"left out {r.path}: it was stopped at {r.end:,.0f} frames, before it learnt" for r in _without(runs, kept)
    ]


def _has_learnt(run: Run) -> bool:
    """Whether its curve goes beyond the random actions at its beginning."""
    return bool(run.curve.frames[-1] > run.settings.get("schedule.prefill", 0))


def _without(runs: Sequence[Run], kept: Sequence[Run]) -> list[Run]:
    places = {run.path for run in kept}
    return [run for run in runs if run.path not in places]


def reaching(runs: Sequence[Run], frames: float) -> tuple[list[Run], Notes]:
    """The runs that continue to ``frames``; notes name those left out.

    Raises:
        UserError: no run gets that far.
    """
    kept = [run for run in runs if run.curve.frames[0] <= frames <= run.end]
    if not kept:
        longest = max(runs, key=lambda run: run.end)
        raise UserError("--frames", f"{frames:,.0f}", f"at most {longest.end:,.0f}, the end of {longest.path}")
    short = _without(runs, kept)
    return kept, [f"left out {r.path}: it spans {r.curve.frames[0]:,.0f} to {r.end:,.0f} frames" for r in short]


def average(runs: Sequence[Run], n: int, metric: str) -> tuple[list[Run], Notes]:
    """The runs with the means of every ``n`` consecutive values for their curves; notes name those with fewer.

    Raises:
        UserError: no run has as many.
    """
    counts = [len(run.curve.values) for run in runs]
    if max(counts) < n:
        raise wrong("--last", n, f"at most {max(counts)}, the values of {metric} in the longest run")
    notes = [f"left out {r.path}: it has {c} values of {metric}" for r, c in zip(runs, counts, strict=True) if c < n]
    return [r._replace(curve=r.curve.averaged(n)) for r, c in zip(runs, counts, strict=True) if c >= n], notes


def group(runs: Sequence[Run], labels: Sequence[str] = ()) -> tuple[Groups, Notes]:
    """Runs by task and agent, in natural order; notes say where a name covers several settings, or a seed twice.

    Raises:
        UserError: a setting in ``labels`` that no run has, or runs of a task without frames in common.
    """
    _check_labels(labels, runs)
    groups: Groups = {}
    for run in sorted(runs, key=lambda run: (_natural(run.task), _natural(run.label(labels)), run.seed)):
        groups.setdefault(run.task, {}).setdefault(run.label(labels), []).append(run)
    for panel in groups.values():
        check_overlap([run for same in panel.values() for run in same])
    return groups, _doubts(groups)


def _check_labels(labels: Sequence[str], runs: Sequence[Seeded]) -> None:
    known = {key for run in runs for key in run.settings}
    for key in labels:
        if key not in known:
            raise unknown("setting", key, known)


def _natural(text: str) -> list[Any]:
    """A key that sorts ``K=2`` before ``K=16``: texts and numbers by turns."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


def _doubts(groups: Mapping[str, Mapping[str, Sequence[Seeded]]]) -> Notes:
    """Where runs under one name may not be seeds of one agent; a doubt is told once for all tasks that it is about."""
    tasks: dict[tuple[str, str], list[str]] = {}
    for task, panel in groups.items():
        for agent, runs in panel.items():
            if doubt := _doubt(runs):
                tasks.setdefault((agent, doubt), []).append(task)
    return [f"{agent} on {', '.join(where)}: {doubt}" for (agent, doubt), where in tasks.items()]


def _doubt(runs: Sequence[Seeded]) -> str:
    if not all(run.settings for run in runs):
        return "grids of an earlier version do not say which settings and seeds they are of" if len(runs) > 1 else ""
    differ = unlabelled_differences(runs)
    if differ:
        more = f" and {len(differ) - 5} more" if len(differ) > 5 else ""
        return f"its runs differ in {', '.join(differ[:5])}{more}; tell them apart with --label {differ[0]}"
    seeds = [run.seed for run in runs]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    return f"several runs of seed {', '.join(map(str, twice))}; each of them counts" if twice else ""


def score(groups: Groups, frames: float | None = None) -> tuple[list[Score], Notes]:
    """What each run reached at ``frames``, by default those that all runs of its task reach; notes name short runs."""
    scores, notes = [], []
    for task, panel in groups.items():
        runs = [run for same in panel.values() for run in same]
        shortest = min(runs, key=lambda run: run.curve.frames[-1])
        end, longest = shortest.curve.frames[-1], max(run.curve.frames[-1] for run in runs)
        if frames is None and end < SHORT * longest:
            notes.append(
                f"{task} is compared at {end:,.0f} frames, where {shortest.path} ends; others go on to {longest:,.0f} "
                "(--frames N leaves out runs that end before N)"
            )
        for agent, same in panel.items():
            scores += _scores(agent, same, end if frames is None else frames)
    return scores, notes


def _scores(agent: str, runs: Sequence[Run], frames: float) -> list[Score]:
    seeds = [run.seed for run in runs]
    return [
        Score(
            task=run.task,
            agent=agent,
            seed=run.seed,
            repeat=seeds[:i].count(run.seed),
            frames=float(frames),
            last=float(run.curve.at(frames)),
            best=float(run.curve.values[run.curve.frames <= frames].max()),
            run=str(run.path),
        )
        for i, run in enumerate(runs)
    ]


# --- the tables -------------------------------------------------------------------------------------------------------


def make_tables(scores: Sequence[Score], units: Mapping[str | None, float]) -> tuple[dict[str, list[Row]], Notes]:
    """The rows of each table by name, empty ones left out, and notes on what is missing."""
    tasks = common_tasks(scores)
    notes = []
    if len(tasks) > 1 and not units:
        notes.append("no aggregate over tasks: give the return that is 1 on each, --normalise 1000 on DeepMind Control")
    if len(tasks) < 2 and units:
        notes.append(f"no aggregate over tasks: all agents share {len(tasks)}, expected 2 or more")
    tables = {
        "agents": agent_rows(scores),
        "aggregate": aggregate_rows(scores, _units(tasks, units)) if units else [],
        "pairs": pair_rows(scores),
        "runs": [entry._asdict() for entry in scores],
    }
    return {name: rows for name, rows in tables.items() if rows}, notes


def _units(tasks: Sequence[str], units: Mapping[str | None, float]) -> dict[str, float]:
    found = {task: units.get(task, units.get(None)) for task in tasks}
    for task, unit in found.items():
        if unit is None:
            raise UserError("--normalise", f"no value for {task}", fix=f"add --normalise {task}=VALUE")
    return {task: unit for task, unit in found.items() if unit is not None}


def to_text(metric: str, tables: Mapping[str, Sequence[Row]], notes: Notes) -> str:
    """The report as Markdown. Of each pair of agents that share tasks only the row over all of them is shown."""
    parts = [to_markdown(tables["agents"])]
    if "aggregate" in tables:
        parts += ["All tasks, normalised:", to_markdown(tables["aggregate"])]
    if "pairs" in tables:
        whole = {(row["agent"], row["other"]) for row in tables["pairs"] if row["task"] == ALL}
        shown = [r for r in tables["pairs"] if r["task"] == ALL or (r["agent"], r["other"]) not in whole]
        parts += ["Probability that a run of the agent beats one of the other:", to_markdown(shown)]
    return _page(metric, parts, notes)


def _page(title: str, parts: Sequence[str], notes: Notes) -> str:
    listed = ["Notes:", "\n".join(f"- {note}" for note in notes)] if notes else []
    return "\n\n".join([f"# {title}", *parts, *listed]) + "\n"


def write(out: Path, text: str, tables: Mapping[str, Sequence[Row]], kind: str = "curves") -> tuple[Path, list[Path]]:
    """Write Markdown and CSV; returns the place for the picture, and the files written.

    ``out`` is a folder, which gets the files of ``FILES[kind]``; or a picture ``x.png``, which gets ``x-report.md``,
    ``x-agents.csv``, ... next to it. Tables of an earlier report that this one does not have are removed.
    """
    page, *names = FILES[kind]
    is_picture = out.suffix[1:].lower() in picture_formats()
    folder, prefix = (out.parent, f"{out.stem}-") if is_picture else (out, "")
    folder.mkdir(parents=True, exist_ok=True)
    texts = {page: text, **{f"{name}.csv": to_csv(rows) for name, rows in tables.items()}}
    for name in names:
        if name not in texts:
            (folder / f"{prefix}{name}").unlink(missing_ok=True)
    paths = [folder / f"{prefix}{name}" for name in texts]
    for path, content in zip(paths, texts.values(), strict=True):
        path.write_text(content, encoding="utf-8")
    return out if is_picture else out / f"{kind}.png", paths


# --- the command ------------------------------------------------------------------------------------------------------


def _of_task(text: str) -> tuple[str | None, str]:
    """``[TASK=]X`` as the task, or ``None`` for all of them, and the text of X."""
    task, _, value = text.rpartition("=")
    return task_name(task) or None, value


def _unit(text: str) -> tuple[str | None, float]:
    task, value = _of_task(text)
    return task, positive(value)


def _random(text: str) -> Line:
    task, value = _of_task(text)
    return Line(task, "random", number(value))


def _baseline(text: str) -> Line:
    place, equals, value = text.rpartition("=")
    task, _, name = place.rpartition(":")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"found '{text}', expected NAME=VALUE or TASK:NAME=VALUE")
    return Line(task_name(task) or None, name, number(value))


def make_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser(prog="worldrl report", description="Learning curves and statistics of run folders.")
    add = parser.add_argument
    add("run_dirs", nargs="+", type=Path, metavar="RUN_DIR", help="run folders, or folders that hold some at any depth")
    add(
        "--out",
        type=Path,
        default=Path("report"),
        metavar="PATH",
        help="a folder, or a picture such as x.png (default report)",
    )
    add("--robustness", action="store_true", help="compare robustness grids (eval.py --corruption) in place of curves")
    add("--metric", default=METRIC, metavar="KEY", help=f"any key of metrics.jsonl (default {METRIC})")
    add("--frames", type=positive, metavar="N", help="compare at N frames; shorter runs are left out")
    means = parser.add_mutually_exclusive_group()
    means.add_argument("--smooth", type=positive, metavar="N", help="mean over the last N frames, for training returns")
    means.add_argument("--last", type=whole(), metavar="N", help="mean over the last N values, such as 100 episodes")
    add("--label", action="append", default=[], metavar="KEY", help="a setting that tells agents apart; repeatable")
    add("--random", type=_random, action="append", default=[], metavar="[TASK=]X", help="the random policy's return")
    add(
        "--baseline",
        type=_baseline,
        action="append",
        default=[],
        metavar="[TASK:]NAME=X",
        help="a line to compare with",
    )
    add("--normalise", type=_unit, action="append", default=[], metavar="[TASK=]X", help="the value that counts as 1")
    return parser


def robustness_report(options: argparse.Namespace) -> str:
    """The same for robustness grids in place of learning curves."""
    for name in ("frames", "smooth", "last", "random", "baseline", "normalise"):
        if getattr(options, name):
            raise UserError(f"--{name}", "an option for learning curves", "only --out and --label with --robustness")
    grids = read_grids(options.run_dirs, options.label)
    _check_labels(options.label, grids)
    rows = grid_rows(grids)
    text = _page("return under noise", [to_markdown(rows)], _doubts(by_agent(grids)))
    with writing(options.out, OTHER_OUT):
        picture, paths = write(options.out, text, {"robustness": rows}, "robustness")
        draw_grids(picture, grids)
    return f"{text}\nwritten: {', '.join(map(str, [picture, *paths]))}"


def report(options: argparse.Namespace) -> str:
    """Read, compare, write; returns what to print."""
    if options.robustness:
        return robustness_report(options)
    runs, notes = read_runs(options.run_dirs, options.metric)
    if options.last:
        runs, left_out = average(runs, options.last, options.metric)
        notes += left_out
    if options.smooth:
        runs = [run._replace(curve=run.curve.smoothed(options.smooth)) for run in runs]
    runs, left_out = learnt(runs)
    notes += left_out
    if options.frames:
        runs, left_out = reaching(runs, options.frames)
        notes += left_out
    groups, doubts = group(runs, options.label)
    lines = [*options.random, *options.baseline]
    _check_tasks([*(line.task for line in lines), *(task for task, _ in options.normalise)], groups)
    scores, short = score(groups, options.frames)
    tables, missing = make_tables(scores, dict(options.normalise))
    text = to_text(options.metric, tables, [*notes, *doubts, *short, *missing])
    with writing(options.out, OTHER_OUT):
        picture, paths = write(options.out, text, tables)
        draw(picture, _panels(groups, options.frames or math.inf), _axis(options), lines, _estimates(tables))
    return f"{text}\nwritten: {', '.join(map(str, [picture, *paths]))}"


def _check_tasks(named: Sequence[str | None], groups: Groups) -> None:
    for task in named:
        if task is not None and task not in groups:
            raise unknown("task", task, groups)


def _panels(groups: Groups, frames: float) -> Panels:
    """The curves up to ``frames``."""
    return {
        task: {agent: [run.curve.until(frames) for run in runs] for agent, runs in panel.items()}
        for task, panel in groups.items()
    }


def _axis(options: argparse.Namespace) -> str:
    name = AXES.get(options.metric, options.metric)
    if options.last:
        return f"{name}\n(mean of the last {options.last})"
    return f"{name}\n(mean of {options.smooth:,.0f} frames)" if options.smooth else name


def _estimates(tables: Mapping[str, Sequence[Row]]) -> dict[str, Estimate]:
    return {row["agent"]: row["iqm"] for row in tables.get("aggregate", ())}


@command
def main(argv: Sequence[str] | None = None) -> int:
    """All of ``worldrl report``. Returns the exit code."""
    print(report(make_parser().parse_args(argv)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
