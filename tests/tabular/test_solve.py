"""Solvers against loops over states and actions, and against each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.oracles import tabular as oracle
from worldrl.errors import UserError
from worldrl.tabular.grid import grid_world
from worldrl.tabular.mdp import MDP, make_mdp, random_mdp
from worldrl.tabular.solve import (
    backup,
    boltzmann,
    evaluate,
    greedy,
    lse,
    max_entropy_value_iteration,
    mutual_information_value_iteration,
    policy_iteration,
    soft_policy,
    soft_value_iteration,
    value_iteration,
    visits,
)

OF_THE_END = [100.0, -100.0, 7.0]  # rewards of a row that has no effect


def ended(seed: int) -> MDP:
    """A random process whose last state is an end."""
    free = random_mdp(np.random.default_rng(seed), 5, 3)
    return make_mdp(free.transition, free.reward, 0.8, np.arange(5) == 4)


@pytest.mark.parametrize("seed", range(3))
def test_hard_values(seed: int) -> None:
    mdp = ended(seed)
    found = value_iteration(mdp)
    expected = oracle.hard_values(mdp.transition, mdp.reward, mdp.gamma, list(mdp.terminal), 130)
    np.testing.assert_allclose(found.value, expected, atol=1e-10)
    improved = policy_iteration(mdp, greedy(-mdp.reward))
    np.testing.assert_allclose(improved.value, found.value, atol=1e-10)
    np.testing.assert_array_equal(improved.policy, found.policy)


def test_an_end_has_no_future_and_its_own_rows_have_no_effect() -> None:
    mdp, value = ended(0), np.arange(1.0, 6.0)
    expected = oracle.backup(mdp.transition, mdp.reward, mdp.gamma, list(value), list(mdp.terminal))
    np.testing.assert_allclose(backup(mdp, value), expected, rtol=1e-12)
    reward, transition = mdp.reward.copy(), mdp.transition.copy()
    reward[4], transition[4] = OF_THE_END, np.eye(5)[1]
    other, policy = mdp._replace(reward=reward, transition=transition), boltzmann(np.eye(5)[:, :3], 1.0)
    for solve in (
        value_iteration,
        lambda x: soft_value_iteration(x, 2.0),
        lambda x: max_entropy_value_iteration(x, 2.0),
        lambda x: mutual_information_value_iteration(x, 2.0, np.full(5, 0.2)),
        lambda x: policy_iteration(x, policy),
    ):
        np.testing.assert_array_equal(solve(other).value, solve(mdp).value)
        np.testing.assert_array_equal(solve(other).prior, solve(mdp).prior)
    np.testing.assert_array_equal(evaluate(other, policy), evaluate(mdp, policy))
    np.testing.assert_array_equal(visits(other, policy), visits(mdp, policy))


@pytest.mark.parametrize("seed", range(3))
def test_soft_values(seed: int) -> None:
    mdp, prior = ended(seed), np.array([0.2, 0.5, 0.3])
    found = soft_value_iteration(mdp, 2.0, prior)
    expected = oracle.soft_values(mdp.transition, mdp.reward, mdp.gamma, list(mdp.terminal), 2.0, list(prior), 130)
    np.testing.assert_allclose(found.value, expected, atol=1e-10)


def test_values_of_a_policy_and_where_it_is() -> None:
    mdp = random_mdp(np.random.default_rng(1), 4, 3)
    policy = boltzmann(np.random.default_rng(2).normal(size=(4, 3)), 1.0)
    value = evaluate(mdp, policy)
    expected = oracle.rollout_value(mdp.transition, mdp.reward, mdp.gamma, policy, 400)
    np.testing.assert_allclose(value, expected, atol=1e-10)
    gain = (policy * mdp.reward).sum(-1)
    assert visits(mdp, policy) @ gain / (1 - mdp.gamma) == pytest.approx(mdp.start @ value)


def test_soft_values_between_hard_ones_and_those_of_the_prior() -> None:
    mdp, prior = ended(0), np.array([0.2, 0.5, 0.3])
    np.testing.assert_allclose(
        soft_value_iteration(mdp, 1e4, prior).value, value_iteration(mdp).value, atol=1e-2 / (1 - mdp.gamma)
    )
    at_rest = evaluate(mdp, np.tile(prior, (5, 1)))
    np.testing.assert_allclose(soft_value_iteration(mdp, 1e-6, prior).value, at_rest, atol=1e-5)


def test_remark_2_entropy_is_the_uniform_prior_up_to_a_price_per_step() -> None:
    """Without end the price is the same for all policies; with one, it is a reason to end early or late."""
    mdp = random_mdp(np.random.default_rng(3), 4, 3)
    entropy, prior = max_entropy_value_iteration(mdp, 0.5), soft_value_iteration(mdp, 2.0)
    np.testing.assert_allclose(entropy.value - prior.value, 0.5 * np.log(3) / (1 - mdp.gamma), rtol=1e-9)
    np.testing.assert_allclose(entropy.policy, prior.policy, rtol=1e-9)
    mdp = ended(3)
    assert np.abs(max_entropy_value_iteration(mdp, 0.5).policy - soft_value_iteration(mdp, 2.0).policy).max() > 1e-3


def test_extreme_values_neither_overflow_nor_lose_a_distribution() -> None:
    q = np.array([[1e5, -1e5, 3.0]])
    assert lse(q)[0] == 1e5
    assert np.exp(soft_policy(q, np.log([0.2, 0.3, 0.5]), 100.0)).tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("run", "where"),
    [
        (lambda mdp: soft_value_iteration(mdp, 1.0, np.array([0.5, 0.5, 0.0])), "prior[2]"),
        (lambda mdp: soft_value_iteration(mdp, 1.0, np.array([0.5, 0.4, 0.2])), "prior"),
        (lambda mdp: mutual_information_value_iteration(mdp, 1.0, np.ones(5)), "p"),
        (lambda mdp: mutual_information_value_iteration(mdp, 0.0), "beta"),
        (lambda mdp: soft_value_iteration(mdp, -1.0), "beta"),
        (lambda mdp: soft_value_iteration(mdp, np.nan), "beta"),
        (lambda mdp: max_entropy_value_iteration(mdp, 0.0), "temperature"),
    ],
)
def test_bad_distributions_and_temperatures_are_refused(run, where: str) -> None:
    with pytest.raises(UserError) as error:
        run(ended(0))
    assert error.value.where == where


def test_rewards_without_end_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldrl.tabular.solve.LIMIT", 100)
    stay, leave = [1.0, 0.0], [0.0, 1.0]
    mdp = make_mdp([[stay, leave], [leave, leave]], [[1.0, 0.0], [0.0, 0.0]], 1.0, terminal=[False, True])
    with pytest.raises(UserError, match="no convergence"):
        value_iteration(mdp)


@pytest.mark.parametrize("run", [evaluate, visits])
def test_without_discount_a_policy_must_end(run: Any) -> None:
    """Three states that lead only to each other: their linear equations are singular, but rounding hides it."""
    among, end = [0.7, 0.2, 0.1, 0.0], [0.0, 0.0, 0.0, 1.0]
    assert sum(among) < 1.0  # by rounding: no exit
    transition, stay, leave = [[among, end]] * 3 + [[end, end]], [1.0, 0.0], [0.01, 0.99]
    mdp = make_mdp(transition, [[1.0, 0.0]] * 4, 1.0, terminal=[False, False, False, True])
    with pytest.raises(UserError, match="never ends"):
        run(mdp, np.array([stay] * 4))
    assert np.isfinite(run(mdp, np.array([stay, stay, leave, stay]))).all()


def test_without_discount_an_exit_may_be_several_steps_away() -> None:
    corridor = make_mdp(np.eye(5)[[1, 2, 3, 4, 4]][:, None], np.full((5, 1), -1.0), 1.0, np.arange(5) == 4)
    assert evaluate(corridor, np.ones((5, 1))).tolist() == [-4.0, -3.0, -2.0, -1.0, 0.0]


def test_the_value_of_a_missing_action_is_never_looked_at() -> None:
    mdp = make_mdp(np.tile(np.eye(2), (2, 1, 1)), [[1.0, -np.inf], [0.0, 2.0]], 0.5)
    assert np.isneginf(backup(mdp, np.zeros(2))[0, 1])
    np.testing.assert_allclose(evaluate(mdp, np.eye(2)), [2.0, 4.0])
    np.testing.assert_allclose(value_iteration(mdp).value, [2.0, 4.0])


def test_among_equal_actions_the_first_is_the_best() -> None:
    assert greedy(np.array([[0.0, 2.0, 2.0], [1.0, 1.0, 1.0]])).tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    mdp = make_mdp(np.full((2, 3, 2), 0.5), np.ones((2, 3)), 0.5)
    mixed = np.full((2, 3), 1 / 3)  # as good as any, but no choice
    assert policy_iteration(mdp, mixed).policy.tolist() == [[1.0, 0.0, 0.0]] * 2


@pytest.mark.parametrize("scale", [1.0, 1e8])
def test_policy_iteration_settles_among_equal_actions(scale: float) -> None:
    world = grid_world(8, gamma=0.95)
    slips = 0.8 * world.transition + 0.2 * world.transition.mean(1, keepdims=True)
    mdp = make_mdp(slips, scale * world.reward, world.gamma, world.terminal)
    found = policy_iteration(mdp, np.full(mdp.reward.shape, 1 / mdp.reward.shape[1]))
    assert found.sweeps < 30
    np.testing.assert_allclose(found.value, value_iteration(mdp, 1e-12 * scale).value, atol=1e-9 * scale)


def test_a_state_without_prior_for_its_actions_is_named() -> None:
    transition = np.zeros((2, 2, 2))
    transition[0, :] = 0.5
    transition[1, :, 0] = 1
    mdp = make_mdp(transition, [[1.0, -np.inf], [-np.inf, 0.0]], 0.9, start=[1.0, 0.0])
    assert np.isfinite(mutual_information_value_iteration(mdp, 1.0).value).all()
    with pytest.raises(UserError, match="state 1"):
        mutual_information_value_iteration(mdp, 1.0, mdp.start)
