"""MIRACLE's learned marginal policy against the actions that its agent takes (arXiv 1909.05950, section 4)."""

from __future__ import annotations

from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor

from worldrl.nn.functional import normal_log_prob, tanh_log_det
from worldrl.policies.marginal import LARGEST, MarginalPolicy

SAMPLES = 2_000  # draws of u for a density: a hundred times those of training, so that its bias is gone
ROWS = 256  # actions whose densities are taken at once


class Fit(NamedTuple):
    """Mean log-density of the agent's actions, nats; the higher, the better the density describes them."""

    learned: float  # under the marginal policy
    gaussian: float  # under the tanh-Gaussian with a diagonal covariance that is the best for these very actions
    uniform: float  # under the uniform density, SAC's


@torch.no_grad()
def fit(marginal: MarginalPolicy, action: Tensor) -> Fit:
    """How well each density describes actions (N, A) in [-1, 1]."""
    pre_tanh = torch.atanh(action.clamp(-LARGEST, LARGEST))
    exact = copy(marginal)
    exact.samples = SAMPLES
    learned = torch.cat([exact.log_prob(u) for u in pre_tanh.split(ROWS)])
    std, mean = torch.std_mean(pre_tanh, 0, correction=0)
    gaussian = normal_log_prob(pre_tanh, mean, std) - tanh_log_det(pre_tanh).sum(-1)
    uniform = action.shape[-1] * torch.tensor(0.5).log()
    return Fit(*(float(x.double().mean()) for x in (learned, gaussian, uniform)))
