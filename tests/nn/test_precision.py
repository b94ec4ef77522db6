"""Devices by name, on a machine with GPUs that torch is made to believe in."""

from __future__ import annotations

import pytest
import torch

from worldrl.errors import UserError
from worldrl.nn.precision import choose_device


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)


@pytest.mark.parametrize(
    ("gpus", "name", "device"),
    [
        (0, "auto", "cpu"),
        (2, "auto", "cuda:0"),
        (2, "cuda", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
        (2, "cpu", "cpu"),
    ],
    indirect=["gpus"],
)
def test_a_gpu_has_its_index(gpus: None, name: str, device: str) -> None:
    """``torch.cuda.set_device`` and comparisons with ``tensor.device`` want it."""
    assert choose_device(name) == torch.device(device)
    assert str(choose_device(name)) == device


@pytest.mark.parametrize(
    ("gpus", "name", "says"),
    [(0, "cuda", "no CUDA GPU"), (2, "cuda:2", "2 CUDA GPUs, counted from cuda:0")],
    indirect=["gpus"],
)
def test_a_gpu_that_is_not_there_is_refused(gpus: None, name: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        choose_device(name)
    assert (caught.value.where, caught.value.found) == (f"device={name}", says)
