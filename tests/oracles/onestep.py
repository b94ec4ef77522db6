"""One-step RL (Brandfonbrener et al., NeurIPS 2021, arXiv 2106.08909)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.oracles.fitted import Fitted
from tests.oracles.plain import Pairs, follow, pairs
from tests.oracles.sac import target


def followed(rows: Any, belief: Any) -> tuple[Pairs, Tensor]:
    """All pairs of rows but the last, and the action after each; those of which nobody knows it do not count."""
    tr = pairs(rows, belief)
    known = torch.zeros_like(tr.weight[:, :-1])
    for b in range(known.shape[0]):
        for s in range(known.shape[1]):
            ended, cut = bool(rows.is_terminal[b, s + 1]), bool(rows.is_first[b, s + 2])
            known[b, s] = float(not rows.is_first[b, s + 1] and (ended or not cut))
    vectors = ("feat", "next_feat", "context", "next_context", "particles", "next_particles", "action")
    kept = {name: getattr(tr, name)[..., :-1, :] for name in vectors}
    kept |= {name: getattr(tr, name)[:, :-1] for name in ("reward", "terminal")}
    return Pairs(**kept, weight=known / known.sum()), tr.action[:, 1:]


class OneStep(Fitted):
    """The behaviour and its value first; then the policy, by them."""

    def __init__(self, state: Mapping[str, Tensor], config: Any, size: int, policy: Any = None) -> None:
        super().__init__(state, config, size)
        self.part("behavior", "behavior", config.behavior_lr, config.grad_clip)
        self.part("critic", "critic", config.critic_lr, config.grad_clip)

    def update(self, rows: Any, belief: Any, n: int = 0, beside: Any = None) -> dict[str, Tensor]:
        self.found, c = {}, self.c
        tr, next_action = followed(rows, belief)
        if n >= c.evaluation_updates:
            self.learn("actor", self.reverse_kl(tr) if c.improvement == "reverse_kl" else self.by_weights(tr))
            return self.found
        self.learn("behavior", -tr.mean(self.log_pi("behavior", tr.feat, tr.action)))
        q = self.q("target", tr.next_feat, next_action).min(0).values
        self.learn("critic", self.squared(tr, target(tr.reward, tr.terminal, q, c.gamma)))
        follow(self.w, "target", "critic", c.tau)
        follow(self.w, "policy", "behavior", 1.0)
        return self.found

    def reverse_kl(self, tr: Pairs) -> Tensor:
        """E_pi [alpha (log pi - log beta) - Q]."""
        if self.box:
            each = []
            for u in self.draw("policy", tr.feat, self.c.samples):
                kl = self.log_pi("policy", tr.feat, u) - self.log_pi("behavior", tr.feat, u)
                q = self.q("critic", tr.feat, torch.clip(u, -1.0, 1.0)).min(0).values
                each.append(self.c.alpha * kl - q)
            return tr.mean(torch.stack(each).mean(0))
        log_pi, log_beta = self.log_probs("policy", tr.feat), self.log_probs("behavior", tr.feat)
        q = self.values("critic", tr.feat).min(0).values
        return tr.mean((log_pi.exp() * (self.c.alpha * (log_pi - log_beta) - q)).sum(-1))

    def by_weights(self, tr: Pairs) -> Tensor:
        """-E min(exp(u / alpha), limit) log pi."""
        value = self.expected("critic", "behavior", tr.feat, self.c.samples)
        u = self.q("critic", tr.feat, tr.action).min(0).values - value
        return self.weighted(tr, u / self.c.alpha)
