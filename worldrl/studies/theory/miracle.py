"""MIRACLE (Leibfried and Grau-Moya, 2019): section 3.2 and appendices A to E."""

from __future__ import annotations

from functools import cache

import numpy as np

from worldrl.studies.theory.statements import Bench, Errors, Statement, above, apart, slope
from worldrl.tabular.grid import grid_world
from worldrl.tabular.mdp import Array
from worldrl.tabular.solve import (
    Pair,
    blahut_arimoto,
    evaluate,
    evaluate_pair,
    greedy,
    improve,
    marginal,
    max_entropy_value_iteration,
    mutual_information_value_iteration,
    soft_policy,
    soft_value,
    soft_value_iteration,
    uniform,
)

PAPER, BETA, ROUNDS = "MIRACLE", 2.0, 64


def value(x: Bench, log_prior: Array, log_policy: Array) -> float:
    """E_p of eq. 13."""
    return float(x.d @ evaluate_pair(x.q, log_prior, log_policy, BETA))


def optimum(x: Bench) -> Pair:
    return blahut_arimoto(x.q, x.d, BETA, tolerance=1e-14, limit=20_000)


def random_pair(x: Bench) -> tuple[Array, Array]:
    policy = np.log(x.random_policy())
    return marginal(policy, x.d), policy


def eq_10(x: Bench) -> Errors:
    """Each state's own maximum is that of Q: all other states may copy its action."""
    best = optimum(x)
    jointly = soft_value(x.q, best.log_prior, BETA)
    alone = []
    for s in range(len(x.q)):
        copied = np.log(np.maximum(greedy(np.tile(x.q[s], (len(x.q), 1))), 1e-300))
        alone.append(evaluate_pair(x.q, marginal(copied, x.d), copied, BETA)[s])
    others = [value(x, *random_pair(x)) for _ in range(100)]
    return Errors(apart(np.array(alone), jointly), above(np.array(others), value(x, *best[:2])))


def theorem_1(x: Bench) -> Errors:
    """From any start to one value, as far as lemma 4 lets both be apart."""
    first, second = optimum(x), blahut_arimoto(x.q, x.d, BETA, np.log(x.other), 1e-14, 20_000)
    return Errors(apart(value(x, *first[:2]), value(x, *second[:2])))


def lemma_1(x: Bench) -> Errors:
    log_policy, prior = np.log(x.policy), np.log(x.rng.dirichlet(np.ones(x.q.shape[1])))
    best = marginal(log_policy, x.d)
    divergence = float(np.exp(best) @ (best - prior))
    return Errors(apart(value(x, best, log_policy) - value(x, prior, log_policy), divergence / BETA))


def lemma_2(x: Bench) -> Errors:
    """No policy is better, and the gradient of the Lagrangian (eqs. 23 to 25) is zero."""
    prior = x.rng.dirichlet(np.ones(x.q.shape[1]))
    best = soft_policy(x.q, np.log(prior), BETA)
    top = evaluate_pair(x.q, np.log(prior), best, BETA)
    others = [evaluate_pair(x.q, np.log(prior), np.log(x.random_policy()), BETA) - top for _ in range(100)]
    multiplier = (np.log(np.exp(BETA * x.q[0]) @ prior) - 1) / BETA

    def lagrangian(pi: Array) -> float:
        return float(pi @ (x.q[0] - np.log(pi / prior) / BETA) - multiplier * (pi.sum() - 1))

    flat = slope(lagrangian, np.exp(best[0]), 1e-4 * float(np.exp(best[0]).min()))
    return Errors(max(above(np.array(others), 0.0), apart(flat, 0.0)))


def corollary_1(x: Bench) -> Errors:
    log_prior, log_policy = improve(np.log(x.policy), x.q, x.d, BETA)
    return Errors(apart(evaluate_pair(x.q, log_prior, log_policy, BETA), soft_value(x.q, log_prior, BETA)))


def lemma_3(x: Bench) -> Errors:
    best, now = optimum(x), np.log(x.policy)
    top, worst = value(x, *best[:2]), 0.0
    for _ in range(ROUNDS):
        log_prior, new = improve(now, x.q, x.d, BETA)
        gain = float(x.d @ (np.exp(best.log_policy) * (new - now)).sum(-1)) / BETA
        eq_18 = float(x.d @ (np.exp(best.log_policy) * (x.q - (now - log_prior) / BETA)).sum(-1))
        worst = max(worst, above(top, gain + value(x, log_prior, new)), above(top, eq_18))
        now = new
    return Errors(worst)


def lemma_4(x: Bench) -> Errors:
    """Eq. 19 for every number of rounds, and of the last gap too."""
    start, gaps = np.log(x.policy), []
    top, bound, now = value(x, *optimum(x)[:2]), float(x.d @ -start.min(-1)) / BETA, start
    for _ in range(ROUNDS):
        log_prior, now = improve(now, x.q, x.d, BETA)
        gaps.append(top - value(x, log_prior, now))
    rounds = np.arange(1, ROUNDS + 1)
    return Errors(max(above(np.cumsum(gaps) / rounds, bound / rounds), above(np.array(gaps), bound / rounds)))


def remark_2(x: Bench) -> Errors:
    """Entropy values compared with those of a uniform prior, without and with the cost log #A / beta of every step."""
    entropy = max_entropy_value_iteration(x.mdp, 1 / BETA).value
    prior = soft_value_iteration(x.mdp, BETA).value
    price = np.log(x.q.shape[1]) / BETA / (1 - x.mdp.gamma)
    return Errors(apart(entropy, prior), apart(entropy, prior + price))


def appendix_d(x: Bench) -> Errors:
    random = [float(-np.log(x.random_policy()).min(-1).min()) for _ in range(100)]
    return Errors(above(float(-uniform((x.q.shape[1],)).min()), np.array(random)))


@cache
def small_beta() -> Errors:
    """On a small grid at a small beta: the best policy without a state goes left and down, equally often.

    The paper does not say where Blahut-Arimoto begins in a sweep; what is printed may mean the better of two ways.
    """
    mdp, beta, stop = grid_world(4), 1e-3, 5e-3
    best = mdp.start @ evaluate(mdp, np.tile([0.5, 0.0, 0.0, 0.5, 0.0], (16, 1)))

    def error(stop: float, warm: bool) -> float:
        return apart(mdp.start @ mutual_information_value_iteration(mdp, beta, None, stop, stop, warm).value, best)

    return Errors(min(error(stop, warm=True), error(stop, warm=False)), error(beta * stop, warm=True))


STATEMENTS = (
    Statement(
        PAPER,
        "eq. 10",
        "B*V(s) is the maximum over policies in each state",
        "the maximiser of the mean over p(s); the maximum in one state is max_a Q",
        eq_10,
    ),
    Statement(PAPER, "theorem 1", "eqs. 11 and 12 lead to one value from any policy with full support", "", theorem_1),
    Statement(PAPER, "lemma 1", "the marginal is the best prior; another one costs its divergence", "", lemma_1),
    Statement(PAPER, "lemma 2", "eq. 15 is the best policy; the Lagrangian of eqs. 23 to 25 is flat", "", lemma_2),
    Statement(PAPER, "corollary 1", "eq. 13 of a compatible pair is eq. 16", "", corollary_1),
    Statement(PAPER, "lemma 3", "eqs. 17 and 18 bound the optimum from above, in every round", "", lemma_3),
    Statement(PAPER, "lemma 4", "the mean gap after M rounds is at most E max log(1 / pi_0) / (M beta)", "", lemma_4),
    Statement(
        PAPER,
        "remark 2",
        "entropy regularisation is the special case of a uniform prior",
        "up to log #A / beta at every step, which matters where episodes end",
        remark_2,
    ),
    Statement(PAPER, "appendix D", "the uniform policy has the smallest bound of lemma 4", "", appendix_d),
    Statement(
        PAPER,
        "figure 1",
        "small beta: values of the best policy without a state, with both stops at 5e-3",
        "with both stops in proportion to beta",
        lambda x: small_beta(),
        tolerance=2e-2,
    ),
)
