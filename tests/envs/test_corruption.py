from __future__ import annotations

import numpy as np
import pytest

from worldrl.config import CorruptionConfig
from worldrl.envs.corruption import Corruption, check_corruption, corrupt, is_active, noise_generator
from worldrl.envs.gym import GymEnv
from worldrl.errors import UserError

GREY = np.full((64, 64, 3), 128, np.uint8)
VECTOR = np.ones(4096, np.float32)


def noisy(x: np.ndarray, seed: int = 0, step: int = 0, **levels: float) -> np.ndarray:
    return corrupt(x, CorruptionConfig(**levels), noise_generator(seed, step, "pixels"))


def test_gaussian_pixels_have_the_given_deviation_and_no_bias() -> None:
    noise = np.concatenate([noisy(GREY, step=t, gaussian=0.05).astype(float).ravel() - 128 for t in range(20)])
    assert noise.mean() == pytest.approx(0, abs=0.1)
    assert noise.std() == pytest.approx(np.sqrt((0.05 * 255) ** 2 + 1 / 12), rel=0.01)


def test_gaussian_pixels_are_clipped() -> None:
    black, white = noisy(GREY * 0, gaussian=0.5), noisy(GREY * 0 + 255, gaussian=0.5)
    assert (black == 0).mean() == pytest.approx(0.5, abs=0.02)
    assert (white == 255).mean() == pytest.approx(0.5, abs=0.02)


def test_missing_drops_channel_values_independently() -> None:
    lost = np.stack([noisy(GREY, step=t, missing=0.2) == 0 for t in range(20)])
    assert lost.mean() == pytest.approx(0.2, abs=0.005)
    red, green = lost[..., 0].ravel(), lost[..., 1].ravel()
    assert (red & green).mean() == pytest.approx(0.04, abs=0.005)
    assert abs(np.corrcoef(lost[0].ravel(), lost[1].ravel())[0, 1]) < 0.04


def test_flicker_drops_whole_frames() -> None:
    frames = [noisy(GREY, step=t, flicker=0.3) for t in range(2000)]
    assert all((f == 0).all() or (f == 128).all() for f in frames)
    assert np.mean([not f.any() for f in frames]) == pytest.approx(0.3, abs=0.04)


def test_order_noise_comes_after_the_drops() -> None:
    image = noisy(GREY, flicker=1.0, gaussian=0.1)
    assert 0 < image.astype(float).mean() < 30


def test_vectors_are_not_clipped() -> None:
    x = noisy(VECTOR * 10, gaussian=2.0, missing=0.1)
    assert x.dtype == np.float32
    kept = x[x > 4]
    assert kept.mean() == pytest.approx(10, abs=0.15)
    assert kept.std() == pytest.approx(2, rel=0.05)
    assert (x < 0).any()


def test_noise_differs_between_steps_seeds_and_keys() -> None:
    a, b, c = noisy(GREY, 1, 1, gaussian=0.1), noisy(GREY, 1, 2, gaussian=0.1), noisy(GREY, 2, 1, gaussian=0.1)
    d = corrupt(GREY, CorruptionConfig(gaussian=0.1), noise_generator(1, 1, "other"))
    for other in (b, c, d):
        assert abs(np.corrcoef(a.ravel(), other.ravel())[0, 1]) < 0.05
    np.testing.assert_array_equal(a, noisy(GREY, 1, 1, gaussian=0.1))


def test_the_wrapper_corrupts_the_reset_row_and_leaves_the_global_generator_alone() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    env = Corruption(GymEnv("toy_envs:Rich", "both", 1), CorruptionConfig(gaussian=0.1))
    clean = GymEnv("toy_envs:Rich", "both", 1)
    rows = [(env.reset(seed=3)[0], clean.reset(seed=3)[0])]
    rows.append((env.step(np.zeros(1, np.float32))[0], clean.step(np.zeros(1, np.float32))[0]))
    for t, (found, source) in enumerate(rows):
        for key in ("pixels", "state"):
            expected = corrupt(source[key], CorruptionConfig(gaussian=0.1), noise_generator(3, t, key))
            np.testing.assert_array_equal(found[key], expected)
            assert (found[key] != source[key]).any()
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_where_it_applies() -> None:
    noisy = {where: CorruptionConfig(gaussian=0.1, apply=where) for where in ("both", "train", "eval")}
    assert {where: is_active(c, training=True) for where, c in noisy.items()} == {"both": 1, "train": 1, "eval": 0}
    assert {where: is_active(c, training=False) for where, c in noisy.items()} == {"both": 1, "train": 0, "eval": 1}
    assert not is_active(CorruptionConfig(), training=True)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"gaussian": -0.1}, "corruption.gaussian=-0.1: expected a standard deviation of 0 or more"),
        ({"missing": 1.5}, "corruption.missing=1.5: expected a probability"),
        ({"flicker": -1}, "corruption.flicker=-1: expected a probability"),
        ({"gaussian": float("nan")}, "corruption.gaussian=nan"),
        ({"apply": "trian"}, "unknown corruption.apply 'trian'; did you mean: train"),
    ],
)
def test_bad_levels(levels: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_corruption(CorruptionConfig(**levels))
