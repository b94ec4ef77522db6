"""The videos of run folders, for a page. Run folders may come from anybody: no link is followed."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from worldrl.files import MIB, open_file, read_bytes
from worldrl.report.curves import Run
from worldrl.report.grids import Grid
from worldrl.runs.folder import VIDEOS

EMBEDDED = 20 * MIB  # of all videos together; beyond this they are in a folder next to the page
LARGEST = 200 * MIB  # of one video


class Film(NamedTuple):
    """A video of a run, and its caption."""

    path: Path
    title: str
    told: str


def find_films(agents: Mapping[str, Sequence[Run]], grids: Sequence[Grid]) -> tuple[list[Film], list[str]]:
    """The last evaluation of each agent's runs and the films of its grids; notes on files that are not videos."""
    found: dict[Path, Film] = {}
    for agent, run in [(agent, run) for agent, runs in agents.items() for run in runs]:
        for path in sorted((run.path / VIDEOS).glob("*.mp4"))[-1:]:
            found.setdefault(path, Film(path, f"{run.task}, {agent}, seed {run.seed}", path.stem))
    for grid in grids:
        for path in sorted(grid.path.parent.glob("*.mp4")):
            found.setdefault(path, Film(path, f"{grid.task}, {grid.agent}", f"robustness, {path.stem}"))
    kept = [film for film in found.values() if _is_video(film.path)]
    lost = [film.path for film in found.values() if film not in kept]
    return kept, [f"left out {path}: it is not an MP4 of at most {LARGEST // MIB} MiB" for path in lost]


def _is_video(path: Path) -> bool:
    """Whether it is an MP4 in the folder itself. With a link, the page could publish any file of its author."""
    if path.is_symlink() or path.parent.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
        return False
    with open_file(path) as file:
        return file.read(8)[4:] == b"ftyp"


def clear(beside: Path) -> None:
    """Delete the videos of an earlier page."""
    for old in beside.glob("[0-9]*.mp4"):
        if old.stem.isdecimal():
            old.unlink()
    with suppress(OSError):  # it has other files, or does not exist
        beside.rmdir()


def sources(films: Sequence[Film], beside: Path) -> list[str]:
    """The sources of the page's videos: the files themselves, or copies in ``beside`` if those are too large."""
    if sum(film.path.stat().st_size for film in films) <= EMBEDDED:
        data = (base64.b64encode(read_bytes(film.path, EMBEDDED)).decode() for film in films)
        return [f"data:video/mp4;base64,{video}" for video in data]
    beside.mkdir(parents=True, exist_ok=True)
    copies = [Path(shutil.copyfile(film.path, beside / f"{i:03d}.mp4")) for i, film in enumerate(films, 1)]
    return [f"{quote(beside.name)}/{copy.name}" for copy in copies]
