"""The settings of rows. This file does not import torch, so a report can read settings without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from worldrl.fields import Device, OneOf, PositiveShare, Range, Samples, Share

DEMO = "demo"  # as the name of a run folder: the trained agent that is part of the package; it has no replay


@dataclass(frozen=True)
class ReplayConfig:
    """Which rows are kept, and how they are drawn: windows of ``T`` rows, ``B`` of them for an update."""

    capacity: Annotated[int, Range(2, 1e12)] = 1_000_000  # rows (agent steps, and one more per episode) of all streams
    batch: Samples = 50  # B
    length: Annotated[int, Range(2, 100_000)] = 50  # T
    device: Device = "auto"  # auto: on the GPU when it fits


@dataclass(frozen=True)
class DataConfig:
    """Existing rows, named by ``data=PATH``."""

    name: str = ""  # a data set (Minari, D4RL, .npz) or a run folder, whose replay is used
    checksum: str = ""  # of the transformed rows; filled in by the run, which refuses other rows
    top: PositiveShare = 1.0  # keep only this share of the episodes, those with the highest returns
    reward: Annotated[str, OneOf("as_is", "minus_1", "antmaze", "min_max", "range_1000")] = "as_is"
    normalize: bool = False  # scale vectors to mean 0 and deviation 1 over the data, before the agent's belief
    low: float | tuple[float, ...] | None = None  # of all entries of the actions or of each, if the file lacks it
    high: float | tuple[float, ...] | None = None
    reference: tuple[float, float] | None = None  # returns that score 0 and 100; None: the file's own
    share: Share = 0.5  # of a batch that is drawn from the data when the agent acts
