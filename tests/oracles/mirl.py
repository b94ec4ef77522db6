"""Q-learning for choices: DQN (Mnih et al. 2015), soft Q-learning, and MIRL (Grau-Moya et al., ICLR 2019).

Whole updates of the three heads, row by row; and, on a table, what their limits are: soft and hard value iteration
under a prior, and the prior of a fixed distribution of states by Blahut and Arimoto.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.oracles.plain import ACTIVATIONS, WIDE, Learner, count, follow


class DQN(Learner):
    """The head. ``size`` is the number of actions A."""

    def __init__(self, state: Mapping[str, Tensor], config: Any, size: int, policy: Any = None) -> None:
        super().__init__(state)
        self.c, self.size = config, size
        self.part("critic", "critic", config.critic_lr, config.grad_clip, config.adam_eps)

    def q(self, name: str, feat: Tensor) -> Tensor:
        """Q(s, .), (..., A)."""
        layers, x = count(self.w, f"{name}.weights."), feat
        for i in range(layers):
            x = x @ self.w[f"{name}.weights.{i}"][0] + self.w[f"{name}.biases.{i}"][0, 0]
            x = ACTIVATIONS[self.c.activation](x) if i < layers - 1 else x
        return x

    def value(self, feat: Tensor) -> Tensor:
        """V of one state (F,), 0-d."""
        target = self.q("target", feat)
        return target[self.q("critic", feat).argmax()] if self.c.double else target.max()

    def update(self, rows: Any, belief: Any, n: int = 0, extra: Any = None) -> dict[str, Tensor]:
        self.found = {}
        feat = belief.feat.detach().to(WIDE)
        at = [(b, t) for b in range(len(feat)) for t in range(feat.shape[1] - self.c.steps)]
        errors = {(b, t): self.error(rows, feat, b, t) for b, t in at}
        kept = torch.stack([error for error in errors.values() if error is not None])
        before = [self.q("critic", feat[at]).detach() for at, error in errors.items() if error is not None]
        huber = torch.where(kept.abs() < 1, kept.square() / 2, kept.abs() - 0.5)
        self.learn("critic", huber.mean() if self.c.huber else kept.square().mean())
        self.adapt(torch.stack(before), kept.square().mean().detach(), rows, feat, extra)
        if (n + 1) % self.c.target_period == 0:
            follow(self.w, "target", "critic", 1.0)
        return self.found

    def error(self, rows: Any, feat: Tensor, b: int, t: int) -> Tensor | None:
        """Q(s, a) - y of the steps that begin in row t, or None where the next row begins another episode."""
        total, k = 0.0, 0
        while k < self.c.steps and not rows.is_first[b, t + k + 1]:
            k += 1
            total += self.c.gamma ** (k - 1) * float(rows.reward[b, t + k])
        if k == 0:
            return None
        later = 0.0 if rows.is_terminal[b, t + k] else self.c.gamma**k * self.value(feat[b, t + k]).detach()
        return self.q("critic", feat[b, t])[rows.action[b, t + 1].argmax()] - (total + later)

    def adapt(self, before: Tensor, squared: Tensor, rows: Any, feat: Tensor, extra: Any) -> None:
        pass


class SoftQ(DQN):
    """A softened maximum, at the inverse temperature beta and under the prior pi_0."""

    def log_pi(self, q: Tensor) -> Tensor:
        return torch.log_softmax(self.w["prior"].log() + self.w["beta"] * q, -1)

    def value(self, feat: Tensor) -> Tensor:
        target, beta, prior = self.q("target", feat), self.w["beta"], self.w["prior"]
        bonus = math.log(self.size) / beta if self.c.entropy_bonus else 0.0
        if not self.c.double:
            return torch.log((prior * torch.exp(beta * target)).sum()) / beta + bonus
        log_pi = self.log_pi(self.q("critic", feat))
        return (log_pi.exp() * (target - (log_pi - prior.log()) / beta)).sum() + bonus

    def adapt(self, before: Tensor, squared: Tensor, rows: Any, feat: Tensor, extra: Any) -> None:
        log_pi = self.log_pi(before).detach()  # (N, A)
        self.found["policy/entropy"] = -(log_pi.exp() * log_pi).sum(-1).mean()
        self.found["policy/information"] = (log_pi.exp() * (log_pi - self.w["prior"].log())).sum(-1).mean().detach()


def acting(rows: Any) -> Tensor:
    """(B, T) bool: every row but the last of an episode, as far as the window shows."""
    followed_by_first = torch.zeros_like(rows.is_first, dtype=torch.bool)
    for b in range(len(rows.is_first)):
        for t in range(rows.is_first.shape[1] - 1):
            followed_by_first[b, t] = bool(rows.is_first[b, t + 1])
    return (rows.is_terminal == 0) & ~followed_by_first


class MIRL(SoftQ):
    """Prior and temperature move."""

    @torch.no_grad()
    def adapt(self, before: Tensor, squared: Tensor, rows: Any, feat: Tensor, extra: Any) -> None:
        super().adapt(before, squared, rows, feat, extra)
        c, first = self.c, float(self.w["started"]) == 0
        if c.prior_rate:
            newest = extra["world"].observe(extra["recent"], 0, False).feat if "recent" in extra else feat
            acts = acting(extra.get("recent", rows))
            marginal = self.log_pi(self.q("critic", newest.to(WIDE)))[acts].exp().mean(0)
            rate = 1.0 if first else c.prior_rate
            self.w["prior"].copy_((1 - rate) * self.w["prior"] + rate * marginal)
        if c.beta_rate:
            rate = 1.0 if first else c.loss_rate
            self.w["loss"].copy_((1 - rate) * self.w["loss"] + rate * squared)
            wanted = min(max(c.beta_scale / float(self.w["loss"]), c.beta_limits[0]), c.beta_limits[1])
            self.w["beta"].copy_((1 - c.beta_rate) * self.w["beta"] + c.beta_rate * wanted)
        self.w["started"].fill_(1.0)


def stacked(frames: Tensor, firsts: Tensor, n: int) -> Tensor:
    """The last n frames (T, h, w, c) of each row's episode, oldest first, its first one repeated: (T, h, w, n c)."""
    found, begin = [], 0
    for t in range(len(frames)):
        begin = t if firsts[t] else begin
        found.append(torch.cat([frames[max(begin, t - back)] for back in range(n - 1, -1, -1)], -1))
    return torch.stack(found)


# --- tables, in NumPy -------------------------------------------------------------------------------------------------


def soft_values(
    reward: np.ndarray, move: np.ndarray, gamma: float, prior: np.ndarray, beta: float, bonus: float = 0.0
) -> np.ndarray:
    """Q (S, A) at the fixed point of r + gamma sum_s' p(s' | s, a) [log sum_a' pi_0 exp(beta Q) / beta + bonus]."""
    q = np.zeros_like(reward)
    while True:
        top = q.max(1, keepdims=True)
        value = top[:, 0] + np.log((prior * np.exp(beta * (q - top))).sum(1)) / beta + bonus
        new = reward + gamma * move @ value
        if np.abs(new - q).max() < 1e-12:
            return new
        q = new


def hard_values(reward: np.ndarray, move: np.ndarray, gamma: float) -> np.ndarray:
    """Q* (S, A)."""
    q = np.zeros_like(reward)
    for _ in range(2000):
        q = reward + gamma * move @ q.max(1)
    return q


def blahut_arimoto(q: np.ndarray, states: np.ndarray, beta: float, rounds: int = 20_000) -> np.ndarray:
    """The prior (A,) that maximises E_s log sum_a pi_0(a) exp(beta Q(s, a)) for a distribution of states (S,)."""
    prior = np.full(q.shape[1], 1.0 / q.shape[1])
    for _ in range(rounds):
        pi = prior * np.exp(beta * (q - q.max(1, keepdims=True)))
        prior = states @ (pi / pi.sum(1, keepdims=True))
    return prior
