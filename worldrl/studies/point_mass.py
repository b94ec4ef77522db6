"""Regret by the number of action dimensions, on a point mass with a known best return.

VIREL (section 3.3) expects maximum entropy to suffer in many dimensions, where most actions are worthless. Here every
dimension is the same small problem, and the reward is the mean over dimensions: the reward of one dimension falls as
1 / A, but its entropy does not.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldrl.compose import compose
from worldrl.errors import UserError
from worldrl.report.plots import COLOURS, MARKERS, picture
from worldrl.runs.folder import METRICS
from worldrl.training.loop import train

STEP, LENGTH, GAMMA = 0.25, 20, 0.95
BEST = -sum((1 - STEP * t) ** 2 for t in range(1, 4))  # 0.75, 0.5, 0.25, then the origin


class PointMass(gymnasium.Env):
    """A point in A dimensions, which starts at distance one in each; the reward is minus its mean square."""

    dimensions = 1

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (self.dimensions,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (self.dimensions,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.position, self.steps = self.np_random.choice([-1.0, 1.0], self.dimensions), 0
        return self.position.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.position = np.clip(self.position + STEP * np.clip(action, -1, 1), -1, 1)
        self.steps += 1
        reward = -float(np.mean(self.position**2))
        return self.position.astype(np.float32), reward, False, self.steps >= LENGTH, {}


class PointMass4(PointMass):
    dimensions = 4


class PointMass16(PointMass):
    dimensions = 16


class PointMass64(PointMass):
    dimensions = 64


TASKS = {task.dimensions: task.__name__ for task in (PointMass, PointMass4, PointMass16, PointMass64)}
AGENTS: dict[str, dict[str, Any]] = {  # constant temperatures; of virel relative to its reward scale
    "SAC, alpha = 0.1": {"agent": "sac", "head.tune_alpha": False, "head.init_alpha": 0.1},
    "SAC, alpha = 0.01": {"agent": "sac", "head.tune_alpha": False, "head.init_alpha": 0.01},
    "SAC, alpha = 0.001": {"agent": "sac", "head.tune_alpha": False, "head.init_alpha": 0.001},
    "virel, alpha = 0.01": {"agent": "virel", "head.init_alpha": 0.01},
    "virel_beta": {"agent": "virel_beta", "head.residual_batch": 256},
}
COMMON: dict[str, Any] = {
    "env.obs": "state",
    "env.action_repeat": 1,
    "head.units": 64,
    "head.gamma": GAMMA,
    "head.tau": 0.02,
    "head.actor_lr": 1e-3,
    "head.critic_lr": 1e-3,
    "replay.batch": 64,
    "schedule.prefill": 500,
    "schedule.updates_per_1000_frames": 1000,
    "eval.episodes": 10,
    "eval.video": False,
    "log.progress": False,
    "threads": 1,
    "device": "cpu",
}


def regret(agent: str, dimensions: int, seed: int, frames: int, folder: Path) -> float:
    """The best return minus the mean return of ten episodes without exploration, after this many frames."""
    run_dir = folder / f"{list(AGENTS).index(agent)}-{dimensions}-{seed}"
    run_dir.mkdir()
    task = f"{__name__}:{TASKS[dimensions]}"
    train(
        compose({**COMMON, **AGENTS[agent], "task": task, "seed": seed, "frames": frames, "eval.every": frames}),
        run_dir,
    )
    records = map(json.loads, (run_dir / METRICS).read_text().splitlines())
    return BEST - [float(record["eval/return"]) for record in records if "eval/return" in record][-1]


def _read(x: float | None) -> float:
    """NaN is ``null`` in JSON."""
    return math.nan if x is None else float(x)


Found = dict[str, dict[int, list[float]]]  # agent -> dimensions -> the regret of each seed


def regrets(dims: Sequence[int], seeds: int, frames: int, found: Found) -> Iterator[tuple[str, int, int]]:
    """Add the regrets that ``found`` lacks, and yield agent, dimensions and seed of each; the runs are deleted.

    All agents finish one seed before the next seed begins.
    """
    for seed in range(1, seeds + 1):
        for dimensions in dims:
            for agent in AGENTS:
                known = found.setdefault(agent, {}).setdefault(dimensions, [])
                if len(known) < seed:
                    with tempfile.TemporaryDirectory() as folder:
                        known.append(regret(agent, dimensions, seed, frames, Path(folder)))
                    yield agent, dimensions, seed


def settings() -> dict[str, Any]:
    """What the regrets were made with: a study with other settings of the agents is another one."""
    return {"agents": AGENTS, "common": COMMON}


def chosen(found: Found, dims: Sequence[int], seeds: int) -> Found:
    """The first seeds in some dimensions: a file may have more."""
    return {agent: {n: by_dimension[n][:seeds] for n in dims} for agent, by_dimension in found.items()}


def known_regrets(numbers: Path, frames: int) -> Found:
    """The results of an earlier study with as many frames and the same ``settings``, from its file of numbers.

    Raises:
        UserError: the file is of another study, or damaged.
    """
    if not numbers.exists():
        return {}
    try:
        record = json.loads(numbers.read_text())
        same = record["settings"]["frames"] == str(frames) and record["with"] == settings()
        found = record["regret"]
        known = {agent: {int(n): [*map(_read, values)] for n, values in of.items()} for agent, of in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        same, known = False, {}
    if not same:
        expected = f"no file, or one with --frames {frames} and the same settings of the agents"
        raise UserError(str(numbers), "another study, or a damaged file", expected, "choose another folder with --out")
    return known


def draw(path: Path, found: Mapping[str, Mapping[int, Sequence[float]]]) -> None:
    """The mean regret of each agent by the number of dimensions, and every seed faintly."""
    with picture(path, 5.0, 3.4) as figure:
        ax = figure.subplots()
        for i, (agent, unsorted) in enumerate(found.items()):
            by_dimension = dict(sorted(unsorted.items()))
            dims = list(by_dimension)
            look: dict[str, Any] = {"color": COLOURS[i], "marker": MARKERS[i]}
            ax.plot(
                dims,
                [np.mean(x) for x in by_dimension.values()],
                **look,
                markersize=4,
                label=agent.replace("alpha", "\N{GREEK SMALL LETTER ALPHA}"),
            )
            for each in zip_longest(*by_dimension.values(), fillvalue=np.nan):
                ax.plot(dims, each, **look, linestyle="none", markersize=3, alpha=0.3)
        ax.set_xscale("log", base=2)
        ax.set_xticks(every := sorted({n for by_dimension in found.values() for n in by_dimension}), map(str, every))
        ax.set(xlabel="dimensions of the action", ylabel="regret of an episode")
        ax.legend(fontsize="small")
