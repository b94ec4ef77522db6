"""Rows that mark their lost entries (``types.SEEN``), for the beliefs that impute them."""

from __future__ import annotations

import torch
from torch import Tensor

from worldrl.types import SEEN, Obs


def tells(obs: Obs) -> bool:
    """Whether the rows mark their lost entries."""
    return any(key.startswith(SEEN) for key in obs)


def impute(obs: Obs, predicted: Obs) -> Obs:
    """The observations (B, ...) with ``predicted`` values in place of lost ones; a key without a mask is all there."""
    return {
        key: torch.where(obs[SEEN + key], obs[key], value) if SEEN + key in obs else obs[key]
        for key, value in predicted.items()
    }


def is_dark(obs: Obs) -> Tensor:
    """(B,) bool: the rows without a single reading."""
    keys = [key for key in obs if not key.startswith(SEEN)]
    masks = [obs[SEEN + key] if SEEN + key in obs else torch.ones_like(obs[key], dtype=torch.bool) for key in keys]
    return ~torch.stack([mask.flatten(1).any(1) for mask in masks]).any(0)
