"""Devices by name, on a machine with GPUs that torch is made to believe in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from worldrl.errors import UserError
from worldrl.nn import precision
from worldrl.nn.precision import choose_device, choose_precision

CPU = torch.device("cpu")


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


@pytest.fixture
def cpu_info(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """What the kernel says of the first core: its flags, or nothing."""
    monkeypatch.setattr(precision, "CPU_INFO", path := tmp_path / "cpuinfo")
    if request.param is not None:
        path.write_text(f"processor\t: 0\nflags\t\t: fpu {'x' * 2000} {request.param} sse\n\nprocessor\t: 1\n")


@pytest.mark.parametrize("cpu_info", ["", "avx512_bf16 amx_bf16"], indirect=True)
@pytest.mark.parametrize("pixels", [True, False])
def test_auto_is_float32_on_every_cpu(cpu_info: None, pixels: bool) -> None:
    assert choose_precision("auto", CPU, pixels).name == "fp32"


@pytest.mark.parametrize(
    ("cpu_info", "name", "noted"),
    [
        ("avx512f", "bf16", True),
        ("avx512_bf16", "bf16", False),
        ("amx_bf16", "bf16", False),
        ("asimd bf16", "bf16", False),
        (None, "bf16", True),
        ("avx512f", "fp32", False),
    ],
    indirect=["cpu_info"],
)
def test_bf16_on_a_cpu_without_it_is_noted_and_taken(cpu_info: None, name: str, noted: bool) -> None:
    chosen = choose_precision(name, CPU, pixels=True)
    assert chosen.name == name
    assert ("bf16" in chosen.note) is noted
    assert "\n" not in chosen.note


@pytest.mark.parametrize(("units", "name"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_that_only_emulates_bf16_takes_fp16(units: bool, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = lambda including_emulation=True: units or including_emulation  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", asked)
    assert choose_precision("auto", torch.device("cuda", 0), pixels=True).name == name


@pytest.mark.parametrize("cpu_info", [""], indirect=True)
def test_a_gpu_needs_no_flag_of_the_cpu(cpu_info: None) -> None:
    assert not choose_precision("bf16", torch.device("cuda", 0), pixels=True).note
