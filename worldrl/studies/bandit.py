"""A one-step task with four best actions: which policies find all of them? (SMAC, appendix B.1, figure 7)

The paper gives no geometry. Here actions are two-dimensional, the reward is the log-density of four equal Gaussians,
and the temperature is one, so the best policy is this mixture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from worldrl.nn.functional import LOG_SQRT_2PI
from worldrl.policies.tanh_gaussian import TanhGaussian
from worldrl.registry import OWN_POLICY, known_parts, load_class, settings_of
from worldrl.types import Policy, box

CENTRES = ((-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5))
STD = 0.15
NEAR = 2 * STD  # an action this near to a centre belongs to its mode; of uniform actions 0.07 belong to each mode
LEAST = 0.1  # the share of all actions that a mode needs to count as found


def reward(action: Tensor) -> Tensor:
    """(..., 2) -> (...): the log-density of four equal Gaussians."""
    squares = (action[..., None, :] - action.new_tensor(CENTRES)).square().sum(-1)
    log_norm = math.log(4) + 2 * (math.log(STD) + LOG_SQRT_2PI)
    return torch.logsumexp(-0.5 * squares / STD**2, -1) - log_norm


def masses(action: Tensor) -> Tensor:
    """(N, 2) -> (4,): the share of actions near each centre."""
    distances = torch.linalg.vector_norm(action[:, None] - action.new_tensor(CENTRES), dim=-1)
    return (distances < NEAR).float().mean(0)


def modes_found(action: Tensor) -> int:
    """How many of the four modes have a tenth of the actions (N, 2) or more."""
    return int((masses(action) >= LEAST).sum())


def make_policy(name: str, units: int = 32, **settings: Any) -> Policy:
    """A small policy of two ReLU layers for the bandit's only state; ``own`` is SAC's tanh-Gaussian."""
    if name == OWN_POLICY:
        return TanhGaussian((1,), box(2), units, 2, "relu", std="log")
    config = settings_of("policy", {"name": name, **settings})
    policy: Policy = load_class("policy", name)(config, (1,), box(2), units, 2, "relu")
    return policy


def policies() -> list[str]:
    """The package's policies of a box of actions."""
    return [name for name in known_parts("policy") if takes_box(name)]


def takes_box(name: str) -> bool:
    """Whether a policy is one of a box of actions. Raises UserError if there is none of this name."""
    return name == OWN_POLICY or "box" in load_class("policy", name).actions


def state(batch: int) -> Tensor:
    """The one state, ``batch`` times: (batch, 1)."""
    return torch.ones(batch, 1)


def train(policy: Policy, steps: int, batch: int = 64, lr: float = 3e-3) -> Iterator[float]:
    """Minimise E[log pi(a) - r(a)], SAC's actor loss at temperature one, with the true reward for the critic.

    Yields:
        after each step, the policy's own estimate of its entropy in it.
    """
    adam = torch.optim.Adam(policy.parameters(), lr=lr)
    x = state(batch)
    for _ in range(steps):
        draw = policy.sample(x)
        log_prob = draw.weight * draw.log_prob  # (M, B)
        loss = (log_prob - draw.weight * reward(draw.action)).sum(0) + draw.penalty
        adam.zero_grad()
        loss.mean().backward()
        adam.step()
        yield -float(log_prob.detach().sum(0).mean())


@torch.no_grad()
def actions(policy: Policy, n: int) -> Tensor:
    """``n`` actions (n, 2)."""
    return policy.sample(state(n)).one()


def trained(name: str, seed: int, steps: int, **settings: Any) -> Policy:
    """A policy of this name and seed after ``steps`` steps."""
    torch.manual_seed(seed)
    policy = make_policy(name, **settings)
    for _ in train(policy, steps):
        pass
    return policy
