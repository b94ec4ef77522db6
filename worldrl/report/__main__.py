"""Learning curves and statistics of any set of runs: ``worldrl report RUN_DIR... --out FOLDER``.

One picture with a panel per task and phase, and tables of statistics over seeds: ``docs/report.md`` defines them all.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from worldrl.errors import UserError, counted, printable, unknown, writing
from worldrl.report.compare import (
    Ends,
    Groups,
    Notes,
    all_runs,
    average,
    check_labels,
    doubts,
    group,
    learnt,
    numbered,
    reaching,
    score,
)
from worldrl.report.curves import ACTING, DATA, UNITS, Run, read_runs, task_name
from worldrl.report.films import clear
from worldrl.report.folder import BESIDE, HTML, OTHER_OUT, check_own, place, write
from worldrl.report.grids import by_agent, draw_grids, grid_rows, read_grids, unequal
from worldrl.report.page import Report, find_grids, page
from worldrl.report.plots import XLABEL, Line, Panels, draw, number_of
from worldrl.report.published import SUFFIX, read_published
from worldrl.report.tables import (
    ALL,
    LAST_AND_BEST,
    Row,
    Score,
    agent_rows,
    aggregate_rows,
    counted_tasks,
    pair_rows,
    run_rows,
    summed,
    to_markdown,
)
from worldrl.statistics import FEW, Estimate
from worldrl.terminal import Parser, command, number, positive, whole

METRIC = "eval/return"
AXES = {
    METRIC: "evaluation return\n(sum of rewards)",
    "episode/return": "training return\n(sum of rewards)",
    "eval/score": "normalised score\n(reference: 0, 100)",
}
XLABELS = {ACTING: XLABEL, DATA: "updates on data"}


# --- the tables -------------------------------------------------------------------------------------------------------


def make_tables(scores: Sequence[Score], units: Mapping[str | None, float]) -> tuple[dict[str, list[Row]], Notes]:
    """The rows of each table by name, without empty ones, and notes on what is missing."""
    tasks = counted_tasks(scores)
    notes = []
    if len(tasks) > 1 and not units:
        notes.append("no aggregate over tasks: set the return that counts as 1 (DeepMind Control: --normalise 1000)")
    if len(tasks) < 2 and units:
        notes.append(f"no aggregate over tasks: all agents share {counted(len(tasks), 'task')}, expected 2 or more")
    seeds = [n for n in Counter((score.task, score.agent) for score in scores).values() if 1 < n < FEW]
    if seeds:
        notes.append(
            f"intervals of {number_of('seed', set(seeds))} are too narrow: so few runs say little about others"
        )
    pairs = pair_rows(scores)
    over_tasks = (units and len(tasks) > 1) or any(row["task"] == ALL for row in pairs)
    if over_tasks and len({score.task for score in scores}) > len({score.whole for score in scores}):
        notes.append("values over all tasks have one phase of each task: the last one that the agents share")
    tables = {
        "agents": agent_rows(scores),
        "aggregate": aggregate_rows(scores, _units(tasks, units)) if units else [],
        "pairs": pairs,
        "runs": run_rows(scores),
    }
    return {name: rows for name, rows in tables.items() if rows}, notes


def curve_rows(groups: Groups) -> list[Row]:
    """One row per value of every run, with the run's task, agent, seed and commit."""
    rows: list[Row] = []
    units = sorted({run.unit for panel in groups.values() for run in all_runs(panel)})
    for task, panel in groups.items():
        for agent, runs in panel.items():
            for run, repeat in numbered(runs):
                name = {"task": task, "agent": agent, "seed": run.seed, "repeat": repeat}
                name |= {"commit": run.commit, **dict.fromkeys(units, math.nan)}
                points = zip(run.curve.frames, run.curve.values, strict=True)
                rows += [{**name, run.unit: float(x), "value": float(y)} for x, y in points]
    return rows


def _units(tasks: Sequence[str], units: Mapping[str | None, float]) -> dict[str, float]:
    found = {task: units.get(task, units.get(None)) for task in tasks}
    for task, unit in found.items():
        if unit is None:
            raise UserError("--normalise", f"no value for {task}", fix="add --normalise VALUE, for all other tasks")
    return {task: unit for task, unit in found.items() if unit is not None}


def to_text(metric: str, tables: Mapping[str, Sequence[Row]], notes: Notes) -> str:
    """The report as Markdown. A pair of agents that share several tasks has only the row over all of them."""
    parts = [to_markdown(tables["agents"]), LAST_AND_BEST]
    if "aggregate" in tables:
        parts += ["All tasks, normalised:", to_markdown(tables["aggregate"])]
    if "pairs" in tables:
        parts += ["Probability that a run of the agent beats one of the other:", to_markdown(summed(tables["pairs"]))]
    return _page(metric, parts, notes)


def _page(title: str, parts: Sequence[str], notes: Notes) -> str:
    listed = ["Notes:", "\n".join(f"- {printable(note)}" for note in notes)] if notes else []
    return "\n\n".join([f"# {title}", *parts, *listed]) + "\n"


# --- the command ------------------------------------------------------------------------------------------------------


def _of_task(text: str) -> tuple[str | None, str]:
    """``[TASK=]X`` as the task, or ``None`` for all of them, and the text of X."""
    task, _, value = text.rpartition("=")
    return task or None, value


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
    return Line(task or None, name, number(value))


def make_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser(prog="worldrl report", description="Learning curves and statistics of run folders.")
    add = parser.add_argument
    paths = "run folders, folders with runs at any depth, or a curves.csv of another report"
    add("run_dirs", nargs="+", type=Path, metavar="RUN_DIR", help=paths)
    add(
        "--out",
        type=Path,
        default=Path("report"),
        metavar="PATH",
        help="a folder, or a picture such as x.png (default report)",
    )
    add(
        "--html", action="store_true", help=f"also write {HTML}, a page with curves, tables, grids, videos and settings"
    )
    add("--robustness", action="store_true", help="compare robustness grids (eval.py --corruption) in place of curves")
    add("--metric", metavar="KEY", help=f"any key of metrics.jsonl (default {METRIC})")
    add("--frames", type=positive, metavar="N", help="compare at N frames; shorter runs are left out")
    add("--updates", type=positive, metavar="N", help="the same for runs that learn from data")
    means = parser.add_mutually_exclusive_group()
    means.add_argument("--smooth", type=positive, metavar="N", help="mean over the last N frames or updates")
    means.add_argument("--last", type=whole(), metavar="N", help="mean over the last N values, such as 100 episodes")
    add("--label", action="append", default=[], metavar="KEY", help="a setting that distinguishes agents; repeatable")
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
    if options.html:
        raise UserError(
            "--html", "--robustness with it", "one of them", "leave out --robustness: the page has the grids"
        )
    for name in ("metric", "frames", "updates", "smooth", "last", "random", "baseline", "normalise"):
        if getattr(options, name):
            raise UserError(f"--{name}", "an option for learning curves", "only --out and --label with --robustness")
    check_own(options.out, "robustness")
    grids = read_grids(options.run_dirs, options.label)
    check_labels(options.label, grids)
    rows = grid_rows(grids)
    notes = doubts(by_agent(grids)) + unequal(grids)
    text = _page("return under noise", [to_markdown(rows)], notes)
    with writing(options.out, OTHER_OUT):
        picture, paths = write(options.out, text, {"robustness": rows}, "robustness")
        draw_grids(picture, grids)
    return f"{text}\nwritten: {', '.join(map(str, [picture, *paths]))}"


def chosen(options: argparse.Namespace, ends: Ends) -> tuple[list[Run], Notes]:
    """The runs to compare, with their curves as the options ask for them; notes name those that are left out."""
    files = [path for path in options.run_dirs if path.suffix == SUFFIX]
    folders = [path for path in options.run_dirs if path not in files]
    runs, notes = read_runs(folders, options.metric, merge=not options.last) if folders else ([], [])
    runs += [run for file in files for run in read_published(file, merge=not options.last)]
    if options.last:
        runs, left_out = average(runs, options.last, options.metric)
        notes += left_out
    if options.smooth:
        runs = [run._replace(curve=run.curve.smoothed(options.smooth)) for run in runs]
    runs, left_out = learnt(runs)
    notes += left_out
    for unit, end in ends.items():
        runs, left_out = reaching(runs, unit, end)
        notes += left_out
    return runs, notes


def report(options: argparse.Namespace) -> str:
    """Read, compare, write; returns what to print."""
    if options.robustness:
        return robustness_report(options)
    check_own(options.out)
    options.metric = options.metric or METRIC
    ends = {unit: end for unit in UNITS.values() if (end := vars(options)[unit])}
    runs, notes = chosen(options, ends)
    groups, doubtful = group(runs, options.label)
    lines = [
        line._replace(task=name) for line in [*options.random, *options.baseline] for name in _named(line.task, groups)
    ]
    units = {name: unit for task, unit in options.normalise for name in _named(task, groups)}
    scores, short = score(groups, ends)
    tables, missing = make_tables(scores, units)
    tables["curves"] = curve_rows(groups)
    notes += [*doubtful, *short, *missing]
    text = to_text(options.metric, tables, notes)
    xlabels = {name: XLABELS[all_runs(panel)[0].phase] for name, panel in groups.items()}
    drawn = (_panels(groups, ends), _axis(options, scores), lines, _estimates(tables), xlabels)
    with writing(options.out, OTHER_OUT):
        clear(place(options.out, BESIDE))
        html = _html(options, Report(options.metric, groups, tables, notes, *drawn)) if options.html else ""
        picture, paths = write(options.out, text, tables, html=html)
        draw(picture, *drawn)
    if options.html and place(options.out, BESIDE).is_dir():
        paths.append(place(options.out, BESIDE))
    return f"{text}\nwritten: {', '.join(map(str, [picture, *paths]))}"


def _html(options: argparse.Namespace, found: Report) -> str:
    grids, refused = find_grids(options.run_dirs, options.label)
    of_grids = doubts(by_agent(grids)) + unequal(grids)
    notes = [*found.notes, *refused, *(f"grids: {doubt}" for doubt in of_grids)]
    return page(found._replace(notes=notes), grids, place(options.out, BESIDE))


def _named(task: str | None, groups: Groups) -> Sequence[str | None]:
    """The groups of a task, one for each phase; ``None`` means all tasks."""
    if task is None:
        return [None]
    tasks = {name: all_runs(panel)[0].task for name, panel in groups.items()}
    found = [name for name, known in tasks.items() if known in (task, task_name(task))]
    if not found:
        raise unknown("task", task, tasks.values())
    return found


def _panels(groups: Groups, ends: Ends) -> Panels:
    """The curves up to ``ends``."""
    return {
        task: {agent: [r.curve.until(ends.get(r.unit, math.inf)) for r in runs] for agent, runs in panel.items()}
        for task, panel in groups.items()
    }


def _axis(options: argparse.Namespace, scores: Sequence[Score]) -> str:
    name = AXES.get(options.metric, options.metric)
    if options.last:
        return f"{name}\n(mean of the last {options.last})"
    units = " or ".join(sorted({score.unit for score in scores}))
    return f"{name}\n(mean of {options.smooth:,.0f} {units})" if options.smooth else name


def _estimates(tables: Mapping[str, Sequence[Row]]) -> dict[str, Estimate]:
    return {row["agent"]: row["iqm"] for row in tables.get("aggregate", ())}


@command
def main(argv: Sequence[str] | None = None) -> int:
    """All of ``worldrl report``. Returns the exit code."""
    print(report(make_parser().parse_args(argv)).encode(errors="backslashreplace").decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
