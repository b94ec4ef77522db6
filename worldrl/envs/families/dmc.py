"""DeepMind Control suite tasks."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from worldrl.envs import rendering
from worldrl.envs.spaces import (
    IMAGE_SHAPE,
    Array,
    Groups,
    Observation,
    TaskEnv,
    concatenate,
    name_groups,
    observation_space,
    rescale,
    unbounded,
    unit_box,
)
from worldrl.errors import unknown, wrong

SPELLING = "DeepMind Control (walker_walk)"
ALIASES = {"cup_catch": "ball_in_cup_catch"}
CAMERAS = {"quadruped": 2}  # camera 0 of the quadruped does not follow it
DRAWS_AT_RESET = ("quadruped_escape",)  # uploads its terrain to OpenGL even if no image is needed
BUILD_SEED = 0  # lqr draws its stiffnesses when it is built; a seed makes the system the same in every process
DEFAULT_MAX_FRAMES = 1000  # for tasks without a time limit (lqr)


class DMCEnv(TaskEnv):
    """One dm_control suite task by name: ``walker_walk``, ``walker-walk``, ``cup_catch``.

    Episodes end in truncation at the task's time limit (1000 frames if the task has none) and in termination only if
    the task's discount is 0. ``groups`` names the parts of ``"state"`` after dm_control's own observations, in its
    order. Actions are scaled to the task's bounds; tasks without bounds get them unscaled.

    Raises:
        UserError: for an unknown task, observation mode, camera, image size or quality.
    """

    def _open(self) -> None:
        if self.render_pixels and self._obs != "state":
            rendering.choose_backend(self._render.backend)
        self.task = canonical_name(self.task)
        if self.task in DRAWS_AT_RESET:
            rendering.choose_backend(self._render.backend)
        domain, name = dmc_tasks()[self.task]
        self._env = _load(domain, name)
        rendering.apply_quality(self._env.physics.model.ptr, self._render.quality)
        self._camera = self._pick_camera(domain)
        self._eye: Any = None
        self._describe()

    def _pick_camera(self, domain: str) -> int:
        camera, count = self._render.camera, self._env.physics.model.ncam
        if camera == -1:
            return CAMERAS.get(domain, 0)
        if not 0 <= camera < count:
            raise wrong("render.camera", camera, f"0 to {count - 1} of {self.task}, or -1 for the usual one")
        return camera

    def _describe(self) -> None:
        spec = self._env.action_spec()
        free = unbounded(spec.minimum) | unbounded(spec.maximum)
        self._low = np.where(free, -1.0, spec.minimum)
        self._high = np.where(free, 1.0, spec.maximum)
        parts = {k: math.prod(v.shape) for k, v in self._env.observation_spec().items()}
        self.groups: Groups = name_groups(parts) if self._obs != "pixels" else {}
        self.terminates = _can_terminate(self._env.task)
        self.max_frames = _time_limit(self._env)
        self.bounds = (self._low, self._high)
        self.action_space = unit_box(spec.shape[0])
        self.observation_space = observation_space(self._obs, sum(parts.values()))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict]:
        """Start an episode; with a seed it is a pure function of that seed and the actions."""
        if seed is not None:
            self._env.task.random.seed(seed)
        self._frames = 0
        return self._observe(self._env.reset()), {"frames": 0}

    def step(self, action: Array) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Repeat one action, (A,) in [-1, 1]; the reward is the sum over the repeated frames."""
        control = rescale(action, self._low, self._high)
        reward, frames, last = 0.0, 0, False
        while frames < self._repeat and not last:
            now = self._env.step(control)
            reward += float(now.reward)
            frames += 1
            last = now.last() or self._frames + frames >= self.max_frames
        self._frames += frames
        terminated = bool(now.last() and now.discount == 0.0)
        return self._observe(now), reward, terminated, last and not terminated, {"frames": frames}

    def render(self) -> Array:
        """The image that the agent sees, (64, 64, 3) uint8."""
        return self.video_frame(rendering.SIZE, rendering.SIZE)

    def video_frame(self, height: int, width: int) -> Array:
        rendering.choose_backend(self._render.backend)
        return self._env.physics.render(height=height, width=width, camera_id=self._camera)

    def truth(self) -> dict[str, float]:
        """MuJoCo's generalised positions, then its velocities, named after their joints."""
        physics = self._env.physics
        values = np.concatenate([physics.data.qpos, physics.data.qvel])
        return dict(zip(_coordinates(physics.model), map(float, values), strict=True))

    def close(self) -> None:
        """Free the physics and its OpenGL context."""
        self._eye = None
        self._env.close()

    def _observe(self, now: Any) -> Observation:
        obs: Observation = {}
        if self._obs != "state":
            obs["pixels"] = self._pixels()
        if self._obs != "pixels":
            obs["state"] = concatenate(list(now.observation.values()))
        return obs

    def _pixels(self) -> Array:
        if not self.render_pixels:
            return np.zeros(IMAGE_SHAPE, np.uint8)
        if self._eye is None:  # physics.render creates a new one each time, a quarter of the cost of a fast frame
            self._eye = _camera(self._env.physics, self._camera)
        return self._eye.render().copy()


make = DMCEnv


HAS_CAMERAS = True  # from which env.render.camera chooses


def claims(task: str) -> bool:
    """Two or more words with ``_`` or ``-`` between them, and no version at the end."""
    return re.fullmatch(r"[A-Za-z]\w*([-_]\w+)+", task) is not None and re.search(r"-v\d+$", task) is None


@functools.cache
def dmc_tasks() -> dict[str, tuple[str, str]]:
    """Every task name with its (domain, task): domains may have underscores, so names are never split."""
    rendering.prepare_without_backend()
    from dm_control import suite

    return {f"{domain}_{task}": (domain, task) for domain, task in suite.ALL_TASKS}


def canonical_name(task: str) -> str:
    """The name in dm_control's spelling, with underscores; raises UserError with the nearest names."""
    name = task.replace("-", "_")
    name = ALIASES.get(name.lower(), name)
    by_lower = {k.lower(): k for k in dmc_tasks()}
    if name.lower() not in by_lower:
        raise unknown("task", task, [*dmc_tasks(), *ALIASES])
    return by_lower[name.lower()]


def _camera(physics: Any, camera_id: int) -> Any:
    from dm_control import mujoco

    return mujoco.Camera(physics, rendering.SIZE, rendering.SIZE, camera_id)


def _coordinates(model: Any) -> list[str]:
    """``hip position``; with a number if a joint has several: ``root position 0`` to ``root position 6``."""
    joints = [model.id2name(i, "joint") or f"joint {i}" for i in range(model.njnt)]
    starts = {"position": [*model.jnt_qposadr, model.nq], "velocity": [*model.jnt_dofadr, model.nv]}
    return [
        f"{joint} {kind}" if last - first == 1 else f"{joint} {kind} {i}"
        for kind, addresses in starts.items()
        for joint, (first, last) in zip(joints, pairwise(addresses), strict=True)
        for i in range(last - first)
    ]


def _load(domain: str, task: str) -> Any:
    from dm_control import suite

    with _quiet_absl():
        return suite.load(domain, task, task_kwargs={"random": BUILD_SEED})


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    """Loading some tasks logs a deprecation in dm_control's own model files, once per process."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _can_terminate(task: Any) -> bool:
    from dm_control.rl import control

    return type(task).get_termination is not control.Task.get_termination


def _time_limit(env: Any) -> int:
    limit = env._step_limit  # dm_control offers no public name for it
    return math.ceil(limit) if math.isfinite(limit) else DEFAULT_MAX_FRAMES
