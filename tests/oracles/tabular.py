"""Dynamic programming and Blahut-Arimoto as plain loops over states and actions, in probability space.

MIRACLE (Leibfried and Grau-Moya, 2019), section 3.2; VIREL (arXiv 1811.01132), appendix E.3; SMAC (arXiv 2210.00999),
section 3.2.3.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np


def backup(p: np.ndarray, r: np.ndarray, gamma: float, v: Sequence[float], ends: Sequence[bool]) -> list[list[float]]:
    """Q by the definition."""
    states, actions = r.shape
    return [
        [r[s, a] + gamma * sum(p[s, a, t] * v[t] for t in range(states) if not ends[t]) for a in range(actions)]
        for s in range(states)
    ]


def hard_values(p: np.ndarray, r: np.ndarray, gamma: float, ends: Sequence[bool], sweeps: int) -> np.ndarray:
    v = [0.0] * len(r)
    for _ in range(sweeps):
        v = [0.0 if ends[s] else max(row) for s, row in enumerate(backup(p, r, gamma, v, ends))]
    return np.array(v)


def soft_values(
    p: np.ndarray, r: np.ndarray, gamma: float, ends: Sequence[bool], beta: float, prior: Sequence[float], sweeps: int
) -> np.ndarray:
    """Eq. 16 under a fixed prior."""
    v = [0.0] * len(r)
    for _ in range(sweeps):
        q = backup(p, r, gamma, v, ends)
        sums = [sum(w * math.exp(beta * x) for w, x in zip(prior, row, strict=True)) for row in q]
        v = [0.0 if ends[s] else math.log(total) / beta for s, total in enumerate(sums)]
    return np.array(v)


def rollout_value(p: np.ndarray, r: np.ndarray, gamma: float, policy: np.ndarray, steps: int) -> np.ndarray:
    """Values of a policy in a process without end, by adding up rewards step by step."""
    chain = np.array([sum(policy[s, a] * p[s, a] for a in range(r.shape[1])) for s in range(len(r))])
    gain = np.array([sum(policy[s, a] * r[s, a] for a in range(r.shape[1])) for s in range(len(r))])
    total, where = np.zeros(len(r)), np.eye(len(r))
    for t in range(steps):
        total += gamma**t * where @ gain
        where = where @ chain
    return total


def arimoto(q: np.ndarray, p: np.ndarray, beta: float, policy: np.ndarray, rounds: int) -> list[tuple]:
    """Eqs. 11 and 12: the prior and the next policy of every round."""
    found = []
    for _ in range(rounds):
        prior = [sum(p[s] * policy[s][a] for s in range(len(q))) for a in range(len(q[0]))]
        policy = [[w * math.exp(beta * x) for w, x in zip(prior, row, strict=True)] for row in q]
        policy = [[x / sum(row) for x in row] for row in policy]
        found.append((np.array(prior), np.array(policy)))
    return found


def pair_value(q: np.ndarray, prior: np.ndarray, policy: np.ndarray, beta: float) -> np.ndarray:
    """Eq. 13 by the definition."""
    terms = [
        [0.0 if w == 0 else w * (x - math.log(w / rho) / beta) for w, x, rho in zip(pi, row, prior, strict=True)]
        for pi, row in zip(policy, q, strict=True)
    ]
    return np.array([sum(row) for row in terms])


def slope(f: Callable[[np.ndarray], float], x: np.ndarray, h: float = 1e-6) -> np.ndarray:
    """The gradient of f at x by central differences."""
    found = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = h
        found[index] = (f(x + step) - f(x - step)) / (2 * h)
    return found


def residual(p: np.ndarray, r: np.ndarray, gamma: float, q: np.ndarray, epsilon: float) -> float:
    """VIREL: half the mean squared Bellman error of q under its Boltzmann policy at this temperature."""
    total = 0.0
    values = []
    for row in q:
        weights = [math.exp((x - max(row)) / epsilon) for x in row]
        values.append(sum(w * x for w, x in zip(weights, row, strict=True)) / sum(weights))
    for s, a in itertools.product(range(q.shape[0]), range(q.shape[1])):
        total += (r[s, a] + gamma * float(np.dot(p[s, a], values)) - q[s, a]) ** 2
    return 0.5 * total / q.size


def temperature(p: np.ndarray, r: np.ndarray, gamma: float, q: np.ndarray) -> float:
    """epsilon = residual(epsilon), by halving an interval."""
    low, high = 1e-12, 1e6
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if residual(p, r, gamma, q, middle) > middle else (low, middle)
    return math.sqrt(low * high)


# --- the tiger --------------------------------------------------------------------------------------------------------


def tiger_values(gamma: float, hear: float, listen: float, good: float, bad: float, sweeps: int) -> list[tuple]:
    """Lines (value if left, value if right) whose upper envelope is the optimal value of a belief, by sweeps."""
    lines = [(0.0, 0.0)]
    for _ in range(sweeps):
        top = [max(lines, key=lambda line: sum(line)), *lines]
        after = 0.5 * max(a + b for a, b in top)  # the belief after a door is uniform
        doors = [(bad + gamma * after, good + gamma * after), (good + gamma * after, bad + gamma * after)]
        heard = [
            (
                listen + gamma * (hear * one[0] + (1 - hear) * two[0]),
                listen + gamma * ((1 - hear) * one[1] + hear * two[1]),
            )
            for one in lines
            for two in lines
        ]
        lines = envelope([*doors, *heard])
    return lines


def envelope(lines: list[tuple]) -> list[tuple]:
    """The lines that are highest at one of 401 beliefs."""
    grid = np.linspace(0.0, 1.0, 401)
    table = np.array(lines)
    values = table[:, :1] * (1 - grid) + table[:, 1:] * grid
    return [lines[i] for i in sorted(set(values.argmax(0).tolist()))]


def envelope_value(lines: list[tuple], right: float) -> float:
    return max(a * (1 - right) + b * right for a, b in lines)
