"""Statistics of runs against closed forms, brute force and SciPy's own tests."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from worldrl.statistics import (
    improvement_interval,
    interquartile_mean,
    interquartile_mean_interval,
    mean_and_deviation,
    mean_interval,
    normalized,
    probability_of_improvement,
)

NAN = float("nan")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def iqm_by_sorting(scores: np.ndarray) -> float:
    ordered = sorted(x for x in scores.ravel().tolist() if x == x)
    cut = len(ordered) // 4
    kept = ordered[cut : len(ordered) - cut]
    return sum(kept) / len(kept)


def improvement_by_brute_force(x: np.ndarray, y: np.ndarray, paired: bool) -> float:
    means = []
    for a, b in zip(x.T.tolist(), y.T.tolist(), strict=True):
        a, b = ([v for v in values if v == v] for values in (a, b))
        pairs = list(zip(a, b, strict=True) if paired else itertools.product(a, b))
        means.append(sum(1.0 if v > w else 0.5 if v == w else 0.0 for v, w in pairs) / len(pairs))
    return sum(means) / len(means)


# --- mean and interquartile mean --------------------------------------------------------------------------------------


def test_interval_of_the_mean_is_scipys(rng: np.random.Generator) -> None:
    values = rng.normal(size=(5, 3))
    mean, half = mean_interval(values)
    low, high = stats.t.interval(0.95, 4, values.mean(0), stats.sem(values))
    np.testing.assert_allclose(mean - half, low)
    np.testing.assert_allclose(mean + half, high)


def test_one_seed_has_no_spread() -> None:
    mean, half = mean_interval([[1.0, 2.0]])
    assert mean.tolist() == [1, 2]
    assert np.isnan(half).all()
    mean_of_one, deviation = mean_and_deviation([3.0])
    assert mean_of_one == 3
    assert np.isnan(deviation)
    for scores in ([[1.0], [NAN]], [[1.0, 2.0], [3.0, NAN]]):  # also of one task among others
        assert np.isnan(interquartile_mean_interval(scores, np.random.default_rng(0))[1:]).all()


def test_a_score_is_zero_and_one_at_two_returns() -> None:
    assert [normalized(value, (-100.0, 300.0)) for value in (-100.0, 0.0, 300.0, 500.0)] == [0.0, 0.25, 1.0, 1.5]


def test_deviation_divides_by_n_minus_one() -> None:
    assert mean_and_deviation([1.0, 2.0, 3.0, 6.0]) == (3.0, pytest.approx(np.sqrt(14 / 3)))


def test_interquartile_mean_of_known_scores() -> None:
    assert interquartile_mean(np.arange(8.0)) == 3.5
    assert interquartile_mean([0, 1, 2, 1000]) == 1.5
    assert interquartile_mean([0, 1, 1000]) == pytest.approx(1001 / 3)  # nothing to leave out of three
    assert interquartile_mean([[0, 10], [NAN, 20], [NAN, 1000]]) == 15  # one run of a task, three of the other


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (5, 2), (10, 7)])
def test_interquartile_mean_by_sorting(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    scores = rng.normal(size=shape)
    scores[0, 1:] = NAN
    assert interquartile_mean(scores) == pytest.approx(iqm_by_sorting(scores))


def test_interval_is_that_of_a_bootstrap_by_hand(rng: np.random.Generator) -> None:
    scores = rng.normal([0, 5, 20], 1.0, (6, 3))
    drawn = [
        iqm_by_sorting(np.stack([task[rng.integers(0, 6, 6)] for task in scores.T])) for _ in range(4000)
    ]  # within its task, so that no resample lacks the best task
    found = interquartile_mean_interval(scores, rng)
    np.testing.assert_allclose(found[1:], np.percentile(drawn, [2.5, 97.5]), atol=0.06)
    assert found.value == pytest.approx(iqm_by_sorting(scores))


def test_strata_are_kept() -> None:
    scores = np.array([[1.0, 100.0]] * 4)  # tasks differ, seeds do not: nothing is uncertain
    assert interquartile_mean_interval(scores, np.random.default_rng(0)) == (50.5, 50.5, 50.5)


@pytest.mark.parametrize("seeds_and_tasks", [(20, 1), (10, 4)])
def test_interval_covers_the_truth_nineteen_times_in_twenty(seeds_and_tasks: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        _, low, high = interquartile_mean_interval(rng.normal(2.0, 1.0, seeds_and_tasks), rng, resamples=400)
        covered += low <= 2.0 <= high
    assert 0.88 <= covered / 300 <= 0.98  # the percentile bootstrap is a little too narrow for few seeds


def test_the_same_generator_gives_the_same_interval() -> None:
    scores = np.random.default_rng(1).normal(size=(5, 2))
    first, second, other = (interquartile_mean_interval(scores, np.random.default_rng(s), 500) for s in (4, 4, 5))
    assert first == second != other


# --- probability of improvement ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("paired", [False, True])
def test_improvement_by_brute_force(rng: np.random.Generator, paired: bool) -> None:
    x, y = rng.integers(0, 4, (6, 3)).astype(float), rng.integers(0, 4, (6, 3)).astype(float)  # many ties
    x[4:, 1] = y[4:, 1] = NAN
    value = probability_of_improvement(x, y, paired)
    assert value == pytest.approx(improvement_by_brute_force(x, y, paired))
    assert value + probability_of_improvement(y, x, paired) == pytest.approx(1)


def test_improvement_is_mann_whitneys_u(rng: np.random.Generator) -> None:
    x, y = rng.integers(0, 5, 7).astype(float), rng.integers(0, 5, 4).astype(float)
    u = stats.mannwhitneyu(x, y).statistic
    assert probability_of_improvement(x, y) == pytest.approx(u / 28)


def test_pairing_sees_what_the_seeds_share(rng: np.random.Generator) -> None:
    seeds = np.linspace(0, 9, 10)[:, None]  # the seed decides nearly everything, x is always a bit better
    assert probability_of_improvement(seeds + 0.1, seeds, paired=True) == 1
    assert probability_of_improvement(seeds + 0.1, seeds) == pytest.approx(0.55)
    assert improvement_interval(seeds + 0.1, seeds, rng, paired=True, resamples=200) == (1, 1, 1)


def test_paired_interval_is_binomial(rng: np.random.Generator) -> None:
    x = np.r_[np.ones(14), np.zeros(6)]
    found = improvement_interval(x, np.full(20, 0.5), rng, paired=True)
    assert found.value == pytest.approx(0.7)
    np.testing.assert_allclose(found[1:], stats.binom.ppf([0.025, 0.975], 20, 0.7) / 20, atol=1e-12)


@pytest.mark.parametrize("paired", [False, True])
def test_every_task_counts_once_whatever_its_seeds(paired: bool) -> None:
    """Four seeds that always win and two that always lose: nothing is uncertain."""
    x = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, NAN], [1.0, NAN]])
    y = np.where(np.isnan(x), NAN, 0.5)
    assert improvement_interval(x, y, np.random.default_rng(0), paired, resamples=100) == (0.5, 0.5, 0.5)


def test_unpaired_interval_is_that_of_a_bootstrap_by_hand(rng: np.random.Generator) -> None:
    x, y = rng.normal(0.5, 1, (6, 2)), rng.normal(0, 1, (4, 2))
    drawn = []
    for _ in range(3000):
        a = np.stack([task[rng.integers(0, 6, 6)] for task in x.T], 1)
        b = np.stack([task[rng.integers(0, 4, 4)] for task in y.T], 1)
        drawn.append(improvement_by_brute_force(a, b, paired=False))
    found = improvement_interval(x, y, rng)
    np.testing.assert_allclose(found[1:], np.percentile(drawn, [2.5, 97.5]), atol=0.04)


def test_unpaired_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(5)
    truth = stats.norm.cdf(0.5 / np.sqrt(2))  # P(N(0.5, 1) > N(0, 1))
    covered = 0
    for _ in range(200):
        _, low, high = improvement_interval(rng.normal(0.5, 1, 15), rng.normal(0, 1, 15), rng, resamples=300)
        covered += low <= truth <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_pairing_needs_the_same_seeds() -> None:
    for x, y in (([1.0, NAN], [NAN, 1.0]), (np.ones((3, 1)), np.ones((3, 2)))):
        with pytest.raises(ValueError, match="the same seeds on the same tasks"):
            probability_of_improvement(x, y, paired=True)
