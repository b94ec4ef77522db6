from __future__ import annotations

import dataclasses
from contextlib import closing

import numpy as np
import pytest

from worldrl.envs import EnvConfig, make_envs
from worldrl.envs.corruption import CorruptionConfig, Noise
from worldrl.envs.make import describe, make_env
from worldrl.errors import UserError


@pytest.mark.parametrize("obs", ["state", "both"])
def test_a_hidden_group_of_dm_control_is_gone_and_the_rest_is_as_it_was(obs: str) -> None:
    whole = make_env(EnvConfig(obs="state"), "reacher_easy")
    config = EnvConfig(obs=obs, hide=("velocity",))
    env = make_env(config, "reacher_easy")
    assert describe(env, config).groups == {"state": {"position": (0, 2), "to_target": (2, 4)}}
    action = np.ones(2, np.float32)
    rows = [(env.reset(seed=1)[0], whole.reset(seed=1)[0]), (env.step(action)[0], whole.step(action)[0])]
    for found, source in rows:
        np.testing.assert_array_equal(found["state"], source["state"][:4])
        assert env.observation_space.contains(found)


def test_a_group_in_the_middle_of_a_gymnasium_dict_is_hidden_and_the_next_one_moves_up() -> None:
    whole = EnvConfig(obs="both", action_repeat=1)
    config = dataclasses.replace(whole, hide=("arm",))
    with closing(make_envs(whole, "toy_envs:Rich", 1)) as a, closing(make_envs(config, "toy_envs:Rich", 1)) as b:
        assert list(a.spec.groups["state"]) == ["arm", "legs"]
        assert b.spec.groups == {"state": {"legs": (0, 2)}}
        assert b.spec.obs["state"].shape == (2,)
        rows = b.reset()
        np.testing.assert_array_equal(rows["state"], [[0.5, 0.5]])
        np.testing.assert_array_equal(rows["pixels"], a.reset()["pixels"])


@pytest.mark.parametrize(("n", "training"), [(2, True), (1, False)])
def test_workers_hide_it_too_and_so_does_evaluation(n: int, training: bool) -> None:
    config = EnvConfig(obs="state", action_repeat=1, hide=("arm",))
    with closing(make_envs(config, "toy_envs:Rich", 1, n, training)) as envs:
        assert envs.reset()["state"].shape == (n, 2)
        assert envs.step(np.zeros((n, 1), np.float32))["state"].shape == (n, 2)


def test_noise_knows_what_remains() -> None:
    noise = CorruptionConfig(missing=1.0, groups=("legs",))
    config = EnvConfig(obs="state", hide=("arm",), corruption=noise)
    env = make_env(config, "toy_envs:Rich")
    np.testing.assert_array_equal(env.reset(seed=1)[0]["state"], [0, 0])
    spec = describe(env, config)
    seen = Noise(noise, spec.obs, spec.groups)  # as the robustness grid makes it
    seen.begin(1)
    np.testing.assert_array_equal(seen({"state": np.ones(2, np.float32)})["state"], [0, 0])
    with pytest.raises(UserError) as caught:
        make_env(EnvConfig(obs="state", hide=("arm",), corruption=CorruptionConfig(missing=0.1, groups=("arm",))),
                 "toy_envs:Rich")  # fmt: skip
    assert (caught.value.where, caught.value.expected) == ("unknown sensor group 'arm'", "one of: legs")


@pytest.mark.parametrize(
    ("obs", "hide", "found", "expected"),
    [
        ("state", ("velocty",), "'velocty'", "sensor groups of the task: arm, legs"),
        ("both", ("arm", "pixels"), "'pixels'", "sensor groups of the task: arm, legs"),
        ("pixels", ("arm",), "'arm'", "no group: images, screens and grids are not sensors"),
        ("state", ("legs", "arm"), "every sensor group (arm, legs)", "one that remains"),
    ],
)
def test_what_cannot_be_hidden(obs: str, hide: tuple[str, ...], found: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        make_env(EnvConfig(obs=obs, hide=hide), "toy_envs:Rich")
    assert (caught.value.where, caught.value.found, caught.value.expected) == ("env.hide", found, expected)


# --- masks ---


@pytest.mark.parametrize("kinds", [{"missing": 0.4}, {"bursts": 0.3, "gaussian": 0.1}, {"group_dropout": 0.5}], ids=str)
@pytest.mark.parametrize("obs", ["state", "both"])
def test_the_mask_says_what_share_of_each_sensor_is_a_reading(kinds: dict[str, float], obs: str) -> None:
    """The sensors show what they show without it; the grid's noise on a clean row gives the same."""
    plain = EnvConfig(obs=obs, action_repeat=1, corruption=CorruptionConfig(**kinds))
    config = dataclasses.replace(plain, mask=True)
    env, bare = make_env(config, "toy_envs:Rich"), make_env(plain, "toy_envs:Rich")
    clean = make_env(dataclasses.replace(config, corruption=CorruptionConfig()), "toy_envs:Rich")
    spec = describe(env, config)
    n = 3 if obs == "both" else 2
    start = spec.obs["state"].shape[0] - n
    assert spec.groups["state"] == {**describe(bare, plain).groups["state"], "seen": (start, start + n)}
    noise = Noise(config.corruption, spec.obs, spec.groups)
    shares = []
    for seed in range(20):
        found, source, before = (e.reset(seed=seed)[0] for e in (env, bare, clean))
        np.testing.assert_array_equal(found["state"][:start], source["state"])
        assert env.observation_space.contains(found)
        np.testing.assert_array_equal(before["state"][start:], 1)
        noise.begin(seed)
        again = noise(before)
        for key in found:
            np.testing.assert_array_equal(again[key], found[key])
        expected = [noise.seen["state"][a:b].mean() for a, b in list(spec.groups["state"].values())[:-1]]
        expected += [noise.seen["pixels"].mean()] if obs == "both" else []
        shares.append(found["state"][start:])
        np.testing.assert_allclose(shares[-1], expected, rtol=1e-6)
    assert np.ptp(shares, 0).min() > 0 or ("group_dropout" in kinds and obs == "both")  # which does not fit images


def test_images_get_a_state_that_is_their_mask() -> None:
    config = EnvConfig(obs="pixels", action_repeat=1, mask=True, corruption=CorruptionConfig(flicker=0.5))
    with closing(make_envs(config, "toy_envs:Rich", 1, 2)) as envs:
        assert envs.spec.obs["state"].shape == (1,)
        rows = [envs.reset(), *(envs.step(np.zeros((2, 1), np.float32)) for _ in range(5))]
    for row in rows:
        np.testing.assert_array_equal(row["state"][:, 0], row["pixels"].any((1, 2, 3)))


def test_no_mask_for_a_grid_and_no_noise_for_a_mask() -> None:
    with pytest.raises(UserError) as caught:
        make_env(EnvConfig(obs="state", mask=True), "toy_envs:Board")
    assert (caught.value.where, caught.value.found) == ("env.mask", "a state of shape (3, 2, 4)")
    for groups in (("seen",), ("pixels",)):
        noise = CorruptionConfig(group_dropout=0.1, groups=groups)
        with pytest.raises(UserError):
            make_env(EnvConfig(obs="pixels", mask=True, corruption=noise), "toy_envs:Rich")
