"""A GPU without a GPU: fake tensors know their shape, type and device, have no memory, and need no driver.

``fake_cuda()`` makes an agent believe that it is on ``cuda:0``. Under ``Strict`` an update may neither touch a tensor
outside the GPU nor make the host wait for a value. A CUDA graph demands the same of what it captures.

What cannot be had: the backward pass (torch's engine asks the driver for a stream, so gradients are zeros in the layout
of their parameters), kernels, streams, and numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, library
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda", 0)
# What torch raises where the host would have to know a value: item, bool, a mask as an index, nonzero, equal.
WAITS = (DataDependentOutputException, DynamicOutputShapeException)

# torch has none for Adam with a rate that is a tensor; it writes into what it is given, and returns nothing.
META = library.Library("aten", "IMPL", "Meta")
META.impl("_fused_adam_.tensor_lr", lambda *_, **__: None)


class OffTheGpuError(AssertionError):
    """An operator read or wrote a tensor that is not on the GPU."""


class Strict(TorchDispatchMode):
    """Refuse every tensor outside the GPU, scalars on the CPU included, and masks that fill rows by index."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        found = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
        if any(x.device.type != "cuda" for x in found):
            raise OffTheGpuError(f"{func} meets {[(str(x.device), tuple(x.shape)) for x in found]}")
        if "index_put" in str(func) and any(x.dtype == torch.bool for x in tree_leaves(args[1]) if x is not None):
            raise OffTheGpuError(f"{func} by a mask, which the host has to count")
        return out


class Transfers(TorchDispatchMode):
    """Count the copies between host and GPU; ``to_host`` and ``to_gpu`` are shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.to_host: list[tuple[int, ...]] = []
        self.to_gpu: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            before = {x.device.type for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
            if before == {"cuda"} and out.device.type == "cpu":
                self.to_host.append(tuple(out.shape))
            if before == {"cpu"} and out.device.type == "cuda":
                self.to_gpu.append(tuple(out.shape))
        return out


def zero_gradients(
    outputs: Tensor, inputs: Sequence[Tensor], *, retain_graph: bool | None = None, **_: Any
) -> tuple[Tensor, ...]:
    """What ``autograd.grad`` may be asked: of a scalar in float32, with a graph, for parameters on the GPU."""
    assert outputs.requires_grad
    assert outputs.shape == ()
    assert outputs.dtype == torch.float32
    assert all(x.requires_grad and x.device == GPU for x in inputs)
    return tuple(torch.zeros_like(x) for x in inputs)


def numpy_of(x: Tensor) -> np.ndarray:
    """Zeros for a tensor on the CPU; a tensor elsewhere has no such form, as torch says."""
    if x.device.type != "cpu":
        raise TypeError(f"can't convert {x.device} device type tensor to numpy")
    return np.zeros(x.shape, str(x.dtype).removeprefix("torch."))


@contextmanager
def fake_cuda() -> Iterator[FakeTensorMode]:
    """Inside, tensors are fake, ``cuda:0`` exists, and gradients are zeros."""
    mode = FakeTensorMode()
    from_numpy = torch.from_numpy
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # deepcopy of a parameter
        patch.setattr(FakeTensorMode, "__deepcopy__", lambda self, _: self, raising=False)
        patch.setattr(FakeTensor, "numpy", numpy_of, raising=False)
        patch.setattr(FakeTensor, "pin_memory", lambda self: self.clone(), raising=False)
        patch.setattr(torch, "from_numpy", lambda x: mode.from_tensor(from_numpy(x)))
        patch.setattr("worldrl.agent.choose_device", lambda _: GPU)
        patch.setattr(torch.autograd, "grad", zero_gradients)
        patch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
        patch.setattr(torch.cuda, "set_device", lambda _: None)
        patch.setattr(torch.cuda, "mem_get_info", lambda _: (2**36, 2**36))
        with mode:
            yield mode


# --- capture ----------------------------------------------------------------------------------------------------------


class Recorder:
    """Stands for CUDA's streams and graphs: says what happens between them, and records nothing."""

    def __init__(self) -> None:
        self.capturing = False
        self.replays = 0
        self.restored_rng = 0

    @contextmanager
    def graph(self, _: Any, pool: Any) -> Iterator[None]:
        assert pool == "pool"
        self.capturing = True
        yield
        self.capturing = False

    def replay(self) -> None:
        self.replays += 1

    def restore_rng(self, *_: Any) -> None:
        self.restored_rng += 1


@contextmanager
def fake_graphs() -> Iterator[Recorder]:
    """Inside, ``training.speed`` finds streams and graphs."""
    recorder = Recorder()
    with _streams() as patch:
        patch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=recorder.replay))
        patch.setattr(torch.cuda, "graph", recorder.graph)
        patch.setattr(torch.cuda, "get_rng_state", lambda _: torch.zeros(16, dtype=torch.uint8, device="cpu"))
        patch.setattr(torch.cuda, "set_rng_state", recorder.restore_rng)
        yield recorder


@contextmanager
def _streams() -> Iterator[pytest.MonkeyPatch]:
    stream = SimpleNamespace(wait_stream=lambda _: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
        patch.setattr(torch.cuda, "Stream", lambda _: stream)
        patch.setattr(torch.cuda, "current_stream", lambda: stream)
        patch.setattr(torch.cuda, "stream", lambda _: nullcontext())
        yield patch


class Tape(TorchDispatchMode):
    """A graph on the CPU: the operators between its borders, to be run again on the same memory, and nothing else.

    Python is not run again, so a branch on data or a number that the host has read gives other results than the eager
    function does. What a capture itself computes is undone, for a GPU computes nothing then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}  # what was in the memory that operators have written

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._remember(value)
        out = func(*args, **kwargs)
        self.operators.append((func, args, kwargs, _tensors(out)))
        return out

    def _remember(self, written: Any) -> None:
        for x in _tensors(written):
            self.before.setdefault(x.data_ptr(), (x.detach(), x.detach().clone()))

    def __enter__(self) -> Any:
        self.rng = torch.get_rng_state()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.set_rng_state(self.rng)
        with torch.no_grad():
            for live, old in self.before.values():
                live.copy_(old)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, outputs in self.operators:
            for old, new in zip(outputs, _tensors(func(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


@contextmanager
def tapes() -> Iterator[None]:
    """Inside, graphs are tapes: ``training.speed`` captures on a CPU."""
    with _streams() as patch:
        patch.setattr(torch.cuda, "CUDAGraph", Tape)
        patch.setattr(torch.cuda, "graph", lambda tape, pool: tape)
        yield


def storages(tensors: Sequence[Tensor]) -> list[int]:
    """Which memory each tensor would lie in; a fake one has no address, but the same identity for good."""
    return [x.untyped_storage()._cdata for x in tensors]
