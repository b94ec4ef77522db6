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
        """Q_j(s, .) of all critics, (n, ..., A)."""
        layers, found = count(self.w, f"{name}.weights."), []
        for j in range(len(self.w[f"{name}.weights.0"])):
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


class DiscreteValueSAC(DiscreteSAC):
    """The first SAC (arXiv 1801.01290) with sums over the actions: a value network is between policy and critics."""

    def __init__(self, state: Mapping[str, Tensor], config: Any, size: int, policy: Any = None) -> None:
        Learner.__init__(self, state)
        self.c, self.size = config, size
        self.part("actor", "policy", config.actor_lr, config.grad_clip)
        self.part("critic", "critic", config.critic_lr, config.grad_clip)
        self.part("value", "value", config.critic_lr, config.grad_clip)

    def value(self, name: str, feat: Tensor) -> Tensor:
        return mlp(self.w, f"{name}.nets.0", feat, self.c.activation)[..., 0]

    def update(self, rows: Any, belief: Any, n: int = 0, beside: Any = None) -> dict[str, Tensor]:
        """Critics, then value network and actor from the same critics, then the target follows."""
        self.found, c = {}, self.c
        tr, alpha = pairs(rows, belief), self.w["log_alpha"].detach().exp()
        y = (c.reward_scale * tr.reward + c.gamma * (1.0 - tr.terminal) * self.value("target", tr.next_feat)).detach()
        taken = tr.action.argmax(-1, keepdim=True)
        self.learn(
            "critic", sum(tr.mean((q.gather(-1, taken)[..., 0] - y).square()) for q in self.q("critic", tr.feat))
        )
        log_pi, q = self.log_pi(tr.feat), self.q("critic", tr.feat).min(0).values.detach()
        pi, excess = log_pi.exp(), log_pi - self.against()
        goal = (pi * (q - self.softness(alpha) * excess)).sum(-1).detach()
        actor = tr.mean((pi * (alpha * excess - q)).sum(-1))
        self.found["policy/entropy"] = -tr.mean((pi * log_pi).sum(-1)).detach()
        self.learn("value", tr.mean((self.value("value", tr.feat) - goal).square()))
        self.learn("actor", actor)
        follow(self.w, "target", "value", c.tau)
        self.afterwards(beside)
        return self.found

    def softness(self, alpha: Tensor) -> Tensor:
        """Of the value network's target."""
        return alpha

    def against(self) -> Tensor | float:
        """What log pi is measured against, (A,)."""
        return 0.0

    def afterwards(self, beside: Any) -> None: ...


class DiscreteVIREL(DiscreteValueSAC):
    """VIREL (arXiv 1811.01132): the value network is hard."""

    def softness(self, alpha: Tensor) -> Tensor:
        return 0.0 * alpha


class DiscreteMIRACLE(DiscreteValueSAC):
    """MIRACLE (arXiv 1909.05950): against a marginal policy with one probability for each action."""

    def __init__(self, state: Mapping[str, Tensor], config: Any, size: int, policy: Any = None) -> None:
        super().__init__(state, config, size, policy)
        self.part("marginal", "marginal", config.marginal_lr, config.grad_clip)

    def against(self) -> Tensor:
        return torch.log_softmax(self.w["marginal.logits"], -1).detach()

    def afterwards(self, beside: Any) -> None:
        recent = beside["recent"]
        counts = 1.0 - recent.is_first.double()
        log_m = (recent.action.double() * torch.log_softmax(self.w["marginal.logits"], -1)).sum(-1)
        self.learn("marginal", -(log_m * counts).sum() / counts.sum())
