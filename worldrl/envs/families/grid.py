"""The grid world of ``tabular/grid.py`` as a task of choices: an agent's results can be compared with exact ones.

The observation is the one-hot row of the cell.
"""

from __future__ import annotations

import re
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from worldrl.envs.families.gym import GymEnv
from worldrl.envs.spaces import Array
from worldrl.errors import wrong
from worldrl.tabular.grid import grid_world
from worldrl.tabular.mdp import MDP

SPELLING = "a grid world by its side (grid16; grid8corner starts in a corner)"
NAME = re.compile(r"grid(\d{1,2})(corner)?")
SIDES = range(2, 17)


class Table(gymnasium.Env[Array, Any]):
    """A process of ``worldrl.tabular``, cut after ``limit`` steps: the observation is the state as a one-hot row."""

    def __init__(self, mdp: MDP, limit: int) -> None:
        self.mdp, self.limit = mdp, limit
        states, actions = mdp.reward.shape
        self.observation_space = spaces.Box(0.0, 1.0, (states,), np.float32)
        self.action_space = spaces.Discrete(actions)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._arrive(self.mdp.start), {}

    def step(self, action: int) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        reward = float(self.mdp.reward[self.state, action])
        seen = self._arrive(self.mdp.transition[self.state, action])
        return seen, reward, bool(self.mdp.terminal[self.state]), self.steps >= self.limit, {}

    def _arrive(self, p: Array) -> Array:
        self.state = int(self.np_random.choice(len(p), p=p))
        return np.eye(1, len(p), self.state, np.float32)[0]


class Grid(Table):
    """Actions are left, right, up, down and stay; -1 per step, +9 and the end at the bottom left corner. No images.

    Episodes are cut after side^2 steps. They start in any cell except the goal, or in the corner that is 2 (side - 1)
    steps away from it.
    """

    def __init__(self, task: str) -> None:
        self.side, corner = _parts(task)
        mdp, cells = grid_world(self.side), self.side * self.side
        super().__init__(mdp._replace(start=np.eye(cells)[self.side - 1]) if corner else mdp, cells)
        self.spec = EnvSpec(task, max_episode_steps=cells)


class GridEnv(GymEnv):
    """``grid16`` or ``grid8corner``. Raises UserError as ``GymEnv``."""

    def _make(self) -> gymnasium.Env[Any, Any]:
        return make_unwrapped(self.task)


make = GridEnv


def claims(task: str) -> bool:
    """``grid``, a number, and ``corner`` or nothing."""
    return NAME.fullmatch(task) is not None


def canonical_name(task: str) -> str:
    """The name itself. Raises UserError for a side that is not available."""
    _parts(task)
    return task


def make_unwrapped(task: str, backend: str = "auto") -> Grid:
    """The environment itself; nothing is rendered."""
    return Grid(task)


def _parts(task: str) -> tuple[int, bool]:
    match = NAME.fullmatch(task)
    assert match is not None
    if (side := int(match[1])) not in SIDES:
        raise wrong(f"the side of {task}", side, f"{SIDES.start} to {SIDES.stop - 1}")
    return side, bool(match[2])
