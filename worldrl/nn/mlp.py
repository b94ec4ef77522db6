"""Fully connected networks: a plain one and a stack of critics evaluated as one batched product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldrl.nn.functional import at_action, elu_, leaky_relu
from worldrl.nn.products import by_onednn, layer, linear

TALL = 2**19  # numbers in a layer of one critic
# In place where the gradient follows from the output: on large layers, memory traffic is most of the cost.
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
        for module in hidden:
            x = self.activation(layer(module, x))
        return self.output(last, x)

    def output(self, last: nn.Module, x: Tensor) -> Tensor:
        return layer(last, x)


class ExactMLP(MLP):
    """An MLP whose last layer is float32 even under autocast, because bf16 would round a value of 50 to a quarter."""

    def output(self, last: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return layer(last, x.float())


class ScalarMLP(ExactMLP):
    """An exact MLP with one output, (..., inputs) -> (...) float32."""

    def __init__(self, inputs: int, units: int, layers: int, activation: str = "elu") -> None:
        super().__init__(inputs, units, layers, 1, activation)

    def output(self, last: nn.Module, x: Tensor) -> Tensor:
        return super().output(last, x).squeeze(-1)


class TwinQ(nn.Module):
    """``n`` independent critics Q_j(x, a) with stacked weights: one batched product per layer instead of ``n``.

    Each critic is evaluated separately with oneDNN, which has no batched product, and in eager form on a CPU where a
    second pass over many rows, for the bias, takes time.

    The first layer is applied to features and action separately, so one action can be combined with many features (and
    vice versa) without copies. Initialisation is per critic: ``"orthogonal"`` (gain 1, zero bias: the SMAC release)
    or ``"default"`` (PyTorch's uniform). ``norm`` puts a layer norm (arXiv 1607.06450) after every activation, with a
    scale and a shift for each critic.
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
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.feat_dim = feat_dim
        self.activation = ACTIVATIONS[activation]
        self.weights, self.biases = _stacked([feat_dim + action_dim, *([units] * layers), 1], init, n)
        self.norms = nn.ParameterList(_unit_norm(n, units) for _ in range(layers if norm else 0))

    def forward(self, feat: Tensor, action: Tensor, frozen: bool = False, first: int | None = None) -> Tensor:
        """feat (..., F) and action (..., A), leading axes broadcast -> (n, ...) float32.

        ``frozen`` makes the parameters constants, as in an actor's loss: a compiled loss has gradients for everything
        that it reads, needed or not. ``first`` evaluates only that many critics.
        """
        weights, biases, norms = (_values(x, frozen, first) for x in (self.weights, self.biases, self.norms))
        lead = torch.broadcast_shapes(feat.shape[:-1], action.shape[:-1])
        parts = [feat, action]
        if feat.shape[:-1].numel() == action.shape[:-1].numel() == lead.numel():  # nothing broadcasts
            parts = [torch.cat([feat.reshape(-1, self.feat_dim), action.reshape(-1, action.shape[-1])], -1)]
        if self._separately(parts, lead.numel()):
            q = torch.stack([self._one(parts, *values) for values in _each(weights, biases, norms)])
        else:
            q = self._all(parts, weights, biases, norms)
        return q.float().reshape(len(q), *lead)

    def _separately(self, parts: list[Tensor], rows: int) -> bool:
        units = self.weights[0].shape[-1]
        tall = rows * units >= TALL and parts[0].device.type == "cpu" and not torch.compiler.is_compiling()
        return tall or any(by_onednn(part, units) for part in parts)

    def hidden(self, x: Tensor, norms: Sequence[Tensor], layer: int) -> Tensor:
        """Activation and norm of a hidden layer, (..., N, units)."""
        x = self.activation(x)
        return _normed(x, norms[layer]) if norms else x

    def _all(self, parts: list[Tensor], weights: list[Tensor], biases: list[Tensor], norms: list[Tensor]) -> Tensor:
        """The parts of the first layer's input, each (..., its inputs), -> (n, N)."""
        x, *rest = _projected(parts, weights[0], biases[0])  # (n, ..., units)
        for part in rest:
            axes = max(x.dim(), part.dim())
            x = _lead_axes(x, axes - 1) + _lead_axes(part, axes - 1)
        x = self.hidden(x.flatten(1, -2), norms, 0)  # (n, N, units)
        for i, (weight, bias) in enumerate(zip(weights[1:-1], biases[1:-1], strict=True), 1):
            x = self.hidden(torch.bmm(x, weight).add_(bias), norms, i)  # baddbmm copies the bias out first
        # One output column: a product would round Q to bf16 under autocast.
        return (x * weights[-1].mT).sum(-1) + biases[-1][..., 0]

    def _one(
        self, parts: list[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor], norms: Sequence[Tensor]
    ) -> Tensor:
        """One critic, with weights (in, out): the same -> (N,)."""
        *inner, last = weights[0].split([part.shape[-1] for part in parts])
        x = linear(parts[-1], last.T, biases[0][0])
        for part, weight in zip(parts, inner, strict=False):
            x = linear(part, weight.T) + x
        x = self.hidden(x.flatten(0, -2), norms, 0)
        for i, (weight, bias) in enumerate(zip(weights[1:-1], biases[1:-1], strict=True), 1):
            x = self.hidden(linear(x, weight.T, bias[0]), norms, i)
        with torch.autocast(x.device.type, enabled=False):  # the last layer is float32, as in all critics here
            return F.linear(x.float(), weights[-1].T, biases[-1][0]).squeeze(-1)


def _projected(parts: list[Tensor], weight: Tensor, bias: Tensor) -> list[Tensor]:
    """Each part (..., its inputs) by its rows of weight (n, inputs, units) -> (n, ..., units), the last with bias."""
    projected = []
    for part, rows in zip(parts, weight.split([part.shape[-1] for part in parts], 1), strict=True):
        flat = part.reshape(1, -1, part.shape[-1]).expand(len(rows), -1, -1)
        projected.append(torch.bmm(flat, rows).reshape(len(rows), *part.shape[:-1], rows.shape[-1]))
    projected[-1] = projected[-1].add_(bias.reshape(len(bias), *([1] * (parts[-1].dim() - 1)), -1))
    return projected


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

    def forward(self, feat: Tensor, action: Tensor, frozen: bool = False, first: int | None = None) -> Tensor:
        """feat (..., F) and one-hot action (..., A), leading axes broadcast -> (n, ...) float32; see ``TwinQ``."""
        axes = max(feat.dim(), action.dim())
        return at_action(_lead_axes(self.values(feat, frozen, first), axes), action)

    def values(self, feat: Tensor, frozen: bool = False, first: int | None = None) -> Tensor:
        """feat (..., F) -> Q of every action (n, ..., A) float32."""
        weights, biases = (_values(x, frozen, first) for x in (self.weights, self.biases))
        x = feat.reshape(-1, feat.shape[-1])
        if by_onednn(x, weights[0].shape[-1]):
            q = torch.stack([self._one(x, w, b) for w, b in _each(weights, biases)])
        else:
            q = self._all(x.expand(len(weights[0]), -1, -1), weights, biases)
        return q.reshape(len(q), *feat.shape[:-1], q.shape[-1])

    def _all(self, x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        """(n, N, F) -> (n, N, A)."""
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            x = self.activation(torch.bmm(x, weight).add_(bias))
        with torch.autocast(x.device.type, enabled=False):  # the last layer is float32, as in all critics here
            return torch.baddbmm(biases[-1], x.float(), weights[-1])

    def _one(self, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
        """One critic, with weights (in, out): (N, F) -> (N, A)."""
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            x = self.activation(linear(x, weight.T, bias[0]))
        with torch.autocast(x.device.type, enabled=False):
            return linear(x.float(), weights[-1].T, biases[-1][0])


def _each(*values: list[Tensor]) -> Iterator[tuple[tuple[Tensor, ...], ...]]:
    """Weights, biases and so on of all layers, critic by critic."""
    split = [[x.unbind() for x in layers] for layers in values]
    for j in range(len(values[0][0])):
        yield tuple(tuple(x[j] for x in layers) for layers in split)


def _unit_norm(n: int, units: int) -> nn.Parameter:
    """Scale and shift of a layer norm, (n, 2, units)."""
    return nn.Parameter(torch.tensor([[1.0], [0.0]]).expand(n, 2, units).contiguous())


def _normed(x: Tensor, norm: Tensor) -> Tensor:
    """Layer norm of x (..., N, units) with scale and shift (..., 2, units)."""
    scale, shift = norm.split(1, -2)
    return F.layer_norm(x, x.shape[-1:]) * scale + shift


def _stacked(sizes: list[int], init: str, n: int) -> tuple[nn.ParameterList, nn.ParameterList]:
    """Weights (n, in, out) and biases (n, 1, out) of the layers between ``sizes``, of ``n`` networks."""
    weights, biases = nn.ParameterList(), nn.ParameterList()
    for inputs, outputs in pairwise(sizes):
        weight, bias = nn.Parameter(torch.empty(n, inputs, outputs)), nn.Parameter(torch.empty(n, 1, outputs))
        for j in range(n):  # torch.stack on ``meta``, where a run's size is counted, would import torch's compiler
            linear = _linear(inputs, outputs, init)
            weight.data[j].copy_(linear.weight.detach().T)
            bias.data[j, 0].copy_(linear.bias.detach())
        weights.append(weight)
        biases.append(bias)
    return weights, biases


def _values(parameters: nn.ParameterList, frozen: bool, first: int | None) -> list[Tensor]:
    """Stacked parameters (n, ...) in the form for ``TwinQ.forward``."""
    values = [x.detach() for x in parameters] if frozen else list(parameters)
    return values if first is None else [x[:first] for x in values]


def _lead_axes(x: Tensor, axes: int) -> Tensor:
    """Insert axes of size one after the first, to give (n, ..., U) ``axes`` leading axes."""
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
