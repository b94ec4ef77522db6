"""Atari games by ale-py, in the protocol of Machado et al. 2018 (arXiv 1709.06009)."""

from __future__ import annotations

import functools
from importlib.metadata import version
from typing import Any

import numpy as np
from gymnasium import spaces

from worldrl.data.jpeg import opencv
from worldrl.envs import rendering
from worldrl.envs.images import resize
from worldrl.envs.spaces import IMAGE_SHAPE, Array, Observation, TaskEnv, observation_space, unit_box
from worldrl.errors import cannot_import, unknown

NAMESPACE, VERSION, ALL_ACTIONS = "ALE/", "-v5", "-full"
SPELLING = "Atari (ALE/Pong-v5; ALE/Pong-full-v5 has all 18 actions)"
STICKY = 0.25  # probability that a frame repeats the last action instead of taking the new one
MAX_FRAMES = 108_000  # half an hour of play
SCREEN = (84, 84, 1)  # the observation of env.obs=state, in grey: the screen of Mnih et al. 2015


class AtariEnv(TaskEnv):
    """One game by its Gymnasium id. Images are 64 x 64 in colour; ``env.obs=state`` is the screen, 84 x 84 in grey.

    The emulator advances one frame at a time, so only ``env.action_repeat`` skips frames (4 in the protocol). An image
    is the maximum of the last two frames of an action, because many games draw some objects in every other frame; at
    action repeat 1 there is only one frame, so such objects can be missing. Actions are sticky in each frame, a lost
    life does not end an episode, and the time limit is a truncation. Rewards are those of the game.

    Raises:
        UserError: the package is missing, or it has no such game.
    """

    terminates = True
    max_frames = MAX_FRAMES
    groups: dict[str, tuple[int, int]] = {}  # noqa: RUF012 (a screen has no sensors)

    def _open(self) -> None:
        self.task = canonical_name(self.task)
        name = self.task.removeprefix(NAMESPACE).removesuffix(VERSION)
        full, game = name.endswith(ALL_ACTIONS), games()[name.removesuffix(ALL_ACTIONS)]
        self._env = _ale().AtariEnv(
            game,
            frameskip=1,
            repeat_action_probability=STICKY,
            full_action_space=full,
            max_num_frames_per_episode=MAX_FRAMES,
            render_mode="rgb_array",
        )
        self.choices = int(self._env.action_space.n)
        which = "all" if full else "the game's own"
        self.protocol = (
            f"ale-py {version('ale-py')}, {which} {self.choices} actions, sticky actions {STICKY}, no frame skip but "
            f"env.action_repeat={self._repeat}, lost lives do not end an episode, {MAX_FRAMES} frames do"
        )
        self.action_space = unit_box(self.choices)
        self.observation_space = observation_space(self._obs, spaces.Box(0, 255, SCREEN, np.uint8))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict]:
        """Start an episode; with a seed it is a pure function of that seed and the actions."""
        self._screen, _ = self._env.reset(seed=seed)
        return self._observe(self._screen), {"frames": 0}

    def step(self, action: Array) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Repeat one action, a one-hot row; the reward is the sum over the repeated frames."""
        number, reward, frames = int(np.argmax(action)), 0.0, 0
        screens: list[Array] = []
        terminated = truncated = False
        while frames < self._repeat and not (terminated or truncated):
            screen, r, terminated, truncated, _ = self._env.step(number)
            screens = [*screens[-1:], screen]
            reward, frames = reward + float(r), frames + 1
        self._screen = np.maximum(*screens) if len(screens) == 2 else screens[0]
        return self._observe(self._screen), reward, terminated, truncated and not terminated, {"frames": frames}

    def render(self) -> Array:
        """The image that the agent sees with ``env.obs=pixels``, (64, 64, 3) uint8."""
        return resize(self._screen, rendering.SIZE, rendering.SIZE)

    def video_frame(self, height: int, width: int) -> Array:
        return self._screen

    def close(self) -> None:
        self._env.close()

    def _observe(self, screen: Array) -> Observation:
        """The observation of a screen (210, 160, 3)."""
        out: Observation = {}
        if self._obs != "state":
            drawn = self.render_pixels
            out["pixels"] = resize(screen, *IMAGE_SHAPE[:2]) if drawn else np.zeros(IMAGE_SHAPE, np.uint8)
        if self._obs != "pixels":
            out["state"] = resize(opencv().cvtColor(screen, opencv().COLOR_RGB2GRAY), *SCREEN[:2])[..., None]
        return out


make = AtariEnv


def claims(task: str) -> bool:
    """Names that begin with ale-py's namespace."""
    return task.startswith(NAMESPACE)


def canonical_name(task: str) -> str:
    """The registered id; raises UserError with the nearest ones."""
    by_lower = {
        f"{NAMESPACE}{name}{kind}{VERSION}".lower(): f"{NAMESPACE}{name}{kind}{VERSION}"
        for name in games()
        for kind in ("", ALL_ACTIONS)
    }
    if task.lower() not in by_lower:
        raise unknown("task", task, by_lower.values())
    return by_lower[task.lower()]


@functools.cache
def games() -> dict[str, str]:
    """Games as in ids -> as in the emulator, ``SpaceInvaders`` -> ``space_invaders``."""
    return {game.title().replace("_", ""): game for game in _ale().roms.get_all_rom_ids()}


@functools.cache
def _ale() -> Any:
    """The package, without its messages; UserError if it is missing."""
    try:
        import ale_py
        import ale_py.roms
    except ImportError as error:
        raise cannot_import("ale-py", error, "pip install 'worldrl[atari]'") from error
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    return ale_py
