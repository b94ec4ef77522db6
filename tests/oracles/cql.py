"""CQL(H) (Kumar et al., NeurIPS 2020, arXiv 2006.04779), and the choices that it shares with MISA's oracle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.oracles.plain import ACTIVATIONS, WIDE, Pairs, Weights, count, follow, mlp, noise, pairs
from tests.oracles.sac import SAC


def uniform(*shape: int) -> Tensor:
    """In [0, 1), drawn in float32 as the package draws it."""
    return torch.rand(*shape).to(WIDE)


class CQL(SAC):
    """SAC without entropy in its target, and a gap between the values of proposed actions and those of the data."""

    def __init__(self, state: Mapping[str, Tensor], config: Any, size: int, policy: Any = None) -> None:
        super().__init__(state, config, size, policy)
        if config.budget:
            self.part("multiplier", "log_multiplier", config.critic_lr)

    def update(self, rows: Any, belief: Any, n: int = 0, beside: Any = None) -> dict[str, Tensor]:
        self.found = {}
        tr = pairs(rows, belief)
        alpha = self.w["log_alpha"].detach().exp()
        y = self.td_target(tr, alpha if self.c.backup_entropy else 0.0 * alpha).detach()
        self.learn_critic(tr, y, *self.proposed(tr))
        self.learn_actor(tr, alpha, *self.actor_loss(tr, alpha))
        follow(self.w, "target", "critic", self.c.tau)
        return self.found

    def learn_critic(self, tr: Pairs, y: Tensor, action: Tensor, density: Tensor) -> None:
        """sum_j E (Q_j - y)^2 + gamma_1 m sum_j g_j; then eta."""
        c = self.c
        gaps = [self.gap(tr, j, self.q("critic", tr.feat, action)[j], density) for j in range(2)]
        m = self.w["log_multiplier"].exp().clamp(0, 1e6) if c.budget else torch.ones((), dtype=WIDE)
        self.learn("critic", self.critic_loss(tr, y) + c.critic_weight * m.detach() * sum(gaps))
        if c.budget:
            self.learn("multiplier", -0.5 * sum(m * c.critic_weight * (g.detach() - c.budget) for g in gaps))

    def gap(self, tr: Pairs, j: int, q: Tensor, density: Tensor) -> Tensor:
        """E log mean_i exp Q_j(s, a_i) / mu(a_i) - E Q_j(s, a)."""
        log_z = (q.exp() / density).mean(0).log()
        return tr.mean(log_z) - tr.mean(self.q("critic", tr.feat, tr.action)[j])

    def proposed(self, tr: Pairs) -> tuple[Tensor, Tensor]:
        """n actions of pi(. | s), of pi(. | s') and of the uniform density, and the density of each."""
        n, actions, densities = self.c.samples, [], []
        for feat in (tr.feat, tr.next_feat):
            mean, std = self.policy.stats(feat)
            u = (mean + std * noise(n, *mean.shape)).detach()
            actions.append(torch.tanh(u))
            densities.append(self.policy.log_prob(u, feat).detach().exp())
        actions.append(2 * uniform(*actions[0].shape) - 1)
        densities.append(torch.full_like(densities[0], 0.5**self.size))
        return torch.cat(actions), torch.cat(densities)

    def learn_actor(self, tr: Pairs, alpha: Tensor, loss: Tensor, log_pi: Tensor) -> None:
        self.learn("actor", loss)
        self.found["policy/entropy"] = -tr.mean(log_pi).detach()
        if self.c.tune_alpha:
            self.learn("alpha", -self.w["log_alpha"] * (tr.mean(log_pi).detach() + self.wanted()))

    def wanted(self) -> float:
        return -self.c.target_entropy_scale * self.size


class Softmax:
    """Every one of A actions once, weighted by its probability."""

    def __init__(self, w: Weights, activation: str) -> None:
        self.w, self.activation = w, activation

    def log_pi(self, x: Tensor) -> Tensor:
        return torch.log_softmax(mlp(self.w, "policy.net", x, self.activation), -1)

    def sample(self, x: Tensor) -> Any:
        log_pi = self.log_pi(x).movedim(-1, 0)
        rows = torch.eye(len(log_pi), dtype=WIDE)[:, None, None].expand(*log_pi.shape, -1)
        return SimpleNamespace(action=rows, log_pi=log_pi, weight=log_pi.exp(), penalty=0.0)


class Choices:
    """For the oracles of choices: their policy, critics with one output for each action, the entropy that is wanted."""

    w: Weights
    c: Any
    size: int

    def make_policy(self, policy: Any) -> Softmax:
        return Softmax(self.w, self.c.activation)

    def q(self, name: str, feat: Tensor, action: Tensor) -> Tensor:
        layers, found = count(self.w, f"{name}.weights."), []
        for j in range(len(self.w[f"{name}.weights.0"])):
            x = feat
            for i in range(layers):
                x = x @ self.w[f"{name}.weights.{i}"][j] + self.w[f"{name}.biases.{i}"][j, 0]
                x = ACTIVATIONS[self.c.activation](x) if i < layers - 1 else x
            found.append((x * action).sum(-1))
        return torch.stack(found)

    def wanted(self) -> float:
        return self.c.target_entropy_scale * 0.98 * math.log(self.size)


class DiscreteCQL(Choices, CQL):
    """log sum_a exp Q(s, a), as it stands."""

    def proposed(self, tr: Pairs) -> tuple[Tensor, Tensor]:
        rows = torch.eye(self.size, dtype=WIDE)[:, None, None].expand(-1, *tr.reward.shape, -1)
        return rows, torch.full((self.size, 1, 1), 1 / self.size, dtype=WIDE)
