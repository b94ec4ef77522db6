"""The latent-variable policy of SMAC without a world model (Zhang et al., ICLR 2023, arXiv 2210.00999, eq. 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from worldrl.estimators.marginal import ESTIMATORS, independent_draws
from worldrl.fields import NotNegative, Particles, Positive, Width
from worldrl.nn.build import network
from worldrl.nn.functional import inverse_softplus, log_mean_exp
from worldrl.policies.tanh_gaussian import TanhGaussian
from worldrl.types import NOISE, Actions, Draw, Noise, Policy


class LatentGaussian(Policy):
    """pi(a | x) = E_{s ~ q(s | x)} pi(a | s): q a diagonal Gaussian, pi(. | s) a tanh-Gaussian that sees only s.

    An action comes from s_0; its log-probability is estimated from s_0 and K more draws of q, reparameterised through
    all of them, so q and pi(. | s) learn from every loss on a draw. With K = 0 it is log pi(a | s_0).
    """

    @dataclass(frozen=True)
    class Config:
        latent: Width = 16  # dimensions of s; the paper uses 8, 16 or 32, depending on the task
        num_particles: Particles = 16  # K; the same
        estimator: Literal["naive", "iwae", "nested", "mlmc", "mlmc_fresh"] = "nested"  # eq. 12 is mlmc
        conditional_penalty: NotNegative = 0.0  # w: the actor's loss gets beta E H(pi(. | s)), beta = alpha w (eq. 26)
        std: Literal["softplus", "log"] = "log"  # of pi(. | s)
        init_std: Positive = 5.0  # for softplus

        def __post_init__(self) -> None:
            independent_draws(self.estimator, self.num_particles)

    exact_density: ClassVar[bool] = False
    tiny: ClassVar[dict[str, Any]] = {"latent": 4, "num_particles": 4}

    def __init__(
        self,
        config: LatentGaussian.Config,
        shape: tuple[int, ...],
        actions: Actions,
        units: int,
        layers: int,
        activation: str,
    ) -> None:
        super().__init__()
        c = self.config = config
        self.particles = independent_draws(c.estimator, c.num_particles)
        self.encoder = network(shape, units, layers, 2 * c.latent, activation)
        self.decoder = TanhGaussian((c.latent,), actions, units, layers, activation, c.std, c.init_std)

    def q(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (..., F) -> mean, std (..., L) of q(s | x), float32; the std starts near one and stays above 1e-4."""
        mean, raw = self.encoder(x).float().chunk(2, -1)
        return mean, F.softplus(raw + inverse_softplus(1.0)) + 1e-4

    def latents(self, x: Tensor, n: int) -> Tensor:
        """x (..., F) -> ``n`` independent draws of s, (n, ..., L)."""
        mean, std = self.q(x)
        return mean + std * torch.randn(n, *mean.shape, device=mean.device)

    def noise(
        self, x: Tensor, n: int = 1, source: Noise = NOISE, particles: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """x (..., B, F) -> the noise of s_0..s_K (1 + K, n, ..., B, L), and of the actions (n, ..., B, A).

        K is ``particles``, by default the number that the estimator needs.
        """
        k, lead = self.particles if particles is None else particles, (n, *x.shape[:-1])
        latent = source.normal((1 + k, *lead, self.config.latent), -2, x)
        return latent, source.normal((*lead, self.decoder.action_dim), -2, x)

    def conditionals(self, x: Tensor, noise: tuple[Tensor, Tensor] | None = None) -> tuple[Draw, Tensor]:
        """x (..., F) -> n draws, each conditional on its s_0, and log pi(a | s_0..s_K) (1 + K, n, ...).

        Every density is evaluated at the draw's own value before tanh.
        """
        latent, own = self.noise(x) if noise is None else noise
        mean, std = self.q(x)
        s = mean + std * latent  # (1 + K, n, ..., L)
        draw = self.decoder.sample(s[0], own)
        return draw, torch.cat([draw.log_prob[None], self.decoder.log_prob(draw.raw, s[1:])])

    def sample(self, x: Tensor, noise: tuple[Tensor, Tensor] | None = None) -> Draw:
        """x (..., F) -> draws, action (n, ..., A), with the estimated marginal log-probability."""
        draw, log_probs = self.conditionals(x, noise)
        marginal = ESTIMATORS[self.config.estimator](log_probs)
        return draw._replace(log_prob=marginal, penalty=-self.config.conditional_penalty * log_probs[0].mean(0))

    def act(self, x: Tensor, noise: Noise = NOISE) -> Tensor:
        """x (..., F) -> the action (..., A) of ``sample`` given its s_0, without the marginal over K + 1 of them."""
        latent, own = self.noise(x, source=noise)
        mean, std = self.q(x)
        return self.decoder.sample(mean + std * latent[0], own).action[0]

    def log_prob(self, raw: Tensor, x: Tensor) -> Tensor:
        """Lower bound, in expectation, on log pi(a | x) of a given action: log-mean-exp over K + 1 fresh draws of s.

        A given action has no s_0, and without it the estimate is too low on average: the bound rises to the true value
        with K. ``raw`` (..., A) and ``x`` (..., F) broadcast.
        """
        axes = max(raw.dim(), x.dim())
        x = x.reshape(*([1] * (axes - x.dim())), *x.shape)  # so that the new axis of s comes before all others
        return log_mean_exp(self.decoder.log_prob(raw, self.latents(x, 1 + self.particles)))

    def mode(self, x: Tensor) -> Tensor:
        """(..., A): the decoder's mode at the mean of q, following SAC; the paper does not say."""
        return self.decoder.mode(self.q(x)[0])
