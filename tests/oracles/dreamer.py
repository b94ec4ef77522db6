"""Dreamer (Hafner et al., ICLR 2020, arXiv 1912.01603): returns and losses of dreams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.oracles.plain import WIDE, Learner, mlp
from tests.oracles.policies import TanhGaussian


def mixed_return(reward: Tensor, discount: Tensor, next_value: Tensor, lam: float, t: int) -> Tensor:
    """Eq. 6: the average of all n-step returns from ``t``, the longest with the weight that is left."""
    steps = len(reward) - t
    total = torch.zeros_like(reward[0])
    for n in range(1, steps + 1):
        value, alive = torch.zeros_like(total), torch.ones_like(total)
        for k in range(t, t + n):
            value = value + alive * reward[k]
            alive = alive * discount[k]
        value = value + alive * next_value[t + n - 1]
        total = total + (lam ** (steps - 1) if n == steps else (1 - lam) * lam ** (n - 1)) * value
    return total


class Form(NamedTuple):
    """Which states have a return, whose reward is its first, and the state that the last one bootstraps from."""

    first: int
    last: int
    reward: int  # rows after the state's own
    bootstrap: int


def form(name: str, horizon: int) -> Form:
    return {
        "tf2": Form(1, horizon - 1, 0, horizon),
        "tf1": Form(1, horizon - 1, 0, horizon - 1),
        "pytorch": Form(0, horizon - 1, 1, horizon),
    }[name]


class Dreamer(Learner):
    """The head; it dreams in ``beside["world"]``."""

    def __init__(self, state: Mapping[str, Tensor], config: Any, size: int, policy: Any = None) -> None:
        super().__init__(state)
        self.c = config
        self.policy = TanhGaussian(self.w, "policy", config.activation, "softplus", config.init_std)
        self.part("actor", "policy", config.actor_lr, config.grad_clip, config.adam_eps)
        self.part("value", "value", config.value_lr, config.grad_clip, config.adam_eps)

    def value(self, feat: Tensor) -> Tensor:
        return mlp(self.w, "value", feat, self.c.activation)[..., 0]

    def update(self, rows: Any, belief: Any, n: int = 0, beside: Any = None) -> dict[str, Tensor]:
        """Both losses from the same weights, then both steps. A row that ends its episode starts no dream."""
        self.found = {}
        log_pi = []

        def actor(feat: Tensor) -> Tensor:
            action, log = self.acts(feat.detach())
            log_pi.append(log)
            taken.append((feat.detach(), action.detach()))
            return action

        taken: list[tuple[Tensor, Tensor]] = []
        start = belief.feat.detach().to(WIDE).flatten(0, -2)
        feat, reward, goes_on = beside["world"].imagine(start, actor, self.c.horizon)
        alive = 1.0 - rows.is_terminal.to(WIDE).flatten()
        self.taken = taken
        actor_loss, value_loss, entropy = self.losses(feat, reward, self.c.gamma * goes_on, alive, torch.stack(log_pi))
        self.learn("actor", actor_loss - self.c.entropy_scale * entropy, keep=True)
        self.learn("value", value_loss)
        return self.found

    def acts(self, feat: Tensor) -> tuple[Tensor, Tensor]:
        """An action, and log pi of it."""
        draw = self.policy.sample(feat)
        return draw.action[0], draw.log_pi[0]

    def actor_terms(self, returns: Tensor, own: Tensor, first: int) -> Tensor:
        """What the weighted mean of the actor's loss is of."""
        return returns

    def losses(
        self, feat: Tensor, reward: Tensor, discount: Tensor, alive: Tensor, log_pi: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Eqs. 7 and 8, and the entropy along the dream; feat (H + 1, N, F), the others (H + 1, N) and (H, N)."""
        f = form(self.c.returns, self.c.horizon)
        value, states = self.value(feat), range(f.first, f.last + 1)
        rewards = torch.stack([reward[t + f.reward] for t in states])
        discounts = torch.stack([discount[t + f.reward] for t in states])
        after = torch.stack([value[f.bootstrap if t == f.last else t + 1] for t in states])
        returns = torch.stack([mixed_return(rewards, discounts, after, self.c.lam, i) for i in range(len(states))])
        weight = self.weights(discounts, alive)
        own = self.value(feat.detach())[f.first : f.last + 1]
        actor = -(weight * self.actor_terms(returns, own, f.first)).mean()
        critic = 0.5 * (weight * (own - returns.detach()).square()).mean()
        return actor, critic, -(self.weights(discount[1:], alive) * log_pi).mean()

    @staticmethod
    def weights(discount: Tensor, alive: Tensor) -> Tensor:
        """w_t: what is alive at the start, times the discounts before t; a constant."""
        found = [alive]
        for one in discount[:-1]:
            found.append(found[-1] * one)
        return torch.stack(found).detach()


class DiscreteDreamer(Dreamer):
    """For choices: straight-through as if the mean action had been taken, or the score function (arXiv 2010.02193)."""

    def log_probs(self, feat: Tensor) -> Tensor:
        return torch.log_softmax(mlp(self.w, "policy.net", feat, self.c.activation), -1)

    def acts(self, feat: Tensor) -> tuple[Tensor, Tensor]:
        """The first action whose cumulated probability is above a uniform number, and -H(pi)."""
        log_pi = self.log_probs(feat)
        pi = log_pi.exp()
        u = torch.rand(feat.shape[:-1]).to(WIDE)
        index = (pi.cumsum(-1) <= u[..., None]).sum(-1).clamp(max=pi.shape[-1] - 1)
        drawn = torch.eye(pi.shape[-1], dtype=WIDE)[index]
        return drawn + pi - pi.detach(), (pi * log_pi).sum(-1)

    def actor_terms(self, returns: Tensor, own: Tensor, first: int) -> Tensor:
        if self.c.actor_gradient == "dynamics":
            return returns
        scores = [(self.log_probs(feat) * action).sum(-1) for feat, action in self.taken[first : first + len(returns)]]
        return torch.stack(scores) * (returns - own).detach()
