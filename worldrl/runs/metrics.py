"""What a run says: metric means, ``metrics.jsonl`` and TensorBoard with the same keys, and the progress line.

The x axis is environment frames; every record carries frames, agent steps and updates.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import torch
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from torch import Tensor

from worldrl.errors import UserError, writing

FILE = "metrics.jsonl"
REFRESH = 0.2  # s between two drawings of the bar
INTERVAL = 30.0  # s between two lines where there is no terminal
TOLD = 0.005  # shares of time from here on are told


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
        """The means so far, by one transfer from the device."""
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


class Logger:
    """Writes ``metrics.jsonl`` and, if asked, TensorBoard events into a run folder.

    Args:
        run_dir: The run's folder; made if it is missing.
        tensorboard: Also write TensorBoard events.
        resume_offset: ``offset()`` as a checkpoint stored it: what came after it is cut off. ``None`` starts anew.
        resume_frames: Frames at that checkpoint: TensorBoard hides what lies after it.

    Raises:
        UserError: A new run in a folder that has metrics already; on resume, metrics that are missing or damaged.
    """

    def __init__(
        self,
        run_dir: str | Path,
        tensorboard: bool = True,
        resume_offset: int | None = None,
        resume_frames: int = 0,
    ) -> None:
        folder = Path(run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        if resume_offset is not None:
            _check_metrics(path, resume_offset)
        elif path.exists() and path.stat().st_size:
            raise UserError(f"{path} holds the metrics of another run: choose a new folder, or resume={folder}")
        self._file = path.open("ab")
        self._file.truncate(resume_offset or 0)
        self._file.seek(0, 2)
        self._writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # takes long to import

            purge = None if resume_offset is None else resume_frames + 1
            self._writer = SummaryWriter(str(folder), purge_step=purge)

    def write(
        self,
        frames: int,
        agent_steps: int,
        updates: int,
        metrics: Mapping[str, float],
        tensorboard: bool = True,
        now: int | None = None,
    ) -> None:
        """Write one record and flush it; NaN and infinities become ``null``.

        ``now`` is TensorBoard's x axis, where it is not the frames.

        Raises:
            UserError: the system refuses, for instance because the disk is full.
        """
        record: dict[str, float | None] = {"frames": frames, "agent_steps": agent_steps, "updates": updates}
        for key, value in metrics.items():
            number = float(value)
            record[key] = number if math.isfinite(number) else None
            if self._writer is not None and tensorboard:
                self._writer.add_scalar(key, number, frames if now is None else now)
        with writing(self._file.name, "the last checkpoint is intact: make room and resume the run"):
            self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            self.flush()

    def offset(self) -> int:
        """Bytes written so far, all of them safe on the disk; belongs into the checkpoint."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what a full disk refused before
            self._file.close()
        if self._writer is not None:
            self._writer.close()


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich's own answer is to end the program


class Progress:
    """A bar on a terminal, a line every ``INTERVAL`` seconds elsewhere, nothing if it is switched off.

    Losing the terminal silences it and never stops the run.

    Args:
        total: Frames of the whole run.
        start: Frames done before, on resume.
        enabled: Whether to show progress; ``say`` prints in any case.
        file: Where to; by default standard output.
        terminal: Whether that is a terminal; by default found out.
        clock: Seconds.
        unit: What is counted.
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
        """Tell how far the run is; cheap enough for every tick. Returns are remembered until the next ones."""
        if not self._moving:
            self._moving, self._start, self._began = True, frames, self._clock()
        for name, value in (("return", episode_return), ("eval", eval_return)):
            if value is not None:
                self._returns[name] = value
        if self._due():
            self._show(self._text(frames, shares or {}), frames)

    def pretrain(self, updates: int, total: int) -> None:
        """Tell how many of the model-only updates are done. Their time does not count in frames/s."""
        now = self._clock()
        if self._pretraining is None:
            self._shown = -math.inf  # said at once, for the first update may be long in coming
        first, began, before = self._pretraining or (updates, now, now)
        self._pretraining = (first, began, now)
        self._began += now - before
        speed = (updates - first) / max(now - began, 1e-9)
        if self._due():
            left = _left(total - updates, speed)
            self._show(f"pretraining {updates:,}/{total:,} updates  {speed:.1f} updates/s  left {left}")

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        with self._guarded():
            self._print(line)

    def close(self) -> None:
        """Leave the bar as it is and give the terminal back."""
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
    """h:mm:ss that ``rest`` takes."""
    return "-:--:--" if speed <= 0 else str(timedelta(seconds=round(max(0.0, rest) / speed)))


WAY_OUT = "; put it back: the run cannot go on without it, but its checkpoints are not hurt, and eval.py plays them"


def _check_metrics(path: Path, offset: int) -> None:
    """Whether the first ``offset`` bytes are whole lines of JSON."""
    if not path.exists() and offset > 0:
        raise UserError(f"{path} is missing: it belongs to the checkpoint{WAY_OUT}")
    data = path.read_bytes()[:offset] if path.exists() else b""
    if len(data) < offset:
        raise UserError(f"{path} is damaged: it has {len(data)} bytes, the checkpoint knows of {offset}{WAY_OUT}")
    if data and not data.endswith(b"\n"):
        raise UserError(f"{path} is damaged: the checkpoint's position {offset} is not the end of a line{WAY_OUT}")
    for number, line in enumerate(data.splitlines(), 1):
        try:
            json.loads(line)
        except ValueError as error:
            raise UserError(f"{path} is damaged: line {number} is not JSON{WAY_OUT}") from error
