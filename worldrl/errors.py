"""The one exception that users are meant to see: found, expected, how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. Its message is one line that says what was found, what was expected and how to mend it.

    ``train.py`` and ``eval.py`` print the message without a traceback and exit with code 2.
    """


def unknown(kind: str, found: str, valid: Iterable[str]) -> UserError:
    """The error for a name that does not exist, with the nearest names that do."""
    names = sorted(valid)
    near = difflib.get_close_matches(found, names, n=3, cutoff=0.5)
    if near:
        return UserError(f"unknown {kind} '{found}'; did you mean: {', '.join(near)}?")
    return UserError(f"unknown {kind} '{found}'; expected one of: {', '.join(names[:12])}{', ...' * (len(names) > 12)}")


def unwritable(folder: object, error: OSError) -> UserError:
    """The error for a run folder that cannot be made or written."""
    return UserError(f"cannot write to {folder} ({error.strerror}); choose another run folder: hydra.run.dir=DIR")
