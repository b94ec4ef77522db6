"""Exact solutions of small processes: dynamic programming, soft and mutual-information value iteration.

Equation numbers are those of MIRACLE (Leibfried and Grau-Moya, 2019), section 3.2. ``S`` states, ``A`` actions,
``beta`` an inverse temperature; ``...`` is any leading shape. Distributions are logarithms, so nothing underflows;
values of terminal states are zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldrl.errors import UserError
from worldrl.tabular.mdp import MDP, Array, check_distribution

LIMIT = 100_000  # sweeps after which a solver gives up
ROUNDING = 1e-10  # smaller differences of values, relative to them, do not count
EXIT = 1e-12  # smaller probabilities of an end are rounding


def lse(x: Array, axis: int = -1) -> Array:
    """log sum exp over an axis; minus infinity if every entry is."""
    top = x.max(axis, keepdims=True)
    top = np.where(np.isneginf(top), 0.0, top)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x - top).sum(axis)) + top.squeeze(axis)


def boltzmann(q: Array, temperature: float) -> Array:
    """softmax(q / temperature) over the last axis."""
    p = np.exp((q - q.max(axis=-1, keepdims=True)) / temperature)
    return p / p.sum(axis=-1, keepdims=True)


def greedy(q: Array) -> Array:
    """(..., A): probability one for the best action, the first in a tie."""
    policy = np.zeros_like(q)
    np.put_along_axis(policy, q.argmax(-1)[..., None], 1.0, -1)
    return policy


def expect(policy: Array, x: Array) -> Array:
    """(..., A), (..., A) -> (...): the mean over actions; those of probability zero do not count, whatever x is."""
    return np.where(policy > 0, policy * np.where(policy > 0, x, 0.0), 0.0).sum(-1)


def backup(mdp: MDP, value: Array) -> Array:
    """Q (S, A) = R + gamma P V."""
    return mdp.reward + mdp.gamma * mdp.transition @ np.where(mdp.terminal, 0.0, value)


# --- one policy -------------------------------------------------------------------------------------------------------


def evaluate(mdp: MDP, policy: Array) -> Array:
    """V (S,) of a policy (S, A), by a linear solve.

    Raises:
        UserError: with gamma = 1, the policy never ends.
    """
    live, chain = _chain(mdp, policy)
    value = np.zeros(len(live))
    value[live] = np.linalg.solve(np.eye(live.sum()) - mdp.gamma * chain, expect(policy, mdp.reward)[live])
    return value


def visits(mdp: MDP, policy: Array) -> Array:
    """(S,): the discounted, normalised state distribution of a policy, without ends (eq. 7).

    Raises:
        UserError: as ``evaluate``.
    """
    live, chain = _chain(mdp, policy)
    found = np.zeros(len(live))
    found[live] = np.linalg.solve(np.eye(live.sum()) - mdp.gamma * chain.T, mdp.start[live])
    return found / found.sum()


def _chain(mdp: MDP, policy: Array) -> tuple[NDArray[np.bool_], Array]:
    """The states that are not ends (S,), and the policy's transitions between these."""
    live = ~mdp.terminal
    chain = np.einsum("sa,sat->st", policy, mdp.transition)[np.ix_(live, live)]
    if mdp.gamma == 1 and not _always_ends(chain):
        raise UserError("gamma", "1, with a policy that never ends from some state", "a discount below 1")
    return live, chain


def _always_ends(chain: Array) -> bool:
    """Whether a state with an exit can be reached from every state."""
    reached = chain.sum(1) < 1 - EXIT
    for _ in range(len(chain)):
        reached = reached | (chain[:, reached] > 0).any(1)
    return bool(reached.all())


# --- hard and soft values ---------------------------------------------------------------------------------------------


class Solution(NamedTuple):
    """A value function, its policy, and the effort of the solver."""

    value: Array  # (S,)
    policy: Array  # (S, A)
    sweeps: int
    prior: Array  # (A,) of the mutual-information family; otherwise the given one


def value_iteration(mdp: MDP, tolerance: float = 1e-12) -> Solution:
    """V <- max_a Q until no value changes by the tolerance."""
    value, sweeps = _iterate(mdp, lambda q: q.max(-1), tolerance)
    policy = greedy(backup(mdp, value))
    return Solution(value, policy, sweeps, np.full(policy.shape[1], 1 / policy.shape[1]))


def policy_iteration(mdp: MDP, policy: Array) -> Solution:
    """Evaluation by a linear solve and greedy improvement, until the policy is stable.

    A state keeps its action unless another is better by more than rounding: among equals the policy would never settle.
    """
    for sweeps in range(1, LIMIT):
        value = evaluate(mdp, policy)
        q = backup(mdp, value)
        best = q.max(-1)
        kept = (policy.max(-1) == 1) & (expect(policy, q) >= best - ROUNDING * np.maximum(1.0, np.abs(best)))
        better = np.where(kept[:, None], policy, greedy(q))
        if np.array_equal(better, policy):
            return Solution(value, policy, sweeps, np.full(policy.shape[1], 1 / policy.shape[1]))
        policy = better
    raise _no_end("policy iteration")


def soft_value(q: Array, log_prior: Array, beta: Array | float) -> Array:
    """Eq. 16, (...): V = 1/beta log sum_a rho(a) exp(beta Q); a measure of all ones gives maximum entropy."""
    return lse(log_prior + beta * q) / (beta[..., 0] if isinstance(beta, np.ndarray) else beta)


def soft_policy(q: Array, log_prior: Array, beta: Array | float) -> Array:
    """Eqs. 12 and 15, (..., A): log pi(a | s), rho(a) exp(beta Q) normalised."""
    x = log_prior + beta * q
    return x - lse(x)[..., None]


def soft_value_iteration(mdp: MDP, beta: float, prior: Array | None = None, tolerance: float = 1e-12) -> Solution:
    """Soft values with a fixed prior (A,), uniform by default (remark 2)."""
    prior = np.full(mdp.reward.shape[1], 1 / mdp.reward.shape[1]) if prior is None else prior
    check_distribution("prior", prior, positive=True)
    _check_positive("beta", beta)
    log_prior = np.log(prior)
    value, sweeps = _iterate(mdp, lambda q: soft_value(q, log_prior, beta), tolerance)
    return Solution(value, np.exp(soft_policy(backup(mdp, value), log_prior, beta)), sweeps, prior)


def max_entropy_value_iteration(mdp: MDP, temperature: float, tolerance: float = 1e-12) -> Solution:
    """Values of the reward plus temperature times entropy: soft values with a measure of ones."""
    actions = mdp.reward.shape[1]
    _check_positive("temperature", temperature)
    value, sweeps = _iterate(mdp, lambda q: soft_value(q, np.zeros(actions), 1 / temperature), tolerance)
    policy = boltzmann(backup(mdp, value), temperature)
    return Solution(value, policy, sweeps, np.full(actions, 1 / actions))


def evaluate_pair(q: Array, log_prior: Array, log_policy: Array, beta: Array | float) -> Array:
    """Eq. 13, (...): E_pi [Q - 1/beta log pi / rho]."""
    policy = np.exp(log_policy)
    with np.errstate(invalid="ignore"):  # both logarithms are minus infinity where the policy is zero
        return expect(policy, q - (log_policy - log_prior) / beta)


# --- mutual information -----------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """The result of Blahut-Arimoto: the policy is the best one for this prior (corollary 1)."""

    log_prior: Array  # (..., A) log rho_m
    log_policy: Array  # (..., S, A) log pi_{m+1}


def marginal(log_policy: Array, p: Array) -> Array:
    """Eqs. 11 and 14, (..., A): log sum_s p(s) pi(a | s)."""
    with np.errstate(divide="ignore"):
        return lse(np.log(p)[..., None] + log_policy, -2)


def improve(log_policy: Array, q: Array, p: Array, beta: Array | float) -> tuple[Array, Array]:
    """One round: the prior of a policy (eq. 11), and the best policy for that prior (eq. 12).

    Raises:
        UserError: a state none of whose actions has prior mass.
    """
    log_prior = marginal(log_policy, p)
    _check_prior(log_prior, q)
    return log_prior, soft_policy(q, log_prior[..., None, :], beta)


def uniform(shape: tuple[int, ...]) -> Array:
    """The logarithm of uniform policies (..., A)."""
    return np.full(shape, -np.log(shape[-1]))


def blahut_arimoto(
    q: Array,
    p: Array,
    beta: Array | float,
    log_policy: Array | None = None,
    tolerance: float = 1e-9,
    limit: int = LIMIT,
) -> Pair:
    """Theorem 1: the policy and the prior that maximise E_p of eq. 13 for given Q.

    Args:
        q: (..., S, A) values of actions.
        p: (..., S) distribution of states.
        beta: inverse temperature; an array is (..., 1, 1).
        log_policy: where the rounds begin; an action of probability zero in every state never returns.
        tolerance: the rounds end when no probability changes by this. The prior moves at a speed proportional to beta,
            so a fixed tolerance stops too early for small beta.
        limit: the maximal number of rounds.
    """
    new, change, rounds = uniform(q.shape) if log_policy is None else log_policy, np.inf, 0
    while change >= tolerance and rounds < limit:
        now, rounds = new, rounds + 1
        log_prior, new = improve(now, q, p, beta)
        change = np.abs(np.exp(new) - np.exp(now)).max()
    return Pair(log_prior, new)


def mutual_information_value_iteration(
    mdp: MDP,
    beta: float,
    p: Array | None = None,
    tolerance: float = 1e-6,
    inner_tolerance: float = 1e-7,
    warm: bool = True,
) -> Solution:
    """V <- B* V (eq. 10) with Blahut-Arimoto inside. Its convergence is not proven, only observed.

    Args:
        mdp: the process.
        beta: inverse temperature.
        p: (S,) the fixed distribution of states; by default uniform over those that are not ends.
        tolerance: the sweeps end when no value changes by this.
        inner_tolerance: that of Blahut-Arimoto.
        warm: every sweep begins its rounds at the policy of the last one; otherwise at the uniform policy, which for
            small beta stops the rounds before the prior has moved.
    """
    p = ~mdp.terminal / (~mdp.terminal).sum() if p is None else p
    check_distribution("p", p)
    _check_positive("beta", beta)
    value, log_policy = np.zeros(len(p)), uniform(mdp.reward.shape)
    for sweeps in range(1, LIMIT):
        q = np.where(mdp.terminal[:, None], 0.0, backup(mdp, value))
        pair = blahut_arimoto(q, p, beta, log_policy if warm else None, inner_tolerance)
        new = np.where(mdp.terminal, 0.0, soft_value(q, pair.log_prior, beta))
        change = np.abs(new - value).max()
        value, log_policy = new, pair.log_policy
        if change < tolerance:
            return Solution(value, np.exp(log_policy), sweeps, np.exp(pair.log_prior))
    raise _no_end("mutual-information value iteration")


def mirl(mdp: MDP, beta: float, p: Array, rate: float, sweeps: int) -> Solution:
    """Tabular MIRL in expectation: every sweep is a soft backup, and moves the prior to the marginal by ``rate``.

    Grau-Moya et al. (2019) move it at every step of the environment, towards the policy in the state of that step.
    """
    value, prior = np.zeros(len(p)), np.full(mdp.reward.shape[1], 1 / mdp.reward.shape[1])
    for _ in range(sweeps):
        q = backup(mdp, value)
        policy = np.exp(soft_policy(q, np.log(prior), beta))
        value = np.where(mdp.terminal, 0.0, soft_value(q, np.log(prior), beta))
        prior = (1 - rate) * prior + rate * p @ policy
    return Solution(value, policy, sweeps, prior)


def induced(mdp: MDP, beta: float, rounds: int = 50, tolerance: float = 1e-6) -> tuple[Solution, Array]:
    """Mutual-information values with the p of their own policy (eq. 9), and that p; by repeated substitution.

    Raises:
        UserError: the distribution still changes after the last round.
    """
    p = mdp.start
    for _ in range(rounds):
        found = mutual_information_value_iteration(mdp, beta, p)
        new = visits(mdp, found.policy)
        if np.abs(new - p).max() < tolerance:
            return found, new
        p = new
    raise UserError("the induced distribution", f"no convergence in {rounds} rounds", "another beta, or more rounds")


def _iterate(mdp: MDP, value_of: Callable[[Array], Array], tolerance: float) -> tuple[Array, int]:
    value = np.zeros(len(mdp.terminal))
    for sweeps in range(1, LIMIT):
        new = np.where(mdp.terminal, 0.0, value_of(backup(mdp, value)))
        change = np.abs(new - value).max()
        value = new
        if change < tolerance:
            return value, sweeps
    raise _no_end("value iteration")


def _check_prior(log_prior: Array, q: Array) -> None:
    """Refuse a prior (..., A) that gives no mass to any action of a state."""
    lost = np.isneginf(log_prior[..., None, :] + q).all(-1)
    if lost.any():
        state = np.argwhere(lost)[0][-1]
        expected = "a distribution p of states with mass on one that shares an action with it"
        raise UserError(f"state {state}", "no action with prior mass, so no value", expected)


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise UserError(name, f"{value:g}", "a number above 0")


def _no_end(what: str) -> UserError:
    return UserError(what, f"no convergence in {LIMIT:,} sweeps", "a discount below 1, or rewards that end episodes")
