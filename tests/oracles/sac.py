"""Soft actor-critic with twin critics and a learned temperature (arXiv 1812.05905), on any belief.

Latent-SAC is this on a draw of the state; SLAC's head (arXiv 1907.00953) is this with an actor on the context.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tests.oracles.plain import Learner, Pairs, critics, follow, pairs
from tests.oracles.policies import Draw, Flow, Latent, Mixture, TanhGaussian


def target(reward: Tensor, terminal: Tensor, value: Tensor, gamma: float) -> Tensor:
    """r + gamma (1 - d) V(s')."""
    return reward + gamma * (1.0 - terminal) * value


def soft_value(q: Tensor, log_pi: Tensor, alpha: Tensor) -> Tensor:
    """min_j Q_j(s, a) - alpha log pi(a | s)."""
    return q.min(0).values - alpha * log_pi


class SAC(Learner):
    """The head. ``config`` is any object with the settings' names; ``policy`` the settings of a chosen policy."""

    def __init__(self, state: Mapping[str, Tensor], config: Any, size: int, policy: Any = None) -> None:
        super().__init__(state)
        self.c, self.size = config, size
        self.policy = self.make_policy(policy)
        self.part("actor", "policy", config.actor_lr, config.grad_clip)
        self.part("critic", "critic", config.critic_lr, config.grad_clip)
        self.part("alpha", "log_alpha", config.alpha_lr)

    def make_policy(self, policy: Any) -> Any:
        c, name = self.c, type(policy).__qualname__.split(".")[0]
        if name == "Mixture":
            return Mixture(self.w, "policy", c.activation, policy.components)
        if name == "Flow":
            return Flow(self.w, "policy", c.activation, policy, self.size)
        if name == "LatentGaussian":
            return Latent(self.w, "policy", c.activation, policy)
        return TanhGaussian(self.w, "policy", c.activation, c.policy_std, c.init_std)

    def q(self, name: str, feat: Tensor, action: Tensor) -> Tensor:
        return critics(self.w, name, feat, action, self.c.activation)

    def update(self, rows: Any, belief: Any, n: int = 0, beside: Any = None) -> dict[str, Tensor]:
        """Critics, actor, temperature, then the targets follow."""
        self.found = {}
        tr = pairs(rows, belief)
        alpha = self.w["log_alpha"].detach().exp()
        y = self.td_target(tr, alpha).detach()
        self.learn("critic", self.critic_loss(tr, y))
        loss, log_pi = self.actor_loss(tr, alpha)
        self.learn("actor", loss)
        self.found["policy/entropy"] = -tr.mean(log_pi).detach()
        if self.c.tune_alpha:
            wanted = -self.c.target_entropy_scale * self.size
            self.learn("alpha", -self.w["log_alpha"] * (tr.mean(log_pi).detach() + wanted))
        follow(self.w, "target", "critic", self.c.tau)
        return self.found

    # --- the losses ---------------------------------------------------------------------------------------------------

    def td_target(self, tr: Pairs, alpha: Tensor) -> Tensor:
        """y = c r + gamma (1 - d) E [min_j Q'_j(s', a') - alpha log pi(a' | s')]."""
        inputs = tr.next_context if self.c.actor_input == "context" else tr.next_feat
        draw = self.policy.sample(inputs)
        value = soft_value(self.q("target", tr.next_feat, draw.action), self.next_log_pi(draw, tr), alpha)
        return target(self.c.reward_scale * tr.reward, tr.terminal, (draw.weight * value).sum(0), self.c.gamma)

    def critic_loss(self, tr: Pairs, y: Tensor) -> Tensor:
        """sum_j E (Q_j(s, a) - y)^2."""
        return sum(tr.mean((q - y).square()) for q in self.q("critic", tr.feat, tr.action))

    def actor_loss(self, tr: Pairs, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """E [alpha log pi(a | s) - min_j Q_j(s, a)], and log pi."""
        draw = self.policy.sample(tr.context if self.c.actor_input == "context" else tr.feat)
        log_pi = self.log_pi(draw, tr)
        each = (draw.weight * (alpha * log_pi - self.q_pi(draw, tr))).sum(0) + alpha * draw.penalty
        return tr.mean(each), (draw.weight * log_pi).sum(0)

    # --- what SMAC replaces -------------------------------------------------------------------------------------------

    def log_pi(self, draw: Draw, tr: Pairs) -> Tensor:
        return draw.log_pi

    def q_pi(self, draw: Draw, tr: Pairs) -> Tensor:
        return self.q("critic", tr.feat, draw.action).min(0).values

    def next_log_pi(self, draw: Draw, tr: Pairs) -> Tensor:
        return draw.log_pi
