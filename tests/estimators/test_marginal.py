"""The estimators against exact marginal entropies: a linear-Gaussian policy and a discrete latent."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from worldrl.errors import UserError
from worldrl.estimators.marginal import (
    ESTIMATORS,
    ROULETTE_DECAY,
    draw_level,
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


@pytest.mark.parametrize("k", [1, 2, 8, 32])
def test_mlmc_has_the_mean_of_nested(policy, k: int) -> None:
    log_probs, _ = policy(k)
    difference = mlmc(log_probs) - nested(log_probs)
    assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(N) + 1e-12
    fresh, _ = policy(independent_draws("mlmc_fresh", k))
    value, error = entropy(mlmc_fresh(fresh))
    reference, reference_error = entropy(nested(log_probs))
    assert abs(value - reference) < 4 * math.hypot(error, reference_error)


def test_mlmc_matches_the_identity_of_its_telescoping_sum() -> None:
    """log pi = F_L + (1/2) sum_j (F_{j-1} - G_j), the closed form of the shared-sample sum."""
    k, levels = 8, 3
    log_probs, _ = linear_gaussian(k, 5)
    s0, rest = log_probs[:1], log_probs[1:]
    lme = lambda x: torch.logsumexp(x, 0) - math.log(len(x))  # noqa: E731
    f = [lme(torch.cat([s0, rest[: 2**j]])) for j in range(levels + 1)]
    f[0] = torch.stack([lme(torch.cat([s0, rest[i : i + 1]])) for i in range(k)]).mean(0)
    g = [lme(torch.cat([s0, rest[2 ** (j - 1) : 2**j]])) for j in range(1, levels + 1)]
    expected = f[levels] + 0.5 * sum(f[j - 1] - g[j - 1] for j in range(1, levels + 1))
    torch.testing.assert_close(mlmc(log_probs), expected)


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
    log_probs, _ = linear_gaussian(0, 7)
    assert torch.equal(ESTIMATORS[name](log_probs), log_probs[0])


@pytest.mark.parametrize("k", [3, 6, 33])
def test_mlmc_refuses_what_is_no_power_of_two(k: int) -> None:
    with pytest.raises(UserError, match=f"power of two, found {k}"):
        independent_draws("mlmc", k)
    with pytest.raises(UserError, match="power of two"):
        mlmc(linear_gaussian(k, 2)[0])


def test_marginal_q_against_a_direct_sum() -> None:
    q = torch.randn(2, 5, 3, dtype=torch.float64)
    direct = torch.log(torch.exp(torch.minimum(q[0], q[1])).mean(0))
    torch.testing.assert_close(marginal_q(q), direct)
    outside = torch.minimum(torch.log(torch.exp(q[0]).mean(0)), torch.log(torch.exp(q[1]).mean(0)))
    torch.testing.assert_close(marginal_q(q, twins_first=False), outside)
    torch.testing.assert_close(marginal_q(q, "mean"), torch.minimum(q[0], q[1]).mean(0))
    torch.testing.assert_close(marginal_q(q, "min"), q.amin((0, 1)))
    one = q[:, :1]
    assert torch.equal(marginal_q(one), torch.minimum(one[0], one[1])[0])
