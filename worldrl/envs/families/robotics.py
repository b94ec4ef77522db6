"""Gymnasium-Robotics: mazes (PointMaze, AntMaze) and hands (Adroit), by their ids."""

from __future__ import annotations

import contextlib
import io
import re
from importlib.metadata import version
from typing import Any

import gymnasium
from packaging.version import Version

from worldrl.envs.families.gym import ROBOTICS, GymEnv, make_unwrapped
from worldrl.errors import UserError, cannot_import, unknown

SPELLING = "Gymnasium-Robotics (PointMaze_UMaze-v3)"
OLD_JOINTS = "FrankaKitchen|Fetch|HandReach|HandManipulate"  # they compare MuJoCo's joint types with numbers
NEW_MUJOCO = Version("3.12")  # where joint types no longer equal numbers


class RoboticsEnv(GymEnv):
    """One task by its id. Its dict of observations is one vector; ``groups`` keeps the names.

    Raises:
        UserError: the package is missing, it has no such task, or the task fails with the installed MuJoCo.
    """

    def _make(self) -> gymnasium.Env[Any, Any]:
        self.task = canonical_name(self.task)
        _check_mujoco(self.task)
        self.protocol = f"gymnasium-robotics {version('gymnasium-robotics')}"
        return make_unwrapped(self.task, self._render.backend)


make = RoboticsEnv


def claims(task: str) -> bool:
    """Names with a prefix of the package's ids."""
    return re.fullmatch(rf"({ROBOTICS})[\w.-]*-v\d+", task) is not None


def canonical_name(task: str) -> str:
    """The id itself. Raises UserError if the package is missing or has no such id."""
    register()
    if task not in gymnasium.registry:
        raise unknown("task", task, [name for name in gymnasium.registry if claims(name)])
    return task


def register() -> None:
    """Register the package's ids with Gymnasium. Raises UserError if it is missing."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # messages about other tasks
            import gymnasium_robotics
    except ImportError as error:
        raise cannot_import("Gymnasium-Robotics", error, "pip install 'worldrl[robotics]'") from error
    gymnasium.register_envs(gymnasium_robotics)


def _check_mujoco(task: str) -> None:
    installed = version("mujoco")
    if re.match(OLD_JOINTS, task) and Version(installed) >= NEW_MUJOCO:
        raise UserError(task, f"mujoco {installed}", f"one before {NEW_MUJOCO}", "pip install 'mujoco<3.12'")
