"""VIREL's counterexample to maximum entropy; ``worldrl studies counterexample`` draws it.

Section 2.2 of Fellows et al. (2019). In s0, action a2 pays 1 and ends all choice; a1 pays nothing and leads to a state
with k equally worthless actions. A policy that is rewarded for its future entropy goes there with the probability
p = 1 / (k^-gamma exp(1 / c) + 1) at temperature c, so that its mode is wrong for c > 1 / (gamma log k). VIREL's policy
is the Boltzmann distribution of the hard Q: its mode is right at every temperature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class MDP(NamedTuple):
    """Deterministic: ``allowed`` says which of the A actions a state has."""

    successor: NDArray[np.int64]  # (S, A)
    reward: Array  # (S, A)
    allowed: NDArray[np.bool_]  # (S, A)


def counterexample(k: int) -> MDP:
    """The process of figure 1: s0 to s4 are states 0 to 4, then one state per action of s1, then the tail.

    The paper's tail continues through states in which the action does not matter; here they are one state with one
    action, since a choice without effect would count as entropy.
    """
    tail = 5 + k
    successor = np.full((tail + 1, max(2, k)), tail)
    allowed = np.zeros_like(successor, dtype=bool)
    allowed[:, 0] = True
    successor[0, :2], allowed[0, :2] = (1, 2), True
    successor[1, :k], allowed[1, :k] = range(5, tail), True
    successor[2:4, 0] = 3, 4
    reward = np.zeros(successor.shape)
    reward[0, 1] = 1.0
    return MDP(successor, reward, allowed)


def soft_q(mdp: MDP, temperature: float, gamma: float) -> Array:
    """Q (S, A) of the best maximum-entropy policy, by soft value iteration; minus infinity where not allowed."""
    return _iterate(mdp, gamma, lambda q: temperature * np.logaddexp.reduce(q / temperature, axis=1))


def hard_q(mdp: MDP, gamma: float) -> Array:
    """Q (S, A) of the best policy, by value iteration; minus infinity where not allowed."""
    return _iterate(mdp, gamma, lambda q: q.max(axis=1))


def boltzmann(q: Array, temperature: float) -> Array:
    """softmax(q / temperature) over the last axis."""
    p = np.exp((q - q.max(axis=-1, keepdims=True)) / temperature)
    return p / p.sum(axis=-1, keepdims=True)


def max_entropy_probability(k: int, temperature: float, gamma: float) -> float:
    """p(a1 given s0) of the best maximum-entropy policy, in closed form."""
    x = gamma * math.log(k) - 1.0 / temperature
    return math.exp(min(x, 0.0)) / (1.0 + math.exp(-abs(x)))  # no exponent above zero, so that nothing overflows


def threshold(k: int, gamma: float) -> float:
    """The temperature above which the mode of that policy is wrong."""
    return 1.0 / (gamma * math.log(k))


def _iterate(mdp: MDP, gamma: float, value_of: Callable[[Array], Array]) -> Array:
    """Q after Bellman sweeps from zero, until nothing changes: as many as the longest path has steps."""
    value = np.zeros(len(mdp.reward))
    while True:
        q = np.where(mdp.allowed, mdp.reward + gamma * value[mdp.successor], -np.inf)
        found = value_of(q)
        if np.array_equal(value, found):
            return q
        value = found


class Wrong(NamedTuple):
    """p(a1 given s0), the probability of the wrong action, at each temperature."""

    closed_form: list[float]  # of the best maximum-entropy policy
    soft_values: list[float]  # of the same, by soft value iteration
    virel: list[float]


def wrong_action(k: int, gamma: float, temperatures: Sequence[float]) -> Wrong:
    """The three curves of the study."""
    mdp = counterexample(k)
    hard = hard_q(mdp, gamma)[0]
    return Wrong(
        [max_entropy_probability(k, c, gamma) for c in temperatures],
        [float(boltzmann(soft_q(mdp, c, gamma)[0], c)[0]) for c in temperatures],
        [float(boltzmann(hard, c)[0]) for c in temperatures],
    )
