"""A Gymnasium class that imports MuJoCo when it first draws."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Late(gymnasium.Env[Any, Any]):
    render_mode = "rgb_array"
    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), 0.0, False, True, {}

    def render(self) -> Any:
        from toy_mujoco import WhenAsked

        return WhenAsked().render()
