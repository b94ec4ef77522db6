"""Eager, compiled and captured updates: flags around the one function ``Agent.update``.

Eager is the tested reference. ``compile`` compiles, on a CPU, the whole update of a head (forward, backward, Adam) and,
on a GPU, the methods that a head or belief lists in ``compiled``. ``capture`` records the whole update of an agent as
one CUDA graph per (phase, shapes) and replays it.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from worldrl.agent import Agent
from worldrl.errors import UserError
from worldrl.nn.compiler import load_compiler
from worldrl.types import Batch, Extra, Metrics

WARMUP_UPDATES = 3
M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1  # glibc's malloc.h
INT_MAX = 2**31 - 1


class Update(Protocol):
    """``Agent.update``, however it runs."""

    def __call__(self, phase: str, batch: Batch, extra: Extra | None = None) -> Metrics: ...


def make_update(agent: Agent, speed: str) -> Update:
    """The update function of a run; it also counts ``agent.updates``.

    Args:
        agent: what is trained; ``compile`` replaces some methods of its parts.
        speed: ``eager``, ``compile`` or ``capture``.

    Raises:
        UserError: ``capture`` without a CUDA device.
    """
    run = _choose(agent, speed)

    def update(phase: str, batch: Batch, extra: Extra | None = None) -> Metrics:
        metrics = run(phase, batch, extra)
        agent.updates += 1
        return metrics

    return update


def _choose(agent: Agent, speed: str) -> Update:
    on_gpu = agent.device.type == "cuda"
    if speed == "capture":
        if not on_gpu:
            raise UserError("speed=capture", f"the device {agent.device.type}", "a CUDA GPU", "use eager or compile")
        return CapturedUpdate(agent)
    if not on_gpu:
        keep_freed_memory()
    if speed == "compile":
        compile_parts(agent)
    return agent.update


def keep_freed_memory() -> None:
    """Let the C library reuse large blocks of memory instead of returning them to the kernel; glibc only.

    An update on images allocates tensors of tens of MB over and over, and getting fresh, zeroed pages for each of them
    takes a seventh of its time on a CPU. The price is that the process keeps its peak memory.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, INT_MAX)


# --- compiling --------------------------------------------------------------------------------------------------------


def compile_parts(agent: Agent) -> None:
    """Replace what is worth compiling by its compiled form.

    On a CPU the many small operators of a head dominate, and one graph of its whole update fuses them; this asks for a
    torch that can trace ``autograd.grad``. Elsewhere it is the single methods. Random numbers stay those of the eager
    operators, so that a compiled run draws what an eager run draws, and the checkpoint of the generator means the same
    in both.
    """
    load_compiler("speed=compile")
    # By default ReLU masks are kept as bools in addition to the activations that already hold them.
    torch._functorch.config.ban_recompute_materialized_backward = False
    whole = agent.device.type == "cpu" and hasattr(torch._dynamo.config, "trace_autograd_ops")
    if whole:
        torch._dynamo.config.trace_autograd_ops = True
    for part in (agent.model, agent.head):
        names = part.compiled
        for name in ("update",) if whole and part is agent.head and names else names:
            compiled = torch.compile(getattr(part, name), dynamic=False, options={"fallback_random": True})
            setattr(part, name, compiled)


# --- capturing --------------------------------------------------------------------------------------------------------


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]  # what a batch is copied into
    names: list[str]  # of the metrics
    metrics: Tensor  # (len(names),) overwritten by each replay


class CapturedUpdate:
    """``Agent.update`` as CUDA graphs, one per phase, batch shapes and kinds of extra batches.

    A graph holds addresses, so whatever it reads or writes must stay where it is: parameters, targets and Adam's state
    are loaded and restored in place, batches are copied into static inputs, metrics are copied out. Noise comes from
    the device's default generator, whose offset a replay reads and advances as the eager update would.
    """

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.graphs: dict[tuple[Any, ...], _Graph] = {}
        self.pool = torch.cuda.graph_pool_handle()  # shared: no graph reads what another left there

    def __call__(self, phase: str, batch: Batch, extra: Extra | None = None) -> Metrics:
        batches = {"": batch, **(extra or {})}
        tensors = _flatten(batches)
        key = (phase, *batches, *(tuple(x.shape) for x in tensors))
        if key not in self.graphs:
            self.graphs[key] = self._capture(phase, batches)
        graph = self.graphs[key]
        torch._foreach_copy_(graph.inputs, tensors)
        graph.graph.replay()
        return dict(zip(graph.names, graph.metrics.clone().unbind(), strict=True))

    def _capture(self, phase: str, batches: Extra) -> _Graph:
        """Warm up on a snapshot that is put back, then record. ``batches`` is the slice, under "", and the extras."""
        inputs = [x.clone(memory_format=torch.contiguous_format) for x in _flatten(batches)]
        static = _unflatten(batches, inputs)
        batch = static.pop("")
        self._warm_up(phase, batch, static)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            metrics = self.agent.update(phase, batch, static)
            values = torch.stack([value.float() for value in metrics.values()])
        return _Graph(graph, inputs, list(metrics), values)

    def _warm_up(self, phase: str, batch: Batch, extra: Extra) -> None:
        """Run eagerly until libraries have chosen their kernels and every lazily made tensor exists; undo it all."""
        snapshot = _Snapshot(self.agent)
        stream = torch.cuda.Stream(self.agent.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_UPDATES):
                self.agent.update(phase, batch, extra)
        torch.cuda.current_stream().wait_stream(stream)
        snapshot.restore()


class _Snapshot:
    """Every tensor that an update writes, and the random state; restored in place, since graphs hold addresses."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.live = _written_tensors(agent)
        self.saved = [x.detach().clone() for x in self.live]
        self.latched = {phase: bad.clone() for phase, bad in agent._bad.items()}
        self.rng = torch.get_rng_state() if agent.device.type == "cpu" else torch.cuda.get_rng_state(agent.device)

    @torch.no_grad()
    def restore(self) -> None:
        for live, saved in zip(self.live, self.saved, strict=True):
            live.copy_(saved)
        for phase, bad in self.agent._bad.items():
            bad.copy_(self.latched.get(phase, torch.full_like(bad, -1)))
        if self.agent.device.type == "cpu":
            torch.set_rng_state(self.rng)
        else:
            torch.cuda.set_rng_state(self.rng, self.agent.device)


def _written_tensors(agent: Agent) -> list[Tensor]:
    tensors = [*agent.model.state_dict().values(), *agent.head.state_dict().values(), agent.counter]
    for optimizer in agent.optimizers.values():
        tensors.extend(optimizer.state_tensors())
    return tensors


def _flatten(batches: Extra) -> list[Tensor]:
    return [x for batch in batches.values() for x in (*batch.obs.values(), *batch[1:])]


def _unflatten(batches: Extra, tensors: list[Tensor]) -> Extra:
    rest = iter(tensors)
    return {
        name: Batch({key: next(rest) for key in batch.obs}, *(next(rest) for _ in batch[1:]))
        for name, batch in batches.items()
    }
