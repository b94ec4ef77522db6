from __future__ import annotations

import numpy as np
import pytest

from worldrl.envs.families.gym import GymEnv
from worldrl.envs.families.useless import UselessEnv, canonical_name, claims
from worldrl.errors import UserError


def one_hot(env: GymEnv, number: int) -> np.ndarray:
    return np.eye(env.choices, dtype=np.float32)[number]


def test_a_duplicate_does_what_its_original_does() -> None:
    plain, padded = GymEnv("CartPole-v1", "state", 1), UselessEnv("CartPole-v1+5duplicates", "state", 1)
    assert (plain.choices, padded.choices) == (2, 7)
    for env in (plain, padded):
        env.reset(seed=3)
    for number in range(7):
        one, two = plain.step(one_hot(plain, number % 2)), padded.step(one_hot(padded, number))
        np.testing.assert_array_equal(one[0]["state"], two[0]["state"])
        assert one[1:] == two[1:]


def test_a_dominated_action_wastes_a_step_at_a_cost() -> None:
    env = UselessEnv("CartPole-v1+4dominated", "state", 1)
    first = env.reset(seed=3)[0]["state"]
    obs, reward, terminated, truncated, _ = env.step(one_hot(env, 5))
    np.testing.assert_array_equal(obs["state"], first)
    assert (reward, terminated, truncated) == (-1.0, False, False)
    obs, reward, *_ = env.step(one_hot(env, 1))
    assert reward == 1.0
    assert (obs["state"] != first).any()


def test_wasted_steps_count_for_the_time_limit() -> None:
    env = UselessEnv("CartPole-v1+1dominated", "state", 1)
    env.reset(seed=0)
    ends = [env.step(one_hot(env, 2))[2:4] for _ in range(500)]
    assert ends == [(False, False)] * 499 + [(False, True)]


def test_a_grid_takes_them_too() -> None:
    """A wasted step costs what each step does, and the time limit is that of the grid."""
    env = UselessEnv("grid3corner+4dominated", "state", 1)
    assert (env.choices, env.max_frames) == (9, 9)
    first = env.reset(seed=0)[0]["state"]
    obs, *rest = env.step(one_hot(env, 8))
    np.testing.assert_array_equal(obs["state"], first)
    assert rest[:3] == [-1.0, False, False]
    assert [env.step(one_hot(env, 5))[3] for _ in range(8)] == [False] * 7 + [True]
    copies = UselessEnv("grid3corner+7duplicates", "state", 1)
    copies.reset(seed=0)
    assert copies.step(one_hot(copies, 5))[0]["state"].argmax() == 1  # to the left, as 0 does
    assert copies.step(one_hot(copies, 8))[0]["state"].argmax() == 4  # down, as 3 does


def test_names() -> None:
    assert claims("CartPole-v1+16dominated")
    assert not any(
        map(claims, ("CartPole-v1", "CartPole-v1+dominated", "CartPole-v1+4others", "ALE/Pong-v5+4dominated"))
    )
    for name in ("CartPole-v1+4duplicates", "grid8corner+4dominated"):
        assert canonical_name(name) == name
    for name in ("CratPole-v1+4duplicates", "grid99+4dominated"):
        with pytest.raises(UserError):
            canonical_name(name)


def test_a_box_has_no_choices_to_add_to() -> None:
    with pytest.raises(UserError) as refused:
        UselessEnv("Pendulum-v1+4dominated", "state", 1)
    assert refused.value.expected == "a task of choices"
