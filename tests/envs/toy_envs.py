"""Small Gymnasium environments for the tests; importable by name from worker processes."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

LENGTH = 5


class Count(gymnasium.Env[Any, Any]):
    """The observation is (step, last action, a number fixed by the seed); the reward is the step."""

    metadata = {"render_modes": []}  # noqa: RUF012
    action_space: spaces.Space[Any] = spaces.Box(0.0, 4.0, (1,), np.float32)
    observation_space: spaces.Space[Any] = spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.now, self.last, self.mark = 0, 0.0, float(self.np_random.random())
        return self.observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.now, self.last = self.now + 1, float(np.ravel(action)[0])
        return self.observation(), float(self.now), False, self.now >= LENGTH, {}

    def observation(self) -> Any:
        return np.array([self.now, self.last, self.mark], np.float32)


class Terminates(Count):
    """Ends for good where Count runs out of time."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, _, end, info = super().step(action)
        return obs, reward, end, end, info


class Bets(Count):
    """The reward is the action times a fresh number between -1 and 1 that nobody can know."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        gymnasium.Env.reset(self, seed=seed)
        self.now, self.last, self.mark = 0, 0.0, 0.0
        return self.observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, _, _, _, info = super().step(action)
        return obs, float(action[0] - 2.0) * self.np_random.uniform(-1.0, 1.0), False, self.now >= 50, info


class Raises(Count):
    """Misbehaves on the action 4 (1 to the agent)."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if action[0] > 3.9:
            self.misbehave()
        return super().step(action)

    def misbehave(self) -> None:
        raise ValueError("the robot is 100% broken")


class Dies(Raises):
    def misbehave(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Hangs(Raises):
    def misbehave(self) -> None:
        time.sleep(600)


class IsSlow(Raises):
    def misbehave(self) -> None:
        time.sleep(1.0)


class RaisesOnce(Raises):
    """What failed works when it is tried again."""

    left = 1

    def misbehave(self) -> None:
        if self.left:
            type(self).left = 0
            super().misbehave()


class Diverges(Count):
    """One episode in three fails at its third step, whatever the actions are."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.now == 2 and self.mark < 1 / 3:
            raise RuntimeError("Physics state is invalid. Warning(s) raised: mjWARN_BADQACC")
        return super().step(action)


class Loose(Raises):
    """It draws a number without the seed, at every reset."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        out = super().reset(seed=seed)
        self.mark = float(np.random.default_rng().random())
        return self.observation(), *out[1:]


class LooseOnce(Loose, RaisesOnce):
    """What failed works when it is tried again, but in another episode."""

    left = 1


class Strict(Count):
    """It refuses steps after its end, which ``length`` moves."""

    length = LENGTH

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.now >= self.length:
            raise RuntimeError("the episode is over")
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, self.now >= self.length, info


class NeverSteps(Count):
    def step(self, action: Any) -> Any:
        raise AttributeError("no such robot")


class SometimesStarts(Count):
    """Every other episode, by its seed, cannot begin."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        out = super().reset(seed=seed)
        if self.mark < 1 / 2:
            raise RuntimeError("the robot lies on its back")
        return out


class Wrong(Count):
    """Breaks its promises from the second step on, as ``how`` says."""

    how = ""

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        if self.now == 1:
            return obs, reward, terminated, truncated, info
        obs = {"short": obs[:2], "nan": obs * np.array([1, np.nan, 1])}.get(self.how, obs)
        reward = np.inf if self.how == "reward" else reward
        return (obs, reward, truncated, info) if self.how == "old" else (obs, reward, terminated, truncated, info)


class WrongShape(Wrong):
    how = "short"


class NotANumber(Wrong):
    how = "nan"


class WrongReward(Wrong):
    how = "reward"


class Rewards(Count):
    """The reward of the last step, 5, as ``kind`` gives it."""

    kind: Any = float

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        obs, reward, *rest = super().step(action)
        return obs, type(self).kind(reward), *rest


class OldStep(Wrong):
    how = "old"


class OldReset(Count):
    def reset(self, **options: Any) -> Any:
        return super().reset(**options)[0]


class NeedsSize(Count):
    def __init__(self, size: int) -> None:
        self.size = size


class DrawsIfAsked(Count):
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode

    def render(self) -> Any:
        return np.zeros((64, 64, 3), np.uint8)


class CannotDraw(Count):
    render_mode = "rgb_array"

    def render(self) -> Any:
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed")


class Rich(Count):
    """A dict of two vectors and an image."""

    observation_space = spaces.Dict(
        {
            "legs": spaces.Box(-1, 1, (2,), np.float32),
            "camera": spaces.Box(0, 255, (64, 64, 3), np.uint8),
            "arm": spaces.Box(-1, 1, (3,), np.float64),
        }
    )

    def observation(self) -> Any:
        image = np.full((64, 64, 3), 10 * self.now, np.uint8)
        return {"legs": np.full(2, 0.5, np.float32), "camera": image, "arm": np.array([self.now, 0.25, self.mark])}


class Draws(Count):
    """Renders itself as a red image of another size."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"
    drawn = 0

    def render(self) -> Any:
        self.drawn += 1
        return np.broadcast_to(np.array([200, 0, self.now], np.uint8), (96, 128, 3)).copy()


class Choice(Count):
    """One of -1, 0, 1, 2."""

    action_space = spaces.Discrete(4, start=-1)


class Several(Count):
    """Two choices at once: the first of 2, 3, the second of 0, 1, 2."""

    action_space = spaces.MultiDiscrete([2, 3], start=[2, 0])

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(np.asarray(action))
        self.taken = tuple(action)
        return super().step(action)


class Board(Count):
    """A grid of 3 x 2 with four channels, the same array at every step."""

    observation_space = spaces.Box(0, 1, (3, 2, 4), np.float32)
    board = np.zeros((3, 2, 4), np.float32)

    def observation(self) -> Any:
        self.board[self.now % 3, 1, 2] = self.now
        return self.board


class Turned(Board):
    """Not the shape that it declares, but as many numbers."""

    board = np.zeros((4, 2, 3), np.float32)


class Empty(Count):
    observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-1, 1, (0,))})


class CannotStart(Count):
    """It has nothing to show before its first reset, which fails."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        raise ValueError("the robot is off")


class CannotClose(Count):
    def close(self) -> None:
        raise RuntimeError("the robot is still on")


def limited() -> gymnasium.Env[Any, Any]:
    """With a limit in a wrapper, not in an id."""
    return gymnasium.wrappers.TimeLimit(Count(), 7)


class ByteBoard(Board):
    """The same in bytes, of which the last channel only goes to 4."""

    observation_space = spaces.Box(
        np.zeros((3, 2, 4), np.uint8), np.full((3, 2, 4), [255, 255, 255, 4], np.uint8), dtype=np.uint8
    )
    board = np.zeros((3, 2, 4), np.uint8)

    def observation(self) -> Any:
        self.board[...] = [0, 51, 255, self.now]
        return self.board


class Unbounded(Count):
    action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)


class FloatImage(Count):
    observation_space = spaces.Box(0, 1, (64, 64, 3), np.float32)


class BigImage(Count):
    observation_space = spaces.Box(0, 255, (84, 84, 3), np.uint8)


class HugeImage(Count):
    observation_space = spaces.Box(0, 255, (210, 160, 3), np.uint8)


class Screen(Count):
    """One array that it reuses, full of the number of the step."""

    observation_space = spaces.Box(0, 255, (84, 84, 1), np.uint8)
    screen = np.zeros((84, 84, 1), np.uint8)

    def observation(self) -> Any:
        self.screen[...] = self.now
        return self.screen


class FloatScreen(Screen):
    """Not of the type that it declares."""

    screen = np.zeros((84, 84, 1), np.float32)


class Nested(Count):
    observation_space = spaces.Dict({"robot": spaces.Dict({"arm": spaces.Box(-1, 1, (3,), np.float32)})})


class TwoImages(Count):
    observation_space = spaces.Dict({k: spaces.Box(0, 255, (64, 64, 3), np.uint8) for k in ("left", "right")})


class Matrix(Count):
    observation_space = spaces.Box(-1, 1, (3, 3), np.float32)


class NotAnEnv:
    pass
