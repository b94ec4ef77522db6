from __future__ import annotations

import sys

import gymnasium
import numpy as np
import pytest

from worldrl.envs.families import atari
from worldrl.envs.families.atari import AtariEnv, canonical_name, games
from worldrl.errors import UserError

ale_py = pytest.importorskip("ale_py", reason="the games need the extra atari")


def play(env: AtariEnv, seed: int, steps: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    out = [*env.reset(seed=seed)[0].values()]
    for _ in range(steps):
        obs, reward, *_ = env.step(np.eye(env.choices, dtype=np.float32)[rng.integers(env.choices)])
        out += [*obs.values(), np.float64(reward)]
    return out


def test_the_names_are_those_that_the_package_registers() -> None:
    gymnasium.register_envs(ale_py)
    ids = {name for name in gymnasium.registry if name.startswith("ALE/")}
    assert len(ids) > 100
    assert ids <= {f"ALE/{name}-v5" for name in games()}


def test_an_episode_follows_from_its_seed_whatever_was_played_before() -> None:
    used, fresh = AtariEnv("ALE/Breakout-v5", "both", 4), AtariEnv("ALE/Breakout-v5", "both", 4)
    play(used, 7, 40)
    for a, b in zip(play(used, 8, 60), play(fresh, 8, 60), strict=True):
        np.testing.assert_array_equal(a, b)


def test_frames_are_skipped_once() -> None:
    """The emulator counts the frames of an episode itself."""
    env = AtariEnv("ALE/Pong-v5", "state", 4)
    env.reset(seed=0)
    noop, before = np.eye(6, dtype=np.float32)[0], env._env.ale.getEpisodeFrameNumber()
    frames = [env.step(noop)[4]["frames"] for _ in range(5)]
    assert frames == [4] * 5
    assert env._env.ale.getEpisodeFrameNumber() - before == 20


def test_actions_are_sticky_in_each_frame() -> None:
    env = AtariEnv("ALE/Pong-v5", "state", 1)
    assert env._env.ale.getFloat("repeat_action_probability") == 0.25
    assert "0.25" in env.protocol


def test_a_lost_life_ends_nothing() -> None:
    env = AtariEnv("ALE/Breakout-v5", "state", 4)
    env.reset(seed=0)
    fire, lives, ended = np.eye(4, dtype=np.float32)[1], [5], False
    while not ended:
        _, _, terminated, truncated, _ = env.step(fire)
        lives.append(env._env.ale.lives())
        ended = terminated or truncated
    assert {1, 2, 3, 4} <= set(lives)
    assert (terminated, truncated) == (True, False)


@pytest.mark.parametrize(("task", "actions"), [("ALE/Pong-v5", 6), ("ALE/Pong-full-v5", 18), ("ale/freeway-V5", 3)])
def test_which_actions_there_are(task: str, actions: int) -> None:
    env = AtariEnv(task, "pixels", 4)
    assert env.choices == env.action_space.shape[0] == actions
    assert f" {actions} actions" in env.protocol


def test_what_is_seen_is_the_larger_of_the_last_two_frames() -> None:
    env, frames = AtariEnv("ALE/SpaceInvaders-v5", "both", 4), []
    env.reset(seed=3)
    ale_step = env._env.step

    def step(number: int) -> tuple:
        result = ale_step(number)
        frames.append(result[0])
        return result

    env._env.step = step
    obs = env.step(np.eye(6, dtype=np.float32)[1])[0]
    pooled = np.maximum(frames[-1], frames[-2])
    np.testing.assert_array_equal(obs["pixels"], env._observe(pooled)["pixels"])
    np.testing.assert_array_equal(obs["pixels"], env.render())
    np.testing.assert_array_equal(env.video_frame(256, 336), pooled)  # a film does not flicker either
    assert obs["pixels"].shape == (64, 64, 3)
    grey = pooled.astype(np.float64) @ [0.299, 0.587, 0.114]
    assert obs["state"].shape == (84, 84, 1)
    assert obs["state"].dtype == np.uint8
    assert abs(obs["state"].mean() - grey.mean()) < 1


def test_nothing_is_drawn_where_nothing_is_asked_for() -> None:
    env = AtariEnv("ALE/Pong-v5", "pixels", 4, draws=False)
    assert not any(x.any() for x in play(env, 0, 3) if x.ndim == 3)


def test_names() -> None:
    assert canonical_name("ALE/spaceinvaders-V5") == "ALE/SpaceInvaders-v5"
    with pytest.raises(UserError) as caught:
        canonical_name("ALE/Pog-v5")
    assert "ALE/Pong-v5" in caught.value.fix


def test_without_the_package_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ale_py", None)
    atari._ale.cache_clear()
    atari.games.cache_clear()
    with pytest.raises(UserError) as caught:
        canonical_name("ALE/Pong-v5")
    assert "atari" in caught.value.fix
