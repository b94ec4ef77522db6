"""IQL (Kostrikov et al., ICLR 2022, arXiv 2110.06169)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.oracles.fitted import Fitted
from tests.oracles.plain import follow, mlp, pairs
from tests.oracles.sac import target


class IQL(Fitted):
    """V is an expectile of Q, the policy clones by advantage, Q bootstraps from V."""

    def __init__(self, state: Mapping[str, Tensor], config: Any, size: int, policy: Any = None) -> None:
        super().__init__(state, config, size)
        self.part("critic", "critic", config.critic_lr, config.grad_clip)
        self.part("value", "value", config.value_lr, config.grad_clip)

    def v(self, feat: Tensor) -> Tensor:
        return mlp(self.w, "value", feat, self.c.activation)[..., 0]

    def update(self, rows: Any, belief: Any, n: int = 0, beside: Any = None) -> dict[str, Tensor]:
        """V, policy by the new V, Q, then the targets follow; the actor's rate is that of update n."""
        self.found, c = {}, self.c
        tr = pairs(rows, belief)
        q = self.q("target", tr.feat, tr.action).min(0).values.detach()
        u = q - self.v(tr.feat)
        steep = torch.where(u > 0, c.expectile, 1 - c.expectile)
        self.learn("value", tr.mean(steep * u**2))
        u = q - self.v(tr.feat)
        self.found["critic/advantage"] = tr.mean(u).detach()
        if c.decay_updates:
            self.adams["actor"].lr = c.actor_lr * (1 + math.cos(math.pi * min(n / c.decay_updates, 1))) / 2
        self.learn("actor", self.weighted(tr, c.beta * u))
        self.learn("critic", self.squared(tr, target(tr.reward, tr.terminal, self.v(tr.next_feat), c.gamma)))
        follow(self.w, "target", "critic", c.tau)
        return self.found
