"""Noise for each row of a batch: the draws of one row do not depend on the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from worldrl.types import Noise


class RowNoise(Noise):
    """Every row of a batch has its own generator on the host, so its noise is the same on every device.

    There must be as many rows as generators.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = generators

    def normal(self, shape: Sequence[int], rows: int, like: Tensor) -> Tensor:
        return self._draw(torch.randn, shape, rows, like)

    def uniform(self, shape: Sequence[int], rows: int, like: Tensor) -> Tensor:
        return self._draw(torch.rand, shape, rows, like)

    def _draw(self, draw: Callable[..., Tensor], shape: Sequence[int], rows: int, like: Tensor) -> Tensor:
        one = list(shape)
        n = one.pop(rows)
        if n != len(self.generators):
            raise ValueError(f"noise of shape {tuple(shape)} has {n} rows, expected {len(self.generators)}")
        return torch.stack([draw(one, generator=g) for g in self.generators], rows % len(shape)).to(like.device)
