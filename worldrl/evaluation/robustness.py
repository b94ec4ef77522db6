"""The robustness grid, ``eval.py RUN_DIR --corruption KIND... --level X...``: one agent under kinds x levels of noise.

Every cell of the grid plays the same episodes, those of ``eval.py --seed``; cells differ only by the noise on their
observations, so even a few episodes can distinguish them (``evaluation.playing``).
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from worldrl.acting.episodes import own_randomness
from worldrl.acting.film import Film
from worldrl.acting.video import check_video
from worldrl.agent import Agent, require_imputation
from worldrl.config import Config, config_to_dict, flatten
from worldrl.envs.corruption import KINDS, CorruptionConfig, active_levels, check_level, is_active
from worldrl.errors import UserError, check_out, counted, unknown
from worldrl.evaluation.playing import Env, Job, Played, cell_noise, make_clean_envs, play_grid
from worldrl.report.grids import CLEAN, Cell, draw_levels
from worldrl.report.plots import number_of
from worldrl.runs.folder import GRID
from worldrl.runs.trained import check_playable, load_agent
from worldrl.statistics import mean_and_deviation, mean_interval
from worldrl.terminal import say, to_json

GRID_FILES = (GRID, "robustness.csv", "robustness.png")


def evaluate_grid(
    run_dir: str | Path,
    corruptions: Sequence[str],
    levels: Sequence[float] = (),
    seeds: Sequence[int] = (1000,),
    episodes: int = 10,
    num_envs: int = 8,
    groups: Sequence[str] = (),
    checkpoint: str = "last",
    explore: bool = False,
    device: str = "auto",
    out: Path | None = None,
    video: bool = False,
    known_dropout: bool = False,
) -> dict[str, Any]:
    """Play the grid, write its files, print its table. The run's own corruption is switched off.

    Args:
        corruptions: kinds of ``envs.corruption.KINDS``.
        levels: above 0, each for every kind; the clean cell is always included, once.
        seeds: of the episodes, not of the run; each plays ``episodes`` of them.
        num_envs: environments side by side.
        groups: the sensors to corrupt, by name; empty for all.
        checkpoint: as ``evaluate_run``.
        explore: as ``evaluate_run``.
        device: as ``evaluate_run``.
        out: the folder for the files, by default ``RUN_DIR/robustness``; those of an earlier grid are replaced.
        video: make a video of the worst level of each kind, with the clean picture next to the agent's.
        known_dropout: tell the belief which readings are lost. Episodes and noise are the same as without it.

    Returns:
        the contents of ``robustness.json``.

    Raises:
        UserError: for arguments, run folder, checkpoint, environment or output folder.
    """
    run_dir, cells = Path(run_dir), grid_cells(corruptions, levels)
    if len(set(seeds)) < len(seeds):
        raise UserError("--seeds", " ".join(map(str, seeds)), "each number once")
    agent, config = load_agent(run_dir, checkpoint, device, say)
    check_playable(run_dir, config)
    if known_dropout:
        require_imputation(agent.model, "--known-dropout")
    base = CorruptionConfig(groups=tuple(groups), burst_length=config.env.corruption.burst_length)
    for cell in cells:
        cell_noise(cell, base, agent.spec)
    out = run_dir / "robustness" if out is None else out
    check_out(out)
    if video:
        check_video(out / "x.mp4")
    jobs = [Job(cell, seed, episode) for cell in cells for seed in seeds for episode in range(episodes)]
    films = {Job(cell, seeds[0], 0): Film(str(cell)) for cell in worst_cells(cells)} if video else {}
    began = time.perf_counter()
    with (
        make_clean_envs(config.env, config.task, min(num_envs, len(jobs)), agent.spec) as envs,
        own_randomness(seeds[0]),
    ):
        played = _play_with_bar(agent, envs, jobs, base, explore, films, known_dropout)
    result = {
        "task": config.task,
        "agent": config.agent,
        "checkpoint": checkpoint,
        "updates": agent.updates,
        "action": "sample" if explore else "mode",
        "trained_with": trained_with(config),
        "groups": list(groups),
        "known_dropout": known_dropout,
        "seeds": list(seeds),
        "episodes": episodes,
        "seconds": time.perf_counter() - began,
        "frames": sum(p.frames for p in played),
        "settings": flatten(config_to_dict(config)),
        **summarise(played),
    }
    files = _write_files(out, result, played, films)
    _print(result, out, files)
    return result


# --- the grid ---------------------------------------------------------------------------------------------------------


def grid_cells(corruptions: Sequence[str], levels: Sequence[float]) -> list[Cell]:
    """The clean cell, then every kind at every level above 0, in the order given, each once.

    Raises:
        UserError: a kind that does not exist, or a level outside the range of a kind.
    """
    above = [level for level in dict.fromkeys(levels) if level != 0]
    if not above:
        expected = "some, such as --level 0.01 0.05; level 0, clean, is always included"
        raise UserError("--level", "none above 0", expected)
    for kind in corruptions:
        if kind not in KINDS:
            raise unknown("corruption", kind, KINDS)
        for level in above:
            check_level(f"--level for {kind}", kind, level)
    texts = [f"{level:g}" for level in above]
    if len(set(texts)) < len(texts):
        found = ", ".join(map(str, above))
        raise UserError("--level", found, "levels that differ in their first six digits, which name the results")
    return [CLEAN, *(Cell(kind, level) for kind in dict.fromkeys(corruptions) for level in above)]


def worst_cells(cells: Sequence[Cell]) -> list[Cell]:
    """The highest level of each kind."""
    return list({cell.corruption: cell for cell in sorted(cells[1:], key=lambda cell: cell.level)}.values())


def trained_with(config: Config) -> dict[str, float]:
    """Kinds and levels of the corruption in the run's training."""
    corruption = config.env.corruption
    return active_levels(corruption) if is_active(corruption, training=True) else {}


def _play_with_bar(
    agent: Agent,
    envs: Sequence[Env],
    jobs: Sequence[Job],
    base: CorruptionConfig,
    explore: bool,
    films: Mapping[Job, Film],
    known_dropout: bool,
) -> list[Played]:
    """``play_grid`` with a bar on the terminal, if there is one."""
    console = Console(stderr=True)
    columns = (BarColumn(bar_width=20), TextColumn("{task.description}"), TextColumn("left"), TimeRemainingColumn())
    began = time.perf_counter()

    # Drawn from tell(), because rich's own thread prints an error if the terminal closes.
    with Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal) as bar:
        task, drawn = bar.add_task("", total=len(jobs)), 0.0

        def tell(done: float, frames: int) -> None:
            nonlocal drawn
            now = time.perf_counter()
            if now - drawn > 0.2 or done == len(jobs):
                drawn, speed = now, frames / (now - began)
                text = f"episodes {int(done)}/{len(jobs)}  {speed:.0f} frames/s"
                bar.update(task, completed=done, description=text, refresh=True)

        return play_grid(agent, envs, jobs, base, explore, films, known_dropout, tell)


# --- results ----------------------------------------------------------------------------------------------------------


def summarise(played: Sequence[Played]) -> dict[str, Any]:
    """``cells`` with their statistics, and ``metrics`` under the keys of a log.

    ``interval`` is half the width of the 95 % interval of the mean return, by Student's t over the episodes of all
    seeds: given the agent, they are independent draws. None, like ``return_std``, for a single episode.
    """
    cells: list[dict[str, Any]] = []
    metrics: dict[str, float] = {}
    for cell in dict.fromkeys(p.job.cell for p in played):
        mine = [p for p in played if p.job.cell == cell]
        returns = [p.episode_return for p in mine]
        mean, half = (float(x) for x in mean_interval(returns))
        _, deviation = mean_and_deviation(returns)
        metrics[f"robust/{cell}/return"] = mean
        cells.append(
            {
                "corruption": cell.corruption,
                "level": cell.level,
                "return": mean,
                "return_std": None if math.isnan(deviation) else deviation,
                "interval": None if math.isnan(half) else half,
                "returns": returns,
                "frames": [p.frames for p in mine],
                "cut": sum(p.cut for p in mine),
            }
        )
    return {"cells": cells, "metrics": metrics}


def draw(result: dict[str, Any], path: Path) -> None:
    """Return against level, a panel for each kind: the mean over episodes with its band, episodes faintly."""
    returns = {Cell(cell["corruption"], cell["level"]): cell["returns"] for cell in result["cells"]}
    episodes = number_of("episode", {len(result["cells"][0]["returns"])})
    draw_levels(path, {result["task"]: {result["agent"]: returns}}, {result["agent"]: episodes})


def _write_files(out: Path, result: dict[str, Any], played: Sequence[Played], films: Mapping[Job, Film]) -> list[str]:
    """Write everything, the numbers first, in place of an earlier grid; returns the files' names."""
    for old in out.glob("*@*.mp4"):
        if old.stem.partition("@")[0] in (CLEAN.corruption, *KINDS):
            old.unlink()
    as_json, as_csv, as_png = (out / name for name in GRID_FILES)
    as_json.write_text(to_json(result), encoding="utf-8")
    with as_csv.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("corruption", "level", "seed", "episode", "return", "frames", "known_dropout"))
        told = int(result["known_dropout"])
        writer.writerows((*p.job.cell, p.job.seed, p.job.episode, p.episode_return, p.frames, told) for p in played)
    draw(result, as_png)
    videos = {f"{job.cell}.mp4": film for job, film in films.items()}
    for name, film in videos.items():
        film.save(out / name)
    return [*GRID_FILES, *videos]


def _print(result: dict[str, Any], out: Path, files: Sequence[str]) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    told = "; the belief is told which readings are lost" if result["known_dropout"] else ""
    console.print(
        f"{result['agent']} on {result['task']}, checkpoint {result['checkpoint']}, {_training_noise(result)}{told}"
    )
    console.print(table(result))
    if cut := sum(cell["cut"] for cell in result["cells"]):
        console.print(f"the environment cut {counted(cut, 'episode')} short, by a step that failed")
    console.print(f"{result['frames'] / result['seconds']:.0f} frames/s; in {out}: {', '.join(files)}")


def _training_noise(result: dict[str, Any]) -> str:
    noise = ", ".join(f"{kind} {level:g}" for kind, level in result["trained_with"].items())
    return f"trained with {noise} (switched off here: level 0 is clean)" if noise else "trained without noise"


def table(result: dict[str, Any]) -> Table:
    """The cells with mean return, its 95 % interval and deviation, and its share of the clean return."""
    clean = result["cells"][0]["return"]
    shown = Table("corruption")
    for name in ("level", "return", "95 %", "std (n - 1)", "of clean", "episodes"):
        shown.add_column(name, justify="right")
    for cell in result["cells"]:
        alone = len(cell["returns"]) == 1
        half = "no interval" if alone else f"± {cell['interval']:.1f}"
        deviation = "no spread" if alone else f"{cell['return_std']:.1f}"
        share = f"{100 * cell['return'] / clean:.0f} %" if clean > 0 else "-"
        numbers = (f"{cell['level']:g}", f"{cell['return']:.1f}", half, deviation, share)
        shown.add_row(cell["corruption"], *numbers, str(len(cell["returns"])))
    return shown
