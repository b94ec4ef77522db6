"""A run folder is data: a module outside the package is imported only if the user has named or allowed it.

Names come from what the user types, from the user's presets and from Python; ``allow`` remembers them for the process.
The names in a file are compared with them before anything is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from worldrl.errors import UserError, wrong
from worldrl.registry import PARTS, canonical

_allowed: set[str] = set()


def allow(names: str | Iterable[str]) -> None:
    """Let run folders use these modules, with all inside them (``my_mod``), or single classes (``my_mod:Head``).

    Args:
        names: one or several, also with commas between them.
    """
    given = [names] if isinstance(names, str) else names
    if not isinstance(given, Iterable):
        raise wrong("allow", names, "names of modules")
    _allowed.update(name.strip() for text in map(str, given) for name in text.split(",") if name.strip())


def allowed() -> tuple[str, ...]:
    """What is allowed so far, for another process of the same user."""
    return tuple(sorted(_allowed))


def outside(settings: Mapping[str, Any]) -> dict[str, str]:
    """Key -> ``module:Class`` or module, for everything in dotted settings that is not part of the package."""
    found = {}
    for kind in PARTS:
        name = settings.get(kind)
        if isinstance(name, str) and ":" in name and ":" in canonical(kind, name):
            found[kind] = name
    task = settings.get("task")
    if isinstance(task, str) and ":" in task:
        found["task"] = task  # whatever its family: the text before the colon is imported
    return found


def allow_named(settings: Mapping[str, Any]) -> None:
    """Allow what the user's own arguments name."""
    allow(outside(settings).values())


def check_allowed(where: str | Path, settings: Mapping[str, Any]) -> None:
    """Refuse what a file names and the user has not allowed.

    Raises:
        UserError: the setting, and what to type in order to trust it; ``where`` begins the message.
    """
    for key, name in outside(settings).items():
        if not _is_allowed(name):
            fix = f"if you trust it, add {words([name])} (in train; --allow in other commands, allow= in Python)"
            raise UserError(str(where), f"{key}={name}, which is not part of worldrl", "something that you allow", fix)


def words(names: Iterable[str]) -> str:
    """``allow=my_mod,other``: the argument that allows these, or nothing for none."""
    modules = sorted({name.partition(":")[0] for name in names})
    return f"allow={','.join(modules)}" if modules else ""


def _is_allowed(name: str) -> bool:
    module = name.partition(":")[0]
    parents = {".".join(module.split(".")[: i + 1]) for i in range(len(module.split(".")))}
    return name in _allowed or bool(parents & _allowed)
