"""Gymnasium environments, by id, by package and id, or by class."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldrl.envs import rendering
from worldrl.envs.checks import WHOLE, check_spaces, layers
from worldrl.envs.images import resize
from worldrl.envs.spaces import (
    IMAGE_SHAPE,
    Array,
    BrokenContractError,
    Observation,
    TaskEnv,
    as_array,
    as_number,
    concatenate,
    name_groups,
    observation_space,
    rescale,
    unit_box,
)
from worldrl.errors import UserError, place_of, unknown
from worldrl.types import GRID_SIDE, SCREEN_SIDES

SPELLING = "Gymnasium (Pendulum-v1, package:Name-v0, or module:Class)"
ROBOTICS = "PointMaze_|AntMaze_|Adroit|FrankaKitchen|Fetch|HandReach|HandManipulate"  # prefixes of that family's ids
ID = rf"(?!(ALE|MinAtar)/|{ROBOTICS})([\w.-]+/)?[\w.-]+-v\d+"  # without ids that belong to other families
NO_PIXELS = "use env.obs=state and eval.video=false"
NO_VIDEO = "use eval.video=false (eval.py: leave out --video)"
MAZES = ("point_env", "ant_env")  # where a maze of Gymnasium-Robotics has the environment that draws


class GymEnv(TaskEnv):
    """Any Gymnasium environment: ``Pendulum-v1``, or ``module:Class`` (called without arguments).

    Actions are a box, which is rescaled, or ``Discrete``. Vectors are concatenated into ``"state"``, their names kept
    in ``groups``; a small grid is ``"state"`` with its own shape, scaled to [0, 1] if it is of bytes; an image
    (64, 64, 3) uint8 becomes ``"pixels"``.
    Without one, pixels are the environment's own ``rgb_array`` rendering, resized to 64 x 64. Gymnasium
    does not say whether a task can terminate, so ``terminates`` is True.

    Raises:
        UserError: if it cannot be created, or its spaces do not fit; see ``check_spaces``. Later, if an observation or
            a reward is not finite or not what the environment declares.
    """

    terminates = True

    def _open(self) -> None:
        self._env = self._make()
        model = getattr(self._env.unwrapped, "model", None)
        if type(model).__name__ == "MjModel":
            rendering.apply_quality(model, self._render.quality)
        self._layout = check_spaces(self._env, self.task, self._obs)
        self._check_modes()
        self._describe()

    def _make(self) -> gymnasium.Env[Any, Any]:
        """The environment as its package creates it."""
        return make_unwrapped(self.task, self._render.backend)

    def _check_modes(self) -> None:
        if self._obs != "pixels" and not self._layout.vectors:
            screens = f" or bytes with sides of {SCREEN_SIDES.start} to {SCREEN_SIDES.stop - 1}"
            grids = f"a grid (H, W, C) of at most {GRID_SIDE} x {GRID_SIDE}{screens if self._obs == 'state' else ''}"
            expected = f"vectors, or {grids}, for env.obs={self._obs}"
            raise UserError(self.task, "images only", expected, "use env.obs=pixels")
        if self.render_pixels and self._obs != "state" and self._layout.image is not None:
            self._offer_backend()  # it may draw its image in any step
        if self.render_pixels and self._obs != "state" and self._layout.image is None:
            try:
                self._reset(0)
            except UserError:
                raise
            except Exception as error:  # a user's environment may fail in any way
                raise UserError(f"{self.task}: reset", _reason(error)) from error
            with self._drawing("gives no image and cannot render one", NO_PIXELS):
                self._draw()

    @contextlib.contextmanager
    def _drawing(self, what: str, cure: str) -> Iterator[None]:
        """Turn a failure to render into one line: ``what`` is impossible without it, and the ``cure``."""
        mode = self._env.render_mode
        if mode != "rgb_array":
            raise UserError(f"{self.task} {what}", f"render_mode={mode!r}", "'rgb_array'", cure)
        self._offer_backend()
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # a user's render may fail in any way
            raise UserError(f"{self.task} {what}", _reason(error), fix=f"fix that, or {cure}") from error

    def _offer_backend(self) -> None:
        """Choose a backend before code that may render with MuJoCo; only Gymnasium's own class is known to need one."""
        if rendering.mujoco_is_loaded():
            with contextlib.suppress(*(() if _uses_mujoco(self._env) else (UserError,))):
                rendering.choose_backend(self._render.backend)

    def _describe(self) -> None:
        self._describe_actions(self._env.action_space)
        sizes, grid = self._layout.vectors, self._layout.grid
        named = {name or "observation": size for name, size in sizes.items()}
        self.groups = name_groups(named) if self._obs != "pixels" and not grid else {}
        self._shown = [*(sizes if self._obs != "pixels" else ())]
        if self._obs != "state" and self._layout.image is not None:
            self._shown.append(self._layout.image)
        self._kept = {*self._shown, *sizes}  # the others may be anything
        self.max_frames = _time_limit(self._env)
        self._unit = _unit(self._env.observation_space) if grid else np.float32(1.0)
        self.observation_space = observation_space(self._obs, self._state_space(sum(sizes.values())))

    def _state_space(self, size: int) -> int | spaces.Box:
        if self._layout.screen:
            return spaces.Box(0, 255, self._layout.grid, np.uint8)
        return spaces.Box(-np.inf, np.inf, self._layout.grid, np.float32) if self._layout.grid else size

    def _describe_actions(self, space: spaces.Space[Any]) -> None:
        if isinstance(space, spaces.Discrete):
            self.choices, self.first_choice = int(space.n), int(space.start)
            self.action_space = unit_box(self.choices)
            return
        assert isinstance(space, spaces.Box)
        self._action_shape, self._action_dtype = space.shape, space.dtype
        self._low, self._high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
        self.bounds = (self._low, self._high)
        self.action_space = unit_box(self._low.size)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict]:
        """Start an episode; how far a seed determines it is up to the environment."""
        self._now = 0
        obs, _ = self._values(self._reset(seed), "observation, info")
        return self._observe(obs), {"frames": 0}

    def _reset(self, seed: int | None) -> Any:
        return rendering.with_backend(lambda: self._env.reset(seed=seed), self._render.backend)

    def step(self, action: Array) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Repeat one action, (A,) in [-1, 1] or one-hot; the reward is the sum over the repeated frames."""
        control = self._control(action)
        reward, frames, terminated, truncated = 0.0, 0, False, False
        while frames < self._repeat and not (terminated or truncated):
            self._now += 1
            values = self._values(self._env.step(control()), "observation, reward, terminated, truncated, info")
            obs, r, terminated, truncated, _ = values
            reward += self._number(r)
            terminated, truncated = self._flag(terminated, "terminated"), self._flag(truncated, "truncated")
            frames += 1
        return self._observe(obs), reward, terminated, truncated and not terminated, {"frames": frames}

    def _control(self, action: Array) -> Callable[[], Any]:
        """A function that returns the action in the environment's own form, new at each frame: it may be written to."""
        if self.choices:
            number = self.first_choice + int(np.argmax(action))
            return lambda: number
        return rescale(action, self._low, self._high).reshape(self._action_shape).astype(self._action_dtype).copy

    def _number(self, reward: Any) -> float:
        try:
            number = as_number(reward)
        except (TypeError, ValueError) as error:
            found = _kind(reward) if np.size(reward) > 1 else repr(reward)
            raise self._broken("the reward", found, "a finite number") from error
        if not np.isfinite(number):
            raise self._broken("the reward", repr(reward), "a finite number", UserError)
        return number

    def _flag(self, value: Any, name: str) -> bool:
        try:
            return bool(as_number(value))
        except (TypeError, ValueError) as error:
            raise self._broken(name, _kind(value), "True or False") from error

    def render(self) -> Array:
        """The rendered state, (64, 64, 3) uint8: the agent's image, unless the task itself has images."""
        with self._drawing("cannot render an image", NO_PIXELS):
            return resize(self._draw(), rendering.SIZE, rendering.SIZE)

    def video_frame(self, height: int, width: int) -> Array:
        with self._drawing("cannot render an image for the video", NO_VIDEO):
            image = self._draw()
            share = min(1.0, height / image.shape[0], width / image.shape[1])  # keeps the aspect ratio
            return resize(image, round(share * image.shape[0]), round(share * image.shape[1]))

    def truth(self) -> dict[str, float]:
        """The vectors that the environment itself observes, entry by entry: ``arm 0``, ``arm 1``."""
        return {
            f"{name or 'observation'} {i}": float(x)
            for name in self._layout.vectors
            for i, x in enumerate(np.ravel(self._parts[name]))
        }

    def close(self) -> None:
        """Close the environment; what fails there cannot undo what was learned or measured."""
        with contextlib.suppress(Exception):
            self._env.close()

    def _observe(self, obs: Any) -> Observation:
        shown = obs if isinstance(obs, dict) else {WHOLE: obs}
        parts = self._parts = {name: as_array(shown[name]) for name in self._kept if name in shown}
        self._check_parts(parts)
        out: Observation = {}
        if self._obs != "state":
            out["pixels"] = self._pixels(parts)
        if self._obs != "pixels":
            out["state"] = self._state(parts)
        return out

    def _state(self, parts: dict[str, Array]) -> Array:
        if self._layout.screen:
            return parts[WHOLE].copy()  # a copy: the environment may reuse its buffer
        state = concatenate([parts[name] for name in self._layout.vectors])
        return state.reshape(self._layout.grid) / self._unit if self._layout.grid else state

    def _check_parts(self, parts: dict[str, Array]) -> None:
        """Check the agent's observation: every part is there, has its size and is finite."""
        image, vectors = self._layout.image, self._layout.vectors
        for name in self._shown:
            label = f"observation '{name}'" if name else "observation"
            if name not in parts:
                raise self._broken(label, "none", "one as observation_space declares")
            part = parts[name]
            if name == image and (part.shape != IMAGE_SHAPE or part.dtype != np.uint8):
                raise self._broken(label, _kind(part), f"{IMAGE_SHAPE} of uint8 as observation_space declares")
            if name != image and part.size != vectors[name]:
                raise self._broken(label, _kind(part), f"{vectors[name]} entries as observation_space declares")
            if self._layout.grid and part.shape != self._layout.grid:
                raise self._broken(label, _kind(part), f"shape {self._layout.grid} as observation_space declares")
            if self._layout.screen and part.dtype != np.uint8:
                raise self._broken(label, _kind(part), "uint8 as observation_space declares")
            if name != image and not (finite := np.isfinite(np.asarray(part, np.float32))).all():
                entry = np.argmin(finite)
                raise self._broken(label, f"{np.ravel(part)[entry]} at entry {entry}", "finite numbers", UserError)

    def _values(self, result: Any, names: str) -> tuple[Any, ...]:
        """The result of ``reset`` or ``step``, checked to be a tuple of these values."""
        expected = names.count(",") + 1
        if isinstance(result, tuple) and len(result) == expected:
            return result
        found = str(len(result)) if isinstance(result, tuple) else _kind(result)
        old = ": the old Gym API" if found == "4" or expected == 2 else ""
        raise self._broken("what it returned", f"{found}{old}", f"{expected} values ({names})")

    def _broken(self, what: str, found: str, expected: str, kind: type[UserError] = BrokenContractError) -> UserError:
        """The error for a bad result of the environment; another ``kind`` if another episode may not have it."""
        moment = f"step {self._now} of the episode" if self._now else "reset"
        return kind(f"{self.task}, {moment}: {what}", found, expected, "fix the environment, or wrap it")

    def _pixels(self, parts: dict[str, Array]) -> Array:
        if not self.render_pixels:
            return np.zeros(IMAGE_SHAPE, np.uint8)
        if self._layout.image is not None:
            return parts[self._layout.image].copy()  # a copy: the environment may reuse its buffer
        return resize(self._draw(), rendering.SIZE, rendering.SIZE).copy()  # of this size it is not resized

    def _draw(self) -> Array:
        _use_own_context(self._env)
        frame = rendering.with_backend(self._env.render, self._render.backend)
        if not (isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3):
            raise UserError(f"{self.task}: render()", _kind(frame), "an array (height, width, 3) of uint8")
        return frame


make = GymEnv


def claims(task: str) -> bool:
    """``Name-v1``, ``namespace/Name-v1``, either of them after ``package:``, or ``module:Class``."""
    module = r"[A-Za-z_][\w.]*:"
    return re.fullmatch(rf"({module})?{ID}|{module}[A-Za-z_]\w*", task) is not None


def canonical_name(task: str) -> str:
    """The name itself; an id without a package has to be registered already."""
    if ":" not in task:
        _check_registered(task)
    return task


def _time_limit(env: gymnasium.Env[Any, Any]) -> int:
    """The frames after which the environment ends an episode, of its id or of a wrapper; 0 if it does not say."""
    limits = [getattr(layer, "_max_episode_steps", None) for layer in layers(env)]
    told = env.spec.max_episode_steps if env.spec else None
    return min((limit for limit in (told, *limits) if isinstance(limit, int)), default=0)


def make_unwrapped(task: str, backend: str = "auto") -> gymnasium.Env[Any, Any]:
    """Create the environment, with ``rgb_array`` rendering if it offers that. Raises UserError."""
    _without_window()
    try:
        return _followed(rendering.with_backend(lambda: _build(task), backend))
    except UserError:
        raise
    except Exception as error:  # a user's module or constructor may fail in any way
        raise UserError(f"cannot make {task}", _reason(error), fix=_remedy(error, task)) from error


def _without_window() -> None:
    """Where there is no display, pygame draws without one: looking for it prints an error that means nothing."""
    if not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def _build(task: str) -> gymnasium.Env[Any, Any]:
    module, _, name = task.rpartition(":")
    imported = importlib.import_module(module) if module else None
    if imported is None or (not hasattr(imported, name) and name in gymnasium.registry):
        return _from_id(name)
    return _from_class(imported, name, task)


def _followed(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """The environment; if its model has the camera ``track``, that one draws, and a walker does not leave the image.

    Gymnasium 1.4 has a free camera unless one is chosen, which stays where the episode began.
    """
    renderer: Any = getattr(env.unwrapped, "mujoco_renderer", None)
    if getattr(renderer, "camera_id", None) == -1:
        with contextlib.suppress(KeyError):
            renderer.camera_id = renderer.model.camera("track").id
    return env


def _use_own_context(env: gymnasium.Env[Any, Any]) -> None:
    """Make the OpenGL context of Gymnasium's MuJoCo renderer current, or it draws with that of another environment."""
    inner = env.unwrapped
    owner = next((part for name in MAZES if (part := getattr(inner, name, None)) is not None), inner)
    viewer: Any = getattr(getattr(owner, "mujoco_renderer", None), "viewer", None)
    if viewer is not None:
        viewer.make_context_current()


def _from_id(name: str) -> gymnasium.Env[Any, Any]:
    _check_registered(name)
    entry = gymnasium.spec(name).entry_point
    creator = gymnasium.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
    return gymnasium.make(name, disable_env_checker=True, **_drawn(creator))


def _check_registered(name: str) -> None:
    if name not in gymnasium.registry:
        error = unknown("task", name, gymnasium.registry)
        imports = f"an id that another package registers is task=PACKAGE:{name}, which imports the package first"
        error.fix = f"{error.fix} {imports}".strip()
        raise error


def _drawn(creator: Any) -> dict[str, Any]:
    """The argument with which a class renders arrays, if it has one and can."""
    parameters = inspect.signature(creator).parameters.values()
    told = any(p.name == "render_mode" or p.kind is p.VAR_KEYWORD for p in parameters)
    can = told and "rgb_array" in (getattr(creator, "metadata", None) or {}).get("render_modes", ())
    return {"render_mode": "rgb_array"} if can else {}


def _from_class(module: ModuleType, name: str, task: str) -> gymnasium.Env[Any, Any]:
    if not hasattr(module, name):
        raise unknown(f"name in {module.__name__}", name, [*_classes(module), *_ids(module)])
    creator = getattr(module, name)
    env = creator(**(_drawn(creator) if isinstance(creator, type) else {}))
    if not isinstance(env, gymnasium.Env):
        raise UserError(task, _kind(env), "a gymnasium.Env")
    return env


def _classes(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, type)]


def _ids(module: ModuleType) -> list[str]:
    """The ids whose environments are in the same package."""
    package = module.__name__.partition(".")[0]
    return [name for name, spec in gymnasium.registry.items() if _home(spec.entry_point).partition(".")[0] == package]


def _home(entry_point: str | Callable[..., Any] | None) -> str:
    return entry_point.partition(":")[0] if isinstance(entry_point, str) else getattr(entry_point, "__module__", "")


def _uses_mujoco(env: gymnasium.Env[Any, Any]) -> bool:
    return any(base.__name__ == "MujocoEnv" for base in type(env.unwrapped).__mro__)


def _unit(grid: spaces.Space[Any]) -> Any:
    """The value that is scaled to one in a grid (H, W, C): the declared maximum if it is of bytes, else one."""
    assert isinstance(grid, spaces.Box)
    return np.maximum(grid.high, 1).astype(np.float32) if grid.dtype == np.uint8 else np.float32(1.0)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and {value.dtype}"
    return f"an object of type {type(value).__name__}"


def _remedy(error: Exception, task: str) -> str:
    if isinstance(error, TypeError) and ":" in task:
        return "it is called without arguments; name a function that gives them"
    if not isinstance(error, ModuleNotFoundError):
        return ""
    if ":" in task:
        return "install it, or put its folder on PYTHONPATH"
    return "install what is missing (Gymnasium's own tasks: pip install 'gymnasium[mujoco]' and the like)"


def _reason(error: Exception) -> str:
    """The error's message and notes; with its type and place if it was not meant for users."""
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    if isinstance(error, ImportError | gymnasium.error.Error):
        return _one_line(error) + notes
    words = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":")
    place = "" if isinstance(error, SyntaxError) else place_of(error)  # a syntax error names its own
    return words + (f" ({place})" if place else "") + notes


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
