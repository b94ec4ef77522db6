"""What all single environments share: observation keys, action scaling, the frame count."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldrl.envs import rendering
from worldrl.envs.rendering import RenderConfig
from worldrl.envs.scaling import rescale as rescale  # with the other helpers of single environments
from worldrl.errors import UserError, unknown, wrong

Array = np.ndarray
Observation = dict[str, Array]  # "pixels" (64, 64, 3) uint8, "state" (D,) float32
Groups = dict[str, tuple[int, int]]  # sensor name -> (start, stop) inside "state"

OBS_MODES = ("pixels", "state", "both")
IMAGE_SHAPE = (64, 64, 3)
NO_BOUND = 1e10  # MuJoCo's value for a missing bound


class BrokenContractError(UserError):
    """An environment breaks the promises of its spaces or of Gymnasium's interface: another episode would not help."""


class TaskEnv(gymnasium.Env[Any, Any]):
    """A task with action repeat, whose actions are in [-1, 1] or one-hot rows.

    Observations are a dict with ``"pixels"`` (64, 64, 3) uint8 and/or ``"state"``: (D,) float32, or a grid (H, W, C) of
    float32, or of uint8 if it is a screen. One step repeats the action over ``action_repeat`` frames, sums their
    rewards, stops where the episode ends, and renders only the last frame; ``info["frames"]`` counts the simulated
    frames. ``reset(seed=s)`` makes the episode a pure function of ``s`` and the actions.

    With ``render_pixels = False`` nothing is rendered and images are black: for replaying an episode quickly.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (the base class declares it so)
    render_mode: str | None = "rgb_array"
    task: str
    groups: Groups
    terminates: bool
    max_frames: int
    bounds: tuple[Array, Array] | None = None  # the bounds of its actions in its own units, each (A,); None: unknown
    choices: int = 0  # the number of alternatives of a choice, a one-hot row; 0: actions are a box
    first_choice: int = 0  # the task's own number of the first alternative
    protocol: str = ""  # what else defines the task, in words: versions, sticky actions, where episodes end
    render_pixels: bool = True

    def __init__(
        self,
        task: str,
        obs: str = "pixels",
        action_repeat: int = 2,
        render: RenderConfig | None = None,
        draws: bool = True,
    ) -> None:
        check_obs_mode(obs)
        check_repeat(action_repeat)
        self.task, self._obs, self._repeat, self._render = task, obs, action_repeat, render or RenderConfig()
        self.render_pixels = draws
        rendering.check_size(self._render.size)
        self._open()

    def _open(self) -> None:
        """Create the simulation with checked settings, and describe it."""
        raise NotImplementedError

    def video_frame(self, height: int, width: int) -> Array:
        """Render the current state for a video: (height, width, 3) uint8, or the environment's size if it is fixed."""
        raise NotImplementedError

    def truth(self) -> dict[str, float]:
        """The current state by coordinate, whatever the agent observes of it; empty if it cannot be read."""
        return {}


def check_obs_mode(obs: str) -> None:
    """Raise UserError unless ``obs`` is pixels, state or both."""
    if obs not in OBS_MODES:
        raise unknown("env.obs", obs, OBS_MODES)


def check_repeat(action_repeat: int) -> None:
    """Raise UserError unless ``action_repeat`` is a positive integer."""
    if action_repeat < 1:
        raise wrong("env.action_repeat", action_repeat, "1 or more frames per action")


def observation_space(obs: str, state: int | spaces.Box) -> spaces.Dict:
    """The space of an observation dict with the keys of ``obs``; ``state`` is a vector's size, or a box."""
    keys: dict[str, spaces.Space[Any]] = {}
    if obs != "state":
        keys["pixels"] = spaces.Box(0, 255, IMAGE_SHAPE, np.uint8)
    if obs != "pixels":
        keys["state"] = spaces.Box(-np.inf, np.inf, (state,), np.float32) if isinstance(state, int) else state
    return spaces.Dict(keys)


def unit_box(dim: int) -> spaces.Box:
    """The action space of every environment here: [-1, 1]^dim."""
    return spaces.Box(-1.0, 1.0, (dim,), np.float32)


def unbounded(bounds: Array) -> Array:
    """Which entries are not bounds: infinite, not a number, or so large that they mean that there is no bound."""
    return ~(np.abs(bounds) < min(NO_BOUND, float(np.finfo(bounds.dtype).max)))


def name_groups(parts: dict[str, int]) -> Groups:
    """Start and stop of each part of a concatenated vector, given the part sizes in order."""
    groups: Groups = {}
    start = 0
    for name, size in parts.items():
        groups[name] = (start, start + size)
        start += size
    return groups


def as_array(value: Any) -> Array:
    """``value`` as an array, even if it is a tensor that is on a GPU or requires a gradient."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def as_number(value: Any) -> float:
    """One number from a scalar or an array of one entry, of any shape and type. Raises ValueError for anything else."""
    array = as_array(value)
    if array.size != 1 or array.dtype.kind not in "biufO" or array.item() is None:
        raise ValueError("expected one number")
    return float(array.item())


def concatenate(parts: list[Any]) -> Array:
    """One flat float32 vector from arrays and scalars of any shape."""
    return np.concatenate([np.ravel(x) for x in parts]).astype(np.float32) if parts else np.zeros(0, np.float32)
