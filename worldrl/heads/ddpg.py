"""DDPG (Lillicrap et al., ICLR 2016, arXiv 1509.02971): TD3 with one critic, without delay or smoothing.

The defaults are the settings that the authors of TD3 re-tuned. The original ones are ``experiment=paper_ddpg``; their
networks, ``networks=original``, have hidden layers of 400 and 300 units and a critic whose second layer takes the
action.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldrl.errors import wrong
from worldrl.fields import NotNegative, Range, Samples
from worldrl.heads.td3 import TD3
from worldrl.heads.transitions import Transition
from worldrl.policies.deterministic import Deterministic
from worldrl.types import Sizes

ORIGINAL_UNITS = (400, 300)


class LateActionQ(nn.Module):
    """Q(s, a) whose second layer takes the action; 400 and 300 ReLUs."""

    def __init__(self, feat_dim: int, action_dim: int) -> None:
        super().__init__()
        first, second = ORIGINAL_UNITS
        self.first = nn.Linear(feat_dim, first)
        self.second = nn.Linear(first + action_dim, second)
        self.last = nn.Linear(second, 1)

    def forward(self, feat: Tensor, action: Tensor, frozen: bool = False, first: int | None = None) -> Tensor:
        """feat (..., F), action (..., A) -> (1, ...) float32, the signature of ``TwinQ`` with a single critic."""
        x = F.relu(apply(self.first, feat, frozen))
        x = F.relu(apply(self.second, torch.cat([x, action], -1), frozen))
        with torch.autocast(x.device.type, enabled=False):  # the last layer is float32, as in all critics here
            return apply(self.last, x.float(), frozen).squeeze(-1)[None]


def apply(layer: nn.Linear, x: Tensor, frozen: bool) -> Tensor:
    """The layer; ``frozen`` makes its parameters constants."""
    return F.linear(x, layer.weight.detach(), layer.bias.detach()) if frozen else layer(x)


class DDPG(TD3):
    """The head of DDPG."""

    @dataclass(frozen=True)
    class Config(TD3.Config):
        critics: Annotated[int, Range(1, 100)] = 1
        policy_delay: Samples = 1
        target_noise: NotNegative = 0.0
        critic_l2: NotNegative = 0.0  # weight decay as a gradient: half of it times the squared norm is in the loss
        networks: Literal["plain", "original"] = "plain"  # original: 400 and 300 ReLUs; units and layers are ignored

        def __post_init__(self) -> None:
            if self.networks == "original" and self.critics != 1:
                raise wrong("head.critics", self.critics, "1 with head.networks=original")

    config: DDPG.Config

    def networks(self, sizes: Sizes) -> tuple[Deterministic, nn.Module]:
        if self.config.networks == "plain":
            return super().networks(sizes)
        policy = Deterministic(sizes.feat, sizes.actions, ORIGINAL_UNITS, 2, "relu")
        return policy, LateActionQ(prod(sizes.feat), sizes.actions.size)

    def critic_loss(self, tr: Transition, y: Tensor) -> tuple[Tensor, Tensor]:
        """TD3's, with the L2 term; also the mean Q for the log."""
        loss, q = super().critic_loss(tr, y)
        if self.config.critic_l2 > 0:
            loss = loss + 0.5 * self.config.critic_l2 * sum(p.square().sum() for p in self.critic.parameters())
        return loss, q
