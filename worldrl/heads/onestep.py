"""One-step RL (Brandfonbrener et al., NeurIPS 2021, arXiv 2106.08909): evaluate the behaviour, then improve on it once.

In the phase ``evaluation`` nothing else learns: the behaviour policy beta is cloned, and its own value is learned from
the action a' that the data took next.

    L_beta = -E log beta(a | s)
    L_Q    = sum_j E (Q_j(s, a) - r - gamma (1 - d) min_j Q'_j(s', a'))^2

In the phase ``improvement`` both are frozen, and the policy, which was beta until then, moves towards better actions,
but not far from the data. Both forms maximise E Q - alpha KL:

    reverse_kl   L_pi = -E_pi [min_j Q_j(s, a)] + alpha E_pi [log pi(a | s) - log beta(a | s)]
    weighted     L_pi = -E min(exp(u / alpha), limit) log pi(a | s)        u = min_j Q_j(s, a) - E_beta min_j Q_j(s, a)

E_pi and E_beta are means over ``samples`` draws in a box, and exact over a choice.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from worldrl.fields import OfUpdates, Positive, Range, Rate, Samples
from worldrl.heads.fitted import Weighted, WeightedSettings
from worldrl.heads.transitions import Transition, followed
from worldrl.nn.functional import masked_mean
from worldrl.nn.optim import Optimizer, polyak
from worldrl.types import Batch, Belief, BeliefModel, Extra, Metrics, Needs, Sizes


class OneStep(Weighted):
    """The head of one-step RL, with IQL's networks and rates, which makes the two comparable."""

    @dataclass(frozen=True)
    class Config(WeightedSettings):
        critics: Annotated[int, Range(1, 100)] = 1
        behavior_lr: Rate = 3e-4
        evaluation_updates: Annotated[int, Range(1, 1e12), OfUpdates(0.5)] = 500_000  # then the policy improves
        improvement: Literal["reverse_kl", "weighted"] = "reverse_kl"
        alpha: Positive = 1.0  # weight of the KL divergence; the weights are exp(u / alpha)
        samples: Samples = 10  # draws of pi or beta in each state

    config: OneStep.Config
    needs = Needs(rows=3)
    tiny: ClassVar[dict[str, Any]] = {**Weighted.tiny, "evaluation_updates": 2, "samples": 3}
    compiled: ClassVar[tuple[str, ...]] = ("td_target", "critic_loss", "policy_loss")

    def __init__(self, config: OneStep.Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        c = config
        self.behavior = deepcopy(self.policy)
        self.optimizers = {
            "behavior": Optimizer(self.behavior.parameters(), c.behavior_lr, c.grad_clip),
            "critic": Optimizer(self.critic.parameters(), c.critic_lr, c.grad_clip),
            "actor": Optimizer(self.policy.parameters(), c.actor_lr, c.grad_clip),
        }

    def phase(self, n: int) -> str:
        return "evaluation" if n < self.config.evaluation_updates else "improvement"

    def too_short(self, updates: int) -> str:
        if updates == 0 or updates > self.config.evaluation_updates:
            return ""
        found = f"head.evaluation_updates={self.config.evaluation_updates}"
        return f"the policy stays a clone: found {found}, expected fewer than the {updates} updates of this run"

    def update(
        self, phase: str, batch: Batch, belief: Belief, model: BeliefModel, extra: Extra | None = None
    ) -> Metrics:
        """One step on beta and the critics, whose targets then follow; in the later phase, one on the policy."""
        tr, next_action = followed(batch, belief.feat[None])
        return self.evaluate(tr, next_action) if phase == "evaluation" else self.improve(tr)

    # --- evaluation ---------------------------------------------------------------------------------------------------

    def evaluate(self, tr: Transition, next_action: Tensor) -> Metrics:
        """Clone beta, which is the policy in this phase, and learn its value."""
        behavior_loss = -masked_mean(self.behavior.log_prob(tr.action, tr.feat), tr.mask)
        behavior_norm = self.optimizers["behavior"].step(behavior_loss)
        critic_loss, q = self.critic_loss(tr, self.td_target(tr, next_action))
        critic_norm = self.optimizers["critic"].step(critic_loss)
        polyak(self.target, self.critic, self.config.tau)
        polyak(self.policy, self.behavior, 1.0)
        return {
            "loss/behavior": behavior_loss.detach(),
            "loss/critic": critic_loss.detach(),
            "opt/behavior/grad_norm": behavior_norm,
            "opt/critic/grad_norm": critic_norm,
            "critic/q": q,
        }

    @torch.no_grad()
    def td_target(self, tr: Transition, next_action: Tensor) -> Tensor:
        """y (1, B, S), float32: SARSA's."""
        return self.backup(tr, self.target(tr.next_feat, next_action[None]).amin(0))

    # --- improvement --------------------------------------------------------------------------------------------------

    def improve(self, tr: Transition) -> Metrics:
        """One step on the policy only."""
        loss, metrics = self.policy_loss(tr)
        norm = self.optimizers["actor"].step(loss)
        return {"loss/actor": loss.detach(), "opt/actor/grad_norm": norm, **metrics}

    def policy_loss(self, tr: Transition) -> tuple[Tensor, Metrics]:
        """L_pi, and what to log."""
        return self.reverse_kl(tr) if self.config.improvement == "reverse_kl" else self.weighted(tr)

    def reverse_kl(self, tr: Transition) -> tuple[Tensor, Metrics]:
        """-E_pi Q + alpha KL(pi || beta)."""
        draw = self.policy.sample(tr.feat, self.policy.noise(tr.feat, self.config.samples))  # (n, 1, B, S)
        kl = draw.mean(draw.log_prob - self.behavior.log_prob(draw.raw, tr.feat))
        q = draw.mean(self.critic(tr.feat, draw.action, frozen=True).amin(0))
        metrics = {"policy/kl": masked_mean(kl, tr.mask).detach(), "critic/q": masked_mean(q, tr.mask).detach()}
        return masked_mean(self.config.alpha * kl - q, tr.mask), metrics

    def weighted(self, tr: Transition) -> tuple[Tensor, Metrics]:
        """-E w log pi(a | s)."""
        with torch.no_grad():
            draw = self.behavior.sample(tr.feat, self.behavior.noise(tr.feat, self.config.samples))
            value = draw.mean(self.critic(tr.feat, draw.action).amin(0))
            advantage = self.critic(tr.feat, tr.action[None]).amin(0) - value
            weight = self.weights(advantage, 1.0 / self.config.alpha)
        metrics = {"critic/advantage": masked_mean(advantage, tr.mask), "policy/weight": masked_mean(weight, tr.mask)}
        return self.fit_loss(tr, weight), metrics
