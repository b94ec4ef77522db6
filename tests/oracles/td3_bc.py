"""TD3+BC (Fujimoto and Gu, NeurIPS 2021, arXiv 2106.06860)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tests.oracles.plain import Pairs, follow, pairs
from tests.oracles.td3 import TD3


class TD3BC(TD3):
    """TD3 whose actor climbs Q, scaled to a mean size of one, and stays near the data's actions."""

    def update(self, rows: Any, belief: Any, n: int = 0, beside: Any = None) -> dict[str, Tensor]:
        """Critics at every update; actor and targets at every ``policy_delay``-th."""
        self.found = {}
        tr = self.pairs(rows, belief)
        y = self.td_target(tr).detach()
        self.learn("critic", sum(tr.mean((q - y).square()) for q in self.q("critic", tr.feat, tr.action)))
        if (n + 1) % self.c.policy_delay == 0:
            self.learn("actor", self.actor_loss(tr))
            follow(self.w, "target", "critic", self.c.tau)
            follow(self.w, "target_policy", "policy", self.c.tau)
        return self.found

    def pairs(self, rows: Any, belief: Any) -> Pairs:
        return pairs(rows, belief)

    def actor_loss(self, tr: Pairs) -> Tensor:
        """-lambda E Q_1(s, mu(s)) + mean (mu(s) - a)^2."""
        action = self.mu("policy", tr.feat)
        q = self.q("critic", tr.feat, action)[0]
        lam = self.c.alpha / tr.mean(q.abs()).detach()
        return tr.mean(((action - tr.action) ** 2).mean(-1)) - lam * tr.mean(q)
