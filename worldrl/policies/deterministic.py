"""The deterministic policy of DDPG and TD3."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldrl.nn.mlp import MLP


class Deterministic(nn.Module):
    """a = tanh(f(x)). It has a mode and no density, so it is no choice for heads that maximise an entropy."""

    def __init__(
        self, inputs: int, action_dim: int, units: int | tuple[int, ...], layers: int, activation: str
    ) -> None:
        super().__init__()
        self.net = MLP(inputs, units, layers, action_dim, activation)

    def mode(self, x: Tensor) -> Tensor:
        """x (..., F) -> (..., A) float32."""
        return torch.tanh(self.net(x).float())
