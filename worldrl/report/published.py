"""Runs from a ``curves.csv``, which a report wrote: the tables of published values are made again from them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from worldrl.errors import UserError, printable
from worldrl.files import read_text
from worldrl.report.curves import ACTING, DATA, LARGEST, LONGEST, UNITS, Curve, Run

SUFFIX = ".csv"
NEEDED = ("task", "agent", "seed", "value")
MORE = ("repeat", "commit")
PHASES = {unit: phase for phase, unit in UNITS.items()}


class _Key(NamedTuple):
    """What the rows of one run share."""

    task: str
    agent: str
    seed: int
    repeat: str
    phase: str
    commit: str


def read_published(path: Path, merge: bool = True) -> list[Run]:
    """The runs of a file with a row for each value, in the order of their first rows.

    The only settings of a run are its task, agent and seed; its folder is named after the file. ``merge`` as in
    ``read_runs``.

    Raises:
        UserError: other columns, no row, or a row that no report has written; the error names its line.
    """
    points: dict[_Key, list[tuple[float, float]]] = {}
    for line, row in _rows(path):
        where = f"{path}, line {line}"
        units = [unit for unit in PHASES if row.get(unit)]
        if len(units) != 1:
            raise UserError(where, f"{len(units)} of {' and '.join(PHASES)}", "one of them")
        key = _key(where, row, PHASES[units[0]])
        time, value = (_number(f"{where}: {name}", row[name]) for name in (units[0], "value"))
        earlier = points.setdefault(key, [])
        if earlier and time < earlier[-1][0]:
            raise UserError(f"{where}: {units[0]}", f"{time:,.0f}", f"{earlier[-1][0]:,.0f} or more")
        earlier.append((time, value))
    if not points:
        raise UserError(str(path), "no row", "a row for each value")
    runs = [_run(path, key, np.array(found)) for key, found in points.items()]
    return [run._replace(curve=run.curve.merged()) for run in runs] if merge else runs


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows with the numbers of their last lines."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), restval="")
    columns = reader.fieldnames or []
    missing = [name for name in NEEDED if name not in columns]
    others = [name for name in columns if name not in (*NEEDED, *MORE, *PHASES)]
    if missing or others or not any(unit in columns for unit in PHASES):
        found = f"no column '{missing[0]}'" if missing else f"no column {' or '.join(PHASES)}"
        found = f"the column '{printable(others[0])[:LONGEST]}'" if others else found
        raise UserError(str(path), found, f"a curves.csv of worldrl report: {', '.join(NEEDED)}, frames or updates")
    try:
        for row in reader:
            if len(row) > len(columns):
                raise UserError(f"{path}, line {reader.line_num}", "more values", f"{len(columns)}, as the first line")
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}", str(error), "a row for each value") from error


def _key(where: str, row: dict[str, str], phase: str) -> _Key:
    for name in ("task", "agent"):
        if not 0 < len(row[name]) <= LONGEST:
            raise UserError(f"{where}: {name}", f"{len(row[name]):,} characters", f"1 to {LONGEST}")
    if not (row["seed"].isascii() and row["seed"].isdecimal() and len(row["seed"]) < LONGEST):
        raise UserError(f"{where}: seed", f"'{printable(row['seed'][:LONGEST])}'", "a whole number")
    task = printable(row["task"]).removesuffix(f" ({DATA})").removesuffix(f" ({ACTING})")
    repeat, commit = (printable(row.get(name, "")[:LONGEST]) for name in MORE)
    return _Key(task, printable(row["agent"]), int(row["seed"]), repeat, phase, commit)


def _number(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not abs(value) <= LARGEST:
        raise UserError(where, f"'{printable(text[:LONGEST])}'", f"a number up to {LARGEST:g}")
    return value


def _run(path: Path, key: _Key, points: np.ndarray) -> Run:
    settings = {"task": key.task, "agent": key.agent, "seed": key.seed, "updates": 0, "schedule.prefill": 0}
    place = Path(f"{path}: {key.task}, {key.agent}, seed {key.seed}")
    times, values = points.T
    return Run(place, settings, Curve(times, values), float(times[-1]), phase=key.phase, commit=key.commit)
