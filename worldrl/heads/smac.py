"""Stochastic marginal actor-critic (Zhang et al., ICLR 2023, arXiv 2210.00999), Algorithm 2.

SAC whose policy is marginalised over the belief, pi(a | h) = E_{s ~ q(s | h)} pi(a | s). With a ~ pi(. | s_0) and
particles s_1..s_K of the belief, the actor maximises Q_K(h, a) + alpha H_K(h) (eq. 15), where

    H_K   estimates the marginal entropy                             ``estimators.marginal`` (eqs. 9, 11, 12)
    Q_K   = log mean_k exp min_j Q_j(s_k, a)                         ``marginal_q`` (eq. 14)

The critic is that of SAC, on one draw of the belief (eq. 25). With K = 0 this is Latent-SAC, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from worldrl.errors import wrong
from worldrl.estimators.marginal import ESTIMATORS, draw_level, independent_draws, marginal_q
from worldrl.fields import Particles, Range
from worldrl.heads.sac import SAC, require_exact_density
from worldrl.heads.transitions import ActorStates, Transition
from worldrl.nn.functional import masked_mean
from worldrl.types import Belief, Draw, MakePolicy, Metrics, Sizes


class SMAC(SAC):
    """The head of SMAC."""

    @dataclass(frozen=True)
    class Config(SAC.Config):
        num_particles: Particles = 32  # K; roulette draws its own number, if it is not 0
        estimator: Literal["naive", "iwae", "nested", "mlmc", "mlmc_fresh", "roulette"] = "nested"
        q_aggregate: Literal["lse", "mean", "min"] = "lse"  # eq. 14 is lse
        q_twins_first: bool = True  # min over the twins inside the aggregate, as released
        q_include_s0: bool = True  # False: K terms as eq. 14 prints it, without the draw that generated the action
        critic_particles: bool = False  # True: one target per particle on all K + 1 (the released code)
        critic_entropy: Literal["conditional", "marginal"] = "conditional"  # marginal: eq. 23's estimate in the target
        max_roulette_level: Annotated[int, Range(0, 16)] = 7  # 2^8 - 1 particles: unbiased for nested at K = 128

        def __post_init__(self) -> None:
            independent_draws(self.estimator, self.num_particles)
            if self.critic_particles and self.critic_entropy == "marginal":
                raise wrong("head.critic_particles", True, "false: head.critic_entropy=marginal is for one draw")
            if self.actor_input != "feat":
                raise wrong("head.actor_input", self.actor_input, "feat: head=smac marginalises over its particles")

    config: SMAC.Config
    tiny: ClassVar[dict[str, Any]] = {**SAC.tiny, "num_particles": 2}

    def __init__(
        self,
        config: SMAC.Config,
        sizes: Sizes,
        policy: MakePolicy | None = None,
    ) -> None:
        super().__init__(config, sizes, policy)
        require_exact_density("smac", self.policy)
        self.needs = self.needs._replace(particles=independent_draws(config.estimator, config.num_particles))
        self._seed = torch.initial_seed()  # of the run: parts are built under it, at the start and on resuming

    def phase(self, n: int) -> str:
        """Roulette draws its truncation level from seed and update number, so a resumed run draws the same level."""
        if self.config.estimator != "roulette" or self.config.num_particles == 0:
            return "update"
        level = draw_level(np.random.default_rng([0x52554C, self._seed, n]))
        return f"roulette-{min(level, self.config.max_roulette_level)}"

    def particles(self, phase: str) -> int:
        if phase.startswith("roulette-"):
            return 2 ** (int(phase.removeprefix("roulette-")) + 1) - 1
        return self.needs.particles

    # --- the equations ------------------------------------------------------------------------------------------------

    def marginal_log_pi(self, draw: Draw, particles: Tensor) -> Tensor:
        """Estimate of log pi(a | h), (M, ...), from particles (K, ...) that broadcast against the draw.

        Every density is evaluated at the draw's own ``raw``.
        """
        if len(particles) == 0:
            return draw.log_prob
        others = self.policy.log_prob(draw.raw, particles[:, None])  # (K, M, ...)
        return ESTIMATORS[self.config.estimator](torch.cat([draw.log_prob[None], others]))

    def actor_loss(self, states: ActorStates, tr: Transition, alpha: Tensor) -> tuple[Tensor, Tensor, Metrics]:
        """E[alpha log pi - Q_K] (eq. 15), log pi (B, S), and how far the particles differ."""
        if len(states.particles) == 0:
            return super().actor_loss(states, tr, alpha)
        draw = self.policy.sample(states.inputs)  # (M, B, S, A)
        log_pi, q = self.log_pi(draw, states), self.particle_q(draw, states)  # (M, B, S), (2, P, M, B, S)
        loss = draw.mean(alpha * log_pi - self.marginal_q(q)) + alpha * draw.penalty
        logged = self.particle_metrics(draw, log_pi, q, tr)
        return masked_mean(loss, tr.mask), draw.mean(log_pi), logged

    def log_pi(self, draw: Draw, states: ActorStates) -> Tensor:
        return self.marginal_log_pi(draw, states.particles)

    def particle_q(self, draw: Draw, states: ActorStates) -> Tensor:
        """Q_j(s_k, a) (2, P, M, B, S) of every particle in eq. 14."""
        all_states = torch.cat([states.feat[None], states.particles])
        feats = all_states if self.config.q_include_s0 else states.particles
        return self.critic(feats[:, None], draw.action, frozen=True)

    def marginal_q(self, q: Tensor) -> Tensor:
        """Q_K(h, a) (M, B, S), eq. 14."""
        return marginal_q(q, self.config.q_aggregate, self.config.q_twins_first)

    @torch.no_grad()
    def particle_metrics(self, draw: Draw, log_pi: Tensor, q: Tensor, tr: Transition) -> Metrics:
        """How far SMAC is from Latent-SAC; both are 0 where all particles are the same.

        ``policy/marginal_gain``: E[log pi(a | s_0) - log pi(a | h)], nats for each entry of a box action, or for a
        choice. ``critic/spread``: the standard deviation (divisor P) of min_j Q_j(s_k, a) over particles.
        """
        entries = self.actions.size if self.actions.kind == "box" else 1
        gain = draw.mean(draw.log_prob - log_pi) / entries  # (B, S)
        spread = draw.mean(q.amin(0).std(0, correction=0))  # (B, S)
        return {"policy/marginal_gain": masked_mean(gain, tr.mask), "critic/spread": masked_mean(spread, tr.mask)}

    def next_log_pi(self, draw: Draw, belief: Belief) -> Tensor:
        if self.config.critic_entropy == "conditional":
            return draw.log_prob
        return self.marginal_log_pi(draw, belief.particles[:, None, :, 1:])

    # --- which states -------------------------------------------------------------------------------------------------

    def critic_states(self, belief: Belief) -> Tensor:
        if not self.config.critic_particles:
            return super().critic_states(belief)
        return torch.cat([belief.feat[None], belief.particles])
