"""VIREL (Fellows et al., 2019, arXiv 1811.01132): sections 2 to 4, appendices B to H."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from worldrl.studies.theory.statements import Bench, Errors, Statement, above, apart, slope
from worldrl.tabular.counterexample import wrong_action
from worldrl.tabular.mdp import Array, make_mdp
from worldrl.tabular.solve import backup, boltzmann, evaluate, expect, greedy, policy_iteration, value_iteration
from worldrl.tabular.virel import (
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
    gtd2_rate,
    incremental_fixed_point,
    incremental_residual,
    incremental_slope,
    incremental_slope_printed,
    joint_divergence,
    likelihood,
    m_step,
    mpo_em,
    objective,
    projected_residual,
    projected_residual_concise,
    projected_slope,
    projection_weights,
    recursion,
    slope_of_error,
    tabular,
    target,
    temperature,
    temperature_slope,
    temperature_slope_printed,
    temperatures,
    theorem_4,
    theorem_4_printed,
)

PAPER, WARM = "VIREL", 0.3


# --- sections 2 and 3 -------------------------------------------------------------------------------------------------


@cache
def counterexample() -> Errors:
    """The closed form against soft value iteration; and VIREL's policy is never wrong more often than not."""
    curves = wrong_action(10, 0.99, [0.1, 0.3, 0.5, 1.0, 3.0])
    return Errors(max(apart(np.array(curves.closed_form), np.array(curves.soft_values)), above(max(curves.virel), 0.5)))


def lowest_reward(x: Bench) -> Errors:
    reward = x.mdp.reward - 0.7
    return Errors(above(-(reward + reward.min()).min(), 0.0), above(-(reward - reward.min()).min(), 0.0))


def shifted_reward(x: Bench) -> Errors:
    """What the best policy of the shifted process loses in the process itself: with an end, and without one."""
    stay, leave = [1.0, 0.0], [0.0, 1.0]
    ends = make_mdp([[stay, leave], [leave, leave]], [[-1.0, -2.0], [0.0, 0.0]], 0.9, [False, True])
    lost = []
    for mdp in (ends, x.mdp._replace(reward=x.mdp.reward - 0.7)):
        policy = value_iteration(mdp._replace(reward=mdp.reward - mdp.reward.min())).policy
        lost.append(apart(value_iteration(mdp).value, evaluate(mdp, policy)))
    return Errors(*lost)


def own_temperature(x: Bench) -> Errors:
    """At Q* of rewards around 1000: the largest solution of eq. 3's recursion, and the smallest one."""
    mdp, q = x.mdp._replace(reward=1e3 * x.mdp.reward), 1e3 * x.best
    return Errors(max([0.0, *temperatures(mdp, q)]), temperature(mdp, q))


@cache
def boltzmann_limit() -> Errors:
    """f = -(x - 0.3)^2 on [-1, 1], phi = cos."""
    epsilon = 1e-7
    u = np.linspace(-8.0, 8.0, 4001)  # (x - 0.3) / sqrt(epsilon)
    weight = np.exp(-(u**2))
    return Errors(apart(float(weight @ np.cos(0.3 + math.sqrt(epsilon) * u) / weight.sum()), math.cos(0.3)))


def lemma_1_i(x: Bench) -> Errors:
    """Printed: minus infinity. On a choice: E Q / epsilon."""
    found = objective(x.q, WARM, greedy(x.q), x.d)
    return Errors(math.inf if math.isfinite(found) else 0.0, apart(found, float(x.d @ x.q.max(-1)) / WARM))


def lemma_1_ii(x: Bench) -> Errors:
    """The objective times epsilon goes to E Q > 0."""
    q, epsilon = x.q - x.q.min() + 0.1, 1e-9
    return Errors(apart(epsilon * objective(q, epsilon, x.policy, x.d), float(x.d @ expect(x.policy, q))))


def theorem_2(x: Bench) -> Errors:
    """The residual is zero at Q*; elsewhere it is bounded below, ||T* Q - Q|| >= (1 - gamma) ||Q - Q*||."""
    near = x.best + 0.1 * x.q
    least = ((1 - x.mdp.gamma) * apart(near, x.best)) ** 2 / 2 / x.q.size
    return Errors(
        max(best_residual(x.mdp, x.best), temperature(x.mdp, x.best), above(least, best_residual(x.mdp, near)))
    )


def theorem_3(x: Bench) -> Errors:
    """The values of both sides, and the differences."""
    best = boltzmann(x.q, WARM)
    top = objective(x.q, WARM, best, x.d)
    lost = float(x.d @ divergence(x.policy, best))
    return Errors(apart(top, 0.0), apart(top - objective(x.q, WARM, x.policy, x.d), lost))


def eq_5(x: Bench) -> Errors:
    entropy = float(-x.d @ np.log(x.d))
    right = evidence(x.q, WARM) - joint_divergence(x.q, WARM, x.policy, x.d) - entropy
    return Errors(apart(objective(x.q, WARM, x.policy, x.d), right))


def target_set(x: Bench) -> Errors:
    return Errors(apart(target(x.mdp, x.q, boltzmann(x.q, 1e-5)), target(x.mdp, x.q, greedy(x.q))))


# --- section 4 and appendix E -----------------------------------------------------------------------------------------


def eq_25(x: Bench) -> Errors:
    found = e_step(x.q, WARM, boltzmann(x.q, 1.0), x.d)
    by_differences = slope(lambda y: WARM * objective(x.q, WARM, boltzmann(y, 1.0), x.d), x.q, 1e-4)
    return Errors(apart(found, by_differences))


def _by_differences(x: Bench) -> Array:
    """(N,): grad epsilon of a tabular critic."""
    return slope(lambda q: temperature(x.mdp, q), x.q, 1e-3).ravel()


def theorem_4_of(x: Bench) -> Errors:
    epsilon = temperature(x.mdp, x.q)
    parts = recursion(x.mdp, tabular(x.q), epsilon)
    true = (_by_differences(x) - parts.evaluation) / x.mdp.gamma
    found = theorem_4(parts, epsilon, x.mdp.gamma)
    return Errors(apart(theorem_4_printed(parts, epsilon, x.mdp.gamma), true), apart(found, true))


def eq_30(x: Bench) -> Errors:
    epsilon = temperature(x.mdp, x.q)
    parts, true = recursion(x.mdp, tabular(x.q), epsilon), _by_differences(x)
    printed, found = (f(parts, epsilon, x.mdp.gamma) for f in (temperature_slope_printed, temperature_slope))
    return Errors(apart(printed, true), apart(found, true))


def eq_7(x: Bench) -> Errors:
    """With grad epsilon by eq. 30, as printed and corrected."""
    critic, epsilon = tabular(x.q), temperature(x.mdp, x.q)
    parts = recursion(x.mdp, critic, epsilon)
    true = epsilon**2 * slope(lambda q: objective(q, temperature(x.mdp, q), x.policy, x.d), x.q, 1e-3).ravel()
    slopes = (f(parts, epsilon, x.mdp.gamma) for f in (temperature_slope_printed, temperature_slope))
    return Errors(*(apart(m_step(critic, epsilon, each, x.policy, x.d), true) for each in slopes))


def best_target_slope(x: Bench) -> Errors:
    """E.3's example: the gradient of T* Q - Q, without and with gamma."""
    true = slope(lambda q: best_residual(x.mdp, q), x.q).ravel()
    beta, found = bellman_error(x.mdp, x.q, greedy(x.q)), []
    for gamma in (1.0, x.mdp.gamma):
        change = slope_of_error(x.mdp._replace(gamma=gamma), tabular(x.q), greedy(x.q))
        found.append(apart(np.einsum("sa,san->n", beta, change) / beta.size, true))
    return Errors(*found)


def eq_31(x: Bench) -> Errors:
    true = slope(lambda q: incremental_residual(x.mdp, q, WARM), x.q, 1e-4).ravel()
    slopes = (f(x.mdp, tabular(x.q), WARM) for f in (incremental_slope_printed, incremental_slope))
    return Errors(*(apart(each, true) for each in slopes))


def expected_gradient(x: Bench) -> Errors:
    """E.4: E[Q grad log pi] is the gradient of E Q, as expected policy gradients need it."""
    policy = boltzmann(x.q, 1.0)
    score = np.eye(policy.shape[1])[None] - policy[:, None]
    by_scores = x.d[:, None] * np.einsum("sa,sa,sal->sl", policy, x.features[..., 0], score)
    true = slope(lambda y: float(x.d @ expect(boltzmann(y, 1.0), x.features[..., 0])), x.q, 1e-4)
    return Errors(apart(by_scores, true))


def gradient_of_own_values(x: Bench) -> Errors:
    """E.4: where Q is that of the policy, the gradient moved out of the mean has E grad Q^pi in addition to scores."""

    def value(logits: Array) -> Array:
        return evaluate(x.mdp, boltzmann(logits, 1.0))

    policy, q = boltzmann(x.q, 1.0), backup(x.mdp, value(x.q))
    moved_out = slope(lambda y: float(x.d @ value(y)), x.q, 1e-4)
    rest = slope(lambda y: float(x.d @ expect(policy, backup(x.mdp, value(y)))), x.q, 1e-4)
    scores = e_step(q, 0.0, policy, x.d)
    return Errors(apart(scores, moved_out), apart(scores + rest, moved_out))


def gaussian_gradients(x: Bench) -> Errors:
    """E.4 for a ~ N(mu, sigma^2) and Q = cos a: by scores, by reparameterisation (SVG0), in closed form (Fourier)."""
    mu, sigma = float(x.q[0, 0]), 0.5 + float(x.d[0])
    z, weight = np.polynomial.hermite_e.hermegauss(60)
    a, weight = mu + sigma * z, weight / weight.sum()
    scores = weight @ (np.cos(a) * z / sigma), weight @ (np.cos(a) * (z**2 - 1) / sigma)
    paths = -(weight @ np.sin(a)), -(weight @ (np.sin(a) * z))
    closed = -math.sin(mu) * math.exp(-(sigma**2) / 2), -sigma * math.cos(mu) * math.exp(-(sigma**2) / 2)
    return Errors(max(apart(np.array(scores), np.array(closed)), apart(np.array(paths), np.array(closed))))


def no_m_step(x: Bench) -> Errors:
    """At Q* the residual is least, so its slope is zero, and with eq. 30 the M-step too."""
    residual = slope(lambda q: float((bellman_error(x.mdp, q, greedy(q)) ** 2).mean()), x.best)
    slope_there = direct_slope(x.mdp, tabular(x.best), greedy(x.best))
    left = m_step(tabular(x.best), temperature(x.mdp, x.best), slope_there, x.policy, x.d)
    return Errors(max(apart(residual, 0.0), apart(left, 0.0)))


# --- appendix F -------------------------------------------------------------------------------------------------------


def projection(x: Bench) -> Errors:
    """Eq. 32: the closed form against least squares."""
    b = x.features.reshape(-1, x.features.shape[-1])
    fit = np.linalg.lstsq(b, x.q.ravel(), rcond=None)[0].astype(np.float64)
    return Errors(apart(projection_weights(x.features, x.q), fit))


def eq_33(x: Bench) -> Errors:
    critic = bounded(x.features, x.weight)
    beta = bellman_error(x.mdp, critic.q, x.policy)
    return Errors(apart(projected_residual(critic.slope, beta), projected_residual_concise(critic.slope, beta)))


def _projected_slope(x: Bench) -> Array:
    """(N,): the gradient of eq. 33 at a bounded critic, by differences."""

    def of(weight: Array) -> float:
        critic = bounded(x.features, weight)
        return projected_residual(critic.slope, bellman_error(x.mdp, critic.q, x.policy))

    return slope(of, x.weight)


def gradient_f1(x: Bench) -> Errors:
    return Errors(apart(projected_slope(x.mdp, bounded(x.features, x.weight), x.policy), _projected_slope(x)))


def gradient_without_hessian(x: Bench) -> Errors:
    critic, true = bounded(x.features, x.weight), _projected_slope(x)
    found = (projected_slope(x.mdp, critic, x.policy, hessian) for hessian in (False, True))
    return Errors(*(apart(each, true) for each in found))


def eq_34(x: Bench) -> Errors:
    critic = bounded(x.features, x.weight)
    beta = bellman_error(x.mdp, critic.q, x.policy)
    zeta = projection_weights(critic.slope, beta)
    return Errors(apart(correlation(critic.slope, beta) - covariance(critic.slope) @ zeta, 0.0))


def eq_35(x: Bench) -> Errors:
    """The mean change of omega against that of gradient descent, -alpha grad epsilon, at alpha = 0.1."""
    critic, alpha = bounded(x.features, x.weight), 0.1
    both = projected_slope(x.mdp, critic, x.policy)
    first = projected_slope(x.mdp, critic, x.policy, hessian=False)
    true = -alpha * _projected_slope(x)
    return Errors(apart(-alpha * first - (both - first), true), apart(-alpha * both, true))


def time_scales(x: Bench) -> Errors:
    """What is left of the distance to the fixed point when the right order has left 1e-9 of it."""
    printed, right = (abs(gtd2_rate(x.mdp, x.features, x.policy, ratio)) for ratio in (0.01, 100.0))
    return Errors(1e-9 ** (printed / right), 1e-9)


def theorem_5(x: Bench) -> Errors:
    """At the operator's fixed point the incremental residual is epsilon_k, its least value; and that goes to zero."""
    worst = []
    for epsilon in (0.1, 0.01):
        q = incremental_fixed_point(x.mdp, epsilon)
        worst.append(apart(incremental_residual(x.mdp, q, epsilon), epsilon))
        worst.append(above(epsilon, incremental_residual(x.mdp, q + 0.1 * x.q, epsilon)))
    return Errors(max(worst))


def eq_37(x: Bench) -> Errors:
    limit = incremental_residual(x.mdp, x.q, 1e-9)
    return Errors(apart(limit, temperature(x.mdp, x.q)), apart(limit, best_residual(x.mdp, x.q)))


def direct_sign(x: Bench) -> Errors:
    fixed = target(x.mdp, x.q, x.policy)
    true = slope(lambda q: 0.5 * float(np.mean((fixed - q) ** 2)), x.q).ravel()
    found = direct_slope(x.mdp, tabular(x.q), x.policy)
    return Errors(apart(-found, true), apart(found, true))


def eqs_39_and_40(x: Bench) -> Errors:
    steps = em_dependent_target(x.mdp, x.policy, 8)
    done = policy_iteration(x.mdp, steps[0][1])
    return Errors(max(apart(steps[-1][0], x.best), apart(steps[-1][1], done.policy)))


def eq_41(x: Bench) -> Errors:
    before, after = em_fixed_target(x.mdp, x.q, x.policy, 2)
    best = before.max(-1)
    return Errors(apart(after, x.mdp.reward + x.mdp.transition @ best), apart(after, backup(x.mdp, best)))


# --- appendices B, G and H --------------------------------------------------------------------------------------------


def posterior(x: Bench) -> Errors:
    wrong = max(above(likelihood(x.q, WARM), 1.0), apart(likelihood(x.q, WARM).max(-1), 1.0))
    return Errors(max(wrong, apart(action_posterior(x.q, WARM), boltzmann(x.q, WARM))))


def minimised(x: Bench) -> Errors:
    """By how much the divergence grows from one policy to another one with less, and with more, of the objective."""
    low, high = sorted((x.policy, x.other), key=lambda each: objective(x.q, WARM, each, x.d))
    kl = [float(x.d @ divergence(each, boltzmann(x.q, WARM))) for each in (low, high)]
    return Errors(above(kl[0], kl[1]), above(kl[1], kl[0]))


def eq_43(x: Bench) -> Errors:
    """The gradient, and that it is zero at the action posterior."""

    def of(logits: Array) -> float:
        policy = boltzmann(logits, 1.0)
        return float(x.d @ (expect(policy, x.q) - WARM * divergence(policy, x.other)))

    at_rest = e_step(x.q, WARM, action_posterior(x.q, WARM, x.other), x.d, x.other)
    found = e_step(x.q, WARM, boltzmann(x.q, 1.0), x.d, x.other)
    return Errors(max(apart(found, slope(of, x.q, 1e-4)), apart(at_rest, 0.0)))


def many_steps(x: Bench) -> Errors:
    """k complete EM steps; no step at a high temperature; the greedy one at a low one."""
    return Errors(
        max(
            apart(mpo_em(x.q, WARM, x.other, 7), action_posterior(x.q, WARM / 7, x.other)),
            apart(mpo_em(x.q, 1e9, x.other, 1), x.other),
            apart(mpo_em(x.q, 1e-5, x.other, 1), greedy(x.q)),
        )
    )


def printed_actor(x: Bench) -> Errors:
    """Appendix H's loss log pi (alpha - (Q - V)) as a score-function loss, and with alpha log pi in place of alpha."""
    policy, alpha = boltzmann(x.q, 1.0), 0.5
    q = x.features[..., 0]
    true = -e_step(q, alpha, policy, x.d)
    score = np.eye(policy.shape[1])[None] - policy[:, None]
    advantage = q - expect(policy, q)[:, None]

    def gradient(weight: Array) -> Array:
        return x.d[:, None] * np.einsum("sa,sa,sal->sl", policy, weight, score)

    return Errors(apart(gradient(alpha - advantage), true), apart(gradient(alpha * np.log(policy) - advantage), true))


STATEMENTS = (
    Statement(
        PAPER,
        "section 2.2",
        "the closed form of p1*; VIREL's mode is right at all temperatures",
        "",
        lambda x: counterexample(),
    ),
    Statement(
        PAPER,
        "assumption 1",
        "adding r_min makes all rewards positive",
        "subtracting r_min makes none negative",
        lowest_reward,
    ),
    Statement(
        PAPER,
        "assumption 1, end",
        "a constant added to rewards does not change what is best",
        "only where episodes do not end",
        shifted_reward,
    ),
    Statement(
        PAPER,
        "eq. 3",
        "epsilon is defined by its own recursion, and zero at Q*",
        "its smallest solution is; for large rewards there are more",
        own_temperature,
    ),
    Statement(PAPER, "theorem 1", "the Boltzmann distribution becomes a point", "", lambda x: boltzmann_limit()),
    Statement(
        PAPER,
        "lemma 1 (i)",
        "the objective of a deterministic policy is minus infinity",
        "for densities; for choices it is E Q / epsilon",
        lemma_1_i,
    ),
    Statement(PAPER, "lemma 1 (ii)", "the objective goes to infinity with 1 / epsilon, where Q > 0", "", lemma_1_ii),
    Statement(PAPER, "theorem 2", "the residual is zero at Q* and only there", "", theorem_2),
    Statement(PAPER, "theorem 3", "max L = min E KL", "L(theta*) - L(theta) = E KL(pi_theta || pi_omega)", theorem_3),
    Statement(PAPER, "eqs. 5 and 11", "L = l - KL - H(d)", "", eq_5),
    Statement(PAPER, "appendix C", "the target of the Boltzmann policy becomes T* as epsilon vanishes", "", target_set),
    Statement(PAPER, "eqs. 6 and 25", "the E-step's gradient", "", eq_25),
    Statement(PAPER, "eq. 7", "the M-step's gradient, with eq. 30", "with eq. 30 corrected", eq_7),
    Statement(
        PAPER,
        "theorem 4",
        "(eps E[beta Gamma] eQ + e[grad Q]) / (eps^2 (1 + gamma E[beta E Q]))",
        "(eps e[grad Q] - E[beta Gamma] eQ) / (eps^2 + gamma eQ)",
        theorem_4_of,
    ),
    Statement(PAPER, "eq. 30", "grad eps = theorem 4 + E[beta Gamma]", "gamma theorem 4 + E[beta Gamma]", eq_30),
    Statement(
        PAPER,
        "appendix E.3, T*",
        "grad beta = E grad Q(a*, s') - grad Q",
        "gamma E grad Q(a*, s') - grad Q",
        best_target_slope,
    ),
    Statement(
        PAPER,
        "eq. 31",
        "grad beta = E[grad log p + grad Q'] - grad Q",
        "gamma E[Q' grad log p + grad Q'] - grad Q",
        eq_31,
    ),
    Statement(
        PAPER, "appendix E.4", "E[Q grad log pi] = grad E Q, Q being independent of theta", "", expected_gradient
    ),
    Statement(
        PAPER,
        "appendix E.4, classic",
        "the same where Q is that of the policy",
        "not justified there, as the paper says: E grad Q^pi is missing",
        gradient_of_own_values,
        ours=True,
    ),
    Statement(PAPER, "appendix E.4, densities", "scores, SVG0 and the Fourier form agree", "", gaussian_gradients),
    Statement(PAPER, "section 4.2", "at Q* no M-step is left", "", no_m_step),
    Statement(PAPER, "eq. 32", "the projection is C^-1 E[b Q]", "", projection),
    Statement(PAPER, "eq. 33", "the projected residual is m' C^-1 m / 2", "", eq_33),
    Statement(PAPER, "appendix F.1", "its gradient, with the Hessian of Q", "", gradient_f1),
    Statement(
        PAPER,
        "appendix F.1, shortcut",
        "the same without the Hessian",
        "the Hessian term is needed where Q is not linear",
        gradient_without_hessian,
        ours=True,
    ),
    Statement(PAPER, "eq. 34", "zeta comes to rest at C^-1 E[beta b]", "", eq_34),
    Statement(PAPER, "eq. 35", "omega + alpha (...) - q", "omega + alpha ((...) - q)", eq_35),
    Statement(
        PAPER,
        "appendix F.1, rates",
        "alpha_zeta / alpha_omega goes to zero",
        "alpha_omega / alpha_zeta goes to zero: zeta is the fast one",
        time_scales,
    ),
    Statement(PAPER, "theorem 5", "the least incremental residual is epsilon_k, and goes to zero", "", theorem_5),
    Statement(
        PAPER,
        "eq. 37",
        "the incremental residual goes to epsilon_omega",
        "it goes to that of T*; both have the same minimum",
        eq_37,
    ),
    Statement(
        PAPER, "appendix F.3", "-E[(Q - T Q) grad Q]", "E[(Q - T Q) grad Q], as in the M-step below it", direct_sign
    ),
    Statement(PAPER, "eqs. 39 and 40", "complete EM steps are policy iteration", "", eqs_39_and_40),
    Statement(PAPER, "eq. 41", "r + E max Q", "r + gamma E max Q: value iteration", eq_41),
    Statement(PAPER, "appendix B", "p(a | s, O) is the Boltzmann policy, and p(O | h) at most 1", "", posterior),
    Statement(PAPER, "appendix B, end", "minimising L minimises the divergence", "maximising L does", minimised),
    Statement(PAPER, "eqs. 42 and 43", "the E-step with a prior, whose solution is the posterior", "", eq_43),
    Statement(PAPER, "appendix G", "k EM steps are one at epsilon / k; limits old policy and greedy", "", many_steps),
    Statement(
        PAPER,
        "appendix H",
        "J = E log pi (alpha - (Q - V))",
        "E log pi (alpha log pi - (Q - V)), the bracket held fixed",
        printed_actor,
    ),
)
