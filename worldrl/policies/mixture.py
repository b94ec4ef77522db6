"""A mixture of tanh-squashed diagonal Gaussians, with its exact density."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from worldrl.errors import UserError
from worldrl.nn.functional import normal_log_prob, tanh_log_det
from worldrl.nn.mlp import MLP
from worldrl.policies.tanh_gaussian import bounded_std
from worldrl.types import Draw


class Components(NamedTuple):
    """The parameters of ``M`` components."""

    log_weight: Tensor  # (..., M)
    mean: Tensor  # (..., M, A)
    std: Tensor  # (..., M, A)


class Mixture(nn.Module):
    """a = tanh(u), u ~ sum_m w_m(x) N(mu_m(x), sigma_m(x)^2), with log sigma bounded smoothly to [-5, 2].

    ``sample`` returns one draw per component with the weights w_m, so that sum_m w_m f(a_m) is an unbiased estimate of
    E f(a), and so is its gradient, that of the weights included: no relaxation of the choice is needed.
    """

    @dataclass(frozen=True)
    class Config:
        components: int = 5  # M

        def __post_init__(self) -> None:
            if self.components < 1:
                raise UserError(f"policy.components: found {self.components}, expected 1 or more")

    exact_density: ClassVar[bool] = True

    def __init__(
        self, config: Mixture.Config, inputs: int, action_dim: int, units: int, layers: int, activation: str
    ) -> None:
        super().__init__()
        self.config = config
        self.action_dim = action_dim
        self.net = MLP(inputs, units, layers, config.components * (2 * action_dim + 1), activation)

    def stats(self, x: Tensor) -> Components:
        """x (..., F) -> float32 parameters."""
        m = self.config.components
        logits, mean, raw = self.net(x).float().split([m, m * self.action_dim, m * self.action_dim], -1)
        shape = (m, self.action_dim)
        return Components(logits.log_softmax(-1), mean.unflatten(-1, shape), bounded_std(raw.unflatten(-1, shape)))

    def sample(self, x: Tensor) -> Draw:
        """x (..., F) -> a reparameterised draw of every component, action (M, ..., A); log_prob is the mixture's."""
        stats = self.stats(x)
        pre_tanh = stratified(stats)
        return Draw(torch.tanh(pre_tanh), pre_tanh, density(stats, pre_tanh), weights(stats))

    def log_prob(self, pre_tanh: Tensor, x: Tensor) -> Tensor:
        """log density of a = tanh(pre_tanh) given x; leading axes broadcast."""
        return density(self.stats(x), pre_tanh)

    def mode(self, x: Tensor) -> Tensor:
        """(..., A): tanh of the mean of the heaviest component."""
        stats = self.stats(x)
        heaviest = stats.log_weight.argmax(-1)[..., None, None]
        return torch.tanh(stats.mean.gather(-2, heaviest.expand_as(stats.mean[..., :1, :])).squeeze(-2))


def stratified(stats: Components) -> Tensor:
    """One draw of every component before tanh, (M, ..., A)."""
    return (stats.mean + stats.std * torch.randn_like(stats.mean)).movedim(-2, 0)


def weights(stats: Components) -> Tensor:
    """w (M, ...)."""
    return stats.log_weight.exp().movedim(-1, 0)


def density(stats: Components, pre_tanh: Tensor) -> Tensor:
    """log of sum_m w_m N(pre_tanh (..., A); mu_m, sigma_m^2) |d pre_tanh / d a|, (...)."""
    log_normal = normal_log_prob(pre_tanh[..., None, :], stats.mean, stats.std)  # (..., M)
    return torch.logsumexp(stats.log_weight + log_normal, -1) - tanh_log_det(pre_tanh).sum(-1)
