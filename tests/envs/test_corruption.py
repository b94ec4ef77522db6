from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest

from worldrl.envs.corruption import KINDS, LEVELS, MASK, VECTORS, CorruptionConfig, Noise, check_corruption, is_active
from worldrl.envs.families.gym import GymEnv
from worldrl.envs.make import EnvConfig, make_env
from worldrl.envs.vector import make_envs
from worldrl.envs.wrappers import Corruption
from worldrl.errors import UserError
from worldrl.types import ObsSpec

GREY = np.full((64, 64, 3), 128, np.uint8)
SCENE = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
PIXELS = {"pixels": ObsSpec((64, 64, 3), "uint8")}
WIDE = {"state": ObsSpec((4096,), "float32")}
ROBOT = {"state": ObsSpec((6,), "float32")}
GROUPS = {"state": {"position": (0, 3), "velocity": (3, 5), "touch": (5, 6)}}
FIRST = [0, 3, 5]  # an entry of each group
ROWS = 4000


def noise(obs: dict[str, ObsSpec], seed: int = 0, inside: Any = None, **settings: Any) -> Noise:
    made = Noise(CorruptionConfig(**settings), obs, inside)
    made.begin(seed)
    return made


def images(n: int, x: np.ndarray = GREY, seed: int = 0, **settings: Any) -> np.ndarray:
    """(n, 64, 64, 3): an episode that shows the same image all the time."""
    seen = noise(PIXELS, seed, **settings)
    return np.stack([seen({"pixels": x})["pixels"] for _ in range(n)])


def readings(seed: int = 0, n: int = ROWS, **settings: Any) -> np.ndarray:
    """(n, 6): an episode of a robot whose sensors all read 1 + the number of the row."""
    seen = noise(ROBOT, seed, GROUPS, **settings)
    return np.stack([seen({"state": np.full(6, 1 + t, np.float32)})["state"] for t in range(n)])


def runs(x: np.ndarray) -> list[int]:
    """Lengths of the runs of True that neither begin nor end the sequence."""
    edges = np.flatnonzero(np.diff(x.astype(int)))
    starts = edges[0 if not x[0] else 1 :: 2]
    return [int(stop - start) for start, stop in zip(starts, edges[(0 if not x[0] else 1) + 1 :: 2], strict=False)]


# --- images -----------------------------------------------------------------------------------------------------------


def test_gaussian_pixels_have_the_given_deviation_and_no_bias() -> None:
    found = images(20, gaussian=0.05).astype(float) - 128
    assert found.mean() == pytest.approx(0, abs=0.1)
    assert found.std() == pytest.approx(np.sqrt((0.05 * 255) ** 2 + 1 / 12), rel=0.01)


def test_gaussian_pixels_are_clipped() -> None:
    black, white = images(1, GREY * 0, gaussian=0.5), images(1, GREY * 0 + 255, gaussian=0.5)
    assert (black == 0).mean() == pytest.approx(0.5, abs=0.02)
    assert (white == 255).mean() == pytest.approx(0.5, abs=0.02)


def test_missing_drops_channel_values_independently() -> None:
    lost = images(20, missing=0.2) == 0
    assert lost.mean() == pytest.approx(0.2, abs=0.005)
    assert (lost[..., 0] & lost[..., 1]).mean() == pytest.approx(0.04, abs=0.005)
    assert abs(np.corrcoef(lost[0].ravel(), lost[1].ravel())[0, 1]) < 0.04


def test_missing_pixels_drops_all_channels_together() -> None:
    lost = images(20, missing_pixels=0.2) == 0
    assert (lost.all(-1) == lost.any(-1)).all()
    assert lost.mean() == pytest.approx(0.2, abs=0.01)
    assert abs(np.corrcoef(lost[0].ravel(), lost[1].ravel())[0, 1]) < 0.06


def test_flicker_drops_whole_frames() -> None:
    frames = images(1000, flicker=0.3)
    dark = (frames == 0).all((1, 2, 3))
    assert (dark | (frames == 128).all((1, 2, 3))).all()
    assert dark.mean() == pytest.approx(0.3, abs=0.05)


def test_bursts_of_an_image_are_of_whole_frames() -> None:
    frames = images(1000, bursts=0.3, burst_length=5)
    dark = (frames == 0).all((1, 2, 3))
    assert (dark | (frames == 128).all((1, 2, 3))).all()
    assert min(runs(dark)) == 5


@pytest.mark.parametrize(("share", "side"), [(0.25, 32), (0.01, 6), (1.0, 64)])
def test_occlusion_is_a_black_square_that_stays_for_the_episode(share: float, side: int) -> None:
    corners = set()
    for seed in range(20):
        frames = images(3, seed=seed, occlusion=share)
        assert (frames[1:] == frames[0]).all()
        top, left = (int(np.flatnonzero((frames[0] == 0).any((1 - axis, 2)))[0]) for axis in (0, 1))
        assert (frames[0, top : top + side, left : left + side] == 0).all()
        assert (frames[0] == 0).sum() == 3 * side**2
        corners.add((top, left))
    assert len(corners) > 10 or share == 1.0


def test_blur_spreads_a_point_over_the_given_deviation() -> None:
    point = np.zeros((64, 64, 3), np.uint8)
    point[30:34, 30:34] = 255
    (seen,) = images(1, point, blur=3.0).astype(float)
    weight, x = seen[..., 0].sum(0), np.arange(64)
    spread = (weight * (x - (weight * x).sum() / weight.sum()) ** 2).sum() / weight.sum()
    assert spread == pytest.approx(3.0**2 + (4**2 - 1) / 12, rel=0.1)
    np.testing.assert_array_equal(seen[..., 0], seen[..., 2])


def test_blur_is_that_of_torchvision() -> None:
    import torch
    from torchvision.transforms.v2 import functional

    fine = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    x = fine.repeat(4, 0).repeat(4, 1)
    theirs = torch.from_numpy(x).permute(2, 0, 1).contiguous()
    for sigma in (0.5, 1.0, 4.0):
        size = 2 * round(3 * sigma) + 1
        expected = functional.gaussian_blur(theirs, [size, size], [sigma, sigma]).permute(1, 2, 0).numpy()
        assert np.abs(images(1, x, blur=sigma)[0].astype(int) - expected).max() <= 1


def test_jpeg_keeps_the_colours_and_loses_more_at_higher_levels() -> None:
    smooth = np.stack(np.broadcast_arrays(np.linspace(0, 200, 64)[:, None], np.full((1, 64), 90), 30), -1)
    smooth = smooth.astype(np.uint8)
    errors = [np.abs(images(1, smooth, jpeg=level)[0].astype(float) - smooth).mean() for level in (0.05, 0.5, 0.9, 1.0)]
    assert errors == sorted(errors)
    assert errors[0] < 2  # swapped channels would be far off


def test_order_noise_comes_after_the_drops() -> None:
    (image,) = images(1, flicker=1.0, gaussian=0.1)
    assert 0 < image.astype(float).mean() < 30


# --- sensors ----------------------------------------------------------------------------------------------------------


def test_vectors_are_not_clipped() -> None:
    x = noise(WIDE, gaussian=2.0, missing=0.1)({"state": np.full(4096, 10, np.float32)})["state"]
    assert x.dtype == np.float32
    kept = x[x > 4]
    assert kept.mean() == pytest.approx(10, abs=0.15)
    assert kept.std() == pytest.approx(2, rel=0.05)
    assert (x < 0).any()


def test_missing_entries_are_independent() -> None:
    lost = readings(missing=0.1) == 0
    assert lost.mean() == pytest.approx(0.1, abs=0.01)
    assert np.abs(np.corrcoef(lost.T) - np.eye(6)).max() < 0.06


def test_group_dropout_drops_groups_whole_and_independently() -> None:
    lost = readings(group_dropout=0.2) == 0
    assert_groups_are_whole(lost)
    lost = lost[:, FIRST]
    assert lost.mean(0) == pytest.approx([0.2] * 3, abs=0.03)
    assert np.abs(np.corrcoef(lost.T) - np.eye(3)).max() < 0.06
    assert abs(np.corrcoef(lost[1:, 0], lost[:-1, 0])[0, 1]) < 0.06


@pytest.mark.parametrize("length", [1, 4, 10])
def test_bursts_last_and_lose_the_given_share_of_the_rows(length: int) -> None:
    lost = readings(n=10_000, bursts=0.2, burst_length=length) == 0
    assert_groups_are_whole(lost)
    lost = lost[:, FIRST]
    assert lost.mean(0) == pytest.approx([0.2] * 3, abs=0.05)
    assert min(runs(lost[:, 0])) == length
    assert np.mean(runs(lost[:, 0])) < 2 * length  # overlapping ones are one longer run
    assert np.abs(np.corrcoef(lost.T) - np.eye(3)).max() < 0.15


@pytest.mark.parametrize("share", [0.05, 0.7, 0.9])
def test_bursts_lose_any_share_of_the_rows_though_they_overlap(share: float) -> None:
    lost = readings(n=10_000, bursts=share, burst_length=10)[:, FIRST] == 0
    assert lost.mean() == pytest.approx(share, abs=0.04)


def test_bursts_begin_before_the_episode_does() -> None:
    dark = [readings(seed, n=1, bursts=0.3)[0, 0] == 0 for seed in range(1000)]
    assert np.mean(dark) == pytest.approx(0.3, abs=0.05)


def test_stuck_sensors_repeat_what_they_showed() -> None:
    seen = readings(stuck=0.3)
    now = np.arange(1, ROWS + 1, dtype=np.float32)[:, None]
    stuck = seen != now
    assert_groups_are_whole(stuck)
    assert not stuck[0].any()
    np.testing.assert_array_equal(seen[1:][stuck[1:]], seen[:-1][stuck[1:]])
    assert stuck.mean() == pytest.approx(0.3, abs=0.02)
    assert np.mean(runs(stuck[:, 0])) == pytest.approx(1 / 0.7, rel=0.1)  # geometric
    assert (readings(n=5, stuck=1.0) == 1).all()


def test_a_new_episode_unsticks() -> None:
    seen = noise(ROBOT, inside=GROUPS, stuck=1.0)
    seen({"state": np.ones(6, np.float32)})
    seen.begin(1)
    np.testing.assert_array_equal(seen({"state": np.zeros(6, np.float32)})["state"], 0)


def test_flicker_drops_all_sensors() -> None:
    lost = readings(flicker=0.2) == 0
    assert (lost.all(1) == lost.any(1)).all()
    assert lost.mean() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if VECTORS in KINDS[kind].fits])
def test_only_the_chosen_groups_are_touched_and_by_the_same_noise(kind: str) -> None:
    everywhere, there = readings(n=50, **{kind: 0.4}), readings(n=50, **{kind: 0.4}, groups=("velocity",))
    np.testing.assert_array_equal(there[:, 3:5], everywhere[:, 3:5])
    np.testing.assert_array_equal(there[:, [0, 1, 2, 5]], np.arange(1, 51)[:, None].repeat(4, 1))
    assert (there[:, 3] != np.arange(1, 51)).any()


def test_the_image_is_a_group_too() -> None:
    row = {"pixels": GREY, "state": np.ones(6, np.float32)}
    for group, touched in (("pixels", "pixels"), ("touch", "state")):
        found = noise({**PIXELS, **ROBOT}, inside=GROUPS, missing=1.0, groups=(group,))(row)
        assert {key for key in row if (found[key] != row[key]).any()} == {touched}


def assert_groups_are_whole(lost: np.ndarray) -> None:
    for start, stop in GROUPS["state"].values():
        assert (lost[:, start:stop] == lost[:, start : start + 1]).all()


# --- what is lost ---


LOSE = ("missing", "flicker", "bursts", "group_dropout")


@pytest.mark.parametrize("kinds", [*((kind,) for kind in LOSE), LOSE], ids="+".join)
@pytest.mark.parametrize("groups", [(), ("velocity",)], ids=["all", "velocity"])
def test_seen_is_what_was_not_zeroed(kinds: tuple[str, ...], groups: tuple[str, ...]) -> None:
    made = noise(ROBOT, 1, GROUPS, **dict.fromkeys(kinds, 0.3), groups=groups)
    for _ in range(100):
        shown = made({"state": np.ones(6, np.float32)})["state"]
        np.testing.assert_array_equal(made.seen["state"], shown != 0)


@pytest.mark.parametrize("kind", ["missing", "missing_pixels", "flicker", "bursts", "occlusion"])
def test_seen_pixels_are_those_that_are_not_black(kind: str) -> None:
    made = noise({**PIXELS, **ROBOT}, 1, GROUPS, **{kind: 0.3}, gaussian=0.01, groups=("pixels",))
    dark = noise(PIXELS, 1, **{kind: 0.3})
    for _ in range(10):
        made({"pixels": GREY, "state": np.ones(6, np.float32)})
        np.testing.assert_array_equal(made.seen["pixels"], dark({"pixels": GREY})["pixels"] != 0)
        assert made.seen["state"].all()


def test_a_stuck_sensor_is_no_reading_and_a_noisy_one_is() -> None:
    made = noise(ROBOT, 1, GROUPS, stuck=0.3)
    for t in range(100):
        shown = made({"state": np.full(6, t, np.float32)})["state"]
        np.testing.assert_array_equal(made.seen["state"], shown == t)
    hazy = noise({**PIXELS, **ROBOT}, 1, GROUPS, gaussian=0.5, blur=2.0, jpeg=0.5)
    hazy({"pixels": SCENE, "state": np.ones(6, np.float32)})
    assert all(seen.all() for seen in hazy.seen.values())


def test_a_row_without_readings_is_lost_whole_with_its_mask_and_what_is_asked() -> None:
    obs, asked = {"state": ObsSpec((7,), "float32")}, np.ones(1, np.float32)
    made = noise(obs, 1, {"state": {"position": (0, 6), MASK: (6, 7)}}, flicker=0.5)
    found = set()
    for _ in range(30):
        shown = made({"state": np.ones(7, np.float32), "asked": asked})["state"]
        is_seen = bool(shown[6])
        assert all((seen == is_seen).all() for seen in made.seen.values())
        found.add(is_seen)
    assert found == {False, True}


# --- what the noise depends on ----------------------------------------------------------------------------------------

ONE_OF_EACH = {**dict.fromkeys(KINDS, 0.3), "blur": 1.0}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("occlusion", "blur", "jpeg")])
def test_noise_differs_between_steps_seeds_and_keys(kind: str) -> None:
    """The absolute error of one value over 300 rows, on two observations of the same type."""
    image = VECTORS not in KINDS[kind].fits
    obs = dict.fromkeys(("left", "right"), PIXELS["pixels"] if image else ROBOT["state"])
    inside = {} if image else dict.fromkeys(obs, GROUPS["state"])

    def errors(seed: int) -> np.ndarray:
        seen, found = noise(obs, seed, inside, **{kind: 0.3}, burst_length=2), []
        for t in range(300):
            clean = SCENE if image else np.full(6, 1 + t % 2, np.float32)
            row = seen(dict.fromkeys(obs, clean))
            found.append([abs(float(row[key].flat[3]) - float(clean.flat[3])) for key in obs])
        return np.array(found).T

    (a, other_key), (other_seed, _) = errors(1), errors(2)
    np.testing.assert_array_equal(a, errors(1)[0])
    assert (a[1:] != a[:-1]).any()
    for b in (other_key, other_seed):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.2


@pytest.mark.parametrize("kinds", [("flicker", "missing", "gaussian"), ("missing",), ("gaussian",)])
def test_the_rule_of_the_papers_three_kinds(kinds: tuple[str, ...]) -> None:
    """One generator per row, drawn from in the order flicker, missing, Gaussian: the numbers of old runs stay."""
    level = 0.2
    found = noise({**PIXELS, **WIDE}, seed=5, **dict.fromkeys(kinds, level))
    for step in range(4):
        row = {"pixels": SCENE, "state": np.linspace(-1, 1, 4096, dtype=np.float32)}
        for key, x in found(row).items():
            rng = np.random.default_rng([5, 0xC0221, step, zlib.crc32(key.encode())])
            expected = row[key].copy()
            if "flicker" in kinds and rng.random() < level:
                expected[:] = 0
            if "missing" in kinds:
                expected[rng.random(expected.shape, np.float32) < np.float32(level)] = 0
            if "gaussian" in kinds:
                drawn = np.float32(level) * rng.standard_normal(expected.shape, np.float32)
                if key == "pixels":
                    expected = np.rint(np.clip(expected / np.float32(255) + drawn, 0, 1) * 255).astype(np.uint8)
                else:
                    expected = expected + drawn
            np.testing.assert_array_equal(x, expected)


def test_rows_that_are_not_drawn_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    rows = [{"pixels": SCENE, "state": rng.normal(size=6).astype(np.float32)} for _ in range(30)]
    drawn, blind = (noise({**PIXELS, **ROBOT}, 3, GROUPS, **ONE_OF_EACH) for _ in range(2))
    for row in rows[:-1]:
        drawn(row)
        passed = blind(row, images=False)
        np.testing.assert_array_equal(passed["pixels"], SCENE)
    expected, found = drawn(rows[-1]), blind(rows[-1])
    for key in expected:
        np.testing.assert_array_equal(found[key], expected[key])


def test_the_wrapper_corrupts_the_reset_row_and_leaves_the_global_generator_alone() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    config = CorruptionConfig(**ONE_OF_EACH)
    env, clean = Corruption(GymEnv("toy_envs:Rich", "both", 1), config), GymEnv("toy_envs:Rich", "both", 1)
    expected = Noise(config, clean.observation_space.spaces, {"state": clean.groups})
    expected.begin(3)
    rows = [(env.reset(seed=3)[0], clean.reset(seed=3)[0])]
    rows.append((env.step(np.zeros(1, np.float32))[0], clean.step(np.zeros(1, np.float32))[0]))
    for found, source in rows:
        seen = expected(source)
        for key in ("pixels", "state"):
            np.testing.assert_array_equal(found[key], seen[key])
            assert (found[key] != source[key]).any()
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_workers_and_resumed_episodes_see_the_same_noise() -> None:
    """Every kind at once, in this process and in workers, and again after a restore in the middle of an episode."""
    config = EnvConfig(obs="both", action_repeat=1, corruption=CorruptionConfig(**ONE_OF_EACH))
    here, workers = make_envs(config, "toy_envs:Rich", 5, 1), make_envs(config, "toy_envs:Rich", 5, 2)
    try:
        alone, many = here.reset(), workers.reset()
        for t in range(9):
            for key in alone:
                np.testing.assert_array_equal(many[key][0], alone[key][0], err_msg=key)
            if t == 8:
                again = here.restore(here.state())
                np.testing.assert_array_equal(again["pixels"], alone["pixels"])
                np.testing.assert_array_equal(again["state"], alone["state"])
            action = np.full((2, 1), np.sin(t), np.float32)
            alone, many = here.step(action[:1]), workers.step(action)
    finally:
        here.close()
        workers.close()


# --- settings ---------------------------------------------------------------------------------------------------------


def test_every_kind_has_a_level_and_a_range() -> None:
    assert set(KINDS) == set(LEVELS) <= set(vars(CorruptionConfig()))


def test_where_it_applies() -> None:
    noisy = {where: CorruptionConfig(gaussian=0.1, apply=where) for where in ("both", "train", "eval")}
    assert {where: is_active(c, training=True) for where, c in noisy.items()} == {"both": 1, "train": 1, "eval": 0}
    assert {where: is_active(c, training=False) for where, c in noisy.items()} == {"both": 1, "train": 0, "eval": 1}
    assert not is_active(CorruptionConfig(), training=True)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"gaussian": -0.1}, r"corruption.gaussian: found -0.1, expected a standard deviation of 0 or more"),
        ({"missing": 1.5}, r"corruption.missing: found 1.5, expected a share of the values in \[0, 1\]"),
        ({"flicker": -1}, r"corruption.flicker: found -1, expected a share of the rows in \[0, 1\]"),
        ({"blur": 100.0}, r"corruption.blur: found 100.0, expected a standard deviation in pixels in \[0, 64\]"),
        ({"gaussian": float("nan")}, r"corruption.gaussian: found nan"),
        ({"gaussian": float("inf")}, r"corruption.gaussian: found inf"),
        ({"burst_length": 0}, r"corruption.burst_length: found 0, expected 1 or more"),
        ({"apply": "trian"}, r"unknown corruption.apply 'trian'; did you mean: train"),
    ],
)
def test_bad_levels(levels: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_corruption(CorruptionConfig(**levels))


@pytest.mark.parametrize(
    ("obs", "settings", "message"),
    [
        ("state", {"blur": 1.0}, "corruption blur: found state, expected images; kinds that fit: stuck, bursts"),
        ("pixels", {"stuck": 0.1}, "corruption stuck: found pixels, expected state vectors; kinds that fit: occlusion"),
        ("both", {"jpeg": 0.5, "groups": ("arm",)}, "corruption jpeg: found arm, expected images"),
        ("state", {"missing": 0.1, "groups": ("amr",)}, "unknown sensor group 'amr'; did you mean: arm"),
        ("state", {"missing": 0.1, "groups": ("pixels",)}, "unknown sensor group 'pixels': expected one of: arm, legs"),
    ],
)
@pytest.mark.parametrize("apply", ["both", "train"])
def test_what_does_not_fit_is_refused_wherever_it_applies(obs: str, settings: dict, message: str, apply: str) -> None:
    config = EnvConfig(obs=obs, corruption=CorruptionConfig(**settings, apply=apply))
    with pytest.raises(UserError, match=message):
        make_env(config, "toy_envs:Rich", training=False)


def test_kinds_that_fit_one_of_two_observations_leave_the_other_alone() -> None:
    seen = noise({**PIXELS, **ROBOT}, inside=GROUPS, blur=2.0)
    row = seen({"pixels": SCENE, "state": np.ones(6, np.float32)})
    assert (row["pixels"] != SCENE).any()
    assert (row["state"] == 1).all()


@pytest.mark.parametrize("settings", [{"blur": 1.0}, {"jpeg": 0.5}], ids=str)
def test_a_grey_screen_stays_one(settings: dict[str, float]) -> None:
    shown = np.linspace(0, 200, 84 * 84).reshape(84, 84, 1).astype(np.uint8)
    seen = noise({"state": ObsSpec((84, 84, 1), "uint8")}, **settings)({"state": shown})["state"]
    assert seen.shape == shown.shape
    assert np.abs(seen.astype(int) - shown).mean() < 5
