"""A small run and its environments, also those that break."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

TASK = f"{__name__}:Steer"
SETTINGS = {
    "task": TASK,
    "env.obs": "both",
    "env.action_repeat": 1,
    "env.corruption.gaussian": 0.1,
    "frames": 30,
    "schedule.prefill": 15,
    "schedule.updates_per_1000_frames": 100,
    "replay.capacity": 100,
    "replay.batch": 2,
    "replay.length": 4,
    "eval.every": 0,
    "log.every": 100,
    "log.progress": False,
    "log.tensorboard": False,
    "device": "cpu",
    "threads": 1,
    "belief": "rssm",
    "belief.stoch": 4,
    "belief.deter": 8,
    "belief.hidden": 8,
    "belief.depth": 1,
    "belief.reward_units": 8,
    "belief.vector_units": 8,
    "head": "smac",
    "head.units": 8,
    "head.num_particles": 2,
}


class Steer(gymnasium.Env[Any, Any]):
    """A point that the action moves, seen as an image and by two sensors. Episodes are of different lengths."""

    metadata = {"render_modes": []}  # noqa: RUF012
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    observation_space = spaces.Dict(
        {
            "place": spaces.Box(-9, 9, (2,), np.float32),
            "speed": spaces.Box(-9, 9, (2,), np.float32),
            "camera": spaces.Box(0, 255, (64, 64, 3), np.uint8),
        }
    )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(3, 9))
        self.place, self.speed = self.np_random.normal(size=2), np.zeros(2)
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        self.speed = 0.5 * self.speed + np.asarray(action, float)
        self.place = self.place + self.speed
        return self.observe(), float(3 - np.abs(self.place).sum()), False, self.left == 0, {}

    def observe(self) -> Any:
        image = np.full((64, 64, 3), 100 + int(20 * np.tanh(self.place[0])), np.uint8)
        return {"place": self.place.astype(np.float32), "speed": self.speed.astype(np.float32), "camera": image}


class Wider(Steer):
    observation_space = spaces.Dict({**Steer.observation_space.spaces, "speed": spaces.Box(-9, 9, (3,), np.float32)})

    def observe(self) -> Any:
        return {**super().observe(), "speed": np.zeros(3, np.float32)}


class BreaksOften(Steer):
    """Every other episode, by its seed, fails in its third step."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.count, self.breaks = 0, bool(seed and seed % 2)
        return super().reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        if self.breaks and self.count == 3:
            raise RuntimeError("it diverges")
        return super().step(action)


class Breaks(Steer):
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        raise ValueError("the robot is broken")
