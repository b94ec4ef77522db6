"""Formats of data sets: one file each, found by its name.

A format is a module with the names of ``Format``. A file that is put here is a format; nothing else has to know it.
Reading is data only: a file from a stranger runs no code, and what is damaged is named and not half-loaded.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, cast

from worldrl.data.episodes import Recorded
from worldrl.errors import UserError


class Format(Protocol):
    """What a module of this folder offers."""

    SPELLING: str  # what it reads, for messages

    def claims(self, path: Path) -> bool:
        """Whether the path looks like a data set of this format; nothing is read but the first bytes."""
        ...

    def world(self, path: Path) -> dict[str, Any]:
        """Dotted settings of the environment that the data come from, as far as they are known: task, ``env.*``."""
        ...

    def read(self, path: Path) -> Recorded:
        """All rows. Raises UserError, in one line, for what is no such data set."""
        ...


def format_of(path: Path) -> Format:
    """The format that claims a path. Raises UserError where none does."""
    for each in formats():
        if each.claims(path):
            return each
    spelled = ", ".join(each.SPELLING for each in formats())
    raise UserError(
        f"data={path}", "no such file or folder" if not path.exists() else "something else", spelled, _fix(path)
    )


def formats() -> Iterator[Format]:
    """Every format, by the names of their files."""
    for module in pkgutil.iter_modules(__path__):
        yield cast("Format", importlib.import_module(f"{__name__}.{module.name}"))


def _fix(path: Path) -> str:
    """Where Minari keeps the data set whose id was given in place of a path."""
    if path.exists() or not path.name.rpartition("-v")[2].isdecimal():
        return ""
    from worldrl.data.formats.minari import stored_at

    return f"a data set of Minari is given by its folder: {stored_at(str(path))}"
