"""Maximum a posteriori policy optimisation (Abdolmaleki et al., ICLR 2018, arXiv 1806.06920), on any belief.

Primes are older copies: Q' follows slowly, and pi' is the latest copy of pi. N actions a_i ~ pi'(. | s) are weighted by
their values (the E-step), and the policy is fitted to them inside a trust region (the M-step). Mean and standard
deviation are fitted separately (arXiv 1812.02256), before tanh, where u_i = atanh(a_i) and pi is N(mu, sigma^2):

    y       = r + gamma (1 - d) mean_i min_j Q'_j(s', a'_i)                     a'_i ~ pi'(. | s')
    L_Q     = sum_j E (Q_j(s, a) - y)^2
    w_i     = softmax_i min_j Q'_j(s, a_i) / eta
    L_eta   = eta (epsilon + E log mean_i exp(min_j Q'_j(s, a_i) / eta))
    L_pi    = -E sum_i w_i [log N(u_i; mu, sigma') + log N(u_i; mu', sigma)] + alpha_mu . KL_mu + alpha_sigma . KL_sigma
    KL_mu   = E KL(N(mu', sigma') || N(mu, sigma')),   KL_sigma = E KL(N(mu', sigma') || N(mu', sigma))
    L_alpha = alpha_mu . (epsilon_mu - KL_mu) + alpha_sigma . (epsilon_sigma - KL_sigma)

The KL terms, their multipliers and their bounds are per dimension of the action. tanh changes none of them, because it
maps both Gaussians in the same way. ``temperature=residual`` is the variant of VIREL (arXiv 1811.01132, appendix G):
eta is the Bellman residual and is not tuned.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldrl.errors import wrong
from worldrl.fields import NotNegative, Positive, PositiveShare, Rate, Samples, Share, SomeLayers, Width
from worldrl.heads.transitions import Transition, transitions
from worldrl.nn.build import critic
from worldrl.nn.functional import inverse_softplus, log_mean_exp, masked_mean, normal_log_prob
from worldrl.nn.optim import Optimizer, polyak
from worldrl.policies.tanh_gaussian import TanhGaussian
from worldrl.types import NOISE, Batch, Belief, BeliefModel, Extra, Head, Metrics, Noise, Sizes

FLOOR = 1e-8  # lower limit of the temperature and the multipliers


class Gaussian(NamedTuple):
    """The policy before tanh."""

    mean: Tensor  # (B, S, A)
    std: Tensor  # (B, S, A)


class Judged(NamedTuple):
    """N actions of the old policy in each of the S rows that a transition starts from, and their values."""

    raw: Tensor  # (N, B, S, A) before tanh
    q: Tensor  # (N, B, S) min_j Q'_j(s, a_i)


class MPO(Head):
    """The head of MPO. Its trust region is wider than acme's and its copies are more frequent, for fewer updates."""

    @dataclass(frozen=True)
    class Config:
        units: Width = 256
        actor_layers: SomeLayers = 2
        critic_layers: SomeLayers = 2
        activation: Literal["elu", "relu", "silu", "tanh"] = "elu"
        init_std: Positive = 1.0  # of the policy before tanh
        critics: Samples = 2
        samples: Samples = 20  # N
        temperature: Literal["dual", "residual"] = "dual"  # residual: VIREL, appendix G
        epsilon: Positive = 0.1  # nats, KL of the weights from the old policy
        epsilon_mean: Positive = 0.1  # nats, per dimension of the action
        epsilon_std: Positive = 1e-3  # the same
        init_eta: Positive = 10.0
        init_alpha_mean: Positive = 1.0
        init_alpha_std: Positive = 10.0
        residual_scale: Positive = 1.0  # eta = residual_scale x the mean squared Bellman error
        residual_limits: tuple[float, float] = (1e-3, 1e3)
        actor_lr: Rate = 1e-3
        critic_lr: Rate = 1e-3
        dual_lr: Rate = 1e-2
        grad_clip: NotNegative = 40.0
        gamma: Share = 0.99
        tau: PositiveShare = 0.005  # of Q'
        policy_period: Samples = 10  # updates between two copies of the policy

        def __post_init__(self) -> None:
            if not 0 < self.residual_limits[0] <= self.residual_limits[1]:
                raise wrong("head.residual_limits", self.residual_limits, "[low, high] above 0")

    config: MPO.Config
    policy: TanhGaussian
    tiny: ClassVar[dict[str, Any]] = {"units": 8, "actor_layers": 1, "critic_layers": 1, "samples": 3}
    compiled: ClassVar[tuple[str, ...]] = ("td_target", "critic_loss", "policy_loss")

    def __init__(self, config: MPO.Config, sizes: Sizes) -> None:
        super().__init__()
        c = self.config = config
        self.policy = TanhGaussian(
            sizes.feat, sizes.actions, c.units, c.actor_layers, c.activation, "softplus", c.init_std
        )
        self.critic = critic(sizes.feat, sizes.actions, c.units, c.critic_layers, c.activation, n=c.critics)
        self.target_policy = deepcopy(self.policy).requires_grad_(False)
        self.target = deepcopy(self.critic).requires_grad_(False)
        size = (sizes.actions.size,)
        starts: dict[str, tuple[tuple[int, ...], float]] = {
            "alpha_mean": (size, c.init_alpha_mean),
            "alpha_std": (size, c.init_alpha_std),
        }
        if c.temperature == "dual":
            starts["eta"] = ((), c.init_eta)
        self.dual = nn.ParameterDict(  # before softplus
            {name: nn.Parameter(torch.full(shape, inverse_softplus(x))) for name, (shape, x) in starts.items()}
        )
        self.optimizers = {
            "actor": Optimizer(self.policy.parameters(), c.actor_lr, c.grad_clip),
            "critic": Optimizer(self.critic.parameters(), c.critic_lr, c.grad_clip),
            "dual": Optimizer(self.dual.parameters(), c.dual_lr, c.grad_clip),
        }

    # --- the contract -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, belief: Belief, explore: bool, noise: Noise = NOISE) -> Tensor:
        """(B, A): a sample, or the mode; with particles in the belief, the mean of the modes over all paths."""
        if explore:
            return self.policy.act(belief.feat, noise)
        return self.policy.mode(torch.cat([belief.feat[None], belief.particles])).mean(0)

    def phase(self, n: int) -> str:
        return "update" if (n + 1) % self.config.policy_period else "copy"

    def update(
        self, phase: str, batch: Batch, belief: Belief, model: BeliefModel, extra: Extra | None = None
    ) -> Metrics:
        """One step on critics, policy and multipliers, in this order; then the older copies follow."""
        tr = transitions(batch, belief.feat[None])
        critic_loss, q, residual = self.critic_loss(tr, self.td_target(tr))
        critic_norm = self.optimizers["critic"].step(critic_loss)
        eta = self.temperature(residual)
        judged = self.judge(tr.feat[0])
        weight = action_weights(judged.q, eta.detach())
        policy_loss, kl_mean, kl_std = self.policy_loss(tr, judged, weight)
        actor_norm = self.optimizers["actor"].step(policy_loss)
        dual_loss = self.dual_loss(judged.q, tr.mask, eta, kl_mean.detach(), kl_std.detach())
        dual_norm = self.optimizers["dual"].step(dual_loss)
        polyak(self.target, self.critic, self.config.tau)
        if phase == "copy":
            polyak(self.target_policy, self.policy, 1.0)
        return {
            "loss/critic": critic_loss.detach(),
            "loss/actor": policy_loss.detach(),
            "loss/dual": dual_loss.detach(),
            "opt/critic/grad_norm": critic_norm,
            "opt/actor/grad_norm": actor_norm,
            "opt/dual/grad_norm": dual_norm,
            "critic/q": q,
            "policy/eta": eta.detach(),
            "policy/kl_weights": masked_mean(information(weight), tr.mask),
            "policy/kl_mean": kl_mean.detach().mean(),
            "policy/kl_std": kl_std.detach().mean(),
        }

    # --- policy evaluation --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def td_target(self, tr: Transition) -> Tensor:
        """y (1, B, S), float32."""
        value = self.judge(tr.next_feat[0]).q.mean(0)
        return (tr.reward + self.config.gamma * (1.0 - tr.terminal) * value)[None]

    def critic_loss(self, tr: Transition, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sum over critics of the mean squared TD error; also, for the log and for eta, the mean Q and that error."""
        q = self.critic(tr.feat, tr.action[None])  # (n, 1, B, S)
        error = masked_mean((q - y).square(), tr.mask)
        return len(q) * error, masked_mean(q, tr.mask).detach(), error.detach()

    # --- E-step -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def judge(self, feat: Tensor) -> Judged:
        """feat (B, S, F) -> N actions of the old policy in each state, and their values."""
        draw = self.target_policy.sample(feat, self.target_policy.noise(feat, self.config.samples))
        return Judged(draw.raw, self.target(feat, draw.action).amin(0))

    def temperature(self, residual: Tensor) -> Tensor:
        """eta, 0-d: the dual variable, or the mean squared Bellman error within its limits."""
        c = self.config
        if c.temperature == "dual":
            return F.softplus(self.dual["eta"]) + FLOOR
        return (c.residual_scale * residual).clamp(*c.residual_limits)

    # --- M-step -------------------------------------------------------------------------------------------------------

    def policy_loss(self, tr: Transition, judged: Judged, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """L_pi; also KL_mu and KL_sigma (A,)."""
        with torch.no_grad():
            old = Gaussian(*self.target_policy.stats(tr.feat[0]))
        new = Gaussian(*self.policy.stats(tr.feat[0]))
        fit = normal_log_prob(judged.raw, new.mean, old.std) + normal_log_prob(judged.raw, old.mean, new.std)
        kl_mean, kl_std = (mean_per_dimension(kl, tr.mask) for kl in (shift(old, new), rescaling(old, new)))
        alpha_mean, alpha_std = (alpha.detach() for alpha in self.multipliers())
        bound = (alpha_mean * kl_mean + alpha_std * kl_std).sum()
        return bound - masked_mean((weight * fit).sum(0), tr.mask), kl_mean, kl_std

    def multipliers(self) -> tuple[Tensor, Tensor]:
        """alpha_mu and alpha_sigma (A,)."""
        return F.softplus(self.dual["alpha_mean"]) + FLOOR, F.softplus(self.dual["alpha_std"]) + FLOOR

    def dual_loss(self, q: Tensor, mask: Tensor, eta: Tensor, kl_mean: Tensor, kl_std: Tensor) -> Tensor:
        """L_alpha, and L_eta if eta is tuned."""
        c = self.config
        alpha_mean, alpha_std = self.multipliers()
        loss = (alpha_mean * (c.epsilon_mean - kl_mean) + alpha_std * (c.epsilon_std - kl_std)).sum()
        return loss + temperature_loss(q, mask, eta, c.epsilon) if c.temperature == "dual" else loss


def action_weights(q: Tensor, eta: Tensor) -> Tensor:
    """w (N, ...): softmax over the N actions of Q / eta."""
    return torch.softmax(q / eta, 0)


def temperature_loss(q: Tensor, mask: Tensor, eta: Tensor, epsilon: float) -> Tensor:
    """L_eta, 0-d, from q (N, B, S): at its minimum the weights are on average ``epsilon`` nats from the old policy."""
    return eta * (epsilon + masked_mean(log_mean_exp(q / eta), mask))


def information(weight: Tensor) -> Tensor:
    """KL of the weights (N, ...) from equal weights, (...) nats."""
    return torch.special.xlogy(weight, weight * len(weight)).sum(0)


def shift(old: Gaussian, new: Gaussian) -> Tensor:
    """KL(N(mu', sigma') || N(mu, sigma')) per dimension, (B, S, A) nats."""
    return 0.5 * ((new.mean - old.mean) / old.std).square()


def rescaling(old: Gaussian, new: Gaussian) -> Tensor:
    """KL(N(mu', sigma') || N(mu', sigma)) per dimension, (B, S, A) nats."""
    ratio = (old.std / new.std).square()
    return 0.5 * (ratio - 1.0 - ratio.log())


def mean_per_dimension(x: Tensor, mask: Tensor) -> Tensor:
    """(B, S, A) -> (A,): the mean over the entries where ``mask`` (B, S) is one."""
    return (x * mask[..., None]).sum((0, 1)) / mask.sum().clamp(min=1.0)
