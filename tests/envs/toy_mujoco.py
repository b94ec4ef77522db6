"""Gymnasium classes that draw with MuJoCo in their own ways; nothing here is imported before an environment is made."""

from __future__ import annotations

from typing import Any

import gymnasium
import mujoco
import numpy as np
from dm_control import suite
from gymnasium import spaces

XML = "<mujoco><worldbody><light/><geom size='1'/></worldbody></mujoco>"


class WhenAsked(gymnasium.Env[Any, Any]):
    """Makes its renderer when it first draws."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"
    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    renderer: Any = None

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_string(XML)
        self.data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, self.data)

    def prepare(self) -> None:
        self.renderer = self.renderer or mujoco.Renderer(self.model, 32, 32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), 0.0, False, True, {}

    def render(self) -> Any:
        self.prepare()
        self.renderer.update_scene(self.data)
        return self.renderer.render()


class AtOnce(WhenAsked):
    """Makes it in its constructor, as many do."""

    def __init__(self) -> None:
        super().__init__()
        self.prepare()


class AtReset(WhenAsked):
    def reset(self, **options: Any) -> Any:
        self.prepare()
        return super().reset(**options)


class SeesItself(WhenAsked):
    """Its observation is its own image, drawn from the first step on."""

    observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)

    def reset(self, **options: Any) -> Any:
        super().reset(**options)
        return np.zeros((64, 64, 3), np.uint8), {}

    def step(self, action: Any) -> Any:
        renderer = mujoco.Renderer(self.model, 64, 64)
        renderer.update_scene(self.data)
        return renderer.render(), 0.0, False, True, {}


class Suite(WhenAsked):
    """A task of dm_control behind a class."""

    def __init__(self) -> None:
        self.env = suite.load("cartpole", "balance")

    def render(self) -> Any:
        return self.env.physics.render(32, 32, camera_id=0)
