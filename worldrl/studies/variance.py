"""What more particles and multi-level estimates do to the noise of the entropy and its gradient (SMAC, 3.2.2)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from worldrl.estimators.marginal import ESTIMATORS, independent_draws
from worldrl.policies.latent import LatentGaussian

COMPARED = ("nested", "mlmc", "mlmc_fresh")


class Noise(NamedTuple):
    """Of one estimator at one K."""

    entropy: float  # nats, the mean estimate
    std: float  # nats, of the estimate from a single draw
    gradient: float  # of the batch's gradient: sqrt(E |g - E g|^2) / |E g|, if it can be told
    draws: int  # latents per action beside s_0


def entropies(policy: LatentGaussian, x: Tensor, estimator: str, k: int) -> Tensor:
    """Estimates of -log pi(a | x) (B,), one draw for each row of x (B, F)."""
    _, log_probs = policy.conditionals(x, independent_draws(estimator, k))
    return -ESTIMATORS[estimator](log_probs)


def noise(policy: LatentGaussian, x: Tensor, estimator: str, k: int, repeats: int) -> Noise:
    """From ``repeats`` fresh batches of draws at x (B, F)."""
    values, gradients = [], []
    for _ in range(repeats):
        value = entropies(policy, x, estimator, k)
        gradient = torch.autograd.grad(value.mean(), list(policy.parameters()))
        values.append(value.detach())
        gradients.append(torch.cat([g.flatten() for g in gradient]))
    every, each = torch.cat(values).double(), torch.stack(gradients).double()
    return Noise(float(every.mean()), float(every.std()), relative_spread(each), independent_draws(estimator, k))


def relative_spread(samples: Tensor) -> float:
    """sqrt(E |g - E g|^2) / |E g| of samples (R, N), both without the bias of a finite R.

    Not a number where that estimate of |E g|^2 is not above zero: so few samples do not tell the signal from noise.
    """
    spread = samples.var(0).sum()
    signal = samples.mean(0).square().sum() - spread / len(samples)
    return float((spread / signal).sqrt()) if signal > 0 else math.nan
