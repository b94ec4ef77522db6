"""Adam with global-norm clipping, optional gradient scaling, and no host synchronisation."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
import torch._dynamo  # torch.optim imports it on first use; after software OpenGL is loaded that crashes (two LLVMs)
from torch import Tensor, nn
from torch.optim.adam import adam


class Optimizer:
    """Fused Adam on a fixed list of parameters; gradients of anything else are never computed.

    Args:
        params: what is trained.
        lr: learning rate.
        clip: global gradient-norm limit, 0 is off.
        eps: Adam's epsilon.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, clip: float = 0.0, eps: float = 1e-8) -> None:
        self.params = list(params)
        self.clip = clip
        cuda = self.params[0].is_cuda
        without_numbers = self.params[0].is_meta  # on ``meta``, where a run's size is counted
        self.adam = torch.optim.Adam(self.params, lr=lr, eps=eps, fused=not without_numbers, capturable=cuda)
        self.scaler: torch.amp.GradScaler | None = None  # set by the agent under fp16
        if not without_numbers:
            self._materialise()

    @torch.no_grad()
    def _materialise(self) -> None:
        """Create Adam's state now, so that graph capture and checkpoints always find it: a step on zero gradients."""
        for param in self.params:
            param.grad = torch.zeros_like(param)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*capturable=True")  # said once, of steps outside of a graph
            self.adam.step()
        for param in self.params:
            self.adam.state[param]["step"].zero_()
            param.grad = None
        self._moments = [[self.adam.state[p][name] for p in self.params] for name in ("exp_avg", "exp_avg_sq", "step")]

    def step(self, loss: Tensor, retain_graph: bool = False) -> Tensor:
        """One step down ``loss``; returns the gradient norm before clipping, 0-d.

        ``retain_graph`` leaves the graph to a later loss that shares it; that one must not need these parameters.
        """
        traced = torch.compiler.is_compiling()  # of a whole update: gradients and Adam are then operators of its graph
        grads = list(torch.autograd.grad(loss, self.params)) if traced else self._gradients(loss, retain_graph)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        if self.clip > 0:
            torch._foreach_mul_(grads, (self.clip / (norm + 1e-6)).clamp(max=1.0))
        if traced:
            self._trace(grads)
            return norm
        if self.scaler is None:
            self._apply(grads)
        else:
            self._apply_scaled(self.scaler)
        torch.clear_autocast_cache()  # half-precision copies of the old weights
        return norm

    def _gradients(self, loss: Tensor, retain_graph: bool) -> list[Tensor]:
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        found = torch.autograd.grad(scaled, self.params, retain_graph=retain_graph)
        grads = [_in_layout_of(param, grad) for param, grad in zip(self.params, found, strict=True)]
        if self.scaler is not None:
            for param, grad in zip(self.params, grads, strict=True):
                param.grad = grad
            self.scaler.unscale_(self.adam)
        return grads

    @torch.no_grad()
    def _apply(self, grads: list[Tensor]) -> None:
        """The kernel of ``torch.optim.Adam(fused=True)`` on its state: the search for that state costs more here."""
        settings = self.adam.param_groups[0]
        beta1, beta2 = settings["betas"]
        exp_avgs, exp_avg_sqs, steps = self._moments
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            list[Tensor](self.params),
            grads,
            exp_avgs,
            exp_avg_sqs,
            [],
            steps,
            lr=settings["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=0.0,
            eps=settings["eps"],
            amsgrad=False,
            maximize=False,
        )

    def _apply_scaled(self, scaler: torch.amp.GradScaler) -> None:
        """Fused Adam reads on the device whether a gradient was infinite: no synchronisation."""
        scaler.step(self.adam)
        scaler.update()
        for param in self.params:
            param.grad = None

    @torch.no_grad()
    def _trace(self, grads: list[Tensor]) -> None:
        """Adam's step in operators that a compiler can fuse, on the state that the fused kernel has."""
        settings = self.adam.param_groups[0]
        beta1, beta2 = settings["betas"]
        exp_avgs, exp_avg_sqs, steps = self._moments
        adam(
            list(self.params),
            grads,
            exp_avgs,
            exp_avg_sqs,
            [],
            steps,
            foreach=False,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=settings["lr"],
            weight_decay=0.0,
            eps=settings["eps"],
            maximize=False,
        )

    def state_tensors(self) -> list[Tensor]:
        """Every tensor that a step writes, but for the parameters."""
        tensors = [value for param in self.params for value in self.adam.state[param].values()]
        return tensors if self.scaler is None else tensors + self._scaler_tensors(self.scaler)

    def _scaler_tensors(self, scaler: torch.amp.GradScaler) -> list[Tensor]:
        """The scale and its growth counter, created if need be."""
        if scaler._scale is None:
            scaler._lazy_init_scale_growth_tracker(self.params[0].device)
        return [x for x in (scaler._scale, scaler._growth_tracker) if x is not None]

    def state_dict(self) -> dict[str, Any]:
        return {"adam": self.adam.state_dict(), "scaler": None if self.scaler is None else self.scaler.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy into the tensors that exist, since captured graphs hold their addresses; the settings stay ours."""
        for index, param in enumerate(self.params):
            for name, value in self.adam.state[param].items():
                value.copy_(state["adam"]["state"][index][name])
        if self.scaler is not None and state["scaler"] is not None:
            self.scaler.load_state_dict(state["scaler"])


def _in_layout_of(param: Tensor, grad: Tensor) -> Tensor:
    """``grad`` in the memory layout of ``param``: fused Adam pairs their entries in the order of memory.

    ``backward`` would see to that; ``autograd.grad`` returns what an operator gave, channels-last for a convolution.
    """
    return grad if grad.stride() == param.stride() else torch.empty_like(param).copy_(grad)


@torch.no_grad()
def polyak(target: nn.Module, online: nn.Module, tau: float) -> None:
    """target <- tau online + (1 - tau) target, in one fused call."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)
