"""Deep Q-learning (Mnih et al. 2015, doi 10.1038/nature14236) for choices, on any belief.

With a target Q' that is a copy of Q, renewed every ``target_period`` updates, and n-step returns R:

    y   = R + gamma^n (1 - d) V(s_n)
    V   = max_a Q'(s, a),   double (van Hasselt et al., arXiv 1509.06461): Q'(s, argmax_a Q(s, a))
    L_Q = E (Q(s, a) - y)^2, or Huber's loss with threshold 1

It acts greedily and explores with ``schedule.epsilon``. ``soft_q`` and ``mirl`` soften the maximum.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from worldrl.fields import NotNegative, Positive, Range, Rate, Samples, Share, SomeLayers, Width
from worldrl.heads.transitions import Steps, n_steps
from worldrl.nn.build import critic
from worldrl.nn.functional import masked_mean
from worldrl.nn.optim import Optimizer, polyak
from worldrl.nn.precision import forget_casts
from worldrl.types import (
    NOISE,
    Batch,
    Belief,
    BeliefModel,
    Extra,
    Head,
    Metrics,
    Needs,
    Noise,
    Sizes,
    hardened,
)


class Fit(NamedTuple):
    """The loss of Q, and what it was computed from, without gradient."""

    loss: Tensor  # ()
    values: Tensor  # Q(s, .) (1, B, S, A)
    chosen: Tensor  # Q(s, a) (1, B, S)
    squared: Tensor  # () mean of (Q(s, a) - y)^2


class DQN(Head):
    """The head of DQN. Defaults are for small tasks on vectors."""

    @dataclass(frozen=True)
    class Config:
        units: Width = 128
        layers: SomeLayers = 2
        activation: Literal["elu", "relu", "silu", "tanh"] = "relu"
        critic_lr: Rate = 1e-3
        adam_eps: Positive = 1e-8
        grad_clip: NotNegative = 0.0
        gamma: Share = 0.99
        steps: Annotated[int, Range(1, 1_000)] = 1  # n of the returns; a window needs n + 1 rows for the head
        target_period: Samples = 100  # updates between two copies of Q
        double: bool = False  # the online Q selects the action, the target evaluates it
        huber: bool = False  # the Huber loss in place of the squared error

    config: DQN.Config
    tiny: ClassVar[dict[str, Any]] = {"units": 8, "layers": 1, "target_period": 2}
    compiled: ClassVar[tuple[str, ...]] = ("td_target", "critic_loss")

    def __init__(self, config: DQN.Config, sizes: Sizes) -> None:
        super().__init__()
        c = self.config = config
        self.needs = Needs(actions=("choice",), rows=c.steps + 1, epsilon=True)
        self.actions = sizes.actions
        self.critic: Any = critic(sizes.feat, sizes.actions, c.units, c.layers, c.activation, n=1)
        self.target: Any = deepcopy(self.critic).requires_grad_(False)
        self.optimizers = {"critic": Optimizer(self.critic.parameters(), c.critic_lr, c.grad_clip, c.adam_eps)}

    # --- the contract -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, belief: Belief, explore: bool, noise: Noise = NOISE) -> Tensor:
        """(B, A): the best action, also when exploring; with particles, the one that is best on most paths."""
        feats = torch.cat([belief.feat[None], belief.particles])
        return self.actions.average(hardened(self.preference(self.q(feats))))

    def phase(self, n: int) -> str:
        return "update" if (n + 1) % self.config.target_period else "copy"

    def update(
        self, phase: str, batch: Batch, belief: Belief, model: BeliefModel, extra: Extra | None = None
    ) -> Metrics:
        """One step on Q; in the phase ``copy`` the target becomes Q."""
        steps = n_steps(batch, belief.feat[None], self.config.steps, self.config.gamma)
        fit = self.critic_loss(steps, self.td_target(steps))
        metrics = {
            "opt/critic/grad_norm": self.optimizers["critic"].step(fit.loss),
            "loss/critic": fit.loss.detach(),
            "critic/q": masked_mean(fit.chosen, steps.pairs.mask),
        }
        metrics |= self.adapt(fit, steps, batch, belief, model, extra or {})
        if phase == "copy":
            polyak(self.target, self.critic, 1.0)
        return metrics

    # --- the equations ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def td_target(self, steps: Steps) -> Tensor:
        """y (1, B, S), float32."""
        feat = steps.pairs.next_feat
        later = self.target.values(feat)[0]  # (1, B, S, A)
        value = self.double_value(self.q(feat), later) if self.config.double else self.value(later)
        forget_casts()  # of Q
        return steps.pairs.reward + steps.discount * (1.0 - steps.pairs.terminal) * value

    def critic_loss(self, steps: Steps, y: Tensor) -> Fit:
        pairs = steps.pairs
        values = self.q(pairs.feat)  # (1, B, S, A)
        q = (values * pairs.action).sum(-1)  # (1, B, S)
        squared = (q - y).square()
        each = F.smooth_l1_loss(q, y, reduction="none") if self.config.huber else squared
        loss, mean_squared = masked_mean(each, pairs.mask), masked_mean(squared, pairs.mask)
        return Fit(loss, values.detach(), q.detach(), mean_squared.detach())

    def q(self, feat: Tensor) -> Tensor:
        """Q(s, .) (..., F) -> (..., A)."""
        values: Tensor = self.critic.values(feat)[0]
        return values

    def preference(self, q: Tensor) -> Tensor:
        """A score that is largest at the best action, (..., A)."""
        return q

    def value(self, q: Tensor) -> Tensor:
        """V of the values of all actions, (..., A) -> (...)."""
        return q.amax(-1)

    def double_value(self, q: Tensor, target: Tensor) -> Tensor:
        """V if ``q`` selects the action and ``target`` evaluates it, both (..., A) -> (...)."""
        return (hardened(q) * target).sum(-1)

    def adapt(self, fit: Fit, steps: Steps, batch: Batch, belief: Belief, model: BeliefModel, extra: Extra) -> Metrics:
        """Other changes of an update, after the step on Q."""
        return {}
