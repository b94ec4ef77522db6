"""The estimators against exact marginal entropies: a linear-Gaussian policy and a discrete latent."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.errors import refusing
from tests.oracles import estimators as oracle
from worldrl.errors import UserError
from worldrl.estimators.marginal import (
    ESTIMATORS,
    ROULETTE_DECAY,
    draw_level,
    elbo,
    elbo_gap,
    independent_draws,
    iwae,
    marginal_q,
    mlmc,
    mlmc_fresh,
    naive,
    nested,
    roulette,
)

N = 200_000
STD = 0.4  # of a | s


def normal(x: Tensor, mean: Tensor, std: float) -> Tensor:
    return -0.5 * ((x - mean) / std).square() - math.log(std) - 0.5 * math.log(2 * math.pi)


def linear_gaussian(k: int, n: int = N) -> tuple[Tensor, float]:
    """s ~ N(0, 1), a | s ~ N(s, STD^2): a ~ N(0, 1 + STD^2). Returns log pi(a | s_k) (K + 1, n), exact entropy."""
    s = torch.randn(k + 1, n, dtype=torch.float64)
    a = s[0] + STD * torch.randn(n, dtype=torch.float64)
    return normal(a, s, STD), 0.5 * math.log(2 * math.pi * math.e * (1 + STD**2))


def discrete_latent(k: int, n: int = N) -> tuple[Tensor, float]:
    """s uniform on {-2, 0, 2}; the entropy of the mixture by quadrature."""
    support = torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64)
    s = support[torch.randint(3, (k + 1, n))]
    a = s[0] + STD * torch.randn(n, dtype=torch.float64)
    grid = torch.linspace(-6, 6, 20_001, dtype=torch.float64)
    log_p = torch.logsumexp(normal(grid, support[:, None], STD), 0) - math.log(3)
    return normal(a, s, STD), float(-(log_p.exp() * log_p).sum() * (grid[1] - grid[0]))


@pytest.fixture(params=[linear_gaussian, discrete_latent], ids=["linear_gaussian", "discrete_latent"])
def policy(request: pytest.FixtureRequest):
    return request.param


def entropy(estimate: Tensor) -> tuple[float, float]:
    """Mean entropy estimate and its standard error."""
    return float(-estimate.mean()), float(estimate.std() / math.sqrt(estimate.numel()))


def test_nested_is_a_lower_bound_that_rises_and_converges(policy) -> None:
    values = []
    for k in (1, 2, 4, 8, 16, 32, 128):
        log_probs, exact = policy(k, N // 4)
        value, error = entropy(nested(log_probs))
        assert value < exact + 3 * error
        values.append(value)
    assert all(b > a for a, b in pairwise(values))
    assert exact - values[-1] < 0.02


def test_naive_and_iwae_are_upper_bounds_and_iwae_falls(policy) -> None:
    values = []
    for k in (1, 4, 16, 64):
        log_probs, exact = policy(k, N // 4)
        value, error = entropy(iwae(log_probs))
        assert value > exact - 3 * error
        values.append(value)
        assert entropy(naive(log_probs))[0] > exact + 1.0
    assert all(b < a for a, b in pairwise(values))


@pytest.mark.parametrize("k", [1, 2, 8])
def test_mlmc_has_the_mean_of_nested(policy, k: int) -> None:
    log_probs, _ = policy(k)
    difference = mlmc(log_probs) - nested(log_probs)
    assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(N) + 1e-12
    fresh, _ = policy(independent_draws("mlmc_fresh", k))
    value, error = entropy(mlmc_fresh(fresh))
    reference, reference_error = entropy(nested(log_probs))
    assert abs(value - reference) < 4 * math.hypot(error, reference_error)


def test_roulette_is_unbiased() -> None:
    """Its mean is the exact entropy, where nested at the same average cost is biased."""
    rng = np.random.default_rng(0)
    levels = [draw_level(rng) for _ in range(60_000)]
    estimates = []
    for level in sorted(set(levels)):
        log_probs, exact = linear_gaussian(2 ** (level + 1) - 1, levels.count(level))
        estimates.append(roulette(log_probs))
    value, error = entropy(torch.cat(estimates))
    assert abs(value - exact) < 4 * error
    assert error < 0.03
    biased, _ = entropy(nested(linear_gaussian(2)[0]))
    assert exact - biased > 0.2


def test_draw_level_has_the_survival_it_is_weighted_by() -> None:
    rng = np.random.default_rng(1)
    levels = np.array([draw_level(rng) for _ in range(100_000)])
    for level in range(1, 5):
        assert np.mean(levels >= level) == pytest.approx(ROULETTE_DECAY**level, rel=0.05)


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_no_particles_is_the_plain_density(name: str) -> None:
    assert independent_draws(name, 0) == 0
    log_probs, _ = linear_gaussian(0, 7)
    assert torch.equal(ESTIMATORS[name](log_probs), log_probs[0])


@pytest.mark.parametrize("k", [3, 6, 33])
def test_mlmc_refuses_what_is_no_power_of_two(k: int) -> None:
    with refusing("num_particles", found=str(k)):
        independent_draws("mlmc", k)
    with pytest.raises(UserError, match="power of two"):
        mlmc(linear_gaussian(k, 2)[0])


@pytest.mark.parametrize("k", [1, 2, 8, 32])
@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_estimators_are_the_oracles(name: str, k: int) -> None:
    """Eqs. 9, 11, 12 and appendix B.3."""
    draws = 2 * k - 1 if name == "roulette" else independent_draws(name, k)
    assert draws == (2 * k - 1 if name == "roulette" else oracle.draws(name, k))
    log_probs, _ = linear_gaussian(draws, 5)
    torch.testing.assert_close(ESTIMATORS[name](log_probs), oracle.ESTIMATORS[name](log_probs))


def test_mlmc_is_the_identity_of_its_telescoping_sum() -> None:
    """log pi = F_L + (1/2) sum_j (F_(j-1) - G_j), the closed form of the shared-sample sum."""
    log_probs, _ = linear_gaussian(8, 5)
    s0, rest = log_probs[0], log_probs[1:]
    f = [oracle.together(s0, rest[: 2**j]) for j in range(4)]
    f[0] = torch.stack([oracle.together(s0, one[None]) for one in rest]).mean(0)
    g = [oracle.together(s0, rest[2 ** (j - 1) : 2**j]) for j in range(1, 4)]
    expected = f[3] + 0.5 * sum(f[j] - g[j] for j in range(3))
    torch.testing.assert_close(oracle.mlmc(log_probs), expected)


@pytest.mark.parametrize("particles", [1, 5])
@pytest.mark.parametrize("twins_first", [True, False])
@pytest.mark.parametrize("aggregate", ["lse", "mean", "min"])
def test_marginal_q_is_the_oracles(aggregate: str, twins_first: bool, particles: int) -> None:
    """Eq. 14."""
    q = torch.randn(2, particles, 3, dtype=torch.float64)
    torch.testing.assert_close(marginal_q(q, aggregate, twins_first), oracle.marginal_q(q, aggregate, twins_first))


def test_eqs_9_and_10_with_a_proposal_of_ones_own() -> None:
    """s ~ N(0, 1), a | s ~ N(s, STD^2): the posterior is N(gain a, gain STD^2), gain = 1 / (1 + STD^2)."""
    s = torch.randn(N, dtype=torch.float64)
    a = s + STD * torch.randn(N, dtype=torch.float64)
    gain = 1 / (1 + STD**2)
    log_marginal = normal(a, torch.zeros(1), math.sqrt(1 + STD**2))
    exact = 0.5 * math.log(2 * math.pi * math.e * (1 + STD**2))
    for shift, width in ((0.0, 1.0), (0.3, 1.0), (0.0, 2.0)):
        std = width * STD * math.sqrt(gain)
        draws = gain * a + shift + std * torch.randn(4, N, dtype=torch.float64)
        terms = normal(a, draws, STD), normal(draws, torch.zeros(1), 1.0), normal(draws, gain * a + shift, std)
        divergence = 0.5 * (width**2 - 1 + (shift / (STD * math.sqrt(gain))) ** 2) - math.log(width)
        value, error = entropy(elbo(*terms))
        assert value == pytest.approx(exact + divergence, abs=4 * error)
        gap = elbo_gap(*terms, log_marginal)
        assert float(gap.mean()) == pytest.approx(divergence, abs=4 * float(gap.std()) / math.sqrt(N) + 1e-9)
        if divergence == 0.0:  # with the posterior itself it is exact for every draw
            torch.testing.assert_close(elbo(*terms), log_marginal)


def test_the_prior_as_proposal_is_the_naive_estimate() -> None:
    log_probs = torch.randn(5, 7, dtype=torch.float64)
    log_prior = torch.randn(4, 7, dtype=torch.float64)
    torch.testing.assert_close(elbo(log_probs[1:], log_prior, log_prior), naive(log_probs))
