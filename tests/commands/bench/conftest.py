"""The smallest sizes at which everything is still measured."""

from __future__ import annotations

import pytest
import torch

from worldrl.commands.bench import measuring, runs, updates
from worldrl.commands.bench.measuring import Bench

SMALL = {"belief.depth": 2, "belief.deter": 8, "belief.hidden": 8, "head.units": 8}
CPU = torch.device("cpu")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(measuring, "MATMUL_SIZE", {"cpu": 64})
    monkeypatch.setattr(runs, "REPLAY_ROWS", 2_000)
    monkeypatch.setattr(runs, "FILE_STEPS", 2_500)
    monkeypatch.setattr(runs, "ENV_SECONDS", 0.05)
    monkeypatch.setattr(updates, "PRECISION_UPDATES", 3)
    monkeypatch.setattr(updates, "COSTS", {key: (a, {**SMALL, **s}, m) for key, (a, s, m) in updates.COSTS.items()})
    return Bench(CPU, ["sac"], [(2, 4)], [1], 1, "cartpole_balance")
