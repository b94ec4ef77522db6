"""Bounds of actions for files that do not have them: those that a user gives, and what to propose instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldrl.data.episodes import SLACK
from worldrl.errors import UserError, counted

Array = NDArray[Any]
Given = float | tuple[float, ...]  # one number for all entries of an action, or one for each

FEW = 10  # actions beyond the bounds, or this share of all: they are mistakes, and no reason for other bounds
FEW_SHARE = 1e-3
CLOSE = 1e-2  # of the widest range: recorded ranges that differ by less are the same
ROUNDING = 1e-4  # of a range, or of the last digit of a round number
NARROW = 1e-2  # of its bounds: an entry that varies by less has the bounds of another one


class Kept(NamedTuple):
    """Which bounds are more than a guess, so that a proposal keeps them."""

    low: bool = False
    high: bool = False


class Form(NamedTuple):
    """How bounds are written, as one number or as lists."""

    number: str
    lists: str


GUESSED = Kept()
SETTINGS = Form("data.low={} data.high={}", "data.low=[{}] data.high=[{}]")
OPTIONS = Form("--low {} --high {}", "--low {} --high {}")


def per_entry(key: str, given: Given, size: int) -> Array:
    """(size,) float64. Raises UserError, which ``key`` begins, for a list of another length."""
    if isinstance(given, Sequence) and len(given) != size:
        expected = f"{size}, as an action has, or one number for all entries"
        raise UserError(
            key, f"a list of {counted(len(given), 'number')}", expected, "give one for each entry, in order"
        )
    return np.full(size, given, np.float64)


def refuse_empty(key: str, low: Array, other: str, high: Array) -> None:
    """Raise UserError for the first entry whose lower bound is not below its upper one."""
    if (low < high).all():
        return
    entry = int((low >= high).argmax())
    at = f" for entry {entry}" if len(low) > 1 else ""
    raise UserError(key, f"{low[entry]:g}{at}", f"less than {other}, which is {high[entry]:g}")


def beyond(action: Array, low: Array, high: Array) -> Array:
    """(N, A) bool: whether an action is beyond its bounds by more than a rounding error."""
    slack = SLACK * (high - low) / 2.0
    return (action < low - slack) | (action > high + slack)


def are_few(n: int, of: int) -> bool:
    """Whether so few of all actions are beyond the bounds that they may be mistakes."""
    return 0 < n <= max(FEW, FEW_SHARE * of) and 2 * n <= of


def differ(low: Array, high: Array) -> bool:
    """Whether the entries have different ranges."""
    return bool(max(np.ptp(low), np.ptp(high)) > CLOSE * (high - low).max())


def containing(action: Array, low: Array, high: Array, kept: Kept) -> tuple[Array, Array]:
    """Bounds (A,) of each entry that contain all actions (N, A).

    They are the ``kept`` ones of ``low`` and ``high`` that do, unless they are those of another entry, else those of
    [-1, 1] or [0, 1], else round numbers.
    """
    least, most = action.min(0).astype(np.float64), action.max(0).astype(np.float64)
    slack = ROUNDING * (most - least)
    small = np.maximum(abs(least), abs(most)) <= 1.0 + ROUNDING
    own = ~_narrow(action, low, high)
    from_zero = (least >= -slack) & (most > 0) & (small | (least < most / 10.0))
    lower = np.where(from_zero, 0.0, np.where(small, -1.0, _rounded(least, np.floor)))
    upper = np.where(small, 1.0, _rounded(most, np.ceil))
    lower = np.where((least >= low - slack) & own & kept.low, low, lower)
    upper = np.where((most <= high + slack) & own & kept.high, high, upper)
    same = lower >= upper  # an entry that does not vary
    return np.where(same, np.minimum(lower, 0.0), lower), np.where(same, np.maximum(upper, 1.0), upper)


def _narrow(action: Array, low: Array, high: Array) -> Array:
    """(A,) bool: whether an entry varies, but by little of its bounds."""
    share = np.ptp(action, axis=0) / (high - low)
    return (share > 0) & (share < NARROW)


def _rounded(values: Array, outward: Callable[[Array], Array]) -> Array:
    """Values with two digits."""
    step = 10.0 ** (np.floor(np.log10(np.maximum(abs(values), 1e-30))) - 1.0)
    inward = ROUNDING if outward is np.floor else -ROUNDING
    return outward(values / step + inward) * step


def advice(action: Array, low: Array, high: Array, kept: Kept = GUESSED, form: Form = SETTINGS) -> str:
    """What to do about actions (N, A) beyond ``low`` and ``high``; empty if some are not finite."""
    if not np.isfinite(action).all():
        return ""
    wide = arguments(*containing(action, low, high, kept), form)
    n = int(beyond(action, low, high).any(1).sum())
    if are_few(n, len(action)):
        which = "it" if n == 1 else f"these {n:,}"
        return f"clip {which} or leave out the episode, or, if that is not a mistake, set {wide}"
    return f"set their true bounds, such as {wide}, which contain all actions"


def arguments(low: Array, high: Array, form: Form = SETTINGS) -> str:
    """The settings or options with these bounds: a number for each if the entries have the same ones, else lists."""
    if not (np.ptp(low) or np.ptp(high)):
        return form.number.format(f"{low[0]:g}", f"{high[0]:g}")
    return form.lists.format(*(",".join(f"{end:g}" for end in ends) for ends in (low, high)))


def squashed(action: Array, low: Array, high: Array) -> str:
    """A remark on entries of actions (N, A) that use little of bounds which are wide enough for others."""
    narrow = _narrow(action, low, high)
    if not narrow.any() or (np.ptp(action, axis=0) / (high - low)).max() < NARROW:
        return ""
    found = f"{entries(narrow)} of the actions: less than {100 * NARROW:g} % of the bounds is used"
    return f"{found}; data.low and data.high may be lists, with one number for each entry"


def entries(which: Array) -> str:
    """``entry 1``, ``entries 0, 2``: where ``which`` (A,) is true."""
    found = np.flatnonzero(which)
    return f"{'entry' if len(found) == 1 else 'entries'} {', '.join(map(str, found))}"


def told(low: Sequence[float] | Array, high: Sequence[float] | Array) -> str:
    """``-1 to 1``, or for entries with different bounds ``0 to 3000 (entry 0), 0 to 1 (entry 1)``."""
    if len({*low}) == len({*high}) == 1:
        return f"{low[0]:g} to {high[0]:g}"
    return ", ".join(f"{a:g} to {b:g} (entry {i})" for i, (a, b) in enumerate(zip(low, high, strict=True)))
