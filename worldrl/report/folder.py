"""The files of a report: where they are, and what they may replace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from worldrl.errors import UserError
from worldrl.report.plots import picture_formats
from worldrl.report.tables import Row, to_csv

HTML, BESIDE = "report.html", "report-videos"
FILES = {  # the page and the tables of each kind of report; tables without a row are left out
    "curves": ("report.md", "agents.csv", "aggregate.csv", "pairs.csv", "runs.csv", "curves.csv", HTML),
    "robustness": ("robustness.md", "robustness.csv"),
}
MARK = "<!-- worldrl report -->"  # the last line of its Markdown: what is next to it may be replaced
OTHER_OUT = "--out takes a folder, or a picture such as x.png"


def _is_picture(out: Path) -> bool:
    return out.suffix[1:].lower() in picture_formats()


def place(out: Path, name: str) -> Path:
    """The path of a file of a report: in the folder ``out``, or next to a picture ``x.png``, as ``x-name``."""
    return out.with_name(f"{out.stem}-{name}") if _is_picture(out) else out / name


def place_of_picture(out: Path, kind: str) -> Path:
    """The path of the picture of a report of this kind."""
    return out if _is_picture(out) else out / f"{kind}.png"


def check_own(out: Path, kind: str = "curves") -> None:
    """Raise UserError if files of these names are there that no report wrote."""
    places = [*(place(out, name) for name in (*FILES[kind], BESIDE)), place_of_picture(out, kind)]
    found = [file for file in places if file.exists()]
    page = place(out, FILES[kind][0])
    ours = page.is_file() and MARK.encode() in page.read_bytes()
    if found and not ours:
        fix = f"move it, or choose another folder; {OTHER_OUT}"
        raise UserError(str(found[0]), "a file that no report wrote", "a new place, or that of an earlier report", fix)


def write(
    out: Path, text: str, tables: Mapping[str, Sequence[Row]], kind: str = "curves", html: str = ""
) -> tuple[Path, list[Path]]:
    """Write Markdown, CSV and HTML; returns the place for the picture, and the files written.

    ``out`` gets the files of ``FILES[kind]``, see ``place``. Other files of an earlier report are removed.
    """
    first, *names = FILES[kind]
    texts = {first: f"{text}\n{MARK}\n", **{f"{name}.csv": to_csv(rows) for name, rows in tables.items()}}
    if html:
        texts[HTML] = html
    place(out, first).parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name not in texts:
            place(out, name).unlink(missing_ok=True)
    paths = [place(out, name) for name in texts]
    for path, content in zip(paths, texts.values(), strict=True):
        path.write_text(content, encoding="utf-8", errors="backslashreplace")  # a folder's name may be any bytes
    return place_of_picture(out, kind), paths
