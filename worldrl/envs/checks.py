"""Whether an agent of this package can use a Gymnasium environment; if it cannot, the error names a fix.

A fix is Python code that works as it is: the tests run it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from worldrl.envs.spaces import IMAGE_SHAPE, unbounded
from worldrl.errors import UserError
from worldrl.types import GRID_SIDE, fits_grid, fits_screen

WHOLE = ""  # the only part of an observation that is not a dict
WRAPPERS = "gymnasium.wrappers"


class Layout(NamedTuple):
    """Which parts of an environment's observation are vectors (name -> size) and which one is the image.

    A grid is the only part, a vector of shape (H, W, C) in ``grid``; a ``screen`` is a grid whose bytes are kept.
    """

    vectors: dict[str, int]
    image: str | None
    grid: tuple[int, ...] = ()
    screen: bool = False


def check_spaces(env: gymnasium.Env[Any, Any], task: str, obs: str = "both") -> Layout:
    """Check that an agent of this package can use the environment, and find its vectors and its image.

    Args:
        env: the environment, unwrapped by this package.
        task: its name in messages.
        obs: ``pixels``, ``state`` or ``both``; parts of a dict that the agent does not observe may be anything.

    Raises:
        UserError: for actions other than a bounded float box or a choice; for observations other than a grid,
            vectors, 64 x 64 x 3 uint8 images or a flat dict of those; for wrappers that learn from what they see.
    """
    _check_has_spaces(env, task)
    _check_actions(env, task)
    _check_statistics(env, task)
    if is_grid(whole := env.observation_space):
        shape = whole.shape or ()
        return Layout({WHOLE: int(np.prod(shape))}, None, shape)
    if obs == "state" and is_screen(whole):
        shape = whole.shape or ()
        return Layout({WHOLE: int(np.prod(shape))}, None, shape, screen=True)
    vectors: dict[str, int] = {}
    images: list[str] = []
    for name, space in _parts(env.observation_space).items():
        if _looks_like_image(space):
            images.append(name)
        elif obs != "pixels" or _is_vector(space):
            vectors[name] = _vector_size(space, name, _label(task, name))
    if obs == "state":
        return Layout(vectors, None)
    if len(images) > 1:
        kept = [images[0], *vectors]
        fix = f"keep one: {WRAPPERS}.FilterObservation(env, {kept})"
        raise UserError(f"{task}: observation", f"the images {', '.join(images)}", "one", fix)
    for name in images:
        _check_image(env.observation_space, name, _label(task, name))
    return Layout(vectors, images[0] if images else None)


# --- actions ----------------------------------------------------------------------------------------------------------


def _check_has_spaces(env: gymnasium.Env[Any, Any], task: str) -> None:
    """Refuse an environment that does not define its spaces."""
    for name in ("observation_space", "action_space"):
        found = getattr(env, name, None)
        if not isinstance(found, spaces.Space):
            raise UserError(
                f"{task}: {name}", type(found).__name__, "a gymnasium space", f"set self.{name} in __init__"
            )


def _check_actions(env: gymnasium.Env[Any, Any], task: str) -> None:
    space, where = env.action_space, f"{task}: action space"
    if isinstance(space, spaces.Discrete):
        return
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise UserError(where, str(space), "a Box of floats, or Discrete", _choice_fix(space))
    if not _is_bounded(space):
        raise UserError(where, f"{space} without finite bounds", "low and high to be finite", _bounds_fix(env, space))
    if (space.low > space.high).any():
        raise UserError(where, str(space), "low to be at most high")


def _choice_fix(space: spaces.Space[Any]) -> str:
    """Number all combinations of several choices; other spaces are left to the user."""
    if not isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        return "map its actions in a wrapper"
    sizes = space.nvec.ravel().tolist() if isinstance(space, spaces.MultiDiscrete) else [2] * int(np.prod(space.shape))
    start = space.start.tolist() if isinstance(space, spaces.MultiDiscrete) else 0
    value = f"np.reshape(np.unravel_index(action, {tuple(sizes)}), {space.shape}) + {start}"
    numbers = f"gymnasium.spaces.Discrete({int(np.prod(sizes))})"
    return f"number its combinations: {WRAPPERS}.TransformAction(env, lambda action: {value}, {numbers})"


def _is_bounded(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and not (unbounded(space.low) | unbounded(space.high)).any()


def _bounds_fix(env: gymnasium.Env[Any, Any], space: spaces.Box) -> str:
    """Leave out the wrapper that removes the bounds, if that is all it does; otherwise declare bounds."""
    for layer in layers(env):
        if isinstance(layer, gymnasium.wrappers.ClipAction) and _is_bounded(layer.env.action_space):
            return f"leave {WRAPPERS}.ClipAction out: it declares no bounds, and actions stay within the others anyway"
    box = f"gymnasium.spaces.Box(-1.0, 1.0, {space.shape})"
    return f"declare the range to act in: {WRAPPERS}.TransformAction(env, lambda action: action, {box})"


# --- what learns ------------------------------------------------------------------------------------------------------


def layers(env: gymnasium.Env[Any, Any]) -> Iterator[gymnasium.Env[Any, Any]]:
    """The environment, outermost wrapper first."""
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
    yield env


def _check_statistics(env: gymnasium.Env[Any, Any], task: str) -> None:
    """Refuse wrappers that learn: training, evaluation and each worker would see different worlds."""
    for layer in layers(env):
        if _learns(layer):
            raise UserError(
                f"{task}: {type(layer).__name__}",
                "running statistics, which differ between processes and are in no checkpoint",
                "a fixed function",
                f"scale by fixed numbers ({WRAPPERS}.TransformObservation, {WRAPPERS}.TransformReward), or set "
                "its update_running_mean to False when it has seen enough",
            )


def _learns(layer: gymnasium.Env[Any, Any]) -> bool:
    own = {name: value for name, value in vars(layer).items() if name != "env"}
    learning = getattr(layer, "update_running_mean", True)
    return bool(learning) and (_is_running(own) or any(_is_running(getattr(x, "__dict__", {})) for x in own.values()))


def _is_running(fields: Any) -> bool:
    return {"mean", "count"} <= set(fields) and bool({"var", "std"} & set(fields))


# --- observations -----------------------------------------------------------------------------------------------------


def _parts(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {WHOLE: space}


def _label(task: str, name: str) -> str:
    return f"{task}: observation '{name}'" if name else f"{task}: observation"


def is_grid(space: spaces.Space[Any]) -> bool:
    """Whether it is an array (H, W, C) whose sides are at most ``GRID_SIDE``."""
    return isinstance(space, spaces.Box) and fits_grid(space.shape)


def is_screen(space: spaces.Space[Any]) -> bool:
    """Whether it is an array (H, W, C) of bytes whose sides are in ``SCREEN_SIDES``."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and fits_screen(space.shape)


def _is_vector(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) <= 1


def _vector_size(space: spaces.Space[Any], name: str, label: str) -> int:
    if _is_vector(space):
        if not (size := int(np.prod(space.shape or ()))):
            raise UserError(label, "no entry", "one or more")
        return size
    found = f"an array of shape {space.shape}" if isinstance(space, spaces.Box) else str(space)
    expected = "a vector (Box) or a 64x64x3 image"
    raise UserError(label, found, expected, f"flatten it: {_transform(name, *_flat(space, name))}")


def _flat(space: spaces.Space[Any], name: str) -> tuple[str, str]:
    """The flattened value and its space, as Python code."""
    part = f"env.observation_space[{name!r}]" if name else "env.observation_space"
    return f"gymnasium.spaces.flatten({part}, {_value(name)})", f"gymnasium.spaces.flatten_space({part})"


def _looks_like_image(space: spaces.Space[Any]) -> bool:
    if not isinstance(space, spaces.Box):
        return False
    return len(space.shape) == 3 or (len(space.shape) in (2, 4) and space.dtype == np.uint8)


def _check_image(whole: spaces.Space[Any], name: str, label: str) -> None:
    space = _parts(whole)[name]
    assert isinstance(space, spaces.Box)
    if space.dtype == np.uint8 and space.shape == IMAGE_SHAPE:
        return
    found = f"an image of shape {space.shape} and {space.dtype}"
    expected = f"{IMAGE_SHAPE} of uint8 from 0 to 255, or a grid of at most {GRID_SIDE} x {GRID_SIDE}"
    raise UserError(label, found, expected, _image_fix(space, name))


def _image_fix(space: spaces.Box, name: str) -> str:
    """Python code that makes a (64, 64, 3) uint8 image, with a few words on what it does."""
    words, value, shape = _one_frame(_value(name), space.shape)
    value, shape = _three_channels(value, shape)
    if space.dtype != np.uint8:
        value = f"np.uint8(255 * {value})" if (space.high <= 1).all() else f"np.uint8({value})"
    if value == _value(WHOLE):
        return f"resize it: {WRAPPERS}.ResizeObservation(env, (64, 64))"
    if shape[:2] != IMAGE_SHAPE[:2]:
        value = f"cv2.resize({value}, (64, 64), interpolation=cv2.INTER_AREA)"
    return f"{words}: {_transform(name, value, 'gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)')}"


def _one_frame(value: str, shape: tuple[int, ...]) -> tuple[str, str, tuple[int, ...]]:
    """A description, and the newest frame of a stack with the colours last: (H, W) or (H, W, channels)."""
    stacked = "leave the stack of frames out (the beliefs rssm and slac remember), or keep the newest"
    if len(shape) == 4:
        words, value, shape = stacked, f"{value}[-1]", shape[1:]
    else:
        words = "convert it"
    if len(shape) == 3 and shape[0] < shape[2]:  # the colours, or the frames, come first
        channels = shape[0]
        if channels % 3 and channels != 1:
            return stacked, f"{value}[-1]", shape[1:]
        words, value = (stacked, f"{value}[-3:]") if channels > 3 else (words, value)
        return words, f"np.moveaxis({value}, 0, -1)", (*shape[1:], min(channels, 3))
    if len(shape) == 3 and shape[2] > 4:
        kept = 3 if shape[2] % 3 == 0 else 1
        return stacked, f"{value}[..., -{kept}:]", (*shape[:2], kept)
    return words, value, shape


def _three_channels(value: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    if len(shape) == 2:
        value, shape = f"{value}[..., None]", (*shape, 1)
    if shape[2] < 3:
        return f"np.repeat({value}[..., :1], 3, -1)" if shape[2] == 2 else f"np.repeat({value}, 3, -1)", (*shape[:2], 3)
    return (f"{value}[..., :3]" if shape[2] == 4 else value), (*shape[:2], 3)


def _value(name: str) -> str:
    return f"obs[{name!r}]" if name else "obs"


def _transform(name: str, value: str, space: str) -> str:
    """The wrapper that replaces an observation, or one part of a dict, by ``value``."""
    if name:
        value = f"{{**obs, {name!r}: {value}}}"
        space = f"gymnasium.spaces.Dict({{**env.observation_space.spaces, {name!r}: {space}}})"
    return f"{WRAPPERS}.TransformObservation(env, lambda obs: {value}, {space})"
