"""What a statement of the theory is, and the random problems that it is tried on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from worldrl.tabular.mdp import MDP, Array, random_mdp
from worldrl.tabular.solve import backup, boltzmann, value_iteration

STATES, ACTIONS, FEATURES = 4, 3, 5
HOLDS, CORRECTED, FAILS = "holds", "holds with a correction", "fails"


class Errors(NamedTuple):
    """How far a statement is violated: zero, up to rounding, where it holds."""

    printed: float
    corrected: float = math.nan  # of what holds in its place; not a number where nothing is known to


class Statement(NamedTuple):
    """One line of the table."""

    paper: str
    number: str
    printed: str  # what the paper says
    holds: str  # what holds in its place; empty where the print is right
    check: Callable[[Bench], Errors]
    tolerance: float = 1e-6  # an error below it is none


class Bench:
    """A random process, and what else a statement is about. Half of all numbers of these are negative."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.mdp: MDP = random_mdp(self.rng, STATES, ACTIONS)
        self.q: Array = self.rng.normal(size=(STATES, ACTIONS))
        self.policy = self.random_policy()
        self.other = self.random_policy()
        self.d: Array = self.rng.dirichlet(np.ones(STATES))
        self.features: Array = self.rng.normal(size=(STATES, ACTIONS, FEATURES))
        self.weight: Array = self.rng.normal(size=FEATURES)
        self.best: Array = backup(self.mdp, value_iteration(self.mdp).value)

    def random_policy(self) -> Array:
        """(S, A)"""
        return boltzmann(self.rng.normal(size=(STATES, ACTIONS)), 1.0)


class Result(NamedTuple):
    """A statement's largest errors over all problems, and what follows from them."""

    statement: Statement
    errors: Errors
    verdict: str


def judge(statement: Statement, seeds: Sequence[int]) -> Result:
    """Try the statement on the problem of each seed."""
    found = [statement.check(Bench(seed)) for seed in seeds]
    errors = Errors(max(x.printed for x in found), max(x.corrected for x in found))
    return Result(statement, errors, verdict(errors, statement.tolerance))


def verdict(errors: Errors, tolerance: float) -> str:
    """``holds``, ``holds with a correction`` or ``fails``."""
    if errors.printed < tolerance:
        return HOLDS
    return CORRECTED if errors.corrected < tolerance else FAILS


def apart(x: Array | float, y: Array | float) -> float:
    """The largest absolute difference."""
    return float(np.abs(np.asarray(x) - np.asarray(y)).max())


def above(x: Array | float, bound: Array | float) -> float:
    """By how much ``x`` exceeds its bound, at most; zero where it does not."""
    return max(0.0, float((np.asarray(x) - np.asarray(bound)).max()))


def slope(f: Callable[[Array], float], x: Array, h: float = 1e-5) -> Array:
    """The gradient of f at x, by central differences of fourth order."""
    found = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = h
        near, far = f(x + step) - f(x - step), f(x + 2 * step) - f(x - 2 * step)
        found[index] = (8 * near - far) / (12 * h)
    return found
