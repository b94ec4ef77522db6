"""A RealNVP policy (Dinh et al. 2017; Haarnoja et al. 2018): "Flow2" and "Flow4" of the SMAC paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

import torch
from torch import Tensor, nn

from worldrl.fields import Positive, Range
from worldrl.nn.build import torso
from worldrl.nn.functional import standard_log_prob, tanh_log_det
from worldrl.nn.mlp import MLP
from worldrl.types import NOISE, Actions, Draw, Noise, Policy


class Coupling(nn.Module):
    """(kept, moved) -> (moved exp(s) + t, kept), with s and t functions of (x, kept); |s| is below ``max_log_scale``.

    The parts change places, so the next block moves what this one kept.
    """

    def __init__(
        self, inputs: int, kept: int, moved: int, units: int, layers: int, activation: str, max_log_scale: float
    ) -> None:
        super().__init__()
        self.net = MLP(inputs + kept, units, layers, 2 * moved, activation)
        self.kept, self.moved, self.max_log_scale = kept, moved, max_log_scale

    def forward(self, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (..., A), x (..., F) -> the image (..., A), log |det| (...)."""
        kept, moved = z.split([self.kept, self.moved], -1)
        scale, shift = self._scale_and_shift(kept, x)
        return torch.cat([moved * scale.exp() + shift, kept], -1), scale.sum(-1)

    def inverse(self, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """u (..., A), x (..., F) -> z with ``forward(z, x)`` = u, and the log |det| of forward there."""
        image, kept = u.split([self.moved, self.kept], -1)
        scale, shift = self._scale_and_shift(kept, x)
        return torch.cat([kept, (image - shift) * (-scale).exp()], -1), scale.sum(-1)

    def _scale_and_shift(self, kept: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = self.net(torch.cat([x.expand(*kept.shape[:-1], -1), kept], -1)).float().chunk(2, -1)
        return self.max_log_scale * torch.tanh(raw / self.max_log_scale), shift


class Flow(Policy):
    """a = tanh(f_n(... f_1(z))), z ~ N(0, I), f_i couplings, each with networks as large as SAC's actor.

    An action of one dimension has no second half to depend on: every block then depends only on x, and the policy is a
    tanh-Gaussian.
    """

    @dataclass(frozen=True)
    class Config:
        blocks: Annotated[int, Range(2, 100)] = 2  # each moves half of an action
        max_log_scale: Positive = 3.0  # limit of each block's |s|; unbounded scales diverge

    def __init__(
        self,
        config: Flow.Config,
        shape: tuple[int, ...],
        actions: Actions,
        units: int,
        layers: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.config = config
        self.action_dim = action_dim = actions.size
        self.torso, inputs = torso(shape)
        self.note = "an action of one dimension has no halves: this flow is a tanh-Gaussian" if action_dim == 1 else ""
        moved = [action_dim - action_dim // 2, max(action_dim // 2, 1)]  # in turns
        self.blocks = nn.ModuleList(
            Coupling(inputs, action_dim - n, n, units, layers, activation, config.max_log_scale)
            for n in (moved[i % 2] for i in range(config.blocks))
        )

    def transform(self, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (..., A), x (..., F) -> the value before tanh (..., A), log |d raw / dz| (...); only x broadcasts."""
        x, total = self.torso(x), z.new_zeros(z.shape[:-1])
        for block in self.blocks:
            z, log_det = block(z, x)
            total = total + log_det
        return z, total

    def noise(self, x: Tensor, n: int = 1, source: Noise = NOISE) -> Tensor:
        """x (..., B, F) -> z (n, ..., B, A)."""
        return source.normal((n, *x.shape[:-1], self.action_dim), -2, x)

    def sample(self, x: Tensor, noise: Tensor | None = None) -> Draw:
        """x (..., F) -> reparameterised draws, action (n, ..., A)."""
        z = self.noise(x) if noise is None else noise
        raw, log_det = self.transform(z, x)
        log_prob = standard_log_prob(z) - log_det - tanh_log_det(raw).sum(-1)
        return Draw(torch.tanh(raw), raw, log_prob, 1.0 / len(z))

    def log_prob(self, raw: Tensor, x: Tensor) -> Tensor:
        """log density of a = tanh(raw) given x; leading axes broadcast."""
        lead = torch.broadcast_shapes(raw.shape[:-1], x.shape[:-1])
        z, x = raw.expand(*lead, -1), self.torso(x)
        total = -tanh_log_det(raw).sum(-1)
        for block in reversed(cast("list[Coupling]", list(self.blocks))):
            z, log_det = block.inverse(z, x)
            total = total - log_det
        return standard_log_prob(z) + total

    def mode(self, x: Tensor) -> Tensor:
        """(..., A): the image of z = 0, as the deterministic action."""
        return torch.tanh(self.transform(x.new_zeros(*x.shape[:-1], self.action_dim), x)[0])
