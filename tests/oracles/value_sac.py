"""Soft actor-critic with a value network (arXiv 1801.01290), and what two papers make of it: MIRACLE and VIREL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.oracles.plain import (
    Pairs,
    count,
    follow,
    mean_in_logs,
    mlp,
    noise,
    normal_kl,
    normal_log_prob,
    pairs,
    tanh_log_det,
)
from tests.oracles.policies import Draw
from tests.oracles.sac import SAC, target


class ValueSAC(SAC):
    """Critics learn from V', V and the actor from one draw a."""

    def __init__(self, state: Mapping[str, Tensor], config: Any, size: int, policy: Any = None) -> None:
        super().__init__(state, config, size, policy)
        self.part("value", "value", config.critic_lr, config.grad_clip)

    def values(self, name: str, feat: Tensor) -> Tensor:
        """(n, B, S)"""
        nets = range(count(self.w, f"{name}.nets.") // count(self.w, f"{name}.nets.0."))
        return torch.stack([mlp(self.w, f"{name}.nets.{i}", feat, self.c.activation)[..., 0] for i in nets])

    def update(self, rows: Any, belief: Any, n: int = 0, beside: Any = None) -> dict[str, Tensor]:
        """``beside`` is what MIRACLE and VIREL learn from in addition to the slice."""
        self.found = {}
        tr = pairs(rows, belief)
        alpha = self.temperature(tr, beside)
        y = self.backup(tr, "target").detach()
        q = self.q("critic", tr.feat, tr.action)
        self.learn("critic", sum(tr.mean((one - goal).square()) for one, goal in zip(q, y.expand_as(q), strict=True)))
        draw = self.policy.sample(tr.feat)
        q, excess = self.q("critic", tr.feat, draw.action), self.excess(draw)
        goals = (draw.weight * self.value_targets(q, excess, alpha)).sum(1).detach()
        actor = (draw.weight * (alpha * excess - q.min(0).values)).sum(0) + alpha * draw.penalty
        values = self.values("value", tr.feat)
        self.learn("value", sum(tr.mean((v - goal).square()) for v, goal in zip(values, goals, strict=True)))
        self.learn("actor", tr.mean(actor))
        entropy = -tr.mean((draw.weight * draw.log_pi).sum(0)).detach()
        self.found["policy/entropy"] = entropy
        if self.c.tune_alpha:
            wanted = -self.c.target_entropy_scale * self.size
            self.learn("alpha", self.w["log_alpha"] * (entropy - wanted))
        follow(self.w, "target", "value", self.c.tau)
        self.afterwards(rows, beside)
        return self.found

    def backup(self, tr: Pairs, value: str) -> Tensor:
        """c r + gamma (1 - d) V(s') for each value network."""
        return target(self.c.reward_scale * tr.reward, tr.terminal, self.values(value, tr.next_feat), self.c.gamma)

    def temperature(self, tr: Pairs, beside: Any) -> Tensor:
        return self.w["log_alpha"].detach().exp()

    def excess(self, draw: Draw) -> Tensor:
        """log pi(a | s), less what it is measured against."""
        return draw.log_pi

    def value_targets(self, q: Tensor, excess: Tensor, alpha: Tensor) -> Tensor:
        """min_j Q_j(s, a) - alpha log pi(a | s) (1, M, B, S)."""
        return (q.min(0).values - alpha * excess)[None]

    def afterwards(self, rows: Any, beside: Any) -> None: ...


class MIRACLE(ValueSAC):
    """Leibfried and Grau-Moya, CoRL 2019 (arXiv 1909.05950), eqs. 20 to 22: log pi is measured against log m(a)."""

    def __init__(self, state: Mapping[str, Tensor], config: Any, size: int, policy: Any = None) -> None:
        super().__init__(state, config, size, policy)
        self.part("marginal", "marginal", config.marginal_lr, config.grad_clip)

    def stats(self, net: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation; the log-variance has smooth bounds (Chua et al. 2018)."""
        mean, raw = mlp(self.w, f"marginal.{net}", x, "relu").chunk(2, -1)
        low, high = self.c.marginal_log_var
        log_var = high - F.softplus(high - raw)
        return mean, torch.exp((low + F.softplus(log_var - low)) / 2)

    def components(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """N components for each action, and their log weights: pi(a | z_n), z_n ~ N(0, I), or by importance."""
        lead = (1,) * (u.dim() - 1) if self.c.marginal_shared else u.shape[:-1]
        z = noise(self.c.marginal_samples, *lead, self.size)
        weight = torch.zeros(())
        if self.c.marginal_fit == "vae":
            center, width = self.stats("encoder", torch.tanh(u))
            z = center + width * z
            standard = normal_log_prob(z, torch.zeros_like(z), torch.ones_like(z))
            weight = standard - normal_log_prob(z, center, width)
        return *self.stats("decoder", z), weight

    def excess(self, draw: Draw) -> Tensor:
        """log pi(a | s) - log m(a); m is a constant, its argument is not."""
        with torch.no_grad():
            mean, std, weight = self.components(draw.u)
        return draw.log_pi - mean_in_logs(normal_log_prob(draw.u, mean, std) + weight) + tanh_log_det(draw.u)

    def afterwards(self, rows: Any, beside: Any) -> None:
        """L_m = -E log m(a), over the actions of recent rows, or of this batch."""
        recent = beside["recent"] if self.c.marginal_actions else rows.drop_rows(1)
        counts = 1.0 - recent.is_first.to(torch.float64)
        u = torch.atanh(recent.action.to(torch.float64).clamp(-1.0 + 2.0**-24, 1.0 - 2.0**-24))
        loss = tanh_log_det(u) - self.bound(u)
        self.learn("marginal", (loss * counts).sum() / counts.sum())

    def bound(self, u: Tensor) -> Tensor:
        if self.c.marginal_fit == "vae":
            center, width = self.stats("encoder", torch.tanh(u))
            z = center + width * noise(*width.shape)
            kl = normal_kl(center, width, torch.zeros_like(center), torch.ones_like(width))
            return normal_log_prob(u, *self.stats("decoder", z)) - kl
        mean, std, _ = self.components(u)
        logs = normal_log_prob(u, mean, std)
        return mean_in_logs(logs) if self.c.marginal_fit == "likelihood" else logs.mean(0)


class VIREL(ValueSAC):
    """Fellows et al., NeurIPS 2019 (arXiv 1811.01132), appendix H: hard critics, a temperature from the residual."""

    def value_targets(self, q: Tensor, excess: Tensor, alpha: Tensor) -> Tensor:
        """The hard V learns the smaller Q; the soft one of virel2 learns Q_s - alpha log pi."""
        hard = q.min(0).values
        return torch.stack([hard, q[1] - alpha * excess]) if self.c.critics == "hard_and_soft" else hard[None]

    def backup(self, tr: Pairs, value: str) -> Tensor:
        """The soft critic has a reward scale of its own."""
        values = self.values(value, tr.next_feat)
        scales = [1.0, self.c.soft_reward_scale][: len(values)]
        goals = [
            target(self.c.reward_scale * scale * tr.reward, tr.terminal, v, self.c.gamma)
            for scale, v in zip(scales, values, strict=True)
        ]
        return torch.stack(goals)

    def temperature(self, tr: Pairs, beside: Any) -> Tensor:
        """alpha, or lambda eps: eps = E (c r + gamma (1 - d) V(s') - Q(s, a))^2."""
        if self.c.temperature == "fixed":
            return super().temperature(tr, beside)
        seen = pairs(*beside["td"]()) if self.c.residual_batch else tr
        name = "value" if self.c.residual_value == "online" else "target"
        error = self.backup(seen, name) - self.q("critic", seen.feat, seen.action)
        self.found["policy/residual"] = seen.mean(error.square()).detach()
        return (self.c.residual_scale * self.found["policy/residual"]).clamp(*self.c.residual_limits)
