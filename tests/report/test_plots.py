"""Pictures of curves: that they are drawn, and where their words go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from worldrl.report.curves import Curve
from worldrl.report.plots import (
    COLOURS,
    Line,
    draw,
    draw_estimates,
    draw_panel,
    limits,
    looks_of,
    picture,
    spread,
    spread_of,
)
from worldrl.statistics import Estimate


def panel(agents: int, seeds: int = 2, low: float = 0.0) -> dict[str, list[Curve]]:
    frames = np.linspace(0, 1e6, 6)
    return {
        f"agent{a}": [Curve(frames, low + frames / (1e4 + 1e3 * a) + seed) for seed in range(seeds)]
        for a in range(agents)
    }


@pytest.mark.parametrize(("tasks", "agents"), [(1, 1), (1, 12), (2, 4), (9, 3)])
def test_every_number_of_panels_and_agents(tmp_path: Path, tasks: int, agents: int) -> None:
    path = tmp_path / "x.png"
    draw(path, {f"task{i}": panel(agents) for i in range(tasks)}, "return", [Line(None, "random", 30.0)])
    with Image.open(path) as picture:
        assert 3000 > picture.width > picture.height


def test_the_colours_of_the_agents_are_in_the_picture(tmp_path: Path) -> None:
    draw(tmp_path / "x.png", {"task": panel(8, seeds=1)}, "return")
    with Image.open(tmp_path / "x.png") as picture:
        shown = {colour for _, colour in picture.convert("RGB").getcolors(10**6)}
    assert {tuple(bytes.fromhex(colour[1:])) for colour in COLOURS} <= shown


def test_negative_returns_one_point_and_an_aggregate(tmp_path: Path) -> None:
    point = {"a": [Curve(np.array([0.0]), np.array([-3.0]))]}
    aggregate = {"a": Estimate(0.5, 0.4, 0.6), "agent1": Estimate(0.5, np.nan, np.nan)}
    draw(tmp_path / "x.svg", {"t": point, "u": panel(2, low=-500)}, "return", [Line("u", "best", -9)], aggregate)
    assert "<svg" in (tmp_path / "x.svg").read_text()


def test_the_phases_of_a_task_are_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_: drawn.extend(figure.axes))
    names = [f"{task} ({phase})" for task in "tuv" for phase in ("data", "acting")]
    xlabels = {name: "updates" if "data" in name else "environment frames" for name in names}
    draw(tmp_path / "x.png", {name: panel(1) for name in names}, "return", xlabels=xlabels)
    assert {axes.get_title(): axes.get_xlabel() for axes in drawn} == xlabels
    row = {axes.get_title(): axes.get_subplotspec().rowspan.start for axes in drawn}
    assert all(row[data] == row[acting] for data, acting in zip(names[::2], names[1::2], strict=True))


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg", "jpg"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    draw(tmp_path / f"x.{suffix}", {"task": panel(1)}, "return")
    assert (tmp_path / f"x.{suffix}").stat().st_size > 1000


def test_a_panel_shows_means_intervals_seeds_and_baselines() -> None:
    """Against Student's interval by scipy."""
    axes = Figure().subplots()
    frames, values = np.array([0.0, 10.0, 20.0]), np.random.default_rng(0).normal(5.0, 2.0, (5, 3))
    draw_panel(axes, {"a": [Curve(frames, row) for row in values]}, looks_of(["a"]), [Line(None, "random", 1.5)])
    lines = [np.asarray(line.get_xydata(), float) for line in axes.lines]
    for seed, row in enumerate(values):
        np.testing.assert_allclose(lines[seed], np.stack([frames, row], 1))
    np.testing.assert_allclose(lines[5], np.stack([frames, values.mean(0)], 1))
    assert lines[6][:, 1].tolist() == [1.5, 1.5]
    assert [line.get_markevery() for line in axes.lines if line.get_marker() != "None"] == [[-1]]
    edges = axes.collections[0].get_paths()[0].vertices
    low, high = stats.t.interval(0.95, 4, values.mean(0), stats.sem(values, 0))
    for x, bottom, top in zip(frames, low, high, strict=True):
        heights = edges[edges[:, 0] == x, 1]
        assert [heights.min(), heights.max()] == pytest.approx([bottom, top])


@pytest.mark.parametrize(
    ("numbers", "range_", "interval"), [("3 seeds", True, False), ("5 seeds", False, True), ("3-5 seeds", True, True)]
)
def test_the_legend_says_what_the_band_is(numbers: str, range_: bool, interval: bool) -> None:
    said = spread_of([numbers])
    assert ("range" in said, "interval" in said) == (range_, interval)


def test_estimates_are_drawn_with_their_intervals() -> None:
    axes = Figure().subplots()
    estimates = {"a": Estimate(0.5, 0.4, 0.7), "b": Estimate(0.2, 0.1, 0.3)}
    draw_estimates(axes, estimates, looks_of(estimates))
    drawn = [line.get_xdata() for line in axes.lines]
    assert [list(x) for x in drawn] == [[0.4, 0.7], [0.5], [0.1, 0.3], [0.2]]


def test_labels_are_spread_apart_in_their_order() -> None:
    assert spread([0.5, 0.1], gap=0.1) == [0.5, 0.1]
    np.testing.assert_allclose(spread([0.5, 0.5, 0.48], gap=0.1), [0.58, 0.68, 0.48])
    np.testing.assert_allclose(spread([0.99, 1.0, 0.2], gap=0.1), [0.9, 1.0, 0.2])
    placed = spread(np.random.default_rng(0).uniform(0.4, 0.6, 9).tolist(), gap=0.05)
    assert np.diff(sorted(placed)).min() > 0.0499


def test_an_agent_looks_the_same_in_every_picture() -> None:
    main = ["sac", "smac", "slac", "dreamer", "td3", "ddpg", "miracle", "latent_sac"]
    looks = looks_of(main)
    assert list(looks) == main
    assert len({look["color"] for look in looks.values()}) == 8
    assert looks_of(reversed(main)) == looks
    for agent in main:
        assert looks_of([agent])[agent] == looks[agent]
        assert looks_of([f"{agent}, sampled actions", agent])[agent] == looks[agent]
    many = looks_of(f"agent {i}" for i in range(20))
    assert len({tuple(look.items()) for look in many.values()}) == 20
    assert len({many[f"agent {i}"]["color"] for i in range(20)}) == 8


def test_axes_hold_zero_and_all_values() -> None:
    assert limits([[990.0, 1000.0]]) == (0.0, 1050.0)
    assert limits([[-1000.0, -990.0]]) == (-1050.0, 0.0)
    assert limits([[-10.0], [90.0]]) == (-15.0, 95.0)
    assert limits([[0.0]]) == (0.0, 1.0)


def test_the_numbers_of_a_logarithmic_axis_are_written_out(tmp_path: Path) -> None:
    """A dollar in a name is a dollar, so that powers of ten cannot be mathematics."""
    with picture(tmp_path / "x.svg", 3.0, 2.0) as figure:
        axes = figure.subplots()
        axes.plot([1, 2], [1e-3, 1e-5])
        axes.set_yscale("log")
    words = [label.get_text() for label in axes.get_yticklabels()]
    assert "0.001" in words
    assert not any("$" in word for word in words)
