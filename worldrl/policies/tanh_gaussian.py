"""The tanh-squashed diagonal Gaussian of SAC and Dreamer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from worldrl.nn.build import network
from worldrl.nn.functional import inverse_softplus, normal_log_prob, standard_log_prob, tanh_log_det
from worldrl.types import NOISE, Actions, Draw, Noise, Policy


def bounded_std(raw: Tensor) -> Tensor:
    """sigma > 0 from a raw output, log sigma bounded smoothly to [-5, 2] as in CleanRL and pytorch_sac."""
    return torch.exp(-5.0 + 3.5 * (torch.tanh(raw) + 1.0))


def drawn(mean: Tensor, std: Tensor, noise: Tensor) -> Draw:
    """Draws from noise (n, ..., A)."""
    raw = mean + std * noise
    # noise is (raw - mean) / std: the quadratic term has no gradient under reparameterisation.
    log_prob = standard_log_prob(noise) - (std.log() + tanh_log_det(raw)).sum(-1)
    return Draw(torch.tanh(raw), raw, log_prob, 1.0 / len(noise))


class TanhGaussian(Policy):
    """a = tanh(u), u ~ N(mu(x), sigma(x)^2).

    Two parameterisations of (mu, sigma) from the raw network outputs (m, s):

    - ``std="softplus"`` (Dreamer, SMAC): mu = 5 tanh(m / 5), sigma = softplus(s + c) + 1e-4, where c is such that s = 0
      yields ``init_std``. Public PyTorch ports miss a parenthesis: their c = 4.0 starts at sigma = 4.018, which is
      ``init_std=4.018`` here.
    - ``std="log"`` (SAC): mu = m, sigma = ``bounded_std(s)``.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        actions: Actions,
        units: int,
        layers: int,
        activation: str = "elu",
        std: str = "softplus",
        init_std: float = 5.0,
    ) -> None:
        super().__init__()
        self.action_dim = actions.size
        self.net = network(shape, units, layers, 2 * self.action_dim, activation)
        self.std = std
        self.offset = inverse_softplus(init_std)

    def stats(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (..., F) -> mean, std (..., A) float32."""
        mean, raw = self.net(x).float().chunk(2, -1)
        if self.std == "softplus":
            return 5.0 * torch.tanh(mean / 5.0), F.softplus(raw + self.offset) + 1e-4
        return mean, bounded_std(raw)

    def noise(self, x: Tensor, n: int = 1, source: Noise = NOISE) -> Tensor:
        """x (..., B, F) -> (n, ..., B, A) standard normal."""
        return source.normal((n, *x.shape[:-1], self.action_dim), -2, x)

    def sample(self, x: Tensor, noise: Tensor | None = None) -> Draw:
        """x (..., F) -> reparameterised draws, action (n, ..., A)."""
        return self.drawing(x)(self.noise(x) if noise is None else noise)

    def drawing(self, x: Tensor) -> Callable[[Tensor], Draw]:
        """x (..., F) -> ``sample`` as a function of the noise, with the network evaluated once."""
        return partial(drawn, *self.stats(x))

    def act(self, x: Tensor, noise: Noise = NOISE) -> Tensor:
        """x (..., F) -> the action (..., A) of ``sample``, without its density."""
        mean, std = self.stats(x)
        return torch.tanh(mean + std * self.noise(x, source=noise)[0])

    def log_prob(self, raw: Tensor, x: Tensor) -> Tensor:
        """log density of a = tanh(raw) given x; leading axes broadcast.

        All densities of one action must be evaluated at the same pre-tanh value: the inverse of tanh is at most 8.66 in
        float32 (7.25 after a clip at 1 - 1e-6), and mixture weights between an exact and an inverted value are wrong
        there.
        """
        mean, std = self.stats(x)
        return normal_log_prob(raw, mean, std) - tanh_log_det(raw).sum(-1)

    def mode(self, x: Tensor) -> Tensor:
        """(..., A): tanh(mu), the usual deterministic action."""
        return torch.tanh(self.stats(x)[0])
