"""Fitted Q evaluation: the value of a trained policy from recorded rows, without an environment.

A separate critic learns the policy's return from the states and actions of the rows (Le et al., ICML 2019, arXiv
1903.08738; compared with other estimators by Voloshin et al. 2021, arXiv 1911.06854):

    L = E (Q(s, a) - r - gamma (1 - d) E_{a' ~ pi(s')} Q'(s', a'))^2        Q' follows Q slowly
    v = mean over the first states s_0 of the episodes of E_{a ~ pi(s_0)} Q(s_0, a)

For a choice the expectations are exact sums; in a box they are single draws, or the mode. The states are those of the
agent's belief. Cut episodes count as if they continued: v has no time limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldrl.agent import Agent
from worldrl.config import Config
from worldrl.data.formats import d4rl
from worldrl.data.replay import Replay, choose_replay_device
from worldrl.data.settings import DataConfig
from worldrl.errors import UserError, check_writable
from worldrl.heads.transitions import transitions
from worldrl.nn.build import critic
from worldrl.nn.functional import masked_mean
from worldrl.nn.optim import Optimizer, polyak
from worldrl.runs.data import Rows, load_rows
from worldrl.runs.trained import load_agent
from worldrl.statistics import mean_interval
from worldrl.terminal import say, to_json
from worldrl.types import Batch, Belief, Obs

STARTS = 256  # first states that are evaluated at once
DRAWS = 16  # of the policy in each of them, in a box


@dataclass(frozen=True)
class Fit:
    """How the critic is fitted."""

    updates: int = 20_000
    gamma: float = 0.99
    units: int = 256
    layers: int = 2
    lr: float = 3e-4
    tau: float = 0.05  # how fast Q' follows: the error after N updates falls as exp(-tau (1 - gamma) N)


class FittedQ:
    """The critic of one agent's policy.

    Args:
        agent: Belief and policy, which are not changed.
        fit: How it is fitted.
        explore: Evaluate the draws of the policy; otherwise its mode.
    """

    def __init__(self, agent: Agent, fit: Fit, explore: bool) -> None:
        self.agent, self.fit, self.explore = agent, fit, explore
        sizes = agent.model.sizes(agent.spec.actions)
        self.choice = sizes.actions.kind == "choice"
        with torch.device(agent.device):
            self.q = critic(sizes.feat, sizes.actions, fit.units, fit.layers, "relu", n=1)
            self.target: nn.Module = deepcopy(self.q).requires_grad_(False)
            self.optimizer = Optimizer(self.q.parameters(), fit.lr)

    def update(self, batch: Batch) -> Tensor:
        """One step down L on windows (B, T); returns L, 0-d."""
        batch = batch._replace(obs=self.agent.normalized(batch.obs))
        with torch.no_grad():
            belief = self.agent.model.observe(batch, 0, learn=False)[0]
            tr = transitions(batch.drop_rows(self.agent.model.lost_rows), belief.feat[None])
            later = self.value(self.target, _states(belief, slice(1, None))).view_as(tr.reward)
            y = tr.reward + self.fit.gamma * (1.0 - tr.terminal) * later  # (B, S)
        loss = masked_mean((self.q(tr.feat, tr.action[None]) - y).square(), tr.mask)
        self.optimizer.step(loss)
        polyak(self.target, self.q, self.fit.tau)
        return loss.detach()

    @torch.no_grad()
    def value(self, q: Any, belief: Belief) -> Tensor:
        """E_{a ~ pi} q(s, a) (N,) for a belief of N states."""
        if self.choice:
            return (self.agent.head.probabilities(belief, self.explore) * q.values(belief.feat)[0]).sum(-1)
        return q(belief.feat, self.agent.head.act(belief, self.explore))[0]

    def value_at_start(self, first: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """(E,) of first observations (E, ...) by key."""
        rows = len(next(iter(first.values())))
        parts = [self._judge({key: x[i : i + STARTS] for key, x in first.items()}) for i in range(0, rows, STARTS)]
        return torch.cat(parts).double().cpu().numpy()

    @torch.no_grad()
    def _judge(self, first: Mapping[str, NDArray[Any]]) -> Tensor:
        agent, n = self.agent, len(next(iter(first.values())))
        obs: Obs = {key: torch.from_numpy(np.ascontiguousarray(x)).to(agent.device) for key, x in first.items()}
        with torch.device(agent.device):
            state, action, is_first = agent.initial(n), torch.zeros(n, agent.spec.action_dim), torch.ones(n)
        draws = DRAWS if self.explore and not self.choice else 1
        belief = agent.model.step(state, agent.normalized(obs), action, is_first)[1]
        return torch.stack([self.value(self.q, belief) for _ in range(draws)]).mean(0)


def _states(belief: Belief, rows: slice) -> Belief:
    """(B, T, ...) -> (B T, ...), only these rows."""
    return Belief(
        belief.feat[:, rows].flatten(0, 1),
        belief.particles[:, :, rows].flatten(1, 2),
        belief.context[:, rows].flatten(0, 1),
        belief.entropy[:, rows].flatten(),
    )


# --- of a run ---------------------------------------------------------------------------------------------------------


def evaluate_on_data(
    run_dir: Path,
    data: Path | None = None,
    fit: Fit | None = None,
    seed: int = 1000,
    checkpoint: str = "last",
    explore: bool = False,
    device: str = "auto",
    json_path: Path | None = None,
) -> dict[str, Any]:
    """Estimate the value of a trained agent's policy from existing rows.

    Args:
        run_dir: The run.
        data: A data set or a run folder; by default the run's data, or else its own replay.
        fit: How the critic is fitted.
        seed: Of the draws and of the critic's initial weights.
        checkpoint: ``last`` or ``best``.
        explore: Evaluate the draws of the policy; otherwise its mode.
        device: As for ``worldrl.load``.
        json_path: A file for the result, if any.

    Returns:
        The entries that ``told_of_data`` prints: ``value`` and its 95 % ``interval`` over first states, in discounted
        rewards of the data; ``halfway``, the value after half of the updates; ``recorded``, the mean discounted return
        of the recorded episodes.

    Raises:
        UserError: Data that do not fit, a discount of 1 if episodes are cut, a policy with a target return, or a critic
            that diverged.
    """
    fit = fit or Fit()
    if json_path is not None:
        check_writable(json_path)
    agent, config = load_agent(run_dir, checkpoint, device, say)
    if config.env.target_return is not None:
        found = "a policy with a target return, which is not in the data"
        raise UserError(str(run_dir), found, "a run without env.target_return")
    name = data or Path(config.data.name or run_dir)
    rows = load_rows(_as_recorded(config.data, name), agent.spec)
    if (count := len(rows.columns["reward"])) < config.replay.length:
        raise UserError(f"data={name}", f"{count} rows", f"{config.replay.length} or more, as replay.length says")
    terminal, first, recorded = _episodes(rows, fit.gamma)
    if fit.gamma == 1.0 and not terminal.all():
        found = f"1, and {int((~terminal).sum()):,} of {len(terminal):,} episodes are cut"
        raise UserError("--gamma", found, "a discount below 1 unless every episode terminates")
    torch.manual_seed(seed)
    values, halfway = fitted(FittedQ(agent, fit, explore), rows, config, seed, first)
    mean, half = mean_interval(values)
    result = {
        "task": config.task,
        "agent": config.agent,
        "checkpoint": checkpoint,
        "updates": agent.updates,
        "data": str(name),
        "rows_checksum": rows.checksum,
        "seed": seed,
        "action": "sample" if explore else "mode",
        "gamma": fit.gamma,
        "fitted_updates": fit.updates,
        "value": float(mean),
        "interval": [float(mean - half), float(mean + half)],
        "first_states": len(values),
        "halfway": float(halfway.mean()),
        "per_step": None if terminal.any() else float((1.0 - fit.gamma) * mean),
        "recorded": float(recorded.mean()),
        "possible": None if fit.gamma == 1.0 else possible(rows.columns, fit.gamma),
    }
    if json_path is not None:
        json_path.write_text(to_json(result))
    return result


def _as_recorded(config: DataConfig, path: Path) -> DataConfig:
    """All rows of the data, with their own rewards; bounds of actions are only for files that do not know them."""
    whole = replace(config, name=str(path), checksum="", reward="as_is", top=1.0)
    return whole if d4rl.claims(path) else replace(whole, low=None, high=None)


def fitted(
    critic: FittedQ, rows: Rows, config: Config, seed: int, first: Mapping[str, NDArray[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values (E,) of the first states after all updates of the critic, and after half of them.

    Raises:
        UserError: The critic diverged.
    """
    agent, count = critic.agent, len(rows.columns["reward"])
    place = choose_replay_device(agent.spec, count, agent.device, say=say)  # the run's may be of another machine
    replay = Replay(agent.spec, count, device=place, seed=seed)
    replay.extend({name: column[:, None] for name, column in rows.columns.items()})
    found = []
    for n in (critic.fit.updates // 2, critic.fit.updates - critic.fit.updates // 2):
        for _ in range(n):
            critic.update(replay.sample(config.replay.batch, config.replay.length, agent.device))
        found.append(critic.value_at_start(first))
        if not np.isfinite(found[-1]).all():
            raise UserError("fitted Q evaluation", "values that are not finite", fix="try a smaller --gamma")
        if len(found) == 1:
            say(f"after half of {critic.fit.updates:,} updates: {found[0].mean():.3f}")
    return found[1], found[0]


def _episodes(rows: Rows, gamma: float) -> tuple[NDArray[np.bool_], dict[str, NDArray[Any]], NDArray[np.float64]]:
    """For episodes with a step: which terminate (E,), their first observations, their discounted returns."""
    columns, spec = rows.columns, rows.spec
    start = np.flatnonzero(columns["is_first"])
    stop = np.append(start[1:], len(columns["reward"]))
    steps = np.arange(stop[-1]) - np.repeat(start, stop - start)  # (rows,) 0 in a first row, whose reward is 0
    discounted = columns["reward"].astype(np.float64) * gamma ** np.maximum(steps - 1, 0)
    kept = stop - start > 1
    first = {key: columns[key][start[kept]] for key in spec.obs}
    return columns["is_terminal"][stop - 1][kept] > 0, first, np.add.reduceat(discounted, start)[kept]


def possible(columns: Mapping[str, NDArray[Any]], gamma: float) -> list[float]:
    """The least and the largest discounted return of episodes of any length with rewards like those of the data."""
    reward = columns["reward"][columns["is_first"] == 0]
    return [float(min(reward.min(), 0.0)) / (1.0 - gamma), float(max(reward.max(), 0.0)) / (1.0 - gamma)]


def told_of_data(result: Mapping[str, Any]) -> str:
    """The result in words."""
    (low, high), n = result["interval"], result["first_states"]
    mean_over = f"from {low:.3f} to {high:.3f} (95 % interval of the mean over {n:,} first states"
    spread = mean_over if n > 1 else "without an interval (there is one first state"
    worth = "the return" if result["gamma"] == 1.0 else f"the return discounted by {result['gamma']:g}"
    lines = [
        f"{result['agent']}, checkpoint {result['checkpoint']}, by fitted Q evaluation on {result['data']}:",
        f"{worth} is {result['value']:.3f}, {spread}; it does not include the critic's error)",
        f"after half of the {result['fitted_updates']:,} updates it was {result['halfway']:.3f}; "
        f"the recorded episodes have {result['recorded']:.3f}",
    ]
    if result["per_step"] is not None:
        lines.append(f"that is {result['per_step']:.4f} per step, because no episode in the data terminates")
    if result["possible"] is not None and not result["possible"][0] <= result["value"] <= result["possible"][1]:
        least, largest = result["possible"]
        lines.append(
            f"no return can be that with the rewards of these data, only {least:.3f} to {largest:.3f}: the critic is "
            "wrong; try more --updates, or train with data.normalize=true if the observations are far from 1"
        )
    return "\n".join(lines)
