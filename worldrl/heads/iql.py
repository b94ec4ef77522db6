"""IQL, implicit Q-learning (Kostrikov et al., ICLR 2022, arXiv 2110.06169): it evaluates only the data's actions.

With u = min_j Q'_j(s, a) - V(s), and a the data's action, in this order:

    L_V  = E |tau - 1[u < 0]| u^2                         an expectile of Q over the data's actions; tau -> 1: the best
    L_pi = -E min(exp(beta u), limit) log pi(a | s)       with the new V
    L_Q  = sum_j E (Q_j(s, a) - r - gamma (1 - d) V(s'))^2

and then Q' follows. Only the actor's learning rate falls to zero, along a cosine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from worldrl.fields import NotNegative, OfUpdates, Range, Rate
from worldrl.heads.fitted import Weighted, WeightedSettings
from worldrl.heads.transitions import Transition, transitions
from worldrl.nn.build import scalar_network
from worldrl.nn.functional import masked_mean
from worldrl.nn.optim import CosineDecay, Optimizer, polyak
from worldrl.types import Batch, Belief, BeliefModel, Extra, Metrics, Sizes


class IQL(Weighted):
    """The head of IQL. Defaults are the authors' own on MuJoCo."""

    @dataclass(frozen=True)
    class Config(WeightedSettings):
        value_lr: Rate = 3e-4
        expectile: Annotated[float, Range(0, 1, above=True)] = 0.7  # tau: 0.5 is the mean
        beta: NotNegative = 3.0  # weight of the advantages; 0: cloning
        # Updates until the actor's rate is zero; 0: it is constant.
        decay_updates: Annotated[int, Range(0, 1e12), OfUpdates(whole=True)] = 0

    config: IQL.Config
    compiled: ClassVar[tuple[str, ...]] = ("judged", "value_loss", "fit_loss", "td_target", "critic_loss")

    def __init__(self, config: IQL.Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        c = config
        self.value = scalar_network(sizes.feat, c.units, c.critic_layers, c.activation)
        decay = CosineDecay(c.decay_updates) if c.decay_updates else None
        self.optimizers = {
            "value": Optimizer(self.value.parameters(), c.value_lr, c.grad_clip),
            "actor": Optimizer(self.policy.parameters(), c.actor_lr, c.grad_clip, decay=decay),
            "critic": Optimizer(self.critic.parameters(), c.critic_lr, c.grad_clip),
        }

    def update(
        self, phase: str, batch: Batch, belief: Belief, model: BeliefModel, extra: Extra | None = None
    ) -> Metrics:
        """One step on V, policy and critics, in this order; then the target critics follow."""
        tr = transitions(batch, belief.feat[None])
        q = self.judged(tr)
        value_loss = self.value_loss(tr, q)
        metrics = {"opt/value/grad_norm": self.optimizers["value"].step(value_loss)}
        advantage = (q - self.value(tr.feat)).detach()
        weight = self.weights(advantage, self.config.beta)
        actor_loss = self.fit_loss(tr, weight)
        metrics["opt/actor/grad_norm"] = self.optimizers["actor"].step(actor_loss)
        critic_loss, mean_q = self.critic_loss(tr, self.td_target(tr))
        metrics["opt/critic/grad_norm"] = self.optimizers["critic"].step(critic_loss)
        polyak(self.target, self.critic, self.config.tau)
        return metrics | {
            "loss/value": value_loss.detach(),
            "loss/actor": actor_loss.detach(),
            "loss/critic": critic_loss.detach(),
            "critic/q": mean_q,
            "critic/advantage": masked_mean(advantage, tr.mask),
            "policy/weight": masked_mean(weight, tr.mask),
        }

    @torch.no_grad()
    def judged(self, tr: Transition) -> Tensor:
        """min_j Q'_j(s, a) of the data's actions (1, B, S)."""
        return self.target(tr.feat, tr.action[None]).amin(0)

    def value_loss(self, tr: Transition, q: Tensor) -> Tensor:
        """E |tau - 1[u < 0]| u^2."""
        return masked_mean(expectile_loss(q - self.value(tr.feat), self.config.expectile), tr.mask)

    @torch.no_grad()
    def td_target(self, tr: Transition) -> Tensor:
        """y (1, B, S), float32."""
        return self.backup(tr, self.value(tr.next_feat))


def expectile_loss(u: Tensor, tau: float) -> Tensor:
    """|tau - 1[u < 0]| u^2 (...), which is minimal at the tau-expectile."""
    return torch.where(u < 0, 1.0 - tau, tau) * u.square()
