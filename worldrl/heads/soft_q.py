"""Soft Q-learning (Haarnoja et al., ICML 2017, arXiv 1702.08165) for choices, on any belief.

The maximum of DQN is softened at an inverse temperature beta, under a prior pi_0 over the A actions:

    V(s)   = 1/beta log sum_a pi_0(a) exp(beta Q'(s, a))        pi(a | s) ~ pi_0(a) exp(beta Q(s, a))
    double:  sum_a pi(a | s) [Q'(s, a) - 1/beta log(pi(a | s) / pi_0(a))]

Here beta is constant and pi_0 uniform; ``mirl`` learns both. In the limit of infinite beta this is DQN. Published soft
Q-learning rewards the entropy of the policy; here its divergence from the uniform policy is penalised, so V is smaller
by log A / beta in every step (``entropy_bonus`` restores it). Returns have one step: n-step returns would need the
rewards of pi and its divergence in every state on the way, but the data come from a greedy agent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from worldrl.errors import wrong
from worldrl.fields import Positive
from worldrl.heads.dqn import DQN, Fit
from worldrl.heads.transitions import Steps
from worldrl.nn.functional import masked_mean
from worldrl.types import Batch, Belief, BeliefModel, Extra, Metrics, Sizes


class SoftQ(DQN):
    """The head of soft Q-learning."""

    @dataclass(frozen=True)
    class Config(DQN.Config):
        beta: Positive = 10.0  # inverse temperature, per unit of reward
        entropy_bonus: bool = False  # log-sum-exp in place of log-mean-exp

        def __post_init__(self) -> None:
            if self.steps > 1:
                raise wrong("head.steps", self.steps, "1: a soft value has one step", "use head=dqn for more")

    config: SoftQ.Config
    beta: Tensor
    prior: Tensor
    compiled: ClassVar[tuple[str, ...]] = ("td_target", "critic_loss")

    def __init__(self, config: SoftQ.Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        size = sizes.actions.size
        self.register_buffer("beta", torch.tensor(config.beta))
        self.register_buffer("prior", torch.full((size,), 1.0 / size))  # pi_0 (A,)
        self.bonus = math.log(size) if config.entropy_bonus else 0.0

    # --- the equations ------------------------------------------------------------------------------------------------

    def log_prior(self) -> Tensor:
        """log pi_0 (A,)."""
        return self.prior.clamp(min=1e-8).log()

    def preference(self, q: Tensor) -> Tensor:
        """Q + log pi_0 / beta: the most probable action of pi."""
        return q + self.log_prior() / self.beta

    def value(self, q: Tensor) -> Tensor:
        """The largest Q plus the change by the softness, so a large beta yields exactly DQN's value."""
        best = q.amax(-1, keepdim=True)
        soft = (self.log_prior() + self.beta * (q - best)).logsumexp(-1)
        return best.squeeze(-1) + (soft + self.bonus) / self.beta

    def double_value(self, q: Tensor, target: Tensor) -> Tensor:
        log_pi = self.log_pi(q)
        cost = (log_pi.exp() * (log_pi - self.log_prior())).sum(-1)
        return (log_pi.exp() * target).sum(-1) + (self.bonus - cost) / self.beta

    def log_pi(self, q: Tensor) -> Tensor:
        """log pi(. | s) (..., A)."""
        return (self.log_prior() + self.beta * (q - q.amax(-1, keepdim=True))).log_softmax(-1)

    @torch.no_grad()
    def adapt(self, fit: Fit, steps: Steps, batch: Batch, belief: Belief, model: BeliefModel, extra: Extra) -> Metrics:
        """Nothing changes; the metrics are the divergence of pi from the prior and its entropy, in nats."""
        log_pi, mask = self.log_pi(fit.values), steps.pairs.mask
        entropy = -masked_mean((log_pi.exp() * log_pi).sum(-1), mask)
        divergence = masked_mean((log_pi.exp() * (log_pi - self.log_prior())).sum(-1), mask)
        return {"policy/entropy": entropy, "policy/information": divergence, "policy/beta": self.beta.clone()}
