from __future__ import annotations

import builtins
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from tests.errors import refusing
from worldrl.envs import EnvConfig, make_envs, rendering
from worldrl.envs.families.gym import GymEnv, canonical_name, claims
from worldrl.envs.images import resize
from worldrl.envs.rendering import RenderConfig
from worldrl.envs.spaces import BrokenContractError
from worldrl.errors import UserError
from worldrl.types import choice

PACKAGE = """
import gymnasium
from toy_envs import Count
gymnasium.register("{name}-v0", entry_point="{name}:Count", max_episode_steps=3)
gymnasium.register("space/{name}-v0", entry_point=Count)
gymnasium.register("bare_{name}", entry_point="{name}:Count")
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a module that registers ids when it is imported, and is not imported yet."""
    name = f"registers_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(PACKAGE.format(name=name))
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(gymnasium.registry)
    yield name
    gymnasium.registry.clear()
    gymnasium.registry.update(before)
    sys.modules.pop(name, None)


def test_which_names_are_for_gymnasium() -> None:
    assert all(map(claims, ("Pendulum-v1", "my/Env-v0", "pkg.mod:Class", "pkg:Name-v0", "pkg.mod:my/Name-v12")))
    assert not any(map(claims, ("walker_walk", "walker-walk", "ball_in_cup_catch", "pkg:", ":Class", "a:b:C", "pkg:1")))


@pytest.mark.parametrize(("name", "limit"), [("{}-v0", 3), ("space/{}-v0", 0), ("bare_{}", 0), ("Count", 0)])
def test_the_id_of_a_package_imports_it(package: str, name: str, limit: int) -> None:
    task = f"{package}:{name.format(package)}"
    assert canonical_name(task) == task
    env = GymEnv(task, "state")
    assert env.reset(seed=0)[0]["state"].shape == (3,)
    assert (env.task, env.max_frames) == (task, limit)


def test_an_id_of_a_package_that_nobody_imported(package: str) -> None:
    with pytest.raises(UserError) as caught:
        canonical_name(f"{package}-v0")
    assert caught.value.where == f"unknown task '{package}-v0'"
    assert f"task=PACKAGE:{package}-v0" in caught.value.fix


def test_an_id_that_the_package_does_not_register(package: str) -> None:
    with pytest.raises(UserError) as caught:
        GymEnv(f"{package}:{package}-v1", "state")
    assert caught.value.where == f"unknown name in {package} '{package}-v1'"
    assert f"{package}-v0" in caught.value.fix


def test_pendulum() -> None:
    env = GymEnv("Pendulum-v1", "state", 3)
    obs, _ = env.reset(seed=1)
    assert obs["state"].shape == (3,)
    assert env.max_frames == 200
    assert env.action_space.shape == (1,)
    frames = 0
    for step in range(67):
        _, _, terminated, truncated, info = env.step(np.zeros(1, np.float32))
        frames += info["frames"]
        assert (terminated, truncated) == (False, step == 66)
    assert frames == 200


def test_mujoco_environment_draws_pixels() -> None:
    pytest.importorskip("imageio", reason="Gymnasium's MuJoCo tasks need gymnasium[mujoco]")
    env = GymEnv("InvertedPendulum-v5", "both")
    obs, _ = env.reset(seed=1)
    assert obs["pixels"].shape == (64, 64, 3)
    assert obs["pixels"].std() > 1
    assert obs["state"].shape == (4,)
    env.close()


def test_fast_drawing_is_close_to_full() -> None:
    pytest.importorskip("imageio", reason="Gymnasium's MuJoCo tasks need gymnasium[mujoco]")
    envs = [GymEnv("HalfCheetah-v5", "pixels", 1, RenderConfig(quality=quality)) for quality in ("full", "fast")]
    full, fast = (env.reset(seed=4)[0]["pixels"].astype(float) for env in envs)  # both are open: each has its context
    inner: Any = [env._env.unwrapped for env in envs]
    assert inner[0].model.vis.quality.shadowsize > inner[1].model.vis.quality.shadowsize
    assert np.abs(full - fast).mean() < 2
    for env in envs:
        env.close()


def test_a_walker_does_not_leave_the_image() -> None:
    pytest.importorskip("imageio", reason="Gymnasium's MuJoCo tasks need gymnasium[mujoco]")
    env = GymEnv("Hopper-v5", "both")
    env.reset(seed=1)
    inner: Any = env._env.unwrapped
    drawn = []
    for x in (0.0, 100.0, 103.0):  # the floor's pattern repeats
        inner.set_state(np.r_[x, inner.init_qpos[1:]], inner.init_qvel)
        drawn.append(env.render().astype(int))
    body = (drawn[0][..., 0] - drawn[0][..., 2] > 40).sum()  # reddish pixels
    assert body > 20
    for image in drawn[1:]:
        assert (image[..., 0] - image[..., 2] > 40).sum() > 0.8 * body
    env.close()


def test_actions_are_scaled_and_rewards_summed() -> None:
    env = GymEnv("toy_envs:Count", "state", 2)
    env.reset(seed=0)
    obs, reward, _, _, info = env.step(np.array([0.5], np.float32))
    np.testing.assert_array_equal(obs["state"][:2], [2, 3.0])
    assert reward == 1 + 2
    assert info == {"frames": 2}
    np.testing.assert_array_equal(env.step(np.array([-7.0], np.float32))[0]["state"][:2], [4, 0.0])
    assert env.step(np.zeros(1, np.float32))[1:] == (5.0, False, True, {"frames": 1})


def test_a_choice_is_a_one_hot_row() -> None:
    envs = make_envs(EnvConfig(obs="state", action_repeat=1), "toy_envs:Choice", seed=1)
    assert envs.spec.actions == choice(4, first=-1)
    envs.reset()
    seen = [envs.step(np.eye(4, dtype=np.float32)[[number]])["state"][0, 1] for number in range(4)]
    assert seen == [-1, 0, 1, 2]
    assert envs.spec.actions.random(np.random.default_rng(0), 5).shape == (5, 4)


def test_a_task_of_choices_that_ends_by_time() -> None:
    env = GymEnv("CartPole-v1", "state", 1)
    env.reset(seed=0)
    ends: list[bool] = [False, False]
    while not any(ends):
        _, _, *ends, _ = env.step(np.array([1, 0], np.float32))
    assert (ends, env.max_frames, env.bounds) == ([True, False], 500, None)


def test_a_grid_keeps_its_shape_and_is_copied() -> None:
    env = GymEnv("toy_envs:Board", "state", 1)
    assert env.observation_space["state"].shape == (3, 2, 4)
    assert env.groups == {}
    first = env.reset(seed=0)[0]["state"]
    env.step(np.zeros(1, np.float32))
    second = env.step(np.zeros(1, np.float32))[0]["state"]
    assert (first.shape, first.dtype, first.any()) == ((3, 2, 4), np.float32, False)
    assert second[2, 1, 2] == 2


def test_a_grid_of_another_shape_is_refused() -> None:
    env = GymEnv("toy_envs:Turned", "state", 1)
    with pytest.raises(UserError, match="shape"):
        env.reset(seed=0)


@pytest.mark.parametrize("name", ["action_space", "observation_space"])
def test_an_environment_without_a_space_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"toy_envs.Count.{name}", None)
    with refusing(f"toy_envs:Count: {name}", found="NoneType", fix=f"self.{name}"):
        GymEnv("toy_envs:Count", "state", 1)


def test_an_empty_vector_is_refused() -> None:
    with pytest.raises(UserError, match="no entry"):
        GymEnv("toy_envs:Empty", "state", 1)


def test_a_reset_that_fails_before_the_first_image_is_one_line() -> None:
    with pytest.raises(UserError, match="the robot is off"):
        GymEnv("toy_envs:CannotStart", "pixels", 1)


def test_pygame_opens_no_window_where_there_is_no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for driver, display, found in (("x11", "", "x11"), ("", ":0", None), ("", "", "dummy")):
        for name, value in (("SDL_VIDEODRIVER", driver), ("DISPLAY", display), ("WAYLAND_DISPLAY", "")):
            monkeypatch.setenv(name, value)
            if not value:
                monkeypatch.delenv(name)
        GymEnv("toy_envs:Count", "state", 1).close()
        assert os.environ.get("SDL_VIDEODRIVER") == found


def test_a_close_that_fails_undoes_nothing() -> None:
    env = GymEnv("toy_envs:CannotClose", "state", 1)
    env.reset(seed=0)
    env.close()


def test_the_limit_of_a_wrapper_is_known() -> None:
    assert GymEnv("toy_envs:limited", "state", 1).max_frames == 7
    assert GymEnv("toy_envs:Count", "state", 1).max_frames == 0
    assert GymEnv("Pendulum-v1", "state", 1).max_frames == 200


def test_an_image_is_no_state() -> None:
    with pytest.raises(UserError) as refused:
        GymEnv("toy_envs:HugeImage", "state", 1)
    assert {"32 x 32", "36 to 128"} <= set(re.findall(r"\d+ (?:x|to) \d+", refused.value.expected))
    assert refused.value.fix == "use env.obs=pixels"


def test_a_grid_of_bytes_is_scaled_to_the_unit_interval() -> None:
    env = GymEnv("toy_envs:ByteBoard", "state", 1)
    env.reset(seed=0)
    seen = env.step(np.zeros(1, np.float32))[0]["state"]
    assert seen.dtype == env.observation_space["state"].dtype == np.float32
    np.testing.assert_array_equal(seen, np.broadcast_to(np.float32([0, 0.2, 1, 0.25]), (3, 2, 4)))


def test_a_screen_keeps_its_bytes_and_is_copied() -> None:
    env = GymEnv("toy_envs:Screen", "state", 1)
    assert (env.observation_space["state"].shape, env.observation_space["state"].dtype) == ((84, 84, 1), np.uint8)
    first = env.reset(seed=0)[0]["state"]
    second = env.step(np.zeros(1, np.float32))[0]["state"]
    assert (first.dtype, int(first.max()), int(second.max())) == (np.uint8, 0, 1)


def test_a_screen_of_another_type_is_refused() -> None:
    env = GymEnv("toy_envs:FloatScreen", "state", 1)
    with pytest.raises(BrokenContractError):
        env.reset(seed=0)


def test_an_environment_may_write_into_its_action(monkeypatch: pytest.MonkeyPatch) -> None:
    env = GymEnv("toy_envs:Count", "state", 3)
    seen = []

    def step(action: np.ndarray) -> Any:
        seen.append(action.copy())
        action *= 2
        return np.zeros(3, np.float32), 0.0, False, False, {}

    env.reset(seed=0)
    monkeypatch.setattr(env._env, "step", step)
    env.step(np.array([0.5], np.float32))
    np.testing.assert_array_equal(seen, [seen[0]] * 3)


def test_termination_wins_over_truncation() -> None:
    env = GymEnv("toy_envs:Terminates", "state", 5)
    env.reset(seed=0)
    assert env.step(np.zeros(1, np.float32))[2:4] == (True, False)


def test_dict_observations_become_pixels_and_named_state() -> None:
    env = GymEnv("toy_envs:Rich", "both", 1)
    env.reset(seed=0)
    obs = env.step(np.zeros(1, np.float32))[0]
    order = sorted(env.groups, key=lambda name: env.groups[name])
    assert {name: b - a for name, (a, b) in env.groups.items()} == {"legs": 2, "arm": 3}
    assert env.groups[order[0]][1] == env.groups[order[1]][0]
    np.testing.assert_array_equal(obs["state"][slice(*env.groups["legs"])], [0.5, 0.5])
    assert obs["state"][env.groups["arm"][0]] == 1.0
    assert (obs["pixels"] == 10).all()
    assert list(GymEnv("toy_envs:Rich", "pixels").reset(seed=0)[0]) == ["pixels"]


def test_pixels_from_rendering_and_none_when_skipped() -> None:
    env = GymEnv("toy_envs:Draws", "pixels", 3)
    env.reset(seed=0)
    obs = env.step(np.zeros(1, np.float32))[0]
    assert obs["pixels"].shape == (64, 64, 3)
    np.testing.assert_array_equal(obs["pixels"][0, 0], [200, 0, 3])
    drawn = env._env.drawn
    assert drawn == 3  # one trial at construction, one per row
    env.render_pixels = False
    assert not env.step(np.zeros(1, np.float32))[0]["pixels"].any()
    assert env._env.drawn == drawn
    assert env._draw().shape == (96, 128, 3)
    assert env.video_frame(48, 200).shape == (48, 64, 3)  # not stretched
    assert env.video_frame(120, 160).shape == (96, 128, 3)  # nor enlarged


@pytest.mark.parametrize(
    ("name", "where", "found"),
    [
        ("Several", "toy_envs:Several: action space", "MultiDiscrete([2 3], start=[2 0])"),
        ("Matrix", "toy_envs:Matrix: observation", "an array of shape (3, 3)"),
        ("Nested", "toy_envs:Nested: observation 'robot'", "Dict('arm': Box(-1.0, 1.0, (3,), float32))"),
        ("NotAnEnv", "toy_envs:NotAnEnv", "an object of type NotAnEnv"),
        ("Cuont", "unknown name in toy_envs 'Cuont'", ""),
    ],
)
def test_what_does_not_fit_is_explained(name: str, where: str, found: str) -> None:
    with pytest.raises(UserError) as caught:
        GymEnv(f"toy_envs:{name}", "state")
    assert (caught.value.where, caught.value.found) == (where, found)


@pytest.mark.parametrize(
    ("task", "obs", "message"),
    [
        ("toy_envs:Count", "pixels", "gives no image and cannot render one: .*use env.obs=state"),
        ("no_such_module:Env", "state", "cannot make no_such_module:Env: found No module named .*; install"),
        (
            "toy_envs:CannotDraw",
            "pixels",
            "cannot render one: found pygame is not installed; fix that, or use env.obs=state",
        ),
        ("toy_envs:NeedsSize", "state", "missing 1 required .*'size'; it is called without arguments"),
        ("Pendulm-v1", "state", "unknown task 'Pendulm-v1'; did you mean: Pendulum-v1"),
    ],
)
def test_what_cannot_be_made(task: str, obs: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        GymEnv(task, obs)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class Env(", r"cannot make {0}:Env: found SyntaxError: .*{0}.py, line 1"),
        ("x = 1 / 0", r"cannot make {0}:Env: found ZeroDivisionError: division by zero .*{0}.py, line 1"),
        (
            "class Env:\n    def __init__(self): self.x = {}['y']",
            r"cannot make {0}:Env: found KeyError: 'y' .*{0}.py, line 2",
        ),
    ],
    ids=["syntax", "import", "constructor"],
)
def test_a_module_that_fails_is_told_in_one_line(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    module = f"broken_{request.node.callspec.id}"
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=message.format(module)) as caught:
        GymEnv(f"{module}:Env", "state")
    assert "\n" not in str(caught.value)


def test_a_class_that_draws_if_it_is_asked_is_asked() -> None:
    env = GymEnv("toy_envs:DrawsIfAsked", "state")
    env.reset(seed=0)
    assert env.video_frame(64, 64).shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Count", r"cannot render an image for the video: found render_mode=None, .*; use eval.video=false"),
        ("CannotDraw", r"for the video: found pygame is not installed; fix that, or use eval.video=false"),
    ],
)
def test_a_video_that_cannot_be_drawn(name: str, message: str) -> None:
    env = GymEnv(f"toy_envs:{name}", "state")
    env.reset(seed=0)
    with pytest.raises(UserError, match=message):
        env.video_frame(64, 64)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("WrongShape", r"observation: found an array of shape \(2,\) .*, expected 3 entries"),
        ("NotANumber", "observation: found nan at entry 1, expected finite numbers"),
        ("WrongReward", "the reward: found inf, expected a finite number"),
        ("OldStep", r"what it returned: found 4: the old Gym API, expected 5 values \(observation, reward, .*, info\)"),
    ],
)
def test_a_step_that_breaks_its_promises(name: str, message: str) -> None:
    env = GymEnv(f"toy_envs:{name}", "state", 1)
    env.reset(seed=0)
    env.step(np.zeros(1, np.float32))
    with pytest.raises(UserError, match=f"toy_envs:{name}, step 2 of the episode: {message}"):
        env.step(np.zeros(1, np.float32))


NUMBERS = {
    "one entry": lambda r: np.array([r]),
    "a matrix of one entry": lambda r: np.array([[r]]),
    "no axis": np.array,
    "float16": np.float16,
    "float32": lambda r: np.array([r], np.float32),
    "integer": int,
    "boolean": bool,
    "list": lambda r: [r],
    "decimal": Decimal,
    "tensor": torch.tensor,
    "tensor of one entry": lambda r: torch.tensor([r]),
    "tensor with a gradient": lambda r: torch.tensor([r], requires_grad=True),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_a_reward_is_a_number_whatever_it_comes_in(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import toy_envs

    monkeypatch.setattr(toy_envs.Rewards, "kind", NUMBERS[kind])
    env = GymEnv("toy_envs:Rewards", "state", 3)
    env.reset(seed=0)
    reward = env.step(np.zeros(1, np.float32))[1]
    assert type(reward) is float
    assert reward == (3 if kind == "boolean" else 6)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (lambda r: np.array([r, r]), "an array of shape (2,) and float64"),
        (lambda r: np.array([]), "array([], dtype=float64)"),
        (lambda r: None, "None"),
        (lambda r: "high", "'high'"),
        (lambda r: complex(r, 1), "(1+1j)"),
        (lambda r: np.float16(1e5), "np.float16(inf)"),
        (lambda r: {"main": r}, "{'main': 1.0}"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_reward_that_is_no_number(kind: Any, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import toy_envs

    monkeypatch.setattr(toy_envs.Rewards, "kind", kind)
    env = GymEnv("toy_envs:Rewards", "state", 1)
    env.reset(seed=0)
    with pytest.raises(UserError) as caught:
        env.step(np.zeros(1, np.float32))
    assert caught.value.where == "toy_envs:Rewards, step 1 of the episode: the reward"
    assert (caught.value.found, caught.value.expected) == (found, "a finite number")


@pytest.mark.parametrize("flag", [lambda x: np.array([x]), torch.tensor, int, np.bool_, lambda x: [x]])
def test_flags_of_other_types(flag: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    env = GymEnv("toy_envs:Count", "state", 1)
    env.reset(seed=0)
    for ends in (False, True):
        result = (np.zeros(3, np.float32), 0.0, flag(ends), flag(True), {})
        monkeypatch.setattr(env._env, "step", lambda action, result=result: result)
        terminated, truncated = env.step(np.zeros(1, np.float32))[2:4]
        assert (terminated, truncated) == (ends, not ends)
        assert type(terminated) is bool


@pytest.mark.parametrize("kind", [torch.tensor, lambda x: torch.tensor(x, requires_grad=True), np.float16, list])
def test_observations_of_other_types(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    env = GymEnv("toy_envs:Count", "state", 1)
    monkeypatch.setattr(env._env, "observation", lambda: kind([0.5, 1.0, 2.0]))
    state = env.reset(seed=0)[0]["state"]
    assert state.dtype == np.float32
    np.testing.assert_array_equal(state, [0.5, 1, 2])


def test_a_reset_of_the_old_api() -> None:
    with refusing("reset", found="an array", expected="(observation, info)"):
        GymEnv("toy_envs:OldReset", "state").reset(seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"camera": np.zeros((32, 32, 3), np.uint8)},
            r"'camera': found an array of shape \(32, 32, 3\) .*, expected \(64, 64, 3\)",
        ),
        ({"arm": np.zeros(4)}, r"'arm': found an array of shape \(4,\) .*, expected 3 entries"),
        ({"arm": None}, "observation 'arm': found none"),
    ],
)
def test_the_part_that_is_wrong_is_named(change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env = GymEnv("toy_envs:Rich", "both", 1)
    env.reset(seed=0)
    parts = {k: v for k, v in {**env._env.observation(), **change}.items() if v is not None}
    monkeypatch.setattr(env._env, "observation", lambda: parts)
    with pytest.raises(UserError, match=message):
        env.step(np.zeros(1, np.float32))


def test_opencv_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def broken(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    with refusing(found="libGL.so.1", fix="libgl1 libglib2.0-0"):
        resize(np.zeros((8, 8, 3), np.uint8), 4, 4)


def test_truth_is_what_the_environment_itself_observes() -> None:
    env = GymEnv("toy_envs:Rich", "pixels", 2)
    env.reset(seed=0)
    env.step(np.zeros(1, np.float32))
    truth = env.truth()
    assert list(truth) == ["arm 0", "arm 1", "arm 2", "legs 0", "legs 1"]
    assert (truth["arm 0"], truth["arm 1"], truth["legs 0"]) == (2, 0.25, 0.5)


# --- classes that draw with MuJoCo ------------------------------------------------------------------------------------

DRAW = """
import os, sys
from worldrl.envs import EnvConfig, make_envs, rendering
from worldrl.envs.families.gym import GymEnv
from tests.errors import refusing
env = GymEnv(sys.argv[1], "pixels")
env.reset(seed=0)
print(env.step(env.action_space.high)[0]["pixels"].std() > 1, os.environ["MUJOCO_GL"], flush=True)
os._exit(0)
"""


def in_a_fresh_process(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code where no backend is chosen yet and there is no display."""
    unset = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY", rendering.DRAWN)
    environment = {k: v for k, v in os.environ.items() if k not in unset} | variables
    environment["PYTHONPATH"] = os.pathsep.join([*sys.path[1:], str(Path(__file__).parents[1])])
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems need no backend")
@pytest.mark.parametrize(
    "task",
    [f"toy_mujoco:{name}" for name in ("WhenAsked", "AtOnce", "AtReset", "SeesItself", "Suite")]
    + ["toy_mujoco_late:Late"],
)
def test_a_class_of_a_users_own_that_draws_with_mujoco_gets_the_back_end(task: str) -> None:
    done = in_a_fresh_process(DRAW, task)
    assert done.stdout.split() == ["True", rendering.choose_backend()], done.stderr
    assert done.stderr == ""


def test_a_class_whose_failure_has_nothing_to_do_with_drawing_keeps_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "_choice", None)

    def refuse(requested: str) -> None:
        raise UserError("no OpenGL backend")

    monkeypatch.setattr(rendering, "choose_backend", refuse)
    monkeypatch.setattr(rendering, "mujoco_is_loaded", lambda: True)

    with pytest.raises(UserError) as caught:
        GymEnv("toy_envs:NeedsSize", "state")
    assert "missing 1 required" in caught.value.found
    assert "no OpenGL backend" in caught.value.found
