"""Matrix products of layers, with the faster of the two libraries that torch has on a CPU.

torch's default library runs AVX2 kernels on AMD CPUs, even if they have more; oneDNN, which torch uses for
convolutions, runs AVX-512 there and is twice as fast except on small products. The choice depends on the CPU and the
shapes, never on a timing, so a resumed run computes the same. The libraries differ only in rounding.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, library, nn

Library = Literal["torch", "onednn"]

SMALLEST = 2**20  # multiplications from which a product is worth the detour


def usual() -> Library:
    """The library for this CPU."""
    avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return "onednn" if avx512 and _is_amd() and available() else "torch"


def available() -> bool:
    """Whether this torch has oneDNN's products."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _is_amd() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not cpuinfo.is_file():
        return False
    with cpuinfo.open() as lines:
        return "AuthenticAMD" in lines.read(1_000)


_used = usual()


def used() -> Library:
    """The library for large enough float32 products on a CPU in this process."""
    return _used


def use(name: str | None) -> None:
    """Choose the library for this process; the usual one for ``None``, or if the named one does not exist."""
    global _used
    known: dict[str | None, Library] = {"torch": "torch", **({"onednn": "onednn"} if available() else {})}
    _used = known.get(name) or usual()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``: x (..., I), weight (O, I), bias (O,) -> (..., O)."""
    if not by_onednn(x, len(weight)):
        return F.linear(x, weight, bias)
    return _OneDNN.apply(x.reshape(-1, x.shape[-1]), weight, bias).reshape(*x.shape[:-1], len(weight))


def layer(module: nn.Module, x: Tensor) -> Tensor:
    """An ``nn.Linear`` on x (..., I)."""
    return linear(x, module.get_parameter("weight"), module.get_parameter("bias"))


def gru(cell: nn.GRUCell, x: Tensor, h: Tensor) -> Tensor:
    """The GRU cell on x (..., I) and its state h (..., H) -> (..., H)."""
    if not by_onednn(h, 3 * cell.hidden_size):
        return cell(x.reshape(-1, x.shape[-1]), h.reshape(-1, h.shape[-1])).reshape(h.shape)
    new, old = linear(x, cell.weight_ih, cell.bias_ih), linear(h, cell.weight_hh, cell.bias_hh)
    (r, z, n), (r_old, z_old, n_old) = new.chunk(3, -1), old.chunk(3, -1)
    r, z = torch.sigmoid(r + r_old), torch.sigmoid(z + z_old)
    n = torch.tanh(n + r * n_old)
    return (h - n) * z + n


def by_onednn(x: Tensor, outputs: int) -> bool:
    """Whether oneDNN multiplies x (..., I) by a matrix with this many columns."""
    return (
        _used == "onednn"
        and not torch.compiler.is_exporting()  # first: a comparison of sizes would become a condition of the program
        and x.numel() * outputs >= SMALLEST
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )


class _OneDNN(torch.autograd.Function):
    """``F.linear`` of x (N, I), whose three products are oneDNN's; those of second derivatives are torch's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        product = _differentiable if torch.is_grad_enabled() else _product  # oneDNN's operator has no derivative
        return (
            product(grad, weight.T, None) if wants_x else None,
            product(grad.T, x.T, None) if wants_weight else None,
            grad.sum(0) if wants_bias else None,
        )


def _differentiable(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    x, weight = _dense(x), _dense(weight)
    return torch.ops.worldrl.product(x, weight, bias) if torch.compiler.is_compiling() else _multiply(x, weight, bias)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (N, I), weight (O, I), bias (O,) -> (N, O), by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _shaped(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The shape of a product for the compiler: x (N, I), weight (O, I) -> (N, O)."""
    return x.new_empty(len(x), len(weight))


# torch.compile assumes constant weights in oneDNN's operator; it does not look into this one.
_operators = library.Library(__package__.partition(".")[0], "FRAGMENT")
_operators.define("product(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
_operators.impl("product", _multiply, "CPU")
_operators.impl("product", _shaped, "Meta")


def _dense(x: Tensor) -> Tensor:
    """oneDNN needs a plain or a transposed matrix; with columns of a wider one it is 1000 times slower."""
    return x if x.is_contiguous() or x.T.is_contiguous() else x.contiguous()
