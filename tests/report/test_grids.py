"""Grids of several runs side by side, from files that are written by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from worldrl.report.__main__ import main
from worldrl.report.grids import by_agent, draw_grids, draw_kind, grid_rows, read_grids, returns_of, unequal
from worldrl.report.plots import draw_band, looks_of
from worldrl.runs.folder import GRID

CELLS = [("clean", 0.0), ("missing", 0.1), ("missing", 0.5), ("blur", 0.1), ("blur", 0.5)]
RETURNS = {("smac", 1): [100, 90, 50, 95, 80], ("smac", 2): [140, 130, 70, 105, 60], ("sac", 1): [60, 30, 0, 60, 60]}


def write_grid(folder: Path, agent: str, returns: list[float], seed: int = 1, **changes: Any) -> Path:
    cells = [
        {"corruption": kind, "level": level, "return": value}
        for (kind, level), value in zip(CELLS, returns, strict=True)
    ]
    settings = {"task": "walker_walk", "agent": agent, "seed": seed, "head.units": 300}
    found = {"task": "walker_walk", "agent": agent, "trained_with": {}, "cells": cells, "settings": settings, **changes}
    folder.mkdir(parents=True)
    path = folder / GRID
    path.write_text(json.dumps(found))
    return path


@pytest.fixture
def grids(tmp_path: Path) -> Path:
    for (agent, seed), returns in RETURNS.items():
        write_grid(tmp_path / "runs" / agent / str(seed) / "robustness", agent, list(returns), seed)
    write_grid(tmp_path / "runs/smac/9/robustness", "smac", [80, 80, 80, 80, 80], trained_with={"missing": 0.05})
    return tmp_path / "runs"


def test_a_task_has_one_name(tmp_path: Path) -> None:
    for name in ("walker_walk", "walker-walk"):
        (tmp_path / name).mkdir()
        (tmp_path / name / GRID).write_text(grid_of(("clean", 0, 1), ("missing", 0.1, 1), task=name))
    assert {grid.task for grid in read_grids([tmp_path])} == {"walker_walk"}


def test_rows_are_means_over_runs_and_noise_in_training_makes_another_agent(grids: Path) -> None:
    rows = {(row["agent"], row["corruption"], row["level"]): row for row in grid_rows(read_grids([grids, grids]))}
    assert len(rows) == 3 * len(CELLS)
    both = rows["smac", "missing", "0.5"]
    assert both["runs"] == 2
    assert both["return"] == 60
    assert both["return_std"] == pytest.approx(np.std([50, 70], ddof=1))
    assert both["of clean"] == "50 %"  # 60 of (100 + 140) / 2
    assert rows["sac", "missing", "0.1"]["of clean"] == "50 %"
    assert np.isnan(rows["sac", "missing", "0.1"]["return_std"])
    assert rows["smac, trained with missing 0.05", "blur", "0.5"]["return"] == 80
    losses = grid_rows(read_grids([write_grid(grids / "td3", "td3", [-4, -8, 0, 0, 0])]))
    assert {row["of clean"] for row in losses} == {"-"}  # twice a loss is no share of it


def test_the_command_writes_picture_and_tables(grids: Path, capsys: pytest.CaptureFixture) -> None:
    out = grids.parent / "out"
    assert main([str(grids), "--robustness", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["robustness.csv", "robustness.md", "robustness.png"]
    assert "Notes" not in (out / "robustness.md").read_text()
    assert (out / "robustness.png").read_bytes().startswith(b"\x89PNG")
    assert "| 60.0 ± 14.1" in capsys.readouterr().out
    with (out / "robustness.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3 * len(CELLS)


def names(grids: Path, *labels: str) -> dict[str, int]:
    return {row["agent"]: row["runs"] for row in grid_rows(read_grids([grids], labels))}


@pytest.mark.parametrize(
    ("played", "name"),
    [
        ({"checkpoint": "best"}, "smac, checkpoint best"),
        ({"action": "sample"}, "smac, sampled actions"),
        ({"groups": ["velocity", "height"]}, "smac, noise on velocity, height"),
        ({"known_dropout": True}, "smac, known drop-out"),
        ({"trained_with": {"missing": 0.05, "blur": 0.1}}, "smac, trained with missing 0.05, blur 0.1"),
        ({"checkpoint": "last", "action": "mode", "groups": [], "known_dropout": False}, "smac"),
    ],
)
def test_grids_that_were_played_in_another_way_are_not_averaged(grids: Path, played: dict[str, Any], name: str) -> None:
    before = names(grids)
    write_grid(grids / "other", "smac", [0.0] * len(CELLS), seed=3, **played)
    assert names(grids) == {**before, name: before.get(name, 0) + 1}


def test_runs_that_are_no_seeds_of_one_agent_are_told(grids: Path, capsys: pytest.CaptureFixture) -> None:
    def notes(*options: str) -> str:
        assert main([str(grids), "--robustness", "--out", str(grids.parent / "out"), *options]) == 0
        return capsys.readouterr().out.partition("Notes:")[2]

    assert notes() == ""
    wide = {"task": "walker_walk", "agent": "sac", "seed": 2, "head.units": 400}
    write_grid(grids / "wide", "sac", [0.0] * len(CELLS), settings=wide)
    assert "sac on walker_walk: its runs differ in head.units; separate them with --label head.units" in notes()
    assert names(grids, "head.units")["sac units=400"] == 1
    assert "differ" not in notes("--label", "head.units")
    write_grid(grids / "twice", "smac", [0.0] * len(CELLS), seed=2)
    assert "several runs of seed 2" in notes()
    write_grid(grids / "old", "smac", [0.0] * len(CELLS), settings={})
    assert "smac on walker_walk: grids of an earlier version do not have" in notes()
    assert main([str(grids), "--robustness", "--label", "head.unit"]) == 2
    assert "head.units" in capsys.readouterr().err


def test_the_band_of_many_runs_is_students_interval_and_of_few_their_range() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    values = [[1.0, 2.0], [3.0, 6.0], [8.0, 7.0], [4.0, 4.0], [0.5, 3.0]]
    many = stats.t.interval(0.95, 4, np.mean(values, 0), stats.sem(values, 0))
    few = ([1.0, 2.0], [8.0, 7.0])
    for n, (low, high) in ((5, many), (4, few)):
        draw_band(axes, [0.0, 0.5], values[:n], looks_of(["a"])["a"])
        edges = axes.collections[-1].get_paths()[0].vertices
        for x, bottom, top in zip([0.0, 0.5], low, high, strict=True):
            heights = edges[edges[:, 0] == x, 1]
            assert [heights.min(), heights.max()] == pytest.approx([bottom, top])


def test_a_panel_has_each_level_with_its_returns(grids: Path) -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    returns = returns_of(by_agent(read_grids([grids / "sac"])))["walker_walk"]
    draw_kind(axes, "missing", returns, looks_of(returns))
    assert [list(map(float, x)) for x in axes.lines[0].get_xydata()] == [[0.0, 60.0], [0.1, 30.0], [0.5, 0.0]]
    backwards = {agent: dict(reversed(cells.items())) for agent, cells in returns.items()}
    draw_kind(axes, "blur", backwards, looks_of(returns))
    assert [list(map(float, x)) for x in axes.lines[1].get_xydata()] == [[0.0, 60.0], [0.1, 60.0], [0.5, 60.0]]


def test_tasks_with_other_noise_and_other_agents_are_drawn_and_not_compared(
    grids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    hopper = grid_of(("clean", 0, 9), ("gaussian", 0.2, 3), task="hopper_hop", agent="td3")
    (tmp_path / "hopper").mkdir()
    (tmp_path / "hopper" / GRID).write_text(hopper)
    found = read_grids([grids, tmp_path / "hopper" / GRID])
    assert {grid.task for grid in found} == {"walker_walk", "hopper_hop"}
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    draw_grids(tmp_path / "x.png", found)
    panels = ["hopper_hop: gaussian", "walker_walk: missing", "walker_walk: blur"]
    assert [axes.get_title() for axes in drawn[0].axes] == panels


@pytest.mark.parametrize(("other", "notes"), [({}, 0), ({"seeds": [1, 3]}, 1), ({"episodes": 6}, 1)])
def test_other_seeds_or_more_episodes_are_other_episodes(tmp_path: Path, other: dict[str, Any], notes: int) -> None:
    played = {"seeds": [1, 2], "episodes": 5}
    write_grid(tmp_path / "a", "smac", [1.0] * len(CELLS), **played)
    write_grid(tmp_path / "b", "sac", [1.0] * len(CELLS), **{**played, **other})
    assert len(unequal(read_grids([tmp_path]))) == notes


def test_grids_that_were_played_differently_are_told(grids: Path, capsys: pytest.CaptureFixture) -> None:
    def notes() -> str:
        assert main([str(grids), "--robustness", "--out", str(grids.parent / "out")]) == 0
        return capsys.readouterr().out.partition("Notes:")[2]

    played = {"seeds": [1, 2], "episodes": 5}
    for file in grids.rglob(GRID):
        file.write_text(json.dumps({**json.loads(file.read_text()), **played, "updates": 100}))
    assert notes() == ""
    write_grid(grids / "short", "td3", [0.0] * len(CELLS), seeds=[1000], episodes=1, updates=100)
    assert "walker_walk: its grids have different episodes" in notes()
    write_grid(grids / "long", "sac", [0.0] * len(CELLS), seed=2, **played, updates=999_999)
    assert "sac on walker_walk: its grids are of agents with 100 to 999,999 updates" in notes()


def grid_of(*cells: tuple[str, float, float], **changes: Any) -> str:
    told = [{"corruption": kind, "level": level, "return": value} for kind, level, value in cells]
    return json.dumps({"task": "walker_walk", "agent": "sac", "trained_with": {}, "cells": told, **changes})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (grid_of(), "cells"),
        (grid_of(("clean", 0, 1)), "cells"),
        (grid_of(("missing", 0.1, 1), ("missing", 0.5, 1)), "cells"),
        (grid_of(("clean", 0, 1), ("missing", 0.1, 1), ("missing", 0.1, 5)), "cells"),
        (grid_of(("clean", 0, 1), ("missing", float("nan"), 1)), "not finite"),
        (grid_of(("clean", 0, 10**400), ("missing", 0.1, 1)), "OverflowError"),
        (grid_of(("clean", 0, 1e308), ("missing", 0.1, 1)), "beyond"),
        (grid_of(("clean", 0, 1), ("missing", 0.1, 1), settings={"agent": "sac"}), "seed"),
        ("{", "is damaged"),
        ("[]", "expected a robustness grid that eval.py wrote"),
        (json.dumps({"task": "walker_walk", "agent": "x", "trained_with": {}}), "cells"),
        (
            json.dumps({"trained_with": {}, "cells": [{"corruption": "clean", "level": 0, "return": float("nan")}]}),
            "not finite",
        ),
    ],
)
def test_a_damaged_file_is_named(grids: Path, content: str, words: str, capsys: pytest.CaptureFixture) -> None:
    broken = grids / "sac/1/robustness" / GRID
    broken.write_text(content)
    assert main([str(grids), "--robustness"]) == 2
    error = capsys.readouterr().err
    assert str(broken) in error
    assert words in error
    assert error.count("\n") == 1


def test_other_cells_nothing_to_read_and_other_options_are_refused(
    grids: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), "--robustness"]) == 2
    assert "eval.py RUN_DIR --corruption" in capsys.readouterr().err
    assert main([str(grids), "--robustness", "--frames", "10"]) == 2
    assert "--frames: found an option for learning curves" in capsys.readouterr().err
    assert main([str(grids), "--robustness", "--metric", "eval/return"]) == 2
    assert "--metric: found an option for learning curves" in capsys.readouterr().err
    fewer = [{"corruption": kind, "level": level, "return": 1.0} for kind, level in CELLS[:2]]
    write_grid(grids / "other", "sac", [0.0] * len(CELLS), cells=fewer)
    assert main([str(grids), "--robustness"]) == 2
    assert "the same kinds and levels" in capsys.readouterr().err
