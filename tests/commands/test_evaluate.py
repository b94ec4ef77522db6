"""``worldrl eval``: wrong use ends in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldrl.commands.evaluate import eval_main


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "RUN_DIR"),
        ("nowhere", "no run in 'nowhere'"),
        (". --episodes x", "--episodes"),
        (". --checkpoint first", "--checkpoint"),
    ],
)
def test_eval_mistakes(
    line: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert eval_main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert words in err
