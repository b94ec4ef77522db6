"""The tiger problem (Kaelbling, Littman and Cassandra, 1998): SMAC's eqs. 13 and 14 and exact planning in beliefs.

A tiger is behind one of two doors. Listening costs 1 and names the tiger's door with probability 0.85; the other door
pays 10, the tiger's costs 100, and after a door everything starts again. Only the difference between the numbers of
signals for each door matters, so beliefs are whole numbers, and the problem is a process in the sense of ``mdp``.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from worldrl.tabular.mdp import MDP, Array, make_mdp
from worldrl.tabular.solve import backup, evaluate, greedy, lse, value_iteration

ACTIONS = ("listen", "open left", "open right")
LISTEN, GOOD, BAD, HEAR, GAMMA = -1.0, 10.0, -100.0, 0.85, 0.95
DEPTH = 20  # belief 0.85^20 / (0.85^20 + 0.15^20): one more signal changes nothing in float64
Aggregate = Literal["lse", "mean", "min"]  # over states, as head.q_aggregate over particles


def beliefs(hear: float = HEAR, depth: int = DEPTH) -> Array:
    """(D,): the probability of a tiger on the left, which was named there -depth .. depth times more often."""
    n = np.arange(-depth, depth + 1)
    return 1 / (1 + (1 / hear - 1.0) ** n)


def rewards() -> Array:
    """(2, 3): rewards of the tiger's places left and right, and the actions."""
    return np.array([[LISTEN, BAD, GOOD], [LISTEN, GOOD, BAD]])


def belief_process(hear: float = HEAR, depth: int = DEPTH) -> MDP:
    """The process of a planner: states are beliefs, and the last one on each side absorbs further signals."""
    left = beliefs(hear, depth)
    size = len(left)
    transition = np.zeros((size, len(ACTIONS), size))
    transition[:, 1:, depth] = 1.0
    for i, named_left in enumerate(hear * left + (1 - hear) * (1 - left)):
        transition[i, 0, min(i + 1, size - 1)] += named_left
        transition[i, 0, max(i - 1, 0)] += 1 - named_left
    reward = np.stack([left, 1 - left], 1) @ rewards()
    return make_mdp(transition, reward, GAMMA, start=np.eye(size)[depth])


def latent_process() -> MDP:
    """The process of SMAC's critic (eqs. 2 and 25): the tiger's place, as if it were known."""
    transition = np.full((2, 3, 2), 0.5)
    transition[:, 0] = np.eye(2)
    return make_mdp(transition, rewards(), GAMMA)


def exact_q(hear: float = HEAR, depth: int = DEPTH) -> Array:
    """(D, 3): Q of beliefs, by value iteration."""
    mdp = belief_process(hear, depth)
    return backup(mdp, value_iteration(mdp).value)


def latent_q() -> Array:
    """(2, 3): Q of the tiger's places, without entropy."""
    mdp = latent_process()
    return backup(mdp, value_iteration(mdp).value)


def aggregated(q: Array, left: Array, how: Aggregate, scale: float = 1.0) -> Array:
    """(D, A): Q of a belief from Q (2, A) of the states, by eq. 13 (``lse``) or another ``head.q_aggregate``.

    Args:
        q: values of the two places.
        left: (D,) beliefs.
        how: ``lse`` is log E exp Q; ``mean`` is E Q, known as QMDP; ``min`` is the worse of the places.
        scale: all rewards are multiplied by it, and the result is divided by it again. Only ``lse`` depends on it.
    """
    weight = np.stack([left, 1 - left], 1)
    if how == "mean":
        return weight @ q
    if how == "min":
        return np.tile(q.min(0), (len(left), 1))
    with np.errstate(divide="ignore"):
        return lse(np.log(weight)[..., None] + scale * q, 1) / scale


class Rule(NamedTuple):
    """The behaviour of an agent that takes the best action of such a Q."""

    value: float  # of the uniform belief
    opens_above: float  # the least belief in one place at which the other door is opened; 1 if never
    wrong: float  # share of beliefs at which its action is not optimal
    bias: float  # its best Q at the uniform belief minus the exact one


def judge(q: Array, hear: float = HEAR, depth: int = DEPTH) -> Rule:
    """The rule of this Q (D, 3)."""
    mdp, best, left = belief_process(hear, depth), exact_q(hear, depth), beliefs(hear, depth)
    action, middle = q.argmax(-1), depth
    opens = np.maximum(left, 1 - left)[action > 0]
    value = evaluate(mdp, greedy(q))[middle]
    wrong = float((action != best.argmax(-1)).mean())
    bias = float(q[middle].max() - best[middle].max())
    return Rule(float(value), float(opens.min()) if len(opens) else 1.0, wrong, bias)


def listening_scale() -> float:
    """The largest scale of rewards at which eq. 13 listens in the uniform belief, by halving an interval."""
    low, high = 1e-4, 10.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        listens = aggregated(latent_q(), np.array([0.5]), "lse", middle)[0].argmax() == 0
        low, high = (middle, high) if listens else (low, middle)
    return low
