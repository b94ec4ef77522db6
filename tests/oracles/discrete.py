"""SAC for choices (Christodoulou 2019, arXiv 1910.07207) and SMAC's marginal for them: sums over all actions.

Nothing is drawn. The marginal policy over s_0 and K particles is the mean of their probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.oracles.plain import ACTIVATIONS, Learner, count, follow, mlp, pairs


class DiscreteSAC(Learner):
    """The head. ``config`` is any object with the settings' names; ``size`` the number of actions A."""

    def __init__(self, state: Mapping[str, Tensor], config: Any, size: int, policy: Any = None) -> None:
        super().__init__(state)
        self.c, self.size = config, size
        self.part("actor", "policy", config.actor_lr, config.grad_clip)
        self.part("critic", "critic", config.critic_lr, config.grad_clip)
        self.part("alpha", "log_alpha", config.alpha_lr)

    def log_pi(self, feat: Tensor) -> Tensor:
        """log pi(. | s), (..., A)."""
        return torch.log_softmax(mlp(self.w, "policy.net", feat, self.c.activation), -1)

    def q(self, name: str, feat: Tensor) -> Tensor:
        """Q_j(s, .) of both critics, (2, ..., A)."""
        layers, found = count(self.w, f"{name}.weights."), []
        for j in range(2):
            x = feat
            for i in range(layers):
                x = x @ self.w[f"{name}.weights.{i}"][j] + self.w[f"{name}.biases.{i}"][j, 0]
                x = ACTIVATIONS[self.c.activation](x) if i < layers - 1 else x
            found.append(x)
        return torch.stack(found)

    def update(self, rows: Any, belief: Any, n: int = 0, beside: Any = None) -> dict[str, Tensor]:
        """Critics, actor, temperature, then the targets follow."""
        self.found, c = {}, self.c
        tr = pairs(rows, belief)
        alpha = self.w["log_alpha"].detach().exp()
        log_next = self.log_pi(tr.next_feat)
        value = (log_next.exp() * (self.q("target", tr.next_feat).min(0).values - alpha * log_next)).sum(-1)
        y = (c.reward_scale * tr.reward + c.gamma * (1.0 - tr.terminal) * value).detach()
        taken = tr.action.argmax(-1, keepdim=True)
        errors = [q.gather(-1, taken)[..., 0] - y for q in self.q("critic", tr.feat)]
        self.learn("critic", sum(tr.mean(error.square()) for error in errors))
        states = self.states(tr)
        log_pi, marginal = self.log_pi(states[0]), self.marginal(states)
        each = (log_pi.exp() * (alpha * marginal - self.value_of_actions(states))).sum(-1)
        entropy = -(log_pi.exp() * marginal).sum(-1)
        self.learn("actor", tr.mean(each))
        self.found["policy/entropy"] = tr.mean(entropy).detach()
        wanted = c.target_entropy_scale * 0.98 * math.log(self.size)
        self.learn("alpha", self.w["log_alpha"] * (self.found["policy/entropy"] - wanted))
        follow(self.w, "target", "critic", c.tau)
        return self.found

    def states(self, tr: Any) -> Tensor:
        """s_0 and the particles that the policy is marginalised over, (K + 1, B, S, F)."""
        return tr.feat[None]

    def marginal(self, states: Tensor) -> Tensor:
        """log mean_k pi(. | s_k), (B, S, A)."""
        return self.log_pi(states).exp().mean(0).log()

    def value_of_actions(self, states: Tensor) -> Tensor:
        """log mean_k exp min_j Q_j(s_k, .), (B, S, A)."""
        return self.q("critic", states).min(0).values.exp().mean(0).log()


class DiscreteSMAC(DiscreteSAC):
    """SMAC (arXiv 2210.00999) with its nested estimate, eqs. 11, 14 and 15, exact in the action."""

    def states(self, tr: Any) -> Tensor:
        return torch.cat([tr.feat[None], tr.particles])
