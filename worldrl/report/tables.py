"""Tables of scores: per agent, between agents, and over all tasks; as CSV and as Markdown.

Rows are dictionaries by column. Agents keep the order of their scores. Every interval has its own generator, so it does
not depend on the rest of the table.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldrl.statistics import (
    Estimate,
    improvement_interval,
    interquartile_mean_interval,
    mean_and_deviation,
)

Row = dict[str, Any]  # column -> text, number or Estimate

SEED = 0  # of every bootstrap
ALL = "all tasks"
LAST_AND_BEST = (
    "last: the value at the time of comparison; best: each seed's highest value up to there, which noise biases "
    "upwards. Both are means over seeds ± standard deviation (divisor n - 1)."
)
LONG = 1e12  # what is printed in powers of ten


class Score(NamedTuple):
    """The score of one run at the time of comparison; ``best`` is its highest value up to there, ``last`` included."""

    task: str  # with the phase, if its tables have both
    whole: str  # the task itself
    agent: str
    seed: int
    repeat: int  # the number of earlier runs of this task, agent and seed
    time: float
    last: float
    best: float
    run: str
    unit: str = "frames"  # of the time
    commit: str = ""  # of the code that wrote the run, if known


def agent_rows(scores: Sequence[Score]) -> list[Row]:
    """One row per task and agent: its last scores, their interquartile mean, its best scores."""
    tasks, units = _by("task", scores).values(), _units(scores)
    return [_agent_row(runs, units) for of_task in tasks for runs in _by("agent", of_task).values()]


def _agent_row(runs: Sequence[Score], units: Sequence[str]) -> Row:
    last, last_std = mean_and_deviation([score.last for score in runs])
    best, best_std = mean_and_deviation([score.best for score in runs])
    return {
        "task": runs[0].task,
        "agent": runs[0].agent,
        "seeds": len(runs),
        **_time(runs[0], units),
        "last": last,
        "last_std": last_std,
        "iqm": interquartile_mean_interval([score.last for score in runs], np.random.default_rng(SEED)),
        "best": best,
        "best_std": best_std,
    }


def run_rows(scores: Sequence[Score]) -> list[Row]:
    """One row per run."""
    units = _units(scores)
    return [_run_row(score, units) for score in scores]


def _run_row(score: Score, units: Sequence[str]) -> Row:
    return {
        "task": score.task,
        "agent": score.agent,
        "seed": score.seed,
        "repeat": score.repeat,
        **_time(score, units),
        "last": score.last,
        "best": score.best,
        "commit": score.commit,
        "run": score.run,
    }


def _units(scores: Sequence[Score]) -> list[str]:
    return sorted({score.unit for score in scores})


def _time(score: Score, units: Sequence[str]) -> Row:
    """A column for each unit of time in the table; NaN for rows with another unit."""
    return {unit: score.time if unit == score.unit else math.nan for unit in units}


def pair_rows(scores: Sequence[Score]) -> list[Row]:
    """The probability that an agent's run beats another's, for each pair: per task, and over all shared tasks."""
    pairs = itertools.combinations(_by("agent", scores).values(), 2)
    return [row for x, y in pairs for row in _rows_of_pair(x, y)]


def summed(rows: Sequence[Row]) -> list[Row]:
    """Only the row over all tasks, for pairs that share several tasks."""
    whole = {(row["agent"], row["other"]) for row in rows if row["task"] == ALL}
    return [row for row in rows if row["task"] == ALL or (row["agent"], row["other"]) not in whole]


def _rows_of_pair(x: Sequence[Score], y: Sequence[Score]) -> list[Row]:
    tasks, counted = common_tasks([*x, *y]), counted_tasks([*x, *y])
    spans = {task: [task] for task in tasks} | ({ALL: counted} if len(counted) > 1 else {})
    return [_pair_row(name, span, *(_on(span, side) for side in (x, y))) for name, span in spans.items()]


def _pair_row(name: str, tasks: Sequence[str], x: Sequence[Score], y: Sequence[Score]) -> Row:
    places = [{(score.task, score.seed) for score in side} for side in (x, y)]
    paired = places[0] == places[1] and not any(score.repeat for score in (*x, *y))
    seeds = _seeds([*x, *y])
    better = improvement_interval(
        _array(x, seeds, tasks), _array(y, seeds, tasks), np.random.default_rng(SEED), paired=paired
    )
    pairs = "same seed" if paired else "all"
    return {"task": name, "agent": x[0].agent, "other": y[0].agent, "probability": better, "pairs": pairs}


def aggregate_rows(scores: Sequence[Score], units: Mapping[str, float]) -> list[Row]:
    """Per agent, the interquartile mean of ``last`` / ``units[task]`` over ``counted_tasks``, if several."""
    tasks = counted_tasks(scores)
    if len(tasks) < 2:
        return []
    normalised = [score._replace(last=score.last / units[score.task]) for score in _on(tasks, scores)]
    return [_aggregate_row(runs, tasks) for runs in _by("agent", normalised).values()]


def _aggregate_row(runs: Sequence[Score], tasks: Sequence[str]) -> Row:
    iqm = interquartile_mean_interval(_array(runs, _seeds(runs), tasks), np.random.default_rng(SEED))
    return {"agent": runs[0].agent, "tasks": len(tasks), "runs": len(runs), "iqm": iqm}


def common_tasks(scores: Sequence[Score]) -> list[str]:
    """The tasks on which all agents have scores, and of one time, in their order."""
    agents, tasks = _by("agent", scores), _by("task", scores)
    whole = {task for task, runs in tasks.items() if len(_by("agent", runs)) == len(agents)}
    return [task for task, runs in tasks.items() if task in whole and len({score.time for score in runs}) == 1]


def counted_tasks(scores: Sequence[Score]) -> list[str]:
    """Those of ``common_tasks`` that count in a value over all tasks: of each task only the last phase."""
    whole = {score.task: score.whole for score in scores}
    return list({whole[task]: task for task in common_tasks(scores)}.values())


def _by(field: Literal["task", "agent"], scores: Sequence[Score]) -> dict[str, list[Score]]:
    found: dict[str, list[Score]] = {}
    for score in scores:
        found.setdefault(getattr(score, field), []).append(score)
    return found


def _on(tasks: Sequence[str], scores: Sequence[Score]) -> list[Score]:
    return [score for score in scores if score.task in tasks]


def _seeds(scores: Sequence[Score]) -> list[tuple[int, int]]:
    """The rows of an array of these scores: one per seed and repetition."""
    return sorted({(score.seed, score.repeat) for score in scores})


def _array(scores: Sequence[Score], seeds: Sequence[tuple[int, int]], tasks: Sequence[str]) -> NDArray[np.float64]:
    """``last`` as (seeds, tasks), NaN where a seed has no run."""
    array = np.full((len(seeds), len(tasks)), np.nan)
    for score in scores:
        array[seeds.index((score.seed, score.repeat)), tasks.index(score.task)] = score.last
    return array


# --- writing ----------------------------------------------------------------------------------------------------------


def to_csv(rows: Sequence[Row]) -> str:
    """CSV in full precision; an estimate has three columns (``iqm``, ``iqm_low``, ``iqm_high``), NaN is empty."""
    flat = [_flat(row) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(row: Row) -> Row:
    flat: Row = {}
    for column, value in row.items():
        if isinstance(value, Estimate):
            flat |= {column: value.value, f"{column}_low": value.low, f"{column}_high": value.high}
        else:
            flat[column] = value
    return {k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in flat.items()}


def to_markdown(rows: Sequence[Row]) -> str:
    """Markdown for reading: rounded numbers, ``x`` and ``x_std`` as mean ± deviation, estimates with their intervals.

    A word replaces the deviation or interval of a single value.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = [shown_as(row) for row in rows]
    table = Table(box=box.MARKDOWN)
    for column in shown[0]:
        table.add_column(column, no_wrap=True)
    for row in shown:
        table.add_row(*(text.replace("|", "\\|") for text in row.values()))
    text = io.StringIO()
    Console(file=text, width=10_000, highlight=False, markup=False, emoji=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().strip().splitlines())


def shown_as(row: Row) -> dict[str, str]:
    """A row for reading, by column titles."""
    shown = {}
    for column, value in row.items():
        if f"{column}_std" in row:
            mean, *deviation = _alike(value, row[f"{column}_std"])
            shown[f"{column}, mean ± std"] = f"{mean} ± {deviation[0]}" if deviation else f"{mean}, no spread"
        elif isinstance(value, Estimate):
            middle, *interval = _alike(*value)
            shown[f"{column} [95 %]"] = f"{middle} [{', '.join(interval)}]" if interval else f"{middle}, no interval"
        elif not column.endswith("_std"):
            shown[column] = _number(value) if isinstance(value, float) else str(value)
    return shown


def _number(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:,.0f}" if value.is_integer() and abs(value) < LONG else _alike(value)[0]


def _alike(*values: float) -> list[str]:
    """Numbers with equal digits: one decimal from ten on, three below, powers of ten at both ends; without NaN."""
    known = [value for value in values if not math.isnan(value)]
    size = max(map(abs, known))
    form = ".2e" if size >= LONG or 0 < size < 0.01 else ".1f" if size >= 10 else ".3f"
    return [f"{value:{form}}" for value in known]
