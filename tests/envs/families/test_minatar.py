from __future__ import annotations

import sys

import numpy as np
import pytest

from worldrl.envs import EnvConfig, make_envs
from worldrl.envs.families.minatar import COLOURS, NAMES, MinAtarEnv, canonical_name
from worldrl.errors import UserError

pytest.importorskip("minatar", reason="the games need the extra minatar")


def one_hot(env: MinAtarEnv, number: int) -> np.ndarray:
    return np.eye(env.choices, dtype=np.float32)[number]


def play(env: MinAtarEnv, seed: int, steps: int) -> list[np.ndarray]:
    """Grids and rewards of an episode whose first action is not the package's own at the start."""
    out = [env.reset(seed=seed)[0]["state"]]
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        obs, reward, terminated, truncated, _ = env.step(one_hot(env, rng.integers(1, env.choices)))
        out += [obs["state"], np.float64(reward)]
        if terminated or truncated:
            break
    return out


@pytest.mark.parametrize("task", NAMES)
def test_a_game_is_a_grid_of_zeros_and_ones(task: str) -> None:
    env = MinAtarEnv(task, "state", 1)
    seen = np.stack([x for x in play(env, 1, 60) if x.shape])
    assert env.observation_space["state"].shape == seen.shape[1:]
    assert seen.shape[1:3] == (10, 10)
    assert seen.dtype == np.float32
    assert set(np.unique(seen)) == {0.0, 1.0}
    assert (env.choices == 6) == (task.endswith("v0") or "Seaquest" in task)
    assert env.protocol.startswith("minatar ")


@pytest.mark.parametrize("task", ["MinAtar/Breakout-v0", "MinAtar/Asterix-v1", "MinAtar/SpaceInvaders-v1"])
def test_an_episode_follows_from_its_seed_whatever_was_played_before(task: str) -> None:
    """The package itself keeps the last action across resets: the first step then differs in one of ten seeds."""
    used, fresh = MinAtarEnv(task, "state", 1), MinAtarEnv(task, "state", 1)
    for seed in range(30):
        play(used, 100 + seed, 7)
        for a, b in zip(play(used, seed, 3), play(fresh, seed, 3), strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_was_observed_stays_as_it_was() -> None:
    env = MinAtarEnv("MinAtar/Freeway-v1", "state", 1)._env
    seen = [env.reset(seed=0)[0]]
    before = seen[0].copy()
    for _ in range(9):
        seen.append(env.step(1)[0])
    assert len({obs.tobytes() for obs in seen}) > 1
    np.testing.assert_array_equal(seen[0], before)


@pytest.mark.parametrize("game", ["Freeway", "Seaquest"])
def test_a_time_limit_is_a_truncation(game: str) -> None:
    """In Seaquest, an agent that never leaves the surface never ends its episode."""
    env = MinAtarEnv(f"MinAtar/{game}-v1", "state", 100)
    env.reset(seed=0)
    frames, ends = 0, (False, False)
    while not any(ends):
        _, _, *ends, info = env.step(one_hot(env, 0))
        frames += info["frames"]
    assert (frames, ends) == (env.max_frames, [False, True])


def test_a_lost_ball_is_a_termination() -> None:
    env = MinAtarEnv("MinAtar/Breakout-v1", "state", 1)
    env.reset(seed=0)
    ends = (False, False)
    while not any(ends):
        _, _, *ends, _ = env.step(one_hot(env, 0))
    assert ends == [True, False]


@pytest.mark.parametrize("task", NAMES)
def test_every_channel_has_a_colour_of_its_own(task: str) -> None:
    channels = MinAtarEnv(task, "state", 1).observation_space["state"].shape[-1]
    assert len(np.unique(COLOURS[: channels + 1], axis=0)) == channels + 1


def test_pictures_are_cells_in_colour() -> None:
    envs = make_envs(EnvConfig(obs="both", action_repeat=1), "MinAtar/Breakout-v1", seed=1)
    rows = envs.reset()
    assert rows["pixels"].shape == (1, 64, 64, 3)
    film = envs.render(256, 336)
    assert (film.shape, film.dtype) == ((240, 240, 3), np.uint8)
    lit = film[12::24, 12::24].any(-1)
    np.testing.assert_array_equal(lit, rows["state"][0].any(-1))
    player = film[12::24, 12::24][rows["state"][0, ..., 0] > 0]
    np.testing.assert_array_equal(player, 255)
    assert not film[23::24].any()
    assert not film[:, 23::24].any()


def test_names() -> None:
    assert canonical_name("minatar/spaceinvaders-V0") == "MinAtar/SpaceInvaders-v0"
    with pytest.raises(UserError) as caught:
        canonical_name("MinAtar/Brakout-v1")
    assert "MinAtar/Breakout-v1" in caught.value.fix


def test_without_the_package_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minatar.gym", None)
    with pytest.raises(UserError) as caught:
        MinAtarEnv("MinAtar/Breakout-v1", "state", 1)
    assert "minatar" in caught.value.fix
