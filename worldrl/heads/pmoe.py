"""Probabilistic mixture-of-experts SAC (Ren et al. 2021, arXiv 2104.09122), the biased baseline of the SMAC paper.

The policy is a mixture of M tanh-Gaussian experts with gate w(s). Every expert draws an action, and b is the expert
whose action has the highest value:

    L_pi   = E [alpha log pi_b(a_b | s) - min_j Q_j(s, a_b)]      b = argmax_m min_j Q_j(s, a_m)
    L_gate = mean_m E (w_m(s) - [m = b])^2
    y      = c r + gamma (1 - d) E_{m ~ w(s')} [min_j Q'_j(s', a'_m) - alpha log pi_m(a'_m | s')]

Each log-density is that of the expert only, so neither loss has the gradient of the mixture's objective, which is
``head=sac policy=mixture``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, cast

import torch
from torch import Tensor

from worldrl.fields import Range
from worldrl.heads.sac import SAC
from worldrl.heads.transitions import ActorStates, Transition
from worldrl.nn.functional import masked_mean, normal_log_prob, tanh_log_det
from worldrl.policies.mixture import Mixture, stratified
from worldrl.types import Draw, Metrics, Sizes


class Experts(Mixture):
    """The mixture, except that ``sample`` returns the density of each draw under its own expert."""

    def sample(self, x: Tensor, noise: Tensor | None = None) -> Draw:
        """x (..., F) -> reparameterised draws of every expert, action (n M, ..., A)."""
        stats = self.stats(x)
        raw, weight = stratified(stats, self.noise(x) if noise is None else noise)
        by_expert = raw.unflatten(0, (-1, self.config.components))  # (n, M, ..., A)
        own = normal_log_prob(by_expert, stats.mean.movedim(-2, 0), stats.std.movedim(-2, 0)).flatten(0, 1)
        return Draw(torch.tanh(raw), raw, own - tanh_log_det(raw).sum(-1), weight)


class PMOE(SAC):
    """The head of PMOE-SAC. The defaults are SAC's; ``agent=pmoe_sac`` has the published sizes."""

    @dataclass(frozen=True)
    class Config(SAC.Config):
        experts: Annotated[int, Range(1, 1_000)] = 5  # M; the SMAC paper uses 5 and 10

    config: PMOE.Config
    tiny: ClassVar[dict[str, Any]] = {**SAC.tiny, "experts": 2}
    policy: Experts

    def __init__(self, config: PMOE.Config, sizes: Sizes) -> None:
        make = partial(Experts, Mixture.Config(config.experts))
        super().__init__(config, sizes, make)

    def actor_loss(self, states: ActorStates, tr: Transition, alpha: Tensor) -> tuple[Tensor, Tensor, Metrics]:
        """L_pi + L_gate, log pi_b (B, S), and nothing else for the log."""
        draw = self.policy.sample(states.inputs)  # (M, B, S, A)
        q = self.q_pi(draw, states)  # (M, B, S)
        q_best, best = q.max(0)
        log_pi = draw.log_prob.take_along_dim(best[None], 0)[0]
        loss = alpha * log_pi - q_best + gate_loss(cast("Tensor", draw.weight), best)
        return masked_mean(loss, tr.mask), log_pi, {}


def gate_loss(weight: Tensor, best: Tensor) -> Tensor:
    """mean_m (w_m - [m = b])^2; (M, ...) and (...) -> (...)."""
    chosen = torch.arange(len(weight), device=best.device).reshape(-1, *([1] * best.dim())) == best
    return (weight - chosen.to(weight.dtype)).square().mean(0)
