"""Robustness grids of several runs side by side: ``worldrl report FOLDER... --robustness``.

A grid (``evaluation.robustness``) measures one trained agent under noise. Here the sample is the runs of an agent,
usually its seeds: every value is a mean over runs of each run's mean return in a cell.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from worldrl.envs.corruption import LEVELS
from worldrl.errors import UserError, printable
from worldrl.files import read_json
from worldrl.report.curves import LARGEST, labelled, task_name
from worldrl.report.plots import PANEL, SINGLE, draw_band, legend, limits, looks_of, number_of, picture
from worldrl.report.tables import Row
from worldrl.runs.folder import GRID
from worldrl.statistics import mean_and_deviation


class Cell(NamedTuple):
    """One kind of corruption at one level."""

    corruption: str
    level: float

    def __str__(self) -> str:
        return f"{self.corruption}@{self.level:g}"


CLEAN = Cell("clean", 0.0)  # level 0 of every kind
Returns = Mapping[Cell, Sequence[float]]  # of the sample in a picture: runs, or episodes


class Grid(NamedTuple):
    """The grid of one run."""

    path: Path
    task: str
    agent: str  # with its noise in training, and how the grid was played if not by default
    cells: Mapping[Cell, float]  # mean return
    settings: Mapping[str, Any]  # of the run by dotted key; empty in files of an earlier version
    played: str = ""  # which episodes
    updates: int = 0  # of the agent

    @property
    def seed(self) -> int:
        return self.settings["seed"]


def read_grids(paths: Sequence[Path], labels: Sequence[str] = ()) -> list[Grid]:
    """Every ``robustness.json`` at or below ``paths``, each once; ``labels`` are settings that distinguish agents.

    Raises:
        UserError: a path without a grid, a file that is not a grid, or runs of a task with different cells.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        below = grid_files(path)
        if not below:
            fix = "make one: python eval.py RUN_DIR --corruption ..."
            raise UserError(str(path), f"no {GRID} in or below it", fix=fix)
        for file in below:
            found.setdefault(file.resolve(), file)
    grids = [read_grid(file, labels) for file in found.values()]
    for task in dict.fromkeys(grid.task for grid in grids):
        first, *others = (grid for grid in grids if grid.task == task)
        for other in others:
            if set(other.cells) != set(first.cells):
                raise UserError(str(other.path), f"other cells than in {first.path}", "the same kinds and levels")
    return grids


def grid_files(path: Path) -> list[Path]:
    """Every grid at or below ``path``."""
    if path.name == GRID and path.is_file():
        return [path]
    return sorted(Path(folder) / GRID for folder, _, files in os.walk(path) if GRID in files)


def read_grid(path: Path, labels: Sequence[str] = ()) -> Grid:
    """The grid in one file. Raises UserError if it is damaged or not from ``eval.py``."""
    try:
        found = read_json(path)
        cells = {
            Cell(printable(cell["corruption"]), float(cell["level"])): float(cell["return"]) for cell in found["cells"]
        }
        if not (np.abs([*cells.values(), *(cell.level for cell in cells)]) <= LARGEST).all():
            raise ValueError(f"a level or return that is not finite or beyond ±{LARGEST:g}")
        if CLEAN not in cells or len(cells) < 2 or len(cells) < len(found["cells"]):
            raise ValueError("cells that are not a clean one and others, each once")
        settings = dict(found.get("settings", {}))
        if settings and not isinstance(settings.get("seed"), int):
            raise ValueError("settings without a seed")
        name = printable(labelled(_name(found), settings, labels))
        task = task_name(printable(found["task"]))
        return Grid(path, task, name, cells, settings, _played(found), int(found.get("updates", 0)))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        found = f"{type(error).__name__}: {error}"
        raise UserError(str(path), found, "a robustness grid that eval.py wrote") from error


def _name(found: Mapping[str, Any]) -> str:
    """A label for grids that may be averaged: agent, training noise, checkpoint, actions, sensors and masks."""
    noise = ", ".join(f"{kind} {level:g}" for kind, level in found["trained_with"].items())
    parts = [
        found["agent"],
        f"trained with {noise}" if noise else "",
        "checkpoint best" if found.get("checkpoint") == "best" else "",
        "sampled actions" if found.get("action") == "sample" else "",
        f"noise on {', '.join(found['groups'])}" if found.get("groups") else "",
        "known drop-out" if found.get("known_dropout") else "",
    ]
    return ", ".join(filter(None, parts))


def _played(found: Mapping[str, Any]) -> str:
    """Which episodes, in words: grids with the same ones have the same starts."""
    seeds = ", ".join(map(str, found.get("seeds", ())))
    return f"{found.get('episodes')} episodes of seeds {seeds}"


def unequal(grids: Sequence[Grid]) -> list[str]:
    """Notes on grids that are compared although they were played differently."""
    notes = []
    for task, agents in by_agent(grids).items():
        played = sorted({grid.played for same in agents.values() for grid in same})
        if len(played) > 1:
            notes.append(f"{task}: its grids have different episodes ({'; '.join(played)})")
        for agent, same in agents.items():
            updates = sorted({grid.updates for grid in same})
            if len(updates) > 1:
                told = " to ".join(f"{n:,}" for n in (updates[0], updates[-1]))
                notes.append(f"{agent} on {task}: its grids are of agents with {told} updates")
    return notes


def by_agent(grids: Sequence[Grid]) -> dict[str, dict[str, list[Grid]]]:
    """task -> agent -> its grids."""
    groups: dict[str, dict[str, list[Grid]]] = {}
    for grid in sorted(grids, key=lambda grid: (grid.task, grid.agent, str(grid.path))):
        groups.setdefault(grid.task, {}).setdefault(grid.agent, []).append(grid)
    return groups


def grid_rows(grids: Sequence[Grid]) -> list[Row]:
    """One row per task, agent and cell: the return over runs, and its share of the clean one."""
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
        "corruption": cell.corruption,
        "level": f"{cell.level:g}",
        "return": mean,
        "return_std": std,
        "of clean": f"{100 * mean / clean:.0f} %" if clean > 0 else "-",
    }


def draw_grids(path: Path, grids: Sequence[Grid]) -> None:
    """``draw_levels`` for several grids; the sample is the runs of an agent."""
    groups = by_agent(grids)
    runs = {agent: {len(agents[agent]) for agents in groups.values() if agent in agents} for _, agent in _pairs(groups)}
    draw_levels(path, returns_of(groups), {agent: number_of("run", n) for agent, n in runs.items()})


def returns_of(groups: Mapping[str, Mapping[str, Sequence[Grid]]]) -> dict[str, dict[str, Returns]]:
    """task -> agent -> its runs' mean returns in each cell."""
    return {
        task: {agent: {cell: [g.cells[cell] for g in same] for cell in same[0].cells} for agent, same in agents.items()}
        for task, agents in groups.items()
    }


def _pairs(groups: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [(task, agent) for task, agents in groups.items() for agent in agents]


def draw_levels(path: Path, panels: Mapping[str, Mapping[str, Returns]], samples: Mapping[str, str]) -> None:
    """Return against level: a row of panels per task, a panel per kind, a line with its band per agent.

    Args:
        panels: task -> agent -> its returns in each cell.
        samples: Per agent, the sample of its mean: ``5 runs``.
    """
    looks = looks_of(samples)
    kinds = {task: kinds_of(agents) for task, agents in panels.items()}
    columns = max(map(len, kinds.values()))
    with picture(path, max(PANEL[0] * columns, SINGLE[0]), PANEL[1] * len(panels) + 0.6) as figure:
        grid = figure.subplots(len(panels), columns, squeeze=False, sharey="row")
        for line, (task, agents) in zip(grid, panels.items(), strict=True):
            for axes, kind in zip(line, kinds[task], strict=False):
                draw_kind(axes, kind, agents, looks)
                axes.set_title(f"{task}: {kind}")
            for axes in line[len(kinds[task]) :]:
                axes.remove()
            every = [values for returns in agents.values() for values in returns.values()]
            line[0].set(ylabel="return (sum of rewards)", ylim=limits(every))
        legend(figure, samples, looks)


def kinds_of(agents: Mapping[str, Returns]) -> list[str]:
    """The kinds of corruption of a task's grids."""
    first = next(iter(agents.values()))
    return list(dict.fromkeys(kind for kind, _ in first if kind != CLEAN.corruption))


def draw_kind(axes: Any, kind: str, agents: Mapping[str, Returns], looks: Mapping[str, Mapping[str, Any]]) -> None:
    """Each agent's return against the level of one kind of corruption."""
    for agent, returns in agents.items():
        cells = sorted((c for c in returns if c.corruption in (kind, CLEAN.corruption)), key=lambda cell: cell.level)
        draw_band(axes, [cell.level for cell in cells], np.transpose([returns[cell] for cell in cells]), looks[agent])
    axes.set_xlabel(level_label(kind))
    axes.grid(axis="y")


def level_label(kind: str) -> str:
    """The meaning of a corruption's level, for an axis."""
    return f"level: {LEVELS[kind].what}" if kind in LEVELS else "level"
