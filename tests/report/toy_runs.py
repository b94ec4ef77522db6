"""Run folders as train.py leaves them, written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldrl.compose import compose
from worldrl.config import Config, config_from_dict, config_to_dict, flatten
from worldrl.runs.settings import save_config


def write_run(path: Path, records: Sequence[Mapping[str, Any]], **settings: Any) -> Path:
    """A run folder with these records, each of which should have ``frames``."""
    return _write(path, records, compose({"task": "walker_walk", "schedule.prefill": 10_000, **settings}))


def _write(path: Path, records: Sequence[Mapping[str, Any]], config: Config) -> Path:
    path.mkdir(parents=True)
    save_config(config, path)
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def make_run(path: Path, returns: Sequence[float | None], every: int = 1000, **settings: Any) -> Path:
    """A run that was evaluated every so many frames, from frame 0 on, with other records in between."""
    records: list[dict[str, Any]] = []
    for i, value in enumerate(returns):
        records.append({"frames": every * i, "updates": i, "eval/return": value, "eval/return_std": 1.0})
        records.append({"frames": every * i, "updates": i, "loss/kl": 3.0})
    return write_run(path, records, **settings)


def make_phases(path: Path, data: Sequence[float], acting: Sequence[float] = (), **settings: Any) -> Path:
    """A run that learned from data and then acted, evaluated every 100 updates (from 0 on) and every 1000 frames."""
    updates = 100 * (len(data) - 1)
    points = [(0, 100 * i, "data", value) for i, value in enumerate(data)]
    points += [(1000 * i, updates + 10 * i, "acting", value) for i, value in enumerate(acting, 1)]
    records = [
        {"frames": f, "agent_steps": f, "updates": u, "phase": phase, "eval/return": value, "eval/score": value / 10}
        for f, u, phase, value in points
    ]
    lengths = {"updates": updates, "frames": 1000 * len(acting), "eval.every": 100}
    data_set = {"data": "d/walks.npz", "data.checksum": "c"}  # there is none, so that it cannot be composed
    usual = flatten(config_to_dict(compose({"task": "walker_walk"})))
    return _write(path, records, config_from_dict({**usual, **data_set, **lengths, **settings}))
