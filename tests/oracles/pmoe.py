"""Probabilistic mixture-of-experts SAC (Ren et al. 2021, arXiv 2104.09122)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.oracles.plain import Pairs
from tests.oracles.policies import Mixture
from tests.oracles.sac import SAC


class PMOE(SAC):
    """Only the expert whose action is valued most is improved; the gate is pulled towards it."""

    def make_policy(self, policy: Any) -> Mixture:
        return Mixture(self.w, "policy", self.c.activation, self.c.experts, own=True)

    def actor_loss(self, tr: Pairs, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """E [alpha log pi_b(a_b | s) - min_j Q_j(s, a_b)] + mean_m E (w_m - [m = b])^2."""
        draw = self.policy.sample(tr.feat)
        q = self.q_pi(draw, tr)
        best = q.argmax(0)
        chosen = torch.nn.functional.one_hot(best, len(q)).movedim(-1, 0).to(q.dtype)
        log_pi = (chosen * draw.log_pi).sum(0)
        loss = alpha * log_pi - (chosen * q).sum(0) + (draw.weight - chosen).square().mean(0)
        return tr.mean(loss), log_pi
