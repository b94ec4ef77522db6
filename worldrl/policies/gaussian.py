"""The Gaussian of IQL and AWAC: it is fitted to given actions and has no tanh on its draws."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from worldrl.nn.build import network
from worldrl.nn.functional import limited, normal_log_prob
from worldrl.types import NOISE, Actions, Draw, Noise, Policy

LOG_STD = (-5.0, 2.0)


class Gaussian(Policy):
    """u ~ N(tanh f(x), sigma^2), with one learned sigma per number, the same in all states; a = clip(u, -1, 1).

    ``log_prob`` is the density of u: it is finite for every given action, also on the boundary of the box, and needs no
    inverse of tanh.
    """

    exact_density: ClassVar[bool] = False  # it is of u, not of a, which may be on the boundary

    def __init__(self, shape: tuple[int, ...], actions: Actions, units: int, layers: int, activation: str) -> None:
        super().__init__()
        self.net = network(shape, units, layers, actions.size, activation)
        self.log_std = nn.Parameter(torch.zeros(actions.size))

    def mean(self, x: Tensor) -> Tensor:
        """x (..., F) -> (..., A) float32, in (-1, 1)."""
        return torch.tanh(self.net(x).float())

    def std(self) -> Tensor:
        """(A,)."""
        return limited(self.log_std, *LOG_STD).exp()

    def noise(self, x: Tensor, n: int = 1, source: Noise = NOISE) -> Tensor:
        """x (..., B, F) -> (n, ..., B, A) standard normal."""
        return source.normal((n, *x.shape[:-1], len(self.log_std)), -2, x)

    def sample(self, x: Tensor, noise: Tensor | None = None) -> Draw:
        """x (..., F) -> reparameterised draws, action (n, ..., A)."""
        mean, std = self.mean(x), self.std()
        noise = self.noise(x) if noise is None else noise
        raw = mean + std * noise
        return Draw(raw.clamp(-1.0, 1.0), raw, normal_log_prob(raw, mean, std), 1.0 / len(noise))

    def log_prob(self, raw: Tensor, x: Tensor) -> Tensor:
        """log density of u = ``raw`` given x, which may be a given action; leading axes broadcast."""
        return normal_log_prob(raw, self.mean(x), self.std())

    def raw_of(self, action: Tensor) -> Tensor:
        return action

    def mode(self, x: Tensor) -> Tensor:
        """(..., A): the mean."""
        return self.mean(x)
