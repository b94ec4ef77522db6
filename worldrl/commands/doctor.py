"""Can this machine train, and what to do if it cannot: ``worldrl doctor``.

Checks what training needs, one thing after the other: the packages, one update on the device, OpenGL, worker processes,
videos. The exit code is 0 if the default training would start here, else 1. A GPU is not required.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from worldrl.data.settings import ReplayConfig
from worldrl.envs import rendering
from worldrl.envs.make import EnvConfig
from worldrl.envs.rendering import RenderConfig
from worldrl.errors import UserError
from worldrl.nn.compiler import cpp_compiler
from worldrl.terminal import Parser, command

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

OK, NOTE, WARN, FAIL = "ok", "note", "warn", "fail"
STYLES = {OK: "green", NOTE: "dim", WARN: "yellow", FAIL: "bold red"}

PACKAGE = "worldrl"
RATE_TASK, RATE_SECONDS, RATE_TIMEOUT_S = "walker_walk", 1.0, 120.0
WORKERS_TASK = "cartpole_balance"
WORKERS_TIMEOUT_S = 30.0
NO_VIDEOS = "eval.video=false trains without videos"
LITTLE_DISK = 5e9  # bytes: about what a run on images with the default replay writes


@dataclass(frozen=True)
class Check:
    """One line of the report. ``note`` is harmless, ``warn`` limits training, ``fail`` prevents it."""

    name: str
    status: str
    found: str
    remedy: str = ""


def judge(name: str, good: bool, found: str, gravity: str, remedy: str) -> Check:
    """A line that is ``ok`` if the finding is good, else of the given severity and with the remedy."""
    return Check(name, OK, found) if good else Check(name, gravity, found, remedy)


# --- what is examined -------------------------------------------------------------------------------------------------


def check_packages() -> Iterator[Check]:
    """Python and every package, compared with the ranges that this package declares."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    try:
        about = importlib.metadata.metadata(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        yield Check("packages", WARN, f"{PACKAGE} is not installed: no version is checked", "pip install -e .")
        return
    version, wanted = platform.python_version(), SpecifierSet(about["Requires-Python"])
    yield judge("python", wanted.contains(version), version, FAIL, f"install Python {wanted}")
    needed = map(Requirement, importlib.metadata.requires(PACKAGE) or ())
    checks = [_check_package(r.name, r.specifier) for r in needed if not r.marker or r.marker.evaluate({"extra": ""})]
    yield from (check for check in checks if check.status != OK)
    yield Check("packages", OK, ", ".join(check.found for check in checks if check.status == OK))


def _check_package(name: str, wanted: SpecifierSet) -> Check:
    remedy = f"pip install '{name}{wanted}'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, FAIL, f"{name} is missing", remedy)
    good = wanted.contains(version, prereleases=True)
    return judge(name, good, f"{name} {version}" + f", tested with {wanted}" * (not good), WARN, remedy)


def check_device() -> Iterator[Check]:
    """What ``device=auto`` and ``precision=auto`` mean here."""
    import torch

    from worldrl.data.memory import GIB
    from worldrl.nn.precision import choose_device, choose_precision

    device = choose_device("auto")
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        precision = choose_precision("auto", device, pixels=True).name
        name = f"{gpu.name}, {gpu.total_memory / GIB:.0f} GiB, compute capability {gpu.major}.{gpu.minor}"
        yield Check("device", OK, f"{name}; precision=auto is {precision} on images")
    elif shutil.which("nvidia-smi"):
        yield Check("device", WARN, "a GPU driver is here, but torch sees no GPU", _cuda_remedy(torch.version.cuda))
    else:
        yield Check("device", OK, "no CUDA GPU: training runs on the CPU in fp32")


def _cuda_remedy(built_for: str | None) -> str:
    if built_for is None:
        return "install a CUDA build of torch"
    return f"torch was built for CUDA {built_for}: update the driver, and check that CUDA_VISIBLE_DEVICES is not empty"


def check_update() -> Iterator[Check]:
    """One update of a world-model agent at its paper's sizes, on a small batch."""
    from worldrl.commands.bench.cases import Mode, first_losses, make_agent, make_batch, make_case
    from worldrl.nn.precision import choose_device
    from worldrl.training.speed import make_update

    device, case = choose_device("auto"), make_case("latent_sac")
    agent = make_agent(case, Mode("eager", "auto"), device)
    batch = make_batch(case.spec, 2, 4, device)
    start = time.perf_counter()
    losses = first_losses(agent, make_update(agent, "eager"), batch)[-1]
    seconds = time.perf_counter() - start
    finite = all(map(math.isfinite, losses.values()))
    found = f"two updates on {device} in {agent.precision.name}, {seconds:.1f} s"
    yield judge("update", finite, found + ": the losses are not finite" * (not finite), FAIL, "reinstall torch")


def check_cpu() -> Iterator[Check]:
    """The cores that this process may use, compared with the threads that torch would use."""
    import torch

    cores, threads = usable_cores(), torch.get_num_threads()
    found = f"{cores} cores, {threads} torch threads" + ": the threads compete for cores" * (threads > cores)
    yield judge("cpu", threads <= cores, found, WARN, f"set threads={cores}, or OMP_NUM_THREADS")
    if not cpp_compiler():
        yield Check("compiler", NOTE, "no C++ compiler: speed=compile does not work", "apt-get install g++")


def usable_cores() -> int:
    """The number of cores that the system lets this process run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_memory() -> Iterator[Check]:
    """Free memory, compared with the default replay, and free disk space where runs are written."""
    import torch

    from worldrl.commands.bench.cases import PIXEL_SPEC
    from worldrl.data.memory import GIB, available_bytes
    from worldrl.data.replay import nbytes, row_bytes

    free, capacity = available_bytes(torch.device("cpu")), ReplayConfig().capacity
    needed = nbytes(PIXEL_SPEC, capacity)
    if free is None:
        yield Check("memory", WARN, "the free memory cannot be read")
    else:
        rows = int(0.8 * free / row_bytes(PIXEL_SPEC)) // 1000 * 1000
        found = f"{free / GIB:.1f} GiB free; the default replay grows to {needed / GIB:.1f} GiB on images"
        yield judge("memory", free >= needed, found, FAIL, f"set replay.capacity={rows} or less")
    disk = shutil.disk_usage(Path.cwd()).free
    found = f"{disk / GIB:.1f} GiB free in {Path.cwd()}"
    yield judge("disk", disk > LITTLE_DISK, found, WARN, "write runs elsewhere: hydra.run.dir=DIR")


def check_rendering() -> Iterator[Check]:
    """Every OpenGL backend in a process of its own, and the one that training would use."""
    probes = rendering.probe_backends()
    for name, probe in probes.items():
        status, rates = (OK, f"; {frame_rates(name)}") if probe.works else (NOTE, "")
        yield Check(f"rendering {name}", status, probe.text + rates)
    try:
        chosen = rendering.choose_backend()
    except UserError as error:
        yield Check("rendering", FAIL, "images cannot be drawn", str(error))
        return
    works = chosen not in probes or probes[chosen].works
    found = rendering.describe_backend().removeprefix("rendering: ") + ", which does not work" * (not works)
    yield judge("rendering", works, found, FAIL, "unset the variable, or install what this backend needs")


def frame_rates(backend: str) -> str:
    """Images per second of a backend, measured in a child process, because a process has only one backend."""
    code = f"from worldrl.commands.doctor import print_frame_rates; print_frame_rates({backend!r})"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=RATE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"no images of {RATE_TASK} within {RATE_TIMEOUT_S:.0f} s"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or ["it died without a message"]
    return lines[-1] if done.returncode == 0 else f"{RATE_TASK} cannot be drawn: {lines[-1]}"


def print_frame_rates(backend: str) -> None:
    """The child's part of ``frame_rates``."""
    from worldrl.commands.bench.runs import env_rate

    rates = []
    for quality in rendering.QUALITIES:
        config = EnvConfig(action_repeat=1, render=RenderConfig(backend, quality))
        rates.append(f"{env_rate(config, RATE_TASK, RATE_SECONDS):.0f}/s {quality}")
    print(f"images of {RATE_TASK}: {', '.join(rates)}")


def check_workers() -> Iterator[Check]:
    """Two environments in worker processes, one step each."""
    from worldrl.envs import make_envs

    config = dataclasses.replace(EnvConfig(obs="state"), timeout_s=WORKERS_TIMEOUT_S)
    start = time.perf_counter()
    envs = make_envs(config, WORKERS_TASK, seed=0, num_envs=2)
    try:
        envs.reset()
        envs.step(np.zeros((2, envs.spec.action_dim), np.float32))
    finally:
        envs.close()
    yield Check("workers", OK, f"two worker processes started and stepped in {time.perf_counter() - start:.1f} s")


def check_videos() -> Iterator[Check]:
    """Whether an MP4 and a GIF can be written, and the MP4 read back."""
    from worldrl.acting.video import save_video

    frames = np.zeros((4, 64, 64, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        save_video(Path(folder) / "a.gif", frames, 10)
        path = save_video(Path(folder) / "a.mp4", frames, 10, ["test"] * len(frames))
        import av

        with av.open(str(path)) as film:
            count = sum(1 for _ in film.decode(video=0))
    found = f"mp4 and gif can be written; an mp4 of {len(frames)} frames reads back as {count}"
    yield judge("videos", count == len(frames), found, WARN, NO_VIDEOS)


# By name: the check, the severity of an exception in it, and what to do about it.
CHECKS: dict[str, tuple[Callable[[], Iterator[Check]], str, str]] = {
    "packages": (check_packages, FAIL, ""),
    "device": (check_device, FAIL, ""),
    "update": (check_update, FAIL, ""),
    "cpu": (check_cpu, WARN, ""),
    "memory": (check_memory, WARN, ""),
    "rendering": (check_rendering, FAIL, ""),
    "workers": (check_workers, WARN, "env.num_envs=1 trains without workers"),
    "videos": (check_videos, WARN, NO_VIDEOS),
}


# --- the command ------------------------------------------------------------------------------------------------------


def examine(names: Sequence[str] | None = None) -> Iterator[Check]:
    """Run the named checks, or all; a check that raises is a finding like any other."""
    for name in CHECKS if names is None else names:
        check, gravity, remedy = CHECKS[name]
        try:
            yield from check()
        except Exception as error:  # the things that are examined may be broken in any way
            text = " ".join(str(error).split())
            found = text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
            yield Check(name, gravity, found, remedy)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 when training is possible, else 1."""
    parser = Parser(prog="worldrl doctor", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    options = parser.parse_args(argv)
    console = Console(highlight=False, soft_wrap=True, stderr=options.json)
    found = []
    for check in examine():
        found.append(check)
        show(console, check)
    possible = all(check.status != FAIL for check in found)
    if options.json:
        print(json.dumps({"training_possible": possible, "checks": [dataclasses.asdict(c) for c in found]}, indent=1))
    else:
        console.print("training is possible" if possible else "training is not possible yet: see 'fail' above")
    return 0 if possible else 1


def show(console: Console, check: Check) -> None:
    """Print one line for a finding, and one for its remedy."""
    from rich.text import Text

    console.print(Text.assemble((f"{check.status:5}", STYLES[check.status]), f"{check.name}: {check.found}"))
    if check.remedy:
        console.print(Text(f"     -> {check.remedy}"))


if __name__ == "__main__":
    sys.exit(main())
