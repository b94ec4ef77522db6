from __future__ import annotations

import re
from typing import Any

import cv2
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from toy_envs import Count, Several

from worldrl.envs.checks import check_spaces
from worldrl.errors import UserError

SCENE = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3)).astype(np.uint8)  # three frames


class Shows(Count):
    """Shows what it is given."""

    def __init__(self, value: Any, space: spaces.Space[Any]) -> None:
        self.value, self.observation_space = value, space

    def observation(self) -> Any:
        return self.value


class Acts(Count):
    def __init__(self, low: Any, high: Any, dtype: Any = np.float32) -> None:
        self.action_space = spaces.Box(np.asarray(low, dtype), np.asarray(high, dtype), dtype=dtype)


def image(value: np.ndarray, high: float = 255) -> Shows:
    return Shows(value, spaces.Box(0, high, value.shape, value.dtype))


def in_a_dict(env: Shows) -> Shows:
    joints = spaces.Box(-1, 1, (2,), np.float32)
    space = spaces.Dict({"camera": env.observation_space, "joints": joints})
    return Shows({"camera": env.value, "joints": np.zeros(2, np.float32)}, space)


def cured(env: gymnasium.Env, fix: str) -> gymnasium.Env:
    """The environment in the wrapper that the message names."""
    (code,) = re.findall(r"gymnasium\.wrappers\.\w+\(.*\)", fix)
    return eval(code, {"env": env, "gymnasium": gymnasium, "np": np, "cv2": cv2})


def refused(env: gymnasium.Env, obs: str = "both") -> UserError:
    with pytest.raises(UserError) as caught:
        check_spaces(env, "Task", obs)
    assert "\n" not in str(caught.value)
    return caught.value


def test_the_cure_of_several_choices_takes_every_combination_once() -> None:
    env = Several()
    better = cured(env, refused(env).fix)
    assert better.action_space == spaces.Discrete(6)
    better.reset(seed=0)
    taken = []
    for action in range(6):
        better.step(action)
        taken.append(env.taken)
    assert sorted(taken) == [(a, b) for a in (2, 3) for b in (0, 1, 2)]


def test_what_is_no_box_and_no_choice() -> None:
    env = Count()
    env.action_space = spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (2,))])
    assert refused(env).expected == "a Box of floats, or Discrete"


@pytest.mark.parametrize(("shape", "right"), [((10, 10, 4), True), ((32, 3, 99), True), ((33, 10, 4), False)])
def test_a_grid_is_small(shape: tuple[int, ...], right: bool) -> None:
    env = Shows(np.zeros(shape, bool), spaces.Box(0, 1, shape, bool))
    if right:
        assert check_spaces(env, "Task").grid == shape
    else:
        assert "32 x 32" in refused(env).expected


GREY = SCENE[..., 0]
LAYOUTS = {
    "grey": (SCENE[2, :64, :64, 0], np.repeat(SCENE[2, :64, :64, :1], 3, -1)),
    "grey with an axis": (SCENE[2, :64, :64, :1], np.repeat(SCENE[2, :64, :64, :1], 3, -1)),
    "colours first": (np.moveaxis(SCENE[2, :64, :64], -1, 0), SCENE[2, :64, :64]),
    "grey first": (SCENE[2, None, :64, :64, 0], np.repeat(SCENE[2, :64, :64, :1], 3, -1)),
    "transparent": (np.concatenate([SCENE[2, :64, :64], SCENE[1, :64, :64, :1]], -1), SCENE[2, :64, :64]),
    "stacked colours": (np.concatenate(list(SCENE[:, :64, :64]), -1), SCENE[2, :64, :64]),
    "stacked colours first": (
        np.concatenate([np.moveaxis(frame, -1, 0) for frame in SCENE[:, :64, :64]]),
        SCENE[2, :64, :64],
    ),
    "stacked grey": (np.concatenate([GREY, GREY[1:]])[:, :64, :64], np.repeat(SCENE[2, :64, :64, :1], 3, -1)),
    "stacked frames": (SCENE[:, :64, :64], SCENE[2, :64, :64]),
    "stacked frames, colours first": (np.moveaxis(SCENE[:, :64, :64], -1, 1), SCENE[2, :64, :64]),
    "large": (SCENE[2], cv2.resize(SCENE[2], (64, 64), interpolation=cv2.INTER_AREA)),
    "wide": (SCENE[2, :70], cv2.resize(SCENE[2, :70], (64, 64), interpolation=cv2.INTER_AREA)),
    "large and grey": (
        SCENE[2, ..., 0],
        cv2.resize(np.repeat(SCENE[2, ..., :1], 3, -1), (64, 64), interpolation=cv2.INTER_AREA),
    ),
    "large, stacked, colours first": (
        np.moveaxis(SCENE, -1, 1),
        cv2.resize(SCENE[2], (64, 64), interpolation=cv2.INTER_AREA),
    ),
    "integers": (SCENE[2, :64, :64].astype(np.int64), SCENE[2, :64, :64]),
}


@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "in a dict"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_cure_of_an_image_works(layout: str, wrapped: bool) -> None:
    value, expected = LAYOUTS[layout]
    env = in_a_dict(image(value)) if wrapped else image(value)
    error = refused(env)
    assert str(value.shape) in error.found
    assert error.expected.startswith("(64, 64, 3) of uint8")
    assert ("stack" in error.fix) == ("stacked" in layout)
    better = cured(env, error.fix)
    assert check_spaces(better, "Task").image == ("camera" if wrapped else "")
    seen = better.reset(seed=0)[0]
    assert better.observation_space.contains(seen)
    np.testing.assert_array_equal(seen["camera"] if wrapped else seen, expected)


@pytest.mark.parametrize("shape", [(64, 64, 3), (3, 64, 64)])
def test_the_cure_of_a_float_image_works(shape: tuple[int, ...]) -> None:
    env = image(np.full(shape, 0.5, np.float32), high=1)
    better = cured(env, refused(env).fix)
    assert check_spaces(better, "Task").image == ""
    assert (better.reset(seed=0)[0] == 127).all()


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (spaces.Discrete(4), 4),
        (spaces.MultiBinary(3), 3),
        (spaces.Box(-1, 1, (3, 3), np.float32), 9),
        (spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(3)), 5),
        (spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.Discrete(3)]), 5),
    ],
    ids=["choice", "bits", "matrix", "dict", "tuple"],
)
def test_the_cure_of_what_is_no_vector_works(space: spaces.Space, size: int) -> None:
    alone = not isinstance(space, spaces.Dict)
    env = Shows(space.sample(), space) if alone else Shows({"part": space.sample()}, spaces.Dict(part=space))
    if not alone:
        env = Shows({"part": {"inner": space.sample()}}, spaces.Dict(part=spaces.Dict(inner=space)))
    better = cured(env, refused(env).fix)
    assert list(check_spaces(better, "Task").vectors.values()) == [size]
    assert better.observation_space.contains(better.reset(seed=0)[0])


def test_the_cure_of_two_images_works() -> None:
    box = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    space = spaces.Dict(left=box, right=box, joints=spaces.Box(-1, 1, (2,), np.float32))
    env = Shows(space.sample(), space)
    error = refused(env)
    assert (error.found, error.expected) == ("the images left, right", "one")
    assert check_spaces(cured(env, error.fix), "Task")[:2] == ({"joints": 2}, "left")


# --- parts that are not shown -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [SCENE[2], SCENE[2, :64, :64, 0], SCENE], ids=["large", "grey", "stacked"])
def test_an_image_that_is_not_shown_may_be_anything(value: np.ndarray) -> None:
    assert check_spaces(in_a_dict(image(value)), "Task", "state")[:2] == ({"joints": 2}, None)
    refused(in_a_dict(image(value)), "pixels")


def test_two_images_that_are_not_shown() -> None:
    box = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    space = spaces.Dict(left=box, right=box, joints=spaces.Box(-1, 1, (2,), np.float32))
    assert check_spaces(Shows(None, space), "Task", "state")[:2] == ({"joints": 2}, None)


def test_vectors_that_are_not_shown_may_be_anything() -> None:
    space = spaces.Dict(
        camera=spaces.Box(0, 255, (64, 64, 3), np.uint8), words=spaces.Text(9), grid=spaces.Box(-1, 1, (2, 2))
    )
    assert check_spaces(Shows(None, space), "Task", "pixels")[:2] == ({}, "camera")
    refused(Shows(None, space), "state")


# --- actions ----------------------------------------------------------------------------------------------------------

MAX = {dtype: np.finfo(dtype).max for dtype in (np.float16, np.float32, np.float64)}


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (-np.inf, np.inf, np.float32),
        (0, np.inf, np.float32),
        (-MAX[np.float16], MAX[np.float16], np.float16),
        (-MAX[np.float32], MAX[np.float32], np.float32),
        (-MAX[np.float64], MAX[np.float64], np.float64),
        (-MAX[np.float32], MAX[np.float32], np.float64),
        (-1e10, 1e10, np.float32),
        (0, 1e300, np.float64),
    ],
)
def test_bounds_that_mean_none_are_refused_with_a_cure(low: float, high: float, dtype: Any) -> None:
    env = Acts([-1, low], [1, high], dtype)
    error = refused(env)
    assert (error.where, error.expected) == ("Task: action space", "low and high to be finite")
    check_spaces(cured(env, error.fix), "Task")


def test_large_bounds_are_bounds() -> None:
    check_spaces(Acts([-1e6], [1e6]), "Task")
    check_spaces(Acts([-60000], [60000], np.float16), "Task")


def test_bounds_in_the_wrong_order() -> None:
    env = Acts([0, 0], [1, 1])
    env.action_space.low[1] = 2
    assert refused(env).expected == "low to be at most high"


def test_clip_action_is_to_be_left_out_where_it_hides_bounds() -> None:
    clipped = gymnasium.wrappers.TimeLimit(gymnasium.wrappers.ClipAction(Acts([-1], [1])), 5)
    assert "leave gymnasium.wrappers.ClipAction out" in refused(clipped).fix
    check_spaces(Acts([-1], [1]), "Task")
    without = gymnasium.wrappers.ClipAction(Acts([-np.inf], [np.inf]))  # it is not what took the bounds away
    check_spaces(cured(without, refused(without).fix), "Task")


# --- what learns ------------------------------------------------------------------------------------------------------


class OwnStatistics(gymnasium.ObservationWrapper):
    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.mean, self.std, self.count = 0.0, 1.0, 0

    def observation(self, obs: Any) -> Any:
        return (obs - self.mean) / self.std


@pytest.mark.parametrize(
    "wrapper", [gymnasium.wrappers.NormalizeObservation, gymnasium.wrappers.NormalizeReward, OwnStatistics]
)
def test_wrappers_that_learn_from_what_they_see_are_refused(wrapper: Any) -> None:
    env = gymnasium.wrappers.TimeLimit(wrapper(Count()), 5)
    error = refused(env)
    assert error.where == f"Task: {wrapper.__name__}"
    assert error.expected == "a fixed function"


@pytest.mark.parametrize("wrapper", [gymnasium.wrappers.NormalizeObservation, gymnasium.wrappers.NormalizeReward])
def test_statistics_that_are_frozen_are_a_fixed_function(wrapper: Any) -> None:
    env = wrapper(Count())
    env.update_running_mean = False
    check_spaces(env, "Task")


@pytest.mark.parametrize(
    "wrap",
    [
        gymnasium.wrappers.RecordEpisodeStatistics,
        lambda env: gymnasium.wrappers.TimeAwareObservation(gymnasium.wrappers.TimeLimit(env, 5)),
        lambda env: gymnasium.wrappers.RescaleAction(env, -1, 1),
    ],
)
def test_other_wrappers_are_welcome(wrap: Any) -> None:
    check_spaces(wrap(Count()), "Task")
