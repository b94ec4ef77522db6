"""Run folders as train.py leaves them, written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldrl.compose import compose
from worldrl.config import save_config


def write_run(path: Path, records: Sequence[Mapping[str, Any]], **settings: Any) -> Path:
    """A run folder with these records, each of which should have ``frames``."""
    path.mkdir(parents=True)
    save_config(compose({"task": "walker_walk", "schedule.prefill": 10_000, **settings}), path)
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def make_run(path: Path, returns: Sequence[float | None], every: int = 1000, **settings: Any) -> Path:
    """A run that was evaluated every so many frames, from frame 0 on, with other records in between."""
    records: list[dict[str, Any]] = []
    for i, value in enumerate(returns):
        records.append({"frames": every * i, "updates": i, "eval/return": value, "eval/return_std": 1.0})
        records.append({"frames": every * i, "updates": i, "loss/kl": 3.0})
    return write_run(path, records, **settings)
