"""Evaluate what a run folder holds: the work of ``eval.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from worldrl.agent import Agent
from worldrl.config import Config, load_config
from worldrl.envs import make_envs
from worldrl.errors import UserError
from worldrl.evaluation.episodes import own_randomness, run_episodes
from worldrl.training.checkpoint import Checkpoints
from worldrl.types import EnvSpec, ObsSpec


def load_agent(run_dir: Path, checkpoint: str = "last", device: str = "auto") -> tuple[Agent, Config]:
    """The agent of a run folder, ready to act, and the run's settings.

    Args:
        checkpoint: ``last``, or ``best`` (the highest evaluation return during training).

    Raises:
        UserError: no run, no complete checkpoint, or a damaged one.
    """
    config = load_config(run_dir, device=device)
    checkpoints = Checkpoints(run_dir)
    state = checkpoints.load(checkpoints.find(checkpoint))
    spec = {**state["spec"], "obs": {key: ObsSpec(tuple(shape), dtype) for key, shape, dtype in state["spec"]["obs"]}}
    agent = Agent(config, EnvSpec(**spec))
    agent.load_state_dict(state["agent"], optimizers=False)
    return agent, config


def evaluate_run(
    run_dir: Path,
    episodes: int = 10,
    seed: int = 1000,
    checkpoint: str = "last",
    explore: bool = False,
    video: Path | None = None,
    device: str = "auto",
    json_path: Path | None = None,
) -> dict[str, Any]:
    """Evaluate a trained agent over fresh seeded episodes and say what came out."""
    if episodes < 1:
        raise UserError(f"--episodes {episodes}: expected 1 or more")
    agent, config = load_agent(run_dir, checkpoint, device)
    envs = make_envs(config.env, config.task, seed, num_envs=1, training=False)
    try:
        with own_randomness(seed):
            played = run_episodes(agent, envs, episodes, explore=explore, record=video is not None)
    finally:
        envs.close()
    result = {
        "task": config.task,
        "agent": config.agent,
        "checkpoint": checkpoint,
        "updates": agent.updates,
        "seed": seed,
        "action": "sample" if explore else "mode",
        "return": float(np.mean(played.returns)),
        "return_std": float(np.std(played.returns)),
        "returns": played.returns,
    }
    if video is not None:
        played.save_video(video)
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(result, indent=2) + "\n")
    return result
