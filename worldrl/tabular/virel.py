"""VIREL (Fellows et al., 2019, arXiv 1811.01132) on finite processes: the objective, its gradients, both EM algorithms.

Equation numbers are the paper's. If a printed equation is wrong, the function that computes it as printed ends in
``_printed``; docs/theory.md has all corrections. ``h`` is a pair of state and action, E[.] the mean over all pairs,
c = 1 and p = 2. ``S`` states, ``A`` actions, ``N`` parameters of the critic.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq

from worldrl.errors import UserError
from worldrl.tabular.mdp import MDP, Array
from worldrl.tabular.solve import backup, boltzmann, evaluate, expect, greedy, lse, soft_policy

SMALLEST = 1e-10  # temperatures below this count as zero
MOST_BACKUPS = 100_000


class Critic(NamedTuple):
    """Q of all pairs, with its derivatives by the parameters."""

    q: Array  # (S, A)
    slope: Array  # (S, A, N) b = grad Q
    bend: Array  # (S, A, N, N) the Hessian of Q


def tabular(q: Array) -> Critic:
    """One parameter for every pair."""
    n = q.size
    return Critic(q, np.eye(n).reshape(*q.shape, n), np.zeros((*q.shape, n, n)))


def linear(features: Array, weight: Array) -> Critic:
    """Q = b . omega with features b (S, A, N)."""
    return Critic(features @ weight, features, np.zeros((*features.shape, features.shape[-1])))


def bounded(features: Array, weight: Array, scale: float = 2.0) -> Critic:
    """Q = scale tanh(b . omega / scale), which is smooth and not linear (assumption 5)."""
    t = np.tanh(features @ weight / scale)
    slope = (1 - t**2)[..., None] * features
    curvature = -2 * t * (1 - t**2) / scale
    return Critic(scale * t, slope, curvature[..., None, None] * features[..., :, None] * features[..., None, :])


# --- section 3: the residual and the objective ------------------------------------------------------------------------


def target(mdp: MDP, q: Array, policy: Array) -> Array:
    """(S, A): T^pi Q = r + gamma E Q(h')."""
    return backup(mdp, expect(policy, q))


def bellman_error(mdp: MDP, q: Array, policy: Array) -> Array:
    """(S, A): beta = T^pi Q - Q."""
    return target(mdp, q, policy) - q


def residual(mdp: MDP, q: Array, epsilon: float) -> float:
    """E[beta^2] / 2 under the Boltzmann policy of this temperature."""
    return 0.5 * float(np.mean(bellman_error(mdp, q, boltzmann(q, epsilon)) ** 2))


def best_residual(mdp: MDP, q: Array) -> float:
    """E[(T* Q - Q)^2] / 2: the target that does not depend on a temperature."""
    return 0.5 * float(np.mean(bellman_error(mdp, q, greedy(q)) ** 2))


def temperatures(mdp: MDP, q: Array, points: int = 120) -> list[float]:
    """Every epsilon above 0 with epsilon = residual(epsilon), rising: eq. 3 defines its own temperature.

    Roots are found between ``points`` temperatures from 1e-10 on; two roots between the same points may be missed.
    """
    most = 0.5 * (np.abs(mdp.reward).max() + 2 * np.abs(q).max()) ** 2 + 1.0

    def excess(epsilon: float) -> float:
        return residual(mdp, q, epsilon) - epsilon

    grid = np.geomspace(SMALLEST, most, points)
    values = [excess(x) for x in grid]
    pairs = [i for i in range(points - 1) if values[i] * values[i + 1] < 0]
    return [float(brentq(excess, grid[i], grid[i + 1], xtol=1e-15, rtol=1e-14)) for i in pairs]


def temperature(mdp: MDP, q: Array) -> float:
    """The smallest solution epsilon of the recursion; zero exactly where T* Q = Q."""
    if residual(mdp, q, SMALLEST) <= SMALLEST:
        return 0.0
    return temperatures(mdp, q)[0]


def objective(q: Array, epsilon: float, policy: Array, d: Array) -> float:
    """Eq. 4: E_d [E_pi Q / epsilon + H(pi)]."""
    entropy = -expect(policy, np.log(np.maximum(policy, 1e-300)))
    return float(d @ (expect(policy, q) / epsilon + entropy))


def evidence(q: Array, epsilon: float) -> float:
    """l of eq. 5: log sum_h exp(Q / epsilon)."""
    return float(lse(q.ravel() / epsilon))


def joint_divergence(q: Array, epsilon: float, policy: Array, d: Array) -> float:
    """KL(q_theta || p_omega) of eq. 5, over pairs."""
    joint = d[:, None] * policy
    return float(expect(joint, np.log(np.maximum(joint, 1e-300)) - q / epsilon + evidence(q, epsilon)).sum())


def divergence(policy: Array, other: Array) -> Array:
    """(...): KL(policy || other) in every state."""
    return expect(policy, np.log(np.maximum(policy, 1e-300)) - np.log(other))


# --- appendix E: the E-step and the M-step ----------------------------------------------------------------------------


def e_step(q: Array, epsilon: float, policy: Array, d: Array, prior: Array | None = None) -> Array:
    """(S, A): epsilon times the gradient of eq. 4 by the logits of a softmax policy (eqs. 6 and 25).

    With a ``prior`` (S, A) it is the gradient of eq. 42, the objective of MPO: eq. 43.
    """
    base = 0.0 if prior is None else np.log(prior)
    x = q - epsilon * (np.log(policy) - base)
    return d[:, None] * policy * (x - expect(policy, x)[:, None])


class Recursion(NamedTuple):
    """The expectations of theorem 4. 𝓔x = E[beta E_omega[Q M x]], M x = x - E_pi x."""

    spread_slope: Array  # (N,) 𝓔[grad Q]
    spread: float  # 𝓔 Q
    evaluation: Array  # (N,) E[beta Gamma]
    mean_target: float  # E[beta E_omega Q]


def recursion(mdp: MDP, critic: Critic, epsilon: float) -> Recursion:
    """At the Boltzmann policy of this temperature."""
    policy = boltzmann(critic.q, epsilon)
    beta = bellman_error(mdp, critic.q, policy)

    def spread(x: Array) -> Array:
        """𝓔x of x (S, A, N)."""
        centred = x - np.einsum("sa,san->sn", policy, x)[:, None]
        return _mean_over_next(mdp, beta, np.einsum("sa,sa,san->sn", policy, critic.q, centred))

    return Recursion(
        spread(critic.slope),
        float(spread(critic.q[..., None])[0]),
        np.einsum("sa,san->n", beta, slope_of_error(mdp, critic, policy)) / beta.size,
        float(_mean_over_next(mdp, beta, expect(policy, critic.q)[:, None])[0]),
    )


def slope_of_error(mdp: MDP, critic: Critic, policy: Array) -> Array:
    """(S, A, N): Gamma = gamma E grad Q(h') - grad Q(h), the gradient of beta at a fixed policy."""
    after = np.einsum("sa,san->sn", policy, critic.slope)
    return mdp.gamma * np.einsum("sat,tn->san", _live(mdp), after) - critic.slope


def theorem_4(x: Recursion, epsilon: float, gamma: float) -> Array:
    """(N,): E[beta E_omega[(grad log pi) Q]], corrected."""
    return (epsilon * x.spread_slope - x.evaluation * x.spread) / (epsilon**2 + gamma * x.spread)


def theorem_4_printed(x: Recursion, epsilon: float, gamma: float) -> Array:
    """(N,): the same as printed in the paper."""
    top = epsilon * x.evaluation * x.spread + x.spread_slope
    return top / (epsilon**2 * (1 + gamma * x.mean_target))


def temperature_slope(x: Recursion, epsilon: float, gamma: float) -> Array:
    """Eq. 30, (N,): grad epsilon."""
    return gamma * theorem_4(x, epsilon, gamma) + x.evaluation


def temperature_slope_printed(x: Recursion, epsilon: float, gamma: float) -> Array:
    """Eq. 30 as printed: with the printed theorem 4, and without gamma before it."""
    return theorem_4_printed(x, epsilon, gamma) + x.evaluation


def m_step(critic: Critic, epsilon: float, slope: Array, policy: Array, d: Array) -> Array:
    """Eq. 7, (N,): epsilon^2 grad L = epsilon E grad Q - E[Q] grad epsilon."""
    joint = d[:, None] * policy
    return epsilon * np.einsum("sa,san->n", joint, critic.slope) - expect(joint, critic.q).sum() * slope


def direct_slope(mdp: MDP, critic: Critic, policy: Array) -> Array:
    """Appendix F.3, (N,): E[(Q - T Q) grad Q], the target held fixed."""
    beta = bellman_error(mdp, critic.q, policy)
    return -np.einsum("sa,san->n", beta, critic.slope) / beta.size


# --- appendix F.1: projected residuals --------------------------------------------------------------------------------


def covariance(b: Array) -> Array:
    """C = E[b b'], (N, N)."""
    return np.einsum("sai,saj->ij", b, b) / (b.shape[0] * b.shape[1])


def correlation(b: Array, beta: Array) -> Array:
    """m = E[b beta], (N,)."""
    return np.einsum("san,sa->n", b, beta) / beta.size


def projection_weights(b: Array, beta: Array) -> Array:
    """zeta = C^-1 m, (N,): the fixed point of eq. 34."""
    return np.linalg.solve(covariance(b), correlation(b, beta)).astype(np.float64)


def projected_residual(b: Array, beta: Array) -> float:
    """Eq. 33: E[(P beta)^2] / 2."""
    return 0.5 * float(np.mean((b @ projection_weights(b, beta)) ** 2))


def projected_residual_concise(b: Array, beta: Array) -> float:
    """The form that follows it: m' C^-1 m / 2."""
    m = correlation(b, beta)
    return 0.5 * float(m @ np.linalg.solve(covariance(b), m))


def projected_slope(mdp: MDP, critic: Critic, policy: Array, hessian: bool = True) -> Array:
    """(N,): E[(grad beta) b' zeta] + E[(beta - b' zeta) (Hessian of Q) zeta]; without ``hessian`` the first term."""
    beta = bellman_error(mdp, critic.q, policy)
    zeta = projection_weights(critic.slope, beta)
    fit = critic.slope @ zeta
    found = np.einsum("san,sa->n", slope_of_error(mdp, critic, policy), fit) / beta.size
    if hessian:
        found = found + np.einsum("sa,sanm,m->n", beta - fit, critic.bend, zeta) / beta.size
    return found


def td_system(mdp: MDP, features: Array, policy: Array) -> tuple[Array, Array]:
    """A (N, N) and y (N,) with E[b beta] = y - A omega for Q = b . omega: the TD fixed point is A^-1 y."""
    after = np.einsum("sa,san->sn", policy, features)
    ahead = features - mdp.gamma * np.einsum("sat,tn->san", _live(mdp), after)
    return np.einsum("sai,saj->ij", features, ahead) / mdp.reward.size, correlation(features, mdp.reward)


def gtd2_rate(mdp: MDP, features: Array, policy: Array, ratio: float) -> float:
    """The slowest rate at which eqs. 34 and 35 come to the fixed point, in mean: omega' = A' zeta, zeta' = ratio (...).

    Bhatnagar et al. require a large ratio alpha_zeta / alpha_omega. The paper requires a small one.
    """
    a, _ = td_system(mdp, features, policy)
    system = np.block([[np.zeros_like(a), a.T], [-ratio * a, -ratio * covariance(features)]])
    return float(np.linalg.eigvals(system).real.max())


def gtd2(mdp: MDP, features: Array, policy: Array, rate: float, ratio: float, steps: int) -> tuple[Array, Array]:
    """omega and zeta after mean updates by eqs. 34 and 35 from zero; Q is linear, so q_k is zero."""
    a, y = td_system(mdp, features, policy)
    c, omega, zeta = covariance(features), np.zeros(len(y)), np.zeros(len(y))
    for _ in range(steps):
        step = y - a @ omega - c @ zeta
        omega, zeta = omega + rate * a.T @ zeta, zeta + rate * ratio * step
    return omega, zeta


# --- appendix F.2: a temperature that does not depend on the critic ---------------------------------------------------


def incremental_residual(mdp: MDP, q: Array, epsilon: float) -> float:
    """epsilon_{omega,k} = E[beta_k^2] / 2 + epsilon_k."""
    return residual(mdp, q, epsilon) + epsilon


def incremental_slope(mdp: MDP, critic: Critic, epsilon: float) -> Array:
    """(N,): its gradient. The paper's eq. 31 lacks gamma, and the factor Q(h') of grad log p."""
    return _incremental_slope(mdp, critic, epsilon, mdp.gamma, critic.q)


def incremental_slope_printed(mdp: MDP, critic: Critic, epsilon: float) -> Array:
    """(N,): as printed; E[grad log p] is zero, so the term of the policy vanishes."""
    return _incremental_slope(mdp, critic, epsilon, 1.0, np.ones_like(critic.q))


def incremental_fixed_point(mdp: MDP, epsilon: float, tolerance: float = 1e-13) -> Array:
    """(S, A): Q with T_{omega,k} Q = Q. The operator need not contract, so repeated backups may fail.

    Raises:
        UserError: the backups do not converge.
    """
    q = np.zeros_like(mdp.reward)
    for _ in range(MOST_BACKUPS):
        new = target(mdp, q, boltzmann(q, epsilon))
        change, q = np.abs(new - q).max(), new
        if change < tolerance:
            return q
    raise UserError("the operator of appendix F.2", "no fixed point by repeated backups", "a smaller temperature")


# --- appendices B, F.5 and G ------------------------------------------------------------------------------------------


def likelihood(q: Array, epsilon: float) -> Array:
    """Appendix B, (S, A): p(O = 1 | h) = exp((Q - max_a Q) / epsilon)."""
    return np.exp((q - q.max(-1, keepdims=True)) / epsilon)


def action_posterior(q: Array, epsilon: float, prior: Array | None = None) -> Array:
    """(S, A): p(a | s, O) by Bayes' rule from the joint posterior of eq. 10; appendix G has a ``prior`` (S, A)."""
    joint = likelihood(q, epsilon) * (1.0 if prior is None else prior)
    joint = joint / joint.sum()
    return joint / joint.sum(-1, keepdims=True)


def em_dependent_target(mdp: MDP, policy: Array, steps: int) -> list[tuple[Array, Array]]:
    """Eqs. 39 and 40: complete M-steps (Q of the policy) and E-steps (greedy). Q (S, A) and policy of each."""
    found = []
    for _ in range(steps):
        q = backup(mdp, evaluate(mdp, policy))
        policy = greedy(q)
        found.append((q, policy))
    return found


def em_fixed_target(mdp: MDP, q: Array, policy: Array, steps: int) -> list[Array]:
    """Eq. 41: complete M-steps of the direct method, whose target is held fixed, and E-steps. Q (S, A) of each."""
    found = []
    for _ in range(steps):
        q = target(mdp, q, policy)
        policy = greedy(q)
        found.append(q)
    return found


def mpo_em(q: Array, epsilon: float, prior: Array, steps: int) -> Array:
    """Appendix G, (S, A): E-steps at a fixed Q and temperature, after each of which the prior is the policy."""
    log_prior = np.log(prior)
    for _ in range(steps):
        log_prior = soft_policy(q, log_prior, 1 / epsilon)
    return np.exp(log_prior)


def _live(mdp: MDP) -> Array:
    """P without transitions to an end, whose value has no parameters."""
    return np.where(mdp.terminal, 0.0, mdp.transition)


def _mean_over_next(mdp: MDP, beta: Array, x: Array) -> Array:
    """E[beta E x(s')] of x (S, N)."""
    return np.einsum("sa,sat,tn->n", beta, _live(mdp), x) / beta.size


def _incremental_slope(mdp: MDP, critic: Critic, epsilon: float, gamma: float, factor: Array) -> Array:
    policy = boltzmann(critic.q, epsilon)
    beta = bellman_error(mdp, critic.q, policy)
    score = (critic.slope - np.einsum("sa,san->sn", policy, critic.slope)[:, None]) / epsilon
    after = np.einsum("sa,san->sn", policy, score * factor[..., None] + critic.slope)
    change = gamma * np.einsum("sat,tn->san", _live(mdp), after) - critic.slope
    return np.einsum("sa,san->n", beta, change) / beta.size
