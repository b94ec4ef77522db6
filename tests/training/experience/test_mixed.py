"""Data and an environment, without the learning; tests/training/test_loop.py has whole runs on both."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.experience.toy_ticks import attached, columns, config, found, tick
from worldrl.errors import UserError
from worldrl.runs.data import Rewards, Rows
from worldrl.training.experience import mixed as module
from worldrl.training.experience.mixed import Mixed
from worldrl.training.experience.stream import Stream
from worldrl.types import Batch, Needs


def test_a_stream_is_closed_if_its_data_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    def refused(*_: Any) -> Rows:
        raise UserError("data", "none", "some")

    monkeypatch.setattr(module, "load_rows", refused)
    monkeypatch.setattr(Stream, "close", lambda stream: closed.append(stream))
    with pytest.raises(UserError):
        Mixed(config(data="toy"))
    assert len(closed) == 1


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_batches_of_both_have_the_share_evenly_spread(share: float) -> None:
    c = config(**{"data": "toy", "data.share": share})
    mixed = attached(Mixed(c, found(columns(40))), c)
    mixed.begin()
    try:
        while not mixed.ready():
            tick(mixed)
        needs = Needs(td_batch=8, recent_batch=16, recent_actions=5)
        batch, extra = mixed.sample(16, 3, needs)
        for windows in (batch, extra["td"]):
            from_data = (windows.reward < 0).any(1).float()
            assert from_data.mean() == share
            for half in from_data.chunk(2):  # also of those that a model learns from
                assert half.mean() == pytest.approx(share, abs=0.5 / len(half))
        assert not (extra["recent"].reward < 0).any()
        assert mixed.now == mixed.counters()[0] > 0
        places = {"replay": mixed.replay, "data": mixed.data.replay}
        again = torch.cat([places[name].window(*windows).reward for name, windows in mixed.drawn(1).items()])
        assert torch.equal(again.sum(1).sort()[0], batch.reward.sum(1).sort()[0])  # all windows of the slice
        assert mixed.drawn(2) == {}
    finally:
        mixed.close()


def test_both_replays_of_a_mixture_draw_on_their_own() -> None:
    """Of as many rows in each; and there are no transitions in addition to the slice until both have enough."""
    c = config(**{"data": "toy", "data.share": 0.5, "schedule.prefill": 0})
    with closing(attached(Mixed(c, found(columns(40))), c)) as mixed:
        mixed.begin()
        while len(mixed.replay) < 40:
            tick(mixed)
        assert len(mixed) == 80
        _, extra = mixed.sample(32, 3, Needs(td_batch=60))
        assert extra["td"].reward.shape == (30, 3)
        starts = [mixed.drawn(1)[place].starts.tolist() for place in ("replay", "data")]
        assert starts[0] != starts[1]
        assert "td" not in mixed.sample(32, 3, Needs(td_batch=79))[1]  # forty of the data's forty rows


def test_a_mixture_without_data_draws_what_the_stream_draws() -> None:
    c = config(**{"data": "toy", "data.share": 0.0})
    batches: list[Batch] = []
    for made in (Stream(c), Mixed(c, found(columns(40)))):
        experience = attached(made, c)
        experience.begin()
        for _ in range(30):
            tick(experience)
        batches.append(experience.sample(8, 4, Needs())[0])
        experience.close()
    assert all(torch.equal(a, b) for a, b in zip(batches[0][1:], batches[1][1:], strict=True))


def test_from_data_to_environment() -> None:
    """Two phases, each with its own time; the agent acts from the first frame on, and rewards are transformed alike."""
    c = replace(config(**{"schedule.prefill": 5, "schedule.updates_per_1000_frames": 1000}), updates=3, frames=20)
    mixed = attached(Mixed(c, found(columns(40))._replace(rewards=Rewards(2.0, -1.0))), c)
    mixed.begin()
    try:
        assert (mixed.phase, mixed.unit, mixed.length) == ("data", "updates", 3)
        assert [tick(mixed) for _ in range(3)] == [1] * 3
        assert (mixed.now, mixed.position, mixed.counters()) == (3, 3, (0, 0))
        assert mixed.advance()
        assert (mixed.phase, mixed.unit, mixed.length, mixed.now) == ("acting", "frames", 20, 0)
        random = mixed.random.bit_generator.state
        ticks = [tick(mixed) for _ in range(12)]
        assert mixed.random.bit_generator.state == random  # nothing was chosen at random
        assert sum(ticks) > 0
        assert (mixed.now, mixed.position) == (mixed.counters()[0], 3 + mixed.counters()[0])
        assert mixed.now > 0
        stored = mixed.replay.columns()
        step, first = stored["state"][:, 0, 0], stored["is_first"][:, 0]  # the task's own reward is its step
        np.testing.assert_allclose(stored["reward"][:, 0], (2.0 * step - 1.0) * (1.0 - first))
        assert (first == 0).sum() > 5
        assert not mixed.advance()
    finally:
        mixed.close()


@pytest.mark.parametrize("phase", ["data", "acting"])
def test_both_phases_are_restored(phase: str, tmp_path: Path) -> None:
    c = replace(config(**{"schedule.prefill": 5}), updates=4, frames=30)
    one, two = (attached(Mixed(c, found(columns(40))), c) for _ in range(2))
    try:
        for mixed in (one, two):
            mixed.begin()
        for _ in range(2 if phase == "data" else 4):
            tick(one)
        if phase == "acting":
            one.advance()
            for _ in range(9):
                tick(one)
        two.replay.load_chunks(tmp_path, one.replay.save_chunks(tmp_path))
        two.restore(one.state())
        assert (two.phase, two.now, two.position) == (phase, one.now, one.position)
        draws = [mixed.sample(6, 3, Needs())[0].reward for mixed in (one, two)]
        assert torch.equal(*draws)
    finally:
        one.close()
        two.close()
