"""Eager, compiled and captured updates: flags around the one function ``Agent.update``.

Eager is the tested reference. ``compile`` compiles the methods that a head or belief lists in ``compiled``; ``capture``
records the whole update (forward, backward, optimiser) as one CUDA graph per (phase, shapes) and replays it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from worldrl.agent import Agent
from worldrl.errors import UserError
from worldrl.types import Batch, Metrics

WARMUP_UPDATES = 3


def make_update(agent: Agent, speed: str) -> Callable[[str, Batch], Metrics]:
    """The update function of a run; it also counts ``agent.updates``."""
    if speed == "capture":
        if agent.device.type != "cuda":
            raise UserError(f"speed=capture needs a CUDA GPU, the device is {agent.device.type}; use eager or compile")
        run: Callable[[str, Batch], Metrics] = CapturedUpdate(agent)
    else:
        if speed == "compile":
            compile_parts(agent)
        run = agent.update

    def update(phase: str, batch: Batch) -> Metrics:
        metrics = run(phase, batch)
        agent.updates += 1
        return metrics

    return update


def compile_parts(agent: Agent) -> None:
    """Replace the methods worth compiling by their compiled form."""
    for part in (agent.model, agent.head):
        for name in getattr(part, "compiled", ()):
            setattr(part, name, torch.compile(getattr(part, name)))


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    metrics: Metrics


class CapturedUpdate:
    """``Agent.update`` as CUDA graphs. Roulette phases each get a graph of their own, so use it eagerly."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.graphs: dict[tuple[Any, ...], _Graph] = {}

    def __call__(self, phase: str, batch: Batch) -> Metrics:
        tensors = _flatten(batch)
        key = (phase, *(tuple(x.shape) for x in tensors))
        if key not in self.graphs:
            self.graphs[key] = self._capture(phase, batch)
        graph = self.graphs[key]
        torch._foreach_copy_(graph.inputs, tensors)
        graph.graph.replay()
        return {name: value.clone() for name, value in graph.metrics.items()}

    def _capture(self, phase: str, batch: Batch) -> _Graph:
        """Warm up on a snapshot that is put back, then record."""
        inputs = [x.clone() for x in _flatten(batch)]
        static = _unflatten(batch, inputs)
        snapshot = _Snapshot(self.agent)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_UPDATES):
                self.agent.update(phase, static)
        torch.cuda.current_stream().wait_stream(stream)
        snapshot.restore()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            metrics = self.agent.update(phase, static)
        return _Graph(graph, inputs, metrics)


class _Snapshot:
    """Every tensor that an update writes, and the random state; restored in place, since graphs hold addresses."""

    def __init__(self, agent: Agent) -> None:
        self.live = _written_tensors(agent)
        self.saved = [x.detach().clone() for x in self.live]
        self.rng = torch.cuda.get_rng_state(agent.device)
        self.device = agent.device
        self.agent = agent

    @torch.no_grad()
    def restore(self) -> None:
        for live, saved in zip(self.live, self.saved, strict=True):
            live.copy_(saved)
        for bad in self.agent._bad.values():
            bad.fill_(-1)
        torch.cuda.set_rng_state(self.rng, self.device)


def _written_tensors(agent: Agent) -> list[Tensor]:
    tensors = [*agent.model.state_dict().values(), *agent.head.state_dict().values(), agent.counter]
    for optimizer in agent.optimizers.values():
        for state in optimizer.adam.state.values():
            tensors.extend(x for x in state.values() if isinstance(x, Tensor))
        if optimizer.scaler is not None:
            tensors.extend(optimizer.scaler_tensors())
    return tensors


def _flatten(batch: Batch) -> list[Tensor]:
    return [*batch.obs.values(), *batch[1:]]


def _unflatten(batch: Batch, tensors: list[Tensor]) -> Batch:
    n = len(batch.obs)
    return Batch(dict(zip(batch.obs, tensors[:n], strict=True)), *tensors[n:])
