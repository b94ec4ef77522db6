"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPS = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C; a scheduler or service manager; a closed terminal, where there is one


class Stopped(SystemExit):
    """A signal ended the run after a checkpoint; the exit code is 128 + the signal's number."""


@contextmanager
def heeding_signals(handle: Callable[[int], None]) -> Iterator[None]:
    """Call ``handle`` with the number of a signal to stop; after the first one, Ctrl-C ends the process.

    Python delivers signals only to the main thread, so they do not stop a run in another thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        handle(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    numbers = [getattr(signal, name) for name in STOPS if hasattr(signal, name)]
    before = {number: signal.signal(number, on_signal) for number in numbers if not _is_ignored(number)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _is_ignored(number: int) -> bool:
    """Whether SIGHUP is ignored already, as under ``nohup``; then it stays ignored."""
    return number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN
