"""Eager, compiled and captured updates: flags around the one function ``Agent.update``.

Eager is the tested reference. ``compile`` compiles, on a CPU, the whole update of a head (forward, backward, Adam) and,
on a GPU, the methods that a head or belief lists in ``compiled``. ``capture`` records the whole update of an agent and
its acting as CUDA graphs and replays them.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from worldrl.agent import Acting, Agent
from worldrl.errors import UserError
from worldrl.nn.compiler import cpp_compiler, load_compiler
from worldrl.types import NOISE, Batch, Belief, Extra, Metrics, Noise, Obs, State

WARMUP_RUNS = 3
LONG = 30_000  # updates, in which a compiled head saves about a minute; compiling takes half of one
M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1  # glibc's malloc.h
INT_MAX = 2**31 - 1

T = TypeVar("T")


class Update(Protocol):
    """``Agent.update`` in any of its forms."""

    def __call__(self, phase: str, batch: Batch, extra: Extra | None = None) -> Metrics: ...


def form_of(speed: str, agent: Agent, updates: int) -> str:
    """``speed``, where ``auto`` is the form that is worth its start in a run of so many ``updates``.

    On a CPU, a head without a world model is compiled if it has long enough to go: a head's many small operators are
    then most of the time. Everything else is eager; ``capture`` has to be asked for.
    """
    if speed != "auto":
        return speed
    worth = agent.device.type == "cpu" and agent.head.compiled and not list(agent.model.parameters())
    if not worth or updates < LONG or not cpp_compiler():
        return "eager"
    try:
        load_compiler("speed=auto")
    except UserError:
        return "eager"
    return "compile"


def make_update(agent: Agent, speed: str) -> Update:
    """The update function of a run; it also counts ``agent.updates``.

    Args:
        agent: the agent; ``compile`` replaces some methods of its parts, ``capture`` its ``choose``.
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
        graphs = Graphs(agent)
        capture_acting(agent, graphs)
        return captured_update(agent, graphs)
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
    """Compile the parts that are worth compiling.

    On a CPU the many small operators of a head dominate, and one graph of its whole update fuses them; this requires a
    torch that can trace ``autograd.grad``. Elsewhere single methods are compiled. Random numbers come from the eager
    operators, so a compiled run draws the same numbers as an eager run and its checkpoints are compatible.
    """
    load_compiler("speed=compile")
    torch._dynamo.reset()  # it stops compiling after a few agents with other settings, as in a sweep
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
    inputs: list[Tensor]  # arguments are copied into these
    outputs: list[Tensor]  # overwritten by each replay
    structure: Any  # of the outputs


class Graphs:
    """Functions of an agent as CUDA graphs, one for each key and the shapes of its arguments.

    A graph holds addresses, so everything that it reads or writes must stay in place: parameters, targets and Adam's
    state are loaded and restored in place, arguments are copied into static tensors, results are copied out. The noise
    is from the device's default generator, whose offset a replay reads and advances as the eager function would.
    """

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.graphs: dict[tuple[Any, ...], _Graph] = {}
        self.pool = torch.cuda.graph_pool_handle()  # shared: no graph reads another's leftovers

    def __call__(self, key: Any, function: Callable[..., T], *arguments: Any) -> T:
        """``function(*arguments)``, where arguments and result are dicts and tuples of tensors on the device."""
        tensors, structure = tree_flatten(arguments)
        key = (key, structure, *(x.shape for x in tensors))
        if key not in self.graphs:
            self.graphs[key] = self._capture(function, tensors, structure)
        graph = self.graphs[key]
        torch._foreach_copy_(graph.inputs, tensors)
        graph.graph.replay()
        results = [torch.empty_like(x) for x in graph.outputs]
        torch._foreach_copy_(results, graph.outputs)
        return tree_unflatten(results, graph.structure)

    def _capture(self, function: Callable[..., Any], tensors: list[Tensor], structure: Any) -> _Graph:
        """Warm up, restore the state from before, then record."""
        inputs = [x.clone(memory_format=torch.contiguous_format) for x in tensors]
        arguments = tree_unflatten(inputs, structure)
        self._warm_up(function, arguments)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            outputs, structure = tree_flatten(function(*arguments))
        return _Graph(graph, inputs, outputs, structure)

    def _warm_up(self, function: Callable[..., Any], arguments: Any) -> None:
        """Run eagerly until libraries have chosen their kernels and all lazy tensors exist, then undo everything."""
        snapshot = _Snapshot(self.agent)
        stream = torch.cuda.Stream(self.agent.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_RUNS):
                function(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        snapshot.restore()


def captured_update(agent: Agent, graphs: Graphs) -> Update:
    """``Agent.update`` as graphs, one per phase, batch shapes and kinds of extra batches."""

    def update(phase: str, batch: Batch, extra: Extra | None = None) -> Metrics:
        return graphs(phase, partial(agent.update, phase), batch, extra or {})

    return update


def capture_acting(agent: Agent, graphs: Graphs) -> None:
    """Replace the device part of ``Agent.act`` by graphs, one per number of rows and paths and mode of acting.

    Episodes whose rows have their own generators are played eagerly, because that noise is made on the host.
    """
    eager = agent.choose

    def choose(
        state: State, obs: Obs, prev_action: Tensor, is_first: Tensor, how: Acting, noise: Noise
    ) -> tuple[State, Tensor, Belief]:
        if noise is not NOISE:
            return eager(state, obs, prev_action, is_first, how, noise)
        function = partial(eager, how=how, noise=NOISE)
        return graphs(how, function, state, obs, prev_action, is_first)

    setattr(agent, "choose", choose)  # noqa: B010


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
