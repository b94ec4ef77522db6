from __future__ import annotations

import numpy as np

from worldrl.envs.scaling import rescale


def test_scaled_actions_stay_in_their_box() -> None:
    rng = np.random.default_rng(0)
    low, high = rng.uniform(-2, 0, 2000).round(2), rng.uniform(0, 2, 2000).round(2)
    for action in (np.ones(2000), -np.ones(2000), rng.uniform(-1, 1, 2000)):
        scaled = rescale(action, low, high)
        assert (low <= scaled).all()
        assert (scaled <= high).all()


def test_scaling_between_bounds_whose_distance_overflows() -> None:
    m = np.full(4, np.finfo(np.float64).max)
    with np.errstate(all="raise"):
        np.testing.assert_allclose(rescale(np.array([-1, 0, 0.5, 1]), -m, m) / m, [-1, 0, 0.5, 1])
