"""What stands between a task and the stream of its rows."""

from __future__ import annotations

from typing import Any

import gymnasium

from worldrl.envs.corruption import CorruptionConfig, Noise
from worldrl.envs.spaces import Array, Observation


class Corruption(gymnasium.Wrapper[Observation, Array, Observation, Array]):
    """Corrupts every entry of a TaskEnv's observation dict, the reset row included.

    ``reset`` needs a seed. Images that are not drawn (``render_pixels = False``) pass as they are.

    Raises:
        UserError: as ``Noise``.
    """

    def __init__(self, env: gymnasium.Env[Observation, Array], config: CorruptionConfig) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, gymnasium.spaces.Dict)
        groups = getattr(self.unwrapped, "groups", {})
        self._noise: Noise = Noise(config, env.observation_space.spaces, {"state": groups} if groups else {})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict]:
        if seed is None:
            raise ValueError("Corruption.reset needs the episode's seed")
        self._noise.begin(seed)
        obs, info = self.env.reset(seed=seed, options=options)
        return self._corrupt(obs), info

    def step(self, action: Array) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._corrupt(obs), reward, terminated, truncated, info

    def _corrupt(self, obs: Observation) -> Observation:
        return self._noise(obs, images=getattr(self.unwrapped, "render_pixels", True))
