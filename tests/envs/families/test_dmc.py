from __future__ import annotations

import numpy as np
import pytest

from tests.errors import refusing
from worldrl.envs.families.dmc import DMCEnv, canonical_name, dmc_tasks
from worldrl.envs.rendering import RenderConfig
from worldrl.errors import UserError

# Tasks that write model fields, draw at construction, build terrain, or mix several generators.
EXACT = ["cartpole_swingup", "lqr_lqr_2_1", "swimmer_swimmer6", "finger_turn_easy", "reacher_hard", "ball_in_cup_catch",
         "point_mass_hard", "manipulator_insert_peg", "fish_swim"]  # fmt: skip
SLOW_EXACT = ["quadruped_escape", "humanoid_CMU_run", "stacker_stack_2", "quadruped_fetch"]


def play(env: DMCEnv, seed: int, steps: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = env.action_space.shape
    obs, _ = env.reset(seed=seed)
    out = [obs["state"]]
    for _ in range(steps):
        obs, reward, *_ = env.step(rng.uniform(-1, 1, shape).astype(np.float32))
        out += [obs["state"], np.asarray(reward)]
    return out


def check_pure(task: str, steps: int) -> None:
    used, fresh = DMCEnv(task, "state"), DMCEnv(task, "state")
    play(used, 7, steps)
    for a, b in zip(play(used, 8, steps), play(fresh, 8, steps), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("task", EXACT)
def test_an_episode_is_a_function_of_its_seed(task: str) -> None:
    check_pure(task, 20)


@pytest.mark.slow
@pytest.mark.parametrize("task", SLOW_EXACT)
def test_an_episode_is_a_function_of_its_seed_on_large_models(task: str) -> None:
    check_pure(task, 20)


def test_pixels_are_exact_too() -> None:
    envs = [DMCEnv("finger_turn_hard", "pixels", render=RenderConfig(quality="fast")) for _ in range(2)]
    envs[0].reset(seed=1)
    envs[0].step(np.ones(2, np.float32))
    for seed in (5, 6):
        a, b = (env.reset(seed=seed)[0]["pixels"] for env in envs)
        assert a.shape == (64, 64, 3)
        assert a.dtype == np.uint8
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("task", ["walker_walk", "quadruped_escape"])
def test_the_agent_sees_what_the_task_camera_sees(task: str) -> None:
    env = DMCEnv(task, "pixels", 8, RenderConfig(quality="fast"))
    for seed in (1, 2):
        images = [env.reset(seed=seed)[0]["pixels"], env.step(env.action_space.low)[0]["pixels"]]
        assert (images[0] != images[1]).any()
        np.testing.assert_array_equal(images[1], env.video_frame(64, 64))


def test_names() -> None:
    assert canonical_name("walker-walk") == "walker_walk"
    assert canonical_name("cup_catch") == canonical_name("cup-catch") == "ball_in_cup_catch"
    assert canonical_name("humanoid_cmu_run") == "humanoid_CMU_run"
    assert dmc_tasks()["point_mass_easy"] == ("point_mass", "easy")
    with refusing("'walker_wakl'", fix="walker_walk"):
        canonical_name("walker_wakl")


def test_action_repeat_sums_rewards_and_counts_frames() -> None:
    once, four = DMCEnv("cartpole_balance", "state", 1), DMCEnv("cartpole_balance", "state", 4)
    once.reset(seed=3)
    four.reset(seed=3)
    action = np.full(1, 0.3, np.float32)
    steps = [once.step(action) for _ in range(4)]
    obs, reward, _, _, info = four.step(action)
    assert reward == sum(step[1] for step in steps)
    assert info == {"frames": 4}
    np.testing.assert_array_equal(obs["state"], steps[-1][0]["state"])


def test_time_limit_is_truncation_and_cuts_the_last_repeat() -> None:
    env = DMCEnv("pendulum_swingup", "state", 300)
    env.reset(seed=0)
    ends = [env.step(np.zeros(1, np.float32)) for _ in range(4)]
    assert [e[2] for e in ends] == [False] * 4
    assert [e[3] for e in ends] == [False, False, False, True]
    assert [e[4]["frames"] for e in ends] == [300, 300, 300, 100]
    assert env.max_frames == 1000
    assert not env.terminates


def test_a_task_without_time_limit_gets_one_and_may_terminate() -> None:
    env = DMCEnv("lqr_lqr_2_1", "state", 600)
    assert env.terminates
    env.reset(seed=0)
    assert env.step(np.ones(1, np.float32))[2:4] == (False, False)
    assert env.step(np.ones(1, np.float32))[2:] == (False, True, {"frames": 400})
    env.reset(seed=0)
    with env._env.physics.reset_context():
        env._env.physics.data.qpos[:] = 0
    assert env.step(np.zeros(1, np.float32))[2:] == (True, False, {"frames": 1})


def test_groups_name_the_parts_of_the_state() -> None:
    env = DMCEnv("reacher_easy", "both", render=RenderConfig(quality="fast"))
    obs, _ = env.reset(seed=0)
    assert list(obs) == ["pixels", "state"]
    assert env.groups == {"position": (0, 2), "to_target": (2, 4), "velocity": (4, 6)}
    start, stop = env.groups["to_target"]
    np.testing.assert_allclose(obs["state"][start:stop], env._env.physics.finger_to_target(), rtol=1e-6)
    assert all(env.observation_space[k].contains(v) for k, v in obs.items())


def test_actions_reach_the_bounds_of_the_task() -> None:
    env = DMCEnv("quadruped_walk", "state", 1)
    spec = env._env.action_spec()
    env.reset(seed=0)
    for action, bound in ((5.0, spec.maximum), (-1.0, spec.minimum)):
        env.step(np.full(spec.shape, action, np.float32))
        np.testing.assert_allclose(env._env.physics.data.ctrl, bound)


def test_camera_of_the_quadruped() -> None:
    assert DMCEnv("quadruped_walk", "pixels")._camera == 2
    assert DMCEnv("walker_walk", "pixels")._camera == 0
    with refusing("render.camera", found="9", expected="0 to 1"):
        DMCEnv("walker_walk", "pixels", render=RenderConfig(camera=9))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"obs": "rgb"}, "unknown env.obs 'rgb': expected one of: both"),
        ({"action_repeat": 0}, "env.action_repeat: found 0, expected 1 or more"),
        ({"render": RenderConfig(size=84)}, "render.size: found 84, expected 64"),
        ({"obs": "state", "render": RenderConfig(quality="ultra")}, "unknown render.quality 'ultra'"),
    ],
)
def test_bad_settings(kwargs: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DMCEnv("walker_walk", **kwargs)


def test_truth_is_named_after_the_joints() -> None:
    env = DMCEnv("cartpole_balance", "pixels")
    env.render_pixels = False
    env.reset(seed=1)
    before = env.truth()
    assert list(before) == ["slider position", "hinge_1 position", "slider velocity", "hinge_1 velocity"]
    env.step(np.ones(1, np.float32))
    after = env.truth()
    mean_velocity = (after["slider position"] - before["slider position"]) / 0.02  # two frames of 10 ms
    assert before["slider velocity"] < mean_velocity < after["slider velocity"]


def test_truth_numbers_the_coordinates_of_a_free_joint() -> None:
    env = DMCEnv("quadruped_walk", "state")
    env.reset(seed=1)
    names = [name for name in env.truth() if name.startswith("root ")]
    assert names == [*(f"root position {i}" for i in range(7)), *(f"root velocity {i}" for i in range(6))]
    position = [env.truth()[name] for name in names[3:7]]
    assert np.linalg.norm(position) == pytest.approx(1.0, abs=1e-6)  # a quaternion
