"""Which code wrote a run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from worldrl import __version__, origin
from worldrl.origin import commit, commit_of, note

ROOT = Path(__file__).resolve().parents[1]


def test_a_checkout_names_its_commit() -> None:
    if (ROOT / ".git").exists():
        head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        assert re.fullmatch(r"[0-9a-f]{7,}", commit().removesuffix("-dirty"))
        assert head.stdout.startswith(commit().removesuffix("-dirty"))
    else:
        assert commit() == ""
    assert commit_of(f"{note()}\ntask: x\n") == commit()
    assert __version__ in note()


def test_a_resumed_run_names_the_commits_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    text = ""
    for each, expected in (("aaaaaaa", "aaaaaaa"), ("aaaaaaa", "aaaaaaa"), ("bbbbbbb", "aaaaaaa+bbbbbbb"), ("", "")):
        monkeypatch.setattr(origin, "commit", lambda each=each: each)
        text = note(text if expected else "")
        assert commit_of(text) == expected


@pytest.mark.parametrize("text", ["task: x\n", "# written by worldrl 0.1.0\ntask: x\n", ""])
def test_a_run_without_a_commit(text: str) -> None:
    assert commit_of(text) == ""
