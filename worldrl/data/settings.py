"""The settings of the replay. This file does not import torch, so that a report reads settings without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from worldrl.fields import Device, Range, Samples


@dataclass(frozen=True)
class ReplayConfig:
    """What is kept of the past, and how it is drawn: windows of ``T`` rows, ``B`` of them for an update."""

    capacity: Annotated[int, Range(2, 1e12)] = 1_000_000  # rows (agent steps, and one more per episode) of all streams
    batch: Samples = 50  # B
    length: Annotated[int, Range(2, 100_000)] = 50  # T
    device: Device = "auto"  # auto: on the GPU when it fits
