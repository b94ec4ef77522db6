"""TD3 (Fujimoto et al., ICML 2018, arXiv 1802.09477) and DDPG (Lillicrap et al., ICLR 2016, arXiv 1509.02971)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.oracles.plain import Learner, Pairs, critics, follow, linear, mlp, noise, pairs
from tests.oracles.sac import target


class TD3(Learner):
    """A deterministic policy, n critics, delays and smoothed target actions; DDPG is the case without them."""

    def __init__(self, state: Mapping[str, Tensor], config: Any, size: int, policy: Any = None) -> None:
        super().__init__(state)
        self.c, self.size = config, size
        self.part("actor", "policy", config.actor_lr, config.grad_clip)
        self.part("critic", "critic", config.critic_lr, config.grad_clip)

    def mu(self, name: str, feat: Tensor) -> Tensor:
        original = getattr(self.c, "networks", "plain") == "original"
        return torch.tanh(mlp(self.w, f"{name}.net", feat, "relu" if original else self.c.activation))

    def q(self, name: str, feat: Tensor, action: Tensor) -> Tensor:
        """(n, B, S); DDPG's own critic is shown the action in its second layer."""
        if f"{name}.first.weight" not in self.w:
            return critics(self.w, name, feat, action, self.c.activation)
        hidden = torch.relu(linear(self.w, f"{name}.first", feat))
        hidden = torch.relu(linear(self.w, f"{name}.second", torch.cat([hidden, action], -1)))
        return linear(self.w, f"{name}.last", hidden)[..., 0][None]

    def update(self, rows: Any, belief: Any, n: int = 0, beside: Any = None) -> dict[str, Tensor]:
        """Critics at every update; actor and targets at every ``policy_delay``-th."""
        self.found = {}
        tr = pairs(rows, belief)
        y = self.td_target(tr).detach()
        loss = sum(tr.mean((q - y).square()) for q in self.q("critic", tr.feat, tr.action))
        l2 = getattr(self.c, "critic_l2", 0.0)
        decay = sum(value.square().sum() for key, value in self.w.items() if key.startswith("critic."))
        self.learn("critic", loss + l2 / 2 * decay)
        if (n + 1) % self.c.policy_delay == 0:
            self.learn("actor", -tr.mean(self.q("critic", tr.feat, self.mu("policy", tr.feat))[0]))
            follow(self.w, "target", "critic", self.c.tau)
            follow(self.w, "target_policy", "policy", self.c.tau)
        return self.found

    def td_target(self, tr: Pairs) -> Tensor:
        """y = r + gamma (1 - d) min_j Q'_j(s', a'), a' = clip(mu'(s') + clip(sigma e, -c, c), -1, 1)."""
        action = self.mu("target_policy", tr.next_feat)
        if self.c.target_noise:
            jitter = self.c.target_noise * noise(*action.shape)
            action = (action + jitter.clamp(-self.c.noise_clip, self.c.noise_clip)).clamp(-1.0, 1.0)
        return target(tr.reward, tr.terminal, self.q("target", tr.next_feat, action).min(0).values, self.c.gamma)
