"""MISA (Ma et al., NeurIPS 2023, arXiv 2210.07484): learning from data with a bound on their mutual information.

The policy and the critics bound the mutual information of states and actions in the data, I >= I_X
(``estimators.mutual_information``), and both are regularised by it. With a from the data, a_k ~ pi(. | s) and
log Z_j(s) = log mean_k exp Q_j(s, a_k):

    L_Q  += gamma_1 sum_j g_j,   g_j = N_X(log Z_j) - E Q_j(s, a)                           eq. 12, its sign corrected
    L_pi  = E [w alpha log pi(a_pi | s) - min_j Q_j(s, a_pi)]
            - gamma_2 E log pi(a | s) + gamma_3 E_s n_X(s) E_{b ~ p_s} log pi(b | s)            eqs. 13 and 15
    p_s(b) = pi(b | s) exp min_j Q_j(s, b) / Z(s),   n_X(s) = dN_X / d log Z(s) / p(s)

gamma_3 = gamma_2 is the gradient of the bound. b is drawn by Hamiltonian Monte Carlo in the policy's own noise e, where
p_s is N(e; 0, I) exp min_j Q_j(s, a(e)): the same distribution of actions, without a Jacobian and with one scale.
``sampler=snis`` weights the a_k by softmax_k Q instead; this is always done for policies whose draws have weights, and
is exact for a choice.

| variant | N_X | cloning (gamma_2) | correction (gamma_3) |
|---|---|---|---|
| misa | E_s log Z | yes | yes, n = 1 |
| dv | log E_s Z | yes | yes, n = Z / E Z |
| f | E_s Z / e | yes | yes, n = Z / e |
| ba | none | yes | no |
| no_ba | E_s log Z | no | yes |
| biased | E_s log Z | yes | no |
| t | none for Q: an energy T of its own has L_T = g | yes | yes, with T in place of Q |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from worldrl.errors import wrong
from worldrl.estimators.hamiltonian import chain_noise, run_chains, usual_step
from worldrl.estimators.mutual_information import NORMALISERS, log_partition
from worldrl.fields import Layers, NotNegative, OfUpdates, Range, Rate, Samples, Share, SomeLayers, Width
from worldrl.heads.cql import CQL, Proposed, against, log_weight, state_weights
from worldrl.heads.sac import require_exact_density
from worldrl.heads.transitions import ActorStates, Transition, transitions
from worldrl.nn.build import critic
from worldrl.nn.functional import masked_mean
from worldrl.nn.optim import CosineDecay, Optimizer, polyak
from worldrl.types import Batch, Belief, BeliefModel, Draw, Extra, MakePolicy, Metrics, Sizes

ADAPTATION = 0.05  # of log step, per update and unit of acceptance
POOR = 0.3  # an acceptance below it is reported
SHORTEST = 0.03  # step, in units of the usual one


class Variant(NamedTuple):
    """Which terms a variant has."""

    bound: str  # of NORMALISERS, for the critics or the energy; "": neither
    clones: bool
    corrects: bool
    own_energy: bool = False

    @property
    def bounds_critics(self) -> bool:
        """Whether gamma_1 and its budget have an effect."""
        return bool(self.bound) and not self.own_energy


VARIANTS = {
    "misa": Variant("misa", clones=True, corrects=True),
    "dv": Variant("dv", clones=True, corrects=True),
    "f": Variant("f", clones=True, corrects=True),
    "ba": Variant("", clones=True, corrects=False),
    "no_ba": Variant("misa", clones=False, corrects=True),
    "biased": Variant("misa", clones=True, corrects=False),
    "t": Variant("misa", clones=True, corrects=True, own_energy=True),
}


class Tilted(NamedTuple):
    """Weighted actions, without gradient: sum_m weight f(b_m) estimates n_X(s) E_{b ~ p_s} f(b)."""

    raw: Tensor  # (M, B, S, A)
    weight: Tensor  # (M, B, S)


class Energies(NamedTuple):
    """The policy's draws a_k and their energies under the critics before their step; without gradient."""

    draw: Draw  # (k, B, S, ...)
    log_weight: Tensor  # (k, B, S)
    energy: Tensor  # (k, B, S)


class MISA(CQL):
    """The head of MISA. The defaults are the released program's; learning rates decay as in the paper."""

    @dataclass(frozen=True)
    class Config(CQL.Config):
        units: Width = 256
        actor_layers: Layers = 2
        critic_layers: SomeLayers = 2
        critic_init: Literal["orthogonal", "default"] = "default"
        policy_std: Literal["softplus", "log"] = "log"
        grad_clip: NotNegative = 0.0
        actor_lr: Rate = 1e-4
        alpha_lr: Rate = 1e-4
        # Updates until the rates of actor, critics and energy are zero; a run on data sets its own length. 0: constant.
        decay_updates: Annotated[int, Range(0, 1e12), OfUpdates(whole=True)] = 0
        variant: Literal["misa", "dv", "f", "ba", "no_ba", "biased", "t"] = "misa"
        samples: Samples = 50  # k
        entropy_weight: NotNegative = 0.5  # w
        bc_weight: NotNegative = 0.5  # gamma_2
        correction_weight: NotNegative = 0.1  # gamma_3; eq. 15 has gamma_2
        sampler: Literal["hmc", "snis"] = "hmc"
        burn_in: Samples = 5  # all steps of a chain, whose last state is taken; the paper has more states of one chain
        leapfrogs: Samples = 2  # per step
        acceptance: Share = 0.7  # target for the adaptation of the step length; 0: it stays min(1, (6 / A)^(1/4))

        def __post_init__(self) -> None:
            if self.budget and not VARIANTS[self.variant].bounds_critics:
                found = f"{self.budget:g} with head.variant={self.variant}, whose critics have no bound"
                raise wrong("head.budget", found, "0")

    config: MISA.Config
    tiny: ClassVar[dict[str, Any]] = {**CQL.tiny, "burn_in": 2}
    compiled: ClassVar[tuple[str, ...]] = (*CQL.compiled, "information_loss")
    own_meaning: ClassVar[tuple[str, ...]] = ("samples",)  # in CQL they come from three proposals
    log_step: Tensor

    def __init__(self, config: MISA.Config, sizes: Sizes, policy: MakePolicy | None = None) -> None:
        super().__init__(config, sizes, policy)
        require_exact_density("misa", self.policy)
        c, variant = config, VARIANTS[config.variant]
        self.cloning = c.bc_weight if variant.clones else 0.0
        self.correction = c.correction_weight if variant.corrects else 0.0
        # Without weights there is no bound to learn; the energy of variant t has no weight.
        self.bounded = bool(variant.bound) and (variant.own_energy or c.critic_weight + self.correction > 0)
        self.normaliser = NORMALISERS[variant.bound or "misa"]
        if not c.entropy_weight and not c.backup_entropy:
            self.optimizers.pop("alpha", None)  # no loss reads the temperature, so nothing would bound it
        self.longest = math.log(usual_step(sizes.actions.size))
        self.register_buffer("log_step", torch.tensor(self.longest))
        self.energy: nn.Module | None = None
        if variant.own_energy:
            self.energy = critic(sizes.feat, sizes.actions, c.units, c.critic_layers, c.activation, c.critic_init, 1)
            self.optimizers["energy"] = Optimizer(self.energy.parameters(), c.critic_lr, c.grad_clip)
        if c.decay_updates:
            for name in {"actor", "critic", "energy"} & set(self.optimizers):
                self.optimizers[name].decay = CosineDecay(c.decay_updates)

    def update(
        self, phase: str, batch: Batch, belief: Belief, model: BeliefModel, extra: Extra | None = None
    ) -> Metrics:
        """One step on critic, energy, multiplier, actor and temperature, in this order; then the targets follow."""
        alpha = self.log_alpha.exp().detach()
        tr, states = transitions(batch, self.critic_states(belief)), self.actor_states(belief)
        y = self.td_target(tr, belief, alpha)
        if self.bounded:
            energies, metrics = self.learn_bound(tr, y, self.draws(states))
        else:
            energies, metrics = None, self.critic_step(*self.critic_loss(tr, y))
        loss, log_pi, logged = self.actor_loss(states, tr, self.config.entropy_weight * alpha)
        tilted = no_actions(tr)
        if energies and self.correction:
            tilted, chain = self.tilt(states, energies, tr.mask)
            metrics |= chain
        if self.cloning or self.correction:
            information, metrics["policy/log_prob"] = self.information_loss(states, tr, tilted)
            loss = loss + information
        metrics |= self.actor_step(loss, log_pi, logged, tr.mask, alpha)
        polyak(self.target, self.critic, self.config.tau)
        return metrics

    def learn_bound(self, tr: Transition, y: Tensor, draw: Draw) -> tuple[Energies, Metrics]:
        """One step of the critics, with the bound, or without it if there is an energy of its own.

        The energies returned are those before this step; the chains run after it.
        """
        proposed = Proposed(draw.action, log_weight(draw))
        if self.energy is None:
            judged = self.conservative_loss(tr, y, proposed)
            return Energies(draw, proposed.log_weight, judged.energy), self.learn(judged)
        metrics = self.critic_step(*self.critic_loss(tr, y))
        value, others = against(self.energy, tr, proposed)
        gap = self.gap(value, others, proposed, tr.mask)
        norm = self.optimizers["energy"].step(gap)
        metrics |= {"loss/energy": gap.detach(), "opt/energy/grad_norm": norm}
        return Energies(draw, proposed.log_weight, others[0].detach()), metrics

    # --- the equations ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def draws(self, states: ActorStates) -> Draw:
        """a_k ~ pi(. | s), k of them."""
        return self.policy.sample(states.inputs, self.policy.noise(states.inputs, self.config.samples))

    def information_loss(self, states: ActorStates, tr: Transition, tilted: Tilted) -> tuple[Tensor, Tensor]:
        """-gamma_2 E log pi(a | s) + gamma_3 E sum_m weight log pi(b_m | s); and E log pi(a | s) for the log."""
        raw = torch.cat([self.policy.raw_of(tr.action)[None], tilted.raw])
        log_pi = self.policy.log_prob(raw, states.inputs)  # (1 + M, B, S)
        cloned = masked_mean(log_pi[0], tr.mask)
        corrected = masked_mean((tilted.weight * log_pi[1:]).sum(0), tr.mask)
        return self.correction * corrected - self.cloning * cloned, cloned.detach()

    @torch.no_grad()
    def tilt(self, states: ActorStates, energies: Energies, mask: Tensor) -> tuple[Tilted, Metrics]:
        """Actions from p_s, times n_X(s): one from a chain, or the weighted a_k."""
        log_z = log_partition(energies.energy, energies.log_weight)  # (B, S)
        slope = self.normaliser.slope(log_z, state_weights(mask))
        if self.config.sampler == "snis" or isinstance(energies.draw.weight, Tensor):
            return Tilted(energies.draw.raw, slope * (energies.energy + energies.log_weight - log_z).exp()), {}
        drawing = self.policy.drawing(states.inputs)
        start = self.policy.noise(states.inputs)  # (1, B, S, A)
        chain = run_chains(
            partial(self.log_density, states, drawing),
            start,
            self.log_step.exp(),
            chain_noise(start, self.config.burn_in),
            self.config.leapfrogs,
        )
        logged = {"sampler/step": self.log_step.exp(), "sampler/acceptance": masked_mean(chain.acceptance, mask)}
        self.adapt(logged["sampler/acceptance"])
        return Tilted(drawing(chain.state).raw, slope[None]), logged

    def log_density(self, states: ActorStates, drawing: Callable[[Tensor], Draw], noise: Tensor) -> Tensor:
        """log p_s (1, B, S) of noise (1, B, S, A), up to a constant."""
        energy = (self.energy or self.critic)(states.feat, drawing(noise).action, frozen=True).amin(0)
        return energy - 0.5 * noise.square().sum(-1)

    def advice(self, metrics: Mapping[str, float]) -> str:
        accepted = metrics.get("sampler/acceptance", 1.0)
        if accepted >= POOR:
            return ""
        fix = "set head.sampler=snis, or data.reward=min_max if the rewards differ by more than 2"
        if not self.config.acceptance:
            fix = f"set head.acceptance={MISA.Config.acceptance}, which shortens its steps"
        return f"sampler/acceptance is {accepted:.2f}: the samples of eq. 15 are hardly those of p_s; {fix}"

    def adapt(self, acceptance: Tensor) -> None:
        """Lengthen or shorten the next update's leapfrogs."""
        change = ADAPTATION * (acceptance - self.config.acceptance)
        self.log_step.add_(change).clamp_(self.longest + math.log(SHORTEST), self.longest)


def no_actions(tr: Transition) -> Tilted:
    """No actions of p_s, (0, B, S, ...), for variants without a correction."""
    return Tilted(tr.action[None][:0], tr.reward[None][:0])
