"""The statements of the theory, and the random problems on which they are tested."""

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
    """How far a statement is violated: zero, up to rounding, if it holds."""

    printed: float
    corrected: float = math.nan  # of what holds in its place; NaN if unknown


class Statement(NamedTuple):
    """One line of the table."""

    paper: str
    number: str
    printed: str  # the paper's statement
    holds: str  # what holds in its place; empty if the paper is right
    check: Callable[[Bench], Errors]
    tolerance: float = 1e-6  # smaller errors count as zero
    ours: bool = False  # not the paper's, but easily taken for it


class Bench:
    """A random process, and other random objects of the statements. Half of their numbers are negative."""

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
    """A statement's largest errors over all problems, and the verdict."""

    statement: Statement
    errors: Errors
    verdict: str


def judge(statement: Statement, seeds: Sequence[int]) -> Result:
    """Try the statement on the problem of each seed."""
    found = [statement.check(Bench(seed)) for seed in seeds]
    errors = Errors(*(float(np.max(x)) for x in zip(*found, strict=True)))  # NaN stays NaN
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
    """The largest amount by which ``x`` exceeds its bound, or zero."""
    return float(np.maximum(0.0, np.asarray(x) - np.asarray(bound)).max())  # NaN stays NaN


def slope(f: Callable[[Array], float], x: Array, h: float = 1e-5) -> Array:
    """The gradient of f at x, by central differences of fourth order."""
    found = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = h
        near, far = f(x + step) - f(x - step), f(x + 2 * step) - f(x - 2 * step)
        found[index] = (8 * near - far) / (12 * h)
    return found
