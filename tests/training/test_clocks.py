from __future__ import annotations

import time

import numpy as np
import pytest

from worldrl.training.clocks import Every, Linear, Ratio, Seconds, Timer


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("lump", [1, 4, 6, 1000, 2500])
def test_every_counts_crossings(lump: int) -> None:
    every = Every(1000)
    due = [frames for frames in range(lump, 20_001, lump) if every(frames)]
    expected = [f for f in range(lump, 20_001, lump) if any(m % 1000 == 0 for m in range(f - lump + 1, f + 1))]
    assert due == expected


def test_every_is_not_due_at_its_start_or_twice() -> None:
    every = Every(10)
    assert [every(frames) for frames in (0, 9, 10, 10, 35, 36)] == [False, False, True, False, True, False]


def test_every_zero_is_never() -> None:
    every = Every(0)
    assert not any(every(frames) for frames in range(100))


def test_every_resumes() -> None:
    whole, part = Every(10), Every(10)
    expected = [whole(frames) for frames in range(0, 100, 3)]
    got = [part(frames) for frames in range(0, 48, 3)]
    resumed = Every(10)
    resumed.load_state_dict(part.state_dict())
    assert got + [resumed(frames) for frames in range(48, 100, 3)] == expected
    other = Every(7)  # n changed on resume: no spurious crossing, the next multiple of 7 counts
    other.load_state_dict({"last": 45})
    assert [other(frames) for frames in (46, 48, 49)] == [False, False, True]


@pytest.mark.parametrize(("updates", "per", "lump"), [(100, 1000, 2), (0.3, 1, 1), (333.3, 1000, 4), (2, 1, 6)])
def test_ratio_does_not_drift(updates: float, per: int, lump: int) -> None:
    ratio = Ratio(updates, per, start=50)
    total = 0
    for frames in range(0, 100_000, lump):
        due = ratio(frames)
        assert due >= 0
        total += due
        # tenths are exact in integers
        assert total == max(0, frames - 50) * round(10 * updates) // (10 * per)


def test_ratio_resumes() -> None:
    whole, part = Ratio(0.3, 1), Ratio(0.3, 1)
    expected = [whole(frames) for frames in range(200)]
    got = [part(frames) for frames in range(77)]
    resumed = Ratio(0.3, 1)
    resumed.load_state_dict(part.state_dict())
    assert got + [resumed(frames) for frames in range(77, 200)] == expected


def test_ratio_zero_is_never() -> None:
    assert Ratio(0)(10**9) == 0


def test_seconds() -> None:
    clock = FakeClock()
    seconds = Seconds(120.0, clock)
    assert not seconds()
    clock.now += 119
    assert not seconds()
    clock.now += 1
    assert seconds()
    assert not seconds()
    clock.now += 119
    seconds.reset()
    clock.now += 100
    assert not seconds()
    never = Seconds(0.0, clock)
    clock.now += 1e9
    assert not never()


def test_timer_shares() -> None:
    clock = FakeClock()
    timer = Timer(clock=clock)
    for _ in range(3):
        with timer["env"]:
            clock.now += 1
        with timer["update"]:
            clock.now += 2
        clock.now += 1
    assert timer.shares() == {"env": 3 / 12, "sample": 0.0, "update": 6 / 12, "eval": 0.0, "save": 0.0}
    timer.reset()
    clock.now += 4
    with timer["eval"]:
        clock.now += 4
    assert timer.shares() == {"env": 0.0, "sample": 0.0, "update": 0.0, "eval": 0.5, "save": 0.0}


def test_timer_counts_sections_that_raise() -> None:
    clock = FakeClock()
    timer = Timer(clock=clock)

    def fail() -> None:
        with timer["env"]:
            clock.now += 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert timer.shares()["env"] == 1.0


def test_timer_costs_little() -> None:
    timer = Timer()
    times = []
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(1000):
            with timer["env"]:
                pass
        times.append((time.perf_counter() - began) / 1000)
    assert np.min(times) < 5e-6


def test_a_number_falls_in_a_line_and_stays() -> None:
    epsilon = Linear(1.0, 0.05, 100)
    assert [epsilon(now) for now in (0, 50, 100, 10_000)] == pytest.approx([1.0, 0.525, 0.05, 0.05])
    assert Linear(0.3, 0.3, 0)(0) == 0.3
    assert Linear(1.0, 0.2, 0)(0) == 0.2
