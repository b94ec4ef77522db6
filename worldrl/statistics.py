"""What a few seeds on a few tasks say about agents: pure functions of scores.

Scores are arrays (seeds, tasks), one run per entry; NaN where a task has fewer seeds than others. The interquartile
mean, the stratified bootstrap and the probability of improvement are those of Agarwal et al. 2021, "Deep Reinforcement
Learning at the Edge of the Statistical Precipice" (arXiv 2108.13264). Intervals are 95 % intervals; their bounds are
NaN if a task has fewer than two seeds. ``rng`` is a seeded generator: the same seed yields the same interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 10_000
FEW = 5  # seeds; intervals of fewer say little
TRIMMED = 0.25  # share of the runs that the interquartile mean leaves out at either end


class Estimate(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def mean_interval(values: ArrayLike) -> tuple[Array, Array]:
    """The mean over seeds and half the width of its interval by Student's t (NaN for one seed).

    Args:
        values: (seeds, ...).
    """
    from scipy import stats

    values = np.asarray(values, float)
    n = len(values)
    if n < 2:
        return values.mean(0), np.full(values.shape[1:], np.nan)
    return values.mean(0), stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.std(0, ddof=1) / np.sqrt(n)


def mean_and_band(values: ArrayLike) -> tuple[Array, Array, Array]:
    """The mean over seeds and the ends of its interval by Student's t, or of the range of fewer than ``FEW`` seeds.

    An interval of three seeds is more than twice as wide as their range, and a plot of it shows little else.

    Args:
        values: (seeds, ...).
    """
    values = np.asarray(values, float)
    if len(values) < FEW:
        return values.mean(0), values.min(0), values.max(0)
    mean, half = mean_interval(values)
    return mean, mean - half, mean + half


def normalized(value: float, ends: tuple[float, float]) -> float:
    """The score of a return, on a scale where two given returns score 0 and 1."""
    return (value - ends[0]) / (ends[1] - ends[0])


def mean_and_deviation(values: ArrayLike) -> tuple[float, float]:
    """The mean of ``values`` (n,) and their standard deviation (divisor n - 1, NaN for one value)."""
    values = np.asarray(values, float)
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else np.nan


def interquartile_mean(scores: ArrayLike) -> float:
    """The mean of the middle half of all runs (section 4.3): every run counts once, whatever its task.

    Of n runs, floor(n / 4) are left out at either end, so for three or fewer it is the plain mean.
    """
    from scipy import stats

    scores = np.asarray(scores, float)
    return float(stats.trim_mean(scores[~np.isnan(scores)], TRIMMED))


def interquartile_mean_interval(scores: ArrayLike, rng: np.random.Generator, resamples: int = RESAMPLES) -> Estimate:
    """``interquartile_mean`` of (seeds, tasks) with its stratified bootstrap interval: seeds are redrawn per task."""
    from scipy import stats

    def of_tasks(*tasks: Array, axis: int) -> Array:
        return stats.trim_mean(np.concatenate(tasks, axis), TRIMMED, axis)

    return Estimate(interquartile_mean(scores), *_bootstrap(_per_task(scores), of_tasks, rng, resamples))


def probability_of_improvement(x: ArrayLike, y: ArrayLike, paired: bool = False) -> float:
    """How probable it is that a run of x beats a run of y on a task drawn at random (section 4.3); a tie counts 1/2.

    The mean over tasks of the mean over pairs of [x > y] + [x = y] / 2. Unpaired, every run of x meets every run of y
    on that task: Mann and Whitney's U / (n m). Paired, only the runs of the same seed meet.

    Args:
        x: (seeds, tasks).
        y: (seeds of y, tasks); if paired, row by row the seeds of x.
    """
    return float(np.mean([wins.mean() for wins in _wins(x, y, paired)]))


def improvement_interval(
    x: ArrayLike, y: ArrayLike, rng: np.random.Generator, paired: bool = False, resamples: int = RESAMPLES
) -> Estimate:
    """``probability_of_improvement`` with its stratified bootstrap interval.

    Per task, the seeds of x and those of y are redrawn independently; if paired, the seeds that they share are.
    """
    value = probability_of_improvement(x, y, paired)
    if paired:
        return Estimate(value, *_bootstrap(_wins(x, y, paired=True), _mean_of_means, rng, resamples))

    def of_tasks(*runs: Array, axis: int) -> Array:
        assert axis == -1
        half = len(runs) // 2
        wins = [_beats(a[..., :, None], b[..., None, :]) for a, b in zip(runs[:half], runs[half:], strict=True)]
        return np.mean([w.mean((-2, -1)) for w in wins], 0)

    return Estimate(value, *_bootstrap([*_per_task(x), *_per_task(y)], of_tasks, rng, resamples))


def _beats(x: Array, y: Array) -> Array:
    """1 where x is above y, 1/2 where they are equal, else 0; broadcast."""
    return (np.sign(x - y) + 1) / 2


def _wins(x: ArrayLike, y: ArrayLike, paired: bool) -> list[Array]:
    """Per task, the outcome of every pair of runs: (pairs,)."""
    if not paired:
        return [_beats(a[:, None], b).ravel() for a, b in zip(_per_task(x), _per_task(y), strict=True)]
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape != y.shape or (np.isnan(x) != np.isnan(y)).any():
        raise ValueError(f"paired scores of shapes {x.shape} and {y.shape}: expected the same seeds on the same tasks")
    return _per_task(_beats(x, y))


def _per_task(scores: ArrayLike) -> list[Array]:
    """(seeds, tasks) as one array (seeds of this task,) per task; (seeds,) is one task."""
    scores = np.asarray(scores, float)
    columns = scores[:, None].T if scores.ndim == 1 else scores.T
    return [column[~np.isnan(column)] for column in columns]


def _mean_of_means(*samples: Array, axis: int) -> Array:
    return np.mean([sample.mean(axis) for sample in samples], 0)


def _bootstrap(
    samples: Sequence[Array], statistic: Callable[..., Array], rng: np.random.Generator, resamples: int
) -> tuple[float, float]:
    """The percentile interval of ``statistic(*samples, axis=-1)``; each sample is resampled independently."""
    from scipy import stats

    if min(map(len, samples)) < 2:
        return np.nan, np.nan
    drawn = stats.bootstrap(
        samples,
        statistic,
        n_resamples=resamples,
        batch=1000,  # bounds the memory
        vectorized=True,
        confidence_level=LEVEL,
        method="percentile",
        rng=rng,
    )
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)
