"""MPO (Abdolmaleki et al., ICLR 2018, arXiv 1806.06920), with the M-step of arXiv 1812.02256."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.oracles.plain import (
    Learner,
    Pairs,
    critics,
    follow,
    inverse_softplus,
    mean_in_logs,
    mlp,
    noise,
    normal_kl,
    normal_log_prob,
    pairs,
)
from tests.oracles.sac import target


class MPO(Learner):
    """The weights of N draws by their values, and a policy that is fitted to them."""

    def __init__(self, state: Mapping[str, Tensor], config: Any, size: int, policy: Any = None) -> None:
        super().__init__(state)
        self.c = config
        self.part("actor", "policy", config.actor_lr, config.grad_clip)
        self.part("critic", "critic", config.critic_lr, config.grad_clip)
        self.part("dual", "dual", config.dual_lr, config.grad_clip)

    def gaussian(self, name: str, feat: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation before tanh."""
        mean, raw = mlp(self.w, f"{name}.net", feat, self.c.activation).chunk(2, -1)
        return 5 * torch.tanh(mean / 5), torch.log1p(torch.exp(raw + inverse_softplus(self.c.init_std))) + 1e-4

    def judged(self, feat: Tensor) -> tuple[Tensor, Tensor]:
        """u_i and min_j Q'_j(s, tanh u_i) of N draws of the old policy."""
        mean, std = self.gaussian("target_policy", feat)
        u = mean + std * noise(self.c.samples, *mean.shape)
        q = critics(self.w, "target", feat, torch.tanh(u), self.c.activation).min(0).values
        return u.detach(), q.detach()

    def positive(self, name: str) -> Tensor:
        return torch.log1p(torch.exp(self.w[f"dual.{name}"])) + 1e-8

    def update(self, rows: Any, belief: Any, n: int = 0, beside: Any = None) -> dict[str, Tensor]:
        """Critics, policy, multipliers; Q' follows, and pi' is copied at every ``policy_period``-th update."""
        self.found = {}
        c, tr = self.c, pairs(rows, belief)
        y = target(tr.reward, tr.terminal, self.judged(tr.next_feat)[1].mean(0), c.gamma).detach()
        error = sum(tr.mean((q - y).square()) for q in critics(self.w, "critic", tr.feat, tr.action, c.activation))
        residual = (error / c.critics).detach()
        self.learn("critic", error)
        dual = c.temperature == "dual"
        eta = self.positive("eta") if dual else (c.residual_scale * residual).clamp(*c.residual_limits)
        u, q = self.judged(tr.feat)
        loss, kl_mean, kl_std = self.policy_loss(tr, u, torch.softmax(q / eta.detach(), 0))
        self.learn("actor", loss)
        slack = self.positive("alpha_mean") @ (c.epsilon_mean - kl_mean.detach())
        slack = slack + self.positive("alpha_std") @ (c.epsilon_std - kl_std.detach())
        self.learn("dual", slack + (eta * (c.epsilon + tr.mean(mean_in_logs(q / eta))) if dual else 0.0))
        follow(self.w, "target", "critic", c.tau)
        if (n + 1) % c.policy_period == 0:
            follow(self.w, "target_policy", "policy", 1.0)
        return self.found

    def policy_loss(self, tr: Pairs, u: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The weighted likelihoods of mean and deviation, each beside the other's old value, and both KL terms (A,)."""
        (old_mean, old_std), (mean, std) = self.gaussian("target_policy", tr.feat), self.gaussian("policy", tr.feat)
        old_mean, old_std = old_mean.detach(), old_std.detach()
        fit = normal_log_prob(u, mean, old_std) + normal_log_prob(u, old_mean, std)
        dims = range(mean.shape[-1])
        old = [(old_mean[..., [i]], old_std[..., [i]]) for i in dims]
        kl_mean = torch.stack([tr.mean(normal_kl(*old[i], mean[..., [i]], old_std[..., [i]])) for i in dims])
        kl_std = torch.stack([tr.mean(normal_kl(*old[i], old_mean[..., [i]], std[..., [i]])) for i in dims])
        bound = self.positive("alpha_mean").detach() @ kl_mean + self.positive("alpha_std").detach() @ kl_std
        return bound - tr.mean((weight * fit).sum(0)), kl_mean, kl_std
