"""Which floating-point type the networks run in. Decided once, here."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from worldrl.errors import UserError


@dataclass(frozen=True)
class Precision:
    """``autocast()`` wraps a whole update; states, distributions, losses and targets stay float32 by their own code."""

    device: torch.device
    name: str  # fp32 | bf16 | fp16

    def autocast(self) -> AbstractContextManager:
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.name == "bf16" else torch.float16)

    def scaler(self) -> torch.amp.GradScaler | None:
        return torch.amp.GradScaler(self.device.type) if self.name == "fp16" else None


def choose_device(name: str) -> torch.device:
    """``auto`` (the first GPU if there is one), ``cpu``, ``cuda`` (the first) or ``cuda:N`` as a device with its index.

    Raises:
        UserError: a GPU that is not there.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        fix = "use device=cpu or install a CUDA build of torch"
        raise UserError(f"device={name}", "no CUDA GPU", "one that torch sees", fix)
    index, count = torch.device("cuda" if name == "auto" else name).index or 0, torch.cuda.device_count()
    if index >= count:
        raise UserError(f"device={name}", f"{count} CUDA GPU{'s' * (count > 1)}, counted from cuda:0")
    return torch.device("cuda", index)


def choose_precision(name: str, device: torch.device, pixels: bool) -> Precision:
    """``auto``: bf16 (or scaled fp16 where the GPU lacks bf16) for pixel tasks on CUDA, float32 elsewhere."""
    if name == "auto":
        half = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp16"
        name = half if device.type == "cuda" and pixels else "fp32"
    if name == "fp16" and device.type != "cuda":
        raise UserError("precision=fp16", f"the device {device.type}", "a CUDA GPU", "use precision=fp32")
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for the float32 that remains
    return Precision(device, name)
