"""What is in the belief? A linear probe from its features to the simulator's state.

Ridge regression in closed form, fitted on every other episode and scored on the rest by R squared, per coordinate and
per corruption: how much of the true state can be decoded linearly *where the agent sees that badly*. The penalty is the
one that predicts best when each fitting episode in turn is left out. The baseline is the same probe on the same model
with fresh weights: a random network, which also gets every action. Features are those of the posterior mean, because
the posterior draws of an untrained model are mostly noise and would make the baseline too easy to beat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from worldrl.acting.episodes import own_randomness
from worldrl.acting.recording import Condition, Episode, Filtered, Recorder
from worldrl.agent import Agent
from worldrl.errors import UserError, wrong
from worldrl.report.plots import number_of, picture

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # on features of unit variance, added to a mean over rows
UNTRAINED = 0x554E54  # seed key of the fresh weights
ENOUGH = 3  # episodes to fit on
STILL = 1e-6  # standard deviation below which a coordinate does not move


class Probe(NamedTuple):
    """y = (x - mean) weights + bias."""

    mean: np.ndarray  # (F,)
    weights: np.ndarray  # (F, D)
    bias: np.ndarray  # (D,)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(N, F) -> (N, D)"""
        return (x - self.mean) @ self.weights + self.bias


def fit(x: np.ndarray, y: np.ndarray, penalty: float) -> Probe:
    """Ridge regression of y (N, D) on x (N, F), scaled to unit variance: (X'X / N + penalty) w = X'y / N."""
    mean, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    z, bias = (x - mean) / scale, y.mean(0)
    weights = np.linalg.solve(z.T @ z / len(z) + penalty * np.eye(z.shape[1]), z.T @ (y - bias) / len(z))
    return Probe(mean, weights / scale[:, None], bias)


def r_squared(y: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """(N, D), (N, D) -> (D,): 1 is perfect, 0 as good as the mean; NaN for a coordinate that does not move."""
    total = np.square(y - y.mean(0)).sum(0)
    left = np.square(y - guess).sum(0)
    still = y.std(0) < STILL
    return np.where(still, np.nan, 1.0 - left / np.where(still, 1.0, total))


def choose_penalty(x: Sequence[np.ndarray], y: Sequence[np.ndarray]) -> float:
    """The penalty with the least error on each episode (T, F), (T, D) in turn, fitted on the others.

    Errors are in units of each coordinate's deviation; constant coordinates do not count. A single episode is split.
    """
    if len(x) == 1:
        x, y = np.array_split(x[0], 2), np.array_split(y[0], 2)
    scale = np.concatenate(y).std(0)
    scale = np.where(scale < STILL, np.inf, scale)

    def error(penalty: float) -> float:
        total = 0.0
        for i in range(len(x)):
            others = [j for j in range(len(x)) if j != i]
            probe = fit(np.concatenate([x[j] for j in others]), np.concatenate([y[j] for j in others]), penalty)
            total += float(np.square((y[i] - probe(x[i])) / scale).sum())
        return total

    return min(PENALTIES, key=error)


def score(episodes: Sequence[Episode], filtered: Sequence[Filtered]) -> np.ndarray:
    """R squared (D,) on the odd episodes of a probe fitted on the even ones.

    Raises:
        UserError: fewer than two episodes, or a task whose state cannot be read.
    """
    if len(episodes) < 2:
        raise wrong("episodes", len(episodes), "2 or more, to fit the probe and to score it")
    if not episodes[0].truth:
        raise UserError("task", "one that observes images only", "a state to compare the belief with")
    x = [f.feat.astype(np.float64) for f in filtered]
    y = [np.stack(list(e.truth.values()), -1) for e in episodes]
    probe = fit(np.concatenate(x[::2]), np.concatenate(y[::2]), choose_penalty(x[::2], y[::2]))
    return r_squared(np.concatenate(y[1::2]), probe(np.concatenate(x[1::2])))


def untrained(recorder: Recorder) -> Agent:
    """The same agent with fresh weights."""
    with own_randomness(recorder.seed, UNTRAINED):
        return Agent(recorder.config, recorder.agent.spec)


def measure(recorder: Recorder, by_kind: Mapping[str, Sequence[Condition]]) -> list[dict[str, Any]]:
    """One record per condition: R squared by coordinate, of the trained model and of the untrained one."""
    baseline = untrained(recorder)
    records = []
    for condition in (c for found in by_kind.values() for c in found):
        episodes = recorder.under(condition.config)
        record: dict[str, Any] = {"kind": condition.kind, "level": condition.level}
        for name, agent in (("trained", recorder.agent), ("untrained", baseline)):
            values = score(episodes, recorder.filtered(condition.config, agent, deterministic=True))
            record[name] = dict(zip(episodes[0].truth, values.tolist(), strict=True))
            record[f"{name}_median"] = float(np.nanmedian(values))
        records.append(record)
    return records


def told(value: float) -> str:
    """R squared in words: any value below 0 only means that the probe is worse than the mean."""
    return "undefined (nothing moves)" if np.isnan(value) else f"{value:.2f}" if value >= 0 else "below 0"


def doubt(episodes: int) -> str:
    """A remark on a probe with too few episodes, half of which it is fitted on."""
    fitted = -(-episodes // 2)
    return f"; fitted on {number_of('episode', {fitted})}: too few to tell" if fitted < ENOUGH else ""


def table(results: dict[str, Any]) -> str:
    """R squared of the trained (untrained) model, one row per coordinate and one column per condition, as Markdown."""
    records = results["records"]
    heads = [f"{record['kind']}@{record['level']:g}" for record in records]
    lines = [f"| coordinate | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name in records[0]["trained"]:
        cells = [f"{told(record['trained'][name])} ({told(record['untrained'][name])})" for record in records]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"R squared, trained (untrained){doubt(results['episodes'])}"]
    return "\n".join(lines) + "\n"


def draw(results: dict[str, Any], path: Path) -> None:
    """Left: every coordinate at level 0. Right: the median over coordinates against the level."""
    records = results["records"]
    names = list(records[0]["trained"])
    with picture(path, 10.0, max(3.6, 0.2 * len(names))) as figure:
        bars, lines = figure.subplots(1, 2)
        height = np.arange(len(names))
        for shift, which in ((-0.2, "trained"), (0.2, "untrained")):
            values = np.clip(list(records[0][which].values()), 0.005, 1)  # a sliver where it is 0 or below
            bars.barh(height + shift, values, 0.4, label=which)
        bars.set(yticks=height, yticklabels=names, xlim=(0, 1), xlabel="R squared at level 0 (below 0 drawn as 0)")
        bars.tick_params(axis="y", labelsize="small")
        bars.invert_yaxis()
        bars.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=2, frameon=False)  # not on the bars
        for i, kind in enumerate(dict.fromkeys(record["kind"] for record in records)):
            mine = [record for record in records if record["kind"] == kind]
            for which, style in (("trained", "o-"), ("untrained", "s:")):
                values = np.clip([record[f"{which}_median"] for record in mine], 0, 1)
                fill = f"C{i}" if which == "trained" else "none"
                levels, label = [record["level"] for record in mine], f"{kind}, {which}"
                lines.plot(levels, values, style, color=f"C{i}", markerfacecolor=fill, label=label)
        lines.set(xlabel="corruption level", ylabel="median R squared (below 0 drawn as 0)", ylim=(-0.02, 1))
        lines.set_title(doubt(results["episodes"]).removeprefix("; "), fontsize="medium")
        lines.legend(fontsize="small")
        lines.grid()
