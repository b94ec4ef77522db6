"""Dreamer (Hafner et al., ICLR 2020, arXiv 1912.01603): an actor that learns inside the world model.

From every state s_0 of the slice the model is rolled forward for H steps, a_t ~ pi(. | s_t), s_{t+1} ~ p(. | s_t, a_t).
With the predicted reward r_t of arriving in s_t, the predicted probability c_t that the episode continues there, and
d_t = gamma c_t (eqs. 6 to 8 of the paper, weighted as in the published programs):

    G_t     = r_t + d_t [(1 - lambda) v(s_{t+1}) + lambda G_{t+1}]     G = v of the last state at the end of the dream
    w_t     = d_1 ... d_{t-1}                                          a constant
    L_actor = -mean w_t G_t                                            through values, rewards and dynamics
    L_value = mean w_t (v(s_t) - G_t)^2 / 2                            G_t is a constant

A choice is sampled and has a straight-through gradient. DreamerV2 (arXiv 2010.02193) uses the score function for
choices instead, ``actor_gradient=score``:

    L_actor = -mean w_t log pi(a_t | s_t) (G_t - v(s_t))               G_t, v and a_t are constants

The published programs differ in the first reward of G_t and in the state that it bootstraps from: ``return_terms``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor

from worldrl.errors import wrong
from worldrl.fields import Layers, NotNegative, Particles, Positive, Range, Rate, Share, Width
from worldrl.heads.sac import usual_policy
from worldrl.nn.build import scalar_network
from worldrl.nn.optim import Optimizer
from worldrl.types import (
    NOISE,
    Batch,
    Belief,
    BeliefModel,
    Draw,
    Extra,
    Head,
    Imagines,
    Metrics,
    Needs,
    Noise,
    Rollout,
    Sizes,
)

ReturnForm = Literal["tf2", "tf1", "pytorch"]


class ReturnTerms(NamedTuple):
    """The terms of the R returns of every dream."""

    reward: Tensor  # (R, N) first reward of the return
    discount: Tensor  # (R, N) gamma times the probability to continue, for what follows that reward
    value: Tensor  # (R, N) of the state that the return belongs to
    next_value: Tensor  # (R, N) of the state after it; the last one is the bootstrap


def first_state(form: ReturnForm) -> int:
    """The first entry of a dream that has a value: only the PyTorch form includes the start."""
    return 0 if form == "pytorch" else 1


def return_terms(rollout: Rollout, value: Tensor, gamma: float, form: ReturnForm) -> ReturnTerms:
    """Align a dream of H steps, s_0..s_H, with the values of its states from ``first_state(form)`` on.

    - ``tf2`` (danijar/dreamer): H - 1 returns, of s_1..s_{H-1}. v(s_t) includes the reward of arriving in s_t, and the
      last return bootstraps from v(s_H).
    - ``tf1`` (google-research/dreamer, the program of the paper's curves): the same, but the last state is cut off too
      early, so the last return bootstraps from v(s_{H-1}), its own state's value.
    - ``pytorch`` (zhixuan-lin/dreamer-pytorch, the SMAC release): H returns, of s_0..s_{H-1}. v(s_t) starts with the
      reward of arriving in s_{t+1}, and the last return bootstraps from v(s_H).
    """
    reward, discount = rollout.reward[1:], gamma * rollout.discount[1:]
    if form == "pytorch":
        return ReturnTerms(reward, discount, value[:-1], value[1:])
    after = value[1:] if form == "tf2" else torch.cat([value[1:-1], value[-2:-1]])
    return ReturnTerms(reward[:-1], discount[:-1], value[:-1], after)


def lambda_return(reward: Tensor, discount: Tensor, next_value: Tensor, lam: float) -> Tensor:
    """G_t = r_t + d_t [(1 - lambda) v_{t+1} + lambda G_{t+1}] with G after the last entry = v; all (R, N)."""
    one_step = reward + (1.0 - lam) * discount * next_value
    later, returns = next_value[-1], []
    for step, trace in zip(one_step.flip(0).unbind(), (lam * discount).flip(0).unbind(), strict=True):
        later = step + trace * later
        returns.append(later)
    return torch.stack(returns[::-1])


@torch.no_grad()
def arrival_weights(start: Tensor, discount: Tensor) -> Tensor:
    """w_t = start times the discounts before t: the weight of entry t. (N,) and (R, N) -> (R, N)"""
    return torch.cat([start[None], discount[:-1]]).cumprod(0)


def densest(draw: Draw) -> Tensor:
    """(..., A): the draw of highest density, as in the evaluation of the TF2 program."""
    best = draw.log_prob.argmax(0, keepdim=True)[..., None]
    return draw.action.gather(0, best.expand_as(draw.action[:1]))[0]


class Dreamer(Head):
    """The head of Dreamer. Defaults are those of its TF2 program."""

    @dataclass(frozen=True)
    class Config:
        units: Width = 400
        actor_layers: Layers = 4
        value_layers: Layers = 3
        activation: Literal["elu", "relu", "silu", "tanh"] = "elu"
        init_std: Positive = 5.0  # public PyTorch ports start with 4.018, by mistake
        mode_samples: Particles = 100  # evaluation takes the densest of them; 0: tanh of the mean, as PyTorch ports do
        horizon: Annotated[int, Range(2, 1_000)] = 15  # H
        gamma: Share = 0.99
        lam: Share = 0.95  # lambda of the return
        returns: ReturnForm = "tf2"
        actor_gradient: Literal["dynamics", "score"] = "dynamics"  # score: for choices only
        entropy_scale: NotNegative = 0.0  # weight of a bonus for the policy's entropy along the dream
        actor_lr: Rate = 8e-5
        value_lr: Rate = 8e-5
        grad_clip: NotNegative = 100.0
        adam_eps: Positive = 1e-7

    config: Dreamer.Config
    tiny: ClassVar[dict[str, Any]] = {
        "units": 8,
        "actor_layers": 1,
        "value_layers": 1,
        "horizon": 3,
        "mode_samples": 2,
    }
    compiled: ClassVar[tuple[str, ...]] = ("actor_loss", "score_loss", "value_loss")

    def __init__(self, config: Dreamer.Config, sizes: Sizes) -> None:
        super().__init__()
        c = self.config = config
        self.actions = sizes.actions
        if c.actor_gradient == "score" and sizes.actions.kind == "box":
            raise wrong("head.actor_gradient", c.actor_gradient, "dynamics, because the actions are a box")
        policy = usual_policy(sizes.actions, "softplus", c.init_std)
        self.policy = policy(sizes.feat, sizes.actions, c.units, c.actor_layers, c.activation)
        self.needs = Needs(imagine=True, actions=self.policy.actions)
        self.value = scalar_network(sizes.feat, c.units, c.value_layers, c.activation)
        self.optimizers = {
            "actor": Optimizer(self.policy.parameters(), c.actor_lr, c.grad_clip, c.adam_eps),
            "value": Optimizer(self.value.parameters(), c.value_lr, c.grad_clip, c.adam_eps),
        }

    # --- the contract -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, belief: Belief, explore: bool, noise: Noise = NOISE) -> Tensor:
        """(B, A): a sample, or the mode; with particles in the belief, the average of the modes over all paths."""
        if explore:
            return self.policy.act(belief.feat, noise)
        x = torch.cat([belief.feat[None], belief.particles])
        n = self.config.mode_samples
        modes = densest(self.policy.sample(x, self.policy.noise(x, n, noise))) if n else self.policy.mode(x)
        return self.actions.average(modes)

    @torch.no_grad()
    def probabilities(self, belief: Belief, explore: bool) -> Tensor:
        return self.policy.probabilities(belief.feat) if explore else self.act(belief, explore)

    def update(
        self, phase: str, batch: Batch, belief: Belief, model: BeliefModel, extra: Extra | None = None
    ) -> Metrics:
        """One step on actor and value from one dream; both losses are built before either step, as published.

        A row that ends its episode gets the weight zero, because no dream starts there.
        """
        c = self.config
        rollout, log_pi = self.dream(belief.feat, cast("Imagines", model))
        value = self.value(rollout.feat[first_state(c.returns) :])
        terms = return_terms(rollout, value, c.gamma, c.returns)
        returns = lambda_return(terms.reward, terms.discount, terms.next_value, c.lam)
        alive = 1.0 - batch.is_terminal.flatten()
        weight = arrival_weights(alive, terms.discount)
        if c.actor_gradient == "score":
            actor_loss = self.score_loss(rollout, returns - terms.value, weight)
        else:
            actor_loss = self.actor_loss(returns, weight)
        if c.entropy_scale > 0:
            actor_loss = actor_loss - c.entropy_scale * self.entropy(log_pi, rollout, alive)
        value_loss = self.value_loss(terms.value, returns, weight)
        return {
            # The value loss reads the same values, so the actor's step must leave their graph in place.
            "opt/actor/grad_norm": self.optimizers["actor"].step(actor_loss, retain_graph=True),
            "opt/value/grad_norm": self.optimizers["value"].step(value_loss),
            "loss/actor": actor_loss.detach(),
            "loss/value": value_loss.detach(),
            "policy/entropy": -log_pi.detach().mean(),
            "critic/value": value.detach().mean(),
            "dream/reward": rollout.reward[1:].detach().mean(),
            "dream/return": returns.detach().mean(),
        }

    # --- the equations ------------------------------------------------------------------------------------------------

    def dream(self, feat: Tensor, model: Imagines) -> tuple[Rollout, Tensor]:
        """A rollout from every state (B, T, F), N = B T, and log pi(a_t | s_t) (H, N).

        The actor's input is detached at each step: the gradient of an action goes through the later states, but not
        through the actor's later decisions.
        """
        log_pi = []

        def actor(state: Tensor) -> Tensor:
            draw = self.policy.sample(state.detach())
            log_pi.append(draw.mean(draw.log_prob))
            return draw.one(NOISE)  # the default of a method is unknown to the compiler

        rollout = model.imagine(feat.flatten(0, -2), actor, self.config.horizon)
        return rollout, torch.stack(log_pi)

    def actor_loss(self, returns: Tensor, weight: Tensor) -> Tensor:
        """-mean w G."""
        return -(weight * returns).mean()

    def score_loss(self, rollout: Rollout, advantage: Tensor, weight: Tensor) -> Tensor:
        """-mean w log pi(a) (G - v), in the states of the returns (R, N)."""
        own = slice(first := first_state(self.config.returns), first + len(weight))
        log_pi = self.policy.log_prob(rollout.action[own].detach(), rollout.feat[own].detach())
        return -(weight * log_pi * advantage.detach()).mean()

    def value_loss(self, value: Tensor, returns: Tensor, weight: Tensor) -> Tensor:
        """-mean w log N(G; v, 1), without its constant."""
        return 0.5 * (weight * (value - returns.detach()).square()).mean()

    def entropy(self, log_pi: Tensor, rollout: Rollout, alive: Tensor) -> Tensor:
        """mean w_t H(pi(. | s_t)) over s_0..s_{H-1}, each estimated by its own draw."""
        weight = arrival_weights(alive, self.config.gamma * rollout.discount[1:])
        return -(weight * log_pi).mean()
