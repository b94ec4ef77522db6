"""The table of ``worldrl studies theory``: one line per statement."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldrl.report.plots import COLOURS, INK, PALE, picture
from worldrl.studies.theory import miracle, smac, virel
from worldrl.studies.theory.statements import CORRECTED, FAILS, HOLDS, Result, Statement, judge

STATEMENTS: tuple[Statement, ...] = (*miracle.STATEMENTS, *virel.STATEMENTS, *smac.STATEMENTS)
FLOOR, CEILING = 1e-17, 1e5  # of the picture


def results(problems: int) -> list[Result]:
    """Every statement on the random problems 0 .. problems - 1."""
    return [judge(statement, range(problems)) for statement in STATEMENTS]


def line(result: Result) -> str:
    """Paper and number, verdict, both errors, what is printed and what holds."""
    s, errors = result.statement, result.errors
    corrected = "" if math.isnan(errors.corrected) else f"{errors.corrected:.1e}"
    told = s.printed + (f" | {s.holds}" if s.holds else "")
    return f"{s.paper:8s} {s.number:24s} {result.verdict:22s} {errors.printed:8.1e} {corrected:8s} {told}"


def summary(found: Sequence[Result]) -> str:
    """The number of the papers' statements with each verdict, and of those that are only taken for theirs."""
    counts = Counter(result.verdict for result in found if not result.statement.ours)
    told = ", ".join(f"{counts[kind]} {kind}" for kind in (HOLDS, CORRECTED, FAILS))
    return f"{counts.total()} statements: {told}; {len(found) - counts.total()} that no paper makes do not hold either"


def record(result: Result) -> dict[str, Any]:
    """The line for JSON; an error is null if it is infinite or missing."""
    statement = {key: value for key, value in result.statement._asdict().items() if key != "check"}
    return {
        **statement,
        "error": result.errors.printed,
        "corrected": result.errors.corrected,
        "verdict": result.verdict,
    }


def draw(path: Path, found: Sequence[Result]) -> None:
    """The error of every statement as printed (filled) and of what holds in its place (open)."""
    papers = list(dict.fromkeys(result.statement.paper for result in found))
    most = max(sum(result.statement.paper == paper for result in found) for paper in papers)
    with picture(path, 4.4 * len(papers), 0.8 + 0.19 * most) as figure:
        for i, (ax, paper) in enumerate(zip(figure.subplots(1, len(papers)), papers, strict=True)):
            rows = [result for result in found if result.statement.paper == paper]
            y = np.arange(len(rows))
            printed, corrected = (
                np.clip([getattr(row.errors, name) for row in rows], FLOOR, CEILING)
                for name in ("printed", "corrected")
            )
            ax.hlines(y, printed, corrected, color=PALE, linewidth=0.8)
            ax.plot(printed, y, "o", color=COLOURS[1], markersize=4, label="as printed")
            ax.plot(corrected, y, "o", color=COLOURS[0], markersize=4, fillstyle="none", label="what holds")
            ax.axvline(1e-6, color=PALE, linewidth=0.8, linestyle=":")
            ax.set(
                xscale="log",
                xlim=(FLOOR / 3, CEILING * 3),
                ylim=(most - 0.4, -0.6),
                title=paper,
                xlabel="largest error",
            )
            ax.set_yticks(y, [row.statement.number for row in rows], color=INK, fontsize=7)
            if i == 0:
                ax.legend(loc="lower left", fontsize="small")
