"""Behavioural cloning on any belief: imitate the actions of the data.

L_mu = E |mu(s) - a|^2 / A         the default in a box: a deterministic policy mu = tanh f, A numbers in an action
L_pi = -E log pi(a | s)            with ``loss=likelihood``, and always for a choice, where it is the cross entropy
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from worldrl.fields import Layers, NotNegative, Rate, Width
from worldrl.heads.fitted import Fitted, fitted_policy
from worldrl.heads.transitions import Transition, transitions
from worldrl.nn.functional import masked_mean
from worldrl.nn.optim import Optimizer
from worldrl.policies.deterministic import Deterministic
from worldrl.types import Batch, Belief, BeliefModel, Extra, Metrics, Needs, Policy, Sizes


class BC(Fitted):
    """The head of behavioural cloning."""

    @dataclass(frozen=True)
    class Config:
        units: Width = 256
        actor_layers: Layers = 2
        activation: Literal["elu", "relu", "silu", "tanh"] = "relu"
        loss: Literal["mse", "likelihood"] = "mse"  # of actions in a box
        actor_lr: Rate = 3e-4
        grad_clip: NotNegative = 0.0

    config: BC.Config
    tiny: ClassVar[dict[str, Any]] = {"units": 8, "actor_layers": 1}
    compiled: ClassVar[tuple[str, ...]] = ("actor_loss",)

    def __init__(self, config: BC.Config, sizes: Sizes) -> None:
        super().__init__()
        c = self.config = config
        self.actions = sizes.actions
        self.squared = c.loss == "mse" and sizes.actions.kind == "box"
        make = Deterministic if self.squared else fitted_policy(sizes.actions)
        self.policy: Policy = make(sizes.feat, sizes.actions, c.units, c.actor_layers, c.activation)
        self.needs = Needs(action_noise=self.squared, actions=self.policy.actions)
        self.optimizers = {"actor": Optimizer(self.policy.parameters(), c.actor_lr, c.grad_clip)}

    def update(
        self, phase: str, batch: Batch, belief: Belief, model: BeliefModel, extra: Extra | None = None
    ) -> Metrics:
        """One step on the policy."""
        loss = self.actor_loss(transitions(batch, belief.feat[None]))
        norm = self.optimizers["actor"].step(loss)
        return {"loss/actor": loss.detach(), "opt/actor/grad_norm": norm}

    def actor_loss(self, tr: Transition) -> Tensor:
        """The mean squared distance from the data's actions, or their mean -log pi."""
        if not self.squared:
            return self.fit_loss(tr)
        return masked_mean((self.policy.mode(tr.feat) - tr.action).square().mean(-1), tr.mask)
