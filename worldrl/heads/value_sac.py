"""The first soft actor-critic (Haarnoja et al. 2018, arXiv 1801.01290): the critics learn from a state-value network.

For a pair of rows (t, t + 1) of a belief s, with critics Q_j, a value network V, its target V' and temperature alpha:

    L_Q  = sum_j E (Q_j(s, a) - c r - gamma (1 - d) V'(s'))^2                       c = reward_scale
    L_V  = E (V(s) - [min_j Q_j(s, a) - alpha log pi(a | s)])^2                     a ~ pi(. | s)
    L_pi = E [alpha log pi(a | s) - min_j Q_j(s, a)]                                the same a, reparameterised

MIRACLE subtracts the log-density of a learned marginal policy from log pi; VIREL leaves log pi out of L_V. Both papers
scale the reward and keep alpha = 1, so that is the default.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from worldrl.fields import Layers, NotNegative, Positive, SomeLayers, Width
from worldrl.heads.sac import SAC
from worldrl.heads.transitions import ActorStates, Transition, transitions
from worldrl.nn.build import scalar_network
from worldrl.nn.functional import masked_mean
from worldrl.nn.optim import Optimizer, polyak
from worldrl.types import Batch, Belief, BeliefModel, Draw, Extra, MakePolicy, Metrics, Sizes


class Values(nn.Module):
    """``n`` independent state-value networks, (..., F) -> (n, ...) float32."""

    def __init__(self, shape: tuple[int, ...], units: int, layers: int, activation: str, n: int) -> None:
        super().__init__()
        self.nets = nn.ModuleList(scalar_network(shape, units, layers, activation) for _ in range(n))

    def forward(self, feat: Tensor) -> Tensor:
        return torch.stack([net(feat) for net in self.nets])


class Judged(NamedTuple):
    """One draw of the policy in the S rows in which a transition starts, and its terms in the losses."""

    draw: Draw  # action (M, B, S, A)
    q: Tensor  # (n, M, B, S)
    excess: Tensor  # (M, B, S) log pi(a | s), minus the reference log density of the head


class ValueSAC(SAC):
    """The head of SAC with a value network. Defaults are the sizes of its paper, for states."""

    @dataclass(frozen=True)
    class Config(SAC.Config):
        units: Width = 256
        actor_layers: Layers = 2
        critic_layers: SomeLayers = 2
        activation: Literal["elu", "relu", "silu", "tanh"] = "relu"
        critic_init: Literal["orthogonal", "default"] = "default"
        policy_std: Literal["softplus", "log"] = "log"
        grad_clip: NotNegative = 0.0
        tune_alpha: bool = False
        init_alpha: Positive = 1.0  # alpha, which is constant

    config: ValueSAC.Config
    compiled: ClassVar[tuple[str, ...]] = ("td_target", "critic_loss")
    own_meaning: ClassVar[tuple[str, ...]] = ("init_alpha",)  # in SAC it is where a learned alpha starts

    def __init__(
        self,
        config: ValueSAC.Config,
        sizes: Sizes,
        policy: MakePolicy | None = None,
        critics: int = 2,
        values: int = 1,
    ) -> None:
        super().__init__(config, sizes, policy, critics)
        c = config
        self.value = Values(sizes.feat, c.units, c.critic_layers, c.activation, values)
        self.target = deepcopy(self.value).requires_grad_(False)
        self.optimizers["value"] = Optimizer(self.value.parameters(), c.critic_lr, c.grad_clip)

    def update(
        self, phase: str, batch: Batch, belief: Belief, model: BeliefModel, extra: Extra | None = None
    ) -> Metrics:
        """One step on critics, value network, actor and, if it is learned, temperature; then the target follows."""
        tr = transitions(batch, self.critic_states(belief))
        alpha, metrics = self.temperature(tr, model, extra or {})
        critic_loss, q = self.critic_loss(tr, self.td_target(tr, belief, alpha))
        metrics |= {"loss/critic": critic_loss.detach(), "critic/q": q, "policy/alpha": alpha}
        metrics["opt/critic/grad_norm"] = self.optimizers["critic"].step(critic_loss)
        states = self.actor_states(belief)
        judged = self.judge(states)
        losses = {
            "value": self.value_loss(states, judged, tr.mask, alpha),
            "actor": self.policy_loss(judged, tr, alpha),
        }
        metrics |= self.describe(judged, tr.mask)
        if self.config.tune_alpha:
            losses["alpha"] = self.log_alpha * (metrics["policy/entropy"] - self.target_entropy)
        for name, loss in losses.items():
            metrics |= {f"opt/{name}/grad_norm": self.optimizers[name].step(loss), f"loss/{name}": loss.detach()}
        polyak(self.target, self.value, self.config.tau)
        return metrics

    # --- the equations ------------------------------------------------------------------------------------------------

    def temperature(self, tr: Transition, model: BeliefModel, extra: Extra) -> tuple[Tensor, Metrics]:
        """alpha, 0-d without gradient, and what to log about it."""
        return self.log_alpha.exp().detach(), {}

    @torch.no_grad()
    def td_target(self, tr: Transition, belief: Belief, alpha: Tensor) -> Tensor:
        """y (n or 1, P, B, S), float32."""
        return self.backup(tr, self.target)

    def backup(self, tr: Transition, value: nn.Module) -> Tensor:
        """c r + gamma (1 - d) V(s') (n or 1, P, B, S) for the value network given."""
        return self.rewards(tr) + self.config.gamma * (1.0 - tr.terminal) * value(tr.next_feat)

    def judge(self, states: ActorStates) -> Judged:
        """Draw an action in every row; its values have a gradient in the action only."""
        draw = self.policy.sample(states.inputs)
        return Judged(draw, self.critic(states.feat, draw.action, frozen=True), self.excess(draw))

    def excess(self, draw: Draw) -> Tensor:
        """log pi(a | s) against the uniform density, whose constant is left out; (M, B, S)."""
        return draw.log_prob

    def value_loss(self, states: ActorStates, judged: Judged, mask: Tensor, alpha: Tensor) -> Tensor:
        """E (V(s) - its target)^2, summed over the value networks."""
        targets = self.value_targets(judged, alpha).detach()  # (n or 1, M, B, S)
        target = (judged.draw.weight * targets).sum(1)
        value = self.value(states.feat)
        return len(value) * masked_mean((value - target).square(), mask)

    def value_targets(self, judged: Judged, alpha: Tensor) -> Tensor:
        """min_j Q_j(s, a) - alpha log pi(a | s) (1, M, B, S)."""
        return (judged.q.amin(0) - alpha * judged.excess)[None]

    def policy_loss(self, judged: Judged, tr: Transition, alpha: Tensor) -> Tensor:
        """E [alpha log pi(a | s) - min_j Q_j(s, a)]."""
        loss = judged.draw.mean(alpha * judged.excess - judged.q.amin(0))
        return masked_mean(loss + alpha * judged.draw.penalty, tr.mask)

    def describe(self, judged: Judged, mask: Tensor) -> Metrics:
        """What to log of the draw; nats."""
        log_pi = judged.draw.mean(judged.draw.log_prob)
        return {"policy/entropy": -masked_mean(log_pi, mask).detach()}
