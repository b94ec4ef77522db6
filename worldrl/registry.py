"""Names of parts: a file in ``beliefs/``, ``heads/`` or ``policies/`` is one, and the class in it with a ``Config``.

``heads/mpo.py`` with ``class MPO`` is ``head=mpo``: there is no table to add it to.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldrl.errors import UserError, cannot_import, unknown

FOLDERS = {"belief": "beliefs", "head": "heads", "policy": "policies"}


def _find(folder: str) -> dict[str, str]:
    """File name -> ``module:Class`` of the parts in a folder, read from the source without importing anything."""
    found = {}
    for path in sorted((Path(__file__).parent / folder).glob("*.py")):
        name = _class_with_settings(path.read_text(encoding="utf-8"))
        if name:
            found[path.stem] = f"worldrl.{folder}.{path.stem}:{name}"
    return found


def _class_with_settings(source: str) -> str:
    """The first class that defines a ``Config``, or nothing."""
    inside = ""
    for line in source.splitlines():
        if top := re.match(r"class (\w+)", line):
            inside = top[1]
        elif inside and re.match(r"    class Config\b", line):
            return inside
    return ""


PARTS: dict[str, dict[str, str]] = {kind: _find(folder) for kind, folder in FOLDERS.items()}
BELIEFS, HEADS, POLICIES = PARTS["belief"], PARTS["head"], PARTS["policy"]
ALIASES: dict[str, dict[str, str]] = {"belief": {}, "head": {"latent_sac": "sac"}, "policy": {}}
OWN_POLICY = "own"
DEFAULTS: dict[str, str] = {"policy": OWN_POLICY}  # parts that an agent need not name


def known_parts(kind: str) -> list[str]:
    """Names that ``belief=``, ``head=`` or ``policy=`` accepts, in addition to a user's own ``module:Class``."""
    return sorted({*PARTS[kind], *ALIASES[kind]})


def canonical(kind: str, name: str) -> str:
    """The canonical name of a part: aliases and the full path of a registered class become its registered name.

    Args:
        kind: ``"belief"``, ``"head"`` or ``"policy"``.
        name: a registered name, an alias or ``"module:Class"`` (returned as it is).

    Raises:
        UserError: the name is none of these.
    """
    name = ALIASES[kind].get(name, name)
    if name in PARTS[kind]:
        return name
    if ":" in name:
        return next((short for short, target in PARTS[kind].items() if target == name), name)
    raise unknown(kind, name, known_parts(kind))


def load_class(kind: str, name: str) -> type[Any]:
    """The class behind a registered name or a user's own ``"module:Class"``.

    Raises:
        UserError: unknown name, a module that cannot be imported, a class that is not there, or one without ``Config``.
    """
    name = canonical(kind, name)
    module_name, _, class_name = PARTS[kind].get(name, name).partition(":")
    module = _import(kind, name, module_name)
    cls = getattr(module, class_name, None)
    if not isinstance(cls, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise unknown(f"class in {module_name} for {kind}", class_name, classes or ["(it defines no class)"])
    return check_class(kind, cls, name)


def check_class(kind: str, cls: type[Any], name: str = "") -> type[Any]:
    """``cls``, if it is such a part and has a ``Config``, else UserError; ``name`` is its name in messages."""
    if not hasattr(getattr(cls, "Config", None), "__dataclass_fields__"):
        expected = f"a frozen dataclass of its settings as {cls.__name__}.Config"
        raise UserError(f"{kind} '{name or cls.__name__}'", "no Config", expected)
    from worldrl.types import BeliefModel, Head, Policy  # imports torch, which workers do not need

    base = {"belief": BeliefModel, "head": Head, "policy": Policy}[kind]
    if not issubclass(cls, base):
        told = f"derive it from worldrl.types.{base.__name__}"
        raise UserError(f"{kind} '{name or cls.__name__}'", "another class", f"a {base.__name__}", told)
    return cls


def _import(kind: str, name: str, module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # a user's module may fail in any way while it is imported
        fix = "put its folder on PYTHONPATH" if isinstance(error, ModuleNotFoundError) else "name it as module:Class"
        raise cannot_import(f"{kind}={name}", error, fix) from error


def settings_of(kind: str, part: Mapping[str, Any]) -> Any:
    """The ``Config`` instance of a validated part, ``{"name": ..., field: value, ...}``."""
    cls = load_class(kind, part["name"])
    return cls.Config(**{key: value for key, value in part.items() if key != "name"})


def tiny_settings(kind: str, name: str) -> dict[str, Any]:
    """The smallest settings with which a part still runs, by key: ``{"belief.stoch": 4, ...}``."""
    return {f"{kind}.{field}": value for field, value in load_class(kind, name).tiny.items()}


def shared_fields(kind: str, name: str, other: str) -> set[str]:
    """Settings that two parts inherit from a common ``Config``: the same name and the same meaning.

    A part lists in ``own_meaning`` those that mean something else to it.
    """
    one, two = (load_class(kind, part) for part in (name, other))
    bases, others = inspect.getmro(one.Config), inspect.getmro(two.Config)
    shared = {field for base in bases if base in others for field in getattr(base, "__dataclass_fields__", ())}
    return shared - (set(one.own_meaning) ^ set(two.own_meaning))


def takes_policy(head: str) -> bool:
    """Whether the head accepts ``policy=``: its constructor has a parameter of that name."""
    return "policy" in inspect.signature(load_class("head", head)).parameters


def agent_label(agent: str, usual: Mapping[str, str], belief: str, head: str, policy: str = OWN_POLICY) -> str:
    """``agent`` when its parts are the ``usual`` ones, else ``head@belief`` or ``head@belief+policy``.

    A user's own class is called by its class name.
    """
    parts = {"belief": belief, "head": head, "policy": policy}
    if all(canonical(kind, {**DEFAULTS, **usual}[kind]) == name for kind, name in parts.items()):
        return agent
    return f"{_short(head)}@{_short(belief)}" + (f"+{_short(policy)}" if policy != OWN_POLICY else "")


def _short(name: str) -> str:
    return name.rpartition(":")[2]
