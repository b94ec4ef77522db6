"""Formats of data sets: one file each, found by its name.

A format is a module with the names of ``Format``. Every file in this folder is a format; it is registered nowhere else.
Reading never runs code from a file, and a damaged file is named in an error and not half-loaded.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, cast

from worldrl.data.episodes import Recorded
from worldrl.data.settings import DEMO
from worldrl.errors import UserError


class Format(Protocol):
    """The interface of a module in this folder."""

    SPELLING: str  # what it reads, for messages

    def claims(self, path: Path) -> bool:
        """Whether the path looks like a data set of this format; only the first bytes are read."""
        ...

    def world(self, path: Path) -> dict[str, Any]:
        """Dotted settings of the data's environment, as far as they are known: task, ``env.*``."""
        ...

    def read(self, path: Path) -> Recorded:
        """All rows. Raises UserError for anything that is not such a data set."""
        ...


def format_of(path: Path) -> Format:
    """The format that claims a path. Raises UserError if none does."""
    there = os.path.exists(path)  # not for a name that is too long, where a Path would raise
    for each in formats():
        if there and each.claims(path):
            return each
    spelled = " or ".join([*(each.SPELLING for each in formats()), "a run folder"])
    raise UserError(
        f"data={path}", "something else" if there else "no such file or folder", spelled, "" if there else _fix(path)
    )


def formats() -> Iterator[Format]:
    """All formats, in the order of their file names."""
    for module in pkgutil.iter_modules(__path__):
        yield cast("Format", importlib.import_module(f"{__name__}.{module.name}"))


def _fix(path: Path) -> str:
    """A hint if the agent of the package, or an id of Minari, was given in place of a path."""
    if str(path) == DEMO:
        return "that agent has no replay; record it: worldrl data make demo-v0 --policy demo"
    if path.is_absolute():
        return "if the data of a run were moved, resume it with data=NEW_PATH"
    if not path.name.rpartition("-v")[2].isdecimal():
        return ""
    from worldrl.data.formats.minari import stored_at

    return f"name a data set of Minari by its folder: {stored_at(str(path))}"
