"""Around the updates: draws, files of data, environments, training runs, the tests of a GPU, Stable-Baselines3."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import worldrl
from worldrl.commands.baseline import ALGORITHMS, stable_baselines
from worldrl.commands.bench.cases import PIXEL_SPEC, STATE_SPEC, Mode, make_agent, make_batch, make_case, modes, plain
from worldrl.commands.bench.measuring import WARMUP, Bench, Job, Row, in_turns, milliseconds, threads
from worldrl.compose import compose
from worldrl.config import Config
from worldrl.data import hdf5
from worldrl.data.archives import write_archive
from worldrl.data.replay import Replay
from worldrl.data.settings import DataConfig
from worldrl.envs.make import EnvConfig
from worldrl.envs.rendering import RenderConfig
from worldrl.runs.data import load_rows
from worldrl.training.speed import make_update
from worldrl.types import EnvSpec

if TYPE_CHECKING:
    from worldrl.training.loop import Trainer

REPLAY_ROWS = 100_000
FILLED_AT_ONCE = 1_000
FILE_STEPS = 1_000_000  # as many as D4RL's sets have
EPISODE_STEPS = 1_000
FILES = {".npz": write_archive, ".hdf5": hdf5.write}
ENV_SECONDS = 3.0
STATE_BATCH = (256, 2)
PEERS = ("sac", "td3", "ddpg", "dqn")
STEPS_PER_TURN = 10
TEST_SECONDS = 600
PAPER = {"experiment": "paper_smac"}
PAPER_MINUTES = 5.0
QUIET = {"eval.video": False, "log.tensorboard": False, "log.progress": False, "checkpoint.minutes": 1e6}
ENVS = {
    "state": EnvConfig(obs="state", action_repeat=1),
    "pixels full": EnvConfig(action_repeat=1, render=RenderConfig(quality="full")),
    "pixels fast": EnvConfig(action_repeat=1, render=RenderConfig(quality="fast")),
}


# --- draws ------------------------------------------------------------------------------------------------------------


def replay(bench: Bench) -> Iterator[Job]:
    """Time to draw a batch from this many rows, until it is on the device."""
    for kind, spec, shapes in (("state", STATE_SPEC, [STATE_BATCH]), ("pixels", PIXEL_SPEC, bench.batches)):
        for b, t in shapes:
            yield Job(f"{kind} {b}x{t}", partial(_draw, bench, kind, spec, (b, t)))


def _draw(bench: Bench, kind: str, spec: EnvSpec, shape: tuple[int, int]) -> list[Row]:
    full = filled(spec)
    ms = milliseconds(lambda: full.sample(*shape, bench.device), bench.device, max(bench.repeats, 20))
    return [{"of": kind, "rows": len(full), "batch": f"{shape[0]}x{shape[1]}", "ms": ms}]


def filled(spec: EnvSpec) -> Replay:
    """A replay on the CPU whose memory is in use to the last row."""
    made, rows = Replay(spec, REPLAY_ROWS), make_batch(spec, 1, FILLED_AT_ONCE, torch.device("cpu"))
    columns = {**rows.obs, **{name: getattr(rows, name) for name in rows._fields[1:]}}
    for _ in range(-(-REPLAY_ROWS // FILLED_AT_ONCE)):
        made.extend({key: column.numpy().swapaxes(0, 1) for key, column in columns.items()})
    return made


# --- files of data ----------------------------------------------------------------------------------------------------


def data(bench: Bench) -> Iterator[Job]:
    """Seconds to read a file of D4RL's layout as a run does: checked, with a row after each episode, and a checksum."""
    for suffix in FILES:
        yield Job(f"{FILE_STEPS:,} steps, {suffix}", partial(_read, suffix))


def _read(suffix: str) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"data{suffix}"
        FILES[suffix](path, _many_steps())
        start = time.perf_counter()
        rows = load_rows(DataConfig(name=str(path)))
        seconds, size = time.perf_counter() - start, path.stat().st_size
    count = len(rows.columns["reward"])
    return [{"file": suffix, "steps": FILE_STEPS, "rows": count, "MiB": size / 2**20, "seconds": seconds}]


def _many_steps() -> dict[str, np.ndarray]:
    """Random steps with the sizes of D4RL's HalfCheetah, in the keys of D4RL."""
    rng, (obs,) = np.random.default_rng(0), STATE_SPEC.obs.values()
    observations = rng.standard_normal((FILE_STEPS, *obs.shape), dtype=np.float32)
    timeouts = np.arange(1, FILE_STEPS + 1) % EPISODE_STEPS == 0
    following = np.roll(observations, -1, 0)
    following[timeouts] = rng.standard_normal((timeouts.sum(), *obs.shape), dtype=np.float32)
    return {
        "observations": observations,
        "actions": np.tanh(rng.standard_normal((FILE_STEPS, STATE_SPEC.action_dim), dtype=np.float32)),
        "rewards": rng.standard_normal(FILE_STEPS, dtype=np.float32),
        "terminals": np.zeros(FILE_STEPS, bool),
        "timeouts": timeouts,
        "next_observations": following,
    }


# --- Stable-Baselines3 ------------------------------------------------------------------------------------------------


def sb3(bench: Bench) -> Iterator[Job]:
    """Gradient steps of theirs and of ours, in turns, with equal networks and batch sizes; both draw their batches."""
    for name in [peer for peer in PEERS if peer in bench.agents]:
        for n in bench.threads:
            yield Job(f"{name}, {n} threads", partial(_with_peer, bench, name, n))


def _with_peer(bench: Bench, name: str, n: int) -> list[Row]:
    with threads(n):
        steps = {"Stable-Baselines3": _their_steps(bench, name), **_our_steps(bench, name)}
        ms, ratio = in_turns(steps, bench.device, bench.repeats)
    return [
        {"agent": name, "threads": n, "form": form, "ms": ms[form] / STEPS_PER_TURN, "times as fast": ratio[form]}
        for form in steps
    ]


def _our_steps(bench: Bench, name: str) -> dict[str, Callable[[], None]]:
    case = make_case(name)
    rows = filled(case.spec)

    def steps(speed: str, precision: str) -> Callable[[], None]:
        agent = make_agent(case, Mode(speed, precision), bench.device)
        update, needs = make_update(agent, speed), agent.head.needs

        def run() -> None:
            for _ in range(STEPS_PER_TURN):
                batch = rows.sample(*STATE_BATCH, agent.device)
                update(agent.next_phase(), batch, rows.sample_extra(needs, STATE_BATCH[1], to=agent.device))

        return run

    return {str(mode): steps(*mode) for mode in modes(bench.device)}


def _their_steps(bench: Bench, name: str) -> Callable[[], None]:
    from stable_baselines3.common.logger import configure

    case, make = make_case(name), getattr(stable_baselines(), ALGORITHMS[name])
    head, choices = case.config.head, case.spec.actions.kind == "choice"
    if choices:
        layers: Any = [head["units"]] * head["layers"]
    else:
        layers = {"pi": [head["units"]] * head["actor_layers"], "qf": [head["units"]] * head["critic_layers"]}
    agent: Any = make(
        "MlpPolicy",
        _still_env(case.spec),
        device=str(bench.device),
        buffer_size=REPLAY_ROWS,
        policy_kwargs={"net_arch": layers},
    )
    agent.set_logger(configure(None, []))
    memory, rng = agent.replay_buffer, np.random.default_rng(0)
    for column in (memory.observations, memory.next_observations, memory.rewards):
        column[:] = rng.uniform(-1, 1, column.shape)
    size, shape = case.spec.actions.size, memory.actions.shape
    memory.actions[:] = rng.integers(0, size, shape) if choices else rng.uniform(-1, 1, shape)
    memory.full = True
    return lambda: agent.train(gradient_steps=STEPS_PER_TURN, batch_size=STATE_BATCH[0])


def _still_env(spec: EnvSpec) -> Any:
    """An environment with the observation and the actions of ``spec``, in which nothing moves."""
    from gymnasium import Env, spaces

    (obs,), size = spec.obs.values(), spec.actions.size
    choices = spec.actions.kind == "choice"

    class Still(Env[Any, Any]):
        observation_space = spaces.Box(-np.inf, np.inf, obs.shape, np.float32)
        action_space = spaces.Discrete(size) if choices else spaces.Box(-1.0, 1.0, (size,), np.float32)

    return Still()


# --- environments and trainings ---------------------------------------------------------------------------------------


def env(bench: Bench) -> Iterator[Job]:
    """Agent steps per second of one environment under random actions: states, and pixels at both qualities."""
    for name, config in ENVS.items():
        what = f"{bench.task} {name}"
        yield Job(what, partial(_environment, what, config, bench.task))


def _environment(what: str, config: EnvConfig, task: str) -> list[Row]:
    return [{"env": what, "steps_per_s": env_rate(config, task, ENV_SECONDS)}]


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


def end_to_end(bench: Bench) -> Iterator[Job]:
    """Real training after the prefill, with updates, environment and bookkeeping."""
    (b, t), short = bench.batches[0], {"replay.capacity": 5000, "schedule.prefill": 400, "eval.every": 0}
    images = {"replay.batch": b, "replay.length": t, "env.render.quality": "fast"}
    kinds: dict[str, tuple[dict[str, Any], int]] = {
        "sac": ({"env.action_repeat": 1, "schedule.updates_per_1000_frames": 1000.0}, 20 * bench.repeats),
        "smac": ({**images, "schedule.updates_per_1000_frames": 100.0}, bench.repeats),
    }
    for name, (settings, updates) in kinds.items():
        for n in (1, 4) if bench.device.type == "cuda" else (1,):
            config = _settings(bench, {"agent": name, "env.num_envs": n, **short, **settings})
            yield Job(f"{name} on {bench.task}, {n} environments", partial(_train, config, updates))


def _train(config: Config, updates: int) -> list[Row]:
    """Train for this many updates after the first ones."""
    with _trainer(config) as trainer:
        _tick(trainer, lambda: trainer.agent.updates < WARMUP)
        last = trainer.agent.updates + updates
        rates = _tick(trainer, lambda: trainer.agent.updates < last)
    return [{"agent": config.agent, "environments": config.env.num_envs, "speed": config.speed, **rates}]


def paper(bench: Bench) -> Iterator[Job]:
    """The first minutes of the paper's preset after its prefill."""
    config = _settings(bench, PAPER)
    yield Job(f"{config.agent} on {config.task}", partial(_begin, config))


def _begin(config: Config) -> list[Row]:
    with _trainer(config) as trainer:
        _tick(trainer, lambda: not trainer.agent.updates)
        end = time.perf_counter() + 60 * PAPER_MINUTES
        rates = _tick(trainer, lambda: time.perf_counter() < end)
        trainer.log()  # refuses a loss that is not finite
        counts = {"frames": trainer.experience.now, "updates": trainer.agent.updates}
        result = {**counts, "return": trainer.evaluations.last}
    return [{"preset": config.agent, "speed": config.speed, **result, **rates}]


def _settings(bench: Bench, settings: dict[str, Any]) -> Config:
    speed = plain(bench.device).speed
    return compose({**settings, **QUIET, "task": bench.task, "device": str(bench.device), "speed": speed})


@contextlib.contextmanager
def _trainer(config: Config) -> Iterator[Trainer]:
    from worldrl.training.loop import Trainer

    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(sys.stderr),
        contextlib.closing(Trainer(config, Path(folder), None)) as trainer,
    ):
        yield trainer


def _tick(trainer: Trainer, more: Callable[[], bool]) -> Row:
    """Train until there is nothing left to do; returns the rates."""
    frames, updates, start = trainer.experience.now, trainer.agent.updates, time.perf_counter()
    while more():
        trainer.tick()
    if trainer.agent.device.type == "cuda":
        torch.cuda.synchronize(trainer.agent.device)  # the queued work of the GPU counts too
    seconds = time.perf_counter() - start
    rates = {"frames": trainer.experience.now - frames, "updates": trainer.agent.updates - updates}
    return {f"{name}_per_s": count / seconds for name, count in rates.items()}


# --- tests ------------------------------------------------------------------------------------------------------------


def tests(bench: Bench) -> Iterator[Job]:
    """The tests that need a GPU, if there is one and the source tree with its tests is here."""
    root = Path(worldrl.__file__).parents[1]
    if bench.device.type == "cuda" and (root / "tests" / "test_fake_cuda.py").is_file():
        yield Job("pytest -m cuda", partial(_run_tests, root))


def _run_tests(root: Path) -> list[Row]:
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-n", "0", "tests"]
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=TEST_SECONDS)
    said = ran.stdout.strip().rpartition("\n")[2] or ran.stderr.strip()
    return [{"tests": "pytest -m cuda", "said": said, "passed": ran.returncode == 0}]
