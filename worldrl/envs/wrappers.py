"""Wrappers between a task and the stream of its rows."""

from __future__ import annotations

from typing import Any, cast

import gymnasium
import numpy as np

from worldrl.data.returns import RETURN_TO_GO
from worldrl.envs.corruption import IMAGE, MASK, CorruptionConfig, Noise
from worldrl.envs.spaces import Array, Groups, Observation, TaskEnv, name_groups, observation_space
from worldrl.errors import UserError


class Hidden(gymnasium.ObservationWrapper[Any, Array, Observation]):
    """Leaves sensor groups out of a TaskEnv's state vector; ``groups`` has the remaining ones and their places.

    Raises:
        UserError: a group that the task does not have, or no remaining group.
    """

    def __init__(self, env: gymnasium.Env[Observation, Array], names: tuple[str, ...]) -> None:
        super().__init__(env)
        groups: Groups = env.get_wrapper_attr("groups")
        for name in names:
            if name not in groups:
                raise UserError("env.hide", repr(name), _expected(groups))
        sizes = {name: stop - start for name, (start, stop) in groups.items() if name not in names}
        if not sizes:
            fix = "leave one, or use env.obs=pixels"
            raise UserError("env.hide", f"every sensor group ({', '.join(groups)})", "one that remains", fix)
        self.groups = name_groups(sizes)
        self._kept = np.concatenate([np.arange(*groups[name]) for name in sizes])
        obs = "both" if "pixels" in env.observation_space.spaces else "state"  # type: ignore[attr-defined]
        self.observation_space = observation_space(obs, len(self._kept))

    def observation(self, observation: Observation) -> Observation:
        return {**observation, "state": observation["state"][self._kept]}


def _expected(groups: Groups) -> str:
    if not groups:
        return "no group: images, screens and grids are not sensors"
    return f"sensor groups of the task: {', '.join(groups)}"


class Masked(gymnasium.ObservationWrapper[Any, Array, Observation]):
    """Adds the sensor group ``MASK`` to the state vector, which is created for it if there are only images.

    It has a number for each other group, and for the image: the share of its entries that are readings. Here all are
    readings; ``Noise`` subtracts what is lost.

    Raises:
        UserError: a state that is a grid or a screen, or one that has a group of this name.
    """

    def __init__(self, env: gymnasium.Env[Observation, Array]) -> None:
        super().__init__(env)
        keys: dict[str, gymnasium.spaces.Space[Any]] = env.observation_space.spaces  # type: ignore[attr-defined]
        groups: Groups = env.get_wrapper_attr("groups")
        if MASK in groups or ("state" in keys and not groups):
            found = f"a sensor group {MASK}" if MASK in groups else f"a state of shape {keys['state'].shape}"
            raise UserError("env.mask", found, "images, or a vector of named sensors", "use env.mask=false")
        images = IMAGE in keys
        size, self._shares = max((stop for _, stop in groups.values()), default=0), len(groups) + images
        self.groups = {**groups, MASK: (size, size + self._shares)}
        self.observation_space = observation_space("both" if images else "state", size + self._shares)

    def observation(self, observation: Observation) -> Observation:
        state = observation.get("state", np.zeros(0, np.float32))
        return {**observation, "state": np.concatenate([state, np.ones(self._shares, np.float32)])}


class Corruption(gymnasium.Wrapper[Observation, Array, Observation, Array]):
    """Corrupts every entry of a TaskEnv's observation dict, including the reset row.

    ``reset`` needs a seed. Images that are not rendered (``render_pixels = False``) are unchanged.

    Raises:
        UserError: as ``Noise``.
    """

    def __init__(self, env: gymnasium.Env[Observation, Array], config: CorruptionConfig) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, gymnasium.spaces.Dict)
        groups: Groups = env.get_wrapper_attr("groups")
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
        return self._noise(obs, images=cast(TaskEnv, self.unwrapped).render_pixels)


class Asked(gymnasium.Wrapper[Any, Array, Observation, Array]):
    """Asks for a return: one more observation (1,) is the target minus all rewards so far.

    Args:
        env: A TaskEnv, with or without wrappers.
        target: The return that an episode begins with.
    """

    def __init__(self, env: gymnasium.Env[Observation, Array], target: float) -> None:
        super().__init__(env)
        self._target = self._left = target
        spaces: dict[str, gymnasium.Space[Any]] = env.observation_space.spaces  # type: ignore[attr-defined]
        column = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.observation_space = gymnasium.spaces.Dict({**spaces, RETURN_TO_GO: column})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict]:
        self._left = self._target
        obs, info = self.env.reset(seed=seed, options=options)
        return self._with_column(obs), info

    def step(self, action: Array) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._left -= float(reward)
        return self._with_column(obs), reward, terminated, truncated, info

    def _with_column(self, obs: Observation) -> Observation:
        return {**obs, RETURN_TO_GO: np.array([self._left], np.float32)}
