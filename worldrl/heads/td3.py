"""TD3 (Fujimoto et al., ICML 2018, arXiv 1802.09477), on any belief.

A deterministic policy mu with twin critics Q_j; primes are slowly following copies. For a pair of rows of a belief s:

    a'   = clip(mu'(s') + clip(sigma e, -c, c), -1, 1)        e ~ N(0, I): target policy smoothing
    y    = r + gamma (1 - d) min_j Q'_j(s', a')
    L_Q  = sum_j E (Q_j(s, a) - y)^2
    L_mu = -E Q_1(s, mu(s))                                   every ``policy_delay`` updates; then the copies follow

Exploration is ``schedule.action_noise``: the agent adds it to mu(s).
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from worldrl.fields import Layers, NotNegative, PositiveShare, Range, Rate, Samples, Share, SomeLayers, Width
from worldrl.heads.transitions import Transition, transitions
from worldrl.nn.build import critic
from worldrl.nn.functional import masked_mean
from worldrl.nn.optim import Optimizer, polyak
from worldrl.policies.deterministic import Deterministic
from worldrl.types import NOISE, Batch, Belief, BeliefModel, Extra, Head, Metrics, Needs, Noise, Sizes


class TD3(Head):
    """The head of TD3. Defaults are the authors' own settings."""

    @dataclass(frozen=True)
    class Config:
        units: Width = 256
        actor_layers: Layers = 2
        critic_layers: SomeLayers = 2
        activation: Literal["elu", "relu", "silu", "tanh"] = "relu"
        critics: Annotated[int, Range(1, 100)] = 2
        actor_lr: Rate = 3e-4
        critic_lr: Rate = 3e-4
        grad_clip: NotNegative = 0.0
        gamma: Share = 0.99
        tau: PositiveShare = 0.005
        policy_delay: Samples = 2  # the actor and all targets move in every n-th update
        target_noise: NotNegative = 0.2  # sigma, in units of the action, which is in [-1, 1]
        noise_clip: NotNegative = 0.5  # c

    config: TD3.Config
    tiny: ClassVar[dict[str, Any]] = {"units": 8, "actor_layers": 1, "critic_layers": 1}
    compiled: ClassVar[tuple[str, ...]] = ("td_target", "critic_loss", "actor_loss")

    def __init__(self, config: TD3.Config, sizes: Sizes) -> None:
        super().__init__()
        c = self.config = config
        self.needs = Needs(action_noise=True)
        self.policy, self.critic = self.networks(sizes)
        self.target_policy = deepcopy(self.policy).requires_grad_(False)
        self.target = deepcopy(self.critic).requires_grad_(False)
        self.optimizers = {
            "actor": Optimizer(self.policy.parameters(), c.actor_lr, c.grad_clip),
            "critic": Optimizer(self.critic.parameters(), c.critic_lr, c.grad_clip),
        }

    def networks(self, sizes: Sizes) -> tuple[Deterministic, nn.Module]:
        """The actor mu and the critics, (feat, action) -> (n, ...)."""
        c = self.config
        policy = Deterministic(sizes.feat, sizes.actions, c.units, c.actor_layers, c.activation)
        return policy, critic(sizes.feat, sizes.actions, c.units, c.critic_layers, c.activation, n=c.critics)

    # --- the contract -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, belief: Belief, explore: bool, noise: Noise = NOISE) -> Tensor:
        """(B, A): mu(s), the same with and without ``explore``; with particles, the mean over all paths."""
        return self.policy.mode(torch.cat([belief.feat[None], belief.particles])).mean(0)

    def phase(self, n: int) -> str:
        return "critic" if (n + 1) % self.config.policy_delay else "update"

    def update(
        self, phase: str, batch: Batch, belief: Belief, model: BeliefModel, extra: Extra | None = None
    ) -> Metrics:
        """One step on the critics; in the phase ``update`` one on the actor too, and then all targets follow."""
        tr = transitions(batch, belief.feat[None])
        return self.learn(phase, tr, self.td_target(tr))

    def learn(self, phase: str, tr: Transition, y: Tensor) -> Metrics:
        """``update``, after the critics' target is known."""
        critic_loss, q = self.critic_loss(tr, y)
        metrics = {
            "opt/critic/grad_norm": self.optimizers["critic"].step(critic_loss),
            "loss/critic": critic_loss.detach(),
            "critic/q": q,
        }
        if phase == "update":
            actor_loss = self.actor_loss(tr)
            metrics["opt/actor/grad_norm"] = self.optimizers["actor"].step(actor_loss)
            metrics["loss/actor"] = actor_loss.detach()
            polyak(self.target, self.critic, self.config.tau)
            polyak(self.target_policy, self.policy, self.config.tau)
        return metrics

    # --- the equations ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def next_action(self, next_feat: Tensor) -> Tensor:
        """a' = clip(mu'(s') + clip(sigma e, -c, c), -1, 1)."""
        c = self.config
        action = self.target_policy.mode(next_feat)
        if c.target_noise == 0:
            return action
        noise = (c.target_noise * torch.randn_like(action)).clamp(-c.noise_clip, c.noise_clip)
        return (action + noise).clamp(-1.0, 1.0)

    @torch.no_grad()
    def td_target(self, tr: Transition) -> Tensor:
        """y (1, B, S), float32."""
        q = self.target(tr.next_feat, self.next_action(tr.next_feat)).amin(0)
        return tr.reward + self.config.gamma * (1.0 - tr.terminal) * q

    def critic_loss(self, tr: Transition, y: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over critics of the mean squared TD error; also the mean Q for the log."""
        q = self.critic(tr.feat, tr.action[None])  # (n, 1, B, S)
        return len(q) * masked_mean((q - y).square(), tr.mask), masked_mean(q, tr.mask).detach()

    def actor_loss(self, tr: Transition) -> Tensor:
        """-E Q_1(s, mu(s))."""
        return -masked_mean(self.critic(tr.feat, self.policy.mode(tr.feat), frozen=True, first=1)[0], tr.mask)
