"""How well do the estimators of ``estimators.marginal`` estimate a policy's marginal entropy? (SMAC, figure 3)

The latent of a state is represented by a pool of P draws of s ~ q(s | h), for which pi(. | s) is computed once. s_0 and
the K other latents of an estimate are taken from it, and the true value is the log-mean-exp over the whole pool.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from worldrl.acting.episodes import own_randomness
from worldrl.estimators.marginal import ESTIMATORS
from worldrl.nn.functional import normal_log_prob, tanh_log_det
from worldrl.policies.latent import LatentGaussian
from worldrl.policies.tanh_gaussian import TanhGaussian

COMPARED = ("naive", "iwae", "nested", "mlmc")
CHUNK = 4_000_000  # densities at a time: about 100 MB


class Pool(NamedTuple):
    """pi(. | s) for P latents of one state, before tanh."""

    mean: Tensor  # (P, A)
    std: Tensor  # (P, A)


class Truth(NamedTuple):
    """Bounds on the entropy, in nats, that converge as the pool grows: with and without the generating latent."""

    lower: float
    upper: float


@torch.no_grad()
def latent_pool(policy: LatentGaussian, x: Tensor, size: int) -> Pool:
    """x (F,) -> ``size`` latents of the policy's own q(s | x)."""
    return Pool(*policy.decoder.stats(policy.latents(x, size)))


@torch.no_grad()
def belief_pool(policy: TanhGaussian, particles: Tensor) -> Pool:
    """particles (P, F) of a belief -> the head's policy at each of them."""
    return Pool(*policy.stats(particles))


def draw(pool: Pool, n: int) -> tuple[Tensor, Tensor]:
    """``n`` actions of the marginal policy before tanh (n, A), and which latents (n,) made them."""
    s_0 = torch.randint(len(pool.mean), (n,), device=pool.mean.device)
    return pool.mean[s_0] + pool.std[s_0] * torch.randn_like(pool.mean[s_0]), s_0


def densities(pool: Pool, pre_tanh: Tensor, which: Tensor) -> Tensor:
    """log pi(a | s) of actions (n, A) for latents ``which`` (..., n) of the pool."""
    return normal_log_prob(pre_tanh, pool.mean[which], pool.std[which]) - tanh_log_det(pre_tanh).sum(-1)


def estimate(pool: Pool, pre_tanh: Tensor, s_0: Tensor, particles: Sequence[int]) -> dict[str, dict[int, Tensor]]:
    """Estimates of -log pi(a | h) (n,) by name and K; all of them use the same latents."""
    others = torch.randint(len(pool.mean), (max(particles), len(s_0)), device=s_0.device)
    log_probs = densities(pool, pre_tanh, torch.cat([s_0[None], others]))
    return {name: {k: -ESTIMATORS[name](log_probs[: k + 1]) for k in particles} for name in COMPARED}


def true_entropy(pool: Pool, pre_tanh: Tensor, s_0: Tensor) -> tuple[Tensor, Tensor]:
    """-log pi(a | h) (n,) by all latents of the pool, with s_0 (low in expectation) and without it (high)."""
    size = len(pool.mean)
    rows = max(1, CHUNK // (size * pre_tanh.shape[-1]))
    with_s_0, without = [], []
    for u, own in zip(pre_tanh.split(rows), s_0.split(rows), strict=True):
        log_probs = normal_log_prob(u[:, None], pool.mean, pool.std)  # (rows, P)
        with_s_0.append(torch.logsumexp(log_probs, -1))
        without.append(torch.logsumexp(log_probs.scatter_(-1, own[:, None], -math.inf), -1))
    log_det = tanh_log_det(pre_tanh).sum(-1)
    return log_det + math.log(size) - torch.cat(with_s_0), log_det + math.log(size - 1) - torch.cat(without)


@torch.no_grad()
def study(
    pools: Sequence[Pool], particles: Sequence[int], n: int = 64
) -> tuple[Truth, Mapping[str, Mapping[int, float]]]:
    """Mean over the states of ``pools`` and ``n`` actions in each: the true entropy and each estimate of it.

    The draws are seeded, so a second call gives the same numbers.
    """
    with own_randomness(1, 0x454E54):
        return _measured(pools, particles, n)


def _measured(
    pools: Sequence[Pool], particles: Sequence[int], n: int
) -> tuple[Truth, Mapping[str, Mapping[int, float]]]:
    found: dict[str, dict[int, list[Tensor]]] = {name: {k: [] for k in particles} for name in COMPARED}
    lower, upper = [], []
    for pool in pools:
        pre_tanh, s_0 = draw(pool, n)
        for name, values in estimate(pool, pre_tanh, s_0, particles).items():
            for k, value in values.items():
                found[name][k].append(value)
        low, high = true_entropy(pool, pre_tanh, s_0)
        lower.append(low)
        upper.append(high)
    means = {name: {k: _mean(v) for k, v in values.items()} for name, values in found.items()}
    return Truth(_mean(lower), _mean(upper)), means


def _mean(values: Sequence[Tensor]) -> float:
    return float(torch.stack(list(values)).double().mean())
