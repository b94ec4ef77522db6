"""The deterministic policy of DDPG and TD3."""

from __future__ import annotations

import torch
from torch import Tensor

from worldrl.nn.build import network
from worldrl.types import NOISE, Actions, Noise, Policy


class Deterministic(Policy):
    """a = tanh(f(x)). It has a mode but no density, so it does not suit heads that maximise an entropy."""

    def __init__(
        self,
        shape: tuple[int, ...],
        actions: Actions,
        units: int | tuple[int, ...],
        layers: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.net = network(shape, units, layers, actions.size, activation)

    def mode(self, x: Tensor) -> Tensor:
        """x (..., F) -> (..., A) float32."""
        return torch.tanh(self.net(x).float())

    def act(self, x: Tensor, noise: Noise = NOISE) -> Tensor:
        """The same action, because nothing is random."""
        return self.mode(x)
