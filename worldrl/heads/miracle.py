"""Mutual-information regularised actor-critic (Leibfried and Grau-Moya, CoRL 2019, arXiv 1909.05950), section 4.

Soft actor-critic whose policy is compared with its own marginal over states and not with the uniform density. It thus
maximises reward under a cost for the mutual information of states and actions. With the reward scaled by beta:

    L_Q   = sum_j E (Q_j(s, a) - beta r - gamma (1 - d) V'(s'))^2                                     (eq. 21)
    L_V   = E (V(s) - [min_j Q_j(s, a) - log pi(a | s) + log m(a)])^2             a ~ pi(. | s)       (eq. 22)
    L_pi  = E [log pi(a | s) - log m(a) - min_j Q_j(s, a)]                        m constant          (eq. 20)
    L_m   = -E log m(a)                                                           a of recent rows

The marginal policy m is ``policies.action_prior``; for a choice it is one probability for each action, so the
expectations of L_V and L_pi are exact sums. With a constant m this is ``value_sac``, the paper's SAC baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import Tensor

from worldrl.errors import wrong
from worldrl.fields import Positive, PositiveShare, Range, Rate, Samples
from worldrl.heads.value_sac import Judged, ValueSAC
from worldrl.nn.functional import masked_mean
from worldrl.nn.optim import Optimizer
from worldrl.policies.action_prior import Fit, MarginalChoice, MarginalPolicy
from worldrl.types import Actions, Batch, Belief, BeliefModel, Draw, Extra, MakePolicy, Metrics, Sizes


class MIRACLE(ValueSAC):
    """The head of MIRACLE. Defaults are the published ones; the number of recent actions is that for walkers."""

    @dataclass(frozen=True)
    class Config(ValueSAC.Config):
        tau: PositiveShare = 0.01
        reward_scale: Positive = 10.0  # beta
        marginal_fit: Fit = "likelihood"  # single: the text read literally; vae: with a recognition model (appendix F)
        marginal_samples: Samples = 20  # N
        marginal_shared: bool = False  # one set of samples for the whole batch: cheaper, noisier
        marginal_lr: Rate = 3e-4
        marginal_batch: Samples = 256
        marginal_actions: Annotated[int, Range(0, 1e9)] = 50_000  # number of newest rows; 0: the update's own batch
        marginal_log_var: tuple[float, float] = (-10.0, 0.5)  # of its components before tanh

        def __post_init__(self) -> None:
            if self.marginal_log_var[0] >= self.marginal_log_var[1]:
                raise wrong("head.marginal_log_var", self.marginal_log_var, "[low, high] in order")

    config: MIRACLE.Config
    tiny: ClassVar[dict[str, Any]] = {**ValueSAC.tiny, "marginal_samples": 2, "marginal_batch": 8}

    def __init__(
        self,
        config: MIRACLE.Config,
        sizes: Sizes,
        policy: MakePolicy | None = None,
    ) -> None:
        super().__init__(config, sizes, policy)
        c = config
        if c.marginal_actions:
            self.needs = self.needs._replace(recent_batch=c.marginal_batch, recent_actions=c.marginal_actions)
        self.marginal = self.make_marginal(sizes.actions)
        self.optimizers["marginal"] = Optimizer(self.marginal.parameters(), c.marginal_lr, c.grad_clip)

    def make_marginal(self, actions: Actions) -> MarginalPolicy | MarginalChoice:
        c = self.config
        if actions.kind == "choice":
            if c.marginal_fit != "likelihood":
                raise wrong("head.marginal_fit", c.marginal_fit, "likelihood, because the actions are choices")
            if c.marginal_shared:
                raise wrong("head.marginal_shared", True, "false, because the actions are choices")
            return MarginalChoice(actions.size)
        return MarginalPolicy(
            actions.size,
            c.units,
            c.actor_layers,
            c.marginal_samples,
            c.marginal_fit,
            c.marginal_log_var,
            c.marginal_shared,
        )

    def update(
        self, phase: str, batch: Batch, belief: Belief, model: BeliefModel, extra: Extra | None = None
    ) -> Metrics:
        """The steps of ``ValueSAC`` with the current marginal policy, then one step of the marginal policy."""
        metrics = super().update(phase, batch, belief, model, extra)
        recent = (extra or {})["recent"] if self.config.marginal_actions else batch.drop_rows(1)
        loss = self.marginal_loss(recent)
        norm = self.optimizers["marginal"].step(loss)
        return metrics | {"loss/marginal": loss.detach(), "opt/marginal/grad_norm": norm}

    # --- the equations ------------------------------------------------------------------------------------------------

    def excess(self, draw: Draw) -> Tensor:
        """log pi(a | s) - log m(a) (M, B, S); the parameters of m are constant, its argument is not."""
        return draw.log_prob - self.marginal.log_prob(draw.raw)

    def marginal_loss(self, recent: Batch) -> Tensor:
        """-E log m(a) over the rows that have an action."""
        return masked_mean(self.marginal.loss(recent.action), 1.0 - recent.is_first)

    def describe(self, judged: Judged, mask: Tensor) -> Metrics:
        """Also E [log pi(a | s) - log m(a)]: the mutual information of state and action if m is the marginal."""
        information = judged.draw.mean(judged.excess)
        return super().describe(judged, mask) | {"policy/information": masked_mean(information, mask).detach()}
