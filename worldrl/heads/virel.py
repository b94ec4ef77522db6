"""VIREL (Fellows, Mahajan, Rudner and Whiteson, NeurIPS 2019, arXiv 1811.01132), appendix H.

The critic is hard: it has no entropy term, so the policy becomes deterministic where the critic is right. Only the
actor is softened, by a temperature alpha that is constant (*virel*) or follows the Bellman residual (*beta*):

    L_V   = E (V(s) - Q(s, a))^2                                                  a ~ pi(. | s)
    L_Q   = E (Q(s, a) - c r - gamma (1 - d) V'(s'))^2                            c = reward_scale
    L_pi  = E [alpha log pi(a | s) - Q(s, a)]                                     the same a, reparameterised
    alpha = lambda eps,  eps = E (c r + gamma (1 - d) V(s') - Q(s, a))^2          *beta*, on its own transitions

*virel1* has two hard critics. *virel2* has a hard one Q_h and a soft one Q_s with a soft value network V_s of its own,
whose target is Q_s(s, a) - alpha log pi(a | s). Both use the smaller Q in L_pi and as the target of the hard V.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from worldrl.errors import wrong
from worldrl.fields import AnySamples, Positive, PositiveShare, Width
from worldrl.heads.transitions import Transition, transitions
from worldrl.heads.value_sac import Judged, ValueSAC
from worldrl.nn.functional import masked_mean
from worldrl.nn.precision import forget_casts
from worldrl.types import BeliefModel, Extra, MakePolicy, Metrics, Sizes


class VIREL(ValueSAC):
    """The head of VIREL. Defaults are those of *virel* in the paper's experiments on Gym's second MuJoCo tasks."""

    @dataclass(frozen=True)
    class Config(ValueSAC.Config):
        units: Width = 300
        tau: PositiveShare = 0.001
        critics: Literal["hard", "two_hard", "hard_and_soft"] = "hard"  # virel and beta, virel1, virel2
        soft_reward_scale: Positive = 1.0  # times reward_scale, for the soft critic: it aligns both means of Q
        temperature: Literal["fixed", "residual"] = "fixed"  # fixed: init_alpha; residual: beta
        residual_scale: Positive = 4e-3  # lambda, about (1 - gamma) / (average reward)
        residual_batch: AnySamples = 4096  # transitions; 0: the update's own
        residual_value: Literal["online", "target"] = "online"  # V(s') in eps: the program's, or that of algorithm 2
        residual_limits: tuple[float, float] = (1e-4, 10.0)  # of lambda eps

        def __post_init__(self) -> None:
            if self.temperature == "residual" and self.tune_alpha:
                raise wrong("head.tune_alpha", True, "false with head.temperature=residual, which sets alpha")
            if not 0 < self.residual_limits[0] <= self.residual_limits[1]:
                raise wrong("head.residual_limits", self.residual_limits, "[low, high] above 0")

    config: VIREL.Config
    tiny: ClassVar[dict[str, Any]] = {**ValueSAC.tiny, "residual_batch": 8}

    def __init__(
        self,
        config: VIREL.Config,
        sizes: Sizes,
        policy: MakePolicy | None = None,
    ) -> None:
        c = config
        critics, values = {"hard": (1, 1), "two_hard": (2, 1), "hard_and_soft": (2, 2)}[c.critics]
        super().__init__(c, sizes, policy, critics, values)
        if c.temperature == "residual":
            self.needs = self.needs._replace(td_batch=c.residual_batch)

    # --- the equations ------------------------------------------------------------------------------------------------

    def value_targets(self, judged: Judged, alpha: Tensor) -> Tensor:
        """min_j Q_j(s, a) of the hard V; then Q_s(s, a) - alpha log pi(a | s) of the soft one; (1 or 2, M, B, S)."""
        hard = judged.q.amin(0)
        if self.config.critics != "hard_and_soft":
            return hard[None]
        return torch.stack([hard, judged.q[1] - alpha * judged.excess])

    def rewards(self, tr: Transition) -> Tensor:
        """c r, times the soft critic's own scale in the second entry; broadcasts against (n, P, B, S)."""
        reward = super().rewards(tr)
        if self.config.critics != "hard_and_soft":
            return reward
        return torch.stack([reward, self.config.soft_reward_scale * reward])[:, None]

    def temperature(self, tr: Transition, model: BeliefModel, extra: Extra) -> tuple[Tensor, Metrics]:
        """init_alpha, or lambda eps within its limits; eps = 1 until the replay has enough transitions."""
        c = self.config
        if c.temperature == "fixed":
            return super().temperature(tr, model, extra)
        if c.residual_batch == 0:
            residual = self.residual(tr)
        elif "td" in extra:
            residual = self.residual(self.td_transitions(model, extra))
        else:
            residual = torch.ones_like(self.log_alpha.detach())
        return (c.residual_scale * residual).clamp(*c.residual_limits), {"policy/residual": residual}

    @torch.no_grad()
    def td_transitions(self, model: BeliefModel, extra: Extra) -> Transition:
        """The transitions in addition to the slice, filtered by the current belief model."""
        belief, _, _ = model.observe(extra["td"], 0, learn=False)
        return transitions(extra["td"].drop_rows(model.lost_rows), belief.feat[None])

    @torch.no_grad()
    def residual(self, tr: Transition) -> Tensor:
        """eps, 0-d: the mean squared Bellman residual over all critics."""
        backup = self.backup(tr, self.value if self.config.residual_value == "online" else self.target)
        error = backup - self.critic(tr.feat, tr.action.expand(*tr.feat.shape[:-1], -1))
        forget_casts()
        return masked_mean(error.square(), tr.mask)
