"""The policy of a choice: one probability for each action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from worldrl.nn.build import network
from worldrl.nn.functional import at_action
from worldrl.types import NOISE, Actions, Draw, Noise, Policy, hardened


class Categorical(Policy):
    """pi(a | x) = softmax of a network's outputs.

    A draw is every action once, weighted by its probability, so expectations over it are exact and have exact
    gradients: M = A for any number of draws. ``Draw.one`` picks one action, with a straight-through gradient.
    """

    @dataclass(frozen=True)
    class Config:
        pass

    actions: ClassVar[tuple[str, ...]] = ("choice",)

    def __init__(
        self,
        config: Categorical.Config,
        shape: tuple[int, ...],
        actions: Actions,
        units: int,
        layers: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.config = config
        self.net = network(shape, units, layers, actions.size, activation)

    def log_probs(self, x: Tensor) -> Tensor:
        """x (..., F) -> log pi(a | x) of every action (..., A), float32."""
        return self.net(x).float().log_softmax(-1)

    def noise(self, x: Tensor, n: int = 1, source: Noise = NOISE) -> Any:
        """None, because nothing is random."""

    def sample(self, x: Tensor, noise: Any = None) -> Draw:
        """x (..., F) -> every action, (A, ..., A), with its probability as weight."""
        log_prob = self.log_probs(x).movedim(-1, 0)  # (A, ...)
        a = len(log_prob)
        rows = torch.eye(a, dtype=log_prob.dtype, device=x.device).reshape(a, *[1] * (log_prob.dim() - 1), a)
        action = rows.expand(*log_prob.shape, a)
        return Draw(action, action, log_prob, log_prob.exp())

    def log_prob(self, raw: Tensor, x: Tensor) -> Tensor:
        """log pi(a | x) of one-hot rows (..., A); leading axes broadcast."""
        return at_action(self.log_probs(x), raw)

    def probabilities(self, x: Tensor) -> Tensor:
        """(..., A): pi(a | x) of every action."""
        return self.log_probs(x).exp()

    def raw_of(self, action: Tensor) -> Tensor:
        """The one-hot row itself."""
        return action

    def mode(self, x: Tensor) -> Tensor:
        """(..., A): the most probable action."""
        return hardened(self.log_probs(x))
