"""A mixture of tanh-squashed diagonal Gaussians, with its exact density."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from worldrl.fields import Range
from worldrl.nn.build import network
from worldrl.nn.functional import normal_log_prob, tanh_log_det
from worldrl.policies.tanh_gaussian import bounded_std
from worldrl.types import NOISE, Actions, Draw, Noise, Policy


class Components(NamedTuple):
    """The parameters of ``M`` components."""

    log_weight: Tensor  # (..., M)
    mean: Tensor  # (..., M, A)
    std: Tensor  # (..., M, A)


class Mixture(Policy):
    """a = tanh(u), u ~ sum_m w_m(x) N(mu_m(x), sigma_m(x)^2), with log sigma bounded smoothly to [-5, 2].

    ``sample`` returns one draw per component with the weights w_m, so sum_m w_m f(a_m) is an unbiased estimate of
    E f(a). Its gradient, which includes that of the weights, is unbiased too: no relaxation of the choice is needed.
    """

    @dataclass(frozen=True)
    class Config:
        components: Annotated[int, Range(1, 1_000)] = 5  # M

    def __init__(
        self,
        config: Mixture.Config,
        shape: tuple[int, ...],
        actions: Actions,
        units: int,
        layers: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.config = config
        self.action_dim = actions.size
        self.net = network(shape, units, layers, config.components * (2 * self.action_dim + 1), activation)

    def stats(self, x: Tensor) -> Components:
        """x (..., F) -> float32 parameters."""
        m = self.config.components
        logits, mean, raw = self.net(x).float().split([m, m * self.action_dim, m * self.action_dim], -1)
        shape = (m, self.action_dim)
        return Components(logits.log_softmax(-1), mean.unflatten(-1, shape), bounded_std(raw.unflatten(-1, shape)))

    def noise(self, x: Tensor, n: int = 1, source: Noise = NOISE) -> Tensor:
        """x (..., B, F) -> (n, ..., B, M, A) standard normal."""
        return source.normal((n, *x.shape[:-1], self.config.components, self.action_dim), -3, x)

    def sample(self, x: Tensor, noise: Tensor | None = None) -> Draw:
        """x (..., F) -> reparameterised draws of every component, action (n M, ..., A); log_prob is the mixture's."""
        stats = self.stats(x)
        raw, weight = stratified(stats, self.noise(x) if noise is None else noise)
        return Draw(torch.tanh(raw), raw, density(stats, raw), weight)

    def log_prob(self, raw: Tensor, x: Tensor) -> Tensor:
        """log density of a = tanh(raw) given x; leading axes broadcast."""
        return density(self.stats(x), raw)

    def mode(self, x: Tensor) -> Tensor:
        """(..., A): tanh of the mean of the heaviest component."""
        stats = self.stats(x)
        heaviest = stats.log_weight.argmax(-1)[..., None, None]
        return torch.tanh(stats.mean.gather(-2, heaviest.expand_as(stats.mean[..., :1, :])).squeeze(-2))


def stratified(stats: Components, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Noise (n, ..., M, A) -> n draws of every component before tanh, (n M, ..., A), and their weights (n M, ...)."""
    raw = (stats.mean + stats.std * noise).movedim(-2, 1).flatten(0, 1)
    weight = stats.log_weight.exp().movedim(-1, 0)  # (M, ...)
    n = len(noise)
    return raw, weight if n == 1 else weight.repeat(n, *[1] * (weight.dim() - 1)) / n


def density(stats: Components, raw: Tensor) -> Tensor:
    """log sum_m w_m N(raw (..., A); mu_m, sigma_m^2) |d raw / d a|, (...)."""
    log_normal = normal_log_prob(raw[..., None, :], stats.mean, stats.std)  # (..., M)
    return torch.logsumexp(stats.log_weight + log_normal, -1) - tanh_log_det(raw).sum(-1)
