"""The clock and the yardstick."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.commands.bench.conftest import CPU
from worldrl.commands.bench import measuring
from worldrl.nn import products


class Clock:
    """Time passes only while something is being run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(measuring.time, "perf_counter", lambda: self.now)

    def takes(self, *seconds: float) -> Callable[[], None]:
        """Something that takes so long, call after call."""
        left = iter(seconds)

        def run() -> None:
            self.now += next(left)

        return run


def test_times_are_medians_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Clock(monkeypatch).takes(9, 9, 1, 3, 2)
    assert measuring.milliseconds(run, CPU, repeats=3) == pytest.approx(2000)


def test_ratios_are_those_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that grows slower does not change them: both sides of a turn are as slow."""
    clock = Clock(monkeypatch)
    runs = {"ours": clock.takes(9, 6, 9, 30), "theirs": clock.takes(9, 2, 3, 10)}
    ms, ratio = measuring.in_turns(runs, CPU, repeats=3)
    assert ratio == {"ours": 1.0, "theirs": pytest.approx(3.0)}
    assert ms == {"ours": pytest.approx(9000), "theirs": pytest.approx(3000)}


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with measuring.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_the_yardstick_is_the_faster_library(monkeypatch: pytest.MonkeyPatch) -> None:
    before = products.used()
    rates = {"torch": 100.0, "onednn": 200.0}
    monkeypatch.setattr(measuring, "_matmul_rate", lambda device, precision, library: rates[library])
    monkeypatch.setattr(products, "available", lambda: True)
    assert measuring.yardstick(CPU, "fp32") == ("onednn", 200.0)
    assert measuring.yardstick(CPU, "bf16") == ("torch", 100.0)
    rates["torch"] = 300.0
    assert measuring.yardstick(CPU, "fp32") == ("torch", 300.0)
    assert products.used() == before


def test_every_library_is_measured_by_its_own_products(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(measuring, "MATMUL_SIZE", {"cpu": 64})
    monkeypatch.setattr(products, "linear", lambda x, w: taken.append(products.used()))
    assert measuring.yardstick(CPU, "fp32")[1] > 0
    assert set(taken) == {"torch", *(["onednn"] if products.available() else [])}
