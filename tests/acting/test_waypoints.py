"""The way-point controller: shortest paths against SciPy's, its control law, goals that are reached."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse.csgraph import shortest_path

from worldrl.__main__ import main
from worldrl.acting.collect import collect
from worldrl.acting.waypoints import Follows, Maze, follow, mean_return, with_new_goals
from worldrl.envs.make import EnvConfig, make_env
from worldrl.errors import UserError
from worldrl.runs.data import checksum, read_data
from worldrl.types import EnvSpec, ObsSpec, box

ROOMS = [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 0, 1, "r", 1], [1, "g", 1, 0, 1], [1, 0, 0, 1, 0], [1, 1, 1, 1, 1]]
UMAZE = "PointMaze_UMaze-v3"
GROUPS = {"achieved_goal": (0, 2), "desired_goal": (2, 4), "observation": (4, 8)}


def test_paths_are_the_shortest_ones() -> None:
    maze = Maze(ROOMS)
    inside = maze.free[:-1]  # nothing leads to the last one
    apart = np.abs(np.array(inside)[:, None] - np.array(inside)).sum(-1)
    steps = shortest_path(apart == 1, unweighted=True)
    for i, start in enumerate(inside):
        for j, end in enumerate(inside):
            goal = maze.centre(end) + 0.2
            path = maze.path(maze.centre(start) - 0.3, goal)
            assert len(path) == max(1, steps[i, j])
            assert path[-1] is goal
            places = [maze.centre(start), *path[:-1], maze.centre(end)]
            gaps = [float(np.abs(b - a).sum()) for a, b in itertools.pairwise(places)]
            assert gaps == [1.0] * int(steps[i, j]) or i == j
    with pytest.raises(UserError, match="no path"):
        maze.path(maze.centre(inside[0]), maze.centre(maze.free[-1]))


def test_the_map_is_that_of_the_simulator() -> None:
    robotics = pytest.importorskip("gymnasium_robotics.envs.maze.maze_v4", reason="needs the extra robotics")
    theirs, maze = robotics.Maze(ROOMS, 1.0, 0.4), Maze(ROOMS)
    for cell in maze.free:
        np.testing.assert_allclose(maze.centre(cell), theirs.cell_rowcol_to_xy(np.array(cell)))
        assert maze.cell(maze.centre(cell) + 0.4) == cell


def rows(x: tuple[float, float], v: tuple[float, float], goal: tuple[float, float], first: float = 0.0) -> dict:
    return {"state": np.array([[*x, *goal, *x, *v]], np.float32), "is_first": np.array([first], np.float32)}


def test_the_control_law() -> None:
    maze = Maze(ROOMS)  # the cell in the second row and column has its centre at (-1, 1.5)
    act = Follows(maze, GROUPS, np.random.default_rng(0), 0.0)
    goal = (0.25, 1.5)
    np.testing.assert_allclose(act(rows((-1.0, 1.5), (0.5, 0.3), goal, 1.0)), [[1.0, -0.3]], atol=1e-6)
    np.testing.assert_allclose(act(rows((-0.05, 1.5), (0.0, 0.0), goal)), [[1.0, 0.0]], atol=1e-6)  # now to the goal
    np.testing.assert_allclose(act(rows((0.2, 1.51), (0.1, 0.0), goal)), [[0.4, -0.1]], atol=1e-5)
    np.testing.assert_allclose(act(rows((0.2, 1.5), (0.0, 0.0), (0.2, 1.52))), [[0.0, 0.2]], atol=1e-5)  # a new goal
    noisy = Follows(maze, GROUPS, np.random.default_rng(0), 0.5)
    drawn = np.array([noisy(rows((0.2, 1.5), (0.0, 0.0), (0.2, 1.5)))[0] for _ in range(2000)])
    assert np.abs(drawn).max() <= 1.0
    assert drawn.std() == pytest.approx(0.47, abs=0.02)  # of a normal number with deviation 0.5, clipped at 1


def test_data_are_made_with_new_goals_and_the_same_by_a_second_call(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium_robotics", reason="needs the extra robotics")
    sums = []
    for name in ("a", "b"):
        arguments = ["--policy", "waypoints", "--task", UMAZE, "--steps", "700", "--seed", "3"]
        assert main(["data", "make", str(tmp_path / name), *arguments]) == 0
        data = read_data(tmp_path / name)
        sums.append(checksum(data.columns))
    assert sums[0] == sums[1]
    assert data.task == UMAZE
    reached, goals = data.columns["reward"], data.columns["state"][:, slice(*GROUPS["desired_goal"])]
    assert reached.sum() >= 4
    moved = np.flatnonzero((goals[1:] != goals[:-1]).any(1) & (data.columns["is_first"][1:] == 0))
    np.testing.assert_array_equal(moved, np.flatnonzero(reached[:-1] * (1 - data.columns["is_first"][1:])))


def test_without_noise_it_reaches_more() -> None:
    pytest.importorskip("gymnasium_robotics", reason="needs the extra robotics")
    config = EnvConfig(obs="state", action_repeat=1)
    columns, *_ = collect(config, with_new_goals(UMAZE), 0, 900, follow(UMAZE, 0, 0.0))
    assert columns["reward"].sum() >= 9
    assert mean_return(config, UMAZE, 0, 2) > 100  # the goal stays, and it stays there: of 300 steps
    kept = make_env(config, UMAZE).unwrapped._env.unwrapped  # type: ignore[attr-defined]
    assert (kept.continuing_task, kept.reset_target) == (True, False)


@pytest.mark.parametrize("extra", [["--task", "Pendulum-v1"], [], ["--task", UMAZE, "--expert", "much"]])
def test_mistakes_are_one_line(tmp_path: Path, extra: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gymnasium_robotics", reason="needs the extra robotics")
    assert main(["data", "make", str(tmp_path / "out"), "--policy", "waypoints", "--steps", "5", *extra]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_it_needs_a_state() -> None:
    pytest.importorskip("gymnasium_robotics", reason="needs the extra robotics")
    images = EnvSpec(UMAZE, {"pixels": ObsSpec((64, 64, 3), "uint8")}, box(2))
    with pytest.raises(UserError, match="--obs state"):
        follow(UMAZE, 0)(images)
