"""Fully connected networks: a plain one and a stack of critics evaluated as one batched product."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldrl.nn.functional import elu_, leaky_relu

# Where the gradient can be had from the output, in place: on large layers, memory traffic is most of the cost.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": elu_,
    "leaky_relu": leaky_relu,
    "relu": F.relu_,
    "silu": F.silu,
    "tanh": torch.tanh_,
}


class MLP(nn.Module):
    """``layers`` hidden layers of ``units`` (or of one size each) and a linear output, PyTorch's initialisation.

    (..., inputs) -> (..., outputs)
    """

    def __init__(
        self, inputs: int, units: int | tuple[int, ...], layers: int, outputs: int, activation: str = "elu"
    ) -> None:
        super().__init__()
        sizes = [inputs, *([units] * layers if isinstance(units, int) else units), outputs]
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.linears
        for linear in hidden:
            x = self.activation(linear(x))
        return self.output(last, x)

    def output(self, last: nn.Module, x: Tensor) -> Tensor:
        return last(x)


class ScalarMLP(MLP):
    """An MLP with one output, (..., inputs) -> (...) float32.

    Under autocast too the last layer is float32, for bf16 would round a value of 50 to a quarter.
    """

    def __init__(self, inputs: int, units: int, layers: int, activation: str = "elu") -> None:
        super().__init__(inputs, units, layers, 1, activation)

    def output(self, last: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return last(x.float()).squeeze(-1)


class TwinQ(nn.Module):
    """``n`` independent critics Q_j(x, a) with stacked weights: one batched product per layer instead of ``n``.

    The first layer is applied to features and action apart, so that one action can meet many features (and the other
    way round) without copies. Initialisation is per critic: ``"orthogonal"`` (gain 1, zero bias: the SMAC release)
    or ``"default"`` (PyTorch's uniform).
    """

    def __init__(
        self,
        feat_dim: int,
        action_dim: int,
        units: int,
        layers: int,
        activation: str = "elu",
        init: str = "default",
        n: int = 2,
    ) -> None:
        super().__init__()
        self.feat_dim = feat_dim
        self.activation = ACTIVATIONS[activation]
        self.weights, self.biases = _stacked([feat_dim + action_dim, *([units] * layers), 1], init, n)

    def forward(self, feat: Tensor, action: Tensor, frozen: bool = False) -> Tensor:
        """feat (..., F) and action (..., A), leading axes broadcast -> (n, ...) float32.

        ``frozen`` takes the parameters for constants, as an actor's loss does: a compiled loss has gradients for all
        that it reads, wanted or not.
        """
        weights, biases = (_constants(x) if frozen else list(x) for x in (self.weights, self.biases))
        lead = torch.broadcast_shapes(feat.shape[:-1], action.shape[:-1])
        if feat.shape[:-1].numel() == action.shape[:-1].numel() == lead.numel():
            both = torch.cat([feat.reshape(-1, self.feat_dim), action.reshape(-1, action.shape[-1])], -1)
            x = self._joint(both, weights[0], biases[0])
        else:
            x = self._split(feat, action, len(lead), weights[0], biases[0])
        x = self.activation(x).flatten(1, -2)  # (n, N, units)
        for weight, bias in zip(weights[1:-1], biases[1:-1], strict=True):
            x = self.activation(torch.bmm(x, weight).add_(bias))  # baddbmm copies the bias out first
        # One output column: a batched product is slow on CPUs and would round Q to bf16 under autocast.
        q = (x * weights[-1].mT).sum(-1) + biases[-1][..., 0]
        return q.float().reshape(-1, *lead)

    @staticmethod
    def _joint(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """First layer where nothing broadcasts: (N, F + A) -> (n, N, units)."""
        return torch.bmm(x.expand(len(weight), -1, -1), weight).add_(bias)

    def _split(self, feat: Tensor, action: Tensor, axes: int, weight: Tensor, bias: Tensor) -> Tensor:
        """First layer with broadcasting: each input is projected at its own shape -> (n, *lead, units)."""
        feat_part = self._project(feat, weight[:, : self.feat_dim])
        action_part = self._project(action, weight[:, self.feat_dim :])
        action_part = action_part + bias.reshape(len(weight), *([1] * (action.dim() - 1)), -1)
        return _lead_axes(feat_part, axes + 1) + _lead_axes(action_part, axes + 1)

    @staticmethod
    def _project(x: Tensor, weight: Tensor) -> Tensor:
        """(..., in) x (n, in, units) -> (n, ..., units) as one matrix product."""
        flat = x.reshape(1, -1, x.shape[-1]).expand(weight.shape[0], -1, -1)
        return torch.bmm(flat, weight).reshape(weight.shape[0], *x.shape[:-1], weight.shape[-1])


class ChoiceQ(nn.Module):
    """``n`` independent critics of a choice between A actions, with stacked weights: Q_j(x, .) (..., A) at once.

    The arguments are those of ``TwinQ``.
    """

    def __init__(
        self,
        feat_dim: int,
        action_dim: int,
        units: int,
        layers: int,
        activation: str = "elu",
        init: str = "default",
        n: int = 2,
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.weights, self.biases = _stacked([feat_dim, *([units] * layers), action_dim], init, n)

    def forward(self, feat: Tensor, action: Tensor, frozen: bool = False) -> Tensor:
        """feat (..., F) and one-hot action (..., A), leading axes broadcast -> (n, ...) float32; see ``TwinQ``."""
        axes = max(feat.dim(), action.dim())
        return (_lead_axes(self.values(feat, frozen), axes) * action).sum(-1)

    def values(self, feat: Tensor, frozen: bool = False) -> Tensor:
        """feat (..., F) -> Q of every action (n, ..., A) float32."""
        weights, biases = (_constants(x) if frozen else list(x) for x in (self.weights, self.biases))
        x = feat.reshape(1, -1, feat.shape[-1]).expand(len(weights[0]), -1, -1)
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            x = self.activation(torch.bmm(x, weight).add_(bias))
        with torch.autocast(x.device.type, enabled=False):  # the last layer is float32, as of all critics here
            q = torch.baddbmm(biases[-1], x.float(), weights[-1])
        return q.reshape(len(q), *feat.shape[:-1], -1)


def _stacked(sizes: list[int], init: str, n: int) -> tuple[nn.ParameterList, nn.ParameterList]:
    """Weights (n, in, out) and biases (n, 1, out) of the layers between ``sizes``, of ``n`` networks."""
    weights, biases = nn.ParameterList(), nn.ParameterList()
    for inputs, outputs in pairwise(sizes):
        linears = [_linear(inputs, outputs, init) for _ in range(n)]
        weights.append(nn.Parameter(torch.stack([m.weight.detach().T for m in linears]).contiguous()))
        biases.append(nn.Parameter(torch.stack([m.bias.detach()[None] for m in linears])))
    return weights, biases


def _constants(parameters: nn.ParameterList) -> list[Tensor]:
    return [x.detach() for x in parameters]


def _lead_axes(x: Tensor, axes: int) -> Tensor:
    """Insert axes of size one after the first, so that (n, ..., U) has ``axes`` leading axes."""
    return x.reshape(x.shape[0], *([1] * (axes + 1 - x.dim())), *x.shape[1:])


def _linear(inputs: int, outputs: int, init: str) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    if init == "orthogonal":
        nn.init.orthogonal_(linear.weight)
        nn.init.zeros_(linear.bias)
    return linear


def xavier(module: nn.Module) -> None:
    """For ``nn.Module.apply``: Xavier-uniform weights and zero bias, Keras's default, on linear and conv layers."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
