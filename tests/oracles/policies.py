"""Action distributions: the tanh-Gaussian, the mixture, RealNVP (Dinh et al. 2017), the latent policy (SMAC eq. 5)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.oracles import estimators
from tests.oracles.plain import (
    Weights,
    inverse_softplus,
    mean_in_logs,
    mlp,
    noise,
    normal_log_prob,
    tanh_log_det,
)


class Draw(NamedTuple):
    """Weighted draws; the first axis counts them."""

    u: Tensor  # (M, ..., A) before tanh
    log_pi: Tensor  # (M, ...)
    weight: Tensor  # (M, ...)
    penalty: Tensor | float = 0.0

    @property
    def action(self) -> Tensor:
        return torch.tanh(self.u)


def single(u: Tensor, log_pi: Tensor, penalty: Tensor | float = 0.0) -> Draw:
    return Draw(u[None], log_pi[None], torch.ones_like(log_pi)[None], penalty)


def bounded_std(raw: Tensor) -> Tensor:
    """log sigma between -5 and 2."""
    return torch.exp(-5.0 + 3.5 * (torch.tanh(raw) + 1.0))


class TanhGaussian:
    """tanh u, u ~ N(mean, std^2); Dreamer's form (softplus) or SAC's (log)."""

    def __init__(self, w: Weights, name: str, activation: str, std: str, init_std: float) -> None:
        self.w, self.name, self.activation, self.std, self.init_std = w, name, activation, std, init_std

    def stats(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = mlp(self.w, f"{self.name}.net", x, self.activation).chunk(2, -1)
        if self.std == "log":
            return mean, bounded_std(raw)
        return 5.0 * torch.tanh(mean / 5.0), F.softplus(raw + inverse_softplus(self.init_std)) + 1e-4

    def log_prob(self, u: Tensor, x: Tensor) -> Tensor:
        return normal_log_prob(u, *self.stats(x)) - tanh_log_det(u)

    def sample(self, x: Tensor) -> Draw:
        mean, std = self.stats(x)
        u = mean + std * noise(*mean.shape)
        return single(u, normal_log_prob(u, mean, std) - tanh_log_det(u))


class Mixture:
    """sum_m w_m N(mean_m, std_m^2), squashed; ``own`` gives each draw the density of its component only (PMOE)."""

    def __init__(self, w: Weights, name: str, activation: str, components: int, own: bool = False) -> None:
        self.w, self.name, self.activation, self.m, self.own = w, name, activation, components, own

    def stats(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (M, ...), means and standard deviations (M, ..., A)."""
        out = mlp(self.w, f"{self.name}.net", x, self.activation)
        logits, rest = out[..., : self.m], out[..., self.m :]
        mean, raw = (part.unflatten(-1, (self.m, -1)).movedim(-2, 0) for part in rest.chunk(2, -1))
        return torch.softmax(logits, -1).movedim(-1, 0), mean, bounded_std(raw)

    def log_prob(self, u: Tensor, x: Tensor) -> Tensor:
        weight, mean, std = self.stats(x)
        densities = torch.stack([w * normal_log_prob(u, m, s).exp() for w, m, s in zip(weight, mean, std, strict=True)])
        return densities.sum(0).log() - tanh_log_det(u)

    def sample(self, x: Tensor) -> Draw:
        weight, mean, std = self.stats(x)
        drawn = noise(*x.shape[:-1], self.m, mean.shape[-1]).movedim(-2, 0)
        u = mean + std * drawn
        if self.own:
            return Draw(u, normal_log_prob(u, mean, std) - tanh_log_det(u), weight)
        return Draw(u, torch.stack([self.log_prob(one, x) for one in u]), weight)


class Flow:
    """u = f_n(... f_1(z)): each block scales and shifts some coordinates given the others and the state."""

    def __init__(self, w: Weights, name: str, activation: str, config: Any, size: int) -> None:
        self.w, self.name, self.activation, self.c, self.size = w, name, activation, config, size

    def transform(self, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros_like(z[..., 0])
        for i in range(self.c.blocks):
            moved = self.size - self.size // 2 if i % 2 == 0 else max(self.size // 2, 1)
            kept, rest = z[..., : self.size - moved], z[..., self.size - moved :]
            out = mlp(self.w, f"{self.name}.blocks.{i}.net", torch.cat([x, kept], -1), self.activation)
            raw, shift = out.chunk(2, -1)
            scale = self.c.max_log_scale * torch.tanh(raw / self.c.max_log_scale)
            z = torch.cat([rest * scale.exp() + shift, kept], -1)
            total = total + scale.sum(-1)
        return z, total

    def sample(self, x: Tensor) -> Draw:
        z = noise(1, *x.shape[:-1], self.size)[0]
        u, log_det = self.transform(z, x)
        log_z = -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
        return single(u, log_z - log_det - tanh_log_det(u))


class Latent:
    """a ~ pi(. | s_0), s_k ~ q(s | x); log pi(a | x) is estimated from all K + 1 of them (SMAC eqs. 5, 11, 12, 26)."""

    def __init__(self, w: Weights, name: str, activation: str, config: Any) -> None:
        self.w, self.name, self.activation, self.c = w, name, activation, config
        self.decoder = TanhGaussian(w, f"{name}.decoder", activation, config.std, config.init_std)

    def sample(self, x: Tensor) -> Draw:
        mean, raw = mlp(self.w, f"{self.name}.encoder", x, self.activation).chunk(2, -1)
        std = F.softplus(raw + inverse_softplus(1.0)) + 1e-4
        k = estimators.draws(self.c.estimator, self.c.num_particles)
        s = mean + std * noise(1 + k, *mean.shape)
        draw = self.decoder.sample(s[0])
        log_probs = torch.stack([self.decoder.log_prob(draw.u[0], one) for one in s])
        estimate = estimators.ESTIMATORS[self.c.estimator](log_probs)
        return single(draw.u[0], estimate, -self.c.conditional_penalty * log_probs[0])


def marginal(densities: list[Tensor]) -> Tensor:
    """log of the mean density of one action under many states."""
    return mean_in_logs(torch.stack(densities))
