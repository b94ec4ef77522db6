"""The chains against a plain one, where the tilted law is known: linear, by quadrature, and where nothing is tilted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.oracles.misa import hamiltonian
from worldrl.estimators.hamiltonian import ChainNoise, chain_noise, run_chains, usual_step

CHAINS = 4_000


def start(dims: int, chains: int = CHAINS) -> Tensor:
    return torch.randn(chains, 1, dims)


@pytest.mark.parametrize("tilt", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("dims", [1, 6])
def test_a_linear_value_shifts_the_noise_by_its_slope(tilt: float, dims: int) -> None:
    """Q = w . z, z = mu + sigma e: log p(e) = -|e|^2 / 2 + sigma w . e, whose mean is sigma w; its length is ``tilt``.

    One chain of five steps has 95 % of the shift or more, and one of thirty all of it, within three standard errors.
    """
    shift = torch.full((dims,), tilt / math.sqrt(dims))
    density = lambda e: (e * shift).sum(-1) - 0.5 * e.square().sum(-1)  # noqa: E731
    found = {}
    for steps in (5, 30):
        e = start(dims)
        chain = run_chains(density, e, usual_step(dims), chain_noise(e, steps))
        found[steps] = chain.state.flatten(0, 1)
        assert float(chain.acceptance.mean()) > 0.6
    recovered = float(found[5].mean(0) @ shift) / tilt**2
    assert 0.95 < recovered < 1.06
    assert float((found[30].mean(0) - shift).abs().max()) < 3 / math.sqrt(CHAINS)
    assert float((found[30].std(0) - 1).abs().max()) < 0.05


def test_any_value_of_one_action_gives_the_moments_of_quadrature() -> None:
    mean, std = 0.3, 0.8
    q = lambda a: 2.0 * torch.sin(3.0 * a) + a  # noqa: E731
    density = lambda e: q(torch.tanh(mean + std * e))[..., 0] - 0.5 * e.square().sum(-1)  # noqa: E731
    e = start(1, 20_000)
    noise = run_chains(density, e, 0.7, chain_noise(e, 20)).state.flatten()
    grid = torch.linspace(-8, 8, 20_001, dtype=torch.float64)[:, None]
    weight = density(grid).softmax(0)
    for moment in (lambda x: x, torch.square, torch.tanh):
        values = moment(noise)
        assert abs(float(values.mean() - (weight * moment(grid[:, 0])).sum())) < 3 * float(values.std()) / math.sqrt(
            20_000
        )


def test_where_nothing_is_tilted_the_start_and_the_end_have_one_law() -> None:
    e = start(3)
    chain = run_chains(lambda e: -0.5 * e.square().sum(-1), e, 1.0, chain_noise(e, 5))
    state = chain.state.flatten(0, 1)
    assert float(state.mean(0).abs().max()) < 4 / math.sqrt(CHAINS)
    assert float((state.T.cov() - torch.eye(3)).abs().max()) < 0.1
    assert not torch.equal(state, e.flatten(0, 1))


def test_each_chain_is_the_plain_one_with_the_same_noise() -> None:
    density = lambda e: torch.sin(2.0 * e).sum(-1) - 0.5 * e.square().sum(-1)  # noqa: E731
    e = start(2, 50).double()
    noise = ChainNoise(torch.randn(6, 50, 1, 2).double(), torch.rand(6, 50, 1).double())
    for leapfrogs in (1, 3):
        found = run_chains(density, e, 0.9, noise, leapfrogs)
        state, acceptance = hamiltonian(density, e, 0.9, *noise, leapfrogs)
        torch.testing.assert_close(found.state, state)
        torch.testing.assert_close(found.acceptance, acceptance)
        assert 0.2 < float(acceptance.mean()) < 0.95


def test_a_chain_depends_on_nothing_but_its_noise_and_its_start() -> None:
    e, density = start(2, 10), lambda e: -0.5 * e.square().sum(-1)
    noise = chain_noise(e, 4)
    one, two = (run_chains(density, e, 1.0, noise) for _ in range(2))
    assert torch.equal(one.state, two.state)
    assert not one.state.requires_grad
    other = noise._replace(momentum=torch.cat([noise.momentum[:, :1] + 1.0, noise.momentum[:, 1:]], 1))
    changed = (run_chains(density, e, 1.0, other).state != one.state).any(-1)
    assert changed.flatten().tolist() == [True] + [False] * 9


@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
def test_what_is_not_finite_is_not_accepted(bad: float) -> None:
    """Beyond one, the density is not a number, zero, or infinite."""
    density = lambda e: torch.where(e[..., 0].abs() < 1, 0.0 * e[..., 0], bad)  # noqa: E731
    e = torch.zeros(500, 1, 1)
    noise = chain_noise(e, 10)
    noise.uniform[3] = 0.0  # whose logarithm is that of no probability at all
    chain = run_chains(density, e, 1.0, noise)
    assert float(chain.state.abs().max()) < 1
    assert 0.1 < float(chain.acceptance.mean()) < 0.9


def test_a_proposal_without_a_slope_is_not_accepted() -> None:
    """Beyond one its value is zero, and its gradient, zero times infinity, is not a number."""
    density = lambda e: ((1.0 - e[..., 0].square()) * (e[..., 0].abs() < 1)).sqrt()  # noqa: E731
    e = torch.zeros(500, 1, 1)
    chain = run_chains(density, e, 1.0, chain_noise(e, 10))
    assert float(chain.state.abs().max()) < 1
    assert 0.1 < float(chain.acceptance.mean()) < 0.9


def test_the_usual_step_is_accepted_about_as_often_in_any_number_of_dimensions() -> None:
    found = []
    for dims in (1, 6, 24, 60):
        e = start(dims, 1_000)
        chain = run_chains(lambda e: -0.5 * e.square().sum(-1), e, usual_step(dims), chain_noise(e, 5))
        found.append(float(chain.acceptance.mean()))
    assert min(found) > 0.7
    assert usual_step(6) == 1.0
    assert usual_step(96) == pytest.approx(0.5)
    assert np.ptp(found) < 0.25
