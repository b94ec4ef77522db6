"""MIRACLE's learned marginal policy compared with the agent's actions (arXiv 1909.05950, section 4)."""

from __future__ import annotations

import math
from copy import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldrl.nn.functional import normal_log_prob, tanh_log_det
from worldrl.policies.action_prior import LARGEST, MarginalPolicy

SAMPLES = 2_000  # draws of u for a density: a hundred times those of training, so its bias is negligible
ROWS = 256  # actions whose densities are computed at once


class Fit(NamedTuple):
    """Mean log-density of the agent's actions, nats; the higher, the better the density describes them."""

    empirical: float  # minus their entropy by nearest neighbours: an estimate for the best density
    learned: float  # under the marginal policy
    gaussian: float  # under the tanh-Gaussian with a diagonal covariance that is fitted to these actions
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
    empirical = -sample_entropy(pre_tanh) - float(tanh_log_det(pre_tanh).sum(-1).double().mean())
    return Fit(empirical, *(float(x.double().mean()) for x in (learned, gaussian, uniform)))


def sample_entropy(x: Tensor, k: int = 5) -> float:
    """Differential entropy of a sample (N, D), nats, from the distances to k-th neighbours.

    The estimator of Kozachenko and Leonenko (1987). It assumes a constant density around each point, so it needs many
    points in many dimensions. NaN for fewer than two.
    """
    from scipy.spatial import cKDTree
    from scipy.special import digamma

    points = x.double().cpu().numpy()
    n, dim = points.shape
    if n < 2:
        return math.nan
    k = min(k, n - 1)
    distances = cKDTree(points).query(points, k + 1)[0][:, -1]  # the first neighbour is the point itself
    unit_ball = 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim + 1)
    logs = np.log(np.maximum(distances, np.finfo(np.float32).eps))  # actions are float32: some are equal
    return float(digamma(n) - digamma(k) + unit_ball + dim * logs.mean())
