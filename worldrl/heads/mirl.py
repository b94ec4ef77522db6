"""Mutual-information regularised learning for choices (Grau-Moya, Leibfried and Vrancx, ICLR 2019), on any belief.

Soft Q-learning with a learned prior over actions: the optimal prior is the marginal of the policy over states, and then
the penalty is the mutual information of states and actions. The prior of useless actions vanishes, and no entropy is
spent on them. In every update, after the step on Q with the loss L:

    pi_0 <- (1 - alpha) pi_0 + alpha mean_s pi(. | s)            s of the newest rows in which the agent acts;
                                                                 the first update takes the mean
    L    <- (1 - kappa) L + kappa E (Q(s, a) - y)^2
    beta <- (1 - alpha_beta) beta + alpha_beta c / L             within its limits

It acts by argmax_a pi(a | s), and ``schedule.epsilon`` draws from pi_0. With alpha = alpha_beta = 0 it is ``soft_q``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from worldrl.errors import wrong
from worldrl.fields import AnySamples, Positive, PositiveShare, Range, Share
from worldrl.heads.dqn import Fit
from worldrl.heads.soft_q import SoftQ
from worldrl.heads.transitions import Steps, acting
from worldrl.types import Batch, Belief, BeliefModel, Extra, Metrics, Sizes

MOST_LOGGED = 128  # actions whose prior is logged, an entry each


class MIRL(SoftQ):
    """The head of MIRL. The paper's own settings were not available; the defaults are for small tasks."""

    @dataclass(frozen=True)
    class Config(SoftQ.Config):
        beta: Positive = 10.0  # at the start: that of soft_q
        beta_rate: Share = 1e-3  # alpha_beta; 0: beta stays
        beta_scale: Positive = 10.0  # c; it belongs to the scale of rewards
        beta_limits: tuple[float, float] = (0.01, 1000.0)
        loss_rate: PositiveShare = 0.01  # kappa: 1 / L of single small batches has a large mean
        prior_rate: Share = 5e-3  # alpha; 0: the prior stays uniform
        prior_batch: AnySamples = 32  # windows of the newest rows; 0: the update's own batch
        prior_rows: Annotated[int, Range(1, 1_000_000_000)] = 1_000  # how many rows count as the newest

        def __post_init__(self) -> None:
            super().__post_init__()
            low, high = self.beta_limits
            if not 0 < low <= high:
                raise wrong("head.beta_limits", self.beta_limits, "two numbers above 0, the smaller one first")
            if self.beta_rate and not low <= self.beta <= high:
                fix = "head.beta_rate=0 keeps it constant"
                raise wrong("head.beta", self.beta, f"a start within head.beta_limits, {low:g} to {high:g}", fix)
            if self.entropy_bonus and (self.prior_rate or self.beta_rate):
                fix = "use head=soft_q for the entropy"
                raise wrong("head.entropy_bonus", True, "false: it penalises information, with a learned prior", fix)

    config: MIRL.Config
    loss: Tensor
    started: Tensor
    tiny: ClassVar[dict[str, Any]] = {**SoftQ.tiny, "prior_batch": 4}
    own_meaning: ClassVar[tuple[str, ...]] = ("beta",)  # in soft Q-learning it is constant

    def __init__(self, config: MIRL.Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.register_buffer("loss", torch.zeros(()))  # L, smoothed
        self.register_buffer("started", torch.zeros(()))  # 1 after the first update
        if config.prior_rate and config.prior_batch:
            self.needs = self.needs._replace(
                recent_batch=config.prior_batch, recent_actions=config.prior_rows, recent_obs=True
            )

    def exploration(self) -> Tensor:
        """pi_0 (A,)."""
        return self.prior

    @torch.no_grad()
    def adapt(self, fit: Fit, steps: Steps, batch: Batch, belief: Belief, model: BeliefModel, extra: Extra) -> Metrics:
        """Move the prior and beta."""
        metrics = super().adapt(fit, steps, batch, belief, model, extra)
        c = self.config
        if c.prior_rate:
            self.prior.copy_(self.moved_prior(*self.newest(batch, belief, model, extra)))
            metrics["policy/prior_entropy"] = -(self.prior * self.log_prior()).sum()
            if len(self.prior) <= MOST_LOGGED:
                metrics |= {f"policy/prior/{i}": p for i, p in enumerate(self.prior.clone().unbind())}
        if c.beta_rate:
            self.loss.lerp_(fit.squared, self.step_size(c.loss_rate))
            wanted = c.beta_scale / self.loss.clamp(min=1e-12)
            self.beta.lerp_(wanted.clamp(*c.beta_limits), c.beta_rate)
        self.started.fill_(1.0)
        return metrics

    def newest(self, batch: Batch, belief: Belief, model: BeliefModel, extra: Extra) -> tuple[Tensor, Tensor]:
        """The rows whose policy moves the prior: features (B, T, F) by the current belief, and ``acting`` (B, T)."""
        if "recent" in extra:
            belief, _, _ = model.observe(extra["recent"], 0, learn=False)
            batch = extra["recent"].drop_rows(model.lost_rows)
        return belief.feat, acting(batch)

    @torch.no_grad()
    def moved_prior(self, feat: Tensor, acts: Tensor) -> Tensor:
        """(A,): the prior, a step closer to the marginal of pi over these rows (B, T, F).

        Those where ``acts`` (B, T) is 0 do not count; if none does, nothing moves.
        """
        policy = self.log_pi(self.q(feat)).exp()  # (B, T, A)
        marginal = (policy * acts[..., None]).sum((0, 1)) / acts.sum().clamp(min=1.0)
        rate = self.step_size(self.config.prior_rate) * (acts.sum() > 0)
        moved = self.prior.lerp(marginal, rate)
        return moved / moved.sum()  # so that rounding errors do not accumulate

    def step_size(self, rate: float) -> Tensor:
        """0-d: one in the first update, which takes the mean of its batch, later ``rate``."""
        return 1.0 + self.started * (rate - 1.0)
