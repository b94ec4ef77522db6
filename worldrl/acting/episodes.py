"""Whole episodes with a fixed agent: returns, and the frames of a video."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from worldrl.acting.video import save_video
from worldrl.agent import Agent
from worldrl.envs.vector import VectorEnv
from worldrl.envs.workers import Rows
from worldrl.errors import UserError

VIDEO_SIZE = (256, 336)
LONGEST_VIDEO = 4_000  # pictures, about 1 GB; the rest of an episode is not recorded
LONGEST = 200_000  # frames of an episode


class Interrupted(Exception):
    """Episodes were given up because the caller was asked to stop."""


class Episodes(NamedTuple):
    """What a number of evaluation episodes gave; ``frames`` of the first one if asked, (H, W, 3) uint8."""

    returns: list[float]
    lengths: list[int]  # environment frames
    frames: list[np.ndarray] | None
    captions: list[str]

    def save_video(self, path: Path) -> None:
        """Write the recorded episode, 1000 environment frames in about ten seconds."""
        assert self.frames is not None
        path.parent.mkdir(parents=True, exist_ok=True)
        save_video(path, self.frames, fps=max(10, min(60, len(self.frames) // 10)), captions=self.captions)


def run_episodes(
    agent: Agent,
    envs: VectorEnv,
    episodes: int,
    first: int = 0,
    explore: bool = False,
    deterministic: bool = False,
    particles: int = 0,
    record: bool = False,
    stop: Callable[[], object] = bool,
) -> Episodes:
    """Play ``episodes`` episodes, numbers ``first`` and on, spread over the vector's environments.

    Args:
        explore: sample the policy (without the training's action noise) instead of its mode.
        deterministic: use the posterior mean instead of a posterior draw.
        particles: act on the mean of the modes over this many more filtered paths.
        record: keep frames of environment 0's first episode.
        stop: asked at every step whether to give up.

    Raises:
        Interrupted: ``stop`` said so.
        UserError: an episode does not end.
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
        if stop():
            raise Interrupted
        state, action, _ = agent.act(state, rows, explore, deterministic, perturb=False)
        rows = with_action(envs.step(action), action)
        total, length = total + rows["reward"], length + rows["frames"]
        if film is not None and not returns[0]:
            film.add(float(total[0]), int(length[0]))
        for i in np.flatnonzero(rows["is_last"]):
            returns[i].append(float(total[i]))
            lengths[i].append(int(length[i]))
            total[i], length[i] = 0.0, 0
        check_length(agent.spec.task, length.max())
    return Episodes(
        [r for i in range(n) for r in returns[i][: per_env[i]]],
        [x for i in range(n) for x in lengths[i][: per_env[i]]],
        None if film is None else film.frames,
        [] if film is None else film.captions,
    )


def check_length(task: str, frames: int) -> None:
    """Raise UserError where an episode of so many ``frames`` goes on: it would be waited for in silence."""
    if frames > LONGEST:
        raise UserError(
            f"{task}: found an evaluation episode without an end after {LONGEST:,} frames; expected one "
            f"that terminates or is truncated, for example by gymnasium.wrappers.TimeLimit"
        )


@contextlib.contextmanager
def naming_failures(task: str, where: object) -> Iterator[None]:
    """Whatever the environment raises in the block, in one line that says in which episode."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{task} failed in {where}: {type(error).__name__}: {error}") from error


class _Film:
    def __init__(self, envs: VectorEnv) -> None:
        self.envs = envs
        self.frames = [envs.render(*VIDEO_SIZE)]
        self.captions = ["return 0"]

    def add(self, total: float, length: int) -> None:
        if len(self.frames) == LONGEST_VIDEO:
            return
        self.frames.append(self.envs.render(*VIDEO_SIZE))
        self.captions.append(f"return {total:.0f}  frame {length}")


def with_action(rows: Rows, action: np.ndarray) -> Rows:
    """Rows with the ``action`` that led to them: zero where an episode begins."""
    rows["action"] = (action * (1.0 - rows["is_first"])[:, None]).astype(np.float32)
    return rows


@contextlib.contextmanager
def own_randomness(seed: int, *key: int) -> Iterator[None]:
    """Seeded torch noise inside the block; the noise outside goes on as if the block had not been."""
    cuda = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(int(np.random.SeedSequence([seed, *key]).generate_state(1)[0]))
        yield
