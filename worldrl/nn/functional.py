"""Small pure functions shared by beliefs, heads and policies."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_2 = math.log(2.0)
LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


def leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU with TensorFlow's slope, 0.2; in place."""
    return F.leaky_relu_(x, 0.2)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``x`` (..., B, T) over the entries where ``mask`` (B, T) is one, and over all leading axes."""
    copies = x.numel() // mask.numel()
    return (x * mask).sum() / (copies * mask.sum()).clamp(min=1.0)


def at_action(values: Tensor, action: Tensor) -> Tensor:
    """values (..., A) of all actions -> those of one-hot ``action`` (..., A); leading axes broadcast.

    If all states share the same M actions, as they do in a draw of a ``Categorical``, they are picked by their numbers,
    so nothing of the size M x A is made in every state.
    """
    axis = _one_axis(action)
    if axis is None or action.requires_grad or (values.dim() >= -axis and values.shape[axis] > 1):
        return (values * action).sum(-1)
    values = values.reshape(*[1] * (-axis - values.dim()), *values.shape)
    rows = action[tuple(slice(None) if i - action.dim() in (axis, -1) else 0 for i in range(action.dim()))]  # (M, A)
    picked = values.transpose(axis, -1).squeeze(-1).index_select(axis + 1, rows.argmax(-1))  # (..., M, ...)
    return picked.expand(torch.broadcast_shapes(values.shape[:-1], action.shape[:-1]))


def _one_axis(action: Tensor) -> int | None:
    """The only leading axis of ``action`` (..., A) along which it differs, counted from the end; None if not one."""
    lead = list(zip(action.shape, action.stride(), strict=True))[:-1]
    found = [i - action.dim() for i, (size, stride) in enumerate(lead) if size > 1 and stride != 0]
    return found[0] if len(found) == 1 else None


def log_mean_exp(x: Tensor, dim: int = 0) -> Tensor:
    """log of the mean of exp over ``dim``; the mean of one term is the term itself, to the last bit."""
    return torch.logsumexp(x, dim) - math.log(x.shape[dim])


def tanh_log_det(pre_tanh: Tensor) -> Tensor:
    """log |d tanh(u) / du| per entry, exact for all u (the textbook log(1 - tanh^2 u) underflows beyond 18)."""
    return 2.0 * (LOG_2 - pre_tanh - F.softplus(-2.0 * pre_tanh))


def normal_log_prob(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log N(x; mean, std^2), summed over the last axis."""
    return -(0.5 * ((x - mean) / std).square() + std.log() + LOG_SQRT_2PI).sum(-1)


def standard_log_prob(x: Tensor) -> Tensor:
    """log N(x; 0, 1), summed over the last axis."""
    return -(0.5 * x.square() + LOG_SQRT_2PI).sum(-1)


def normal_entropy(std: Tensor) -> Tensor:
    """Entropy of a diagonal Gaussian in nats, summed over the last axis."""
    return (std.log() + LOG_SQRT_2PI + 0.5).sum(-1)


def normal_kl(mean: Tensor, std: Tensor, prior_mean: Tensor, prior_std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(prior_mean, prior_std^2)) in nats, summed over the last axis."""
    ratio = (std / prior_std).square()
    shift = ((mean - prior_mean) / prior_std).square()
    return 0.5 * (ratio + shift - 1.0 - ratio.log()).sum(-1)


def elu_(x: Tensor) -> Tensor:
    """ELU; ``x`` may be overwritten. On a CPU it uses exp, which is five times as fast there as torch's expm1.

    The price is an absolute error of 1e-7, so lower precisions and GPUs keep torch's own kernel.
    """
    return F.elu_(x) if x.is_cuda or x.dtype != torch.float32 else _ExpELU.apply(x)


class _ExpELU(torch.autograd.Function):
    """max(x, exp(min(x, 0)) - 1); the backward pass reads only the output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        below = x.clamp(max=0.0).exp_().sub_(1.0)
        y = torch.maximum(x, below, out=below)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.elu_backward(grad, 1.0, 1.0, 1.0, True, y)


def limited(x: Tensor, low: float, high: float) -> Tensor:
    """``x`` (...) within limits, entry by entry.

    Gradient descent on ``x`` can return from beyond them, which the zero gradient of a clamp prevents.
    """
    limit: Tensor = _Limited.apply(x, low, high)
    return limit


class _Limited(torch.autograd.Function):
    """min(max(x, low), high); the gradient is zero only where a step against it would lead further out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.limits = (low, high)
        ctx.save_for_backward(x)
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,), (low, high) = ctx.saved_tensors, ctx.limits
        outwards = ((x <= low) & (grad > 0)) | ((x >= high) & (grad < 0))
        return grad.masked_fill(outwards, 0.0), None, None


def inverse_softplus(y: float) -> float:
    """x with softplus(x) = y, for y > 0."""
    return y + math.log(-math.expm1(-y))
