"""Which floating-point type the networks run in. Decided once, here."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from worldrl.errors import UserError

CPU_INFO = Path("/proc/cpuinfo")
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86 CPUs, and of ARM's


@dataclass(frozen=True)
class Precision:
    """``autocast()`` wraps a whole update; the code of states, distributions, losses and targets keeps them float32."""

    device: torch.device
    name: str  # fp32 | bf16 | fp16

    def autocast(self) -> AbstractContextManager:
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.name == "bf16" else torch.float16)

    @property
    def note(self) -> str:
        """A note that is printed when training begins, or empty."""
        if self.name != "bf16" or self.device.type != "cpu" or has_bf16():
            return ""
        return "precision=bf16: found a CPU without bf16 instructions, where it is slow; expected precision=fp32"

    def scaler(self) -> torch.amp.GradScaler | None:
        return torch.amp.GradScaler(self.device.type) if self.name == "fp16" else None


def forget_casts() -> None:
    """Drop half-precision copies of weights that were made without a graph: older torch would give them to a loss."""
    if not torch.compiler.is_compiling():
        torch.clear_autocast_cache()


def choose_device(name: str, key: str = "device") -> torch.device:
    """``auto`` (the first GPU if there is one), ``cpu``, ``cuda`` (the first) or ``cuda:N`` as a device with its index.

    Raises:
        UserError: a GPU that does not exist.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        fix = f"use {key}=cpu or install a CUDA build of torch"
        raise UserError(f"{key}={name}", "no CUDA GPU", "one that torch sees", fix)
    index, count = torch.device("cuda" if name == "auto" else name).index or 0, torch.cuda.device_count()
    if index >= count:
        raise UserError(f"{key}={name}", f"{count} CUDA GPU{'s' * (count > 1)}, counted from cuda:0")
    return torch.device("cuda", index)


def has_bf16() -> bool:
    """Whether this CPU has bf16 instructions; others convert the numbers back and forth."""
    return not BF16_FLAGS.isdisjoint(cpu_info().split())


def cpu_info() -> str:
    """Linux's description of the first cores; empty on other systems."""
    if not CPU_INFO.is_file():
        return ""
    with CPU_INFO.open(encoding="utf-8", errors="replace") as lines:
        return lines.read(10_000)


def choose_precision(name: str, device: torch.device, pixels: bool) -> Precision:
    """``auto``: bf16 (or scaled fp16 where the GPU lacks bf16) for pixel tasks on CUDA, float32 elsewhere.

    On a CPU bf16 is used only on request: that agents learn as well with it was seen on two tasks only (docs/speed.md).
    """
    if name == "auto":
        half = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        name = half if device.type == "cuda" and pixels else "fp32"
    if name == "fp16" and device.type != "cuda":
        raise UserError("precision=fp16", f"the device {device.type}", "a CUDA GPU", "use precision=fp32")
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for the float32 that remains
    return Precision(device, name)
