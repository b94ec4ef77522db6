from __future__ import annotations

import sys

import numpy as np
import pytest

from worldrl.envs import EnvConfig, make_envs
from worldrl.envs.families.robotics import NEW_MUJOCO, RoboticsEnv, Version, canonical_name, version
from worldrl.errors import UserError

CONFIG = EnvConfig(obs="state", action_repeat=1)


def test_a_dict_of_goals_is_one_vector_with_groups() -> None:
    pytest.importorskip("gymnasium_robotics", reason="needs the extra robotics")
    envs = make_envs(CONFIG, "PointMaze_UMaze-v3", seed=1)
    assert envs.spec.groups["state"] == {"achieved_goal": (0, 2), "desired_goal": (2, 4), "observation": (4, 8)}
    assert (envs.spec.max_frames, envs.spec.actions.size) == (300, 2)
    assert envs.spec.protocol.startswith("gymnasium-robotics ")
    rows = envs.reset()
    np.testing.assert_array_equal(rows["state"][:, :2], rows["state"][:, 4:6])


def test_tasks_that_fail_with_this_mujoco_say_so() -> None:
    pytest.importorskip("gymnasium_robotics", reason="needs the extra robotics")
    if Version(version("mujoco")) < NEW_MUJOCO:
        pytest.skip("this MuJoCo runs them")
    with pytest.raises(UserError, match="mujoco<"):
        RoboticsEnv("FetchReach-v4", "state", 1)


def test_a_name_that_does_not_exist_and_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gymnasium_robotics", reason="needs the extra robotics")
    with pytest.raises(UserError, match="PointMaze_UMaze-v3"):
        canonical_name("PointMaze_UMase-v3")
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    with pytest.raises(UserError, match="robotics"):
        canonical_name("PointMaze_UMaze-v3")
