"""AWAC (Nair et al. 2020, arXiv 2006.09359)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tests.oracles.fitted import Fitted
from tests.oracles.plain import follow, pairs
from tests.oracles.sac import target


class AWAC(Fitted):
    """Critics of the policy, and a policy that clones what was better than it."""

    def __init__(self, state: Mapping[str, Tensor], config: Any, size: int, policy: Any = None) -> None:
        super().__init__(state, config, size)
        self.part("critic", "critic", config.critic_lr, config.grad_clip)

    def update(self, rows: Any, belief: Any, n: int = 0, beside: Any = None) -> dict[str, Tensor]:
        """Critics, policy by the new critics, then the targets follow."""
        self.found, c = {}, self.c
        tr = pairs(rows, belief)
        y = target(tr.reward, tr.terminal, self.expected("target", "policy", tr.next_feat), c.gamma)
        self.learn("critic", self.squared(tr, y))
        u = self.q("critic", tr.feat, tr.action).min(0).values - self.expected("critic", "policy", tr.feat)
        self.found["critic/advantage"] = tr.mean(u).detach()
        self.learn("actor", self.weighted(tr, u / c.temperature))
        follow(self.w, "target", "critic", c.tau)
        return self.found
