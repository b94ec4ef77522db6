from __future__ import annotations

import numpy as np
import pytest

from worldrl.envs import EnvConfig, make_envs
from worldrl.envs.families.grid import Grid, GridEnv, canonical_name, claims
from worldrl.errors import UserError

STEPS = {0: (0, -1), 1: (0, 1), 2: (-1, 0), 3: (1, 0), 4: (0, 0)}  # left, right, up, down, stay: row, column


def test_every_step_from_every_cell() -> None:
    """Walls hold, each step costs 1, and the one onto the bottom left cell pays 9 and ends the episode."""
    side = 4
    env = Grid("grid4")
    env.reset(seed=0)
    for cell in range(side * side):
        for action, (down, right) in STEPS.items():
            env.state, env.steps = cell, 0
            obs, reward, terminated, truncated, _ = env.step(action)
            row, column = (min(max(x, 0), side - 1) for x in (cell // side + down, cell % side + right))
            ends = (row, column) == (side - 1, 0)
            if cell != side * (side - 1):
                assert np.flatnonzero(obs).tolist() == [row * side + column]
                assert (reward, terminated, truncated) == (9.0 if ends else -1.0, ends, False)


def test_starts() -> None:
    anywhere, corner = Grid("grid3"), Grid("grid3corner")
    starts = [int(anywhere.reset(seed=seed)[0].argmax()) for seed in range(80)]
    assert set(starts) == set(range(9)) - {6}
    assert starts[:9] == [int(anywhere.reset(seed=seed)[0].argmax()) for seed in range(9)]
    assert {int(corner.reset(seed=seed)[0].argmax()) for seed in range(9)} == {2}


def test_the_shortest_way_and_the_time_limit() -> None:
    envs = make_envs(EnvConfig(obs="state", action_repeat=1), "grid3corner", seed=1)
    assert (envs.spec.actions.size, envs.spec.obs["state"].shape, envs.spec.max_frames) == (5, (9,), 9)
    envs.reset()
    moves = np.eye(5, dtype=np.float32)[:, None]
    rows = [envs.step(moves[action]) for action in (0, 0, 3, 3)]
    assert sum(float(row["reward"][0]) for row in rows) == 6.0
    assert [float(row["is_terminal"][0]) for row in rows] == [0, 0, 0, 1]
    envs.step(moves[4])  # the first row of the next episode
    rows = [envs.step(moves[4]) for _ in range(9)]
    assert [float(row["is_last"][0]) for row in rows] == [0] * 8 + [1]
    assert not any(row["is_terminal"][0] for row in rows)


def test_names() -> None:
    assert claims("grid16")
    assert claims("grid8corner")
    assert not any(map(claims, ("grid", "gridcorner", "grid8 corner", "Grid8-v0", "grid_world")))
    assert canonical_name("grid8") == "grid8"
    for task in ("grid1", "grid17"):
        with pytest.raises(UserError) as refused:
            canonical_name(task)
        assert refused.value.expected == "2 to 16"


def test_nothing_is_drawn() -> None:
    with pytest.raises(UserError) as refused:
        GridEnv("grid4", "pixels", 1)
    assert "env.obs=state" in refused.value.fix
