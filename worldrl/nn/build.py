"""Networks from shapes: an MLP for a vector, convolutions and an MLP for a grid (h, w, c).

A grid's features are stored flat, (..., h w c). A network owns its convolution, so copies of it include a copy of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldrl.nn.mlp import MLP, ChoiceQ, ScalarMLP, TwinQ
from worldrl.types import SCREEN_SIDES, Actions


class Conv(NamedTuple):
    """A layer of a torso."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0

    def size(self, n: int) -> int:
        """The output size for a side of ``n`` cells."""
        return (n + 2 * self.padding - self.kernel) // self.stride + 1


BOARD = (Conv(16, 3, padding=1),)  # of MinAtar's networks (Young and Tian 2019, arXiv 1903.03176)
SCREEN = (Conv(32, 8, 4), Conv(64, 4, 2), Conv(64, 3))  # of Atari's (Mnih et al. 2015, doi 10.1038/nature14236)


class Torso(nn.Module):
    """Convolutions over a grid, each with ReLU: (..., h w c) -> (..., ``outputs``)."""

    def __init__(self, grid: tuple[int, ...]) -> None:
        super().__init__()
        *sides, channels = self.grid = grid
        self.convs = nn.ModuleList()
        for layer in SCREEN if min(sides) >= SCREEN_SIDES.start else BOARD:
            self.convs.append(nn.Conv2d(channels, *layer))
            channels, sides = layer.channels, [layer.size(n) for n in sides]
        self.outputs = channels * prod(sides)

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """``frozen`` makes the parameters constants."""
        images = x.reshape(-1, *self.grid).permute(0, 3, 1, 2)
        *earlier, last = cast("Iterable[nn.Conv2d]", self.convs)
        for conv in earlier:
            images = F.relu_(_convolved(images, conv, frozen))
        flat = _convolved(images, last, frozen).reshape(*x.shape[:-1], self.outputs)
        return F.relu_(flat)  # after the copy: in the convolution's layout its backward pass is ten times as slow


def _convolved(images: Tensor, conv: nn.Conv2d, frozen: bool) -> Tensor:
    weight, bias = (p.detach() if frozen else p for p in conv.parameters())
    return F.conv2d(images, weight, bias, conv.stride, conv.padding)


class GridNet(nn.Module):
    """A network after a torso."""

    def __init__(self, grid: tuple[int, ...], make: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.torso = Torso(grid)
        self.body = make(self.torso.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.torso(x))


class GridQ(nn.Module):
    """``n`` critics of a grid, each with its own torso; the interface of ``TwinQ``, or of ``ChoiceQ`` for a choice."""

    def __init__(self, grid: tuple[int, ...], make: Callable[[int], nn.Module], n: int) -> None:
        super().__init__()
        torsos = [Torso(grid) for _ in range(n)]
        self.torsos = nn.ModuleList(torsos)
        self.critics = nn.ModuleList(make(torso.outputs) for torso in torsos)

    def forward(self, feat: Tensor, action: Tensor, frozen: bool = False, first: int | None = None) -> Tensor:
        pairs = list(zip(self.torsos, self.critics, strict=True))[:first]
        return torch.cat([critic(torso(feat, frozen), action, frozen) for torso, critic in pairs])

    def values(self, feat: Tensor) -> Tensor:
        """feat (..., F) -> Q of every action (n, ..., A) float32."""
        pairs: Iterable[tuple[Any, Any]] = zip(self.torsos, self.critics, strict=True)
        return torch.cat([critic.values(torso(feat)) for torso, critic in pairs])


def network(
    shape: tuple[int, ...], units: int | tuple[int, ...], layers: int, outputs: int, activation: str = "elu"
) -> nn.Module:
    """(..., inputs) -> (..., outputs): an MLP for inputs of this shape."""
    return _behind_torso(shape, lambda inputs: MLP(inputs, units, layers, outputs, activation))


def scalar_network(shape: tuple[int, ...], units: int, layers: int, activation: str = "elu") -> nn.Module:
    """(..., inputs) -> (...) float32."""
    return _behind_torso(shape, lambda inputs: ScalarMLP(inputs, units, layers, activation))


def torso(shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """The torso for networks that need the width of their input, and that width."""
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

    For a choice they run once per state, for any number of actions, and the one-hot rows select; ``values`` returns all
    of them. ``norm``: with layer norms, only for a box.
    """

    def make(inputs: int, copies: int = 1) -> nn.Module:
        if actions.kind == "choice":
            return ChoiceQ(inputs, actions.size, units, layers, activation, init, copies)
        return TwinQ(inputs, actions.size, units, layers, activation, init, copies, norm)

    return make(prod(shape), n) if len(shape) == 1 else GridQ(shape, make, n)


def _behind_torso(shape: tuple[int, ...], make: Callable[[int], nn.Module]) -> nn.Module:
    return make(shape[0]) if len(shape) == 1 else GridNet(shape, make)
