"""The grid world of MIRACLE's figure 1 (appendix E), and its limits in closed form."""

from __future__ import annotations

import numpy as np

from worldrl.tabular.mdp import MDP, Array, make_mdp

MOVES = ((0, -1), (0, 1), (-1, 0), (1, 0), (0, 0))  # rows count downwards, columns to the right
ACTIONS = ("left", "right", "up", "down", "stay")


def grid_world(size: int = 16, goal: float = 9.0, gamma: float = 0.9) -> MDP:
    """The square grid whose bottom left corner ends the episode; deterministic, five actions.

    The paper leaves open two choices that are made here: a move against a wall stays and costs a step, and states are
    uniform over all cells except the goal.

    Args:
        size: cells on a side.
        goal: the reward of the step onto the goal: 9, or 8 if that step has its cost too. Every other step pays -1.
        gamma: discount.
    """
    cells = np.arange(size * size).reshape(size, size)
    end = cells[-1, 0]
    row, column = np.divmod(cells.ravel(), size)
    successor = np.stack(
        [cells[np.clip(row + y, 0, size - 1), np.clip(column + x, 0, size - 1)] for y, x in MOVES], axis=1
    )
    reward = np.where(successor == end, goal, -1.0)
    return make_mdp(np.eye(size * size)[successor], reward, gamma, cells.ravel() == end)


def distance(size: int = 16) -> Array:
    """(S,): steps from each cell to the goal."""
    row, column = np.divmod(np.arange(size * size), size)
    return (size - 1.0 - row) + column


def best_value(size: int = 16, goal: float = 9.0, gamma: float = 0.9) -> Array:
    """(S,): V of the shortest path, -1 / (1 - gamma) + (goal + 1 / (1 - gamma)) gamma^(D - 1); zero in the goal."""
    steps = distance(size)
    cost = 1 / (1 - gamma)
    return np.where(steps == 0, 0.0, (goal + cost) * gamma ** (steps - 1) - cost)
