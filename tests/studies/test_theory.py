"""``worldrl studies theory``: every verdict, and that a verdict follows from errors."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from worldrl.studies.__main__ import main
from worldrl.studies.theory import table
from worldrl.studies.theory.statements import CORRECTED, FAILS, HOLDS, Bench, Errors, Statement, judge, slope, verdict
from worldrl.tabular.mdp import Array

WRONG = {
    "MIRACLE": ["eq. 10", "remark 2", "figure 1"],
    "VIREL": [
        "assumption 1",
        "assumption 1, end",
        "eq. 3",
        "lemma 1 (i)",
        "theorem 3",
        "eq. 7",
        "theorem 4",
        "eq. 30",
        "appendix E.3, T*",
        "appendix E.4, classic",
        "eq. 31",
        "appendix F.1, shortcut",
        "eq. 35",
        "appendix F.1, rates",
        "eq. 37",
        "appendix F.3",
        "eq. 41",
        "appendix B, end",
        "appendix H",
    ],
    "SMAC": ["eq. 7", "eqs. 23 and 25", "appendix D.1", "appendix D.1, d > 1", "proposition 3 (1)"],
}
FALSE = {"SMAC": ["eq. 13, value", "eqs. 13 to 15, action"]}


@pytest.mark.parametrize("statement", table.STATEMENTS, ids=lambda x: f"{x.paper} {x.number}")
def test_every_verdict(statement: Statement) -> None:
    found = judge(statement, range(100, 103))  # other problems than those of the command
    wrong = statement.number in WRONG[statement.paper]
    false = statement.number in FALSE.get(statement.paper, [])
    assert found.verdict == (FAILS if false else CORRECTED if wrong else HOLDS), found.errors
    assert bool(statement.holds) == (wrong or false)
    if wrong:  # what is printed is not a little wrong
        assert found.errors.printed > 0.02


def test_the_names_of_wrong_statements_are_names_of_statements() -> None:
    named = {(paper, number) for part in (WRONG, FALSE) for paper, numbers in part.items() for number in numbers}
    assert named <= {(statement.paper, statement.number) for statement in table.STATEMENTS}
    assert len({(statement.paper, statement.number) for statement in table.STATEMENTS}) == len(table.STATEMENTS)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        (Errors(1e-9), HOLDS),
        (Errors(1e-3), FAILS),
        (Errors(1e-3, 1e-9), CORRECTED),
        (Errors(1e-3, 1e-4), FAILS),
        (Errors(math.inf, 0.0), CORRECTED),
    ],
)
def test_the_verdict_follows_from_the_errors(errors: Errors, expected: str) -> None:
    assert verdict(errors, 1e-6) == expected


def test_the_worst_problem_counts() -> None:
    found = judge(Statement("A", "1", "", "", lambda x: Errors(float(x.q[0, 0]))), range(5))
    assert found.errors.printed == max(Bench(seed).q[0, 0] for seed in range(5))


def test_differences_of_fourth_order() -> None:
    def f(x: Array) -> float:
        return float(np.sin(x[0]) * x[1] ** 3)

    x = np.array([0.7, 1.3])
    np.testing.assert_allclose(slope(f, x, 1e-3), [np.cos(0.7) * 1.3**3, 3 * np.sin(0.7) * 1.3**2], rtol=1e-10)


def test_the_document_has_every_statement_under_its_verdict() -> None:
    text = (Path(__file__).parents[2] / "docs" / "theory.md").read_text(encoding="utf-8").replace("\\*", "*")
    wrong, holds = text.partition("## What does not hold as printed")[2].split("## What holds as printed")
    for statement in table.STATEMENTS:
        section = wrong if statement.holds else holds
        assert f"| {statement.paper} | {statement.number} |" in section


def test_the_command_prints_one_line_a_statement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["theory", "--problems", "1", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(table.STATEMENTS) + 2
    assert f"{sum(not statement.ours for statement in table.STATEMENTS)} statements" in lines[-2]
    rows = json.loads((tmp_path / "theory.json").read_text())["statements"]
    assert [row["number"] for row in rows] == [statement.number for statement in table.STATEMENTS]
    assert rows[0]["verdict"] == CORRECTED
    assert rows[1]["corrected"] is None
    assert (tmp_path / "theory.png").stat().st_size > 10_000
