"""What a run prints while it learns: means of its metrics, and the progress line."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import IO, Any

import torch
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from torch import Tensor

REFRESH = 0.2  # s between two drawings of the bar
INTERVAL = 30.0  # s between two lines without a terminal
LONGEST = 1e9  # s, about thirty years: nobody waits for more
TOLD = 0.005  # shares of time below this are not printed


class Meter:
    """Means of metrics over the updates since the last reset, summed on the device: nothing waits for the GPU.

    A key may be missing from some updates; its mean is over those that had it. Sums are float64 on the CPU, float32
    elsewhere, and are saved with a checkpoint so that a resumed run logs the same numbers.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self._dtype = torch.float64 if self.device.type == "cpu" else torch.float32
        # One vector per set of keys: two kernels per update, whatever the number of metrics.
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._counts: dict[tuple[str, ...], int] = {}

    @torch.no_grad()
    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Count one update; every value is a 0-d tensor on the device."""
        if not metrics:
            return
        keys = tuple(metrics)
        values = torch.stack([value.detach() for value in metrics.values()]).to(self._dtype)
        if keys in self._sums:
            self._sums[keys].add_(values)
            self._counts[keys] += 1
        else:
            self._sums[keys], self._counts[keys] = values, 1

    def mean(self) -> dict[str, float]:
        """The means so far, in one transfer from the device."""
        if not self._sums:
            return {}
        totals: dict[str, float] = {}
        counts: dict[str, int] = {}
        values = iter(torch.cat(list(self._sums.values())).tolist())
        for keys, count in self._counts.items():
            for key in keys:
                totals[key] = totals.get(key, 0.0) + next(values)
                counts[key] = counts.get(key, 0) + count
        return {key: total / counts[key] for key, total in totals.items()}

    def reset(self) -> None:
        self._sums.clear()
        self._counts.clear()

    def state_dict(self) -> dict[str, Any]:
        return {
            "keys": [list(keys) for keys in self._sums],
            "sums": [value.clone() for value in self._sums.values()],
            "counts": list(self._counts.values()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        keys = [tuple(names) for names in state["keys"]]
        sums = [value.to(self.device, self._dtype, copy=True) for value in state["sums"]]
        self._sums = dict(zip(keys, sums, strict=True))
        self._counts = dict(zip(keys, state["counts"], strict=True))


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich's own answer is to end the program


class Progress:
    """Shows a bar on a terminal, a line every ``INTERVAL`` seconds elsewhere, or nothing if it is switched off.

    Losing the terminal silences it and never stops the run.

    Args:
        total: Frames of the whole run.
        start: Frames done before, on resume.
        enabled: Whether to show progress; ``say`` prints in any case.
        file: Where to print; by default standard output.
        terminal: Whether that is a terminal; by default detected.
        clock: Returns seconds.
        unit: The name of what is counted.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        enabled: bool = True,
        file: IO[str] | None = None,
        terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
        unit: str = "frames",
    ) -> None:
        self._unit = unit
        self._console: Console = _Console(file=file, force_terminal=terminal)
        self._clock = clock
        self._total, self._start, self._enabled = total, start, enabled
        self._moving = False  # the first evaluation, before the first frame, does not count in frames/s
        self._began = self._shown = clock()
        self._pretraining: tuple[int, float, float] | None = None  # first call: updates and time; time of the last one
        self._returns: dict[str, float] = {}
        self._bar: Bar | None = None
        if enabled and self._console.is_terminal:
            # rich's own refresh thread would die noisily with the terminal, so the bar is drawn from update().
            columns = (BarColumn(bar_width=20), TextColumn("{task.percentage:>3.0f}%  {task.description}"))
            self._bar = Bar(*columns, console=self._console, auto_refresh=False)
            with self._guarded():
                self._bar.start()
                self._bar.add_task(self._text(start, {}), total=total, completed=start)

    def update(
        self,
        frames: int,
        episode_return: float | None = None,
        eval_return: float | None = None,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        """Show the progress of the run; cheap enough for every tick. Returns are shown until there are new ones."""
        if not self._moving:
            self._moving, self._start, self._began = True, frames, self._clock()
        for name, value in (("return", episode_return), ("eval", eval_return)):
            if value is not None:
                self._returns[name] = value
        if self._due():
            self._show(self._text(frames, shares or {}), frames)

    def pretrain(self, updates: int, total: int) -> None:
        """Show how many of the model-only updates are done. Their time does not count in frames/s."""
        now = self._clock()
        if self._pretraining is None:
            self._shown = -math.inf  # show it at once, because the first update may take long
        first, began, before = self._pretraining or (updates, now, now)
        self._pretraining = (first, began, now)
        self._began += now - before
        speed = (updates - first) / max(now - began, 1e-9)
        if self._due():
            left = _left(total - updates, speed)
            self._show(f"pretraining {updates:,}/{total:,} updates  {speed:.1f} updates/s  left {left}")

    def evaluate(self, total: int, episodes: int, frames: int) -> None:
        """Show how many episodes of an evaluation have ended, and the length so far of the present one."""
        if self._due():
            self._show(f"evaluating: {episodes}/{total} episodes, {frames:,} frames of the next")

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        with self._guarded():
            self._print(line)

    def close(self) -> None:
        """Leave the bar as it is and release the terminal."""
        bar, self._bar = self._bar, None
        if bar is not None:
            with self._guarded():
                bar.stop()

    def _due(self) -> bool:
        now = self._clock()
        if not self._enabled or now - self._shown < (INTERVAL if self._bar is None else REFRESH):
            return False
        self._shown = now
        return True

    def _show(self, text: str, frames: int | None = None) -> None:
        with self._guarded():
            if self._bar is None:
                self._print(text)
            else:
                self._bar.update(self._bar.task_ids[0], completed=frames, description=text, refresh=True)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _text(self, frames: int, shares: Mapping[str, float]) -> str:
        speed = (frames - self._start) / max(self._clock() - self._began, 1e-9)
        parts = [f"{self._unit} {frames:,}/{self._total:,}"]
        parts += [f"{name} {value:.1f}" for name, value in self._returns.items()]
        parts += [f"{speed:.0f} {self._unit}/s", f"left {_left(self._total - frames, speed)}"]
        told = [f"{name} {100 * share:.0f}%" for name, share in shares.items() if share >= TOLD]
        return "  ".join([*parts, " ".join(told)] if told else parts)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # the terminal or the pipe has gone; ValueError: its file object is closed
            self._enabled, self._bar = False, None
            self._console = Console(quiet=True)


def _left(rest: float, speed: float) -> str:
    """The time that ``rest`` takes, as h:mm:ss."""
    seconds = max(0.0, rest) / speed if speed > 0 else math.inf
    return "-:--:--" if seconds > LONGEST else str(timedelta(seconds=round(seconds)))
