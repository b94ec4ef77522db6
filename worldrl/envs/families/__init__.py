"""Families of environments: one file each, found by its name.

A family is a module with the names of ``Family``. A file that is put here is a family; nothing else has to know it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, cast

from worldrl.envs.rendering import RenderConfig
from worldrl.errors import wrong

if TYPE_CHECKING:
    from worldrl.envs.spaces import TaskEnv


class Family(Protocol):
    """What a module of this folder offers. Importing it imports no simulator."""

    SPELLING: str  # how its tasks are written, with an example

    def claims(self, task: str) -> bool:
        """Whether a task of this name is of this family, by its spelling."""
        ...

    def canonical_name(self, task: str) -> str:
        """The task's one spelling. Raises UserError, with the nearest names, for one that cannot exist."""
        ...

    def make(self, task: str, obs: str, action_repeat: int, render: RenderConfig, draws: bool) -> TaskEnv:
        """The task as it is; without ``draws`` nothing is ever drawn, and images are black.

        Raises:
            UserError: a task that does not exist or does not fit, or settings that are wrong for it.
        """
        ...


def family_of(task: str) -> Family:
    """The family that claims a task. Raises UserError where none does."""
    for family in families():
        if family.claims(task):
            return family
    raise wrong("task", task, ", or ".join(family.SPELLING for family in families()))


def families() -> Iterator[Family]:
    """Every family, by the names of their files."""
    for module in pkgutil.iter_modules(__path__):
        yield cast("Family", importlib.import_module(f"{__name__}.{module.name}"))


def canonical_name(task: str) -> str:
    """The task's one spelling: ``walker-walk`` is ``walker_walk``. Raises UserError with the nearest names."""
    return family_of(task).canonical_name(task)
