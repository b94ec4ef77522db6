"""Policies that are fitted to given actions: the Gaussian that is not squashed and the categorical one; cloning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.oracles.plain import ACTIVATIONS, Learner, Pairs, count, critics, mlp, noise, normal_log_prob, pairs


class Fitted(Learner):
    """Weights of a policy and, where there are some, of critics; a choice has no standard deviation."""

    def __init__(self, state: Mapping[str, Tensor], config: Any, size: int, policy: Any = None) -> None:
        super().__init__(state)
        self.c, self.size = config, size
        self.box = "policy.log_std" in state
        self.part("actor", "policy", config.actor_lr, config.grad_clip)

    # --- the policy ---------------------------------------------------------------------------------------------------

    def gaussian(self, name: str, feat: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (..., A) and standard deviation (A,)."""
        mean = torch.tanh(mlp(self.w, f"{name}.net", feat, self.c.activation))
        return mean, torch.exp(torch.clip(self.w[f"{name}.log_std"], -5.0, 2.0))

    def log_probs(self, name: str, feat: Tensor) -> Tensor:
        """log pi of every alternative, (..., A)."""
        return torch.log_softmax(mlp(self.w, f"{name}.net", feat, self.c.activation), -1)

    def log_pi(self, name: str, feat: Tensor, action: Tensor) -> Tensor:
        """log pi(a | s) of given actions."""
        if self.box:
            return normal_log_prob(action, *self.gaussian(name, feat))
        return self.log_probs(name, feat).gather(-1, action.argmax(-1, keepdim=True))[..., 0]

    def draw(self, name: str, feat: Tensor, n: int = 1) -> Tensor:
        """n draws (n, ..., A) before they are clipped."""
        mean, std = self.gaussian(name, feat)
        return mean + std * noise(n, 1, *mean.shape)[:, 0]

    # --- critics ------------------------------------------------------------------------------------------------------

    def q(self, name: str, feat: Tensor, action: Tensor) -> Tensor:
        """Q_j(s, a) (n, ...)."""
        if self.box:
            return critics(self.w, name, feat, action, self.c.activation)
        taken = action.argmax(-1, keepdim=True)
        return torch.stack([values.gather(-1, taken)[..., 0] for values in self.values(name, feat)])

    def values(self, name: str, feat: Tensor) -> Tensor:
        """Q_j(s, .) of every alternative, (n, ..., A)."""
        layers, found = count(self.w, f"{name}.weights."), []
        for j in range(self.c.critics):
            x = feat
            for i in range(layers):
                x = x @ self.w[f"{name}.weights.{i}"][j] + self.w[f"{name}.biases.{i}"][j, 0]
                x = ACTIVATIONS[self.c.activation](x) if i < layers - 1 else x
            found.append(x)
        return torch.stack(found)

    def expected(self, name: str, policy: str, feat: Tensor, n: int = 1) -> Tensor:
        """E_pi min_j Q_j(s, a): the mean over n draws, or the sum over all alternatives."""
        if not self.box:
            return (self.log_probs(policy, feat).exp() * self.values(name, feat).min(0).values).sum(-1)
        actions = torch.clip(self.draw(policy, feat, n), -1.0, 1.0)
        return torch.stack([self.q(name, feat, action).min(0).values for action in actions]).mean(0)

    def squared(self, tr: Pairs, y: Tensor) -> Tensor:
        """sum_j E (Q_j(s, a) - y)^2."""
        return sum(tr.mean((q - y.detach()) ** 2) for q in self.q("critic", tr.feat, tr.action))

    def weighted(self, tr: Pairs, exponent: Tensor) -> Tensor:
        """-E min(exp(.), limit) log pi(a | s)."""
        weight = torch.clip(torch.exp(exponent), max=self.c.max_weight).detach()
        return -tr.mean(weight * self.log_pi("policy", tr.feat, tr.action))


class BC(Fitted):
    """Behavioural cloning in a box: by squares, or by likelihood where the policy is a distribution."""

    def update(self, rows: Any, belief: Any, n: int = 0, beside: Any = None) -> dict[str, Tensor]:
        self.found = {}
        tr = pairs(rows, belief)
        self.learn("actor", self.loss(tr))
        return self.found

    def loss(self, tr: Pairs) -> Tensor:
        if self.box:
            return -tr.mean(self.log_pi("policy", tr.feat, tr.action))
        far = torch.tanh(mlp(self.w, "policy.net", tr.feat, self.c.activation)) - tr.action
        return tr.mean((far**2).sum(-1) / self.size)


class ChoiceBC(BC):
    """Behavioural cloning of choices: cross entropy."""

    def loss(self, tr: Pairs) -> Tensor:
        return -tr.mean(self.log_pi("policy", tr.feat, tr.action))
