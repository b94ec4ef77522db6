"""What a setting may be, declared once, on its field: ``tau: PositiveShare = 0.005``.

A ``Config`` annotates its fields with these types, or with ``Annotated[int, Range(1, 100)]``; ``typed`` checks what a
user asks for. Upper limits are far above what makes sense: they refuse what could not be built, or would never end,
before it is tried.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from worldrl.errors import UserError, unknown, wrong


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``; ``above`` excludes ``low`` itself. ``what`` is what the number means."""

    low: float
    high: float
    above: bool = False
    what: str = ""

    def check(self, key: str, value: Any) -> None:
        """Raise UserError, which ``key`` begins, unless the number is inside."""
        if self.low < value <= self.high or (value == self.low and not self.above):
            return
        within = self._within(value)
        what = self.what or "a number" * within.startswith("in ")
        joint = " of " if self.what and not within.startswith("in ") else " "
        raise wrong(key, value, f"{what}{joint}{within}".strip())

    def __str__(self) -> str:
        return f"{'(' if self.above else '['}{_plain(self.low)}, {_plain(self.high)}]"

    def _within(self, value: float) -> str:
        if self.high <= 1 or (self.what and value > self.high):
            return f"in {'(' if self.above else '['}{self.low:g}, {self.high:g}]"
        if value > self.high:
            return f"at most {_plain(self.high)}"
        return f"more than {_plain(self.low)}" if self.above else f"{_plain(self.low)} or more"


@dataclass(frozen=True, init=False)
class OneOf:
    """One of several words."""

    words: tuple[str, ...]

    def __init__(self, *words: str) -> None:
        object.__setattr__(self, "words", words)

    def check(self, key: str, value: Any) -> None:
        """Raise UserError, which ``key`` begins, unless the text is one of the words."""
        if value not in self.words:
            raise unknown(f"value of {key}", value, self.words)

    def __str__(self) -> str:
        return ", ".join(self.words)


@dataclass(frozen=True)
class Pattern:
    """Text of a certain form, which ``what`` describes."""

    form: str
    what: str

    def check(self, key: str, value: Any) -> None:
        """Raise UserError, which ``key`` begins, unless the text has the form."""
        if not re.fullmatch(self.form, value):
            raise wrong(key, value, self.what)

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True)
class OfUpdates:
    """Where nothing is said: this share of the run's ``updates``, if it learns from data.

    ``whole``: only if the run ends with them, because an agent that acts afterwards has to continue learning.
    """

    share: float = 1.0
    whole: bool = False

    def length(self, updates: int, frames: int) -> int | None:
        """The number of updates; None if the field's own default applies."""
        return round(self.share * updates) or None if not (self.whole and frames) else None


# Whole numbers.
Width = Annotated[int, Range(1, 65_536)]  # units of a layer, channels, dimensions of a latent
Layers = Annotated[int, Range(0, 64)]  # hidden layers; 0: linear
SomeLayers = Annotated[int, Range(1, 64)]
Particles = Annotated[int, Range(0, 10_000)]
Samples = Annotated[int, Range(1, 1_000_000)]  # rows or draws of one update
AnySamples = Annotated[int, Range(0, 1_000_000)]
Frames = Annotated[int, Range(0, 1e12)]
SomeFrames = Annotated[int, Range(1, 1e12)]
Every = Annotated[int, Range(0, 1_000_000)]  # every n-th; 0: never
# Numbers.
Share = Annotated[float, Range(0, 1)]
PositiveShare = Annotated[float, Range(0, 1, above=True)]
Rate = Annotated[float, Range(0, 100)]  # a learning rate
NotNegative = Annotated[float, Range(0, 1e9)]
Positive = Annotated[float, Range(0, 1e9, above=True)]
# Text.
Label = Annotated[str, Pattern(r"[^/\\\s]+", "a label without blanks and slashes")]
Device = Annotated[str, Pattern(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:N")]


Rule = Range | OneOf | Pattern


def rules(hint: Any) -> Iterator[Rule]:
    """What an annotated type requires of a value."""
    if typing.get_origin(hint) is Annotated:
        yield from (rule for rule in hint.__metadata__ if isinstance(rule, Rule))


def of_updates(hint: Any) -> OfUpdates | None:
    """The ``OfUpdates`` of an annotated type, for a length that follows the run's."""
    said = hint.__metadata__ if typing.get_origin(hint) is Annotated else ()
    return next((each for each in said if isinstance(each, OfUpdates)), None)


@functools.cache  # reading them takes most of the time of composing settings
def hints_of(cls: Any) -> dict[str, Any]:
    """Field -> its annotated type."""
    return typing.get_type_hints(cls, include_extras=True)


def ranges(cls: Any) -> dict[str, Range]:
    """Field -> its range, for the fields of a dataclass that have one."""
    found = {item.name: [*rules(hints_of(cls)[item.name])] for item in dataclasses.fields(cls)}
    return {name: rule for name, each in found.items() for rule in each if isinstance(rule, Range)}


_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
FIELD_TYPES = "bool, int, float, str, Literal, list[...], tuple[...], and None or Annotated with these"


def typed(key: str, value: Any, hint: Any) -> Any:
    """``value`` as the annotated type, within its range; int passes for float, a whole float for int, list for tuple.

    This is the only place where a setting is checked against its field.
    """
    origin = typing.get_origin(hint)
    if origin is Annotated:
        value = typed(key, value, typing.get_args(hint)[0])
        for rule in rules(hint):
            rule.check(key, value)
        return value
    if origin is Literal:
        return _typed_literal(key, value, typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        return _typed_union(key, value, typing.get_args(hint))
    if origin is tuple:
        return _typed_tuple(key, value, typing.get_args(hint))
    if origin is list:
        return list(_typed_tuple(key, value, (*typing.get_args(hint), ...)))
    if hint not in _NAMES:
        return value
    return _typed_scalar(key, value, hint)


def _typed_scalar(key: str, value: Any, hint: type) -> Any:
    if type(value).__module__ == "numpy" and hasattr(value, "item") and not getattr(value, "shape", ()):
        value = value.item()  # of np.logspace, np.arange
    if type(value) is hint and not (isinstance(value, float) and not math.isfinite(value)):
        return value
    if hint is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    if hint is int and type(value) is float and value.is_integer():
        return int(value)
    raise wrong(key, value, _NAMES[hint])


def _typed_literal(key: str, value: Any, names: tuple[Any, ...]) -> Any:
    if value in names:
        return names[names.index(value)]  # a number of NumPy's becomes ours
    raise unknown(f"value of {key}", str(value), map(str, names))


def _typed_union(key: str, value: Any, hints: tuple[Any, ...]) -> Any:
    if value is None and type(None) in hints:
        return None
    hints = tuple(hint for hint in hints if hint is not type(None))
    is_list = isinstance(value, list | tuple)  # the error is that of a type of the same kind
    hints = tuple(hint for hint in hints if (typing.get_origin(hint) in (list, tuple)) == is_list) or hints
    for hint in hints[:-1]:
        try:
            return typed(key, value, hint)
        except UserError:
            continue
    return typed(key, value, hints[-1])


def _typed_tuple(key: str, value: Any, hints: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        example = "[256,256]" if hints[0] in (int, float) else "[left,right]"
        raise wrong(key, value, f"a list such as {example}")
    if hints[1:] == (...,):
        hints = hints[:1] * len(value)
    if len(value) != len(hints):
        raise wrong(key, value, f"a list of {len(hints)}")
    return tuple(typed(f"{key}[{i}]", item, hint) for i, (item, hint) in enumerate(zip(value, hints, strict=True)))


def is_checked(hint: Any) -> bool:
    """Whether ``typed`` checks values of this type, down to the scalars in it."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return is_checked(inside[0])
    if origin in (typing.Union, types.UnionType, tuple, list):
        return all(x in (type(None), ...) or is_checked(x) for x in inside)
    return origin is Literal or hint in _NAMES


def type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _plain(number: float) -> str:
    whole = math.isfinite(number) and number == int(number) and abs(number) < 1e13
    return f"{number:,.0f}" if whole else f"{number:g}"
