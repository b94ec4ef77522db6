"""Does the belief know when it sees badly? Its entropy and its surprise under increasingly bad observations.

All levels of a kind show the same episodes, so a change against level 0 is a paired difference over episodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldrl.acting.episodes import own_randomness
from worldrl.acting.recording import Condition, Episode, Recorder
from worldrl.agent import Agent
from worldrl.errors import UserError
from worldrl.report.grids import level_label
from worldrl.report.plots import calm, picture
from worldrl.statistics import mean_interval
from worldrl.types import Surprises

LABELS = {"entropy": "belief entropy (nats)", "kl": "KL of posterior from prior (nats)"}


def measure(recorder: Recorder, by_kind: Mapping[str, Sequence[Condition]]) -> list[dict[str, Any]]:
    """One record per condition: means over rows and episodes, their change against level 0, and the mean by row.

    ``kl`` is included if the belief model has it (``Surprises``).

    Raises:
        UserError: the belief is a point.
    """
    records = []
    for found in by_kind.values():
        reference: dict[str, np.ndarray] = {}
        for condition in found:
            curves = _curves(recorder, condition)
            if not any(np.any(curve) for episodes in curves.values() for curve in episodes):
                name = type(recorder.agent.model).__name__
                raise UserError("belief", f"{name}, which is a point", "one with entropy or surprise to measure")
            means = {name: np.array([curve.mean() for curve in episodes]) for name, episodes in curves.items()}
            reference = reference or means
            record: dict[str, Any] = {"kind": condition.kind, "level": condition.level}
            for name, values in means.items():
                change, half = mean_interval(values - reference[name])
                record[name] = float(values.mean())
                record[f"{name}_change"], record[f"{name}_change_interval"] = float(change), float(half)
                record[f"{name}_by_row"] = by_row(curves[name]).tolist()
            records.append(record)
    return records


def _curves(recorder: Recorder, condition: Condition) -> dict[str, list[np.ndarray]]:
    """By quantity, one value per row of each episode."""
    curves = {"entropy": [filtered.entropy for filtered in recorder.filtered(condition.config)]}
    if isinstance(recorder.agent.model, Surprises):
        episodes = recorder.under(condition.config)
        curves["kl"] = [surprise(recorder.agent, episode, recorder.seed) for episode in episodes]
    return curves


def surprise(agent: Agent, episode: Episode, seed: int) -> np.ndarray:
    """(T,) nats; the noise depends only on the seed."""
    assert isinstance(agent.model, Surprises)
    with own_randomness(seed, episode.number):
        batch = episode.batch(agent.device)
        return agent.model.surprise(batch._replace(obs=agent.normalized(batch.obs)))[0].cpu().numpy()


def by_row(curves: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over the episodes that have the row."""
    total, count = np.zeros(max(map(len, curves))), np.zeros(max(map(len, curves)))
    for curve in curves:
        total[: len(curve)] += curve
        count[: len(curve)] += 1
    return total / count


def draw(results: dict[str, Any], path: Path) -> None:
    """One column per kind: entropy and KL by row, a line per level."""
    records = results["records"]
    kinds = list(dict.fromkeys(record["kind"] for record in records))
    names = [name for name in LABELS if name in records[0]]
    with picture(path, 5.0 * len(kinds), 3.2 * len(names)) as figure:
        grid = figure.subplots(len(names), len(kinds), squeeze=False, sharex=True, sharey="row")
        for name, panels in zip(names, grid, strict=True):
            panels[0].set_ylabel(LABELS[name])
            for kind, axes in zip(kinds, panels, strict=True):
                mine = [record for record in records if record["kind"] == kind]
                for i, record in enumerate(mine):
                    label = f"{record['level']:g}: mean {record[name]:.2f}"
                    axes.plot(record[f"{name}_by_row"], label=label, color=f"C{i}", linewidth=1)
                axes.set(title=kind, xlabel="row (agent steps)" if name == names[-1] else "")
                axes.legend(fontsize="small", title=level_label(kind), title_fontsize="small")
                axes.grid()
            calm(panels[0])
