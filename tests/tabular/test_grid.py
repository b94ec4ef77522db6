"""MIRACLE's grid world: its limits in closed form, and the values of figure 1.

Each table was found once by an independent program; converged rows and rows that the paper's tolerances stop are apart.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from tests.oracles.mirl import soft_values
from worldrl.errors import UserError
from worldrl.tabular.grid import ACTIONS, best_value, distance, grid_world
from worldrl.tabular.mdp import MDP
from worldrl.tabular.solve import (
    Solution,
    evaluate,
    induced,
    mirl,
    mutual_information_value_iteration,
    soft_value_iteration,
    value_iteration,
)

BETAS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
SOFT = (-9.781, -9.684, -9.374, -8.429, -6.839, -5.393, -4.861, -4.670)
SOFT_STOPPED = (-9.742, -9.646, -9.341, -8.409, -6.835, -5.393, -4.861, -4.670)
MUTUAL = (-6.540, -6.430, -6.164, -5.589, -5.029, -4.726, -4.634, -4.602)
WARM_STOPPED = (-6.795, -6.522, -6.174, -5.590, -5.030, -4.726, -4.634, -4.602)
COLD_STOPPED = (-9.740, -9.633, -6.447, -5.624, -5.034, -4.726, -4.634, -4.602)
STOP = 5e-3  # both of the paper's
LEFT_DOWN = np.array([0.5, 0.0, 0.0, 0.5, 0.0])


@cache
def grid(goal: float = 9.0) -> MDP:
    return grid_world(goal=goal)


@cache
def mutual(beta: float) -> Solution:
    return mutual_information_value_iteration(grid(), beta)


def mean(value: np.ndarray) -> float:
    """Over the 255 states that are not the goal."""
    return float(value[~grid().terminal].mean())


def state_independent(policy: np.ndarray, goal: float = 9.0) -> np.ndarray:
    return evaluate(grid(goal), np.tile(policy, (256, 1)))


def test_the_grid() -> None:
    mdp = grid()
    assert mdp.terminal.sum() == 1
    assert mdp.start.sum() == pytest.approx(1.0)
    corner, right_of_goal = 15, 241  # top right, and the goal's right neighbour
    assert distance()[[corner, right_of_goal, 240]].tolist() == [30.0, 1.0, 0.0]
    assert mdp.reward[right_of_goal].tolist() == [9.0, -1.0, -1.0, -1.0, -1.0]
    into_wall = mdp.transition[corner, [ACTIONS.index("right"), ACTIONS.index("up"), ACTIONS.index("stay")]]
    assert into_wall[:, corner].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("goal", "far", "average"), [(9.0, -9.1051, -4.5878), (8.0, -9.1522, -4.8727)])
def test_hard_values_are_those_of_the_shortest_way(goal: float, far: float, average: float) -> None:
    found = value_iteration(grid(goal)).value
    np.testing.assert_allclose(found, best_value(goal=goal), atol=1e-10)
    assert found[15] == pytest.approx(far, abs=1e-4)
    assert mean(found) == pytest.approx(average, abs=1e-4)


@pytest.mark.parametrize(("goal", "average"), [(9.0, -9.8171), (8.0, -9.8267)])
def test_without_temperature_soft_values_are_those_of_the_uniform_policy(goal: float, average: float) -> None:
    value = state_independent(np.full(5, 0.2), goal)
    assert mean(value) == pytest.approx(average, abs=1e-4)
    np.testing.assert_allclose(soft_value_iteration(grid(goal), 1e-5, tolerance=1e-8).value, value, atol=1e-3)
    if goal == 9.0:
        assert value[[15, 241]] == pytest.approx([-10.0, -1.8457], abs=1e-4)


@pytest.mark.parametrize(
    ("goal", "far", "average", "near"), [(9.0, -9.3902, -6.5902, 7.2727), (8.0, -9.4223, -6.7697, None)]
)
def test_half_left_half_down(goal: float, far: float, average: float, near: float | None) -> None:
    value = state_independent(LEFT_DOWN, goal)
    assert value[15] == pytest.approx(far, abs=1e-4)
    assert mean(value) == pytest.approx(average, abs=1e-4)
    assert near is None or value[241] == pytest.approx(near, abs=1e-4)


@pytest.mark.parametrize(("share", "average"), [(0.6, -6.7371), (0.8, -7.7810), (1.0, -9.4083)])
def test_other_mixtures_of_left_and_down_are_worse(share: float, average: float) -> None:
    assert mean(state_independent(np.array([share, 0.0, 0.0, 1 - share, 0.0]))) == pytest.approx(average, abs=1e-4)


def test_the_best_policy_without_state_is_stable() -> None:
    """At six tenths left the rarer move is worth more, so that the prior is pulled back to one half."""
    mdp = grid()
    value = state_independent(np.array([0.6, 0.0, 0.0, 0.4, 0.0]))
    worth = mdp.start @ (mdp.reward + mdp.gamma * mdp.transition @ value)
    assert worth[[0, 3]] == pytest.approx([-6.797, -6.647], abs=1e-3)


def test_figure_1_converged() -> None:
    for beta, soft, expected in zip(BETAS, SOFT, MUTUAL, strict=True):
        assert mean(soft_value_iteration(grid(), beta, tolerance=1e-9).value) == pytest.approx(soft, abs=1e-3)
        assert mean(mutual(beta).value) == pytest.approx(expected, abs=1e-3)
        np.testing.assert_allclose(mutual(beta).prior, LEFT_DOWN, atol=5e-3)
        assert soft < expected  # and every curve ends at the hard values
    assert mean(value_iteration(grid()).value) - MUTUAL[-1] < 0.015


def test_figure_1_with_the_printed_tolerances() -> None:
    """Blahut-Arimoto that starts anew in every sweep hides what the figure claims of small beta."""
    for beta, soft, warm, cold in zip(BETAS, SOFT_STOPPED, WARM_STOPPED, COLD_STOPPED, strict=True):
        assert mean(soft_value_iteration(grid(), beta, tolerance=STOP).value) == pytest.approx(soft, abs=1e-3)
        kept = mutual_information_value_iteration(grid(), beta, tolerance=STOP, inner_tolerance=STOP)
        assert mean(kept.value) == pytest.approx(warm, abs=1e-3)
        anew = mutual_information_value_iteration(grid(), beta, None, STOP, STOP, warm=False)
        assert mean(anew.value) == pytest.approx(cold, abs=1e-3)
        if beta == 0.03:
            assert kept.sweeps == 348
            assert kept.prior == pytest.approx([0.479, 0.004, 0.004, 0.479, 0.035], abs=1e-3)


@pytest.mark.parametrize(
    ("beta", "soft", "expected"), [(0.3, -9.430, -6.384), (1.0, -8.570, -5.850), (10.0, -5.676, -5.010)]
)
def test_figure_1_with_the_other_reading_of_the_goal_step(beta: float, soft: float, expected: float) -> None:
    """A goal of 8. Values are the oracle's for the prior that was found, which is its own marginal."""
    mdp = grid(8.0)
    assert mean(soft_value_iteration(mdp, beta, tolerance=1e-9).value) == pytest.approx(soft, abs=1e-3)
    found = mutual_information_value_iteration(mdp, beta)
    assert mean(found.value) == pytest.approx(expected, abs=1e-3)
    live = ~mdp.terminal
    q = soft_values(mdp.reward[live], mdp.transition[live][..., live], mdp.gamma, found.prior, beta)
    value = np.log((found.prior * np.exp(beta * (q - q.max()))).sum(1)) / beta + q.max()
    np.testing.assert_allclose(value, found.value[live], atol=2e-5)
    np.testing.assert_allclose(found.prior, mdp.start @ found.policy, atol=1e-5)


def test_one_sweep_of_tabular_mirl_by_hand() -> None:
    """The prior of the sweep is the old one; then it moves by the rate to the mean policy."""
    mdp, rate = grid(), 0.1
    found = mirl(mdp, 0.5, mdp.start, rate, sweeps=1)
    weights = 0.2 * np.exp(0.5 * mdp.reward)
    policy = weights / weights.sum(1, keepdims=True)
    np.testing.assert_allclose(found.policy, policy, rtol=1e-12)
    np.testing.assert_allclose(found.value, np.where(mdp.terminal, 0.0, 2.0 * np.log(weights.sum(1))), atol=1e-12)
    np.testing.assert_allclose(found.prior, 0.9 * 0.2 + 0.1 * mdp.start @ policy, rtol=1e-12)


def test_tabular_mirl_finds_the_same_prior() -> None:
    found = mirl(grid(), 1.0, grid().start, rate=0.2, sweeps=600)
    np.testing.assert_allclose(found.prior, mutual(1.0).prior, atol=1e-4)
    np.testing.assert_allclose(found.value, mutual(1.0).value, atol=1e-3)


def test_where_the_policy_is_has_another_prior_than_where_it_might_be() -> None:
    """From the far end of the bottom row a policy that knows where it is needs one action, and not two."""
    small = grid_world(size=5)
    mdp = small._replace(start=np.eye(25)[24])
    fixed = mutual_information_value_iteration(mdp, 1.0, small.start)
    found, p = induced(mdp, 1.0)
    assert p.sum() == pytest.approx(1.0)
    assert p[mdp.terminal].sum() == 0.0
    np.testing.assert_allclose(fixed.prior, LEFT_DOWN, atol=0.02)
    assert found.prior[0] > 0.99  # left
    assert mdp.start @ found.value > mdp.start @ fixed.value + 0.01
    with pytest.raises(UserError) as refused:
        induced(mdp, 1.0, rounds=1)
    assert refused.value.where == "the induced distribution"
