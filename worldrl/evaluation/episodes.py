"""Whole episodes with a fixed agent: returns, and the frames of a video."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from worldrl.agent import Agent
from worldrl.config import Config, load_config
from worldrl.envs import make_envs
from worldrl.envs.vector import Rows, VectorEnv
from worldrl.errors import UserError
from worldrl.training.checkpoint import Checkpoints
from worldrl.types import EnvSpec, ObsSpec

VIDEO_SIZE = (240, 320)


class Episodes(NamedTuple):
    """What a number of evaluation episodes gave; ``frames`` of the first one if asked, (T, H, W, 3) uint8."""

    returns: list[float]
    lengths: list[int]  # environment frames
    frames: np.ndarray | None
    captions: list[str]


def run_episodes(
    agent: Agent,
    envs: VectorEnv,
    episodes: int,
    first: int = 0,
    explore: bool = False,
    deterministic: bool = False,
    particles: int = 0,
    record: bool = False,
) -> Episodes:
    """Play ``episodes`` episodes, numbers ``first`` and on, spread over the vector's environments.

    Args:
        explore: sample the policy (without the training's action noise) instead of its mode.
        deterministic: use the posterior mean instead of a posterior draw.
        particles: act on the mean of the modes over this many more filtered paths.
        record: keep frames of environment 0's first episode.
    """
    n = envs.num_envs
    rows = with_action(envs.reset(first), np.zeros((n, agent.spec.action_dim), np.float32))
    state = agent.initial(n, particles)
    per_env = [episodes // n + (i < episodes % n) for i in range(n)]
    film = _Film(envs) if record else None
    total, length = np.zeros(n), np.zeros(n, np.int64)
    returns: list[list[float]] = [[] for _ in range(n)]
    lengths: list[list[int]] = [[] for _ in range(n)]
    while any(len(r) < want for r, want in zip(returns, per_env, strict=True)):
        state, action, _ = agent.act(state, rows, explore, deterministic, noise=False)
        rows = with_action(envs.step(action), action)
        total, length = total + rows["reward"], length + rows["frames"]
        if film is not None and not returns[0]:
            film.add(float(total[0]), int(length[0]))
        for i in np.flatnonzero(rows["is_last"]):
            returns[i].append(float(total[i]))
            lengths[i].append(int(length[i]))
            total[i], length[i] = 0.0, 0
    return Episodes(
        [r for i in range(n) for r in returns[i][: per_env[i]]],
        [x for i in range(n) for x in lengths[i][: per_env[i]]],
        None if film is None else np.stack(film.frames),
        [] if film is None else film.captions,
    )


class _Film:
    def __init__(self, envs: VectorEnv) -> None:
        self.envs = envs
        self.frames = [envs.render(*VIDEO_SIZE)]
        self.captions = ["return 0"]

    def add(self, total: float, length: int) -> None:
        self.frames.append(self.envs.render(*VIDEO_SIZE))
        self.captions.append(f"return {total:.0f}  frame {length}")


def with_action(rows: Rows, action: np.ndarray) -> Rows:
    """Rows with the ``action`` that led to them: zero where an episode begins."""
    rows["action"] = action * (1.0 - rows["is_first"])[:, None]
    return rows


@contextlib.contextmanager
def own_randomness(seed: int, *key: int) -> Any:
    """Seeded torch noise inside the block; the noise outside goes on as if the block had not been."""
    cuda = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(int(np.random.SeedSequence([seed, *key]).generate_state(1)[0]))
        yield


def load_agent(run_dir: Path, checkpoint: str = "last", device: str = "auto") -> tuple[Agent, Config]:
    """The agent of a run folder, ready to act, and the run's settings.

    Args:
        checkpoint: ``last``, or ``best`` (the highest evaluation return during training).

    Raises:
        UserError: no run, no complete checkpoint, or a damaged one.
    """
    config = load_config(run_dir, device=device)
    checkpoints = Checkpoints(run_dir)
    folder = checkpoints.best() if checkpoint == "best" else checkpoints.find()
    if folder is None:
        raise UserError(f"no best checkpoint in {checkpoints.folder}: none was evaluated after its first update; use last")
    state = checkpoints.load(folder)
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
        with own_randomness(seed, episodes):
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
        from worldrl.evaluation.video import save_video

        assert played.frames is not None
        save_video(video, played.frames, fps=_fps(played), overlay=played.captions)
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=2) + "\n")
    return result


def _fps(played: Episodes) -> int:
    """Frames per second that play a first episode of 1000 environment frames in about ten seconds."""
    assert played.frames is not None
    return max(10, min(60, len(played.frames) // 10))
