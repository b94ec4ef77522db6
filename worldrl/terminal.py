"""What the commands share: exit codes, a parser with one-line errors, numbers with bounds, JSON."""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import re
import select
import shlex
import sys
from collections.abc import Callable
from typing import Any, NoReturn, ParamSpec

from worldrl.errors import UserError, exit_code, starved

P = ParamSpec("P")
LARGEST = 1e100  # of a number that a command takes


def command(main: Callable[P, int]) -> Callable[P, int]:
    """``main`` with exit code 2 and one line on stderr for bad input, 130 for Ctrl-C and 141 for a closed pipe."""

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        _open_standard_files()
        try:
            code = main(*args, **kwargs)
            sys.stdout.flush()
            return code
        except (UserError, KeyboardInterrupt) as error:
            return exit_code(error)
        except ImportError as error:
            if not isinstance(error.__cause__, KeyboardInterrupt):  # Ctrl-C while a module in C is imported
                raise
            return exit_code(error.__cause__)
        except OSError as error:
            if told := starved(error):
                return exit_code(told)
            if not _output_fails():
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
            if isinstance(error, BrokenPipeError):
                return 141
            return exit_code(UserError("cannot write to standard output", error.strerror or str(error)))

    return run


def _open_standard_files() -> None:
    """If a caller closed them (``>&-``), what is printed is dropped, and not written into the next file that opens."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def _output_fails() -> bool:
    """Whether stdout cannot be written: a closed pipe, as in ``... | head``, or a full disk."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if any(event & select.POLLERR for _, event in poll.poll(0)):
        return True
    try:
        os.write(sys.stdout.fileno(), b"\n")  # the refused text is not in a buffer any more
    except OSError:
        return True
    return False


def pasted(name: str, *arguments: object) -> str:
    """A command of this program, quoted so that it can be pasted into a shell."""
    return shlex.join(["python", "-m", "worldrl", name, *map(str, arguments)])


class Parser(argparse.ArgumentParser):
    """An argument parser that raises ``UserError`` instead of printing a usage block and exiting.

    What begins like a negative number is a value and not an option: ``-1e3``, ``-1,0``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> NoReturn:
        raise UserError(message, fix="see --help")


def add_allow(parser: argparse.ArgumentParser) -> None:
    """The option ``--allow`` of every command that reads a run folder."""
    told = "modules outside worldrl that the run may import, with commas between them; repeatable"
    parser.add_argument("--allow", action="append", default=[], metavar="MODULE", help=told)


def number(text: str) -> float:
    """A number whose sums and products with others are finite."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"found '{text}', expected a number")
    if abs(value) > LARGEST:
        raise argparse.ArgumentTypeError(f"found '{text}', expected a number from {-LARGEST:g} to {LARGEST:g}")
    return value


def number_or_list(text: str) -> float | tuple[float, ...]:
    """A finite number, or several with commas between them: ``0,-1``, ``[0,-1]``."""
    inside = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        values = tuple(number(part) for part in inside.split(","))
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"found '{text}', expected a number, or a list such as 0,-1") from error
    return values if "," in text or inside != text else values[0]


def positive(text: str) -> float:
    """A number above 0."""
    if (value := number(text)) <= 0:
        raise argparse.ArgumentTypeError(f"found '{text}', expected a number above 0")
    return value


def whole(least: int = 1) -> Callable[[str], int]:
    """Whole numbers of at least ``least``, which is 0 or more."""

    def parse(text: str) -> int:
        digits = text.replace("_", "")  # 20_000, as in settings
        if not digits.isdecimal() or int(digits) < least:
            raise argparse.ArgumentTypeError(f"found '{text}', expected a whole number, {least} or more")
        return int(digits)

    return parse


def say(line: str) -> None:
    """Print a note that is not a result as a line on stderr."""
    print(line, file=sys.stderr)


def to_json(x: Any) -> str:
    """``x`` as JSON, with null for every number that is not finite, which JSON cannot express."""
    return json.dumps(_finite(x), indent=2, allow_nan=False) + "\n"


def _finite(x: Any) -> Any:
    if isinstance(x, dict):
        return {key: _finite(value) for key, value in x.items()}
    if isinstance(x, list):
        return [_finite(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x
