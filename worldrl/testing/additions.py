"""What a class adds to its parent must have an effect: a head's methods are called, its settings are read.

While a head is checked, a profiler notes which functions run, and its settings note which of them are read.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import torch

from worldrl.testing.calls import ensure
from worldrl.types import Head


def check_decorated(name: str, config: type[Any]) -> None:
    """Check that what the class and its bases annotate became settings."""
    for each in config.__mro__:
        if "__dataclass_fields__" in vars(each):
            continue
        hints = {key for key, hint in inspect.get_annotations(each).items() if "ClassVar" not in str(hint)}
        lost = sorted(hints if each is config else hints - set(config.__dataclass_fields__))
        found = f"{each.__qualname__} without a decorator, so these are not settings: {', '.join(lost)}"
        ensure(not lost, f"{name}: Config", found, "@dataclass(frozen=True)")


@contextmanager
def check_additions(name: str, cls: type[Any]) -> Iterator[None]:
    """Check that what the user adds has an effect in this block, which uses the head, or may have one in a run."""
    if not _theirs(cls):
        yield
        return
    with _watched(cls.Config) as used:
        yield
    live = _live(cls, used.codes)
    _check_overrides(name, cls, live, used.codes)
    _check_settings(name, cls, live, used.settings)


class _Used(NamedTuple):
    """Which code ran, and which attributes of the settings were read."""

    codes: set[CodeType]
    settings: set[str]


def _eager() -> AbstractContextManager[Any]:
    """Without torch.compile, in whose code no call is seen; nothing is imported for it, which takes seconds."""
    known = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")  # of torch 2.6
    return torch.compiler.set_stance("force_eager") if known else nullcontext()


@contextmanager
def _watched(config: Any) -> Iterator[_Used]:
    """Note what runs in this thread, and what is read of the settings."""
    used, profile = _Used(set(), set()), sys.getprofile()
    plain, own = config.__getattribute__, "__getattribute__" in vars(config)

    def read(settings: Any, key: str) -> Any:
        used.settings.add(key)
        return plain(settings, key)

    config.__getattribute__ = read
    sys.setprofile(lambda frame, event, given: used.codes.add(frame.f_code))
    try:
        with _eager():
            yield used
    finally:
        sys.setprofile(profile)
        if own:
            config.__getattribute__ = plain
        else:
            del config.__getattribute__


def _theirs(cls: type) -> list[type]:
    """The class and those of its bases that are the user's."""
    others = {"worldrl", "torch", *sys.stdlib_module_names}
    return [each for each in cls.__mro__ if each.__module__.partition(".")[0] not in others]


def _parents(cls: type) -> list[type]:
    """Those bases that are heads of the package, the nearest first."""
    return [each for each in cls.__mro__ if each.__module__.startswith("worldrl.heads.")]


def _functions(attributes: Mapping[str, Any]) -> Iterator[tuple[str, CodeType]]:
    """Name and code of the functions and properties among the attributes of a class."""
    for key, value in attributes.items():
        for inner in ("fget", "func", "__func__"):  # of properties, cached properties and class methods
            value = getattr(value, inner, None) or value
        if isinstance(value, FunctionType):
            yield key, inspect.unwrap(value).__code__


def _own_functions(cls: type[Any]) -> list[tuple[str, CodeType]]:
    """The functions of the user's classes and modules: a method by its name, those of another class by that class's."""
    classes = [*_theirs(cls), *_theirs(cls.Config)]
    found = [pair for each in classes for pair in _functions(vars(each))]
    for module in {each.__module__ for each in classes} & set(sys.modules):
        for key, value in vars(sys.modules[module]).items():
            if isinstance(value, FunctionType):
                found += _functions({key: value})
            elif isinstance(value, type) and value.__module__ == module and value not in classes:
                found += [(key, code) for _, code in _functions(vars(value))]
    return found


def _names(code: CodeType) -> set[str]:
    """Every name and text in this code."""
    inner = [name for const in code.co_consts if isinstance(const, CodeType) for name in _names(const)]
    return {*code.co_names, *(const for const in code.co_consts if isinstance(const, str)), *inner}


def _live(cls: type[Any], ran: set[CodeType]) -> set[CodeType]:
    """The user's functions that ran, those that only a run calls, and those that one of these names.

    What is named but did not run may lie on a branch that other settings take.
    """
    functions = _own_functions(cls)
    live = {code for key, code in functions if code in ran or (hasattr(Head, key) and not key.startswith("__"))}
    live |= {code for key, code in functions if key == "__post_init__" and "__setattr__" in code.co_names}
    while True:
        named = {name for code in live for name in _names(code) if not name.startswith("__")}
        more = {code for key, code in functions if key in named} - live
        if not more:
            return live
        live |= more


def _overrides(cls: type[Any]) -> dict[str, CodeType]:
    """The user's functions in place of those that heads of the package call themselves."""
    inherited = {key for each in _parents(cls) for key, _ in _functions(vars(each)) if _is_inner(key)}
    given = {key: code for each in reversed(_theirs(cls)) for key, code in _functions(vars(each))}
    return {key: code for key, code in given.items() if key in inherited}


def _is_inner(key: str) -> bool:
    """Whether a head calls this method itself, and not a run."""
    return not key.startswith("_") and not hasattr(Head, key)


def _check_overrides(name: str, cls: type[Any], live: set[CodeType], ran: set[CodeType]) -> None:
    """Check that the parent calls what the user overrides.

    Only what the parent inherits is judged: what it defines itself, other settings or phases may call. A head that
    also overrides what the parent calls instead is made for both.
    """
    parents, given = _parents(cls), _overrides(cls)
    for key in (key for key, code in given.items() if code not in live):
        owner = next(each for each in parents if key in vars(each))
        both = any(code in live and not hasattr(owner, other) for other, code in given.items())
        expected = f"one that {parents[0].__name__} calls: {', '.join(_called(parents[0], given, ran))}"
        told = "a method that nothing calls with these settings"
        ensure(owner is parents[0] or both, f"{name}: {key}", told, expected)


def _called(parent: type, given: Mapping[str, CodeType], ran: set[CodeType]) -> list[str]:
    """The parent's own methods that ran, or what the user overrides them with."""
    return sorted(key for key, code in _functions(vars(parent)) if _is_inner(key) and ran & {code, given.get(key)})


def _check_settings(name: str, cls: type[Any], live: set[CodeType], read: set[str]) -> None:
    """Check that the settings that the user adds are read, or would be on a branch that was not taken."""
    bases = [*(each.Config for each in _parents(cls) if hasattr(each, "Config")), *_parents(cls.Config)]
    known = {key for each in bases for key in getattr(each, "__dataclass_fields__", ())}
    known |= read.union(*map(_names, live))
    for field in dataclasses.fields(cls.Config):
        used = field.name in known or "__dict__" in read
        ensure(used, f"{name}: Config.{field.name}", "a setting that nothing reads", "one that changes something")
