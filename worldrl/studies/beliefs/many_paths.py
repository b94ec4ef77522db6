"""Does it pay to act on the whole belief? Returns with and without averaging over filtered paths.

The single path acts on the mode of the policy at one draw of the state; the marginal policy acts on the mean of the
modes at K + 1 draws, each of a path of its own. Episode i of both has the same start and the same noise on its
observations.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldrl.acting.episodes import AgentActs, check_environment, own_randomness, run_episodes
from worldrl.acting.recording import Condition, shown_corruption
from worldrl.agent import Agent
from worldrl.config import Config
from worldrl.envs import make_envs
from worldrl.envs.corruption import CorruptionConfig
from worldrl.errors import UserError, wrong
from worldrl.report.grids import level_label
from worldrl.report.plots import COLOURS, MARKERS, draw_band, limits, picture, spread_of
from worldrl.statistics import mean_interval


def measure(
    agent: Agent, by_kind: Mapping[str, Sequence[Condition]], episodes: int, seed: int, particles: int
) -> list[dict[str, Any]]:
    """One record per condition: both lists of returns, and the mean of their differences with its 95 % interval.

    Raises:
        UserError: particles cannot make a difference, or their number is 0.
    """
    if particles < 1:
        raise wrong("particles", particles, "1 or more in addition to the single path")
    if _shapes(agent, particles) == _shapes(agent, 0):
        raise UserError("belief", f"{type(agent.model).__name__}, which is a point", "one with paths to average over")
    if agent.head.needs.actor_input == "context":
        found = f"{type(agent.head).__name__}, which acts on the context"
        raise UserError("head", found, "one that acts on the paths")
    known: dict[CorruptionConfig, dict[int, list[float]]] = {}
    records = []
    for condition in (c for found in by_kind.values() for c in found):
        key = shown_corruption(condition.config)
        if key not in known:
            known[key] = {k: _returns(agent, condition.config, episodes, seed, k) for k in (0, particles)}
        single, marginal = known[key][0], known[key][particles]
        gain, half = mean_interval(np.subtract(marginal, single))
        records.append(
            {
                "kind": condition.kind,
                "level": condition.level,
                "single": single,
                "marginal": marginal,
                "gain": float(gain),
                "gain_interval": float(half),
            }
        )
    return records


def _shapes(agent: Agent, particles: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the belief's state, which has an axis of paths if there is more than one."""
    return {name: tuple(value.shape) for name, value in agent.initial(1, particles).items()}


def _returns(agent: Agent, config: Config, episodes: int, seed: int, particles: int) -> list[float]:
    with (
        contextlib.closing(make_envs(config.env, config.task, seed, num_envs=1, training=False)) as envs,
        own_randomness(seed),
    ):
        check_environment(agent.spec, envs.spec)
        return run_episodes(envs, AgentActs(agent, 1, particles=particles), episodes).returns


def draw(results: dict[str, Any], path: Path) -> None:
    """Mean returns by level with their bands, one panel per kind, each episode faintly."""
    records = results["records"]
    kinds = list(dict.fromkeys(record["kind"] for record in records))
    lines = {"single": "one path", "marginal": f"mean over {results['particles'] + 1}"}
    episodes = len(records[0]["single"])
    note = f"{spread_of([str(episodes)])}, {episodes} episodes" if episodes > 1 else "one episode: no interval"
    with picture(path, 4.5 * len(kinds), 3.6) as figure:
        panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
        panels[0].set(
            ylabel="return (sum of rewards)", ylim=limits(record[name] for record in records for name in lines)
        )
        for kind, axes in zip(kinds, panels, strict=True):
            mine = [record for record in records if record["kind"] == kind]
            for i, (name, label) in enumerate(lines.items()):
                returns = np.transpose([record[name] for record in mine])
                look = {"color": COLOURS[i], "marker": MARKERS[i], "label": label}
                draw_band(axes, [record["level"] for record in mine], returns, look)
            axes.set(title=kind, xlabel=level_label(kind))
            axes.legend(title=note, title_fontsize="small")
            axes.grid()
