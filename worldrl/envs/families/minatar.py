"""MinAtar (Young and Tian 2019, arXiv 1903.03176): five games on a grid of 10 x 10."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import gymnasium
import numpy as np

from worldrl.envs.families.gym import GymEnv
from worldrl.envs.spaces import Array
from worldrl.errors import cannot_import, unknown

GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
NAMES = {f"MinAtar/{game.title().replace('_', '')}-v{n}": (game, n == 1) for game in GAMES for n in (0, 1)}
SPELLING = "MinAtar (MinAtar/Breakout-v1)"
TIME_LIMITS = {"freeway": 2501}  # frames; a game with a time limit of its own ends in no other way
LIMIT = 10_000  # frames, a limit of ours: in Seaquest, an agent that never dives never ends its episode
CELL = 24  # pixels of a drawn cell
COLOURS = np.array(  # of an empty cell, and of each channel: the player white; the package draws it almost black
    [
        (0, 0, 0),
        (255, 255, 255),
        (230, 159, 0),
        (86, 180, 233),
        (0, 178, 130),
        (240, 228, 66),
        (70, 110, 255),
        (230, 90, 20),
        (222, 120, 178),
        (160, 160, 160),
        (150, 90, 40),
    ],
    np.uint8,
)


class MinAtarEnv(GymEnv):
    """One game by its Gymnasium id; with ``env.obs=state`` the grid (10, 10, C) of zeros and ones.

    The package repeats the last action with probability 0.1 instead of the given one (a sticky action), and makes games
    harder over time. Three things are fixed here: a reset clears the sticky action, so an episode follows from its
    seed; observations are copies; Freeway's time limit is not a termination. The other games get a time limit, which is
    not a termination either.

    Raises:
        UserError: the package is missing, or it has no such game.
    """

    def _make(self) -> gymnasium.Env[Any, Any]:
        self.task = canonical_name(self.task)
        game, minimal = NAMES[self.task]
        try:
            from minatar.gym import BaseEnv
        except ImportError as error:
            raise cannot_import("MinAtar", error, "pip install 'worldrl[minatar]'") from error
        actions = "its own" if minimal else "all six"
        release = f"minatar {version('minatar')}"
        limit = TIME_LIMITS.get(game, LIMIT)
        self.protocol = (
            f"{release}, {actions} actions, sticky actions 0.1, difficulty ramping, at most {limit:,} frames"
        )
        return Repaired(BaseEnv(game, "rgb_array", use_minimal_action_set=minimal), limit, game in TIME_LIMITS)

    def _describe(self) -> None:
        super()._describe()
        self.max_frames = TIME_LIMITS.get(NAMES[self.task][0], LIMIT)


class Repaired(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The package's environment with these fixes, rendered in cells of ``CELL`` pixels.

    Args:
        limit: Frames after which an episode is truncated.
        endless: The game itself ends only by its time limit.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], limit: int, endless: bool) -> None:
        super().__init__(env)
        self.limit, self.endless = limit, endless
        self.frames = 0  # of the episode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        self.unwrapped.game.last_action = self.frames = 0  # type: ignore[attr-defined]
        obs, info = self.env.reset(seed=seed, options=options)
        return obs.copy(), info

    def step(self, action: int) -> tuple[Array, Any, bool, bool, dict[str, Any]]:
        obs, reward, ended, _, info = self.env.step(action)
        self.frames += 1
        terminated = bool(ended) and not self.endless
        truncated = not terminated and (bool(ended) or self.frames >= self.limit)
        return obs.copy(), reward, terminated, truncated, info

    def render(self) -> Array:
        """(10 CELL, 10 CELL, 3) uint8: each cell in the colour of its last channel, with lines between the cells."""
        state = self.unwrapped.game.state()  # type: ignore[attr-defined]
        cells = COLOURS[(state * np.arange(1, state.shape[-1] + 1)).max(-1)].repeat(CELL, 0).repeat(CELL, 1)
        cells[CELL - 1 :: CELL] = cells[:, CELL - 1 :: CELL] = 0
        return cells


make = MinAtarEnv


def claims(task: str) -> bool:
    """Names that begin with the package's namespace."""
    return task.startswith("MinAtar/")


def canonical_name(task: str) -> str:
    """The registered id; raises UserError with the nearest ones."""
    by_lower = {name.lower(): name for name in NAMES}
    if task.lower() not in by_lower:
        raise unknown("task", task, NAMES)
    return by_lower[task.lower()]
