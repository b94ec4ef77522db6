"""Conservative Q-learning (Kumar et al., NeurIPS 2020, arXiv 2006.04779): SAC on data, with lower Q outside the data.

Three distributions mu propose actions a_i, n each: the uniform one, pi(. | s) and pi(. | s'). CQL(H) adds

    L_Q  += gamma_1 sum_j g_j,   g_j = E log Z_j(s) - E Q_j(s, a)                        a is the data's action
    Z_j(s) = int exp Q_j(s, b) db, estimated by 1 / 3n sum_i exp Q_j(s, a_i) / mu(a_i)

to SAC's loss, whose target has no entropy, and does not change the actor. With a budget tau, gamma_1 is multiplied by
m = exp(eta) in [0, 1e6], which falls where the gap is below tau and rises where it is above:

    L_Q  += gamma_1 m sum_j g_j,   L_eta = -gamma_1 m mean_j (g_j - tau)

For a choice, Z_j(s) = sum_a exp Q_j(s, a) is exact: the categorical policy proposes every action once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from worldrl.estimators.mutual_information import NORMALISERS, Normaliser, log_partition
from worldrl.fields import NotNegative, Range, Samples
from worldrl.heads.sac import SAC
from worldrl.heads.transitions import Transition, transitions
from worldrl.nn.functional import limited, masked_mean
from worldrl.nn.optim import Optimizer, polyak
from worldrl.types import Batch, Belief, BeliefModel, Draw, Extra, MakePolicy, Metrics, Sizes

MOST = 1e6  # upper limit of the multiplier


class Proposed(NamedTuple):
    """Actions whose values are compared with those of the data, without gradient."""

    action: Tensor  # (M, B, S, A)
    log_weight: Tensor  # (M, B, S) of each in Z(s)


class Judged(NamedTuple):
    """The critics' loss and its components."""

    loss: Tensor  # ()
    q: Tensor  # () of the data's actions
    gap: Tensor  # () g_j, the mean over the critics
    energy: Tensor  # (M, B, S) min_j Q_j of the proposed actions, without gradient


class CQL(SAC):
    """The head of CQL(H)."""

    @dataclass(frozen=True)
    class Config(SAC.Config):
        samples: Samples = 10  # n, of each proposal
        critic_weight: NotNegative = 5.0  # gamma_1
        budget: Annotated[float, Range(-1e9, 1e9)] = 0.0  # tau of the Lagrangian, nats; 0: none
        backup_entropy: bool = False  # True: SAC's target

    config: CQL.Config
    tiny: ClassVar[dict[str, Any]] = {**SAC.tiny, "samples": 2}
    compiled: ClassVar[tuple[str, ...]] = ("td_target", "critic_loss", "conservative_loss", "actor_loss")
    normaliser: Normaliser = NORMALISERS["misa"]  # of log Z(s): its mean

    def __init__(self, config: CQL.Config, sizes: Sizes, policy: MakePolicy | None = None) -> None:
        super().__init__(config, sizes, policy)
        if config.budget:
            self.log_multiplier = nn.Parameter(torch.ones(()))  # eta
            self.optimizers["multiplier"] = Optimizer([self.log_multiplier], config.critic_lr)

    def update(
        self, phase: str, batch: Batch, belief: Belief, model: BeliefModel, extra: Extra | None = None
    ) -> Metrics:
        """One step on critic, multiplier, actor and temperature, in this order; then the target critics follow."""
        alpha = self.log_alpha.exp().detach()
        tr = transitions(batch, self.critic_states(belief))
        y = self.td_target(tr, belief, alpha)
        if self.config.critic_weight:
            metrics = self.learn(self.conservative_loss(tr, y, self.propose(tr, belief)))
        else:
            metrics = self.critic_step(*self.critic_loss(tr, y))
        metrics |= self.actor_step(*self.actor_loss(self.actor_states(belief), tr, alpha), tr.mask, alpha)
        polyak(self.target, self.critic, self.config.tau)
        return metrics

    def learn(self, judged: Judged) -> Metrics:
        """One step of the critics, and one of the multiplier if there is a budget."""
        gap = judged.gap.detach()
        metrics = self.critic_step(judged.loss, judged.q) | {"critic/gap": gap}
        if self.config.budget:
            multiplier = self.multiplier()
            loss = -self.config.critic_weight * multiplier * (gap - self.config.budget)
            self.optimizers["multiplier"].step(loss)
            metrics |= {"loss/multiplier": loss.detach(), "critic/multiplier": multiplier.detach()}
        return metrics

    # --- the equations ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def td_target(self, tr: Transition, belief: Belief, alpha: Tensor) -> Tensor:
        """y (1, B, S), float32; without entropy."""
        return super().td_target(tr, belief, alpha if self.config.backup_entropy else torch.zeros_like(alpha))

    @torch.no_grad()
    def propose(self, tr: Transition, belief: Belief) -> Proposed:
        """n actions of each proposal; for a choice, every action."""
        here = self.from_policy(self.actor_states(belief).inputs)
        if self.actions.kind == "choice":  # pi / pi = 1, also where pi is zero in float32
            return Proposed(here.action, torch.zeros_like(here.log_weight))
        proposals = (here, self.from_policy(self.next_actor_states(tr, belief)[0]), self.uniform(here))
        action, log_weight = (torch.cat(each) for each in zip(*proposals, strict=True))
        return Proposed(action, log_weight - math.log(len(proposals)))

    def from_policy(self, x: Tensor) -> Proposed:
        """n draws of pi(. | x), for the integral over all actions."""
        draw = self.policy.sample(x, self.policy.noise(x, self.config.samples))
        return Proposed(draw.action, log_weight(draw) - draw.log_prob)

    def uniform(self, like: Proposed) -> Proposed:
        """n actions of the uniform density 2^-A, in as many states as ``like`` has."""
        n, lead = self.config.samples, like.action.shape[1:]
        action = 2.0 * torch.rand(n, *lead, device=like.action.device) - 1.0
        return Proposed(action, torch.full_like(action[..., 0], lead[-1] * math.log(2.0) - math.log(n)))

    def conservative_loss(self, tr: Transition, y: Tensor, proposed: Proposed) -> Judged:
        """Sum over twins of the mean squared TD error and gamma_1 m g_j."""
        q, others = against(self.critic, tr, proposed)
        gap = self.gap(q, others, proposed, tr.mask)
        error = masked_mean((q - y).square(), tr.mask)
        loss = len(q) * (error + self.config.critic_weight * self.multiplier().detach() * gap)
        return Judged(loss, masked_mean(q, tr.mask).detach(), gap, others.detach().amin(0))

    def gap(self, value: Tensor, others: Tensor, proposed: Proposed, mask: Tensor) -> Tensor:
        """N(log Z) - E T, mean over n critics: ``value`` (n, B, S) of the data's actions, ``others`` (n, M, B, S)."""
        p = state_weights(mask)
        log_z = log_partition(others, proposed.log_weight, 1)  # (n, B, S)
        return torch.stack([self.normaliser.value(each, p) for each in log_z]).mean() - masked_mean(value, mask)

    def multiplier(self) -> Tensor:
        """m, 0-d; it is one without a budget."""
        if not self.config.budget:
            return torch.ones_like(self.log_alpha)
        return limited(self.log_multiplier, -math.inf, math.log(MOST)).exp()


def against(critic: nn.Module, tr: Transition, proposed: Proposed) -> tuple[Tensor, Tensor]:
    """Values of the data's actions (n, B, S) and of the proposed ones (n, M, B, S), in one call of the critic."""
    values = critic(tr.feat[0], torch.cat([tr.action[None], proposed.action]))
    return values[:, 0], values[:, 1:]


def log_weight(draw: Draw) -> Tensor:
    """Logarithms of the weights of M draws, (M, ...)."""
    weight = draw.weight
    return weight.log() if isinstance(weight, Tensor) else torch.full_like(draw.log_prob, math.log(weight))


def state_weights(mask: Tensor) -> Tensor:
    """p(s) (B, S): uniform over the transitions that count, and sums to one."""
    return mask / mask.sum().clamp(min=1.0)
