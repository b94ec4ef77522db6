"""The waypoint controller of PointMaze, with which D4RL recorded its maze data (Fu et al. 2020, arXiv 2004.07219).

The waypoints are the centres of the cells on the shortest path through the maze, and at the end the goal. With x the
position, v the velocity and w the next waypoint, which counts as reached at the distance ``REACH``,

    a = clip(clip(p (w - x) + d v) + sigma noise)        to [-1, 1]
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence

import gymnasium
import numpy as np
from numpy.typing import NDArray

from worldrl.acting.collect import Recorder
from worldrl.acting.episodes import Alone, play
from worldrl.envs.families import robotics
from worldrl.envs.make import EnvConfig, describe, make_task
from worldrl.envs.stream import RANDOM, RowStream
from worldrl.envs.workers import Rows
from worldrl.errors import UserError
from worldrl.types import EnvSpec

P, D, REACH, SIGMA = 10.0, -1.0, 0.1, 0.5
WALL = 1  # in a map; anything else is a free cell
STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))

Point = NDArray[np.float64]  # (2,) x and y
Cell = tuple[int, int]  # row and column


class Maze:
    """A map of unit cells whose middle is the origin; rows run downwards."""

    def __init__(self, cells: Sequence[Sequence[object]]) -> None:
        self.free = [(i, j) for i, row in enumerate(cells) for j, cell in enumerate(row) if cell != WALL]
        self.height, self.width = len(cells), len(cells[0])
        self.centres = np.array([self.centre(cell) for cell in self.free])  # (cells, 2)

    def centre(self, cell: Cell) -> Point:
        i, j = cell
        return np.array([j + 0.5 - self.width / 2, self.height / 2 - i - 0.5])

    def cell(self, point: Point) -> Cell:
        """The nearest free cell."""
        return self.free[int(np.square(self.centres - point).sum(-1).argmin())]

    def path(self, start: Point, goal: Point) -> list[Point]:
        """Waypoints from the cell after that of ``start`` to the ``goal`` itself: a shortest path.

        Raises:
            UserError: no path leads there.
        """
        here, last = self.cell(start), self.cell(goal)
        following: dict[Cell, Cell] = {last: last}
        queue = deque([last])
        while queue and here not in following:
            i, j = queue.popleft()
            for cell in ((i + di, j + dj) for di, dj in STEPS):
                if cell in self.free and cell not in following:
                    following[cell] = (i, j)
                    queue.append(cell)
        if here not in following:
            raise UserError("the maze", f"no path from cell {here} to {last}", "one between any two free cells")
        found = []
        while here != last:
            here = following[here]
            found.append(self.centre(here))
        return [*found[:-1], goal]


class Follows:
    """Acts in one maze, given its rows.

    Args:
        maze: Its map.
        groups: Where position, velocity and goal are in the state.
        rng: Draws the noise of the actions.
        sigma: Standard deviation of that noise.
    """

    def __init__(
        self, maze: Maze, groups: Mapping[str, tuple[int, int]], rng: np.random.Generator, sigma: float
    ) -> None:
        self.maze, self.rng, self.sigma = maze, rng, sigma
        self.body, self.goal = slice(*groups["observation"]), slice(*groups["desired_goal"])
        self.target = np.full(2, np.nan)
        self.way: list[Point] = []

    def __call__(self, rows: Rows) -> NDArray[np.float32]:
        """Rows (1, ...) -> action (1, 2)."""
        state = rows["state"][0].astype(np.float64)
        x, v = state[self.body].reshape(2, 2)
        if rows["is_first"][0] or not np.array_equal(self.target, state[self.goal]):
            self.target = state[self.goal]
            self.way = self.maze.path(x, self.target)
        while len(self.way) > 1 and math.dist(self.way[0], x) < REACH:
            self.way.pop(0)
        wanted = np.clip(P * (self.way[0] - x) + D * v, -1.0, 1.0)
        noise = self.sigma * self.rng.standard_normal(2)
        return np.clip(wanted + noise, -1.0, 1.0).astype(np.float32)[None]


def follow(task: str, seed: int, sigma: float = SIGMA) -> Recorder:
    """The controller for a task of PointMaze. Raises UserError for any other task, or one without a state."""
    maze = Maze(_maze_spec(task).kwargs["maze_map"])
    rng = np.random.default_rng([seed, 0x57415950])

    def made(spec: EnvSpec) -> Follows:
        if "state" not in spec.obs:
            raise UserError("waypoints", "observations without a state", "--obs state or --obs both")
        return Follows(maze, spec.groups["state"], rng, sigma)

    return made


def mean_return(config: EnvConfig, task: str, seed: int, episodes: int) -> float:
    """Mean return of the controller without noise, in the task itself; nothing is rendered."""
    with contextlib.closing(make_task(config, task, draws=False)) as env:
        spec = describe(env, config)
        ticks = play(Alone(RowStream(env, seed, RANDOM, 0), spec, seed, enduring=True), follow(task, seed, 0.0)(spec))
        ended = (float(tick.returns[0]) for tick in ticks if tick.ended)
        return float(np.mean(list(itertools.islice(ended, episodes))))


def with_new_goals(task: str) -> str:
    """The variant of a PointMaze task in which data are recorded: a goal that is reached is replaced by a new one.

    In the task itself the goal stays, and every step near it is rewarded.
    """
    spec = _maze_spec(task)
    name = f"worldrl/{spec.name}_NewGoals-v{spec.version}"
    if name not in gymnasium.registry:
        kwargs = {**spec.kwargs, "continuing_task": True, "reset_target": True}
        gymnasium.register(name, spec.entry_point, max_episode_steps=spec.max_episode_steps, kwargs=kwargs)
    return name


def _maze_spec(task: str) -> gymnasium.envs.registration.EnvSpec:
    if not task.startswith("PointMaze_"):
        raise UserError("waypoints", f"the task {task}", "one of PointMaze, such as PointMaze_UMaze-v3")
    robotics.register()
    return gymnasium.spec(task)
