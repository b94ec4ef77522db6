"""Evaluate the agent of a run folder: the work of ``eval.py``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from worldrl.acting.episodes import AgentActs, check_environment, own_randomness, run_episodes
from worldrl.acting.video import check_video
from worldrl.config import Config
from worldrl.envs import make_envs
from worldrl.envs.make import EnvConfig
from worldrl.errors import UserError, check_writable, wrong
from worldrl.runs.trained import check_playable, load_agent
from worldrl.statistics import mean_and_deviation
from worldrl.terminal import say, to_json

SILENCE = 10.0  # seconds


def evaluate_run(
    run_dir: str | Path,
    episodes: int = 10,
    seed: int = 1000,
    checkpoint: str = "last",
    explore: bool = False,
    video: Path | None = None,
    device: str = "auto",
    json_path: Path | None = None,
    target_return: float | None = None,
) -> dict[str, Any]:
    """Evaluate a trained agent over fresh seeded episodes and return the result.

    ``target_return`` is the return to ask the policy for, if it was trained with ``env.target_return``.
    """
    run_dir = Path(run_dir)
    if episodes < 1:
        raise wrong("--episodes", episodes, "1 or more")
    if video is not None:
        check_video(video)
    for path in (video, json_path):
        if path is not None:
            check_writable(path)
    agent, config = load_agent(run_dir, checkpoint, device, say)
    check_playable(run_dir, config)
    env = config.env if target_return is None else _asked_for(config, target_return)
    envs = make_envs(env, config.task, seed, num_envs=1, training=False)
    try:
        check_environment(agent.spec, envs.spec)
        with own_randomness(seed):
            played = run_episodes(envs, AgentActs(agent, 1, explore), episodes, video=video, tell=_telling(episodes))
    finally:
        envs.close()
    mean, deviation = mean_and_deviation(played.returns)
    result = {
        "task": config.task,
        "agent": config.agent,
        "checkpoint": checkpoint,
        "updates": agent.updates,
        "seed": seed,
        "action": "sample" if explore else "mode",
        "target_return": env.target_return,
        "return": mean,
        "return_std": deviation,
        "returns": played.returns,
        "cut": played.cut,
    }
    if json_path is not None:  # the numbers first
        json_path.write_text(to_json(result))
    if played.video is not None:
        played.video.save()
    return result


def _telling(total: int, clock: Callable[[], float] = time.monotonic) -> Callable[[int, int], None]:
    """Says after every ``SILENCE`` seconds how many episodes have ended."""
    said = clock()

    def tell(episodes: int, frames: int) -> None:
        nonlocal said
        if clock() - said >= SILENCE:
            said = clock()
            say(f"{episodes}/{total} episodes, {frames:,} frames of the next")

    return tell


def _asked_for(config: Config, target: float) -> EnvConfig:
    """The environment settings with another target return."""
    if config.env.target_return is None:
        found = "a run whose policy takes no target return"
        raise UserError("--target-return", found, "one that was trained with env.target_return=R")
    return replace(config.env, target_return=target)


def told(result: dict[str, Any]) -> str:
    """The result in one line."""
    n = len(result["returns"])
    spread = f"{n} episodes, standard deviation {result['return_std']:.1f} (divisor n - 1)" if n > 1 else "one episode"
    asked = "" if result["target_return"] is None else f", asked for {result['target_return']:g}"
    cut = f"; the environment cut {result['cut']} of them short" if result["cut"] else ""
    return (
        f"{result['agent']} on {result['task']}, checkpoint {result['checkpoint']}{asked}: "
        f"return {result['return']:.1f} over {spread}{cut}"
    )
