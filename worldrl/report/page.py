"""The report as one file for a browser: ``worldrl report RUN_DIR... --html``.

It shows the results of the report, with the pictures as SVG and the videos inside. Run folders may come from anybody:
every text is escaped, without control characters, no link is followed, and the page forbids scripts and network access.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from worldrl.errors import UserError, printable
from worldrl.report.curves import Run, unlabelled_differences
from worldrl.report.films import Film, find_films, sources
from worldrl.report.grids import Grid, by_agent, draw_kind, grid_files, grid_rows, kinds_of, read_grids, returns_of
from worldrl.report.plots import PANEL, Line, Look, Panels, draw_estimates, draw_panel, limits, looks_of, number_of, svg
from worldrl.report.tables import LAST_AND_BEST, Row, shown_as, summed
from worldrl.statistics import FEW, Estimate

TEMPLATE = Path(__file__).with_name("page.html")
HOW_TO_READ = (
    "A curve is the mean over an agent's seeds with its 95 % interval (Student's t), or with the range of fewer than "
    f"{FEW} seeds; each seed is drawn faintly.",
    LAST_AND_BEST,
    "iqm is the interquartile mean with its 95 % interval by stratified bootstrap. A probability of improvement whose "
    "interval contains 0.5 leaves open which agent is better.",
    "A video eval-N is the first episode of a run's last evaluation. A grid's video shows the worst level of a kind: "
    "the clean picture on the left, the agent's on the right.",
)


class Report(NamedTuple):
    """The results of a report; texts are not escaped."""

    metric: str
    runs: Mapping[str, Mapping[str, Sequence[Run]]]  # task -> agent -> its runs
    tables: Mapping[str, Sequence[Row]]
    notes: Sequence[str]
    panels: Panels  # these are arguments of ``plots.draw``
    ylabel: str
    lines: Sequence[Line]
    estimates: Mapping[str, Estimate]
    xlabels: Mapping[str, str]

    def by_agent(self) -> dict[str, list[Run]]:
        """Each agent's runs, on all tasks."""
        found: dict[str, list[Run]] = {}
        for agent, runs in (item for panel in self.runs.values() for item in panel.items()):
            found.setdefault(agent, []).extend(runs)
        return found


def find_grids(paths: Sequence[Path], labels: Sequence[str]) -> tuple[list[Grid], list[str]]:
    """The robustness grids at or below ``paths``, or a note on why they cannot be compared."""
    try:
        return read_grids([path for path in paths if grid_files(path)], labels), []
    except UserError as error:
        return [], [f"left out all robustness grids: {error}"]


# --- the page ---------------------------------------------------------------------------------------------------------


def page(report: Report, grids: Sequence[Grid], beside: Path) -> str:
    """The page. Videos that are too large for it are copied to the folder ``beside``, next to it.

    Raises:
        OSError: they cannot be written.
    """
    agents = report.by_agent()
    runs = [run for same in agents.values() for run in same]
    looks = looks_of([*agents, *(grid.agent for grid in grids)])
    films, refused = find_films(agents, grids)
    sections = {
        "Results": _table(report.tables["agents"]),
        "Curves": _cards(_curves(report, looks)),
        "All tasks": _all_tasks(report, looks),
        "Pairs": _pairs(report.tables.get("pairs", ())),
        "Robustness": _robustness(grids, looks),
        "Videos": _cards(map(_figure_of, films, sources(films, beside)), "films"),
        "Settings that differ": _settings(agents),
        "Runs": _table(report.tables["runs"]),
        "Left out, and notes": _list([*report.notes, *refused]),
        "How to read it": _list(HOW_TO_READ),
    }
    kept = {title: content for title, content in sections.items() if content}
    tasks = {run.task for run in runs}
    where = number_of("task", {len(tasks)}) if len(tasks) > 1 else tasks.pop()
    counted = f"{report.metric} of {number_of('run', {len({run.path for run in runs})})} on {where}"
    body = "\n".join(f'<h2 id="{_anchor(title)}">{_text(title)}</h2>\n{content}' for title, content in kept.items())
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=_text(counted), header=_header(kept, report.runs, looks), body=f"<h1>{_text(counted)}</h1>\n{body}"
    )


def _header(sections: Iterable[str], tasks: Iterable[str], looks: Mapping[str, Look]) -> str:
    links = "".join(f'<a href="#{_anchor(title)}">{_text(title)}</a>' for title in sections)
    links += "".join(f'<a class="pale" href="#{_task_anchor(i)}">{_text(task)}</a>' for i, task in enumerate(tasks))
    agents = "".join(f'<span class="agent">{_sample(look)}{_text(agent)}</span>' for agent, look in looks.items())
    return f'<header><nav><strong>worldrl report</strong>{links}</nav><div class="agents">{agents}</div></header>'


def _text(text: str) -> str:
    """Text of a page, which is neither a tag nor a control character."""
    return escape(printable(text))


def _anchor(title: str) -> str:
    return title.lower().replace(",", "").replace(" ", "-")


def _task_anchor(i: int) -> str:
    return f"task-{i + 1}"


def _sample(look: Look) -> str:
    """A sample of an agent's line with its marker."""

    def paint(figure: Any) -> None:
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1), xlim=(-1, 1), ylim=(-1, 1))
        axes.axis("off")
        axes.plot([-1, 0, 1], [0, 0, 0], markevery=[1], linewidth=1.6, markersize=5, **look)

    return svg(0.44, 0.18, paint)


def _table(rows: Sequence[Row]) -> str:
    """Rows by column."""
    shown = [shown_as(row) for row in rows]
    return _text_table(list(shown[0]), [list(row.values()) for row in shown]) if shown else ""


def _text_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of texts; numbers are aligned right. Empty without rows."""
    if not rows:
        return ""
    sides = [' class="number"' * _are_numbers(column) for column in zip(*rows, strict=True)]
    head, *body = (_row(cells, kind, sides) for cells, kind in [(titles, "th"), *((row, "td") for row in rows)])
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{"".join(body)}</tbody></table></div>'


def _are_numbers(column: Iterable[str]) -> bool:
    """Whether all cells that say something begin with a digit."""
    told = [text.lstrip("-") for text in column if text.lstrip("-")]
    return bool(told) and all(text[0].isdigit() for text in told)


def _row(texts: Iterable[str], kind: str, sides: Sequence[str]) -> str:
    cells = (f"<{kind}{side}>{_text(text)}</{kind}>" for text, side in zip(texts, sides, strict=True))
    return f"<tr>{''.join(cells)}</tr>"


def _list(texts: Iterable[str]) -> str:
    items = "".join(f"<li>{_text(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>" if items else ""


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{_text(title)}</summary>{content}</details>" if content else ""


def _cards(figures: Iterable[str], kind: str = "") -> str:
    joined = "\n".join(figures)
    return f'<div class="cards {kind}">{joined}</div>' if joined else ""


def _figure(title: str, content: str, anchor: str = "") -> str:
    name = f' id="{anchor}"' if anchor else ""
    return f"<figure{name}><figcaption><b>{_text(title)}</b></figcaption>{content}</figure>"


def _figure_of(film: Film, source: str) -> str:
    told = f"<figcaption><b>{_text(film.title)}</b><br><small>{_text(film.told)}</small></figcaption>"
    return f'<figure><video controls muted loop playsinline preload="metadata" src="{source}"></video>{told}</figure>'


# --- pictures and tables ----------------------------------------------------------------------------------------------


def _picture(paint: Callable[[Any], object], height: float = PANEL[1], **labels: Any) -> str:
    def draw(figure: Any) -> None:
        axes = figure.subplots()
        paint(axes)
        axes.set(**labels)

    return svg(PANEL[0], height, draw)


def _curves(report: Report, looks: Mapping[str, Look]) -> Iterable[str]:
    for i, (task, panel) in enumerate(report.panels.items()):
        lines = [line for line in report.lines if line.task in (None, task)]
        paint = partial(draw_panel, panel=panel, looks=looks, lines=lines)
        yield _figure(task, _picture(paint, xlabel=report.xlabels[task], ylabel=report.ylabel), _task_anchor(i))


def _all_tasks(report: Report, looks: Mapping[str, Look]) -> str:
    if not report.estimates:
        return ""
    paint = partial(draw_estimates, estimates=report.estimates, looks=looks)
    drawn = _figure("over the tasks that all agents have", _picture(paint, 0.7 + 0.3 * len(report.estimates)))
    return _cards([drawn]) + _table(report.tables["aggregate"])


def _pairs(rows: Sequence[Row]) -> str:
    told = "<p>The probability that a run of the agent beats a run of the other.</p>"
    return told + _table(summed(rows)) if rows else ""


def _robustness(grids: Sequence[Grid], looks: Mapping[str, Look]) -> str:
    figures = []
    for task, agents in returns_of(by_agent(grids)).items():
        ylim = limits([values for returns in agents.values() for values in returns.values()])
        for kind in kinds_of(agents):
            paint = partial(draw_kind, kind=kind, agents=agents, looks=looks)
            figures.append(_figure(f"{task}: {kind}", _picture(paint, ylabel="return (sum of rewards)", ylim=ylim)))
    return _cards(figures) + _folded("The numbers", _table(grid_rows(grids)))


def _settings(agents: Mapping[str, Sequence[Run]]) -> str:
    """Settings in which any runs differ, a column for each agent with its values; first the settings of all agents."""
    keys = unlabelled_differences([run for runs in agents.values() for run in runs])
    rows = [[key, *(_values(key, runs) for runs in agents.values())] for key in keys]
    titles = ["setting", *agents]
    common, others = (
        _text_table(titles, [row for row in rows if ("-" in row[1:]) == lacking]) for lacking in (False, True)
    )
    return (common or "<p>None of those that all agents have.</p>") + _folded("Those that some agents lack", others)


def _values(key: str, runs: Sequence[Run]) -> str:
    return ", ".join(dict.fromkeys(str(run.settings[key]) for run in runs if key in run.settings)) or "-"
