"""VIREL's counterexample: three ways to the same probability, and the limits of both policies."""

from __future__ import annotations

import math

import numpy as np
import pytest

from worldrl.errors import UserError
from worldrl.tabular.counterexample import (
    counterexample,
    hard_q,
    max_entropy_probability,
    soft_q,
    threshold,
    with_k_actions,
    wrong_action,
)
from worldrl.tabular.solve import boltzmann

PUBLISHED = [((10, 0.2, 0.99), 0.06178), ((10, 0.5, 0.99), 0.56944), ((100, 0.3, 0.9), 0.69239)]


def objective(p: np.ndarray, k: int, c: float, gamma: float) -> np.ndarray:
    """Eq. 2 with uniform actions in s1."""
    return (1 - p) * (1 - c * np.log(1 - p)) - p * (c * np.log(p) - gamma * c * math.log(k))


@pytest.mark.parametrize(("settings", "expected"), PUBLISHED)
def test_closed_form_soft_iteration_and_direct_search_agree(
    settings: tuple[int, float, float], expected: float
) -> None:
    k, c, gamma = settings
    assert max_entropy_probability(k, c, gamma) == pytest.approx(expected, abs=1e-5)
    policy = boltzmann(soft_q(counterexample(k, gamma), c), c)
    assert policy[0, 0] == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(policy[1, :k], 1 / k)
    grid = np.linspace(1e-4, 1 - 1e-4, 100_001)
    assert grid[objective(grid, k, c, gamma).argmax()] == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(("k", "gamma"), [(10, 0.99), (100, 0.9), (2, 0.5)])
def test_the_mode_is_wrong_above_the_threshold_and_only_there(k: int, gamma: float) -> None:
    c = threshold(k, gamma)
    assert max_entropy_probability(k, 0.999 * c, gamma) < 0.5 < max_entropy_probability(k, 1.001 * c, gamma)


@pytest.mark.parametrize("c", [1e-3, 1e3])
def test_extreme_temperatures_do_not_overflow(c: float) -> None:
    expected = 1 / (1 + 10**-0.99 * math.exp(1e-3)) if c > 1 else 0.0
    assert max_entropy_probability(10, c, 0.99) == pytest.approx(expected, rel=1e-12)
    assert wrong_action(10, 0.99, [c]).closed_form == [max_entropy_probability(10, c, 0.99)]


@pytest.mark.parametrize("temperature", [0.01, 0.2, 1.0, 100.0])
def test_virels_mode_is_right_at_every_temperature(temperature: float) -> None:
    q = hard_q(counterexample(50, 0.99))
    assert q[0, :2].tolist() == [0.0, 1.0]
    p = boltzmann(q, temperature)[0, 0]
    assert p == pytest.approx(1 / (1 + math.exp(1 / temperature)), rel=1e-9)
    assert p < 0.5


def test_boltzmann_goes_from_the_best_action_to_indifference() -> None:
    q = np.array([0.3, 1.0, 0.9, -np.inf])
    np.testing.assert_allclose(boltzmann(q, 1e-3), [0, 1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(boltzmann(q, 1e6), [1 / 3, 1 / 3, 1 / 3, 0], atol=1e-6)


def test_soft_values_become_hard_ones_without_temperature() -> None:
    mdp = counterexample(10, 0.99)
    np.testing.assert_allclose(soft_q(mdp, 1e-6), hard_q(mdp), atol=1e-4)


def test_the_three_curves_of_the_study() -> None:
    curves = wrong_action(10, 0.99, [0.2, 0.5])
    np.testing.assert_allclose(curves.closed_form, [0.06178, 0.56944], atol=1e-5)
    np.testing.assert_allclose(curves.soft_values, curves.closed_form)
    np.testing.assert_allclose(curves.virel, [0.00669, 0.11920], atol=1e-5)


@pytest.mark.parametrize(("settings", "expected"), PUBLISHED)
def test_with_k_actions_everywhere_both_policies_are_the_same(
    settings: tuple[int, float, float], expected: float
) -> None:
    k, c, gamma = settings
    mdp = with_k_actions(k, gamma)
    assert mdp.start.tolist() == [1.0, 0.0, 0.0]  # the choice is made once, at first
    soft, hard = (boltzmann(q[0], c) for q in (soft_q(mdp, c), hard_q(mdp)))
    assert soft[::2].sum() == pytest.approx(expected, abs=1e-5)
    assert hard[::2].sum() == pytest.approx(1 / (1 + math.exp(1 / c)), rel=1e-9)


def test_an_odd_number_of_actions_cannot_be_shared_equally() -> None:
    with pytest.raises(UserError, match="3"):
        with_k_actions(3, 0.9)
