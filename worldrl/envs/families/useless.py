"""A task of choices with additional useless actions, for which a prior over actions is useful.

They are duplicates of the task's own, or dominated: a step in which nothing happens, at a cost.
"""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import gymnasium
from gymnasium import spaces

from worldrl.envs.checks import check_spaces
from worldrl.envs.families import grid, gym
from worldrl.envs.families.gym import GymEnv
from worldrl.errors import UserError

SPELLING = "a discrete task with useless actions (CartPole-v1+16dominated)"
NAME = re.compile(r"([\w./-]+)\+(\d{1,4})(duplicates|dominated)")
COST = 1.0  # of a wasted step


class UselessEnv(GymEnv):
    """``CartPole-v1+16dominated``: a task with that many more actions, numbered after its own.

    Raises:
        UserError: as ``GymEnv``, and if the task has no choices.
    """

    def _make(self) -> gymnasium.Env[Any, Any]:
        task, number, kind = parts(self.task)
        env: gymnasium.Env[Any, Any] = _family(task).make_unwrapped(task, self._render.backend)
        check_spaces(env, task, self._obs)
        if not isinstance(env.action_space, spaces.Discrete):
            raise UserError(self.task, f"actions {env.action_space}", "a task of choices")
        self.protocol = f"{number} useless actions in addition to {env.action_space.n}: {kind}"
        wrapper: Any = Duplicates if kind == "duplicates" else Dominated
        return wrapper(env, number)


class Duplicates(gymnasium.ActionWrapper[Any, Any, Any]):
    """``n`` more actions, which duplicate the task's own actions in turn."""

    def __init__(self, env: gymnasium.Env[Any, Any], n: int) -> None:
        super().__init__(env)
        own = env.action_space
        assert isinstance(own, spaces.Discrete)
        self.own, self.action_space = int(own.n), spaces.Discrete(int(own.n) + n, start=own.start)

    def action(self, action: int) -> int:
        start = int(self.action_space.start)  # type: ignore[attr-defined]
        return start + (action - start) % self.own


class Dominated(gymnasium.Wrapper[Any, Any, Any, Any]):
    """``n`` more actions that change nothing; the step costs ``COST`` and counts for the time limit."""

    def __init__(self, env: gymnasium.Env[Any, Any], n: int) -> None:
        super().__init__(env)
        own = env.action_space
        assert isinstance(own, spaces.Discrete)
        self.first = int(own.start + own.n)
        self.action_space = spaces.Discrete(int(own.n) + n, start=own.start)
        self.limit = (env.spec and env.spec.max_episode_steps) or 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.steps = 0
        self.seen, info = self.env.reset(seed=seed, options=options)
        return self.seen, info

    def step(self, action: int) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.steps += 1
        late = 0 < self.limit <= self.steps
        if action >= self.first:
            return self.seen, -COST, False, late, {}
        self.seen, reward, terminated, truncated, info = self.env.step(action)
        return self.seen, reward, terminated, bool(truncated or late), info


make = UselessEnv


def claims(task: str) -> bool:
    """A Gymnasium id or a grid, ``+``, a number and a kind."""
    return (match := NAME.fullmatch(task)) is not None and (grid.claims(match[1]) or gym.claims(match[1]))


def canonical_name(task: str) -> str:
    """The name itself; the task must be registered already."""
    own = parts(task)[0]
    _family(own).canonical_name(own)
    return task


def parts(task: str) -> tuple[str, int, str]:
    """The task without the useless actions, their number, and their kind."""
    match = NAME.fullmatch(task)
    assert match is not None
    return match[1], int(match[2]), match[3]


def _family(own: str) -> ModuleType:
    return grid if grid.claims(own) else gym
