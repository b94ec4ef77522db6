"""The one exception that users are meant to see: found, expected, how to fix it."""

from __future__ import annotations

import difflib
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

OTHER_RUN_DIR = "choose another run folder: hydra.run.dir=DIR"


class UserError(Exception):
    """Bad input. Its message is one line that says what was found, what was expected and how to mend it.

    Commands print it without a traceback and exit with code 2 (``exit_code``).
    """


class Diverged(UserError):
    """A loss or a gradient was not finite: training has stopped, and its last good checkpoint is from before that."""


def unknown(kind: str, found: str, valid: Iterable[str]) -> UserError:
    """The error for a name that does not exist, with the nearest names that do."""
    names = sorted(valid)
    near = difflib.get_close_matches(found, names, n=3, cutoff=0.5)
    if near:
        return UserError(f"unknown {kind} '{found}'; did you mean: {', '.join(near)}?")
    return UserError(f"unknown {kind} '{found}'; expected one of: {', '.join(names[:12])}{', ...' * (len(names) > 12)}")


def unwritable(path: object, error: OSError, remedy: str = OTHER_RUN_DIR) -> UserError:
    """The error for a file or folder that cannot be made or written."""
    return UserError(f"cannot write to {path} ({error.strerror or error}); {remedy}")


def exit_code(error: UserError | KeyboardInterrupt) -> int:
    """One line on stderr about what ended a command; returns its exit code, 2 or 130."""
    if isinstance(error, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        return 130
    print(" ".join(str(error).split()), file=sys.stderr)
    return 2


@contextmanager
def writing(path: object, remedy: str = OTHER_RUN_DIR) -> Iterator[None]:
    """Turn an ``OSError`` of this block, which writes ``path``, into one line that ends with the ``remedy``."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error, remedy) from error


def check_writable(file: Path) -> None:
    """Refuse a file that could not be written, before the minutes that its contents take; what is there stays."""
    with writing(file, "choose another file"):
        file.parent.mkdir(parents=True, exist_ok=True)
        existed = file.exists()
        file.open("ab").close()
        if not existed:
            file.unlink()


def check_out(folder: Path) -> None:
    """Make the folder of ``--out``, or refuse it before the minutes that its contents take."""
    with writing(folder, "choose another folder with --out"):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
