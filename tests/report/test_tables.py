"""Tables of scores, against the statistics they show."""

from __future__ import annotations

import csv
import io
import re

import numpy as np
import pytest

from worldrl.report.tables import (
    ALL,
    Score,
    agent_rows,
    aggregate_rows,
    common_tasks,
    pair_rows,
    to_csv,
    to_markdown,
)
from worldrl.statistics import (
    Estimate,
    improvement_interval,
    interquartile_mean,
    interquartile_mean_interval,
)


def scores(
    task: str, agent: str, last: list[float], seeds: list[int] | None = None, repeat: int = 0, time: float = 100.0
) -> list[Score]:
    """Of a task, or of one of its phases: ``t (data)``."""
    seeds, whole = seeds or list(range(len(last))), task.partition(" (")[0]
    return [Score(task, whole, agent, s, repeat, time, x, x + 1, "") for s, x in zip(seeds, last, strict=True)]


def test_agent_rows() -> None:
    (row,) = agent_rows(scores("t", "a", [1, 2, 3, 10]))
    assert (row["task"], row["agent"], row["seeds"], row["frames"]) == ("t", "a", 4, 100)
    assert (row["last"], row["best"]) == (4, 5)
    assert row["last_std"] == pytest.approx(np.std([1, 2, 3, 10], ddof=1))
    assert row["iqm"].value == 2.5


def test_same_seeds_are_paired_whatever_their_order() -> None:
    entries = [*scores("t", "a", [1, 5, 9], [1, 2, 3]), *scores("t", "b", [8, 4, 0], [3, 2, 1])]
    (row,) = pair_rows(entries)
    assert row["pairs"] == "same seed"
    assert row["probability"] == (1, 1, 1)


@pytest.mark.parametrize("seeds", [[1, 2, 4], [1, 2]])
def test_other_seeds_give_all_pairs(seeds: list[int]) -> None:
    last = [0.0, 4, 8][: len(seeds)]
    (row,) = pair_rows([*scores("t", "a", [1, 5, 9], [1, 2, 3]), *scores("t", "b", last, seeds)])
    assert row["pairs"] == "all"
    assert row["probability"] == improvement_interval([1, 5, 9], last, np.random.default_rng(0))


def test_a_seed_that_ran_twice_cannot_be_paired() -> None:
    a = [*scores("t", "a", [1, 5], [1, 2]), *scores("t", "a", [2], [1], repeat=1)]
    b = [*scores("t", "b", [1, 5], [1, 2]), *scores("t", "b", [2], [1], repeat=1)]
    (row,) = pair_rows([*a, *b])
    assert row["pairs"] == "all"
    assert row["probability"].value == 0.5


def test_pairs_over_the_tasks_that_both_have() -> None:
    entries = [
        *scores("t", "a", [1, 2, 3]),
        *scores("u", "a", [30, 10, 20]),
        *scores("v", "a", [5, 5]),
        *scores("t", "b", [2, 1, 4]),
        *scores("u", "b", [20, 20, 20]),
        *scores("t", "c", [0, 0]),
    ]
    rows = {(row["agent"], row["other"], row["task"]): row["probability"] for row in pair_rows(entries)}
    assert set(rows) == {("a", "b", t) for t in ("t", "u", ALL)} | {("a", "c", "t"), ("b", "c", "t")}
    assert rows["a", "b", "t"].value == pytest.approx(1 / 3)
    assert rows["a", "b", "u"].value == pytest.approx(1 / 2)
    assert rows["a", "b", ALL].value == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_aggregate_over_the_tasks_of_all_agents() -> None:
    entries = [
        *scores("t", "a", [100, 300, 500]),
        *scores("u", "a", [3, 1]),
        *scores("v", "a", [10_000]),  # b has not run it
        *scores("t", "b", [0, 0]),
        *scores("u", "b", [1, 1]),
    ]
    assert common_tasks(entries) == ["t", "u"]
    rows = aggregate_rows(entries, {"t": 1000, "u": 10})
    assert [(row["agent"], row["tasks"], row["runs"]) for row in rows] == [("a", 2, 5), ("b", 2, 4)]
    array = [[0.1, 0.3], [0.3, 0.1], [0.5, np.nan]]
    assert rows[0]["iqm"].value == pytest.approx(interquartile_mean([0.1, 0.3, 0.5, 0.3, 0.1]))
    np.testing.assert_allclose(rows[0]["iqm"], interquartile_mean_interval(array, np.random.default_rng(0)))


def test_a_task_with_two_phases_counts_once_by_the_last_that_is_shared() -> None:
    entries = [
        *scores("t (data)", "a", [100, 200]),
        *scores("t (acting)", "a", [300, 400], time=5.0),
        *scores("u", "a", [500, 600]),
        *scores("t (data)", "b", [10, 20]),
        *scores("u", "b", [700, 800]),
    ]
    units = dict.fromkeys(("t (data)", "t (acting)", "u"), 1)
    both, one = aggregate_rows(entries, units), aggregate_rows(entries[:6], units)
    assert [row["iqm"].value for row in both] == [350, 360]  # on data, where they meet
    assert [(row["iqm"].value, row["tasks"], row["runs"]) for row in one] == [(450, 2, 4)]
    assert {row["task"]: row["probability"].value for row in pair_rows(entries)} == {"t (data)": 1, "u": 0, ALL: 0.5}
    assert aggregate_rows(entries[:4], units) == []
    phases = pair_rows([*entries[:4], *(score._replace(agent="c") for score in entries[:4])])
    assert [row["task"] for row in phases] == ["t (data)", "t (acting)"]


def test_scores_of_different_times_are_not_compared() -> None:
    late = scores("t", "b", [5, 6], time=200.0)
    assert pair_rows([*scores("t", "a", [1, 2]), *late]) == []
    assert common_tasks([*scores("t", "a", [1, 2]), *late]) == []


def test_one_task_has_no_aggregate() -> None:
    assert aggregate_rows(scores("t", "a", [1, 2]), {"t": 1}) == []


def test_an_interval_does_not_depend_on_its_neighbours() -> None:
    alone = agent_rows(scores("t", "b", [1, 2, 4]))
    assert agent_rows([*scores("t", "a", [1, 7, 3]), *scores("t", "b", [1, 2, 4])])[1:] == alone


def test_csv_has_full_precision_and_no_nan() -> None:
    rows = agent_rows([*scores("t", "a, b", [1 / 3, 2 / 3]), *scores("t", "c", [5])])
    first, second = csv.DictReader(io.StringIO(to_csv(rows)))
    assert (first["agent"], float(first["last"]), first["frames"]) == ("a, b", 0.5, "100.0")
    assert float(first["iqm_low"]) == 1 / 3
    assert (second["iqm"], second["iqm_low"], second["last_std"]) == ("5.0", "", "")


def test_a_name_does_not_change_the_table() -> None:
    assert to_markdown([{"agent": "a:car:b", "task": "x"}]).splitlines()[-1] == "| a:car:b | x    |"
    assert re.split(r"(?<!\\)\|", to_markdown([{"agent": "a | b", "task": "x"}]).splitlines()[-1])[2].strip() == "x"


def test_markdown_shows_values_with_their_spread() -> None:
    nan = np.nan
    rows = [
        {"agent": "a", "last": 912.345, "last_std": 4.56, "iqm": Estimate(0.5, 0.25, 1), "frames": 1e6, "seeds": 5},
        {"agent": "[b]", "last": 0.0012, "last_std": nan, "iqm": Estimate(0, nan, nan), "frames": 1e3, "seeds": 1},
    ]
    assert to_markdown(rows).splitlines() == [
        "| agent | last, mean ± std    | iqm [95 %]           | frames    | seeds |",
        "|-------|---------------------|----------------------|-----------|-------|",
        "| a     | 912.3 ± 4.6         | 0.500 [0.250, 1.000] | 1,000,000 | 5     |",
        "| [b]   | 1.20e-03, no spread | 0.000, no interval   | 1,000     | 1     |",
    ]
