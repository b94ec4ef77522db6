"""Figure 1 of MIRACLE: values of the grid world by inverse temperature; ``worldrl studies grid`` draws it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from worldrl.report.plots import COLOURS, INK, PALE, picture
from worldrl.tabular.grid import grid_world
from worldrl.tabular.mdp import MDP, Array
from worldrl.tabular.solve import (
    evaluate,
    mutual_information_value_iteration,
    soft_value_iteration,
    value_iteration,
)

BETAS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
SMALLEST = 1e-3  # below it "converged" would need hours: the prior moves in proportion to beta
STOP = 5e-3  # the paper's, of values and of probabilities


class Curves(NamedTuple):
    """Mean values over the states that are not the goal, at each beta; two families, converged and stopped early."""

    soft: list[float]
    mutual: list[float]
    soft_stopped: list[float]  # with the paper's tolerances
    mutual_stopped: list[float]  # the same; Blahut-Arimoto begins where the last sweep left it
    mutual_cold: list[float]  # the same; it begins at the uniform policy in every sweep
    prior: list[list[float]]  # of the converged mutual-information values


class Limits(NamedTuple):
    """The limits of the curves at both ends."""

    hard: float
    uniform: float  # the policy that soft values evaluate without temperature
    left_down: float  # the best policy that does not see the state


def mean(mdp: MDP, value: Array) -> float:
    return float(value[~mdp.terminal].mean())


def limits(mdp: MDP) -> Limits:
    """The limits, by value iteration and by linear solves."""
    states = len(mdp.terminal)
    alone = [evaluate(mdp, np.tile(policy, (states, 1))) for policy in (np.full(5, 0.2), [0.5, 0.0, 0.0, 0.5, 0.0])]
    return Limits(*(mean(mdp, value) for value in (value_iteration(mdp).value, *alone)))


def curves(mdp: MDP, betas: Sequence[float]) -> Curves:
    """The eight points of the figure, or others."""
    converged = [mutual_information_value_iteration(mdp, beta) for beta in betas]
    soft, soft_stopped = (
        [mean(mdp, soft_value_iteration(mdp, beta, tolerance=stop).value) for beta in betas] for stop in (1e-9, STOP)
    )
    warm, cold = (
        [mean(mdp, mutual_information_value_iteration(mdp, beta, None, STOP, STOP, keep).value) for beta in betas]
        for keep in (True, False)
    )
    mutual = [mean(mdp, found.value) for found in converged]
    return Curves(soft, mutual, soft_stopped, warm, cold, [found.prior.tolist() for found in converged])


def study(goal: float, betas: Sequence[float] = BETAS) -> tuple[Curves, Limits]:
    """Both readings of the goal step: 9, or 8 with the price of a step."""
    mdp = grid_world(goal=goal)
    return curves(mdp, betas), limits(mdp)


def draw(path: Path, betas: Sequence[float], found: Curves, ends: Limits) -> None:
    """Converged values with their limits, and the values with the printed tolerances."""
    with picture(path, 8.4, 3.4) as figure:
        axes = figure.subplots(1, 2, sharey=True)
        for ax, title in zip(axes, ("converged", "stopped at the printed 5e-3"), strict=True):
            for value, told in zip(ends, ("hard", "uniform policy", "half left, half down"), strict=True):
                ax.axhline(value, color=PALE, linewidth=0.8, linestyle=":")
                place = {"textcoords": "offset points", "ha": "right"}
                ax.annotate(
                    told,
                    (0.36 if told == "hard" else 0.96, value),
                    (0, 2),
                    ax.get_yaxis_transform(),
                    **place,
                    fontsize="x-small",
                    color=INK,
                )
            ax.set(xscale="log", xlabel="inverse temperature β", title=title)
        mutual, soft = {"color": COLOURS[0], "marker": "o"}, {"color": COLOURS[1], "marker": "s"}
        axes[0].plot(betas, found.mutual, **mutual, markersize=4, label="mutual information")
        axes[0].plot(betas, found.soft, **soft, markersize=4, label="soft, uniform prior")
        axes[1].plot(betas, found.mutual_stopped, **mutual, markersize=4, label="mutual information, warm start")
        axes[1].plot(
            betas,
            found.mutual_cold,
            color=COLOURS[2],
            marker="D",
            markersize=4,
            linestyle="--",
            label="the same, cold start",
        )
        axes[1].plot(betas, found.soft_stopped, **soft, markersize=4, label="soft, uniform prior")
        axes[0].set_ylabel("mean value of a state")
        for ax in axes:
            ax.legend(fontsize="small", loc="lower right", bbox_to_anchor=(1.0, 0.1))
