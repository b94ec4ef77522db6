"""Finite Markov decision processes as tables, in float64.

Shape letters: ``S`` states, ``A`` actions. An action that a state does not have has the reward minus infinity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldrl.errors import UserError

Array = NDArray[np.float64]
NEAR = 1e-9  # how far a sum of probabilities may be from 1


class MDP(NamedTuple):
    """P, R, gamma, and where episodes start and end. ``make_mdp`` checks its arguments."""

    transition: Array  # (S, A, S) P(s' | s, a)
    reward: Array  # (S, A) expected reward
    gamma: float  # discount, in [0, 1]
    terminal: NDArray[np.bool_]  # (S,) states of value zero; their own rows of P and R have no effect
    start: Array  # (S,) distribution of the first state


def make_mdp(
    transition: Any,
    reward: Any,
    gamma: float,
    terminal: Any = None,
    start: Any = None,
) -> MDP:
    """The process of these tables.

    Args:
        transition: (S, A, S) probabilities of the next state.
        reward: (S, A) expected rewards.
        gamma: discount; 1 only if an end can be reached from every state.
        terminal: (S,) which states are ends; none by default.
        start: (S,) distribution of the first state; by default uniform over the states that are not ends.

    Raises:
        UserError: for shapes that do not fit, rows that are not distributions, and a discount of 1 without an end.
    """
    p, r = np.asarray(transition, float), np.asarray(reward, float)
    if p.ndim != 3 or p.shape[0] != p.shape[2] or r.shape != p.shape[:2]:
        raise UserError("the tables of the process", f"shapes {p.shape} and {r.shape}", "(S, A, S) and (S, A)")
    check_distribution("transition", p)
    if np.isnan(r).any() or np.isposinf(r).any() or np.isneginf(r).all(1).any():
        raise UserError("reward", "a value that is not finite", "numbers; minus infinity only for missing actions")
    ends = np.zeros(len(p), bool) if terminal is None else np.asarray(terminal, bool)
    first = ~ends / max(1, (~ends).sum()) if start is None else np.asarray(start, float)
    if ends.shape != r.shape[:1] or first.shape != r.shape[:1]:
        raise UserError("terminal and start", f"shapes {ends.shape} and {first.shape}", f"({len(p)},), one per state")
    check_distribution("start", first)
    mdp = MDP(p, r, float(gamma), ends, first)
    _check_discount(mdp)
    return mdp


def check_distribution(where: str, p: Array, positive: bool = False) -> None:
    """Refuse an array whose last axis is not a distribution, or, if ``positive``, one with a zero."""
    sums = p.sum(-1)
    if not np.isfinite(p).all() or (p < 0).any():
        place = _first(~np.isfinite(p) | (p < 0))
        raise UserError(f"{where}{list(place)}", f"{p[place]:g}", "a probability")
    if (np.abs(sums - 1.0) > NEAR).any():
        place = _first(np.abs(sums - 1.0) > NEAR)
        raise UserError(f"{where}{list(place) or ''}", f"a sum of {sums[place]:g}", "1", "divide the row by its sum")
    if positive and (p == 0).any():
        expected = "every entry above 0"
        raise UserError(f"{where}{list(_first(p == 0))}", "0", expected, "an action without prior is never taken")


def random_mdp(rng: np.random.Generator, states: int, actions: int, gamma: float = 0.9) -> MDP:
    """Rows of P uniform over all distributions, rewards uniform in [0, 1], no end."""
    transition = rng.dirichlet(np.ones(states), (states, actions))
    return make_mdp(transition, rng.random((states, actions)), gamma)


def from_toy_text(env: Any, gamma: float) -> MDP:
    """The process of an environment with tables like those of Gymnasium's toy-text tasks: ``P`` and the start.

    One state is added, the end of every episode: a transition that terminates leads there.

    Raises:
        UserError: the environment has no such tables.
    """
    bare = env.unwrapped
    try:
        table, start = bare.P, bare.initial_state_distrib
    except AttributeError as error:
        expected = "the tables P and initial_state_distrib, as in FrozenLake-v1"
        raise UserError(f"environment {type(bare).__name__}", str(error), expected) from error
    return from_table(table, start, gamma)


def from_table(
    table: Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]], start: Any, gamma: float
) -> MDP:
    """``table[s][a]`` lists (probability, next state, reward, whether the episode ends there)."""
    states, actions = len(table), len(table[0])
    transition = np.zeros((states + 1, actions, states + 1))
    reward = np.zeros((states + 1, actions))
    transition[states, :, states] = 1.0
    for s, row in table.items():
        for a, outcomes in row.items():
            for probability, successor, gain, ends in outcomes:
                transition[s, a, states if ends else successor] += probability
                reward[s, a] += probability * gain
    return make_mdp(
        transition, reward, gamma, np.arange(states + 1) == states, np.append(np.asarray(start, float), 0.0)
    )


def _check_discount(mdp: MDP) -> None:
    if not 0.0 <= mdp.gamma <= 1.0:
        raise UserError("gamma", f"{mdp.gamma:g}", "a discount in [0, 1]")
    if mdp.gamma < 1.0:
        return
    exists = np.isfinite(mdp.reward)[..., None]
    leads = np.any((mdp.transition > 0) & exists, 1)
    reaches = np.array(mdp.terminal)
    for _ in range(len(reaches)):
        reaches[leads[:, reaches].any(1)] = True
    if not reaches.all():
        found = f"1, and state {int(np.argmin(reaches))} leads to no end"
        raise UserError("gamma", found, "a discount below 1, or an end that every state can reach")


def _first(where: Any) -> tuple[int, ...]:
    """The index of the first true entry."""
    return tuple(int(i) for i in np.argwhere(where)[0])
