"""ReBRAC (Tarasov et al., NeurIPS 2023, arXiv 2305.09836): TD3+BC with a penalty in the critic too, and layer norms.

    y    = r + gamma (1 - d) [min_j Q'_j(s', a'') - beta_2 |a'' - a'|^2]     a'' is TD3's smoothed target action
    L_Q  = sum_j E (Q_j(s, a) - y)^2
    L_mu = beta_1 E |mu(s) - a|^2 - lambda E min_j Q_j(s, mu(s))              lambda = 1 / E |min_j Q_j(s, mu(s))|

a is the data's action, and a' the one after it: windows have three rows. The critics have a layer norm after every
activation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from worldrl.fields import Layers, NotNegative, Rate, SomeLayers
from worldrl.heads.td3 import TD3
from worldrl.heads.td3_bc import scaled
from worldrl.heads.transitions import Transition, followed
from worldrl.nn.build import critic
from worldrl.nn.functional import masked_mean
from worldrl.policies.deterministic import Deterministic
from worldrl.types import Batch, Belief, BeliefModel, Extra, Metrics, Needs, Sizes


class ReBRAC(TD3):
    """The head of ReBRAC. The paper tunes its penalties for every data set; the defaults are in the middle."""

    @dataclass(frozen=True)
    class Config(TD3.Config):
        actor_layers: Layers = 3
        critic_layers: SomeLayers = 3
        actor_lr: Rate = 1e-3
        critic_lr: Rate = 1e-3
        actor_penalty: NotNegative = 0.01  # beta_1
        critic_penalty: NotNegative = 0.01  # beta_2
        critic_norm: bool = True

    config: ReBRAC.Config
    compiled: ClassVar[tuple[str, ...]] = ("penalized_target", "critic_loss", "actor_loss")

    def __init__(self, config: ReBRAC.Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.needs = Needs(action_noise=True, rows=3)

    def networks(self, sizes: Sizes) -> tuple[Deterministic, nn.Module]:
        c = self.config
        judge = critic(
            sizes.feat, sizes.actions, c.units, c.critic_layers, c.activation, n=c.critics, norm=c.critic_norm
        )
        return Deterministic(sizes.feat, sizes.actions, c.units, c.actor_layers, c.activation), judge

    def update(
        self, phase: str, batch: Batch, belief: Belief, model: BeliefModel, extra: Extra | None = None
    ) -> Metrics:
        """TD3's, on transitions whose next action is known."""
        tr, next_action = followed(batch, belief.feat[None])
        return self.learn(phase, tr, self.penalized_target(tr, next_action))

    @torch.no_grad()
    def penalized_target(self, tr: Transition, next_action: Tensor) -> Tensor:
        """y (1, B, S), float32."""
        action = self.next_action(tr.next_feat)
        far = (action - next_action).square().sum(-1)  # a sum over A, where TD3+BC has a mean
        value = self.target(tr.next_feat, action).amin(0) - self.config.critic_penalty * far
        return tr.reward + self.config.gamma * (1.0 - tr.terminal) * value

    def actor_loss(self, tr: Transition) -> Tensor:
        """beta_1 E |mu(s) - a|^2 - lambda E min_j Q_j(s, mu(s))."""
        action = self.policy.mode(tr.feat)  # (1, B, S, A)
        q = self.critic(tr.feat, action, frozen=True).amin(0)
        far = (action - tr.action).square().sum(-1)
        return masked_mean(self.config.actor_penalty * far - scaled(q, tr.mask), tr.mask)
