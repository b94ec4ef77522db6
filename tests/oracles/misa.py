"""MISA (Ma et al., NeurIPS 2023, arXiv 2210.07484): whole updates, its sampler, and theorem 4.1 on finite processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.oracles.cql import CQL, Choices, uniform
from tests.oracles.plain import Pairs, critics, follow, noise, pairs

Array = NDArray[np.float64]


# --- finite processes -------------------------------------------------------------------------------------------------


def information(joint: Array) -> float:
    """I(S; A) = sum p(s, a) log p(s, a) / p(s) p(a)."""
    return float((joint * np.log(joint / np.outer(joint.sum(1), joint.sum(0)))).sum())


def bounds(joint: Array, policy: Array, energy: Array) -> dict[str, float]:
    """Equations 7 to 10 as they are printed."""
    ba = float((joint * np.log(policy / joint.sum(0))).sum())
    reached = ba + float((joint * energy).sum())
    product = joint.sum(1, keepdims=True) * policy  # p(s) pi(a | s)
    z = (policy * np.exp(energy)).sum(1)
    return {
        "ba": ba,
        "f": reached - float((product * np.exp(energy - 1)).sum()),
        "dv": reached - math.log((product * np.exp(energy)).sum()),
        "misa": reached - float((joint.sum(1) * np.log(z)).sum()),
    }


def gaps(joint: Array, policy: Array, energy: Array) -> dict[str, float]:
    """What separates I from MISA, MISA from DV and DV from f, each a divergence or a convex function's remainder."""
    p = joint.sum(1)
    z = (policy * np.exp(energy)).sum(1)
    improved, mean = policy * np.exp(energy) / z[:, None], float((p * z).sum())
    return {
        "misa": float((joint * np.log(joint / p[:, None] / improved)).sum()),
        "dv": float((p * np.log(p / (p * z / mean))).sum()),
        "f": mean / math.e - 1 - math.log(mean / math.e),
    }


# --- the sampler ------------------------------------------------------------------------------------------------------


def hamiltonian(
    log_density: Callable[[Tensor], Tensor], x: Tensor, step: float, momenta: Tensor, uniforms: Tensor, leapfrogs: int
) -> tuple[Tensor, Tensor]:
    """The last states, and the mean probability of acceptance of each chain."""

    def slope(at: Tensor) -> Tensor:
        at = at.detach().requires_grad_()
        return torch.autograd.grad(log_density(at).sum(), at)[0]

    chances = []
    for p, u in zip(momenta, uniforms, strict=True):
        new, q = x.clone(), p.clone()
        for _ in range(leapfrogs):
            q = q + step / 2 * slope(new)
            new = new + step * q
            q = q + step / 2 * slope(new)
        energy = [-log_density(at).detach() + at_p.square().sum(-1) / 2 for at, at_p in ((x, p), (new, q))]
        chance = torch.exp(energy[0] - energy[1]).clamp(max=1.0)
        x = torch.where((u < chance)[..., None], new, x)
        chances.append(chance)
    return x, torch.stack(chances).mean(0)


# --- whole updates ----------------------------------------------------------------------------------------------------

TERMS = {  # which N, cloning, correction
    "misa": ("misa", 1, 1),
    "dv": ("dv", 1, 1),
    "f": ("f", 1, 1),
    "ba": (None, 1, 0),
    "no_ba": ("misa", 0, 1),
    "biased": ("misa", 1, 0),
    "t": ("misa", 1, 1),
}


class MISA(CQL):
    """Table 1's variants."""

    def __init__(self, state: Mapping[str, Tensor], config: Any, size: int, policy: Any = None) -> None:
        super().__init__(state, config, size, policy)
        self.bound, self.cloning, self.correction = TERMS[config.variant]
        self.step = min(1.0, (6 / size) ** 0.25)
        self.longest = self.step
        if config.variant == "t":
            self.part("energy", "energy", config.critic_lr, config.grad_clip)
            if not isinstance(self, Choices):  # a constant changes nothing
                adam = self.adams["energy"]
                for each in (adam.params, adam.first, adam.second):
                    each.pop()

    def update(self, rows: Any, belief: Any, n: int = 0, beside: Any = None) -> dict[str, Tensor]:
        self.found = {}
        c, tr = self.c, pairs(rows, belief)
        for name in {"actor", "critic", "energy"} & set(self.adams) if c.decay_updates else ():
            rate = c.actor_lr if name == "actor" else c.critic_lr
            self.adams[name].lr = rate * 0.5 * (1 + math.cos(math.pi * min(n / c.decay_updates, 1)))
        alpha = self.w["log_alpha"].detach().exp()
        y = self.td_target(tr, alpha if c.backup_entropy else 0.0 * alpha).detach()
        values = weights = raw = None
        if self.bound:
            raw, action, weights = self.draws(tr)
            name = "energy" if c.variant == "t" else "critic"
            values = self.q(name, tr.feat, action).min(0).values.detach()
        if self.bound and c.variant != "t":
            self.learn_critic(tr, y, action, 1.0 / (len(weights) * weights))
        else:
            self.learn("critic", self.critic_loss(tr, y))
        if c.variant == "t":
            self.learn("energy", self.gap_of("energy", tr, 0, action, weights))
        loss, log_pi = self.actor_loss(tr, c.entropy_weight * alpha)
        cloned = tr.mean(self.log_prob(tr, self.raw(tr.action)))
        self.found["policy/log_prob"] = cloned.detach()
        loss = loss - self.cloning * c.bc_weight * cloned
        if self.correction:
            at, weight = self.tilted(tr, raw, weights, values)
            loss = loss + c.correction_weight * tr.mean((weight * self.log_prob(tr, at)).sum(0))
        self.learn_actor(tr, alpha, loss, log_pi)
        follow(self.w, "target", "critic", c.tau)
        return self.found

    def gap(self, tr: Pairs, j: int, q: Tensor, density: Tensor) -> Tensor:
        weights = 1.0 / (len(q) * density)
        return self.spent(tr, (weights * q.exp()).sum(0)) - tr.mean(self.q("critic", tr.feat, tr.action)[j])

    def gap_of(self, name: str, tr: Pairs, j: int, action: Tensor, weights: Tensor) -> Tensor:
        z = (weights * self.q(name, tr.feat, action)[j].exp()).sum(0)
        return self.spent(tr, z) - tr.mean(self.q(name, tr.feat, tr.action)[j])

    def spent(self, tr: Pairs, z: Tensor) -> Tensor:
        """N of Z(s)."""
        return {"misa": tr.mean(z.log()), "dv": tr.mean(z).log(), "f": tr.mean(z) / math.e}[self.bound]

    def draws(self, tr: Pairs) -> tuple[Tensor, Tensor, Tensor]:
        """k draws before tanh, as actions, and their weights."""
        mean, std = self.policy.stats(tr.feat)
        u = (mean + std * noise(self.c.samples, *mean.shape)).detach()
        return u, torch.tanh(u), torch.full(u.shape[:-1], 1 / self.c.samples, dtype=u.dtype)

    def raw(self, action: Tensor) -> Tensor:
        return torch.atanh(action.clamp(-0.999, 0.999))

    def log_prob(self, tr: Pairs, raw: Tensor) -> Tensor:
        return self.policy.log_prob(raw, tr.feat)

    def tilted(self, tr: Pairs, raw: Tensor, weights: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Where the correction's log pi is taken, and with which weights."""
        z = (weights * values.exp()).sum(0)
        slope = {"misa": torch.ones_like(z), "dv": z / tr.mean(z), "f": z / math.e}[self.bound]
        if self.c.sampler == "snis" or not self.draws_are_equal:
            return raw, slope * weights * values.exp() / z
        mean, std = (x.detach() for x in self.policy.stats(tr.feat))
        start = noise(1, *mean.shape)
        momenta, uniforms = noise(self.c.burn_in, *start.shape), uniform(self.c.burn_in, *start.shape[:-1])

        def log_density(e: Tensor) -> Tensor:
            value = critics(self.w, self.judge, tr.feat, torch.tanh(mean + std * e), self.c.activation).min(0).values
            return value - e.square().sum(-1) / 2

        end, chance = hamiltonian(log_density, start, self.step, momenta, uniforms, self.c.leapfrogs)
        acceptance = tr.mean(chance)
        self.found["sampler/acceptance"], self.found["sampler/step"] = acceptance, torch.tensor(self.step)
        step = self.step * math.exp(0.05 * (float(acceptance) - self.c.acceptance))
        self.step = min(max(step, 0.03 * self.longest), self.longest)
        return mean + std * end, slope[None]

    draws_are_equal = True

    @property
    def judge(self) -> str:
        return "energy" if self.c.variant == "t" else "critic"


class DiscreteMISA(Choices, MISA):
    """Sums over all actions."""

    draws_are_equal = False

    def draws(self, tr: Pairs) -> tuple[Tensor, Tensor, Tensor]:
        draw = self.policy.sample(tr.feat)
        return draw.action, draw.action, draw.weight.detach()

    def raw(self, action: Tensor) -> Tensor:
        return action

    def log_prob(self, tr: Pairs, raw: Tensor) -> Tensor:
        return (raw * self.policy.log_pi(tr.feat)).sum(-1)
