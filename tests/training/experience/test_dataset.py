"""A data set without the learning; tests/training/test_loop.py has whole runs on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.experience.toy_ticks import attached, columns, config, found, tick
from worldrl.errors import UserError
from worldrl.training.experience.dataset import DataSet
from worldrl.types import Needs


def test_a_data_set_gives_its_own_rows_and_its_time_is_updates() -> None:
    c, rows = config(), columns(40)
    data = attached(DataSet(replace(c, updates=5), found(rows)), c)
    data.begin()
    assert (data.unit, data.now, data.length, len(data), data.saved_replay) == ("updates", 0, 5, 40, None)
    batch, extra = data.sample(8, 4, Needs())
    assert extra == {}
    for window in range(8):
        first = int(-batch.reward[window, 0])
        for name in ("reward", "action", "is_first", "is_terminal"):
            np.testing.assert_array_equal(getattr(batch, name)[window].numpy(), rows[name][first : first + 4])
        np.testing.assert_array_equal(batch.obs["state"][window].numpy(), rows["state"][first : first + 4])
    assert [tick(data) for _ in range(5)] == [1] * 5
    assert data.now == 5
    assert data.counters() == (0, 0)


def test_recent_rows_of_a_data_set_are_drawn_from_all_of_it() -> None:
    c = config()
    data = attached(DataSet(c, found(columns(40))), c)
    _, extra = data.sample(2, 4, Needs(recent_batch=500, recent_actions=3))
    assert set(extra["recent"].reward.ravel().tolist()) == set((-np.arange(40.0)).tolist())


def test_a_restored_data_set_draws_what_the_other_one_draws() -> None:
    c = config()
    one, two = (attached(DataSet(replace(c, updates=9), found(columns(40))), c) for _ in range(2))
    one.sample(8, 4, Needs())
    tick(one)
    two.restore(one.state())
    assert two.now == 1
    assert torch.equal(one.sample(8, 4, Needs())[0].reward, two.sample(8, 4, Needs())[0].reward)
    one.send()
    assert one.due()
    two.restore(one.state())  # whose tick ends without another update
    assert tick(two) == 0
    assert (two.now, tick(two), two.now) == (2, 1, 3)


def test_data_that_hold_no_window_are_refused() -> None:
    c = config(**{"replay.length": 8})
    assert attached(DataSet(c, found(columns(8))), c).sample(2, 8, Needs())[0].reward.shape == (2, 8)
    with pytest.raises(UserError) as refused:
        attached(DataSet(c, found(columns(7))), c)
    assert (refused.value.where, refused.value.found) == ("replay.length=8", "7 rows of data")
