"""TD3+BC (Fujimoto and Gu, NeurIPS 2021, arXiv 2106.06860): TD3 on data, with a cloning term in the actor's loss.

    L_mu   = -lambda E Q_1(s, mu(s)) + E |mu(s) - a|^2 / A      a is the data's action, A its dimension
    lambda = alpha / E |Q_1(s, mu(s))|                          without gradient: the scale of Q does not matter

Critics, delays and smoothed target actions are those of TD3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from worldrl.fields import NotNegative
from worldrl.heads.td3 import TD3
from worldrl.heads.transitions import Transition
from worldrl.nn.functional import masked_mean

TINY_Q = 1e-8  # of mean |Q|; below it lambda does not grow


class TD3BC(TD3):
    """The head of TD3+BC. Defaults are the authors' own settings."""

    @dataclass(frozen=True)
    class Config(TD3.Config):
        alpha: NotNegative = 2.5  # weight of Q against cloning; 0: cloning only

    config: TD3BC.Config
    compiled: ClassVar[tuple[str, ...]] = ("td_target", "critic_loss", "actor_loss")

    def actor_loss(self, tr: Transition) -> Tensor:
        """-lambda E Q_1(s, mu(s)) + the squared distance from the data's actions, its mean over A as in the program."""
        action = self.policy.mode(tr.feat)  # (1, B, S, A)
        q = self.critic(tr.feat, action, frozen=True, first=1)[0]
        cloning = masked_mean((action - tr.action).square().mean(-1), tr.mask)
        return cloning - masked_mean(self.config.alpha * scaled(q, tr.mask), tr.mask)


def scaled(q: Tensor, mask: Tensor) -> Tensor:
    """Q (..., B, S) divided by its own mean size, a constant: E |.| is one."""
    return q / masked_mean(q.detach().abs(), mask).clamp(min=TINY_Q)
