"""ReBRAC (Tarasov et al., NeurIPS 2023, arXiv 2305.09836)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.oracles.onestep import followed
from tests.oracles.plain import Pairs, count, follow, noise
from tests.oracles.sac import target
from tests.oracles.td3 import TD3


class ReBRAC(TD3):
    """TD3 on data, kept near to them in the actor and in the critics' target."""

    def q(self, name: str, feat: Tensor, action: Tensor) -> Tensor:
        """(n, B, S): ReLUs, each followed by a layer norm."""
        layers, found = count(self.w, f"{name}.weights."), []
        for j in range(self.c.critics):
            x = torch.cat([feat, action], -1)
            for i in range(layers):
                x = x @ self.w[f"{name}.weights.{i}"][j] + self.w[f"{name}.biases.{i}"][j, 0]
                if i < layers - 1:
                    x = torch.relu(x)
                    x = self.normed(f"{name}.norms.{i}", j, x) if self.c.critic_norm else x
            found.append(x[..., 0])
        return torch.stack(found)

    def normed(self, name: str, j: int, x: Tensor) -> Tensor:
        """(x - mean) / std, scaled and shifted."""
        scale, shift = self.w[name][j]
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * scale + shift

    def update(self, rows: Any, belief: Any, n: int = 0, beside: Any = None) -> dict[str, Tensor]:
        """Critics at every update; actor and targets at every ``policy_delay``-th."""
        self.found = {}
        tr, next_action = followed(rows, belief)
        y = self.penalized(tr, next_action).detach()
        self.learn("critic", sum(tr.mean((q - y) ** 2) for q in self.q("critic", tr.feat, tr.action)))
        if (n + 1) % self.c.policy_delay == 0:
            self.learn("actor", self.actor_loss(tr))
            follow(self.w, "target", "critic", self.c.tau)
            follow(self.w, "target_policy", "policy", self.c.tau)
        return self.found

    def penalized(self, tr: Pairs, next_action: Tensor) -> Tensor:
        """r + gamma (1 - d) (min_j Q'_j(s', a'') - beta_2 |a'' - a'|^2)."""
        action = self.smoothed(tr)
        far = ((action - next_action) ** 2).sum(-1)
        value = self.q("target", tr.next_feat, action).min(0).values - self.c.critic_penalty * far
        return target(tr.reward, tr.terminal, value, self.c.gamma)

    def smoothed(self, tr: Pairs) -> Tensor:
        """a'', the action of TD3's target policy with noise."""
        action = self.mu("target_policy", tr.next_feat)
        jitter = self.c.target_noise * noise(*action.shape)
        return torch.clip(action + torch.clip(jitter, -self.c.noise_clip, self.c.noise_clip), -1.0, 1.0)

    def actor_loss(self, tr: Pairs) -> Tensor:
        """beta_1 E |mu(s) - a|^2 - E min_j Q_j / E |min_j Q_j|."""
        action = self.mu("policy", tr.feat)
        q = self.q("critic", tr.feat, action).min(0).values
        far = tr.mean(((action - tr.action) ** 2).sum(-1))
        return self.c.actor_penalty * far - tr.mean(q) / tr.mean(q.abs()).detach()
