"""Families of environments: one file each, found by its name.

A family is a module with the names of ``Family``. Every file in this folder is a family; it is registered nowhere else.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, cast

from worldrl.envs.rendering import RenderConfig
from worldrl.errors import UserError, wrong

if TYPE_CHECKING:
    from worldrl.envs.spaces import TaskEnv


class Family(Protocol):
    """The interface of a module in this folder. Importing it imports no simulator."""

    SPELLING: str  # how its tasks are written, with an example

    def claims(self, task: str) -> bool:
        """Whether a task belongs to this family, judging by its spelling."""
        ...

    def canonical_name(self, task: str) -> str:
        """The canonical spelling of a task. Raises UserError, with the nearest names, if it cannot exist."""
        ...

    def make(self, task: str, obs: str, action_repeat: int, render: RenderConfig, draws: bool) -> TaskEnv:
        """The task itself; without ``draws`` nothing is ever rendered, and images are black.

        Raises:
            UserError: a task that does not exist or does not fit, or settings that do not suit it.
        """
        ...


def family_of(task: str) -> Family:
    """The family that claims a task. Raises UserError if none does."""
    for family in families():
        if family.claims(task):
            return family
    if newest := _in_gymnasium(task):
        raise UserError(f"unknown task '{task}'", fix=f"did you mean: {newest}?")
    own = task.replace(".", ":", 1) if task.count(".") == 1 else f"{task}:Class"
    fix = f"a class of your own is {own}" if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)?", task) else ""
    raise wrong("task", task, "one of " + ", ".join(family.SPELLING for family in families()), fix)


def _in_gymnasium(task: str) -> str:
    """The newest id of Gymnasium of which ``task`` is the name without its version; empty if there is none."""
    from gymnasium import registry

    found = [spec for spec in registry.values() if spec.name.lower() == task.lower()]
    return max(found, key=lambda spec: spec.version or 0).id if found else ""


def families() -> Iterator[Family]:
    """All families, in the order of their file names."""
    for module in pkgutil.iter_modules(__path__):
        yield cast("Family", importlib.import_module(f"{__name__}.{module.name}"))


def has_cameras(task: str) -> bool:
    """Whether ``env.render.camera`` has cameras of the task to choose from."""
    return getattr(family_of(task), "HAS_CAMERAS", False)


def canonical_name(task: str) -> str:
    """The canonical spelling: ``walker-walk`` is ``walker_walk``. Raises UserError with the nearest names."""
    return family_of(task).canonical_name(task)
