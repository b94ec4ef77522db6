"""Which code wrote a run."""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path

from worldrl import __version__

NOTE = re.compile(r"# written by worldrl [^\s,]+(?:, commit (?P<commit>\S+))?")


@functools.cache
def commit() -> str:
    """The commit of the checkout that this package is in, such as ``1a2b3c4``, ``1a2b3c4-dirty`` with changes.

    Empty for an installed copy, or if git does not answer.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def note(before: str = "") -> str:
    """The first line of a run's settings: ``# written by worldrl 0.1.0, commit 1a2b3c4``.

    If the settings ``before`` name another commit, the run was resumed, and the line names both: ``1a2b3c4+5d6e7f8``.
    """
    commits = [each for each in commit_of(before).split("+") if each]
    if commit() not in commits[-1:]:
        commits.append(commit())
    told = "+".join(filter(None, commits))
    return f"# written by worldrl {__version__}" + (f", commit {told}" if told else "")


def commit_of(text: str) -> str:
    """The commits in the first line of a run's settings, joined by ``+``; empty if there is none."""
    found = NOTE.match(text)
    return (found["commit"] or "") if found else ""
