"""Runs of a few seconds, with the smallest agents, and what two of them have in common."""

from __future__ import annotations

from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from tests.kills import has_begun, records, start
from worldrl.config import config_from_dict
from worldrl.runs.checkpoint import Checkpoints
from worldrl.training.loop import Trainer

SMALL = {
    "task": "cartpole_swingup",
    "env.action_repeat": 8,
    "frames": 6_000,
    "schedule.prefill": 1_000,
    "schedule.updates_per_1000_frames": 10,
    "replay.capacity": 400,  # wraps around before the end
    "replay.batch": 4,
    "replay.length": 6,
    "eval.every": 2_000,
    "eval.episodes": 1,
    "eval.video": False,
    "log.every": 500,
    "log.progress": False,
    "log.tensorboard": False,
    "device": "cpu",
    "threads": 1,
    "schedule.action_noise": 0.3,  # as the preset has it, for settings that are made without one
    "belief": "rssm",
    "belief.stoch": 4,
    "belief.deter": 16,
    "belief.hidden": 16,
    "belief.depth": 2,
    "belief.reward_units": 16,
    "head": "smac",
    "head.units": 16,
    "head.num_particles": 4,
}
STATE = {**SMALL, "env.obs": "state"}
PIXELS = {**SMALL, "env.obs": "both", "env.render.quality": "fast", "frames": 3_000, "env.corruption.gaussian": 0.05}
# Learning from data: its length is in updates, and there is no environment, not even for the evaluation.
DATA = {
    **STATE,
    "task": "no.such:Environment",
    "frames": 300,
    "eval.every": 0,
    "log.every": 40,
    "schedule.pretrain": 30,
}


# The toy shows the last action and each reset's own number, and its workers start without a simulator.
COUNTS = {
    **STATE,
    "task": "tests.envs.toy_envs:Count",
    "env.action_repeat": 1,
    "frames": 200,
    "schedule.prefill": 100,
    "schedule.updates_per_1000_frames": 1_000,
    "eval.every": 100,
    "log.every": 50,
}


def tensors(value: Any, place: str = "") -> dict[str, torch.Tensor]:
    """All arrays and tensors of a checkpoint by their place."""
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in tensors(item, f"{place}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, item in enumerate(value) for k, v in tensors(item, f"{place}/{i}").items()}
    return {place: torch.as_tensor(value)} if hasattr(value, "shape") else {}


def assert_same_run(a: Path, b: Path) -> None:
    assert records(a) == records(b)
    states = [Checkpoints(run).load(Checkpoints(run).find()) for run in (a, b)]
    left, right = (tensors(state) for state in states)
    assert left.keys() == right.keys()
    different = [place for place in left if not torch.equal(left[place], right[place])]
    assert not different


def begun(run: Path, settings: dict[str, Any]) -> BaseProcess:
    """A child that trains, after its first checkpoint."""
    child = start(run, settings, "stream")
    assert has_begun(child, run), output(run)
    return child


def output(run: Path) -> str:
    return Path(f"{run}.out").read_text()


def make_trainer(settings: dict[str, Any], run: Path) -> Trainer:
    run.mkdir()
    return Trainer(config_from_dict(settings), run, None)
