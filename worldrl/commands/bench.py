"""How fast is it here: ``worldrl bench``.

Measures one update of each agent, the replay, the environments and a short training, next to what the machine's matrix
products reach in the same process. Every fast path must give the losses of the eager float32 update on the same batch,
weights and seed; if one does not, the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from worldrl.agent import Agent
from worldrl.commands.baseline import stable_baselines
from worldrl.compose import compose
from worldrl.config import Config
from worldrl.data.replay import Replay
from worldrl.data.settings import ReplayConfig
from worldrl.envs.make import EnvConfig
from worldrl.envs.rendering import RenderConfig
from worldrl.errors import UserError, check_writable
from worldrl.nn import products
from worldrl.nn.precision import choose_device
from worldrl.presets import preset_names
from worldrl.report.tables import to_markdown
from worldrl.terminal import Parser, command, whole
from worldrl.testing import random_batch, random_extra
from worldrl.training.speed import Update, make_update
from worldrl.types import Batch, EnvSpec, ObsSpec, box, choice

if TYPE_CHECKING:
    from worldrl.training.loop import Trainer

PARTS = ("updates", "replay", "env", "end_to_end")
MATMUL_SIZE = {"cpu": 2048, "cuda": 8192}  # a GPU does 2048^3 in about the time that it takes to ask for it
WARMUP = 2
CHECKED_UPDATES = 2
ENV_SECONDS = 3.0
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}  # on losses; relative, absolute below one
STATE_BATCH = (256, 2)

STATE_SPEC = EnvSpec("bench", {"state": ObsSpec((17,), "float32")}, box(6))
PIXEL_SPEC = EnvSpec("bench", {"pixels": ObsSpec((64, 64, 3), "uint8")}, box(6))
VARIANTS: dict[str, dict[str, Any]] = {  # agents that are not presets
    "smac+critic_particles": {"agent": "smac", "head.critic_particles": True},
    "value_sac": {"agent": "sac", "head": "value_sac"},
}
AGENTS = [*preset_names("agent"), *VARIANTS]

Results = dict[str, Any]


class Case(NamedTuple):
    """An agent at its preset's sizes, and its batch where its preset has one.

    ``cycle``: updates until the head's phases repeat; figures are means over them.
    """

    config: Config
    spec: EnvSpec
    batch: tuple[int, int] | None
    cycle: int


@functools.cache
def make_case(name: str) -> Case:
    """The agent of a preset, or of ``VARIANTS``."""
    config = compose(VARIANTS.get(name, {"agent": name}))
    spec = STATE_SPEC if config.env.obs == "state" else PIXEL_SPEC
    if config.schedule.epsilon.start:  # it acts by choices
        spec = spec._replace(actions=choice(spec.action_dim))
    shape, usual = ((replay.batch, replay.length) for replay in (config.replay, ReplayConfig()))
    head = Agent(dataclasses.replace(config, device="cpu"), spec).head
    return Case(config, spec, None if shape == usual else shape, len({head.phase(n) for n in range(8)}))


class Mode(NamedTuple):
    """One column: how the update runs, and in which precision."""

    speed: str
    precision: str

    def __str__(self) -> str:
        return f"{self.speed} {self.precision}"


REFERENCE = Mode("eager", "fp32")


def modes(device: torch.device) -> list[Mode]:
    """What the device has; the reference comes first."""
    if device.type == "cuda":
        return [REFERENCE, Mode("eager", "bf16"), Mode("compile", "bf16"), Mode("capture", "bf16")]
    return [REFERENCE, Mode("compile", "fp32")]


# --- timing -----------------------------------------------------------------------------------------------------------


def milliseconds(run: Callable[[], Any], device: torch.device, repeats: int, warmup: int = WARMUP) -> float:
    """Median time of one call; CUDA events on a GPU."""
    for _ in range(warmup):
        run()
    once = _once_cuda if device.type == "cuda" else _once_cpu
    return statistics.median(once(run) for _ in range(repeats))


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


def matmul_peaks(device: torch.device) -> dict[str, float]:
    """GFLOP/s of a large matrix product by precision; on CUDA float32 is TF32, as in training."""
    torch.set_float32_matmul_precision("high" if device.type == "cuda" else "highest")
    dtypes = {"fp32": torch.float32, **({"bf16": torch.bfloat16} if device.type == "cuda" else {})}
    return {name: _matmul_peak(device, dtype) for name, dtype in dtypes.items()}


def _matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    size = MATMUL_SIZE[device.type]
    a = torch.randn(size, size, device=device).to(dtype)
    ms = milliseconds(lambda: products.linear(a, a), device, repeats=20, warmup=20)  # clocks rise under load
    return 2.0 * size**3 / ms / 1e6


# --- updates ----------------------------------------------------------------------------------------------------------


def make_agent(case: Case, mode: Mode, device: torch.device) -> Agent:
    """An agent with the same weights in every mode."""
    torch.manual_seed(0)
    config = dataclasses.replace(case.config, device=str(device), precision=mode.precision, speed=mode.speed)
    return Agent(config, case.spec)


def make_batch(spec: EnvSpec, batch: int, length: int, device: torch.device) -> Batch:
    """Random rows, the same on every device."""
    torch.manual_seed(1)
    return random_batch(spec, batch, length, device)


def repeated(agent: Agent, update: Update, batch: Batch, model_only: bool = False) -> Callable[[int], list[Any]]:
    """A function of n that makes n updates on this batch and gives their metrics."""
    torch.manual_seed(2)
    extra = random_extra(agent.head.needs, agent.spec, batch.reward.shape[1], agent.device, agent.model.lost_rows)
    return lambda n: [update(agent.next_phase(model_only), batch, extra) for _ in range(n)]


def first_losses(agent: Agent, update: Update, batch: Batch) -> list[dict[str, float]]:
    """The losses of the first updates, from a fixed seed."""
    records = repeated(agent, update, batch)(CHECKED_UPDATES)
    return [{name: float(x) for name, x in record.items() if name.startswith("loss/")} for record in records]


def largest_difference(losses: list[dict[str, float]], reference: list[dict[str, float]]) -> float:
    """Relative, but absolute where the reference is below one; not a number counts as infinite."""
    found = [
        abs(value - expected[name]) / max(abs(expected[name]), 1.0)
        for record, expected in zip(losses, reference, strict=True)
        for name, value in record.items()
    ]
    return max(x if x == x else float("inf") for x in found)


def count_flops(case: Case, batch: Batch, device: torch.device, model_only: bool = False) -> int:
    """Arithmetic of one eager update in matrix products and convolutions, as executed."""
    agent = make_agent(case, REFERENCE, device)
    run = repeated(agent, make_update(agent, "eager"), batch, model_only)
    products.use("torch")  # whose operators are known to the counter
    with FlopCounterMode(display=False) as counter:
        run(case.cycle)
    products.use(None)
    return int(counter.get_total_flops()) // case.cycle


def bench_case(
    name: str, batch: int, length: int, device: torch.device, repeats: int, peaks: dict[str, float]
) -> Results:
    """Every mode of one agent on one batch shape."""
    case = make_case(name)
    data = make_batch(case.spec, batch, length, device)
    flops = count_flops(case, data, device)
    result: Results = {"agent": name, "batch": [batch, length], "gflop": flops / 1e9, "modes": {}}
    reference: list[dict[str, float]] = []
    for mode in modes(device):
        torch.compiler.reset()  # else agents before this one count against torch's limit of compilations
        agent = make_agent(case, mode, device)
        update = make_update(agent, mode.speed)
        losses = first_losses(agent, update, data)
        reference = reference or losses
        ms = milliseconds(partial(repeated(agent, update, data), case.cycle), device, repeats) / case.cycle
        rate = flops / ms / 1e6
        difference = largest_difference(losses, reference)
        result["modes"][str(mode)] = {
            "ms": ms,
            "gflop_per_s": rate,
            "share_of_matmul": rate / peaks[mode.precision],
            "loss_difference": difference,
            "agrees": difference <= TOLERANCE[mode.precision],
        }
    if "model" in make_agent(case, REFERENCE, device).optimizers:
        result["head_share"] = head_share(case, data, device, repeats, flops)
    return result


def head_share(case: Case, batch: Batch, device: torch.device, repeats: int, flops: int) -> Results:
    """What an update adds to one of only the model: particles, imagination, actor and critic. Eager, float32.

    Both updates are timed in turns; ``time`` is the median of the turns' shares, ``flops`` the share of arithmetic.
    """
    agent = make_agent(case, REFERENCE, device)
    update = make_update(agent, "eager")

    whole, model = (partial(repeated(agent, update, batch, only), case.cycle) for only in (False, True))
    times: list[list[float]] = [[milliseconds(run, device, 1) for run in (whole, model)] for _ in range(repeats)]
    shares = [1.0 - alone / both for both, alone in times]
    model_flops = count_flops(case, batch, device, model_only=True)
    return {"time": statistics.median(shares), "flops": 1.0 - model_flops / flops}


# --- Stable-Baselines3, if it is there --------------------------------------------------------------------------------


def bench_sb3(device: torch.device, repeats: int) -> Results:
    """Gradient steps of Stable-Baselines3's SAC and of ours, in turns; the ratio is the median over the turns."""
    case = make_case("sac")
    data = make_batch(case.spec, *STATE_BATCH, device)
    agents = {mode: make_agent(case, mode, device) for mode in modes(device)}
    ours = {str(mode): repeated(agent, make_update(agent, mode.speed), data) for mode, agent in agents.items()}
    runs: dict[str, Callable[[int], Any]] = {"sb3": _sb3_steps(device), **ours}
    per_turn = 10
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(per_turn)
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(milliseconds(partial(run, per_turn), device, 1, warmup=0) / per_turn)
    ratio = {
        name: statistics.median(a / b for a, b in zip(times["sb3"], values, strict=True))
        for name, values in times.items()
    }
    return {"ms": {name: statistics.median(values) for name, values in times.items()}, "speed_up": ratio}


def _sb3_steps(device: torch.device) -> Callable[[int], None]:
    from stable_baselines3.common.logger import configure

    agent: Any = stable_baselines().SAC("MlpPolicy", _still_env(), device=str(device), buffer_size=5000)
    agent.set_logger(configure(None, []))
    rng = np.random.default_rng(0)
    for _ in range(5000):
        obs = rng.standard_normal((2, 1, 17), dtype=np.float32)
        action = rng.uniform(-1, 1, (1, 6)).astype(np.float32)
        agent.replay_buffer.add(obs[0], obs[1], action, np.zeros(1, np.float32), np.zeros(1), [{}])
    return lambda n: agent.train(gradient_steps=n, batch_size=STATE_BATCH[0])


def _still_env() -> Any:
    """An environment of the state benchmark's sizes, in which nothing moves."""
    import gymnasium

    class Still(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (17,), np.float32)
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (6,), np.float32)

    return Still()


# --- replay, environments, training -----------------------------------------------------------------------------------


def bench_replay(batches: Sequence[tuple[int, int]], device: torch.device, repeats: int) -> list[Results]:
    """Time to draw a batch, up to its arrival on the device."""
    shapes = [("state", STATE_SPEC, STATE_BATCH), *(("pixels", PIXEL_SPEC, shape) for shape in batches)]
    return [_bench_sampling(name, spec, shape, device, repeats) for name, spec, shape in shapes]


def _bench_sampling(name: str, spec: EnvSpec, shape: tuple[int, int], device: torch.device, repeats: int) -> Results:
    replay = Replay(spec, capacity=2000)
    rows = make_batch(spec, 1, 2000, torch.device("cpu"))
    columns = {**rows.obs, "action": rows.action, "reward": rows.reward}
    columns |= {"is_first": rows.is_first, "is_terminal": rows.is_terminal}
    replay.extend({key: column.numpy().swapaxes(0, 1) for key, column in columns.items()})
    ms = milliseconds(lambda: replay.sample(*shape, device), device, max(repeats, 20))
    return {"rows": name, "batch": list(shape), "ms": ms}


def bench_env(task: str, seconds: float = ENV_SECONDS) -> list[Results]:
    """Agent steps per second of one environment under random actions: states, and pixels at both qualities."""
    settings = {
        "state": EnvConfig(obs="state", action_repeat=1),
        "pixels full": EnvConfig(action_repeat=1, render=RenderConfig(quality="full")),
        "pixels fast": EnvConfig(action_repeat=1, render=RenderConfig(quality="fast")),
    }
    results = []
    for name, config in settings.items():
        try:
            results.append({"env": f"{task} {name}", "steps_per_s": env_rate(config, task, seconds)})
        except UserError as error:  # no OpenGL here: the rest can still be measured
            results.append({"env": f"{task} {name}", "error": str(error)})
    return results


def env_rate(config: EnvConfig, task: str, seconds: float) -> float:
    """Agent steps per second of one environment under random actions."""
    from worldrl.envs import make_envs

    rng = np.random.default_rng(0)
    with contextlib.closing(make_envs(config, task, seed=0)) as envs:
        envs.reset()
        shape = (1, envs.spec.action_dim)
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            envs.step(rng.uniform(-1, 1, shape).astype(np.float32))
            steps += 1
        return steps / (time.perf_counter() - start)


def bench_end_to_end(task: str, batch: tuple[int, int], device: torch.device, updates: int) -> list[Results]:
    """Frames per second of real trainings, updates, environment and bookkeeping included, after the prefill."""
    states = EnvConfig(obs="state", action_repeat=1)
    pixels = EnvConfig(render=RenderConfig(quality="fast"))
    runs = [("sac", states, STATE_BATCH, 1000.0, 20 * updates), ("smac", pixels, batch, 100.0, updates)]
    results = []
    for name, env, shape, rate, count in runs:
        settings = {
            "agent": name,
            "task": task,
            "env.action_repeat": env.action_repeat,
            "env.render.quality": env.render.quality,
            "replay.capacity": 5000,
            "replay.batch": shape[0],
            "replay.length": shape[1],
            "schedule.prefill": 200 * env.action_repeat,
            "schedule.updates_per_1000_frames": rate,
            "eval.every": 0,
            "log.every": 10**9,
            "log.tensorboard": False,
            "log.progress": False,
            "checkpoint.minutes": 1e6,
            "device": str(device),
            "speed": "capture" if device.type == "cuda" else "eager",
        }
        config = compose(settings)
        try:
            figures = _train(config, count)
        except UserError as error:  # no OpenGL here: the other one can still be measured
            figures = {"error": str(error)}
        results.append({"agent": name, "task": task, "speed": config.speed, "updates_per_1000_frames": rate, **figures})
    return results


def _train(config: Config, updates: int) -> Results:
    """Train until so many updates after the first ones are done."""
    from worldrl.training.loop import Trainer

    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(sys.stderr),
        contextlib.closing(Trainer(config, Path(folder), None)) as trainer,
    ):
        _tick_until(trainer, WARMUP)
        first, done, start = trainer.experience.now, trainer.agent.updates, time.perf_counter()
        _tick_until(trainer, done + updates)
        seconds = time.perf_counter() - start
        return {
            "frames_per_s": (trainer.experience.now - first) / seconds,
            "updates_per_s": (trainer.agent.updates - done) / seconds,
        }


def _tick_until(trainer: Trainer, updates: int) -> None:
    while trainer.agent.updates < updates:
        trainer.tick()
    _wait(trainer.agent.device)


def _wait(device: torch.device) -> None:
    """For everything that the GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --- printing ---------------------------------------------------------------------------------------------------------


def describe_machine(device: torch.device) -> Results:
    """What the figures belong to."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": name, "torch": torch.__version__, "threads": torch.get_num_threads()}


def updates_rows(cases: list[Results]) -> list[dict[str, str]]:
    """One row per agent and batch, one column per mode."""
    return [
        {
            "agent": case["agent"],
            "batch": _text(case["batch"]),
            "GFLOP": f"{case['gflop']:.1f}",
            **{mode: _cell(found) for mode, found in case["modes"].items()},
            "head": _share(case),
        }
        for case in cases
    ]


def _share(case: Results) -> str:
    share = case.get("head_share")
    return f"{share['time']:.0%} ({share['flops']:.0%})" if share else ""


def _cell(mode: Results) -> str:
    share = f"{mode['gflop_per_s']:,.0f}, {mode['share_of_matmul']:.0%}"
    return f"{mode['ms']:.1f} ({share}; {mode['loss_difference']:.0e})" + ("" if mode["agrees"] else " DIFFERS")


def print_rows(title: str, rows: Sequence[Results]) -> None:
    """A table of flat records that share their keys; of one with an error its first value and that."""
    for row in rows:
        if "error" in row:
            print(f"{next(iter(row.values()))}: {row['error']}")
    if good := [{key: _text(value) for key, value in row.items()} for row in rows if "error" not in row]:
        print(f"\n{title}\n\n{to_markdown(good)}\n")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


# --- the command ------------------------------------------------------------------------------------------------------


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
    add("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure (default: all)")
    add("--agents", nargs="+", choices=AGENTS, default=AGENTS, help="agents to update (default: all)")
    add("--batch", nargs="+", type=parse_shape, help="BxT of pixel agents but SLAC (default: 16x32, on CUDA 50x50)")
    add("--repeats", type=whole(), default=10, help="timed updates, after a warm-up (default: 10)")
    add("--task", default="walker_walk", help="of the environment and end-to-end parts (default: walker_walk)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--sb3", action="store_true", help="also time the SAC of Stable-Baselines3, if it is installed")
    add("--json", type=Path, metavar="PATH", help="write the figures here too")
    return parser.parse_args(argv)


def _shapes(name: str, batches: list[tuple[int, int]]) -> list[tuple[int, int]]:
    batch = make_case(name).batch
    return batches if batch is None else [batch]


def _measure(args: argparse.Namespace, device: torch.device) -> Iterator[tuple[str, Any]]:
    """(name, figures) of each part that was asked for, as it becomes known."""
    batches = args.batch or [(50, 50) if device.type == "cuda" else (16, 32)]
    peaks = matmul_peaks(device)
    yield "matmul_before", peaks
    if "updates" in args.only:
        yield (
            "updates",
            [
                bench_case(name, *shape, device, args.repeats, peaks)
                for name in args.agents
                for shape in _shapes(name, batches)
            ],
        )
    if args.sb3:
        yield "sb3", bench_sb3(device, args.repeats)
    if "replay" in args.only:
        yield "replay", bench_replay(batches, device, args.repeats)
    if "env" in args.only:
        yield "env", bench_env(args.task)
    if "end_to_end" in args.only:
        yield "end_to_end", bench_end_to_end(args.task, batches[0], device, args.repeats)
    yield "matmul_after", matmul_peaks(device)


def _show(name: str, figures: Any) -> None:
    if name.startswith("matmul"):
        peaks = ", ".join(f"{precision} {value:,.0f}" for precision, value in figures.items())
        print(f"matmul, {name.removeprefix('matmul_')}: {peaks} GFLOP/s")
    elif name == "updates":
        title = "updates: ms (GFLOP/s, share of matmul; largest loss difference); head: share of time (GFLOP)"
        print_rows(title, updates_rows(figures))
    elif name == "sb3":
        rows = [{"sac": key, "ms": ms, "speed-up": figures["speed_up"][key]} for key, ms in figures["ms"].items()]
        print_rows("gradient steps against Stable-Baselines3", rows)
    else:
        print_rows(name.replace("_", " "), figures)


def agrees(results: Results) -> bool:
    """Whether every fast path gave the reference's losses."""
    return all(mode["agrees"] for case in results.get("updates", []) for mode in case["modes"].values())


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, which is 1 where a fast path differs."""
    args = parse_args(argv)
    if args.json:
        check_writable(args.json)
    if args.sb3:
        stable_baselines()
    device = choose_device(args.device)
    torch.backends.cudnn.benchmark = True  # as in training
    results = describe_machine(device)
    print(", ".join(f"{key} {value}" for key, value in results.items()))
    for name, figures in _measure(args, device):
        results[name] = figures
        _show(name, figures)
        if args.json:
            args.json.write_text(json.dumps(results, indent=2) + "\n")
    if not agrees(results):
        print("error: a fast path differs from the eager float32 update by more than its tolerance", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
