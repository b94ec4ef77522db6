"""When something is due, and how the time is spent.

Frames come in chunks (action repeat x environments), so ``frames % n == 0`` may never be true. These clocks count
crossings instead, in integers, and their state is saved with a checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from fractions import Fraction
from types import TracebackType
from typing import Any

SECTIONS = ("env", "sample", "update", "eval", "save")  # of a run's wall time


class Every:
    """True once whenever a multiple of ``n`` frames has been reached or passed since the last call; 0 is never.

    A chunk that passes several multiples counts once. Nothing is due at frame 0.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self._last = 0

    def __call__(self, frames: int) -> bool:
        due = self.n > 0 and frames // self.n > self._last // self.n
        self._last = frames
        return due

    def state_dict(self) -> dict[str, Any]:
        return {"last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position; ``n`` may have changed in between."""
        self._last = state["last"]


class Ratio:
    """How many updates are due: ``floor((frames - start) * updates / per)`` in total, in exact integer arithmetic.

    Args:
        updates: Updates per ``per`` frames, taken as the decimal number it prints as.
        per: Frames.
        start: No update is due for frames up to here.
    """

    def __init__(self, updates: float, per: int = 1000, start: int = 0) -> None:
        self.rate = Fraction(str(updates)) / per
        self._start = start
        self._done = 0

    def __call__(self, frames: int) -> int:
        """Updates due since the last call."""
        total = max(frames - self._start, 0) * self.rate.numerator // self.rate.denominator
        due, self._done = total - self._done, total
        return due

    def state_dict(self) -> dict[str, Any]:
        return {"done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._done = state["done"]


class Linear:
    """A number that changes linearly from ``start`` to ``end`` in ``frames`` frames, and then stays there."""

    def __init__(self, start: float, end: float, frames: int) -> None:
        self.start, self.end, self.frames = start, end, frames

    def __call__(self, now: int) -> float:
        left = max(0.0, 1.0 - now / self.frames) if self.frames else 0.0
        return self.end + left * (self.start - self.end)


class Seconds:
    """True when ``seconds`` of wall time have passed since it was last true (or created); 0 is never."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._last = clock()

    def __call__(self) -> bool:
        if self.seconds <= 0 or self._clock() - self._last < self.seconds:
            return False
        self.reset()
        return True

    def reset(self) -> None:
        self._last = self._clock()


class Section:
    """Adds the wall time between entering and leaving to ``total`` (s); created once, entered often."""

    __slots__ = ("_clock", "_entered", "total")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entered = 0.0
        self.total = 0.0

    def __enter__(self) -> None:
        self._entered = self._clock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.total += self._clock() - self._entered


class Timer:
    """Shares of wall time: ``with timer["env"]: ...``.

    It reads the host's clock: asynchronous work of a GPU is counted where the host waits for it.
    """

    def __init__(self, names: Iterable[str] = SECTIONS, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or time.perf_counter
        self._sections = {name: Section(self._clock) for name in names}
        self._since = self._clock()

    def __getitem__(self, name: str) -> Section:
        return self._sections[name]

    def elapsed(self) -> float:
        """Seconds since the last reset."""
        return self._clock() - self._since

    def shares(self) -> dict[str, float]:
        """The share of wall time of each section since the last reset, in [0, 1]."""
        elapsed = self.elapsed()
        return {name: section.total / elapsed if elapsed > 0 else 0.0 for name, section in self._sections.items()}

    def reset(self) -> None:
        self._since = self._clock()
        for section in self._sections.values():
            section.total = 0.0
