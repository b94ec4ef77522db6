"""MIRACLE, section 3.2 and appendices A to D: theorem 1, lemmas 1 to 4 and corollary 1 on 200 random problems."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from tests.oracles import tabular as oracle
from worldrl.tabular.mdp import random_mdp
from worldrl.tabular.solve import (
    Pair,
    backup,
    blahut_arimoto,
    evaluate_pair,
    greedy,
    improve,
    marginal,
    soft_policy,
    soft_value,
    uniform,
)

PROBLEMS, STATES, ACTIONS = 200, 6, 4


class Problems(NamedTuple):
    """Q = R + gamma P V of random processes and values, with random distributions of states and temperatures."""

    q: np.ndarray  # (N, S, A)
    p: np.ndarray  # (N, S)
    beta: np.ndarray  # (N, 1, 1)
    start: np.ndarray  # (N, S, A) log policies


@pytest.fixture(scope="module")
def problems() -> Problems:
    rng = np.random.default_rng(0)
    mdps = [random_mdp(rng, STATES, ACTIONS) for _ in range(PROBLEMS)]
    q = np.stack([backup(mdp, 3 * rng.normal(size=STATES)) for mdp in mdps])
    beta = 10 ** rng.uniform(-1, 1, (PROBLEMS, 1, 1))
    start = np.log(rng.dirichlet(np.ones(ACTIONS), (PROBLEMS, STATES)))
    return Problems(q, rng.dirichlet(np.ones(STATES), PROBLEMS), beta, start)


@pytest.fixture(scope="module")
def best(problems: Problems) -> Pair:
    return blahut_arimoto(problems.q, problems.p, problems.beta, tolerance=0.0, limit=3_000)


def mean(x: Problems, values: np.ndarray) -> np.ndarray:
    """(N, S) -> (N,): E_p."""
    return (x.p * values).sum(-1)


def value_of(x: Problems, pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """(N,): E_p of eq. 13."""
    return mean(x, evaluate_pair(x.q, pair[0][..., None, :], pair[1], x.beta))


def rounds(x: Problems, log_policy: np.ndarray, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    found = []
    for _ in range(n):
        log_prior, log_policy = improve(log_policy, x.q, x.p, x.beta)
        found.append((log_prior, log_policy))
    return found


def test_one_round_is_the_oracles(problems: Problems) -> None:
    x = problems
    for i in range(5):
        expected = oracle.arimoto(x.q[i], x.p[i], float(x.beta[i, 0, 0]), np.exp(x.start[i]), 3)
        for (prior, policy), found in zip(expected, rounds(x, x.start, 3), strict=True):
            np.testing.assert_allclose(np.exp(found[0][i]), prior, rtol=1e-10)
            np.testing.assert_allclose(np.exp(found[1][i]), policy, rtol=1e-10)
        limited = blahut_arimoto(x.q[i], x.p[i], float(x.beta[i, 0, 0]), x.start[i], tolerance=0.0, limit=3)
        np.testing.assert_allclose(np.exp(limited.log_prior), prior, rtol=1e-10)
        np.testing.assert_allclose(np.exp(limited.log_policy), policy, rtol=1e-10)
        by_definition = oracle.pair_value(x.q[i], prior, policy, float(x.beta[i, 0, 0]))
        found_value = evaluate_pair(x.q[i], found[0][i], found[1][i], float(x.beta[i, 0, 0]))
        np.testing.assert_allclose(found_value, by_definition, rtol=1e-10)


def test_theorem_1_every_start_leads_to_one_value(problems: Problems, best: Pair) -> None:
    x = problems
    other = blahut_arimoto(x.q, x.p, x.beta, x.start, tolerance=0.0, limit=3_000)
    apart = np.abs(value_of(x, other[:2]) - value_of(x, best[:2]))
    assert (apart < 1e-8).mean() > 0.95
    assert apart.max() < 1e-4  # at a border of the corner the rate is 1 / M and not faster
    shaken = soft_policy(0.3 * np.random.default_rng(1).normal(size=x.q.shape), best.log_policy, 1.0)
    near = (marginal(shaken, x.p), shaken)
    assert (value_of(x, near) <= value_of(x, best[:2]) + 1e-9).all()


def test_lemma_1_the_marginal_is_the_best_prior(problems: Problems) -> None:
    """Any other prior costs exactly its divergence from the marginal, over beta."""
    x, rng = problems, np.random.default_rng(2)
    log_best = marginal(x.start, x.p)
    top = value_of(x, (log_best, x.start))
    for _ in range(1000 // 20):
        other = np.log(rng.dirichlet(np.ones(ACTIONS), PROBLEMS))
        divergence = (np.exp(log_best) * (log_best - other)).sum(-1)
        np.testing.assert_allclose(top - value_of(x, (other, x.start)), divergence / x.beta[:, 0, 0], atol=1e-10)
        assert (divergence >= 0).all()


def test_lemma_2_the_closed_form_is_the_best_policy_in_every_state(problems: Problems) -> None:
    x, rng = problems, np.random.default_rng(3)
    log_prior = np.log(rng.dirichlet(np.ones(ACTIONS), (PROBLEMS, 1)))
    top = evaluate_pair(x.q, log_prior, soft_policy(x.q, log_prior, x.beta), x.beta)
    for _ in range(1000 // 20):
        other = np.log(rng.dirichlet(np.ones(ACTIONS), (PROBLEMS, STATES)))
        assert (evaluate_pair(x.q, log_prior, other, x.beta) <= top + 1e-12).all()


def test_eqs_23_to_25_the_gradient_of_the_lagrangian_is_zero() -> None:
    """With lambda from eq. 25, exp(-1 - beta lambda) = 1 / Z."""
    rng = np.random.default_rng(4)
    q, prior, beta = rng.normal(size=4), rng.dirichlet(np.ones(4)), 1.7
    policy = np.exp(soft_policy(q, np.log(prior), beta))
    multiplier = (np.log(prior @ np.exp(beta * q)) - 1) / beta

    def lagrangian(pi: np.ndarray) -> float:
        return float((pi * (q - np.log(pi / prior) / beta)).sum() - multiplier * (pi.sum() - 1))

    np.testing.assert_allclose(oracle.slope(lagrangian, policy), 0.0, atol=1e-8)


def test_corollary_1(problems: Problems) -> None:
    """Eq. 13 of a compatible pair is eq. 16."""
    x = problems
    for log_prior, log_policy in rounds(x, x.start, 3):
        by_definition = evaluate_pair(x.q, log_prior[:, None], log_policy, x.beta)
        concise = soft_value(x.q, log_prior[:, None], x.beta)
        np.testing.assert_allclose(by_definition, concise, atol=1e-12)


def test_lemma_3_at_every_round(problems: Problems, best: Pair) -> None:
    """Eqs. 17 and 18, with the optimum from long Blahut-Arimoto."""
    x, now = problems, problems.start
    optimum, policy = value_of(x, best[:2]), np.exp(best.log_policy)
    for log_prior, new in rounds(x, x.start, 12):
        gain = mean(x, (policy * (new - now)).sum(-1)) / x.beta[:, 0, 0]
        assert (optimum <= gain + value_of(x, (log_prior, new)) + 1e-9).all()
        eq_18 = mean(x, (policy * (x.q - (now - marginal(now, x.p)[:, None]) / x.beta)).sum(-1))
        assert (optimum <= eq_18 + 1e-9).all()
        now = new


@pytest.mark.parametrize("start", ["uniform", "random"])
def test_lemma_4_the_gap_falls_as_one_over_the_rounds(problems: Problems, best: Pair, start: str) -> None:
    x = problems
    log_policy = uniform(x.q.shape) if start == "uniform" else x.start
    found = np.stack([value_of(x, pair) for pair in rounds(x, log_policy, 64)])
    gaps = value_of(x, best[:2]) - found
    assert (np.diff(found, axis=0) >= -1e-10).all()
    bound = mean(x, -log_policy.min(-1)) / x.beta[:, 0, 0]
    if start == "uniform":
        np.testing.assert_allclose(bound, np.log(ACTIONS) / x.beta[:, 0, 0])
    worst = 0.0
    for m in (1, 2, 4, 8, 16, 32, 64):
        assert (gaps[:m].mean(0) <= bound / m + 1e-10).all()
        assert (gaps[m - 1] <= bound / m + 1e-10).all()
        worst = max(worst, float((gaps[:m].mean(0) * m / bound).max()))
    assert worst > 0.5  # the bound is not idle


def test_mutual_information_values_lie_between_soft_and_hard_ones(problems: Problems, best: Pair) -> None:
    """And fixed uniform priors are soft values."""
    x = problems
    soft = mean(x, soft_value(x.q, np.full((ACTIONS,), -np.log(ACTIONS)), x.beta))
    assert (soft <= value_of(x, best[:2]) + 1e-10).all()
    assert (value_of(x, best[:2]) <= mean(x, x.q.max(-1)) + 1e-10).all()


def test_the_uniform_start_has_the_smallest_bound() -> None:
    """Appendix D."""
    rng = np.random.default_rng(5)
    assert (-np.log(rng.dirichlet(np.ones(ACTIONS), 1000)).min(-1) >= np.log(ACTIONS)).all()


def test_a_zero_in_the_first_policy_is_there_for_ever(problems: Problems) -> None:
    """Why theorem 1 asks for support on all actions: the best action of all states is missed."""
    q = np.array([[1.0, 0.0], [1.0, 0.0]])
    with np.errstate(divide="ignore"):
        log_policy = np.log(np.array([[0.0, 1.0], [0.0, 1.0]]))
    found = blahut_arimoto(q, np.array([0.5, 0.5]), 1.0, log_policy)
    assert np.exp(found.log_policy[:, 0]).tolist() == [0.0, 0.0]


# --- two states and two actions, in closed form ---------------------------------------------------------------------


def information(p: np.ndarray, log_prior: np.ndarray, log_policy: np.ndarray) -> float:
    return float(p @ (np.exp(log_policy) * (log_policy - log_prior)).sum(-1))


@pytest.mark.parametrize(
    ("beta", "value", "nats"), [(0.5, 0.561860, 0.030300), (1.0, 0.620115, 0.110944), (5.0, 0.862714, 0.652968)]
)
def test_two_states_that_want_different_actions(beta: float, value: float, nats: float) -> None:
    p = np.array([0.5, 0.5])
    found = blahut_arimoto(np.eye(2), p, beta)
    assert p @ soft_value(np.eye(2), found.log_prior, beta) == pytest.approx(value, abs=1e-6)
    assert value == pytest.approx(np.log(0.5 * np.exp(beta) + 0.5) / beta, abs=1e-6)
    assert information(p, found.log_prior, found.log_policy) == pytest.approx(nats, abs=1e-6)


@pytest.mark.parametrize(("beta", "prior"), [(1.2, 1.0), (2.0, 0.893911), (5.0, 0.804070)])
def test_the_prior_of_unequal_states_and_its_absorbing_corner(beta: float, prior: float) -> None:
    """rho_0 = clip((p_0 - D) / (1 - 2 D)), D = 1 / (1 + exp beta): one up to beta = log 4."""
    wrong = 1 / (1 + np.exp(beta))
    assert np.clip((0.8 - wrong) / (1 - 2 * wrong), 0, 1) == pytest.approx(prior, abs=1e-6)
    found = blahut_arimoto(np.eye(2), np.array([0.8, 0.2]), beta, tolerance=1e-10)
    assert np.exp(found.log_prior[0]) == pytest.approx(prior, abs=1e-6)


def test_beta_to_its_ends() -> None:
    """The hard maximum in every state, and the best action without a state."""
    rng = np.random.default_rng(6)
    q, p = rng.normal(size=(5, 3)), rng.dirichlet(np.ones(5))
    found = blahut_arimoto(q, p, 1e4)
    np.testing.assert_allclose(soft_value(q, found.log_prior, 1e4), q.max(-1), atol=1e-3)
    found = blahut_arimoto(q, p, 1e-3, tolerance=1e-12)
    assert int(found.log_prior.argmax()) == int((p @ q).argmax())
    assert p @ soft_value(q, found.log_prior, 1e-3) == pytest.approx((p @ q).max(), abs=1e-2)


def test_eq_10_maximises_the_mean_over_states_and_not_each_state() -> None:
    """In one state only, copying its best action everywhere costs no information: the maximum is that of Q."""
    rng = np.random.default_rng(7)
    q, p, beta = rng.normal(size=(5, 3)), rng.dirichlet(np.ones(5)), 1.0
    best = blahut_arimoto(q, p, beta)
    jointly, gained = soft_value(q, best.log_prior, beta), []
    for s in range(5):
        copied = np.log(np.maximum(greedy(np.tile(q[s], (5, 1))), 1e-300))
        alone = evaluate_pair(q, marginal(copied, p), copied, beta)[s]
        assert alone == pytest.approx(q[s].max())
        gained.append(alone - jointly[s])
    assert min(gained) > -1e-6
    assert max(gained) > 0.1
