"""Shared toys. One thread and fixed seeds, so that every number below is the same on every machine of a kind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from worldrl import trust
from worldrl.types import Batch, EnvSpec, ObsSpec, box

STATE_SPEC = EnvSpec("toy", {"state": ObsSpec((5,), "float32")}, box(2))
PIXEL_SPEC = EnvSpec("toy", {"pixels": ObsSpec((64, 64, 3), "uint8")}, box(2))
BOTH_SPEC = EnvSpec("toy", {**PIXEL_SPEC.obs, **STATE_SPEC.obs}, box(2))


@pytest.fixture(scope="session", autouse=True)
def _own_toys() -> None:
    """Run folders of these tests name their toys."""
    trust.allow("tests")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """A random slice: ``make_batch(spec, b, t)``, one episode border in row ``border`` of window 0 if asked."""

    def build(spec: EnvSpec, b: int = 4, t: int = 6, border: int | None = None) -> Batch:
        obs = {
            key: torch.randint(0, 256, (b, t, *o.shape), dtype=torch.uint8)
            if o.dtype == "uint8"
            else torch.randn(b, t, *o.shape)
            for key, o in spec.obs.items()
        }
        action = torch.rand(b, t, spec.action_dim) * 2 - 1
        is_first, reward = torch.zeros(b, t), torch.randn(b, t)
        if border is not None:
            is_first[0, border] = 1.0
            action[0, border] = 0.0
            reward[0, border] = 0.0
        return Batch(obs, action, reward, is_first, torch.zeros(b, t))

    return build
