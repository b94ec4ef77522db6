"""Lower bounds on the mutual information I(S; A) of states and actions (MISA, Ma et al., NeurIPS 2023, section 4.2).

A policy pi and an energy T(s, a) bound it, with log Z(s) = log E_{a ~ pi(. | s)} exp T(s, a):

    I_BA   = E_p(s,a) log pi(a | s) / p(a)                                          Barber and Agakov
    I_X    = I_BA + E_p(s,a) T(s, a) - N_X
    N_MISA = E_s log Z(s),   N_DV = log E_s Z(s),   N_f = E_s Z(s) / e              eqs. 10, 9, 8

I >= I_MISA >= I_DV >= I_f for every T (theorem 4.1). I_BA is below I_f only for the best T.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LIMIT = 20.0  # beyond it the exponential of N_f continues as its tangent, because exp(89) overflows float32
NOTHING = -1e4  # the log of a weight of zero: finite, which keeps gradients finite


class Bounds(NamedTuple):
    """The mutual information and its four bounds, 0-d, nats."""

    information: Tensor
    misa: Tensor
    dv: Tensor
    f: Tensor
    ba: Tensor


class Normaliser(NamedTuple):
    """N_X from log Z(s) (...) and the weights p(s) (...) of the states, which sum to one, or to zero if none counts."""

    value: Callable[[Tensor, Tensor], Tensor]  # 0-d
    slope: Callable[[Tensor, Tensor], Tensor]  # (...): its derivative by log Z(s), over p(s)


def log_partition(energy: Tensor, log_weight: Tensor, dim: int = 0) -> Tensor:
    """log sum_m w_m exp T_m over ``dim``: log Z(s) of draws with these weights, log-mean-exp where they are equal."""
    return torch.logsumexp(energy + log_weight, dim)


def mean_of_logs(log_z: Tensor, p: Tensor) -> Tensor:
    """N_MISA."""
    return (p * log_z).sum()


def log_of_mean(log_z: Tensor, p: Tensor) -> Tensor:
    """N_DV."""
    log_p = torch.where(p > 0, p.clamp(min=torch.finfo(p.dtype).tiny).log(), NOTHING)
    return p.sum() * torch.logsumexp((log_z + log_p).flatten(), 0)  # the sum is one, or zero where no state counts


def mean_of_exponentials(log_z: Tensor, p: Tensor) -> Tensor:
    """N_f, where no log Z(s) is above ``LIMIT``."""
    return (p * exp_or_tangent(log_z - 1.0)).sum()


def exp_or_tangent(x: Tensor) -> Tensor:
    """exp(x), and its tangent at ``LIMIT`` beyond it."""
    return torch.where(x < LIMIT, x.clamp(max=LIMIT).exp(), math.exp(LIMIT) * (1.0 + x - LIMIT))


NORMALISERS = {
    "misa": Normaliser(mean_of_logs, lambda log_z, p: torch.ones_like(log_z)),
    "dv": Normaliser(log_of_mean, lambda log_z, p: torch.where(p > 0, log_z - log_of_mean(log_z, p), NOTHING).exp()),
    "f": Normaliser(mean_of_exponentials, lambda log_z, p: (log_z - 1.0).clamp(max=LIMIT).exp()),
}


def bounds(joint: Tensor, policy: Tensor, energy: Tensor) -> Bounds:
    """I(S; A) of a finite joint distribution p(s, a), and its bounds by a policy and an energy; all (S, A).

    Entries of ``joint`` and ``policy`` are above zero.
    """
    p = joint.sum(1)
    log_z = log_partition(energy, policy.log(), dim=1)
    ba = barber_agakov(joint, policy)
    reached = ba + (joint * energy).sum()
    lower = {name: reached - normaliser.value(log_z, p) for name, normaliser in NORMALISERS.items()}
    return Bounds(barber_agakov(joint, joint / p[:, None]), **lower, ba=ba)


def barber_agakov(joint: Tensor, policy: Tensor) -> Tensor:
    """I_BA of a finite p(s, a) (S, A): E log pi(a | s) / p(a). With the true p(a | s) it is I(S; A)."""
    return (joint * (policy.log() - joint.sum(0).log())).sum()
