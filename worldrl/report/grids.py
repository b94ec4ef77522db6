"""Robustness grids of several runs side by side: ``worldrl report FOLDER... --robustness``.

A grid (``evaluation.robustness``) says how one trained agent bears noise. Here the runs of an agent, usually its seeds,
are the sample: every value is a mean over runs of each run's mean return in a cell.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from worldrl.errors import UserError
from worldrl.report.curves import labelled
from worldrl.report.plots import PANEL, draw_band, legend, limits, looks_of, number_of, picture
from worldrl.report.statistics import mean_and_deviation
from worldrl.report.tables import Row

GRID_FILE = "robustness.json"
CLEAN = ("clean", 0.0)

Cell = tuple[str, float]  # kind and level
Cells = Mapping[Cell, float]


class Grid(NamedTuple):
    """The grid of one run."""

    path: Path
    task: str
    agent: str  # with the noise that it was trained with, and how the grid was played, where that is not the usual way
    cells: Cells  # mean return
    settings: Mapping[str, Any]  # of the run by dotted key; empty in files of an earlier version

    @property
    def seed(self) -> int:
        return self.settings["seed"]


def read_grids(paths: Sequence[Path], labels: Sequence[str] = ()) -> list[Grid]:
    """Every ``robustness.json`` at or below ``paths``, each once; ``labels`` are settings that tell agents apart.

    Raises:
        UserError: a path without one, a file that is none, or runs of a task whose cells differ.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        below = _files_below(path)
        if not below:
            raise UserError(f"no {GRID_FILE} at or below {path}; make one: python eval.py RUN_DIR --corruption ...")
        for file in below:
            found.setdefault(file.resolve(), file)
    grids = [read_grid(file, labels) for file in found.values()]
    for task in dict.fromkeys(grid.task for grid in grids):
        first, *others = (grid for grid in grids if grid.task == task)
        for other in others:
            if set(other.cells) != set(first.cells):
                raise UserError(f"{other.path} and {first.path} have other cells; expected the same kinds and levels")
    return grids


def _files_below(path: Path) -> list[Path]:
    if path.name == GRID_FILE and path.is_file():
        return [path]
    return sorted(Path(folder) / GRID_FILE for folder, _, files in os.walk(path) if GRID_FILE in files)


def read_grid(path: Path, labels: Sequence[str] = ()) -> Grid:
    """One file. Raises UserError if it is damaged, or none that ``eval.py`` wrote."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        cells = {(cell["corruption"], float(cell["level"])): float(cell["return"]) for cell in found["cells"]}
        if not np.isfinite(list(cells.values())).all():
            raise ValueError("a return that is not finite")
        settings = dict(found.get("settings", {}))
        return Grid(path, found["task"], labelled(_name(found), settings, labels), cells, settings)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no robustness grid that eval.py wrote ({type(error).__name__}: {error})") from error


def _name(found: Mapping[str, Any]) -> str:
    """What must not be averaged with anything else: agent, noise in training, checkpoint, actions, sensors."""
    noise = ", ".join(f"{kind} {level:g}" for kind, level in found["trained_with"].items())
    parts = [
        found["agent"],
        f"trained with {noise}" if noise else "",
        "checkpoint best" if found.get("checkpoint") == "best" else "",
        "sampled actions" if found.get("action") == "sample" else "",
        f"noise on {', '.join(found['groups'])}" if found.get("groups") else "",
    ]
    return ", ".join(filter(None, parts))


def by_agent(grids: Sequence[Grid]) -> dict[str, dict[str, list[Grid]]]:
    """task -> agent -> its grids."""
    groups: dict[str, dict[str, list[Grid]]] = {}
    for grid in sorted(grids, key=lambda grid: (grid.task, grid.agent, str(grid.path))):
        groups.setdefault(grid.task, {}).setdefault(grid.agent, []).append(grid)
    return groups


def grid_rows(grids: Sequence[Grid]) -> list[Row]:
    """One row per task, agent and cell: the return over runs, and what is left of the clean one."""
    return [
        _row(task, agent, same, cell)
        for task, agents in by_agent(grids).items()
        for agent, same in agents.items()
        for cell in same[0].cells
    ]


def _row(task: str, agent: str, grids: Sequence[Grid], cell: Cell) -> Row:
    mean, std = mean_and_deviation([grid.cells[cell] for grid in grids])
    clean = float(np.mean([grid.cells[CLEAN] for grid in grids]))
    return {
        "task": task,
        "agent": agent,
        "runs": len(grids),
        "corruption": cell[0],
        "level": f"{cell[1]:g}",
        "return": mean,
        "return_std": std,
        "of clean": f"{100 * mean / clean:.0f} %" if clean > 0 else "-",
    }


def draw_grids(path: Path, grids: Sequence[Grid]) -> None:
    """Return against level: a row of panels per task, a panel per kind, a line with its 95 % interval per agent."""
    groups = by_agent(grids)
    looks = looks_of(agent for agents in groups.values() for agent in agents)
    kinds = {task: _kinds(agents) for task, agents in groups.items()}
    columns = max(map(len, kinds.values()))
    with picture(path, PANEL[0] * columns, PANEL[1] * len(groups) + 0.5) as figure:
        panels = figure.subplots(len(groups), columns, squeeze=False, sharey="row")
        for line, (task, agents) in zip(panels, groups.items(), strict=True):
            for axes, kind in zip(line, kinds[task], strict=False):
                _draw_kind(axes, kind, agents, looks)
                axes.set_title(f"{task}: {kind}")
            for axes in line[len(kinds[task]) :]:
                axes.remove()
            line[0].set(ylabel="return", ylim=limits(list(g.cells.values()) for same in agents.values() for g in same))
        runs = {agent: {len(agents[agent]) for agents in groups.values() if agent in agents} for agent in looks}
        counts = {agent: number_of("run", n) for agent, n in runs.items()}
        legend(figure, counts, looks)


def _kinds(agents: Mapping[str, Sequence[Grid]]) -> list[str]:
    first = next(iter(agents.values()))[0]
    return list(dict.fromkeys(kind for kind, _ in first.cells if kind != CLEAN[0]))


def _draw_kind(
    axes: Any, kind: str, agents: Mapping[str, Sequence[Grid]], looks: Mapping[str, Mapping[str, Any]]
) -> None:
    for agent, grids in agents.items():
        cells = sorted((c for c in grids[0].cells if c[0] in (kind, CLEAN[0])), key=lambda cell: cell[1])
        levels = [level for _, level in cells]
        draw_band(axes, levels, [[grid.cells[cell] for cell in cells] for grid in grids], looks[agent])
    axes.set_xlabel("level")
    axes.grid(axis="y")
