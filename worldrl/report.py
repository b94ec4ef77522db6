"""Learning curves of any set of run folders in one picture: ``python -m worldrl.report RUN_DIR... --out curves.png``.

One panel per task, one colour per agent: the mean evaluation return over seeds with its 95 % interval (Student's t over
seeds), and each seed faintly. Runs are compared at the frames where all seeds of an agent were evaluated.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from worldrl.config import load_config
from worldrl.errors import UserError

Curve = tuple[np.ndarray, np.ndarray]  # frames (n,), evaluation returns (n,)


class Run(NamedTuple):
    """One run folder's evaluations."""

    task: str
    agent: str
    seed: int
    curve: Curve


def read_run(run_dir: Path) -> Run:
    """The evaluations of a run.

    Raises:
        UserError: no run there, a damaged line (named), or no evaluation yet.
    """
    config = load_config(run_dir)
    path = run_dir / "metrics.jsonl"
    points = []
    for number, line in enumerate(path.read_text().splitlines() if path.is_file() else [], 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not a JSON record; the file is damaged") from error
        if "eval/return" in record:
            points.append((record["frames"], record["eval/return"]))
    if not points:
        raise UserError(f"{run_dir} holds no evaluation; expected eval/return in {path.name} (eval.every above 0)")
    frames, returns = np.array(points, float).T
    return Run(config.task, config.agent, config.seed, (frames, returns))


def aggregate(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames where every curve has a point, the mean there, half the 95 % interval's width (0 for one seed)."""
    from scipy import stats

    common = sorted(set.intersection(*(set(frames.tolist()) for frames, _ in curves)))
    values = np.array([[returns[frames.tolist().index(x)] for x in common] for frames, returns in curves])  # (seeds, n)
    n = len(curves)
    half = stats.t.ppf(0.975, n - 1) * values.std(0, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(len(common))
    return np.array(common), values.mean(0), half


def draw(runs: Sequence[Run], path: Path, baselines: Mapping[str, float] | None = None) -> None:
    """Write the picture; ``baselines`` are horizontal lines by name, for instance the random policy's return."""
    from matplotlib.figure import Figure

    tasks = sorted({run.task for run in runs})
    figure = Figure(figsize=(5.5 * len(tasks), 3.8), layout="constrained", dpi=150)
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for colour, agent in enumerate(sorted({run.agent for run in runs if run.task == task})):
            _draw_agent(axes, agent, f"C{colour}", [r.curve for r in runs if (r.task, r.agent) == (task, agent)])
        for name, value in (baselines or {}).items():
            axes.axhline(value, color="grey", linestyle="--", linewidth=1, label=f"{name} {value:.0f}")
        axes.set(title=task, xlabel="environment frames", ylabel="evaluation return", ylim=(0, None))
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    figure.savefig(path)


def _draw_agent(axes: Any, agent: str, colour: str, curves: Sequence[Curve]) -> None:
    for frames, returns in curves:
        axes.plot(frames, returns, color=colour, alpha=0.25, linewidth=0.8)
    frames, mean, half = aggregate(curves)
    seeds = "seed" if len(curves) == 1 else "seeds"
    axes.plot(frames, mean, color=colour, label=f"{agent} ({len(curves)} {seeds})")
    axes.fill_between(frames, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)


def table(runs: Sequence[Run]) -> str:
    """Last and best evaluation return per run, as Markdown."""
    lines = ["| task | agent | seed | frames | last | best |", "|---|---|---|---|---|---|"]
    for run in sorted(runs, key=lambda r: (r.task, r.agent, r.seed)):
        frames, returns = run.curve
        cells = [run.task, run.agent, run.seed, f"{frames[-1]:.0f}", f"{returns[-1]:.1f}", f"{returns.max():.1f}"]
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """All of ``python -m worldrl.report``; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="worldrl.report", description="Learning curves of run folders in one picture."
    )
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR", help="folders that train.py wrote")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="the picture (default curves.png)")
    parser.add_argument("--random", type=float, help="draw a line at the random policy's return")
    options = parser.parse_args(argv)
    try:
        runs = [read_run(path) for path in options.run_dirs]
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    draw(runs, options.out, None if options.random is None else {"random": options.random})
    print(table(runs))
    print(f"picture: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
