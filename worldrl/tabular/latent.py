"""SMAC (arXiv 2210.00999) in exact sums: a latent with few values and a choice of few actions.

``S`` values of the latent, ``A`` actions, ``K`` particles. Nats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from worldrl.tabular.mdp import Array
from worldrl.tabular.solve import lse


class LatentPolicy(NamedTuple):
    """pi(a | h) = sum_s q(s | h) pi(a | s) (eq. 5)."""

    q: Array  # (S,)
    pi: Array  # (S, A)

    def density(self) -> Array:
        """(A,): pi(a | h)."""
        return self.q @ self.pi

    def posterior(self) -> Array:
        """(A, S): q(s | a, h)."""
        joint = (self.q[:, None] * self.pi).T
        return joint / joint.sum(-1, keepdims=True)


def entropy(policy: LatentPolicy) -> float:
    """Eq. 8: H(pi(. | h))."""
    p = policy.density()
    return float(-p @ np.log(p))


def conditional_entropy(policy: LatentPolicy) -> float:
    """E_q H(pi(. | s)), the term of eq. 26; entropy minus this is the mutual information of latent and action."""
    return float(-policy.q @ (policy.pi * np.log(policy.pi)).sum(-1))


def naive_entropy(policy: LatentPolicy, proposal: Array) -> float:
    """Eq. 9 with any proposal (A, S): an upper bound on the entropy."""
    terms = -np.log(policy.pi).T + np.log(proposal) - np.log(policy.q)
    return float(policy.density() @ (proposal * terms).sum(-1))


def naive_excess(policy: LatentPolicy, proposal: Array) -> float:
    """The last term of eq. 10: the difference of eq. 9 and the entropy, E KL(proposal || posterior)."""
    return float(policy.density() @ (proposal * np.log(proposal / policy.posterior())).sum(-1))


def nested_entropy(policy: LatentPolicy, particles: int) -> float:
    """Eqs. 11 and 27: the mean of the nested estimate with K particles, over all possible draws."""
    first = policy.q[:, None] * policy.pi  # (S, A) p(s_0, a)
    total = 0.0
    for counts in _counts(particles, len(policy.q)):
        chance = math.exp(_log_multinomial(counts, policy.q))
        mean = (policy.pi + np.array(counts) @ policy.pi) / (particles + 1)  # (S, A), the row is s_0
        total -= chance * float((first * np.log(mean)).sum())
    return total


def _counts(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Every way to draw ``total`` particles from ``parts`` values."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _counts(total - first, parts - 1):
            yield (first, *rest)


def _log_multinomial(counts: tuple[int, ...], q: Array) -> float:
    ways = math.lgamma(sum(counts) + 1) - sum(math.lgamma(n + 1) for n in counts)
    return ways + float(np.array(counts) @ np.log(q))


# --- appendix B.2: filtering, and the bound that a world model maximises ----------------------------------------------


class Chain(NamedTuple):
    """A hidden chain of S states that emits one of X signals at each step; actions are given."""

    first: Array  # (S,) p(s_1)
    move: Array  # (S, S) p(s' | s)
    emit: Array  # (S, X) p(x | s)


def filtered(chain: Chain, signals: list[int]) -> Array:
    """(T, S): p(s_t | x_1 .. x_t), by Bayes' rule."""
    found, prior = [], chain.first
    for x in signals:
        belief = prior * chain.emit[:, x]
        found.append(belief / belief.sum())
        prior = found[-1] @ chain.move
    return np.stack(found)


def recursive_belief(chain: Chain, signals: list[int]) -> Array:
    """(T, S): eq. 7 with the true p(s_t | s_{t-1}, x_t) in place of the learned one. It is not ``filtered``.

    It ignores what x_t says about s_{t-1}: the paper's recursion weights s_{t-1} by the belief before x_t.
    """
    found = [filtered(chain, signals[:1])[0]]
    for x in signals[1:]:
        step = chain.move * chain.emit[:, x]
        found.append(found[-1] @ (step / step.sum(-1, keepdims=True)))
    return np.stack(found)


def log_likelihood(chain: Chain, signals: list[int]) -> float:
    """log p(x_1 .. x_T)."""
    forward = np.log(chain.first) + np.log(chain.emit[:, signals[0]])
    for x in signals[1:]:
        forward = lse(forward[:, None] + np.log(chain.move), 0) + np.log(chain.emit[:, x])
    return float(lse(forward))


def sequence_bound(chain: Chain, signals: list[int], steps: list[Array]) -> float:
    """Eqs. 20 to 22: the bound for q(s_t | s_{t-1}), ``steps[t]`` (S, S), of which all rows of the first are q(s_1)."""
    total, where = 0.0, np.eye(len(chain.first))[0]
    for t, (x, q) in enumerate(zip(signals, steps, strict=True)):
        prior = chain.first[None] if t == 0 else chain.move
        divergence = (q * (np.log(q) - np.log(prior))).sum(-1)
        total += float(where @ (q @ np.log(chain.emit[:, x]) - divergence))
        where = where @ q
    return total


def smoothing_steps(chain: Chain, signals: list[int]) -> list[Array]:
    """The best q: p(s_t | s_{t-1}, x_t .. x_T), which looks ahead; with it eq. 20 is an equality."""
    ahead, found = np.ones(len(chain.first)), []
    for x in reversed(signals):
        weight = chain.emit[:, x] * ahead  # p(x_t .. x_T | s_t)
        ahead = chain.move @ weight
        found.append(chain.move * weight / ahead[:, None])
    first = chain.first * weight
    return [np.tile(first / first.sum(), (len(first), 1)), *found[-2::-1]]


# --- appendix D.1: a Gaussian latent, and a network that is linear between knots -------------------------------------


class Targets(NamedTuple):
    """A mixture of two Gaussians, the distribution for tests of proposition 1."""

    centre: float = 1.0  # of one, minus that of the other
    std: float = 0.2

    def cdf(self, x: Array) -> Array:
        sides = [norm.cdf(x, side * self.centre, self.std) for side in (-1.0, 1.0)]
        return np.asarray(0.5 * (sides[0] + sides[1]))


def universal_distance(n: int, knots: int = 801) -> float:
    """Proposition 1: the Wasserstein distance of p_n = N(Psi_n(z), 1 / n^2), z ~ N(0, 1), from the mixture.

    Psi_n is the quantile function after Phi, linear between ``knots`` values of z: a ReLU network of one hidden layer.
    """
    target, x = Targets(), np.linspace(-4.0, 4.0, 1601)
    z = np.linspace(-5.0, 5.0, knots)
    psi = np.interp(norm.cdf(z), target.cdf(x), x)
    fine = np.linspace(-5.0, 5.0, 801)
    weight = norm.pdf(fine) / norm.pdf(fine).sum()
    cdf = weight @ norm.cdf((x - np.interp(fine, z, psi)[:, None]) * n)
    return float(np.abs(cdf - target.cdf(x)).sum() * (x[1] - x[0]))
