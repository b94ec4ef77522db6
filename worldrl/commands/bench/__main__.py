"""``worldrl bench``: measure, print, and save after every measurement.

Measures one update of each agent, the replay, the environments and a short training run, and compares them with large
matrix products in the same process. Every fast path must reproduce the losses of the eager float32 update on the same
batch, weights and seed; if one does not, the exit code is 1. With --json a second call continues where the first ended.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from worldrl.commands.bench import runs, updates
from worldrl.commands.bench.cases import AGENTS, LARGE
from worldrl.commands.bench.measuring import Bench, Job, Row, Step, machine
from worldrl.errors import UserError, check_writable
from worldrl.files import damaged, read_json
from worldrl.nn.precision import choose_device
from worldrl.report.tables import to_markdown
from worldrl.terminal import Parser, command, positive, say, to_json, whole

STEPS: dict[str, Step] = {
    "tests": runs.tests,
    "end_to_end": runs.end_to_end,
    "paper": runs.paper,
    "acting": updates.acting,
    "precision": updates.precision,
    "updates": updates.updates,
    "costs": updates.costs,
    "growth": updates.growth,
    "sb3": runs.sb3,
    "replay": runs.replay,
    "data": runs.data,
    "env": runs.env,
}
USUAL = ("updates", "replay", "env", "end_to_end")
GROWTH = ("costs", "growth")
GPU = ("tests", "end_to_end", "paper", "acting", "precision", "updates")
ON_STATES = ("sac", "td3", "ddpg", "mpo", "miracle", "virel", "value_sac", "pmoe_sac", "dqn", "soft_q", "mirl")
ON_DATA = ("misa", "cql", "iql", "awac", "onestep", "td3_bc", "rebrac", "bc")
GPU_AGENTS = (*LARGE, *ON_STATES, *ON_DATA)  # each head once
GPU_MINUTES = 33.0  # a measurement that begins before then ends before 40: the longest take 5
GPU_FILE = Path("bench-gpu.json")

Results = dict[str, Any]


def parse_shape(text: str) -> tuple[int, int]:
    """``16x32`` -> (16, 32)."""
    batch, _, length = text.partition("x")
    if not (batch.isdigit() and length.isdigit() and int(batch) > 0 and int(length) > 1):
        raise argparse.ArgumentTypeError(f"found '{text}', expected BxT such as 16x32, with T of 2 or more")
    return int(batch), int(length)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command."""
    parser = Parser(prog="worldrl bench", description=(__doc__ or "").split("\n\n")[1])
    add = parser.add_argument
    add("--only", nargs="+", choices=STEPS, help=f"what to measure (default: {' '.join(USUAL)})")
    add("--growth", dest="only", action="store_const", const=GROWTH, help=f"--only {' '.join(GROWTH)}")
    gpu = f"--only {' '.join(GPU)}, each head once, with --minutes {GPU_MINUTES:.0f} and --json {GPU_FILE}"
    add("--sb3", action="store_true", help="compare with Stable-Baselines3: the only step, or one more of --only")
    add("--gpu", action="store_true", help=f"everything about a new GPU in less than 40 minutes: {gpu}")
    add("--agents", nargs="+", choices=AGENTS, help="agents to update (default: all)")
    add("--batch", nargs="+", type=parse_shape, help="BxT of pixel agents except SLAC (default: 16x32, on CUDA 50x50)")
    add("--threads", nargs="+", type=whole(), help="torch threads on a CPU (default: 1, and torch's own number)")
    add("--repeats", type=whole(), default=10, help="timed updates, after a warm-up (default: 10)")
    add("--task", default="walker_walk", help="task of environments and training runs (default: walker_walk)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--minutes", type=positive, help="begin no measurement after this many (default: no limit)")
    add("--json", type=Path, metavar="PATH", help="save the figures here; existing ones are kept")
    return parser.parse_args(argv)


def plan(args: argparse.Namespace) -> Bench:
    """The settings of the benchmark, with the defaults of the device; completes ``args``."""
    device, usual = choose_device(args.device), torch.get_num_threads()
    on_gpu = device.type == "cuda"
    if args.gpu:
        if not on_gpu and args.device == "auto":
            raise UserError(
                "--gpu", "no CUDA GPU that torch sees", "one", "--device cpu goes through its steps without one"
            )
        args.minutes, args.json = args.minutes or GPU_MINUTES, args.json or GPU_FILE
    args.only = [*(args.only or (GPU if args.gpu else () if args.sb3 else USUAL)), *["sb3"] * args.sb3]
    agents = args.agents or (GPU_AGENTS if args.gpu else AGENTS)
    threads = args.threads or ([usual] if on_gpu else sorted({1, usual}))
    return Bench(device, agents, args.batch or [(50, 50) if on_gpu else (16, 32)], threads, args.repeats, args.task)


def saved(path: Path, found: Results) -> Results:
    """The figures of an earlier call on the same machine, or an empty set of them."""
    check_writable(path)
    if not path.exists():
        return {"machine": found}
    results = read_json(path)
    if not isinstance(results, dict) or not all(isinstance(step, dict) for step in results.values()):
        raise damaged(path, "other JSON", "figures of worldrl bench", "choose another file with --json")
    if results.get("machine") != found:
        there, here = (", ".join((x or {"": "nothing"}).values()) for x in (results.get("machine"), found))
        raise UserError(str(path), f"figures of {there}", f"those of {here}", "choose another file with --json")
    return results


def take(job: Job) -> list[Row]:
    """The rows of a measurement, or one that says why there are none: the others can still be made."""
    try:
        return job.measure()
    except UserError as error:  # such as missing OpenGL
        return [{"not measured": str(error)}]
    except (RuntimeError, subprocess.SubprocessError) as error:  # of memory, a kernel or a compiler
        return [{"error": f"{type(error).__name__}: {error}"}]


def is_measured(rows: list[Row]) -> bool:
    """Whether a measurement is complete."""
    return bool(rows) and not any("error" in row or "not measured" in row for row in rows)


def show(step: str, jobs: dict[str, list[Row]]) -> None:
    """Print one table of what was measured, and a line for what was not."""
    good = [{key: _text(x) for key, x in row.items()} for rows in jobs.values() if is_measured(rows) for row in rows]
    if good:
        print(f"\n{step.replace('_', ' ')}\n\n{to_markdown(good)}\n")
    for name, rows in jobs.items():
        if not is_measured(rows):
            print(f"{name}: {'; '.join(map(str, rows[0].values()))}")


def _text(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0e}" if 0 < abs(value) < 0.01 else f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"


def is_bad(row: Row) -> bool:
    """Whether something failed, or the losses of a fast path differ from the reference."""
    return "error" in row or not row.get("agrees", True) or not row.get("passed", True)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, which is 1 if a fast path differs or something failed."""
    args = parse_args(argv)
    bench = plan(args)
    found = machine(bench.device)
    results: Results = saved(args.json, found) if args.json else {"machine": found}
    torch.backends.cudnn.benchmark = True  # as in training
    print(", ".join(found.values()))
    left = _measure(bench, args, results)
    if left:
        say(f"{left} measurements are left; the same command continues with them")
    if any(is_bad(row) for step in args.only for rows in results[step].values() for row in rows):
        say("error: something failed, or a fast path differs from the eager float32 update by more than its tolerance")
        return 1
    return 0


def _measure(bench: Bench, args: argparse.Namespace, results: Results) -> int:
    """Make the measurements that ``results`` lacks; returns how many there was no time for."""
    end, left = time.monotonic() + 60 * (args.minutes or float("inf")), 0
    for step in args.only:
        jobs = results.setdefault(step, {})
        for job in STEPS[step](bench):
            if is_measured(jobs.get(job.name, [])):
                continue
            if time.monotonic() > end:
                left += 1
                continue
            say(f"{step}: {job.name}")
            jobs[job.name] = take(job)
            _save(args.json, results)
        show(step, jobs)
    return left


def _save(path: Path | None, results: Results) -> None:
    """Write the file atomically: a killed process leaves the old one or the new one."""
    if path is not None:
        fresh = path.with_name(f".{path.name}.part")
        fresh.write_text(to_json(results), encoding="utf-8")
        fresh.replace(path)


if __name__ == "__main__":
    sys.exit(main())
