"""Which code wrote a run."""

from __future__ import annotations

import re

import pytest

from worldrl import __version__, origin
from worldrl.origin import commit, commit_of, note


def test_a_checkout_names_its_commit() -> None:
    assert re.fullmatch(r"[0-9a-f]{7,}(-dirty)?|", commit())
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
