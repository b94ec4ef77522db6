"""Episodes for studies of a belief: what the agent saw and did, and the simulator's true state.

The agent plays each episode once, under the run's own evaluation settings. Every other corruption is studied on the
same episodes, by repeating their actions: the true states are then the same to the last bit, and so is the noise that
the belief draws; only the observations differ.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldrl.acting.episodes import Act, AgentActs, Alone, check_environment, own_randomness, play
from worldrl.agent import Agent
from worldrl.config import Config, config_from_dict, config_to_dict, flatten
from worldrl.envs.corruption import LEVELS, CorruptionConfig, is_active
from worldrl.envs.make import describe, make_env
from worldrl.envs.stream import EVAL, RowStream
from worldrl.errors import unknown
from worldrl.runs.trained import TrainedPolicy
from worldrl.types import Batch


class Episode(NamedTuple):
    """One episode, T rows in the time convention of ``worldrl.types``."""

    number: int
    obs: dict[str, np.ndarray]  # (T, ...) as the agent saw it
    action: np.ndarray  # (T, A) that led here, zero in row 0
    reward: np.ndarray  # (T,)
    truth: dict[str, np.ndarray]  # (T,) each, the simulator's state by coordinate

    def batch(self, device: torch.device) -> Batch:
        """The episode as a slice (1, T)."""

        def put(x: np.ndarray) -> Tensor:
            return torch.from_numpy(x)[None].to(device)

        first = np.zeros(len(self.reward), np.float32)
        first[0] = 1.0
        obs = {key: put(value) for key, value in self.obs.items()}
        return Batch(obs, put(self.action), put(self.reward), put(first), put(np.zeros_like(first)))


class Filtered(NamedTuple):
    """The beliefs of a model over the T rows of an episode."""

    feat: np.ndarray  # (T, F) a posterior draw, or mean
    entropy: np.ndarray  # (T,) nats


class Condition(NamedTuple):
    """One kind of corruption at one level, and the settings of a run under it."""

    kind: str
    level: float
    config: Config


def conditions(
    config: Config, kinds: Sequence[str], levels: Sequence[float], burst_length: int | None = None
) -> dict[str, list[Condition]]:
    """By kind, level 0 and each given level, in rising order; bursts last ``burst_length`` rows, by default the run's.

    The run's own corruption is added, even if it was meant only for training.

    Raises:
        UserError: an unknown kind (with the nearest), or a level outside its range.
    """
    for kind in kinds:
        if kind not in LEVELS:
            raise unknown("corruption", kind, LEVELS)
    settings = flatten(config_to_dict(config))
    if burst_length is not None:
        settings["env.corruption.burst_length"] = burst_length
    return {kind: [_condition(settings, kind, level) for level in sorted({0.0, *levels})] for kind in kinds}


def _condition(settings: Mapping[str, Any], kind: str, level: float) -> Condition:
    changes = {"env.corruption.apply": "both", f"env.corruption.{kind}": level}
    return Condition(kind, level, config_from_dict({**settings, **changes}))


class Recorder:
    """Plays and repeats episodes 0 to ``episodes - 1`` of a seed, and keeps them.

    Args:
        rows: episodes are cut after this many rows; 0 is never.
    """

    def __init__(self, agent: Agent, config: Config, seed: int, episodes: int, rows: int = 0) -> None:
        self.agent, self.config, self.seed = agent, config, seed
        self._count, self._rows = episodes, rows
        self._known: dict[CorruptionConfig, list[Episode]] = {}

    def played(self) -> list[Episode]:
        """The episodes of the agent without exploration, under the run's own evaluation settings."""
        return self.under(self.config)

    def under(self, config: Config) -> list[Episode]:
        """The same episodes, action by action, observed under the corruption of ``config``."""
        key = shown_corruption(config)
        if key not in self._known:
            actions: list[np.ndarray | None] = [None] * self._count
            if key != shown_corruption(self.config):
                actions = [episode.action for episode in self.played()]
            env = make_env(config.env, config.task, False)
            with contextlib.closing(RowStream(env, self.seed, EVAL, 0)) as stream:
                check_environment(self.agent.spec, describe(env, config.env))
                self._known[key] = [self._record(stream, i, repeated) for i, repeated in enumerate(actions)]
        return self._known[key]

    def filtered(self, config: Config, agent: Agent | None = None, deterministic: bool = False) -> list[Filtered]:
        """The beliefs of the agent (or another one) over them under the corruption of ``config``, step by step."""
        return filter_rows(agent or self.agent, self.under(config), self.seed, deterministic)

    def _record(self, stream: RowStream, number: int, actions: np.ndarray | None) -> Episode:
        limit, stage = self._rows if actions is None else len(actions), Alone(stream, self.agent.spec, self.seed)
        act = AgentActs(self.agent, 1) if actions is None else _repeating(actions)
        rows: list[dict[str, Any]] = []
        with own_randomness(self.seed, number):
            for tick in play(stage, act, number):
                row = {key: value[0] for key, value in tick.rows.items()}
                rows.append({**row, "truth": stream.task_env.truth()})
                if tick.ended or len(rows) == limit:
                    break
        return _stack(number, rows, list(self.agent.spec.obs))


def _repeating(actions: np.ndarray) -> Act:
    """Repeats an episode's ``actions`` (T, A), the first of which led to its first row."""
    left = iter(actions[1:, None])
    return lambda rows: next(left)


def filter_rows(agent: Agent, episodes: Sequence[Episode], seed: int, deterministic: bool = False) -> list[Filtered]:
    """Run the belief over episodes side by side, as in acting; the noise depends only on the seed."""
    policy, lengths = TrainedPolicy(agent), [len(episode.action) for episode in episodes]
    feat, entropy = [], []
    with own_randomness(seed):
        for t in range(max(lengths)):
            at = [(episode, min(t, length - 1)) for episode, length in zip(episodes, lengths, strict=True)]
            obs = {key: np.stack([episode.obs[key][i] for episode, i in at]) for key in agent.spec.obs}
            action = np.stack([episode.action[i] for episode, i in at])
            policy.act(obs, prev_action=action, deterministic=deterministic)
            feat.append(policy.belief.feat.cpu().numpy())
            entropy.append(policy.belief.entropy.cpu().numpy())
    by_episode = zip(np.stack(feat, 1), np.stack(entropy, 1), lengths, strict=True)
    return [Filtered(x[:length], h[:length]) for x, h, length in by_episode]


def _stack(number: int, rows: list[dict[str, Any]], keys: list[str]) -> Episode:
    obs = {key: np.stack([row[key] for row in rows]) for key in keys}
    truth = {name: np.array([row["truth"][name] for row in rows]) for name in rows[0]["truth"]}
    action, reward = (np.stack([row[name] for row in rows]) for name in ("action", "reward"))
    return Episode(number, obs, action, reward, truth)


def shown_corruption(config: Config) -> CorruptionConfig:
    """The corruption of evaluation episodes, one value for all settings that have the same effect."""
    corruption = config.env.corruption
    return dataclasses.replace(corruption, apply="both") if is_active(corruption, False) else CorruptionConfig()
