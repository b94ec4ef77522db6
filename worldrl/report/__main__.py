"""Learning curves and statistics of any set of runs: ``worldrl report RUN_DIR... --out FOLDER``.

One picture with a panel per task and phase, and tables of statistics over seeds: ``docs/report.md`` defines them all.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldrl.errors import UserError, counted, printable, unknown, writing, wrong
from worldrl.report.curves import (
    ACTING,
    DATA,
    UNITS,
    Curve,
    Run,
    Seeded,
    mean_curve,
    meeting,
    read_runs,
    task_name,
    unlabelled_differences,
)
from worldrl.report.films import clear
from worldrl.report.grids import by_agent, draw_grids, grid_rows, read_grids, unequal
from worldrl.report.page import Report, find_grids, page
from worldrl.report.plots import XLABEL, Line, Panels, draw, number_of, picture_formats
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
    to_csv,
    to_markdown,
)
from worldrl.statistics import Estimate
from worldrl.terminal import Parser, command, number, positive, whole

METRIC = "eval/return"
OTHER_OUT = "--out takes a folder, or a picture such as x.png"
AXES = {
    METRIC: "evaluation return\n(sum of rewards)",
    "episode/return": "training return\n(sum of rewards)",
    "eval/score": "normalised score\n(reference: 0, 100)",
}
XLABELS = {ACTING: XLABEL, DATA: "updates on data"}
HTML, BESIDE = "report.html", "report-videos"
FILES = {  # the page and the tables of each kind of report; tables without a row are left out
    "curves": ("report.md", "agents.csv", "aggregate.csv", "pairs.csv", "runs.csv", "curves.csv", HTML),
    "robustness": ("robustness.md", "robustness.csv"),
}
MARK = "<!-- worldrl report -->"  # the last line of its Markdown: what is next to it may be replaced
FEW = 5  # seeds; bootstrap intervals of fewer are noted
SHORT = 0.9  # a run that ends before this share of the longest one is named

Groups = dict[str, dict[str, list[Run]]]  # task, with the phase if it has data -> agent -> its runs
Ends = Mapping[str, float]  # unit of time -> where runs are compared, if that was asked for
Notes = list[str]


# --- what is compared -------------------------------------------------------------------------------------------------


def learnt(runs: Sequence[Run]) -> tuple[list[Run], Notes]:
    """The runs that have learned, if another run of their task has; notes name the others."""
    able = {(run.task, run.phase) for run in runs if _has_learnt(run)}
    early = [run for run in runs if not _has_learnt(run) and (run.task, run.phase) in able]
    found = "it has no value from after it began to learn"
    return _without(runs, early), [f"left out {r.name}: {found} ({r.end:,.0f} {r.unit})" for r in early]


def _has_learnt(run: Run) -> bool:
    """Whether its curve goes beyond the random actions at its beginning; there are none after learning from data."""
    start = 0 if run.settings["updates"] else run.settings["schedule.prefill"]
    return bool(run.curve.frames[-1] > start)


def _without(runs: Sequence[Run], others: Sequence[Run]) -> list[Run]:
    names = {run.name for run in others}
    return [run for run in runs if run.name not in names]


def reaching(runs: Sequence[Run], unit: str, end: float) -> tuple[list[Run], Notes]:
    """The runs without those whose time is ``unit`` and that do not reach ``end``; notes name those left out.

    Raises:
        UserError: no run reaches ``end``.
    """
    timed = [run for run in runs if run.unit == unit]
    if not timed:
        raise UserError(f"--{unit}", f"{end:,.0f}", f"runs whose time is {unit}", "leave it out")
    short = [run for run in timed if not run.curve.frames[0] <= end <= run.end]
    if len(short) == len(timed):
        run = max(timed, key=lambda run: run.end)
        expected = f"a number such as those that {run.path} spans: {run.curve.frames[0]:,.0f} to {run.end:,.0f}"
        raise UserError(f"--{unit}", f"{end:,.0f}", expected)
    notes = [f"left out {r.name}: it spans {r.curve.frames[0]:,.0f} to {r.end:,.0f} {unit}" for r in short]
    return _without(runs, short), notes


def average(runs: Sequence[Run], n: int, metric: str) -> tuple[list[Run], Notes]:
    """The runs with the means of every ``n`` consecutive values for their curves; notes name those with fewer.

    Raises:
        UserError: no run has that many.
    """
    short = [run for run in runs if len(run.curve.values) < n]
    if len(short) == len(runs):
        most = max(len(run.curve.values) for run in runs)
        raise wrong("--last", n, f"at most {most}, the values of {metric} in the longest run")
    notes = [f"left out {run.name}: it has {counted(len(run.curve.values), 'value')} of {metric}" for run in short]
    return [run._replace(curve=run.curve.averaged(n)) for run in _without(runs, short)], notes


def together(runs: Sequence[Run]) -> tuple[list[Run], Notes]:
    """Those runs of an agent that have values at one time, as many as possible; notes name the others."""
    time = meeting([run.curve for run in runs])
    apart = [run for run in runs if not run.curve.covers(time)]
    at = f"other runs of its agent meet at {time:,.0f}"
    return _without(runs, apart), [f"left out {r.name}: it has {_span(r.curve, r.unit)}, {at}" for r in apart]


def _span(curve: Curve, unit: str) -> str:
    return f"values from {curve.frames[0]:,.0f} to {curve.frames[-1]:,.0f} {unit}"


def group(runs: Sequence[Run], labels: Sequence[str] = ()) -> tuple[Groups, Notes]:
    """Runs by task and agent, in natural order; notes say where a name covers several settings, or a seed twice.

    If runs of a task have learned from data, each phase has a group. Of an agent's runs there, those stay that meet.

    Raises:
        UserError: a setting in ``labels`` that no run has.
    """
    _check_labels(labels, runs)
    known = {(run.task, run.phase) for run in runs}
    groups: Groups = {}
    for run in sorted(runs, key=lambda run: _order(run, labels, known)):
        name = f"{run.task} ({run.phase})" if (run.task, DATA) in known else run.task
        groups.setdefault(name, {}).setdefault(run.label(labels), []).append(run)
    notes: Notes = []
    for panel in groups.values():
        for agent, same in panel.items():
            panel[agent], apart = together(same)
            notes += apart
    return groups, notes + _doubts(groups) + _unequal_starts(groups) + _other_data(groups)


def _order(run: Run, labels: Sequence[str], known: set[tuple[str, str]]) -> tuple[Any, ...]:
    """Tasks with two phases come first: their panels are side by side."""
    one = not known.issuperset((run.task, phase) for phase in UNITS)
    return one, _natural(run.task), run.phase == ACTING, _natural(run.label(labels)), run.seed


def _all(panel: Mapping[str, Sequence[Run]]) -> list[Run]:
    return [run for same in panel.values() for run in same]


def _check_labels(labels: Sequence[str], runs: Sequence[Seeded]) -> None:
    known = {key for run in runs for key in run.settings}
    for key in labels:
        if key not in known:
            raise unknown("setting", key, known)


def _natural(text: str) -> str:
    """A key that sorts ``K=2`` before ``K=16``."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), text)


def _doubts(groups: Mapping[str, Mapping[str, Sequence[Seeded]]]) -> Notes:
    """Notes on runs under one name that may not be seeds of one agent, each once for all its tasks."""
    tasks: dict[tuple[str, str], list[str]] = {}
    for task, panel in groups.items():
        for agent, runs in panel.items():
            if doubt := _doubt(runs):
                tasks.setdefault((agent, doubt), []).append(task)
    return [f"{agent} on {', '.join(where)}: {doubt}" for (agent, doubt), where in tasks.items()]


def _doubt(runs: Sequence[Seeded]) -> str:
    if not all(run.settings for run in runs):
        return "grids of an earlier version do not have their settings and seeds" if len(runs) > 1 else ""
    differ = unlabelled_differences(runs)
    if differ:
        more = f" and {len(differ) - 5} more" if len(differ) > 5 else ""
        return f"its runs differ in {', '.join(differ[:5])}{more}; separate them with --label {differ[0]}"
    seeds = [run.seed for run in runs]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    return f"several runs of seed {', '.join(map(str, twice))}; each of them counts" if twice else ""


def _unequal_starts(groups: Groups) -> Notes:
    """Notes on runs under one name that act after different numbers of updates on data."""
    notes = []
    for task, panel in groups.items():
        for agent, runs in panel.items():
            made = sorted({str(run.settings["updates"]) for run in runs if run.phase == ACTING}, key=_natural)
            if len(made) > 1:
                found = f"its runs act after {' and '.join(made)} updates on data"
                notes.append(f"{agent} on {task}: {found}; separate them with --label updates")
    return notes


def _other_data(groups: Groups) -> Notes:
    """Notes on agents that are compared although they learned from different data sets.

    A checksum is of the rows after ``data.top`` and ``data.reward``: only data of another name and other rows differ.
    """
    notes = []
    for task, panel in groups.items():
        runs = [run for run in _all(panel) if run.phase == DATA]
        names = sorted({str(run.settings.get("data")) for run in runs}, key=_natural)
        if len(names) > 1 and len({run.settings.get("data.checksum") for run in runs}) > 1:
            notes.append(f"the runs of {task} learned from different data: {', '.join(names)}")
    return notes


def score(groups: Groups, ends: Ends) -> tuple[list[Score], Notes]:
    """The scores at ``ends``, by default where the shortest run of a task ends; notes name short runs.

    An agent without values there has its scores where its own runs end; a note names it.
    """
    scores: list[Score] = []
    notes: Notes = []
    for task, panel in groups.items():
        means = {agent: mean_curve([run.curve for run in same]) for agent, same in panel.items()}
        unit = _all(panel)[0].unit
        asked = ends.get(unit)
        met = asked or meeting([*means.values()])
        notes += [] if asked else _short(task, _all(panel), met)
        for agent, same in panel.items():
            mean = means[agent]
            alone = not asked and not mean.covers(met)
            if alone:
                others = f"agents that meet at {met:,.0f} {unit}"
                notes.append(f"{agent} on {task} is not compared with {others}: it has {_span(mean, unit)}")
            scores += _scores(task, agent, same, float(mean.frames[-1]) if alone else met)
    return scores, notes


def _short(task: str, runs: Sequence[Run], time: float) -> Notes:
    """A note if the runs are compared where a run ends that is much shorter than others."""
    longest = max(run.curve.frames[-1] for run in runs)
    if time >= SHORT * longest:
        return []
    shortest, unit = next(run for run in runs if run.curve.frames[-1] == time), runs[0].unit
    return [
        f"{task} is compared at {time:,.0f} {unit}, where {shortest.path} ends; others reach {longest:,.0f} "
        f"(--{unit} N leaves out runs that end before N)"
    ]


def _scores(task: str, agent: str, runs: Sequence[Run], time: float) -> list[Score]:
    return [
        Score(
            task=task,
            whole=run.task,
            agent=agent,
            seed=run.seed,
            repeat=repeat,
            time=float(time),
            last=float(run.curve.at(time)),
            best=float(run.curve.until(time).values.max()),
            run=printable(run.path),
            unit=run.unit,
            commit=run.commit,
        )
        for run, repeat in _numbered(runs)
    ]


def _numbered(runs: Sequence[Run]) -> list[tuple[Run, int]]:
    """Runs of one task and agent, each with the number of earlier ones that have its seed."""
    seeds = [run.seed for run in runs]
    return [(run, seeds[:i].count(run.seed)) for i, run in enumerate(runs)]


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
    units = sorted({run.unit for panel in groups.values() for run in _all(panel)})
    for task, panel in groups.items():
        for agent, runs in panel.items():
            for run, repeat in _numbered(runs):
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
    return "\n\n".join([f"# {title}", *parts, *listed, MARK]) + "\n"


def _is_picture(out: Path) -> bool:
    return out.suffix[1:].lower() in picture_formats()


def place(out: Path, name: str) -> Path:
    """The path of a file of a report: in the folder ``out``, or next to a picture ``x.png``, as ``x-name``."""
    return out.with_name(f"{out.stem}-{name}") if _is_picture(out) else out / name


def place_of_picture(out: Path, kind: str) -> Path:
    """The path of the picture of a report of this kind."""
    return out if _is_picture(out) else out / f"{kind}.png"


def check_own(out: Path, kind: str = "curves") -> None:
    """Raise UserError if files of these names are there that no report wrote."""
    places = [*(place(out, name) for name in (*FILES[kind], BESIDE)), place_of_picture(out, kind)]
    found = [file for file in places if file.exists()]
    page = place(out, FILES[kind][0])
    ours = page.is_file() and MARK.encode() in page.read_bytes()
    if found and not ours:
        fix = f"move it, or choose another folder; {OTHER_OUT}"
        raise UserError(str(found[0]), "a file that no report wrote", "a new place, or that of an earlier report", fix)


def write(
    out: Path, text: str, tables: Mapping[str, Sequence[Row]], kind: str = "curves", html: str = ""
) -> tuple[Path, list[Path]]:
    """Write Markdown, CSV and HTML; returns the place for the picture, and the files written.

    ``out`` gets the files of ``FILES[kind]``, see ``place``. Other files of an earlier report are removed.
    """
    first, *names = FILES[kind]
    texts = {first: text, **{f"{name}.csv": to_csv(rows) for name, rows in tables.items()}}
    if html:
        texts[HTML] = html
    place(out, first).parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name not in texts:
            place(out, name).unlink(missing_ok=True)
    paths = [place(out, name) for name in texts]
    for path, content in zip(paths, texts.values(), strict=True):
        path.write_text(content, encoding="utf-8", errors="backslashreplace")  # a folder's name may be any bytes
    return place_of_picture(out, kind), paths


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
    add("run_dirs", nargs="+", type=Path, metavar="RUN_DIR", help="run folders, or folders with runs at any depth")
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
    _check_labels(options.label, grids)
    rows = grid_rows(grids)
    notes = _doubts(by_agent(grids)) + unequal(grids)
    text = _page("return under noise", [to_markdown(rows)], notes)
    with writing(options.out, OTHER_OUT):
        picture, paths = write(options.out, text, {"robustness": rows}, "robustness")
        draw_grids(picture, grids)
    return f"{text}\nwritten: {', '.join(map(str, [picture, *paths]))}"


def chosen(options: argparse.Namespace, ends: Ends) -> tuple[list[Run], Notes]:
    """The runs to compare, with their curves as the options ask for them; notes name those that are left out."""
    runs, notes = read_runs(options.run_dirs, options.metric, merge=not options.last)
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
    groups, doubts = group(runs, options.label)
    lines = [
        line._replace(task=name) for line in [*options.random, *options.baseline] for name in _named(line.task, groups)
    ]
    units = {name: unit for task, unit in options.normalise for name in _named(task, groups)}
    scores, short = score(groups, ends)
    tables, missing = make_tables(scores, units)
    tables["curves"] = curve_rows(groups)
    notes += [*doubts, *short, *missing]
    text = to_text(options.metric, tables, notes)
    xlabels = {name: XLABELS[_all(panel)[0].phase] for name, panel in groups.items()}
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
    doubts = _doubts(by_agent(grids)) + unequal(grids)
    notes = [*found.notes, *refused, *(f"grids: {doubt}" for doubt in doubts)]
    return page(found._replace(notes=notes), grids, place(options.out, BESIDE))


def _named(task: str | None, groups: Groups) -> Sequence[str | None]:
    """The groups of a task, one for each phase; ``None`` means all tasks."""
    if task is None:
        return [None]
    tasks = {name: _all(panel)[0].task for name, panel in groups.items()}
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
