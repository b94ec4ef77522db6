"""Estimators of log pi(a|h) = log E_{s ~ q(s|h)} pi(a|s) and of the marginal Q (SMAC, arXiv 2210.00999, section 3.2).

Each takes ``log_probs`` (K + 1, ...): log pi(a | s_k), where s_0 is the draw that GENERATED the action and s_1..s_K are
independent of it. Each returns (...): the estimate of log pi(a|h), whose negative is the entropy estimate. With K = 0
every estimator is log pi(a | s_0), so the head is Latent-SAC.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from worldrl.errors import wrong
from worldrl.nn.functional import log_mean_exp

ROULETTE_DECAY = 2.0**-1.5  # P(level >= l) = decay^l: finite variance and finite expected cost (Giles 2015)


def naive(log_probs: Tensor) -> Tensor:
    """ELBO with q as proposal (eq. 9): mean over the independent draws. Entropy is OVER-estimated, without bound."""
    return log_probs[1:].mean(0) if len(log_probs) > 1 else log_probs[0]


def elbo(log_probs: Tensor, log_prior: Tensor, log_proposal: Tensor) -> Tensor:
    """Eq. 9 with any proposal, in place of the prior of ``naive``.

    Args:
        log_probs: (K, ...) log pi(a | s_k) of draws s_k from the proposal q~(s | a, h).
        log_prior: (K, ...) log q(s_k | h).
        log_proposal: (K, ...) log q~(s_k | a, h).

    Returns:
        (...): a lower bound on log pi(a | h) in expectation. Entropy is over-estimated, by ``elbo_gap``.
    """
    return (log_probs + log_prior - log_proposal).mean(0)


def elbo_gap(log_probs: Tensor, log_prior: Tensor, log_proposal: Tensor, log_marginal: Tensor) -> Tensor:
    """Eq. 10, (...): KL(q~ || posterior), given log pi(a | h), for which a policy that maximises eq. 9 is rewarded."""
    return log_marginal - elbo(log_probs, log_prior, log_proposal)


def iwae(log_probs: Tensor) -> Tensor:
    """Importance-weighted bound on the independent draws. Entropy is over-estimated, less so as K grows."""
    return log_mean_exp(log_probs[1:]) if len(log_probs) > 1 else log_probs[0]


def nested(log_probs: Tensor) -> Tensor:
    """Eq. 11: log-mean-exp over all K + 1 draws. Entropy is under-estimated, rising to the truth with K."""
    return log_mean_exp(log_probs)


def mlmc(log_probs: Tensor) -> Tensor:
    """Eq. 12 on ONE set of K = 2^L draws shared by all levels, as the released code computes it.

    Level 0 averages the two-sample estimate over all K pairs (s_0, s_k). Its expectation is that of ``nested``.
    """
    k = len(log_probs) - 1
    if k == 0:
        return log_probs[0]
    s0, rest = log_probs[:1], log_probs[1:]
    total = coarse = log_mean_exp(torch.stack([s0.expand_as(rest), rest])).mean(0)
    for level in range(1, _level(k) + 1):
        half, full = 2 ** (level - 1), 2**level
        fine = nested(torch.cat([s0, rest[:full]]))
        second = nested(torch.cat([s0, rest[half:full]]))
        total = total + fine - 0.5 * (coarse + second)
        coarse = fine
    return total


def mlmc_fresh(log_probs: Tensor) -> Tensor:
    """Eq. 12 as printed: level l has its own 2^l draws, so it needs 2K - 1 independent draws in all."""
    if len(log_probs) == 1:
        return log_probs[0]
    return torch.stack(_level_differences(log_probs)).sum(0)


def roulette(log_probs: Tensor) -> Tensor:
    """Russian roulette over the levels of eq. 12 (appendix B.3): unbiased for log pi(a|h).

    The number of draws must be random: 2^(N + 1) - 1 independent draws with N from ``draw_level``. Level l is weighted
    by 1 / P(N >= l).
    """
    if len(log_probs) == 1:
        return log_probs[0]
    differences = _level_differences(log_probs)
    return torch.stack([d / ROULETTE_DECAY**level for level, d in enumerate(differences)]).sum(0)


def draw_level(rng: np.random.Generator) -> int:
    """N with P(N >= l) = ``ROULETTE_DECAY``^l."""
    return int(np.floor(np.log(1.0 - rng.random()) / np.log(ROULETTE_DECAY)))


def _level_differences(log_probs: Tensor) -> list[Tensor]:
    """Antithetic differences Delta_0..Delta_L from fresh draws: 1 + (1 + 2 + ... + 2^L) rows."""
    s0, rest = log_probs[:1], log_probs[1:]
    differences = []
    start = 0
    for level in range(_level(len(rest) + 1)):
        draws = rest[start : start + 2**level]
        start += 2**level
        fine = nested(torch.cat([s0, draws]))
        if level == 0:
            differences.append(fine)
            continue
        a, b = draws.chunk(2)
        coarse = nested(torch.cat([s0, a])) + nested(torch.cat([s0, b]))
        differences.append(fine - 0.5 * coarse)
    return differences


def _level(k: int) -> int:
    """L with 2^L = k."""
    level = k.bit_length() - 1
    if 2**level != k:
        near = f"{2**level} or {2 ** (level + 1)}"
        raise wrong("num_particles", k, f"a power of two, as multi-level estimators need; nearest: {near}")
    return level


ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "naive": naive,
    "iwae": iwae,
    "nested": nested,
    "mlmc": mlmc,
    "mlmc_fresh": mlmc_fresh,
    "roulette": roulette,
}


def independent_draws(estimator: str, k: int) -> int:
    """How many particles in addition to s_0 the estimator needs at ``num_particles=k``; refuses a k it cannot use."""
    if estimator.startswith("mlmc") and k > 0:
        _level(k)
    return 2 * k - 1 if estimator == "mlmc_fresh" and k > 0 else k


def marginal_q(q: Tensor, aggregate: str = "lse", twins_first: bool = True) -> Tensor:
    """Eq. 14: Q(h, a) = log mean_k exp Q(s_k, a) for twin critics.

    Args:
        q: (n, P, ...) values of n critics on P particles.
        aggregate: ``lse`` (eq. 14), ``mean`` or ``min`` over particles.
        twins_first: minimum over critics inside the aggregate (the released default), or outside it.

    Returns:
        (...)
    """
    reducers: dict[str, Callable[..., Tensor]] = {"lse": log_mean_exp, "mean": torch.mean, "min": torch.amin}
    reduce = reducers[aggregate]
    if twins_first:
        return reduce(q.amin(0), dim=0)
    return reduce(q, dim=1).amin(0)
