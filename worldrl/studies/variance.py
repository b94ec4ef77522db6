"""The effect of particles and multi-level estimates on the noise of the entropy and its gradient (SMAC, 3.2.2)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from worldrl.estimators.marginal import ESTIMATORS, independent_draws
from worldrl.policies.latent import LatentGaussian

COMPARED = ("nested", "mlmc", "mlmc_fresh")


class Noise(NamedTuple):
    """The noise of one estimator at one K."""

    entropy: float  # nats, the mean estimate
    std: float  # nats, of the estimate from a single draw in one state: the root of the mean variance over states
    gradient: float  # of the batch's gradient: sqrt(E |g - E g|^2) / |E g|, if it can be resolved
    error: float  # standard error of this quotient
    draws: int  # latents per action in addition to s_0


def entropies(policy: LatentGaussian, x: Tensor, estimator: str, k: int) -> Tensor:
    """Estimates of -log pi(a | x) (B,), one draw for each row of x (B, F)."""
    _, log_probs = policy.conditionals(x, policy.noise(x, particles=independent_draws(estimator, k)))
    return -ESTIMATORS[estimator](log_probs)


def noise(policy: LatentGaussian, x: Tensor, estimator: str, k: int, repeats: int) -> Noise:
    """The noise from ``repeats`` fresh batches of draws at x (B, F)."""
    values, gradients = [], []
    for _ in range(repeats):
        value = entropies(policy, x, estimator, k)
        gradient = torch.autograd.grad(value.mean(), list(policy.parameters()))
        values.append(value.detach())
        gradients.append(torch.cat([g.flatten() for g in gradient]))
    every, each = torch.stack(values).double(), torch.stack(gradients).double()  # (repeats, B), (repeats, parameters)
    quotient, error = relative_spread(each)
    std = every.var(0).mean().sqrt()
    return Noise(float(every.mean()), float(std), quotient, error, independent_draws(estimator, k))


def relative_spread(samples: Tensor) -> tuple[float, float]:
    """sqrt(E |g - E g|^2) / |E g| of samples (R, N), both without the bias of a finite R, and its standard error.

    The error is the jackknife's. NaN if the estimate of |E g|^2 is not above zero: too few samples cannot separate
    signal and noise.
    """
    products = samples @ samples.T  # (R, R)
    squares, total = products.diagonal().sum(), products.sum()
    n = len(samples)
    value = _quotient(squares, total, n)
    without_one = _quotient(squares - products.diagonal(), total - 2 * products.sum(1) + products.diagonal(), n - 1)
    error = ((n - 1) * (without_one - without_one.mean()).square().mean()).sqrt()
    return float(value), float(error)


def _quotient(squares: Tensor, total: Tensor, n: int) -> Tensor:
    """From the sum of |g|^2 over n samples and |sum of g|^2."""
    spread = (squares - total / n) / (n - 1)
    signal = total / n**2 - spread / n
    return torch.where(signal > 0, (spread / signal).sqrt(), math.nan)
