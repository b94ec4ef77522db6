"""Rows that mark their lost entries (``types.SEEN``), for the beliefs that impute them."""

from __future__ import annotations

import torch
from torch import Tensor

from worldrl.types import SEEN, Obs


def tells(obs: Obs) -> bool:
    """Whether the rows mark their lost entries."""
    return any(key.startswith(SEEN) for key in obs)


def impute(obs: Obs, predicted: Obs) -> Obs:
    """The observations (B, ...) with ``predicted`` values in place of lost ones."""
    return {key: torch.where(obs[SEEN + key], obs[key], value) for key, value in predicted.items()}


def is_dark(obs: Obs) -> Tensor:
    """(B,) bool: the rows without a single reading."""
    seen = [mask.flatten(1).any(1) for key, mask in obs.items() if key.startswith(SEEN)]
    return ~torch.stack(seen).any(0)
