"""What a report compares: runs by task and agent, and where; notes say what is left out, and what is in doubt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from worldrl.errors import UserError, counted, printable, unknown, wrong
from worldrl.report.curves import ACTING, DATA, UNITS, Curve, Run, Seeded, mean_curve, meeting, unlabelled_differences
from worldrl.report.tables import Score

SHORT = 0.9  # a run that ends before this share of the longest one is named

Groups = dict[str, dict[str, list[Run]]]  # task, with the phase if it has data -> agent -> its runs
Ends = Mapping[str, float]  # unit of time -> where runs are compared, if that was asked for
Notes = list[str]


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
    check_labels(labels, runs)
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
    return groups, notes + doubts(groups) + _unequal_starts(groups) + _other_data(groups)


def _order(run: Run, labels: Sequence[str], known: set[tuple[str, str]]) -> tuple[Any, ...]:
    """Tasks with two phases come first: their panels are side by side."""
    one = not known.issuperset((run.task, phase) for phase in UNITS)
    return one, _natural(run.task), run.phase == ACTING, _natural(run.label(labels)), run.seed


def all_runs(panel: Mapping[str, Sequence[Run]]) -> list[Run]:
    return [run for same in panel.values() for run in same]


def check_labels(labels: Sequence[str], runs: Sequence[Seeded]) -> None:
    known = {key for run in runs for key in run.settings}
    for key in labels:
        if key not in known:
            raise unknown("setting", key, known)


def _natural(text: str) -> str:
    """A key that sorts ``K=2`` before ``K=16``."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), text)


def doubts(groups: Mapping[str, Mapping[str, Sequence[Seeded]]]) -> Notes:
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
        named = next((key for key in differ if isinstance(runs[0].settings.get(key), str)), differ[0])
        return f"its runs differ in {', '.join(differ[:5])}{more}; separate them with --label {named}"
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
        runs = [run for run in all_runs(panel) if run.phase == DATA]
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
        unit = all_runs(panel)[0].unit
        asked = ends.get(unit)
        met = asked or meeting([*means.values()])
        notes += [] if asked else _short(task, all_runs(panel), met)
        for agent, same in panel.items():
            mean = means[agent]
            apart = not asked and not mean.covers(met)
            if apart:
                others = f"agents that meet at {met:,.0f} {unit}"
                notes.append(f"{agent} on {task} is not compared with {others}: it has {_span(mean, unit)}")
            scores += _scores(task, agent, same, float(mean.frames[-1]) if apart else met)
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
        for run, repeat in numbered(runs)
    ]


def numbered(runs: Sequence[Run]) -> list[tuple[Run, int]]:
    """Runs of one task and agent, each with the number of earlier ones that have its seed."""
    seeds = [run.seed for run in runs]
    return [(run, seeds[:i].count(run.seed)) for i, run in enumerate(runs)]
