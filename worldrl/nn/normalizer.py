"""Observations in standard units, for beliefs that learn from data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldrl.types import EnvSpec, Obs

LEAST = 1e-3  # added to each deviation, as in TD3+BC


class Normalizer(nn.Module):
    """Maps every vector of an observation to mean 0 and standard deviation 1 over a data set; images are unchanged.

    Mean and deviation (D,) are buffers, saved and exported with an agent. Until ``fit`` nothing changes.
    """

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        self.keys = [key for key, obs in spec.obs.items() if obs.dtype != "uint8"]
        for key in self.keys:
            self.register_buffer(f"mean_{key}", torch.zeros(spec.obs[key].shape))
            self.register_buffer(f"std_{key}", torch.ones(spec.obs[key].shape))

    @torch.no_grad()
    def fit(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Take mean and deviation from columns (rows, D) by key, in float64."""
        for key in self.keys:
            values = columns[key]
            mean, std = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
            self._mean(key).copy_(torch.from_numpy(np.asarray(mean)))
            self._std(key).copy_(torch.from_numpy(np.asarray(std + LEAST)))

    def forward(self, obs: Obs) -> Obs:
        return {key: self._scaled(key, value) if key in self.keys else value for key, value in obs.items()}

    def inverse(self, obs: Obs) -> Obs:
        """The inverse: observations in the units of the environment."""
        return {
            key: value * self._std(key) + self._mean(key) if key in self.keys else value for key, value in obs.items()
        }

    def _scaled(self, key: str, value: Tensor) -> Tensor:
        return (value - self._mean(key)) / self._std(key)

    def _mean(self, key: str) -> Tensor:
        return self.get_buffer(f"mean_{key}")

    def _std(self, key: str) -> Tensor:
        return self.get_buffer(f"std_{key}")
