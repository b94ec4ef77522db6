"""The videos that run folders hold, for a page. Run folders come from anybody: no link is followed."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from worldrl.files import MIB, open_file, read_bytes
from worldrl.report.curves import Run
from worldrl.report.grids import Grid
from worldrl.runs.folder import VIDEOS

EMBEDDED = 20 * MIB  # of all videos together; more of them lie beside the page
LARGEST = 200 * MIB  # of a video


class Film(NamedTuple):
    """A video of a run, and what it shows."""

    path: Path
    title: str
    told: str


def find_films(runs: Sequence[Run], grids: Sequence[Grid]) -> tuple[list[Film], list[str]]:
    """The last evaluation of each run and the films of its grids; notes on files that are no videos."""
    found: dict[Path, Film] = {}
    for run in runs:
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


def sources(films: Sequence[Film], beside: Path) -> list[str]:
    """What the page plays: the videos themselves, or copies in ``beside`` if they are too large together."""
    for old in beside.glob("[0-9]*.mp4"):
        old.unlink()
    with suppress(OSError):  # it holds something else, or is not there
        beside.rmdir()
    if sum(film.path.stat().st_size for film in films) <= EMBEDDED:
        data = (base64.b64encode(read_bytes(film.path, EMBEDDED)).decode() for film in films)
        return [f"data:video/mp4;base64,{video}" for video in data]
    beside.mkdir(parents=True, exist_ok=True)
    copies = [Path(shutil.copyfile(film.path, beside / f"{i:03d}.mp4")) for i, film in enumerate(films, 1)]
    return [f"{quote(beside.name)}/{copy.name}" for copy in copies]
