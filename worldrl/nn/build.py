"""Networks from shapes: a vector gets a plain one, a small grid (h, w, c) one behind a convolution of its own.

A grid's features are stored flat, (..., h w c). Whoever owns or copies a network owns or copies its convolution too.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldrl.nn.mlp import MLP, ChoiceQ, ScalarMLP, TwinQ
from worldrl.types import Actions

CHANNELS, KERNEL = 16, 3  # of the convolution: those of MinAtar's networks (Young and Tian 2019, arXiv 1903.03176)


class Torso(nn.Module):
    """One convolution over a small grid, with ReLU: (..., h w c) -> (..., ``outputs``)."""

    def __init__(self, grid: tuple[int, ...]) -> None:
        super().__init__()
        height, width, channels = self.grid = grid
        self.conv = nn.Conv2d(channels, CHANNELS, KERNEL, padding=KERNEL // 2)
        self.outputs = CHANNELS * height * width

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """``frozen`` takes the parameters for constants."""
        weight, bias = self.conv.weight, self.conv.bias
        if frozen and bias is not None:
            weight, bias = weight.detach(), bias.detach()
        images = x.reshape(-1, *self.grid).permute(0, 3, 1, 2)
        return F.relu_(F.conv2d(images, weight, bias, padding=KERNEL // 2)).reshape(*x.shape[:-1], self.outputs)


class GridNet(nn.Module):
    """A network behind a torso."""

    def __init__(self, grid: tuple[int, ...], make: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.torso = Torso(grid)
        self.body = make(self.torso.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.torso(x))


class GridQ(nn.Module):
    """``n`` critics of a grid, each behind a torso of its own; called as ``TwinQ``."""

    def __init__(self, grid: tuple[int, ...], make: Callable[[int], nn.Module], n: int) -> None:
        super().__init__()
        self.torsos = nn.ModuleList(Torso(grid) for _ in range(n))
        self.critics = nn.ModuleList(make(CHANNELS * grid[0] * grid[1]) for _ in range(n))

    def forward(self, feat: Tensor, action: Tensor, frozen: bool = False, first: int | None = None) -> Tensor:
        pairs = list(zip(self.torsos, self.critics, strict=True))[:first]
        return torch.cat([critic(torso(feat, frozen), action, frozen) for torso, critic in pairs])


def network(
    shape: tuple[int, ...], units: int | tuple[int, ...], layers: int, outputs: int, activation: str = "elu"
) -> nn.Module:
    """(..., inputs) -> (..., outputs): an MLP for inputs of this shape."""
    return _behind_torso(shape, lambda inputs: MLP(inputs, units, layers, outputs, activation))


def scalar_network(shape: tuple[int, ...], units: int, layers: int, activation: str = "elu") -> nn.Module:
    """(..., inputs) -> (...) float32."""
    return _behind_torso(shape, lambda inputs: ScalarMLP(inputs, units, layers, activation))


def torso(shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """What stands before networks that need the width of their input, and that width."""
    if len(shape) == 1:
        return nn.Identity(), shape[0]
    made = Torso(shape)
    return made, made.outputs


def critic(
    shape: tuple[int, ...],
    actions: Actions,
    units: int,
    layers: int,
    activation: str = "elu",
    init: str = "default",
    n: int = 2,
    norm: bool = False,
) -> nn.Module:
    """``n`` critics, called as ``TwinQ.forward``: feat (..., F), action (..., A), ``frozen``, ``first`` -> (n, ...).

    For a choice they run once a state, whatever the number of actions, and the one-hot rows select. ``norm``: with
    layer norms, of a box only.
    """

    def make(inputs: int, copies: int = 1) -> nn.Module:
        if actions.kind == "choice":
            return ChoiceQ(inputs, actions.size, units, layers, activation, init, copies)
        return TwinQ(inputs, actions.size, units, layers, activation, init, copies, norm)

    return make(prod(shape), n) if len(shape) == 1 else GridQ(shape, make, n)


def _behind_torso(shape: tuple[int, ...], make: Callable[[int], nn.Module]) -> nn.Module:
    return make(shape[0]) if len(shape) == 1 else GridNet(shape, make)
