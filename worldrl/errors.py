"""The one exception that users are meant to see: found, expected, how to fix it."""

from __future__ import annotations

import difflib
import errno
import resource
import sys
import sysconfig
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

LIBRARIES = (Path(__file__).parent, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")))
LONGEST = 1_500  # characters of a line
OTHER_RUN_DIR = "choose another run folder: hydra.run.dir=DIR"


class UserError(Exception):
    """Bad input: where it is, what was found, what was expected and how to fix it; shown as one line.

    Commands print it without a traceback and exit with code 2 (``exit_code``). Tests compare the fields.

    Attributes:
        where: a setting's key, a file, a command-line option, or what cannot be done.
        found: what is there, as text.
        expected: what should be there instead.
        fix: what to do about it; if it is a command, it can be pasted.
    """

    def __init__(self, where: str, found: str = "", expected: str = "", fix: str = "") -> None:
        super().__init__(where, found, expected, fix)
        self.where, self.found, self.expected, self.fix = where, found, expected, fix

    def inside(self, where: object) -> UserError:
        """The same error, found while reading ``where``."""
        return UserError(f"{where}: {self.where}", self.found, self.expected, self.fix)

    def also(self, fix: str) -> UserError:
        """The same error with one more fix."""
        return UserError(self.where, self.found, self.expected, f"{self.fix}; {fix}".removeprefix("; "))

    def __str__(self) -> str:
        pairs = (("found", self.found), ("expected", self.expected))
        said = ", ".join(f"{word} {text}" for word, text in pairs if text)
        line = f"{self.where}: {said}" if said else self.where
        return f"{line}; {self.fix}" if self.fix else line


def wrong(key: str, value: object, expected: str, fix: str = "") -> UserError:
    """The error for a setting of the wrong type or out of range."""
    return UserError(key, repr(value), expected, fix)


class Diverged(UserError):
    """A loss or a gradient was not finite: training has stopped, and the last good checkpoint is older than that."""


def counted(n: int, thing: str) -> str:
    """``1 episode``, ``1,234 episodes``."""
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"


def unknown(kind: str, found: str, valid: Iterable[str]) -> UserError:
    """The error for a name that does not exist, with the nearest names that do."""
    names = sorted(valid)
    near = difflib.get_close_matches(found, names, n=3, cutoff=0.5)
    if near:
        return UserError(f"unknown {kind} '{found}'", fix=f"did you mean: {', '.join(near)}?")
    shown = ", ".join(names[:12]) + ", ..." * (len(names) > 12)
    return UserError(f"unknown {kind} '{found}'", expected=f"one of: {shown}")


def given_twice(key: str) -> UserError:
    """The error for a setting that has two values."""
    return UserError(key, "two values", "one")


def cannot_import(what: str, error: BaseException | str, fix: str) -> UserError:
    """The error for a package that is missing or cannot be imported."""
    found = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return UserError(f"{what} cannot be imported", found, fix=fix)


def starved(error: OSError) -> UserError | None:
    """The error if the process cannot open another file; ``None`` for every other failure."""
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UserError("too many open files", f"a limit of {limit}", "1024 or more", "raise it: ulimit -n 4096")


def unwritable(path: object, error: OSError, remedy: str = OTHER_RUN_DIR) -> UserError:
    """The error for a file or folder that cannot be created or written."""
    return UserError(f"cannot write to {path}", error.strerror or str(error), fix=remedy)


def exit_code(error: UserError | KeyboardInterrupt) -> int:
    """Print one line on stderr about the error that ended a command; returns the exit code, 2 or 130."""
    if isinstance(error, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        return 130
    print(one_line(error), file=sys.stderr)
    return 2


def one_line(error: UserError) -> str:
    """The error on one line, cut in the middle if it is too long, as for a damaged file."""
    line = printable(" ".join(str(error).split()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"


def printable(text: object) -> str:
    """``text`` with its control characters written out (``\\x1b``): a stranger's would steer the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def place_of(error: BaseException) -> str:
    """Where an exception left the user's own code: ``FILE, line N``; empty if it never was in any."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_absolute() and not any(path.is_relative_to(folder) for folder in LIBRARIES):
            return f"{path}, line {frame.lineno}"
    return ""


@contextmanager
def writing(path: object, remedy: str = OTHER_RUN_DIR) -> Iterator[None]:
    """Turn an ``OSError`` of this block, which writes ``path``, into one line that ends with the ``remedy``."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error, remedy) from error


@contextmanager
def new_file(path: Path, remedy: str = "choose another file") -> Iterator[Path]:
    """The file to write in place of ``path``, to which it is renamed at the end; nothing is left of one that fails."""
    partial = path.with_name(f".{path.name}.partial")
    with writing(path, remedy):
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def check_writable(file: Path) -> None:
    """Refuse a file that cannot be written before minutes are spent on its contents; an existing file is kept."""
    with writing(file, "choose another file"):
        file.parent.mkdir(parents=True, exist_ok=True)
        existed = file.exists()
        file.open("ab").close()
        if not existed:
            file.unlink()


def check_out(folder: Path) -> None:
    """Create the folder of ``--out``, or refuse it before minutes are spent on its contents."""
    if folder.suffix in (".png", ".pdf", ".svg", ".json", ".csv") and not folder.is_dir():
        raise UserError("--out", f"{folder.name}, the name of a file", "a folder")
    with writing(folder, "choose another folder with --out"):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
