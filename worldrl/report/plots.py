"""Pictures of learning curves: one panel per task and phase, one colour and marker per agent."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldrl.errors import check_writable, writing, wrong
from worldrl.report.curves import Curve, align
from worldrl.statistics import FEW, Estimate, mean_and_band

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, distinguishable with any colour vision deficiency; wine replaces yellow, too faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#882255")
MARKERS = "osD^vPX*"
DASHES = ("-", "--", ":", "-.")  # the next eight agents
PREFIX = "33"  # chosen so that the agents that are compared most have different colours
INK, PALE, GRID = "#333333", "#888888", "#dddddd"
PANEL = (3.5, 2.6)  # inches
SINGLE = (6.4, 3.8)
COLUMNS = 4  # even: the two phases of a task stay in one row
XLABEL = "environment frames"

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,  # whole numbers at the ticks, not differences from one in a corner
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "xtick.color": PALE,
    "ytick.color": PALE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}

Panels = Mapping[str, Mapping[str, Sequence[Curve]]]  # task -> agent -> the curves of its seeds
Look = Mapping[str, Any]  # how an agent's line is drawn


class Line(NamedTuple):
    """A horizontal line to compare with, on one task or (``None``) on all."""

    task: str | None
    name: str
    value: float


def picture_formats() -> set[str]:
    """Suffixes, without a dot, that ``draw`` can write."""
    from matplotlib.backend_bases import FigureCanvasBase

    return set(FigureCanvasBase.get_supported_filetypes()) - {"pgf"}  # which needs LaTeX


def check_picture(path: Path) -> None:
    """Refuse a picture that cannot be drawn or written before minutes are spent on what it shows."""
    if path.suffix[1:].lower() not in picture_formats():
        raise wrong("the picture", str(path), "a name with the suffix .png, .svg, .pdf or another of matplotlib's")
    check_writable(path)


@contextlib.contextmanager
def picture(path: Path | IO[bytes], width: float, height: float, **saved: Any) -> Iterator[Figure]:
    """A figure in the style of this package, to be drawn on and then saved with the options ``saved``."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.rcsetup import cycler

    with rc_context({**STYLE, "axes.prop_cycle": cycler(color=COLOURS), "legend.frameon": False}):
        figure = Figure(figsize=(width, height), layout="constrained", dpi=200)
        yield figure
        write_out(figure)
        with writing(path, "choose another place"):
            figure.savefig(path, **saved)


def write_out(figure: Figure) -> None:
    """Write the numbers of axes that are not linear as 0.01 and 1e-05: powers need the mathematics that is off."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() != "linear":
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter("")


SVG: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "worldrl"}  # letters as text; deterministic output
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
THEMED = {  # colours that differ on a dark page -> their names on a page
    INK: "ink",
    PALE: "pale",
    GRID: "grid",
    "#000000": "ink",
    "#0072b2": "blue",
    "#882255": "wine",
}


def svg(width: float, height: float, paint: Callable[[Figure], object]) -> str:
    """The drawing of ``paint``, as an element of a page that defines the variables ``THEMED``."""
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context(SVG), picture(file, width, height, format="svg", transparent=True, metadata=NO_METADATA) as figure:
        paint(figure)
    text = file.getvalue().decode()
    text = re.sub(r"<g id=\"[^\"]*\"", "<g", text[text.index("<svg") :])  # names that every figure has
    return re.sub(r"(?<=: )#\w{6}(?=[;\"])", lambda found: themed(found[0]), text)


def themed(colour: str) -> str:
    """A colour in the form of a page."""
    return f"var(--{THEMED[colour]})" if colour in THEMED else colour


def draw(
    path: Path,
    panels: Panels,
    ylabel: str,
    lines: Sequence[Line] = (),
    aggregate: Mapping[str, Estimate] | None = None,
    xlabels: Mapping[str, str] | None = None,
) -> None:
    """Write the picture; its suffix is the format.

    Args:
        panels: Each has the mean over an agent's seeds with its 95 % interval (their range, if they are fewer than
            ``FEW``), where all of them have values, and each seed faintly. An agent looks the same in all panels.
        lines: Baselines.
        aggregate: Per agent a value over all tasks, for one more panel.
        xlabels: The label of each panel's x axis, by default environment frames.
    """
    looks = looks_of(agent for panel in panels.values() for agent in panel)
    seeds = _seeds(panels)
    names = {agent: f"{agent} ({number})" for agent, number in seeds.items()}
    xlabels = dict.fromkeys(panels, XLABEL) | dict(xlabels or {})
    differ = len(set(xlabels.values())) > 1
    number = len(panels) + bool(aggregate)
    rows, columns = _shape(number, differ)
    size = (PANEL[0] * columns, PANEL[1] * rows) if number > 1 else (SINGLE[0] + _width(names.values()), SINGLE[1])
    with picture(path, *size) as figure:
        cells = figure.subplots(rows, columns, squeeze=False).flat
        for axes in cells[number:]:
            axes.remove()
        for i, (axes, (task, panel)) in enumerate(zip(cells, panels.items(), strict=False)):
            draw_panel(axes, panel, looks, [line for line in lines if line.task in (None, task)])
            axes.set_title(task)
            axes.set_xlabel(xlabels[task] if differ or i + columns >= number else "")
            axes.set_ylabel(ylabel if i % columns == 0 else "")
        if aggregate:
            draw_estimates(cells[number - 1], aggregate, looks)
            cells[number - 1].set_title("all tasks")
        if number == 1:
            _label_ends(cells[0], names, looks)
        else:
            legend(figure, seeds, looks)


def _shape(number: int, pairs: bool) -> tuple[int, int]:
    """Rows and columns of so many panels; with ``pairs``, two of them that follow each other stay in one row."""
    rows = math.ceil(number / COLUMNS)
    columns = math.ceil(number / rows)
    return rows, columns + columns % 2 if pairs and rows > 1 else columns


def looks_of(agents: Iterable[str]) -> dict[str, Look]:
    """The style of each agent: the one of its name, or the next free one.

    The same agents look the same in every picture, in any order.
    """
    places: dict[str, int] = {}
    names = dict.fromkeys(agents)
    for agent in sorted(names, key=lambda agent: (len(agent.split(",")), agent)):  # "sac" before "sac, sampled actions"
        taken = Counter(place % 8 for place in places.values())
        own = _own_place(agent)
        colour = min(range(8), key=lambda place: (taken[place], (place - own) % 8))
        places[agent] = colour + 8 * taken[colour]
    return {agent: _look(places[agent]) for agent in names}


def _own_place(agent: str) -> int:
    """A style number from the letters of the agent's name, without its settings."""
    name = re.split(r"[ ,]", agent)[0]
    return hashlib.sha256(f"{PREFIX}{name}".encode()).digest()[0] % 8


def _look(place: int) -> Look:
    return {"color": COLOURS[place % 8], "marker": MARKERS[place % 8], "linestyle": DASHES[place // 8 % len(DASHES)]}


def _seeds(panels: Panels) -> dict[str, str]:
    """Per agent ``5 seeds``, or ``3-5 seeds`` where tasks differ."""
    counts: dict[str, set[int]] = {}
    for panel in panels.values():
        for agent, curves in panel.items():
            counts.setdefault(agent, set()).add(len(curves))
    return {agent: number_of("seed", n) for agent, n in counts.items()}


def number_of(thing: str, counts: set[int]) -> str:
    """``1 seed``, ``5 seeds``, or ``3-5 seeds`` where counts differ."""
    return f"{'-'.join(map(str, sorted({min(counts), max(counts)})))} {thing}{'s' * (max(counts) > 1)}"


def spread_of(numbers: Iterable[str]) -> str:
    """What is drawn of samples of these sizes, such as ``3-5 seeds``: what ``mean_and_band`` computes."""
    sizes = [int(n) for number in numbers for n in re.findall(r"\d+", number)]
    if max(sizes) < FEW:
        return "mean and range"
    return "mean and 95 % interval" + f" (range of fewer than {FEW})" * (min(sizes) < FEW)


def _width(texts: Iterable[str]) -> float:
    """The approximate width of the longest text, in inches."""
    return 0.068 * max(map(len, texts))


def draw_panel(
    axes: Any, panel: Mapping[str, Sequence[Curve]], looks: Mapping[str, Look], lines: Sequence[Line]
) -> None:
    """Each agent's mean over its seeds with its band, each seed faintly, and the baselines."""
    from matplotlib.ticker import EngFormatter

    faint = min(1.0, 4 / len(panel))  # with many agents, each spread is fainter
    at_end: dict[str, Any] = {"markevery": [-1], "markersize": 5, "clip_on": False, "zorder": 3}
    means = [draw_band(axes, *align(c), looks[agent], c, faint, label=agent, **at_end) for agent, c in panel.items()]
    for line in lines:
        _draw_line(axes, line, np.stack([mean[[0, -1]] for mean in means]))
    axes.set_ylim(limits([*(c.values for curves in panel.values() for c in curves), [line.value for line in lines]]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(axis="y")
    axes.margins(x=0.02)
    reach = {float(curve.frames[i]) for curves in panel.values() for curve in curves for i in (0, -1)}
    if len(reach) == 1:  # a single evaluation
        axes.set_xlim(0.0, 1.02 * reach.pop() or 1_000.0)


def draw_band(
    axes: Any, x: ArrayLike, values: ArrayLike, look: Look, runs: Sequence[Curve] = (), faint: float = 1.0, **line: Any
) -> NDArray[np.float64]:
    """The mean of ``values`` (runs, len(x)) with its band, and each run faintly; returns the mean (len(x),).

    ``runs`` are those of ``values`` over more than ``x``; ``line`` is what the mean has in addition to its ``look``.
    """
    values = np.asarray(values, float)
    for run in runs or [Curve(np.asarray(x, float), row) for row in values]:
        if len(values) > 1:
            axes.plot(*run, color=look["color"], alpha=0.3 * faint, linewidth=0.6)
    mean, low, high = mean_and_band(values)
    axes.fill_between(x, low, high, color=look["color"], alpha=0.14 * faint, linewidth=0)
    axes.plot(x, mean, **{"linewidth": 1.6, "markersize": 4, **look, **line})
    return mean


def _draw_line(axes: Any, line: Line, ends: np.ndarray) -> None:
    """Draw a baseline, with its name at the side where the curves' ``ends`` (agents, 2) are farther from it."""
    left, right = np.abs(ends - line.value).min(0)
    x, side = (0.01, "left") if left > right else (0.99, "right")
    axes.axhline(line.value, color=PALE, linestyle=(0, (4, 3)), linewidth=0.9, zorder=1)
    place = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "ha": side, "va": "bottom"}
    axes.annotate(f"{line.name} {line.value:.4g}", (x, line.value), (0, 1), color=PALE, fontsize="small", **place)


def limits(values: Iterable[ArrayLike]) -> tuple[float, float]:
    """The range of the values and zero, so a change of 1 % looks like 1 %.

    It covers seeds and baselines but not intervals.
    """
    every = np.concatenate([np.asarray(x, float).ravel() for x in values])
    low, high = min(0.0, float(every.min())), max(0.0, float(every.max()))
    margin = 0.05 * (high - low) or 1.0
    return (low - margin if low else 0.0), (high + margin if high or not low else 0.0)


def calm(axes: Any) -> None:
    """Let the y axis span at least a tenth of its largest value, if zero is not a natural end of it."""
    low, high = axes.get_ylim()
    missing = 0.1 * max(abs(low), abs(high)) - (high - low)
    if missing > 0:
        axes.set_ylim(low - missing / 2, high + missing / 2)


def _label_ends(axes: Any, names: Mapping[str, str], looks: Mapping[str, Look]) -> None:
    """Write each agent's name to the right of its mean curve, without overlaps."""
    to_axes = axes.transData + axes.transAxes.inverted()
    last = {line.get_label(): line.get_xydata()[-1] for line in axes.lines if line.get_label() in names}
    heights = spread([to_axes.transform(point)[1] for point in last.values()], gap=0.06)
    for agent, height in zip(last, heights, strict=True):
        axes.text(1.02, height, names[agent], transform=axes.transAxes, color=looks[agent]["color"], va="center")


def spread(heights: Sequence[float], gap: float, top: float = 1.0) -> list[float]:
    """``heights`` moved so that they are at least ``gap`` apart and at most at ``top``, in their order."""
    order = np.argsort(heights, kind="stable")
    placed = np.asarray(heights, float)[order]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], top - gap * (len(placed) - 1 - i))
    return [float(height) for height in placed[np.argsort(order)]]


def legend(figure: Any, seeds: Mapping[str, str], looks: Mapping[str, Look]) -> None:
    """A legend below all panels; the number of seeds appears once if it is the same for all agents."""
    from matplotlib.lines import Line2D

    same = len(set(seeds.values())) == 1
    names = {agent: agent if same else f"{agent} ({number})" for agent, number in seeds.items()}
    handles = [Line2D([], [], linewidth=1.6, markersize=5, label=name, **looks[agent]) for agent, name in names.items()]
    columns = max(1, min(len(names), int(figure.get_figwidth() / (_width(names.values()) + 0.6))))
    number = next(iter(seeds.values()))
    title = number if same and number.startswith("1 ") else spread_of(seeds.values()) + f", {number}" * same
    place = {"loc": "outside lower center", "ncols": columns, "frameon": False}
    figure.legend(handles=handles, labelcolor=INK, title=title, title_fontproperties={"size": "small"}, **place)


def draw_estimates(axes: Any, estimates: Mapping[str, Estimate], looks: Mapping[str, Look]) -> None:
    """A value over all tasks and its interval for each agent, one below the other."""
    for i, (agent, (value, low, high)) in enumerate(estimates.items()):
        look = looks[agent]
        axes.plot([low, high], [i, i], color=look["color"], linewidth=5, alpha=0.35, solid_capstyle="butt")
        axes.plot(value, i, color=look["color"], marker=look["marker"], markersize=6)
    axes.set_xlabel("interquartile mean, normalised")
    axes.set_yticks([])
    axes.set_ylim(len(estimates) - 0.5, -0.5)
    axes.grid(axis="x")
