"""The report as one file for a browser: ``worldrl report RUN_DIR... --html``.

It shows what the report has computed, with the pictures as SVG and the videos inside. Run folders come from anybody:
every text is escaped, no link of theirs is followed, and the page forbids itself scripts and the network.
"""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from string import Template
from typing import Any, NamedTuple
from urllib.parse import quote

from worldrl.errors import UserError
from worldrl.files import MIB, open_file, read_bytes
from worldrl.report.curves import Run, unlabelled_differences
from worldrl.report.grids import Grid, by_agent, draw_kind, grid_files, grid_rows, kinds_of, read_grids, returns_of
from worldrl.report.plots import PANEL, Line, Look, Panels, draw_estimates, draw_panel, limits, looks_of, svg
from worldrl.report.tables import Row, shown_as, summed
from worldrl.runs.folder import VIDEOS
from worldrl.statistics import Estimate

TEMPLATE = Path(__file__).with_name("page.html")
EMBEDDED = 20 * MIB  # of all videos together; more of them lie beside the page
LARGEST = 200 * MIB  # of a video
HOW_TO_READ = (
    "A curve is the mean over an agent's seeds with its 95 % interval (Student's t); each seed is drawn faintly.",
    "last is the value at the time of comparison, and best each seed's highest value until then, which many noisy "
    "evaluations bias upwards: both as mean over seeds ± standard deviation (divisor n - 1).",
    "iqm is the interquartile mean with its 95 % interval by stratified bootstrap. A probability of improvement whose "
    "interval holds 0.5 leaves open which agent is better.",
    "A video is the first episode of the last evaluation of a run, or of a robustness grid's worst level: on the left "
    "what there was, on the right what the agent saw.",
)


class Report(NamedTuple):
    """What a report has compared; texts are as the run folders have them."""

    metric: str
    runs: Mapping[str, Mapping[str, Sequence[Run]]]  # task -> agent -> its runs
    tables: Mapping[str, Sequence[Row]]
    notes: Sequence[str]
    panels: Panels  # from here on as ``plots.draw`` takes them
    ylabel: str
    lines: Sequence[Line]
    estimates: Mapping[str, Estimate]
    xlabels: Mapping[str, str]


class Film(NamedTuple):
    """A video of a run, and what it shows."""

    path: Path
    title: str
    told: str


def find_grids(paths: Sequence[Path], labels: Sequence[str]) -> tuple[list[Grid], list[str]]:
    """The robustness grids at or below ``paths``, or a note on why they cannot be compared."""
    try:
        return read_grids([path for path in paths if grid_files(path)], labels), []
    except UserError as error:
        return [], [f"left out all robustness grids: {error}"]


# --- the page ---------------------------------------------------------------------------------------------------------


def page(report: Report, grids: Sequence[Grid], beside: Path) -> str:
    """The page. Videos that are too large to be inside are copied to the folder ``beside``, next to it.

    Raises:
        OSError: they cannot be written.
    """
    looks = looks_of([agent for panel in report.runs.values() for agent in panel] + [grid.agent for grid in grids])
    films, refused = _films(report.runs, grids)
    number = len({run.path for panel in report.runs.values() for same in panel.values() for run in same})
    sections = {
        "Results": _table(report.tables["agents"]),
        "Curves": _cards(_curves(report, looks)),
        "All tasks": _all_tasks(report, looks),
        "Pairs": _pairs(report.tables.get("pairs", ())),
        "Robustness": _robustness(grids, looks),
        "Videos": _cards(map(_figure_of, films, _sources(films, beside)), "films"),
        "Settings that differ": _settings(report.runs),
        "Runs": _table(report.tables["runs"]),
        "Left out, and notes": _list([*report.notes, *refused]),
        "How to read it": _list(HOW_TO_READ),
    }
    kept = {title: content for title, content in sections.items() if content}
    counted = f"{report.metric} of {number} run{'s' * (number > 1)}, {', '.join(report.runs)}"
    body = "\n".join(f'<h2 id="{_anchor(title)}">{escape(title)}</h2>\n{content}' for title, content in kept.items())
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(counted), header=_header(kept, report.runs, looks), body=f"<h1>{escape(counted)}</h1>\n{body}"
    )


def _header(sections: Iterable[str], tasks: Iterable[str], looks: Mapping[str, Look]) -> str:
    links = "".join(f'<a href="#{_anchor(title)}">{escape(title)}</a>' for title in sections)
    links += "".join(f'<a class="pale" href="#{_task_anchor(i)}">{escape(task)}</a>' for i, task in enumerate(tasks))
    agents = "".join(f'<span class="agent">{_sample(look)}{escape(agent)}</span>' for agent, look in looks.items())
    return f'<header><nav><strong>worldrl report</strong>{links}</nav><div class="agents">{agents}</div></header>'


def _anchor(title: str) -> str:
    return title.lower().replace(",", "").replace(" ", "-")


def _task_anchor(i: int) -> str:
    return f"task-{i + 1}"


def _sample(look: Look) -> str:
    """A piece of an agent's line with its marker."""

    def paint(figure: Any) -> None:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1), xlim=(-1, 1), ylim=(-1, 1))
        axes.axis("off")
        axes.plot([-1, 0, 1], [0, 0, 0], markevery=[1], linewidth=1.6, markersize=5, **look)

    return svg(0.44, 0.18, paint)


def _table(rows: Sequence[Row]) -> str:
    """Rows by column; numbers are on the right."""
    if not rows:
        return ""
    shown = [shown_as(row) for row in rows]
    sides = [' class="number"' if text.lstrip("-")[:1].isdigit() else "" for text in shown[0].values()]
    head, *body = (
        _row(cells, kind, sides) for cells, kind in [(shown[0], "th"), *((row.values(), "td") for row in shown)]
    )
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{"".join(body)}</tbody></table></div>'


def _row(texts: Iterable[str], kind: str, sides: Sequence[str]) -> str:
    cells = (f"<{kind}{side}>{escape(text)}</{kind}>" for text, side in zip(texts, sides, strict=True))
    return f"<tr>{''.join(cells)}</tr>"


def _list(texts: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>" if items else ""


def _cards(figures: Iterable[str], kind: str = "") -> str:
    joined = "\n".join(figures)
    return f'<div class="cards {kind}">{joined}</div>' if joined else ""


def _figure(title: str, content: str, anchor: str = "") -> str:
    name = f' id="{anchor}"' if anchor else ""
    return f"<figure{name}><figcaption><b>{escape(title)}</b></figcaption>{content}</figure>"


# --- pictures and tables ----------------------------------------------------------------------------------------------


def _curves(report: Report, looks: Mapping[str, Look]) -> Iterable[str]:
    for i, (task, panel) in enumerate(report.panels.items()):
        lines = [line for line in report.lines if line.task in (None, task)]

        def paint(figure: Any, task: str = task, panel: Any = panel, lines: Any = lines) -> None:
            axes = figure.subplots()
            draw_panel(axes, panel, looks, lines)
            axes.set(xlabel=report.xlabels[task], ylabel=report.ylabel)

        yield _figure(task, svg(*PANEL, paint), _task_anchor(i))


def _all_tasks(report: Report, looks: Mapping[str, Look]) -> str:
    if not report.estimates:
        return ""

    def paint(figure: Any) -> None:
        draw_estimates(figure.subplots(), report.estimates, looks)

    drawn = svg(PANEL[0], 0.7 + 0.3 * len(report.estimates), paint)
    return (
        _cards([_figure("over the tasks that all agents have", drawn)]) + "<p></p>" + _table(report.tables["aggregate"])
    )


def _pairs(rows: Sequence[Row]) -> str:
    told = "<p>The probability that a run of the agent beats one of the other.</p>"
    return told + _table(summed(rows)) if rows else ""


def _robustness(grids: Sequence[Grid], looks: Mapping[str, Look]) -> str:
    if not grids:
        return ""
    figures = [
        _figure(f"{task}: {kind}", svg(*PANEL, partial(_paint_kind, kind=kind, agents=agents, looks=looks)))
        for task, agents in returns_of(by_agent(grids)).items()
        for kind in kinds_of(agents)
    ]
    return f"{_cards(figures)}<details><summary>The numbers</summary>{_table(grid_rows(grids))}</details>"


def _paint_kind(figure: Any, kind: str, agents: Mapping[str, Any], looks: Mapping[str, Look]) -> None:
    axes = figure.subplots()
    draw_kind(axes, kind, agents, looks)
    every = [values for returns in agents.values() for values in returns.values()]
    axes.set(ylabel="return (sum of rewards)", ylim=limits(every))


def _settings(tasks: Mapping[str, Mapping[str, Sequence[Run]]]) -> str:
    """Settings in which any runs differ, a column for each agent with all values of its runs; first those of all."""
    agents: dict[str, list[Run]] = {}
    for panel in tasks.values():
        for agent, runs in panel.items():
            agents.setdefault(agent, []).extend(runs)
    keys = unlabelled_differences([run for runs in agents.values() for run in runs])
    rows = [{"setting": key, **{agent: _values(key, runs) for agent, runs in agents.items()}} for key in keys]
    common, others = (_table([row for row in rows if ("-" in row.values()) == lacking]) for lacking in (False, True))
    more = f"<details><summary>Settings that some agents do not have</summary>{others}</details>" if others else ""
    return (common or "<p>Of those that all agents have: none.</p>") + more


def _values(key: str, runs: Sequence[Run]) -> str:
    return ", ".join(dict.fromkeys(str(run.settings[key]) for run in runs if key in run.settings)) or "-"


# --- videos -----------------------------------------------------------------------------------------------------------


def _films(tasks: Mapping[str, Mapping[str, Sequence[Run]]], grids: Sequence[Grid]) -> tuple[list[Film], list[str]]:
    """The last evaluation of each run and the films of its grids; notes on files that are no videos."""
    found: dict[Path, Film] = {}
    for run in (run for panel in tasks.values() for runs in panel.values() for run in runs):
        for path in sorted((run.path / VIDEOS).glob("*.mp4"))[-1:]:
            found.setdefault(path, Film(path, f"{run.task}, {run.label()}, seed {run.seed}", path.stem))
    for grid in grids:
        for path in sorted(grid.path.parent.glob("*.mp4")):
            found.setdefault(path, Film(path, f"{grid.task}, {grid.agent}", f"robustness, {path.stem}"))
    kept = [film for film in found.values() if _is_video(film.path)]
    lost = [film.path for film in found.values() if film not in kept]
    return kept, [f"left out {path}: it is not an MP4 of at most {LARGEST // MIB} MiB" for path in lost]


def _is_video(path: Path) -> bool:
    """Whether it is an MP4 in the folder itself. A link could have the page show any file of whoever makes it."""
    if path.is_symlink() or path.parent.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
        return False
    with open_file(path) as file:
        return file.read(8)[4:] == b"ftyp"


def _sources(films: Sequence[Film], beside: Path) -> Iterable[str]:
    """What the page plays: the videos themselves, or, if they are too large together, copies of them."""
    inside = sum(film.path.stat().st_size for film in films) <= EMBEDDED
    for i, film in enumerate(films):
        if inside:
            yield "data:video/mp4;base64," + base64.b64encode(read_bytes(film.path, EMBEDDED)).decode()
        else:
            beside.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(film.path, beside / f"{i + 1:03d}.mp4")
            yield f"{quote(beside.name)}/{i + 1:03d}.mp4"


def _figure_of(film: Film, source: str) -> str:
    told = f"<figcaption><b>{escape(film.title)}</b><br><small>{escape(film.told)}</small></figcaption>"
    return f'<figure><video controls muted loop playsinline preload="metadata" src="{source}"></video>{told}</figure>'
