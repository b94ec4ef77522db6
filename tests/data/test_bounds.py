"""Bounds of actions: read as a number or a list, and proposed so that they contain what was recorded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.data.test_episodes import made
from worldrl.data.bounds import (
    OPTIONS,
    Kept,
    advice,
    are_few,
    arguments,
    beyond,
    containing,
    per_entry,
    refuse_empty,
    squashed,
)
from worldrl.data.episodes import Recorded, rows_of_episodes, to_unit
from worldrl.errors import UserError
from worldrl.types import box

UNIT = np.full(2, -1.0), np.full(2, 1.0)


def column(*values: float) -> np.ndarray:
    """Actions of one entry, as they are stored."""
    return np.array(values, np.float32)[:, None]


def test_a_number_is_for_all_entries_and_a_list_for_each() -> None:
    assert per_entry("x", 2.0, 3).tolist() == [2.0, 2.0, 2.0]
    assert per_entry("x", (0.0, 1.0), 2).tolist() == [0.0, 1.0]
    for wrong in ((), (1.0,), (1.0, 2.0, 3.0)):
        with pytest.raises(UserError) as refused:
            per_entry("x", wrong, 2)
        assert refused.value.where == "x"
        assert all((refused.value.found, refused.value.expected, refused.value.fix))


def test_every_lower_bound_is_below_its_upper_one() -> None:
    refuse_empty("low", np.array([0.0, 1.0]), "high", np.array([1.0, 2.0]))
    with pytest.raises(UserError, match="entry 1"):
        refuse_empty("low", np.array([0.0, 2.0]), "high", np.array([1.0, 2.0]))


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ((0.0, 2999.99), 0, 3000),
        ((3.0, 1234.0), 0, 1300),
        ((0.02, 0.98), 0, 1),
        ((-0.3, 0.2), -1, 1),
        ((-2999.9, 2999.9), -3000, 3000),
        ((18.2, 24.9), 18, 25),
        ((-20.0, -5.1), -20, -5.1),
        ((0.0, 0.0), -1, 1),
        ((5.0, 5.0), 0, 5),
        ((-5.0, -5.0), -5, 1),
        ((0.0, 1.3), 0, 1.3),
    ],
)
def test_proposed_bounds_are_round(values: tuple[float, ...], low: float, high: float) -> None:
    found = containing(column(*values), np.array([-1.0]), np.array([1.0]), Kept())
    np.testing.assert_allclose(found, [[low], [high]], rtol=1e-9)


def test_proposed_bounds_are_accepted() -> None:
    """Whatever the actions are, and as they are written."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        episodes = made()
        scale, shift = 10.0 ** rng.uniform(-4, 6), rng.choice([0, 1, 10]) * rng.standard_normal()
        data = Recorded(
            rows_of_episodes(each._replace(action=scale * (each.action + shift)) for each in episodes), box(1)
        )
        kept = Kept(*rng.random(2) < 0.5)
        given = np.array([-0.5 * scale]), np.array([2.0 * scale])
        low, high = containing(data.columns["action"][data.columns["is_first"] == 0], *given, kept)
        low, high = (np.array([float(f"{end[0]:g}")]) for end in (low, high))
        assert low < high
        to_unit("x", data, low, high)


def test_bounds_that_were_given_are_proposed_again() -> None:
    action = np.array([[500.0, 0.1], [2900.0, 0.9]])
    low, high = np.array([0.0, -2.0]), np.array([2500.0, 2.0])
    assert np.array(containing(action, low, high, Kept(True, True))).tolist() == [[0, -2], [2900, 2]]
    assert np.array(containing(action, low, high, Kept(True, False))).tolist() == [[0, -2], [2900, 1]]
    for all_the_same in (np.zeros(2), np.full(2, 2500.0)), (np.zeros(2), np.full(2, 3000.0)):
        assert containing(action, *all_the_same, Kept(True, True))[1][1] == 1


@pytest.mark.parametrize(
    ("n", "of", "few"), [(0, 9, False), (1, 9, True), (5, 9, False), (11, 900, False), (11, 90_000, True)]
)
def test_a_few_mistakes(n: int, of: int, few: bool) -> None:
    assert are_few(n, of) is few


def test_actions_beyond_their_bounds() -> None:
    action = np.array([[0.0, 1.0004], [1.1, 0.0], [0.0, -2.0]])
    assert beyond(action, *UNIT).tolist() == [[False, False], [True, False], [False, True]]


def test_advice_has_bounds_as_they_are_written() -> None:
    action = np.random.default_rng(0).uniform(0, 1, (50, 2)) * [3000, 1]
    action[0] = [2999.99, 0.99]
    assert "data.low=[0,0] data.high=[3000,1]" in advice(action, *UNIT)
    assert "--low 0,0 --high 3000,1" in advice(action, *UNIT, form=OPTIONS)
    assert advice(np.full((3, 2), np.nan), *UNIT) == ""
    assert arguments(*UNIT) == "data.low=-1 data.high=1"
    few: Any = np.zeros((50, 2))
    few[7, 1] = 4
    assert "clip" in advice(few, *UNIT)
    assert "clip" not in advice(action, *UNIT)


def test_an_entry_that_uses_little_of_its_bounds() -> None:
    action = np.array([[0.0, 0.0, 5.0], [3000.0, 1.0, 5.0]])
    assert "entry 1 " in squashed(action, np.zeros(3), np.full(3, 3000.0))
    assert not squashed(action, np.zeros(3), np.array([3000.0, 1.0, 9.0]))
    assert not squashed(action, np.full(3, -1e9), np.full(3, 1e9))
