"""AWAC (Nair et al. 2020, arXiv 2006.09359): actor-critic whose actor clones the data's advantageous actions.

    y    = r + gamma (1 - d) E_pi min_j Q'_j(s', a')
    L_Q  = sum_j E (Q_j(s, a) - y)^2
    u    = min_j Q_j(s, a) - E_pi min_j Q_j(s, a')
    L_pi = -E min(exp(u / lambda), limit) log pi(a | s)       a is the data's action

E_pi is one draw in a box, and exact over a choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from worldrl.fields import Layers, Positive, SomeLayers
from worldrl.heads.fitted import Weighted, WeightedSettings
from worldrl.heads.transitions import Transition, transitions
from worldrl.nn.functional import masked_mean
from worldrl.nn.optim import Optimizer, polyak
from worldrl.nn.precision import forget_casts
from worldrl.types import Batch, Belief, BeliefModel, Extra, Metrics, Sizes


class AWAC(Weighted):
    """The head of AWAC. Defaults are those of CORL on MuJoCo."""

    @dataclass(frozen=True)
    class Config(WeightedSettings):
        actor_layers: Layers = 3
        critic_layers: SomeLayers = 3
        temperature: Positive = 0.3333  # lambda

    config: AWAC.Config
    compiled: ClassVar[tuple[str, ...]] = ("td_target", "critic_loss", "advantage", "fit_loss")

    def __init__(self, config: AWAC.Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.optimizers = {
            "actor": Optimizer(self.policy.parameters(), config.actor_lr, config.grad_clip),
            "critic": Optimizer(self.critic.parameters(), config.critic_lr, config.grad_clip),
        }

    def update(
        self, phase: str, batch: Batch, belief: Belief, model: BeliefModel, extra: Extra | None = None
    ) -> Metrics:
        """One step on the critics, one on the policy with the new critics; then the target critics follow."""
        tr = transitions(batch, belief.feat[None])
        critic_loss, q = self.critic_loss(tr, self.td_target(tr))
        critic_norm = self.optimizers["critic"].step(critic_loss)
        advantage = self.advantage(tr)
        weight = self.weights(advantage, 1.0 / self.config.temperature)
        actor_loss = self.fit_loss(tr, weight)
        actor_norm = self.optimizers["actor"].step(actor_loss)
        polyak(self.target, self.critic, self.config.tau)
        return {
            "loss/critic": critic_loss.detach(),
            "loss/actor": actor_loss.detach(),
            "opt/critic/grad_norm": critic_norm,
            "opt/actor/grad_norm": actor_norm,
            "critic/q": q,
            "critic/advantage": masked_mean(advantage, tr.mask),
            "policy/weight": masked_mean(weight, tr.mask),
        }

    @torch.no_grad()
    def td_target(self, tr: Transition) -> Tensor:
        """y (1, B, S), float32."""
        return self.backup(tr, self.expected(self.target, tr.next_feat))

    @torch.no_grad()
    def advantage(self, tr: Transition) -> Tensor:
        """u (1, B, S)."""
        u = self.critic(tr.feat, tr.action[None]).amin(0) - self.expected(self.critic, tr.feat)
        forget_casts()  # of the policy
        return u

    def expected(self, critic: nn.Module, feat: Tensor) -> Tensor:
        """E_pi min_j Q_j(s, a) (1, B, S)."""
        draw = self.policy.sample(feat)
        return draw.mean(critic(feat, draw.action).amin(0))
