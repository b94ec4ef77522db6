"""VIREL, sections 3 and 4, appendices B to G: each statement, and each misprint with what holds in its place."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.oracles import tabular as oracle
from worldrl.errors import UserError
from worldrl.heads.mpo import action_weights
from worldrl.tabular.mdp import MDP, make_mdp, random_mdp
from worldrl.tabular.solve import backup, boltzmann, evaluate, expect, greedy, policy_iteration, value_iteration
from worldrl.tabular.virel import (
    Critic,
    Recursion,
    action_posterior,
    bellman_error,
    best_residual,
    bounded,
    correlation,
    covariance,
    direct_slope,
    divergence,
    e_step,
    em_dependent_target,
    em_fixed_target,
    evidence,
    gtd2,
    gtd2_rate,
    incremental_fixed_point,
    incremental_residual,
    incremental_slope,
    incremental_slope_printed,
    joint_divergence,
    likelihood,
    linear,
    m_step,
    mpo_em,
    objective,
    projected_residual,
    projected_residual_concise,
    projected_slope,
    projection_weights,
    recursion,
    residual,
    slope_of_error,
    tabular,
    target,
    td_system,
    temperature,
    temperature_slope,
    temperature_slope_printed,
    temperatures,
    theorem_4,
    theorem_4_printed,
)


class Bench:
    """A random process of four states and three actions, a critic, a policy, a distribution of states."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.rng = rng
        self.mdp = random_mdp(rng, 4, 3)
        self.q = rng.normal(size=(4, 3))
        self.policy = boltzmann(rng.normal(size=(4, 3)), 1.0)
        self.d = rng.dirichlet(np.ones(4))
        self.best = backup(self.mdp, value_iteration(self.mdp).value)
        self.features = rng.normal(size=(4, 3, 5))
        self.weight = rng.normal(size=5)


@pytest.fixture(params=range(3))
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(request.param)


def softmax_of(logits: np.ndarray) -> np.ndarray:
    return boltzmann(logits, 1.0)


# --- section 3 --------------------------------------------------------------------------------------------------------


def test_the_residual_and_its_own_temperature_are_the_oracles(bench: Bench) -> None:
    mdp = bench.mdp
    expected = oracle.residual(mdp.transition, mdp.reward, mdp.gamma, bench.q, 0.3)
    assert residual(mdp, bench.q, 0.3) == pytest.approx(expected, rel=1e-12)
    found = temperature(mdp, bench.q)
    assert found == pytest.approx(oracle.temperature(mdp.transition, mdp.reward, mdp.gamma, bench.q), rel=1e-9)


def test_the_recursion_for_epsilon_has_one_root_for_small_rewards() -> None:
    rng = np.random.default_rng(0)
    for _ in range(150):
        assert len(temperatures(random_mdp(rng, 4, 3), 3 * rng.normal(size=(4, 3)), 100)) == 1


def test_the_recursion_for_epsilon_has_more_roots_for_large_rewards() -> None:
    """At Q* the residual is zero and so is one solution, but eq. 3 with large temperatures may solve it too."""
    bench = Bench(1)
    for scale, roots in ((1.0, 0), (1000.0, 2)):
        mdp = bench.mdp._replace(reward=scale * bench.mdp.reward)
        found = temperatures(mdp, scale * bench.best)
        assert temperature(mdp, scale * bench.best) == 0.0
        assert len(found) == roots
        for epsilon in found:
            assert residual(mdp, scale * bench.best, epsilon) == pytest.approx(epsilon, rel=1e-9)


@pytest.mark.parametrize(("scale", "with_more"), [(30.0, 0), (100.0, 19), (1000.0, 20)])
def test_in_how_many_problems_it_has_more_roots(scale: float, with_more: int) -> None:
    problems = [(bench, bench.mdp._replace(reward=scale * bench.mdp.reward)) for bench in map(Bench, range(20))]
    assert sum(bool(temperatures(mdp, scale * bench.best)) for bench, mdp in problems) == with_more


@pytest.mark.parametrize(
    ("epsilon", "error"), [(0.1, -0.02320), (0.01, -0.0023854), (0.001, -0.00023880), (1e-4, -0.0000238829)]
)
def test_theorem_1_the_boltzmann_distribution_becomes_its_maximum(epsilon: float, error: float) -> None:
    """f = -(x - 0.3)^2 and phi = cos on [-1, 1]; to first order the error is -epsilon / 4 cos 0.3."""
    x = np.linspace(-1, 1, 400_001)
    weight = np.exp(-((x - 0.3) ** 2) / epsilon)
    weight[[0, -1]] /= 2
    found = float(weight @ np.cos(x) / weight.sum() - np.cos(0.3))
    assert found == pytest.approx(error, rel=1e-3)
    if epsilon <= 1e-2:
        assert found == pytest.approx(-epsilon / 4 * np.cos(0.3), rel=2e-3)


def test_lemma_1_part_i_is_for_continuous_actions_only(bench: Bench) -> None:
    """A deterministic choice has a finite objective, E Q / epsilon; a density whose width vanishes has not."""
    choice = greedy(bench.q)
    expected = float(bench.d @ bench.q.max(-1)) / 0.3
    assert objective(bench.q, 0.3, choice, bench.d) == pytest.approx(expected)
    for cells in (10, 1000, 100_000):  # a density on [0, 1] that is uniform in one cell and zero in the others
        q = np.linspace(-1, 1, cells)[None]
        value = objective(q, 0.3, greedy(q), np.ones(1)) + np.log(1 / cells)
        assert value == pytest.approx(1 / 0.3 - np.log(cells))


def test_lemma_1_part_ii_needs_positive_values(bench: Bench) -> None:
    positive = bench.q - bench.q.min() + 0.1
    assert objective(positive, 1e-8, bench.policy, bench.d) > 1e6
    assert objective(-positive, 1e-8, bench.policy, bench.d) < -1e6


def test_theorem_2_the_residual_is_zero_at_the_optimum_and_nowhere_else(bench: Bench) -> None:
    assert best_residual(bench.mdp, bench.best) < 1e-20
    assert temperature(bench.mdp, bench.best) == 0.0
    for scale in (1e-2, 1.0):
        for _ in range(500):
            assert best_residual(bench.mdp, bench.best + scale * bench.rng.normal(size=(4, 3))) > 1e-7
    assert temperature(bench.mdp, bench.best + 0.1 * bench.rng.normal(size=(4, 3))) > 0


def test_theorem_3_is_about_differences(bench: Bench) -> None:
    """L(theta*) - L(theta) = E KL exactly; the printed equality of the two values does not hold."""
    best = boltzmann(bench.q, 0.3)
    gap = objective(bench.q, 0.3, best, bench.d) - objective(bench.q, 0.3, bench.policy, bench.d)
    assert gap == pytest.approx(float(bench.d @ divergence(bench.policy, best)), abs=1e-12)
    assert bench.d @ divergence(best, best) == pytest.approx(0.0, abs=1e-12)
    chosen = -np.log(best[np.arange(4), bench.q.argmax(-1)])  # of a policy with zeros
    np.testing.assert_allclose(divergence(greedy(bench.q), best), chosen, rtol=1e-12)
    assert abs(objective(bench.q, 0.3, best, bench.d)) > 0.1


def test_eq_5_is_an_identity(bench: Bench) -> None:
    entropy = float(-bench.d @ np.log(bench.d))
    right = evidence(bench.q, 0.3) - joint_divergence(bench.q, 0.3, bench.policy, bench.d) - entropy
    assert objective(bench.q, 0.3, bench.policy, bench.d) == pytest.approx(right, abs=1e-12)


def test_the_target_of_the_boltzmann_policy_becomes_the_best_one(bench: Bench) -> None:
    """Appendix C; a fixed point at a temperature above 0 is not its own Q."""
    np.testing.assert_allclose(
        target(bench.mdp, bench.q, boltzmann(bench.q, 1e-4)), target(bench.mdp, bench.q, greedy(bench.q)), atol=1e-10
    )


def test_only_subtracting_the_least_reward_makes_rewards_positive(bench: Bench) -> None:
    """Assumption 1 says adding. Without end, a constant shifts Q* and leaves the best policy."""
    reward = bench.mdp.reward - 0.7
    least = reward.min()
    assert least < 0
    assert (reward + least).min() < 0
    lifted = bench.mdp._replace(reward=reward - least)
    q = backup(lifted, value_iteration(lifted).value)
    np.testing.assert_allclose(q - bench.best, (-0.7 - least) / (1 - 0.9), atol=1e-9)
    assert q.min() > 0


def test_a_constant_changes_what_is_best_where_episodes_end() -> None:
    """Action 0 stays and pays -1, action 1 ends and pays -2: with the least reward subtracted, staying is best."""
    stay, leave = [1.0, 0.0], [0.0, 1.0]
    mdp = make_mdp([[stay, leave], [leave, leave]], [[-1.0, -2.0], [0.0, 0.0]], 0.9, [False, True])
    assert value_iteration(mdp).policy[0].tolist() == [0.0, 1.0]
    lifted = mdp._replace(reward=mdp.reward + 2.0)
    assert value_iteration(lifted).policy[0].tolist() == [1.0, 0.0]


# --- section 4 and appendix E -----------------------------------------------------------------------------------------


def test_gradients_where_episodes_end(bench: Bench) -> None:
    """An end is worth nothing whatever Q says of it: as if no transition led there."""
    mdp, q = bench.mdp._replace(terminal=np.arange(4) == 3), bench.q
    free = bench.mdp._replace(transition=np.where(np.arange(4) == 3, 0.0, bench.mdp.transition))
    np.testing.assert_allclose(target(mdp, q, bench.policy), target(free, q, bench.policy), rtol=1e-12)
    critic = bounded(bench.features, bench.weight)
    found = slope_of_error(mdp, critic, bench.policy)
    for pair in ((0, 0), (2, 1), (3, 2)):

        def error(w: np.ndarray, pair: tuple[int, int] = pair) -> float:
            return float(bellman_error(free, bounded(bench.features, w).q, bench.policy)[pair])

        np.testing.assert_allclose(found[pair], oracle.slope(error, bench.weight), atol=1e-8)
    epsilon = temperature(mdp, q)
    by_differences = oracle.slope(lambda y: temperature_of(free, y), q, 1e-5).ravel()
    np.testing.assert_allclose(
        temperature_slope(recursion(mdp, tabular(q), epsilon), epsilon, 0.9), by_differences, atol=2e-9
    )
    by_differences = oracle.slope(lambda y: incremental_residual(free, y, 0.5), q).ravel()
    np.testing.assert_allclose(incremental_slope(mdp, tabular(q), 0.5), by_differences, atol=1e-8)
    for part, expected in zip(
        td_system(mdp, bench.features, bench.policy), td_system(free, bench.features, bench.policy), strict=True
    ):
        np.testing.assert_allclose(part, expected, rtol=1e-12)


def test_the_printed_forms_in_numbers(bench: Bench) -> None:
    """Of theorem 4, eq. 30 and eq. 31, which has no term of the policy."""
    x = Recursion(np.array([2.0]), 3.0, np.array([5.0]), 7.0)
    assert theorem_4_printed(x, 0.5, 0.8) == pytest.approx(9.5 / 1.65)
    assert temperature_slope_printed(x, 0.5, 0.8) == pytest.approx(9.5 / 1.65 + 5.0)
    policy = boltzmann(bench.q, 0.5)
    beta = bellman_error(bench.mdp, bench.q, policy)
    reached = np.einsum("sa,sat->t", beta, bench.mdp.transition)
    expected = (reached[:, None] * policy - beta).ravel() / 12
    np.testing.assert_allclose(incremental_slope_printed(bench.mdp, tabular(bench.q), 0.5), expected, atol=1e-12)


def test_the_e_step_is_a_gradient(bench: Bench) -> None:
    """Eqs. 6 and 25, and with a prior eq. 43, of a softmax policy."""
    logits = bench.rng.normal(size=(4, 3))
    prior = boltzmann(bench.rng.normal(size=(4, 3)), 1.0)

    def plain(x: np.ndarray) -> float:
        return 0.3 * objective(bench.q, 0.3, softmax_of(x), bench.d)

    def regularised(x: np.ndarray) -> float:
        policy = softmax_of(x)
        return float(bench.d @ (expect(policy, bench.q) - 0.3 * divergence(policy, prior)))

    found = e_step(bench.q, 0.3, softmax_of(logits), bench.d)
    np.testing.assert_allclose(found, oracle.slope(plain, logits), atol=1e-9)
    found = e_step(bench.q, 0.3, softmax_of(logits), bench.d, prior)
    np.testing.assert_allclose(found, oracle.slope(regularised, logits), atol=1e-9)


def test_the_e_step_in_score_form(bench: Bench) -> None:
    """E[Q grad log pi] by the definition, action by action."""
    score = np.eye(3)[None] - bench.policy[:, None]  # (S, a, logit)
    gain = np.einsum("sa,sa,sal->sl", bench.policy, bench.q, score)
    slope_of_entropy = -np.einsum("sa,sal,sa->sl", bench.policy, score, np.log(bench.policy))
    expected = bench.d[:, None] * (gain + 0.3 * slope_of_entropy)
    np.testing.assert_allclose(e_step(bench.q, 0.3, bench.policy, bench.d), expected, atol=1e-14)


def temperature_of(mdp: MDP, q: np.ndarray) -> float:
    return oracle.temperature(mdp.transition, mdp.reward, mdp.gamma, q)


def test_theorem_4_and_eq_30_corrected_and_as_printed(bench: Bench) -> None:
    q = bench.q
    epsilon = temperature(bench.mdp, q)
    x = recursion(bench.mdp, tabular(q), epsilon)
    by_differences = oracle.slope(lambda y: temperature_of(bench.mdp, y), q, 1e-5).ravel()
    found = temperature_slope(x, epsilon, 0.9)
    np.testing.assert_allclose(found, by_differences, atol=2e-9)
    printed = temperature_slope_printed(x, epsilon, 0.9)
    assert np.abs(printed - by_differences).max() > 0.1 * np.abs(by_differences).max()
    held = theorem_4(x, epsilon, 0.9)
    np.testing.assert_allclose(0.9 * held, by_differences - x.evaluation, atol=2e-9)
    assert np.abs(theorem_4_printed(x, epsilon, 0.9) - held).max() > 0.03 * np.abs(held).max()


def test_theorem_4_for_a_critic_with_few_parameters(bench: Bench) -> None:
    critic = bounded(bench.features, bench.weight)
    epsilon = temperature(bench.mdp, critic.q)
    found = temperature_slope(recursion(bench.mdp, critic, epsilon), epsilon, 0.9)
    by_differences = oracle.slope(lambda w: temperature_of(bench.mdp, bounded(bench.features, w).q), bench.weight, 1e-5)
    np.testing.assert_allclose(found, by_differences, atol=2e-8)


def test_the_m_step_is_a_gradient(bench: Bench) -> None:
    """Eq. 7, through the temperature too."""
    epsilon = temperature(bench.mdp, bench.q)

    def objective_of(q: np.ndarray) -> float:
        return objective(q, temperature_of(bench.mdp, q), bench.policy, bench.d)

    slope = temperature_slope(recursion(bench.mdp, tabular(bench.q), epsilon), epsilon, 0.9)
    found = m_step(tabular(bench.q), epsilon, slope, bench.policy, bench.d)
    expected = epsilon**2 * oracle.slope(objective_of, bench.q, 1e-5).ravel()
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_at_the_optimum_there_is_no_m_step(bench: Bench) -> None:
    """Section 4.2: epsilon and its gradient are zero."""
    error = bellman_error(bench.mdp, bench.best, greedy(bench.best))
    np.testing.assert_allclose(error, 0.0, atol=1e-9)
    slope = direct_slope(bench.mdp, tabular(bench.best), greedy(bench.best))
    np.testing.assert_allclose(m_step(tabular(bench.best), 0.0, slope, bench.policy, bench.d), 0.0, atol=1e-9)


def test_the_direct_method_has_the_sign_of_the_m_step(bench: Bench) -> None:
    """Appendix F.3 prints E[(Q - T Q) grad Q] with a minus before it, and then without."""
    fixed = target(bench.mdp, bench.q, bench.policy)
    expected = oracle.slope(lambda q: 0.5 * float(np.mean((fixed - q) ** 2)), bench.q).ravel()
    np.testing.assert_allclose(direct_slope(bench.mdp, tabular(bench.q), bench.policy), expected, atol=1e-9)


# --- appendix F.1 -----------------------------------------------------------------------------------------------------


def test_eq_33_and_its_concise_form(bench: Bench) -> None:
    critic = bounded(bench.features, bench.weight)
    beta = bellman_error(bench.mdp, critic.q, bench.policy)
    flat = critic.slope.reshape(-1, 5)
    projector = flat @ np.linalg.solve(flat.T @ flat, flat.T)
    by_definition = 0.5 * float(np.mean((projector @ beta.ravel()) ** 2))
    assert projected_residual(critic.slope, beta) == pytest.approx(by_definition, rel=1e-10)
    assert projected_residual_concise(critic.slope, beta) == pytest.approx(by_definition, rel=1e-10)


def test_the_projected_residual_is_zero_at_the_td_fixed_point(bench: Bench) -> None:
    a, y = td_system(bench.mdp, bench.features, bench.policy)
    q = bench.features @ np.linalg.solve(a, y)
    beta = bellman_error(bench.mdp, q, bench.policy)
    assert projected_residual(bench.features, beta) < 1e-24
    np.testing.assert_allclose(correlation(bench.features, beta), 0.0, atol=1e-12)
    assert np.abs(beta).max() > 1e-3  # although the Bellman equation does not hold


def test_the_gradient_of_the_projected_residual_needs_its_hessian(bench: Bench) -> None:
    def of(weight: np.ndarray) -> float:
        critic = bounded(bench.features, weight)
        return projected_residual(critic.slope, bellman_error(bench.mdp, critic.q, bench.policy))

    expected = oracle.slope(of, bench.weight)
    critic = bounded(bench.features, bench.weight)
    np.testing.assert_allclose(projected_slope(bench.mdp, critic, bench.policy), expected, atol=1e-8)
    without = projected_slope(bench.mdp, critic, bench.policy, hessian=False)
    assert np.abs(without - expected).max() > 0.05 * np.abs(expected).max()


def test_the_derivatives_of_the_bounded_critic(bench: Bench) -> None:
    critic = bounded(bench.features, bench.weight)

    def q(w: np.ndarray) -> float:
        return float(bounded(bench.features, w).q[1, 2])

    def first_slope(w: np.ndarray) -> float:
        return float(bounded(bench.features, w).slope[1, 2, 0])

    np.testing.assert_allclose(critic.slope[1, 2], oracle.slope(q, bench.weight), atol=1e-8)
    np.testing.assert_allclose(critic.bend[1, 2, 0], oracle.slope(first_slope, bench.weight), atol=1e-8)


def test_eqs_34_and_35_come_to_the_td_fixed_point(bench: Bench) -> None:
    a, y = td_system(bench.mdp, bench.features, bench.policy)
    omega, zeta = gtd2(bench.mdp, bench.features, bench.policy, rate=0.1, ratio=1.0, steps=30_000)
    np.testing.assert_allclose(omega, np.linalg.solve(a, y), atol=1e-6)
    np.testing.assert_allclose(zeta, 0.0, atol=1e-6)
    omega, zeta = gtd2(bench.mdp, bench.features, bench.policy, rate=0.1, ratio=3.0, steps=2)
    first = 0.3 * y  # of zeta; omega follows one step later
    np.testing.assert_allclose(omega, 0.1 * a.T @ first, atol=1e-12)
    np.testing.assert_allclose(zeta, first + 0.3 * (y - covariance(bench.features) @ first), atol=1e-12)


def test_the_rest_point_of_eq_34(bench: Bench) -> None:
    critic = bounded(bench.features, bench.weight)
    beta = bellman_error(bench.mdp, critic.q, bench.policy)
    zeta = np.zeros(5)
    for _ in range(4_000):
        zeta = zeta + 0.3 * (correlation(critic.slope, beta) - covariance(critic.slope) @ zeta)
    np.testing.assert_allclose(zeta, projection_weights(critic.slope, beta), atol=1e-5)


def test_the_printed_order_of_time_scales_is_slow_in_proportion(bench: Bench) -> None:
    """All are stable; alpha_zeta far below alpha_omega costs a factor of a hundred and more."""
    rates = {ratio: gtd2_rate(bench.mdp, bench.features, bench.policy, ratio) for ratio in (100, 10, 1, 0.1, 0.01)}
    assert max(rates.values()) < 0
    assert rates[0.1] / rates[0.01] == pytest.approx(10, rel=0.05)
    assert rates[10] / rates[0.01] > 20
    assert rates[100] / rates[10] < 2


# --- appendix F.2 and theorem 5 ---------------------------------------------------------------------------------------


def test_theorem_5_the_least_incremental_residual_is_epsilon_k(bench: Bench) -> None:
    """At a fixed point of the operator; and these go to Q*."""
    distance = []
    for epsilon in (0.1, 0.03, 0.01):
        q = incremental_fixed_point(bench.mdp, epsilon)
        assert incremental_residual(bench.mdp, q, epsilon) == pytest.approx(epsilon, abs=1e-20)
        others = [q + 0.1 * bench.rng.normal(size=(4, 3)) for _ in range(20)]
        assert min(incremental_residual(bench.mdp, other, epsilon) for other in others) > epsilon
        distance.append(np.abs(q - bench.best).max())
    assert distance[0] > distance[1] > distance[2]
    assert distance[2] < 0.02


def test_eq_37_holds_of_minima_only(bench: Bench) -> None:
    """The limit of the incremental residual is that of T*, and not epsilon of the recursion."""
    limit = incremental_residual(bench.mdp, bench.q, 1e-6)
    assert limit == pytest.approx(best_residual(bench.mdp, bench.q), abs=1e-5)
    assert abs(limit - temperature(bench.mdp, bench.q)) > 0.01


def test_eq_31_lacks_a_factor(bench: Bench) -> None:
    epsilon = 0.5
    expected = oracle.slope(lambda q: incremental_residual(bench.mdp, q, epsilon), bench.q).ravel()
    critic = tabular(bench.q)
    np.testing.assert_allclose(incremental_slope(bench.mdp, critic, epsilon), expected, atol=1e-8)
    printed = incremental_slope_printed(bench.mdp, critic, epsilon)
    assert np.abs(printed - expected).max() > 0.1 * np.abs(expected).max()


def test_a_missing_fixed_point_is_one_line(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    monkeypatch.setattr("worldrl.tabular.virel.boltzmann", lambda q, epsilon: greedy(-q * np.sign(np.sin(1e3 * q))))
    monkeypatch.setattr("worldrl.tabular.virel.MOST_BACKUPS", 100)
    with pytest.raises(UserError, match="no fixed point"):
        incremental_fixed_point(bench.mdp, 0.1)


# --- appendices F.5, B and G ------------------------------------------------------------------------------------------


def test_complete_steps_are_policy_iteration(bench: Bench) -> None:
    steps = em_dependent_target(bench.mdp, bench.policy, 6)
    first = evaluate(bench.mdp, bench.policy)
    np.testing.assert_allclose(steps[0][0], backup(bench.mdp, first))
    np.testing.assert_allclose(steps[-1][0], bench.best, atol=1e-9)
    done = policy_iteration(bench.mdp, steps[0][1])
    np.testing.assert_array_equal(steps[-1][1], done.policy)


def test_the_direct_method_is_value_iteration_with_the_discount_that_eq_41_lacks(bench: Bench) -> None:
    steps = em_fixed_target(bench.mdp, bench.q, bench.policy, 20)
    for before, after in pairwise(steps):
        np.testing.assert_allclose(after, backup(bench.mdp, before.max(-1)), atol=1e-12)
        undiscounted = bench.mdp.reward + bench.mdp.transition @ before.max(-1)
        assert np.abs(after - undiscounted).max() > 0.01


def test_appendix_b_the_posterior_of_actions_is_the_boltzmann_policy(bench: Bench) -> None:
    y = likelihood(bench.q, 0.3)
    assert y.max() == 1.0
    assert y.min() > 0
    np.testing.assert_allclose(action_posterior(bench.q, 0.3), boltzmann(bench.q, 0.3), atol=1e-14)


def test_appendix_g_the_e_step_of_mpo(bench: Bench) -> None:
    prior = boltzmann(bench.rng.normal(size=(4, 3)), 1.0)
    found = action_posterior(bench.q, 0.3, prior)
    by_hand = prior * np.exp(bench.q / 0.3)
    np.testing.assert_allclose(found, by_hand / by_hand.sum(-1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(e_step(bench.q, 0.3, found, bench.d, prior), 0.0, atol=1e-12)
    np.testing.assert_allclose(mpo_em(bench.q, 0.3, prior, 1), found, rtol=1e-12)
    np.testing.assert_allclose(mpo_em(bench.q, 0.3, prior, 7), mpo_em(bench.q, 0.3 / 7, prior, 1), rtol=1e-9)
    np.testing.assert_allclose(mpo_em(bench.q, 1e6, prior, 1), prior, atol=1e-5)
    np.testing.assert_allclose(mpo_em(bench.q, 1e-4, prior, 1), greedy(bench.q), atol=1e-9)
    assert bench.d @ divergence(found, found) == pytest.approx(0.0, abs=1e-12)  # the M-step sets pi_phi = pi_theta


def test_the_weights_of_the_mpo_head_are_that_e_step(bench: Bench) -> None:
    """Of actions that were drawn in proportion to the old policy."""
    counts = np.array([1, 2, 5])
    drawn = np.repeat(np.arange(3), counts)
    for s in range(4):
        weight = action_weights(torch.tensor(bench.q[s, drawn]), torch.tensor(0.3, dtype=torch.float64)).numpy()
        found = np.array([weight[drawn == a].sum() for a in range(3)])
        prior = np.tile(counts / counts.sum(), (4, 1))
        np.testing.assert_allclose(found, action_posterior(bench.q, 0.3, prior)[s], atol=1e-12)


def test_a_linear_critic_has_no_hessian(bench: Bench) -> None:
    critic: Critic = linear(bench.features, bench.weight)
    np.testing.assert_allclose(critic.q, np.einsum("san,n->sa", bench.features, bench.weight))
    both = [projected_slope(bench.mdp, critic, bench.policy, hessian) for hessian in (True, False)]
    np.testing.assert_allclose(*both)
    gamma = slope_of_error(bench.mdp, critic, bench.policy)
    np.testing.assert_allclose(
        gamma @ bench.weight, bellman_error(bench.mdp, critic.q, bench.policy) - bench.mdp.reward
    )
