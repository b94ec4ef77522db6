"""VIREL's counterexample to maximum entropy; ``worldrl studies counterexample`` draws it.

Section 2.2 of Fellows et al. (2019). In s0, action a2 pays 1 and ends all choice; a1 pays nothing and leads to a state
with k equally worthless actions. A policy that is rewarded for its future entropy goes there with probability
p = 1 / (k^-gamma exp(1 / c) + 1) at temperature c, so its mode is wrong for c > 1 / (gamma log k). VIREL's policy is
the Boltzmann distribution of the hard Q: its mode is right at every temperature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from worldrl.errors import wrong
from worldrl.tabular.mdp import MDP, Array, make_mdp
from worldrl.tabular.solve import backup, boltzmann, max_entropy_value_iteration, value_iteration


def counterexample(k: int, gamma: float) -> MDP:
    """The process of figure 1 for two or more worthless actions: states s0 to s4, then s1^i, then the end.

    The k states s1^i have the same value, so here they are one state. The paper's tail, in which the action does not
    matter, is the end: a choice without effect would count as entropy.
    """
    worthless, end = 5, 6
    successor = np.full((end + 1, k), end)
    reward = np.full(successor.shape, -np.inf)
    reward[:, 0] = 0.0
    successor[0, :2], reward[0, :2] = (1, 2), (0.0, 1.0)
    successor[1, :k], reward[1, :k] = worthless, 0.0
    successor[2:4, 0] = 3, 4
    return make_mdp(np.eye(end + 1)[successor], reward, gamma, np.arange(end + 1) == end)


def with_k_actions(k: int, gamma: float) -> MDP:
    """The same choice in a form that an agent can learn: every state has k actions. States: s0, s1, the end.

    In s0 every other action is a1, the rest a2. The episode ends where the paper's actions do not matter.

    Raises:
        UserError: k is odd.
    """
    if k % 2:
        raise wrong("k", k, "an even number, because a1 and a2 share the actions equally")
    successor = np.full((3, k), 2)
    successor[0, ::2] = 1
    reward = np.zeros(successor.shape)
    reward[0, 1::2] = 1.0
    return make_mdp(np.eye(3)[successor], reward, gamma, [False, False, True], [1.0, 0.0, 0.0])


def soft_q(mdp: MDP, temperature: float) -> Array:
    """Q (S, A) of the best maximum-entropy policy; minus infinity where a state has no such action."""
    return backup(mdp, max_entropy_value_iteration(mdp, temperature).value)


def hard_q(mdp: MDP) -> Array:
    """Q (S, A) of the best policy; minus infinity where a state has no such action."""
    return backup(mdp, value_iteration(mdp).value)


def max_entropy_probability(k: int, temperature: float, gamma: float) -> float:
    """p(a1 given s0) of the best maximum-entropy policy, in closed form."""
    x = gamma * math.log(k) - 1.0 / temperature
    return math.exp(min(x, 0.0)) / (1.0 + math.exp(-abs(x)))  # no exponent above zero, so nothing overflows


def threshold(k: int, gamma: float) -> float:
    """The temperature above which the mode of that policy is wrong."""
    return 1.0 / (gamma * math.log(k))


class Wrong(NamedTuple):
    """p(a1 given s0), the probability of the wrong action, at each temperature."""

    closed_form: list[float]  # of the best maximum-entropy policy
    soft_values: list[float]  # the same, by soft value iteration
    virel: list[float]


def wrong_action(k: int, gamma: float, temperatures: Sequence[float]) -> Wrong:
    """The three curves of the study."""
    mdp = counterexample(k, gamma)
    hard = hard_q(mdp)[0]
    return Wrong(
        [max_entropy_probability(k, c, gamma) for c in temperatures],
        [float(boltzmann(soft_q(mdp, c)[0], c)[0]) for c in temperatures],
        [float(boltzmann(hard, c)[0]) for c in temperatures],
    )
