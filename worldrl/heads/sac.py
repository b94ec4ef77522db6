"""Soft actor-critic (Haarnoja et al. 2018) on any belief.

On the identity belief it is SAC, on the RSSM it is Latent-SAC (Wang et al. 2022; the baseline of SMAC). For a pair of
rows (t, t + 1) of a belief s, with twin critics Q_j and temperature alpha:

    y       = c r + gamma (1 - d) [min_j Q'_j(s', a') - alpha log pi(a' | s')]      a' ~ pi(. | s'), c = reward_scale
    L_Q     = sum_j E (Q_j(s, a) - y)^2
    L_pi    = E [alpha log pi(a | s) - min_j Q_j(s, a)]                             a ~ pi(. | s), reparameterised
    L_alpha = -log alpha E [log pi(a | s) + H*]                                     H* = -A, for a choice 0.98 log A
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from worldrl.errors import UserError, wrong
from worldrl.fields import Layers, NotNegative, Positive, PositiveShare, Rate, Share, SomeLayers, Width
from worldrl.heads.transitions import ActorStates, Transition, transitions
from worldrl.nn.build import critic
from worldrl.nn.functional import masked_mean
from worldrl.nn.optim import Optimizer, polyak
from worldrl.policies.categorical import Categorical
from worldrl.policies.tanh_gaussian import TanhGaussian
from worldrl.types import (
    NOISE,
    Actions,
    Batch,
    Belief,
    BeliefModel,
    Draw,
    Extra,
    Head,
    MakePolicy,
    Metrics,
    Needs,
    Noise,
    Policy,
    Sizes,
)


def usual_policy(actions: Actions, std: str, init_std: float) -> MakePolicy:
    """The tanh-Gaussian with the given parameterisation of its std; for a choice, the categorical policy."""
    if actions.kind == "choice":
        return partial(Categorical, Categorical.Config())
    return partial(TanhGaussian, std=std, init_std=init_std)


def require_exact_density(head: str, policy: Policy) -> None:
    """Refuse a policy whose ``log_prob`` is not the density of a given action."""
    if not policy.exact_density:
        raise UserError(
            f"head={head}",
            f"the policy {type(policy).__name__}, which only bounds the density of a given action",
            "a policy with an exact density",
            f"use head=sac with it, or head={head} with policy=own",
        )


class SAC(Head):
    """The head of SAC and Latent-SAC. Defaults are the sizes of the SMAC release for pixels."""

    @dataclass(frozen=True)
    class Config:
        units: Width = 300
        actor_layers: Layers = 4
        critic_layers: SomeLayers = 3
        activation: Literal["elu", "relu", "silu", "tanh"] = "elu"
        critic_init: Literal["orthogonal", "default"] = "orthogonal"  # of Q, as in the SMAC release
        policy_std: Literal["softplus", "log"] = "softplus"  # of policy=own: Dreamer and SMAC, or SAC on states
        init_std: Positive = 5.0  # of policy=own with softplus; public PyTorch ports start with 4.018, by mistake
        actor_lr: Rate = 3e-4
        critic_lr: Rate = 3e-4
        alpha_lr: Rate = 3e-4
        grad_clip: NotNegative = 100.0
        gamma: Share = 0.99
        tau: PositiveShare = 0.005
        reward_scale: Positive = 1.0  # with a constant alpha, c times the reward is alpha / c
        init_alpha: Positive = 1.0
        tune_alpha: bool = True
        target_entropy_scale: float = 1.0  # H* = scale x (-A; for a choice 0.98 log A)
        actor_input: Literal["feat", "context"] = "feat"

    config: SAC.Config
    tiny: ClassVar[dict[str, Any]] = {"units": 8, "actor_layers": 1, "critic_layers": 1}
    compiled: ClassVar[tuple[str, ...]] = ("td_target", "critic_loss", "actor_loss")

    def __init__(
        self,
        config: SAC.Config,
        sizes: Sizes,
        policy: MakePolicy | None = None,
        critics: int = 2,
    ) -> None:
        super().__init__()
        c = self.config = config
        self.actions = sizes.actions
        inputs = sizes.context if c.actor_input == "context" else sizes.feat
        policy = policy or usual_policy(sizes.actions, c.policy_std, c.init_std)
        self.policy = policy(inputs, sizes.actions, c.units, c.actor_layers, c.activation)
        self.note = self.policy.note
        self.needs = Needs(actor_input=c.actor_input, actions=self.policy.actions)
        self.critic = critic(sizes.feat, sizes.actions, c.units, c.critic_layers, c.activation, c.critic_init, critics)
        self.target: nn.Module = deepcopy(self.critic).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.tensor(math.log(config.init_alpha)))
        self.target_entropy = config.target_entropy_scale * sizes.actions.target_entropy
        self.optimizers = {
            "actor": Optimizer(self.policy.parameters(), c.actor_lr, c.grad_clip),
            "critic": Optimizer(self.critic.parameters(), c.critic_lr, c.grad_clip),
        }
        if c.tune_alpha:
            self._check_target()
            self.optimizers["alpha"] = Optimizer([self.log_alpha], c.alpha_lr)

    def _check_target(self) -> None:
        """Refuse an entropy that no policy reaches: the temperature would grow without end."""
        most = self.actions.most_entropy
        if self.target_entropy >= most > 0 or self.target_entropy > most:
            scale = self.config.target_entropy_scale
            limit = most / self.actions.target_entropy
            expected = f"{'below' if limit > 0 else 'above'} {limit:.4g}: no policy has more than {most:.4g} nats"
            raise wrong("head.target_entropy_scale", scale, expected)

    # --- the contract -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, belief: Belief, explore: bool, noise: Noise = NOISE) -> Tensor:
        """(B, A): a sample, or the mode; with particles in the belief, the average of the modes over all paths."""
        x = self.actor_input(belief)
        if explore:
            return self.policy.act(x, noise)
        if len(belief.particles) == 0 or self.needs.actor_input == "context":
            return self.policy.mode(x)
        return self.actions.average(self.policy.mode(torch.cat([x[None], belief.particles])))

    @torch.no_grad()
    def probabilities(self, belief: Belief, explore: bool) -> Tensor:
        return self.policy.probabilities(self.actor_input(belief)) if explore else self.act(belief, explore)

    def update(
        self, phase: str, batch: Batch, belief: Belief, model: BeliefModel, extra: Extra | None = None
    ) -> Metrics:
        """One step on critic, actor and temperature, in this order; then the target critics follow."""
        alpha = self.log_alpha.exp().detach()
        tr = transitions(batch, self.critic_states(belief))
        metrics = self.critic_step(*self.critic_loss(tr, self.td_target(tr, belief, alpha)))
        metrics |= self.actor_step(*self.actor_loss(self.actor_states(belief), tr, alpha), tr.mask, alpha)
        polyak(self.target, self.critic, self.config.tau)
        return metrics

    def critic_step(self, loss: Tensor, q: Tensor) -> Metrics:
        """One gradient step of the critics; ``q`` is for the log."""
        norm = self.optimizers["critic"].step(loss)
        return {"loss/critic": loss.detach(), "opt/critic/grad_norm": norm, "critic/q": q}

    def actor_step(self, loss: Tensor, log_pi: Tensor, logged: Metrics, mask: Tensor, alpha: Tensor) -> Metrics:
        """One step of the actor down its loss, then one of the temperature, which has been ``alpha``.

        ``logged`` are other metrics.
        """
        norm = self.optimizers["actor"].step(loss)
        log_pi = masked_mean(log_pi, mask).detach()
        metrics = {
            "loss/actor": loss.detach(),
            "opt/actor/grad_norm": norm,
            "policy/entropy": -log_pi,
            "policy/alpha": alpha,
            **logged,
        }
        if "alpha" in self.optimizers:
            alpha_loss = -self.log_alpha * (log_pi + self.target_entropy)
            self.optimizers["alpha"].step(alpha_loss)
            metrics["loss/alpha"] = alpha_loss.detach()
        return metrics

    # --- the equations ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def td_target(self, tr: Transition, belief: Belief, alpha: Tensor) -> Tensor:
        """y (P, B, S), float32."""
        draw = self.policy.sample(self.next_actor_states(tr, belief))  # a' (M, P, B, S, A)
        q = self.target(tr.next_feat, draw.action).amin(0)  # (M, P, B, S)
        value = draw.mean(q - alpha * self.next_log_pi(draw, belief))
        return self.rewards(tr) + self.config.gamma * (1.0 - tr.terminal) * value

    def rewards(self, tr: Transition) -> Tensor:
        """c r, broadcasting against (P, B, S)."""
        return self.config.reward_scale * tr.reward

    def critic_loss(self, tr: Transition, y: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over twins of the mean squared TD error; also the mean Q for the log."""
        q = self.critic(tr.feat, tr.action.expand(*tr.feat.shape[:-1], -1))  # (2, P, B, S)
        return len(q) * masked_mean((q - y).square(), tr.mask), masked_mean(q, tr.mask).detach()

    def actor_loss(self, states: ActorStates, tr: Transition, alpha: Tensor) -> tuple[Tensor, Tensor, Metrics]:
        """E[alpha log pi - Q], log pi (B, S), and other metrics for the log."""
        draw = self.policy.sample(states.inputs)  # (M, B, S, A)
        log_pi = self.log_pi(draw, states)  # (M, B, S)
        loss = draw.mean(alpha * log_pi - self.q_pi(draw, states)) + alpha * draw.penalty
        return masked_mean(loss, tr.mask), draw.mean(log_pi), {}

    def log_pi(self, draw: Draw, states: ActorStates) -> Tensor:
        """log pi(a | s) (M, B, S)."""
        return draw.log_prob

    def q_pi(self, draw: Draw, states: ActorStates) -> Tensor:
        """min_j Q_j(s, a) (M, B, S)."""
        return self.critic(states.feat, draw.action, frozen=True).amin(0)

    def next_log_pi(self, draw: Draw, belief: Belief) -> Tensor:
        """log pi(a' | s') (M, P, B, S), conditional on the state that generated a'."""
        return draw.log_prob

    # --- which rows and which states ----------------------------------------------------------------------------------

    def actor_input(self, belief: Belief) -> Tensor:
        return belief.context if self.needs.actor_input == "context" else belief.feat

    def actor_states(self, belief: Belief) -> ActorStates:
        """The rows in which a transition starts."""
        return ActorStates(self.actor_input(belief)[:, :-1], belief.feat[:, :-1], belief.particles[:, :, :-1])

    def critic_states(self, belief: Belief) -> Tensor:
        """The states that the critic is trained on, (P, B, T, F)."""
        return belief.feat[None]

    def next_actor_states(self, tr: Transition, belief: Belief) -> Tensor:
        return belief.context[None, :, 1:] if self.needs.actor_input == "context" else tr.next_feat
