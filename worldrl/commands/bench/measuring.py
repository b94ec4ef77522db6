"""What all measurements share: their settings, a clock, threads, and a large matrix product as a yardstick."""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

import worldrl
from worldrl.nn import products
from worldrl.nn.precision import cpu_info

MATMUL_SIZE = {"cpu": 2048, "cuda": 8192}  # a GPU computes 2048^3 in about the time of its launch
WARMUP = 2

Row = dict[str, Any]  # of a table


class Job(NamedTuple):
    """One measurement: it is made once, and its rows are saved under its name."""

    name: str
    measure: Callable[[], list[Row]]


class Bench(NamedTuple):
    """The settings of a benchmark."""

    device: torch.device
    agents: Sequence[str]
    batches: Sequence[tuple[int, int]]  # windows and rows of agents without a batch of their own
    threads: Sequence[int]
    repeats: int
    task: str


Step = Callable[[Bench], Iterator[Job]]


def machine(device: torch.device) -> dict[str, str]:
    """The machine and versions that the figures belong to."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    kernels = torch.backends.cpu.get_cpu_capability()
    return {"device": name, "cpu kernels": kernels, "torch": torch.__version__, "worldrl": worldrl.__version__}


def _cpu_name() -> str:
    found = re.search(r"^model name\s*: (.*)$", cpu_info(), re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Inside this block, torch has ``n`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def milliseconds(run: Callable[[], Any], device: torch.device, repeats: int, warmup: int = WARMUP) -> float:
    """Median time of one call: on the host, or by events on a GPU, for which the host does not wait."""
    for _ in range(warmup):
        run()
    once = _once_cuda if device.type == "cuda" else _once_cpu
    return statistics.median(once(run) for _ in range(repeats))


def in_turns(runs: Mapping[str, Callable[[], Any]], device: torch.device, repeats: int) -> tuple[Row, Row]:
    """The median time of each, and the median over all turns of the first one's time divided by its own."""
    for run in runs.values():
        run()
    turns = [{name: milliseconds(run, device, 1, warmup=0) for name, run in runs.items()} for _ in range(repeats)]
    first = next(iter(runs))
    median = {name: statistics.median(turn[name] for turn in turns) for name in runs}
    return median, {name: statistics.median(turn[first] / turn[name] for turn in turns) for name in runs}


def _once_cpu(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def _once_cuda(run: Callable[[], Any]) -> float:
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop)


def yardstick(device: torch.device, precision: str) -> tuple[str, float]:
    """The library with the fastest large matrix product here, and its GFLOP/s; on CUDA float32 is TF32, as in training.

    On a CPU both of torch's libraries are tried, whichever one this package uses (``nn/products.py``).
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        return "cuda", _matmul_rate(device, precision)
    libraries = ["torch", *(["onednn"] if products.available() and precision == "fp32" else [])]
    return max(((name, _matmul_rate(device, precision, name)) for name in libraries), key=lambda found: found[1])


def _matmul_rate(device: torch.device, precision: str, library: str | None = None) -> float:
    size = MATMUL_SIZE[device.type]
    a = torch.randn(size, size, device=device).to(torch.float32 if precision == "fp32" else torch.bfloat16)
    with using(library):
        ms = milliseconds(lambda: products.linear(a, a), device, repeats=10, warmup=5)  # the warm-up lets clocks rise
    return 2.0 * size**3 / ms / 1e6


@contextmanager
def using(library: str | None) -> Iterator[None]:
    """Inside this block, float32 products on a CPU use this library; ``None`` is the usual one."""
    before = products.used()
    products.use(library)
    try:
        yield
    finally:
        products.use(before)
