"""Hamiltonian Monte Carlo (Neal 2011, arXiv 1206.1901) on a whole batch: one chain per entry, without the host."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]  # (..., D) -> (...), up to a constant


class ChainNoise(NamedTuple):
    """All random numbers of ``n`` steps of the chains."""

    momentum: Tensor  # (n, ..., D) standard normal
    uniform: Tensor  # (n, ...) in [0, 1): the Metropolis test


class Chain(NamedTuple):
    """The end of the chains, without gradient."""

    state: Tensor  # (..., D)
    acceptance: Tensor  # (...) mean probability that a proposal is accepted


class Point(NamedTuple):
    """A state, and the log density and its gradient there."""

    state: Tensor  # (..., D)
    value: Tensor  # (...)
    gradient: Tensor  # (..., D)


def chain_noise(start: Tensor, n: int) -> ChainNoise:
    """The noise of ``n`` steps from ``start`` (..., D)."""
    shape = (n, *start.shape)
    return ChainNoise(torch.randn(shape, device=start.device), torch.rand(shape[:-1], device=start.device))


def run_chains(
    log_density: LogDensity, start: Tensor, step: Tensor | float, noise: ChainNoise, leapfrogs: int = 2
) -> Chain:
    """Steps of HMC with unit masses; a proposal with an energy that is not finite is rejected.

    The density is called once at the start, and once for each leapfrog: its gradient at the end of a step is reused at
    the beginning of the next one.
    """
    point, accepted = evaluate(log_density, start), []
    for momentum, uniform in zip(noise.momentum.unbind(), noise.uniform.unbind(), strict=True):
        end, left = leapfrog(log_density, point, momentum, step, leapfrogs)
        gain = end.value - point.value + 0.5 * (momentum.square() - left.square()).sum(-1)
        gain = gain.masked_fill(~end.value.isfinite(), -math.inf)
        log_probability = gain.nan_to_num(nan=-math.inf, neginf=-math.inf).clamp(max=0.0)
        point = _chosen(uniform.log() < log_probability, end, point)
        accepted.append(log_probability.exp())
    return Chain(point.state, torch.stack(accepted).mean(0))


def leapfrog(
    log_density: LogDensity, point: Point, momentum: Tensor, step: Tensor | float, n: int
) -> tuple[Point, Tensor]:
    """``n`` leapfrogs: the end, and the momentum there."""
    momentum = momentum + 0.5 * step * point.gradient
    for i in range(n):
        point = evaluate(log_density, point.state + step * momentum)
        momentum = momentum + (0.5 if i == n - 1 else 1.0) * step * point.gradient
    return point, momentum


def evaluate(log_density: LogDensity, state: Tensor) -> Point:
    """Log density and gradient, detached; no gradient of parameters is computed."""
    with torch.enable_grad():
        state = state.detach().requires_grad_()
        value = log_density(state)
        (gradient,) = torch.autograd.grad(value.sum(), state)
    return Point(state.detach(), value.detach(), gradient)


def usual_step(dimensions: int) -> float:
    """A step that is accepted about as often in any number of dimensions: min(1, (6 / D)^(1/4))."""
    return min(1.0, (6.0 / dimensions) ** 0.25)


def _chosen(take: Tensor, new: Point, old: Point) -> Point:
    """``new`` where ``take`` (...), else ``old``."""
    return Point(
        torch.where(take[..., None], new.state, old.state),
        torch.where(take, new.value, old.value),
        torch.where(take[..., None], new.gradient, old.gradient),
    )
