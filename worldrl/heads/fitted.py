"""Base of heads that fit their policy to the data's actions a, each with a weight.

    L_pi = -E w log pi(a | s)        w = 1: cloning; w = min(exp(beta u), limit): by the action's advantage u

In a box pi is a Gaussian without tanh; for a choice it is categorical, and -log pi is the cross entropy.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from worldrl.fields import Layers, NotNegative, Positive, PositiveShare, Range, Rate, Share, SomeLayers, Width
from worldrl.heads.transitions import Transition
from worldrl.nn.build import critic
from worldrl.nn.functional import masked_mean
from worldrl.policies.categorical import Categorical
from worldrl.policies.gaussian import Gaussian
from worldrl.types import NOISE, Actions, Belief, Head, MakePolicy, Noise, Policy, Sizes


def fitted_policy(actions: Actions) -> MakePolicy:
    """The Gaussian without tanh; for a choice, the categorical policy."""
    return Gaussian if actions.kind == "box" else partial(Categorical, Categorical.Config())


class Fitted(Head):
    """Acts with a policy that is fitted to the data's actions."""

    policy: Policy
    actions: Actions

    @torch.no_grad()
    def act(self, belief: Belief, explore: bool, noise: Noise = NOISE) -> Tensor:
        """(B, A): a draw, or the mode; with particles in the belief, the average of the modes over all paths."""
        if explore:
            return self.policy.act(belief.feat, noise)
        return self.actions.average(self.policy.mode(torch.cat([belief.feat[None], belief.particles])))

    @torch.no_grad()
    def probabilities(self, belief: Belief, explore: bool) -> Tensor:
        return self.policy.probabilities(belief.feat) if explore else self.act(belief, explore)

    def fit_loss(self, tr: Transition, weight: Tensor | float = 1.0) -> Tensor:
        """-E w log pi(a | s) of the data's actions; ``weight`` broadcasts to (1, B, S)."""
        return -masked_mean(weight * self.policy.log_prob(tr.action, tr.feat), tr.mask)


@dataclass(frozen=True)
class WeightedSettings:
    """Settings of heads with critics that weight the data's actions."""

    units: Width = 256
    actor_layers: Layers = 2
    critic_layers: SomeLayers = 2
    activation: Literal["elu", "relu", "silu", "tanh"] = "relu"
    critics: Annotated[int, Range(1, 100)] = 2
    actor_lr: Rate = 3e-4
    critic_lr: Rate = 3e-4
    grad_clip: NotNegative = 0.0
    gamma: Share = 0.99
    tau: PositiveShare = 0.005
    max_weight: Positive = 100.0  # upper limit of an action's weight


class Weighted(Fitted):
    """Critics Q_j, their slow copies Q'_j, and a policy that is fitted to the data's actions by their advantages."""

    tiny: ClassVar[dict[str, Any]] = {"units": 8, "actor_layers": 1, "critic_layers": 1}

    def __init__(self, config: Any, sizes: Sizes) -> None:
        super().__init__()
        c = self.config = config
        self.actions = sizes.actions
        self.policy = self.make_policy(sizes)
        self.needs = self.needs._replace(actions=self.policy.actions)
        self.critic = critic(sizes.feat, sizes.actions, c.units, c.critic_layers, c.activation, n=c.critics)
        self.target: nn.Module = deepcopy(self.critic).requires_grad_(False)

    def make_policy(self, sizes: Sizes) -> Policy:
        c = self.config
        return fitted_policy(sizes.actions)(sizes.feat, sizes.actions, c.units, c.actor_layers, c.activation)

    def backup(self, tr: Transition, value: Tensor) -> Tensor:
        """y = r + gamma (1 - d) V(s') (1, B, S)."""
        return tr.reward + self.config.gamma * (1.0 - tr.terminal) * value

    def critic_loss(self, tr: Transition, y: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over critics of the mean squared TD error; also the mean Q for the log."""
        q = self.critic(tr.feat, tr.action[None])  # (n, 1, B, S)
        return len(q) * masked_mean((q - y).square(), tr.mask), masked_mean(q, tr.mask).detach()

    def weights(self, advantage: Tensor, beta: float) -> Tensor:
        """w = min(exp(beta u), limit)."""
        return (beta * advantage).exp().clamp(max=self.config.max_weight)
