"""Deep agents compared with exact tables: the same process and temperature, and the distance while they learn.

``soft_q`` and ``mirl`` learn the grid world of MIRACLE's figure 1; their tables are soft and mutual-information value
iteration. ``virel`` and ``sac`` learn VIREL's counterexample, whose tables are closed forms. They are trained by the
usual loop, on environments made of tables, where all actions are random.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from worldrl.compose import compose
from worldrl.envs.families.grid import Table
from worldrl.report.plots import COLOURS, INK, picture
from worldrl.tabular.counterexample import hard_q, max_entropy_probability, soft_q, with_k_actions
from worldrl.tabular.grid import grid_world
from worldrl.tabular.mdp import MDP, Array
from worldrl.tabular.solve import (
    Solution,
    boltzmann,
    greedy,
    mutual_information_value_iteration,
    soft_value_iteration,
)
from worldrl.tabular.virel import bellman_error
from worldrl.training.loop import Trainer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

K, GAMMA = 10, 0.99  # of the counterexample
LIMIT = 32  # steps of an episode
NEWEST = 5_000  # rows whose states count as visited
MOST = 3_000  # frames at the counterexample
TIMES = 20  # an agent is compared with its table
LEAST = 2_100  # frames: fewer have no update before the first comparison


# --- tables as environments -------------------------------------------------------------------------------------------


class Grid4(Table):
    def __init__(self) -> None:
        super().__init__(grid_world(4), LIMIT)


class Grid16(Table):
    def __init__(self) -> None:
        super().__init__(grid_world(16), LIMIT)


class Counterexample(Table):
    def __init__(self) -> None:
        super().__init__(with_k_actions(K, GAMMA), LIMIT)


GRIDS = {4: Grid4, 16: Grid16}


# --- agents -----------------------------------------------------------------------------------------------------------

COMMON: dict[str, Any] = {
    "env.obs": "state",
    "env.action_repeat": 1,
    "schedule.epsilon.start": 1.0,  # all actions are random; those of mirl are drawn from its prior
    "schedule.epsilon.end": 1.0,
    "schedule.prefill": 100,
    "schedule.updates_per_1000_frames": 1000,
    "eval.every": 0,
    "eval.video": False,
    "log.progress": False,
    "log.tensorboard": False,
    "threads": 1,
    "device": "cpu",
}
ON_GRID: dict[str, Any] = {
    **COMMON,
    "head.gamma": 0.9,
    "head.layers": 1,
    "head.target_period": 50,
    "replay.batch": 128,
}
AT_CHOICE: dict[str, Any] = {
    **COMMON,
    "head.gamma": GAMMA,
    "head.units": 64,
    "head.actor_lr": 1e-3,
    "head.critic_lr": 1e-3,
    "head.tau": 0.02,
    "replay.batch": 64,
    "log.every": 1_000_000,  # the measurements take the means instead
}
MOVING_PRIOR = {"head.beta_rate": 0.0, "head.prior_rate": 0.01, "head.prior_rows": NEWEST}


class OnGrid(NamedTuple):
    """An agent, and the solver of its table: process, inverse temperature, distribution of states -> solution."""

    settings: Mapping[str, Any]
    solve: Callable[[MDP, float, Array], Solution]


class AtChoice(NamedTuple):
    """An agent, and its table at a temperature: the probability of the wrong action, and Q (S, A)."""

    settings: Mapping[str, Any]
    wrong: Callable[[float], float]
    q: Callable[[MDP, float], Array]


def boltzmann_wrong(temperature: float) -> float:
    """The probability of the wrong action under VIREL's policy, the Boltzmann distribution of the hard Q."""
    return float(boltzmann(hard_q(with_k_actions(K, GAMMA))[0], temperature)[::2].sum())


GRID_AGENTS = {
    "soft_q": OnGrid({**ON_GRID, "agent": "soft_q"}, lambda mdp, beta, p: soft_value_iteration(mdp, beta)),
    "mirl": OnGrid({**ON_GRID, **MOVING_PRIOR, "agent": "mirl"}, mutual_information_value_iteration),
}
CHOICE_AGENTS = {
    "sac, alpha = 0.5": AtChoice(
        {**AT_CHOICE, "agent": "sac", "head.tune_alpha": False, "head.init_alpha": 0.5},
        lambda temperature: max_entropy_probability(K, temperature, GAMMA),
        soft_q,
    ),
    "virel, alpha = 0.5": AtChoice(
        {**AT_CHOICE, "agent": "virel", "head.init_alpha": 0.5}, boltzmann_wrong, lambda mdp, _: hard_q(mdp)
    ),
    "virel_beta, alpha = eps": AtChoice(  # as eq. 3 has it: half of the mean squared Bellman error
        {**AT_CHOICE, "agent": "virel_beta", "head.residual_scale": 0.5, "head.residual_batch": 256},
        boltzmann_wrong,
        lambda mdp, _: hard_q(mdp),
    ),
}


# --- distances --------------------------------------------------------------------------------------------------------


def visited(trainer: Trainer) -> Array:
    """(S,): how often the newest rows are in each state; terminal rows do not count."""
    replay = trainer.experience.saved_replay
    assert replay is not None
    rows = {name: column[-NEWEST:, 0] for name, column in replay.columns().items()}
    live = rows["state"][rows["is_terminal"] == 0].sum(0, dtype=np.float64)
    return live / live.sum()


@cache
def table_of(agent: str, size: int, beta: float) -> Solution:
    """The table for uniform p(s), as in the paper."""
    mdp = GRIDS[size]().mdp
    return GRID_AGENTS[agent].solve(mdp, beta, mdp.start)


@torch.no_grad()
def on_grid(trainer: Trainer, name: str, size: int) -> dict[str, float]:
    """Distances of policy (total variation), values (absolute) and prior from the table of the states it visits.

    Means are uniform over states and, where a name ends in ``visited``, over those that are visited. The distance from
    the paper's prior, whose p(s) is uniform, ends in ``paper``.
    """
    mdp, p, head = GRIDS[size]().mdp, visited(trainer), cast("Any", trainer.agent.head)
    q = head.q(torch.eye(len(p)))
    policy, value = (x.double().numpy() for x in (head.log_pi(q).exp(), head.value(q)))
    beta = float(head.beta)
    table = GRID_AGENTS[name].solve(mdp, beta, p)
    apart = 0.5 * np.abs(policy - table.policy).sum(-1), np.abs(value - table.value)
    found = {"policy": apart[0], "value": apart[1]}
    return {
        **{key: float(x[~mdp.terminal].mean()) for key, x in found.items()},
        **{f"{key}, visited": float(p @ x) for key, x in found.items()},
        "prior": apart_from(head.prior, table),
        "prior, paper": apart_from(head.prior, table_of(name, size, beta)),
    }


def apart_from(prior: Tensor, table: Solution) -> float:
    """Total variation; exactly zero where a prior (A,) float32 is the table's."""
    return 0.5 * float((prior - torch.tensor(table.prior, dtype=prior.dtype)).abs().sum())


@torch.no_grad()
def at_choice(trainer: Trainer, name: str) -> dict[str, float]:
    """The probability of the wrong action and its table's, at the mean temperature of the updates since the last look.

    ``value`` is the mean distance of Q from the table; ``residual`` is half of the mean squared (T* Q - Q).
    """
    mdp, head = Counterexample().mdp, cast("Any", trainer.agent.head)
    alpha = trainer.meter.mean()["policy/alpha"]
    trainer.meter.reset()
    states, live = torch.eye(len(mdp.start)), ~mdp.terminal
    wrong = float(head.policy.log_probs(states)[0, ::2].exp().sum())
    q = head.critic.values(states).amin(0).double().numpy()
    deep = CHOICE_AGENTS[name]
    return {
        "wrong": wrong,
        "table": deep.wrong(alpha),
        "policy": abs(wrong - deep.wrong(alpha)),
        "temperature": alpha,
        "value": float(np.abs(q - deep.q(mdp, alpha))[live].mean()),
        "residual": 0.5 * float((bellman_error(mdp, q, greedy(q))[live] ** 2).mean()),
    }


# --- the study --------------------------------------------------------------------------------------------------------


class Point(NamedTuple):
    """The distances of an agent at one time of its training."""

    task: str
    agent: str
    seed: int
    frames: int
    found: dict[str, float]


def looks(settings: Mapping[str, Any], every: int, times: int) -> Iterator[Trainer]:
    """The run with these settings, at regular intervals; its folder is deleted."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(compose({**settings, "frames": every * times}), Path(folder), None)
        try:
            for frames in range(every, every * times + 1, every):
                while trainer.experience.now < frames:
                    trainer.tick()
                yield trainer
        finally:
            trainer.close()


def study(size: int, beta: float, seeds: int, frames: int, times: int = TIMES) -> Iterator[list[Point]]:
    """The distances of each agent ``times`` times during training; all agents with one seed, then with the next.

    Args:
        size: cells on a side of the grid.
        beta: inverse temperature of the agents on the grid.
        seeds: how many agents of each kind.
        frames: of each agent on the grid; at the counterexample 3,000 at most.
        times: how often an agent is compared with its table.
    """
    for seed in range(1, seeds + 1):
        for name, deep in GRID_AGENTS.items():
            settings = {**deep.settings, "task": task_of(GRIDS[size]), "seed": seed, "head.beta": beta}
            runs = looks(settings, frames // times, times)
            yield [Point("grid", name, seed, x.experience.now, on_grid(x, name, size)) for x in runs]
        for name, choice in CHOICE_AGENTS.items():
            settings = {**choice.settings, "task": task_of(Counterexample), "seed": seed}
            runs = looks(settings, min(frames, MOST) // times, times)
            yield [Point("counterexample", name, seed, x.experience.now, at_choice(x, name)) for x in runs]


def task_of(env: type[Table]) -> str:
    """The task name for a run."""
    return f"{env.__module__}:{env.__name__}"


def write_csv(path: Path, points: Sequence[Point]) -> None:
    """One line per number: task, agent, seed, frames, quantity, value."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["task", "agent", "seed", "frames", "quantity", "value"])
        for task, agent, seed, frames, found in points:
            writer.writerows([task, agent, seed, frames, name, f"{value:.6g}"] for name, value in found.items())


class Panel(NamedTuple):
    """A panel of the picture: a quantity, and another one as a dotted line."""

    task: str
    title: str
    solid: str
    dotted: str = ""
    told: str = ""  # the meaning of the dotted line
    scale: str = "log"


PANELS = (
    Panel("grid", "total variation of the policy", "policy", "policy, visited", "over visited states"),
    Panel("grid", "distance of values", "value", "value, visited", "over visited states"),
    Panel("grid", "total variation of the prior", "prior", "prior, paper", "from the paper's table"),
    Panel("counterexample", "p(a1 | s0)", "wrong", "table", "the table", "linear"),
    Panel("counterexample", "distance of p(a1 | s0)", "policy"),
    Panel("counterexample", "residual of Q", "residual"),
)


def draw(path: Path, points: Sequence[Point]) -> None:
    """Distances on the grid above, the counterexample below; every seed is a line."""
    with picture(path, 9.6, 5.4) as figure:
        for i, (ax, panel) in enumerate(zip(figure.subplots(2, 3).flat, PANELS, strict=True)):
            lines(ax, points, panel.task, panel.solid, "-", named=i % 3 == 0)
            ax.set(yscale=panel.scale, title=f"{panel.task}: {panel.title}")
            if panel.dotted:
                lines(ax, points, panel.task, panel.dotted, ":")
                ax.plot([], [], ":", color=INK, linewidth=1.0, label=panel.told)
            if ax.get_legend_handles_labels()[0]:
                ax.legend(fontsize="small")
            if i >= 3:
                ax.set_xlabel("environment frames")


def lines(ax: Axes, points: Sequence[Point], task: str, quantity: str, dash: str, named: bool = False) -> None:
    """One line for every agent and seed of the task whose quantity is not zero throughout."""
    curves: dict[str, dict[int, list[Point]]] = {}
    for point in points:
        if point.task == task:
            curves.setdefault(point.agent, {}).setdefault(point.seed, []).append(point)
    for colour, (agent, seeds) in zip(COLOURS, curves.items(), strict=False):
        for i, each in enumerate(seeds.values()):
            y = [point.found[quantity] for point in each]
            if max(y) > 0:
                told = in_greek(agent) if named and i == 0 else None
                ax.plot([point.frames for point in each], y, dash, color=colour, linewidth=1.0, label=told)


def in_greek(agent: str) -> str:
    return agent.replace("alpha", "\N{GREEK SMALL LETTER ALPHA}").replace("eps", "\N{GREEK SMALL LETTER EPSILON}")
