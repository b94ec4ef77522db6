"""Stochastic marginal actor-critic (Zhang et al., ICLR 2023, arXiv 2210.00999), algorithm 2: the head."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.oracles.estimators import ESTIMATORS, marginal_q
from tests.oracles.plain import Pairs
from tests.oracles.policies import Draw
from tests.oracles.sac import SAC, soft_value, target


class SMAC(SAC):
    """SAC whose policy is marginalised over s_0, the draw of the state that acts, and K particles."""

    def marginal_log_pi(self, draw: Draw, particles: Tensor) -> Tensor:
        """Estimated from log pi(a | s_k), k = 0..K (eqs. 9, 11, 12)."""
        found = []
        for u, own in zip(draw.u, draw.log_pi, strict=True):
            logs = torch.stack([own, *(self.policy.log_prob(u, s) for s in particles)])
            found.append(ESTIMATORS[self.c.estimator](logs))
        return torch.stack(found)

    def log_pi(self, draw: Draw, tr: Pairs) -> Tensor:
        """H_K of eq. 15, as a log-density; what it differs by from that given s_0 is found for each action entry."""
        found = self.marginal_log_pi(draw, tr.particles)
        gain = (draw.weight * (draw.log_pi - found)).sum(0) / self.size
        self.found["policy/marginal_gain"] = tr.mean(gain).detach()
        return found

    def q_pi(self, draw: Draw, tr: Pairs) -> Tensor:
        """Q_K of eq. 15, by eq. 14."""
        states = [tr.feat, *tr.particles] if self.c.q_include_s0 or not len(tr.particles) else list(tr.particles)
        q = torch.stack([self.q("critic", s, draw.action) for s in states], 1)  # (2, P, M, B, S)
        each = torch.minimum(*q)  # (P, M, B, S)
        deviation = (each - each.mean(0)).square().mean(0).sqrt()
        self.found["critic/spread"] = tr.mean((draw.weight * deviation).sum(0)).detach()
        return marginal_q(q, self.c.q_aggregate, self.c.q_twins_first)

    def next_log_pi(self, draw: Draw, tr: Pairs) -> Tensor:
        """Eq. 25: conditional on the state that acts; eq. 23: marginal."""
        return draw.log_pi if self.c.critic_entropy == "conditional" else self.marginal_log_pi(draw, tr.next_particles)

    def td_target(self, tr: Pairs, alpha: Tensor) -> Tensor:
        """One target, or (P, B, S): one for each particle, each with an action of its own, as released."""
        if not self.c.critic_particles:
            return super().td_target(tr, alpha)
        states = torch.cat([tr.next_feat[None], tr.next_particles])
        draw = self.policy.sample(states)
        value = soft_value(self.q("target", states, draw.action), draw.log_pi, alpha)
        return target(self.c.reward_scale * tr.reward, tr.terminal, (draw.weight * value).sum(0), self.c.gamma)

    def critic_loss(self, tr: Pairs, y: Tensor) -> Tensor:
        """Eq. 25; with a target per particle, the mean over particles."""
        if not self.c.critic_particles:
            return super().critic_loss(tr, y)
        states = [tr.feat, *tr.particles]
        losses = [tr.mean((self.q("critic", s, tr.action) - y[k]).square()) for k, s in enumerate(states)]
        return 2 * sum(losses) / len(states)
