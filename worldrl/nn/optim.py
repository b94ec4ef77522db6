"""Adam with global-norm clipping, optional gradient scaling, and no host synchronisation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

BETAS = (0.9, 0.999)


@dataclass(frozen=True)
class CosineDecay:
    """A learning rate that falls to zero along half a cosine in ``steps`` steps, and stays there (arXiv 1608.03983).

    It reads an optimiser's own count of steps, on the device: there is nothing more to save, a resumed run has the same
    rates, and a captured graph computes them at every replay.
    """

    steps: int

    def __call__(self, done: Tensor) -> Tensor:
        """The factor of the full rate after ``done`` steps, 0-d in [0, 1]: one at first."""
        return 0.5 * (1.0 + torch.cos(math.pi * (done / self.steps).clamp(max=1.0)))


LEAST_SCALE = 1.0  # of a loss in fp16: below it, gradients have been infinite all along


class Optimizer:
    """Adam on a fixed list of parameters, by torch's fused kernel; gradients of anything else are never computed.

    ``torch.optim.Adam`` looks for its state and its settings in every step, which costs a tenth of a small update, and
    imports torch's compiler.

    Args:
        params: the parameters to train.
        lr: learning rate.
        clip: global gradient-norm limit, 0 is off.
        eps: Adam's epsilon.
        decay: how the learning rate falls; None: it is constant.

    Attributes:
        moments: ``exp_avg``, ``exp_avg_sq`` and ``step``, each with a tensor for every parameter. They exist from the
            start, so graph capture and checkpoints always find them.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        clip: float = 0.0,
        eps: float = 1e-8,
        decay: CosineDecay | None = None,
    ) -> None:
        self.params: list[Tensor] = list(params)
        self.lr, self.clip, self.eps, self.decay = lr, clip, eps, decay
        self.scaler: torch.amp.GradScaler | None = None  # set by the agent under fp16
        self.moments: dict[str, list[Tensor]] = {
            "exp_avg": [torch.zeros_like(p) for p in self.params],
            "exp_avg_sq": [torch.zeros_like(p) for p in self.params],
            "step": [torch.zeros((), device=p.device) for p in self.params],
        }

    def rate(self) -> float | Tensor:
        """The learning rate of the next step; if it decays, a 0-d tensor on the device."""
        return self.lr if self.decay is None else self.lr * self.decay(self.moments["step"][0])

    def step(self, loss: Tensor, retain_graph: bool = False) -> Tensor:
        """One step down ``loss``; returns the gradient norm before clipping, 0-d.

        Under fp16 a step with infinite gradients is left out and its norm counts as zero, until the scale of the loss
        cannot fall any further.

        ``retain_graph`` keeps the graph for a later loss that shares it; that loss must not need these parameters.
        """
        traced = torch.compiler.is_compiling()  # of a whole update: gradients and Adam are then operators of its graph
        take = self._traced_gradients if traced else self._gradients
        grads = take(loss, retain_graph)
        scaled = None if self.scaler is None else _Scaled(self, self.scaler, grads)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        if self.clip > 0:
            factor = (self.clip / (norm + 1e-6)).clamp(max=1.0)
            if traced:
                grads = list(torch._foreach_mul(grads, factor))
            else:
                torch._foreach_mul_(grads, factor)
        if traced:
            self._trace(grads)
        elif scaled is not None:
            norm = scaled.finish(norm)
        else:
            self.apply(grads)
        torch.clear_autocast_cache()  # half-precision copies of the old weights
        return norm

    def _gradients(self, loss: Tensor, retain_graph: bool) -> list[Tensor]:
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        found = torch.autograd.grad(scaled, self.params, retain_graph=retain_graph)
        return _distinct(_in_layout_of(param, grad) for param, grad in zip(self.params, found, strict=True))

    def _traced_gradients(self, loss: Tensor, retain_graph: bool) -> list[Tensor]:
        return list(torch.autograd.grad(loss, self.params, retain_graph=retain_graph))

    @torch.no_grad()
    def apply(self, grads: list[Tensor], found_inf: Tensor | None = None) -> None:
        """One step on these gradients, or none if ``found_inf`` (1,) is one; decided on the device."""
        moments, rate = self.moments, self.rate()
        torch._foreach_add_(moments["step"], 1)
        torch._fused_adam_(
            self.params,
            grads,
            moments["exp_avg"],
            moments["exp_avg_sq"],
            [],
            moments["step"],
            lr=rate,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
            found_inf=found_inf,
        )
        if found_inf is not None:
            torch._foreach_sub_(moments["step"], [found_inf.squeeze()] * len(self.params))

    @torch.no_grad()
    def _trace(self, grads: list[Tensor]) -> None:
        """The same in operators that a compiler can fuse.

        They divide by the rate: at zero, a parameter whose gradients were all zero would become NaN.
        """
        moments, rate = self.moments, self.rate()
        if isinstance(rate, Tensor):
            rate = rate.clamp(min=1e-30)
        adam(
            self.params,
            grads,
            moments["exp_avg"],
            moments["exp_avg_sq"],
            [],
            moments["step"],
            foreach=False,
            capturable=self.decay is not None,  # takes a rate that is a tensor
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=rate,
            weight_decay=0.0,
            eps=self.eps,
            maximize=False,
        )

    def state_tensors(self) -> list[Tensor]:
        """Every tensor that a step writes, except the parameters."""
        tensors = [tensor for moment in self.moments.values() for tensor in moment]
        return tensors if self.scaler is None else tensors + self._scaler_tensors(self.scaler)

    def _scaler_tensors(self, scaler: torch.amp.GradScaler) -> list[Tensor]:
        """The scale and its growth counter, created if need be."""
        if scaler._scale is None:
            scaler._lazy_init_scale_growth_tracker(self.params[0].device)
        return [x for x in (scaler._scale, scaler._growth_tracker) if x is not None]

    def state_dict(self) -> dict[str, Any]:
        """The state in the form of ``torch.optim.Adam``, without settings."""
        moments = [dict(zip(self.moments, values, strict=True)) for values in zip(*self.moments.values(), strict=True)]
        scaler = None if self.scaler is None else self.scaler.state_dict()
        return {"adam": {"state": dict(enumerate(moments))}, "scaler": scaler}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy into the existing tensors, because captured graphs hold their addresses; settings are not loaded."""
        for name, moment in self.moments.items():
            for index, tensor in enumerate(moment):
                tensor.copy_(state["adam"]["state"][index][name])
        if self.scaler is not None and state["scaler"] is not None:
            self.scaler.load_state_dict(state["scaler"])


class _Scaled:
    """A stand-in optimiser for ``GradScaler``, which unscales the gradients and reports whether one was infinite."""

    _step_supports_amp_scaling = True  # it then waits for nothing
    found_inf: Tensor

    def __init__(self, optimizer: Optimizer, scaler: Any, grads: list[Tensor]) -> None:
        self.optimizer, self.scaler, self.grads = optimizer, scaler, grads
        self.param_groups = [{"params": optimizer.params}]
        for param, grad in zip(optimizer.params, grads, strict=True):
            param.grad = grad
        scaler.unscale_(self)

    def finish(self, norm: Tensor) -> Tensor:
        """Step or leave it out; returns the norm to report."""
        self.scaler.step(self)
        self.scaler.update()
        for param in self.optimizer.params:
            param.grad = None
        return torch.where(torch.isfinite(norm) | (self.scaler._scale < LEAST_SCALE), norm, 0.0)

    def step(self) -> None:
        self.optimizer.apply(self.grads, self.found_inf)


def _distinct(grads: Iterable[Tensor]) -> list[Tensor]:
    """The gradients, each in memory of its own: those of a sum's terms may be one tensor, and are scaled in place."""
    known: dict[int, Tensor] = {}
    return [known.setdefault(id(grad), grad) if id(grad) not in known else grad.clone() for grad in grads]


def _in_layout_of(param: Tensor, grad: Tensor) -> Tensor:
    """``grad`` in the memory layout of ``param``: fused Adam pairs their entries in the order of memory.

    ``backward`` would ensure that; ``autograd.grad`` returns an operator's own layout, channels-last for a convolution.
    """
    return grad if grad.stride() == param.stride() else torch.empty_like(param).copy_(grad)


@contextmanager
def constant(module: nn.Module) -> Iterator[None]:
    """Make the parameters constants for a while.

    ``Optimizer`` asks for the gradients of its own parameters only, but a compiled function and a custom product
    compute those of everything that requires one.
    """
    trained = [param for param in module.parameters() if param.requires_grad]
    for param in trained:
        param.requires_grad_(False)
    try:
        yield
    finally:
        for param in trained:
            param.requires_grad_(True)


@torch.no_grad()
def polyak(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target <- tau online + (1 - tau) target, in one fused call."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)
