"""The command line, ``worldrl COMMAND ...`` or ``python -m worldrl COMMAND ...``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from worldrl.errors import unknown
from worldrl.terminal import command


class Command(NamedTuple):
    """The place of a command's ``main(argv) -> exit code``, and one line on its purpose."""

    module: str
    function: str
    purpose: str


COMMANDS = {
    "train": Command("worldrl.commands.train", "train_main", "train an agent, or resume a run"),
    "eval": Command("worldrl.commands.evaluate", "eval_main", "play episodes with a trained agent; robustness grids"),
    "report": Command("worldrl.report.__main__", "main", "learning curves and statistics of many runs"),
    "look": Command("worldrl.commands.look", "main", "what a trained agent's belief knows"),
    "studies": Command("worldrl.studies.__main__", "main", "the papers' studies of estimators and policies"),
    "data": Command("worldrl.commands.data", "main", "data sets: inspect one, record one, write one in another layout"),
    "parts": Command("worldrl.commands.parts", "main", "beliefs, heads, policies and agents, and which are compatible"),
    "bench": Command("worldrl.commands.bench.__main__", "main", "the speed of updates, replay and environments here"),
    "doctor": Command("worldrl.commands.doctor", "main", "what works on this machine, and how to fix the rest"),
    "baseline": Command("worldrl.commands.baseline", "main", "train a baseline of Stable-Baselines3"),
}


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    if argv is None and not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())  # for a user's own modules: ``python -m`` adds it, the installed script does not
    name, *rest = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    if name in ("-h", "--help"):
        print(help_text())
        return 0
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    found = COMMANDS[name]
    code: int = getattr(importlib.import_module(found.module), found.function)(rest)
    return code


def help_text() -> str:
    """What ``worldrl --help`` prints."""
    rows = "\n".join(f"  {name:<9} {entry.purpose}" for name, entry in COMMANDS.items())
    return f"worldrl COMMAND ...\n\n{rows}\n\nworldrl COMMAND --help lists what a command takes."


if __name__ == "__main__":
    sys.exit(main())
