"""The latent-variable policy against a linear-Gaussian one, whose marginal is known exactly."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from worldrl.errors import UserError
from worldrl.estimators.marginal import mlmc, nested
from worldrl.nn.functional import normal_log_prob, tanh_log_det
from worldrl.policies.latent import LatentGaussian
from worldrl.policies.tanh_gaussian import TanhGaussian
from worldrl.types import box

N = 4000


def build(layers: int = 1, activation: str = "relu", **settings) -> LatentGaussian:
    config = LatentGaussian.Config(**{"latent": 4, "num_particles": 8, **settings})
    return LatentGaussian(config, (3,), box(2), 16, layers, activation)


def linear(**settings) -> LatentGaussian:
    """q and the decoder's mean are linear and the decoder's std is a constant: u = W s + b + noise is Gaussian."""
    policy = build(layers=0, **settings)
    with torch.no_grad():
        policy.decoder.net.linears[0].weight[2:] = 0.0
        policy.decoder.net.linears[0].weight[:2] *= 3.0
    return policy


def exact_log_prob(policy: LatentGaussian, pre_tanh: Tensor, x: Tensor) -> Tensor:
    mean, std = policy.q(x)
    w, b = policy.decoder.net.linears[0].weight[:2], policy.decoder.net.linears[0].bias[:2]
    noise = policy.decoder.stats(mean)[1]
    covariance = (w * std.square()[..., None, :]) @ w.T + torch.diag_embed(noise.square())
    normal = torch.distributions.MultivariateNormal(mean @ w.T + b, covariance)
    return normal.log_prob(pre_tanh) - tanh_log_det(pre_tanh).sum(-1)


def excess(policy: LatentGaussian, given: bool = False) -> tuple[float, float]:
    """Mean of estimate - exact log-probability over draws, and its standard error."""
    x = torch.ones(N, 3)
    draw = policy.sample(x)
    estimate = policy.log_prob(draw.raw[0], x) if given else draw.log_prob[0]
    error = (estimate - exact_log_prob(policy, draw.raw[0], x)).double()
    return float(error.mean()), float(error.std()) / math.sqrt(N)


@torch.no_grad()
def test_entropy_of_draws_is_a_lower_bound_that_rises_to_the_exact_one() -> None:
    policy = linear()
    errors = []
    for policy.particles in (0, 2, 8, 32, 1024):
        mean, error = excess(policy)
        assert mean > -3 * error
        errors.append(mean)
    assert all(b < a for a, b in pairwise(errors))
    assert errors[0] > 0.3
    assert errors[-1] < 0.02


@torch.no_grad()
def test_log_prob_of_a_given_action_is_a_lower_bound_that_rises_to_the_exact_one() -> None:
    policy = linear()
    errors = []
    for policy.particles in (0, 2, 8, 32, 1024):
        mean, error = excess(policy, given=True)
        assert mean < 3 * error
        errors.append(mean)
    assert all(b > a for a, b in pairwise(errors))
    assert errors[-1] > -0.02


@torch.no_grad()
def test_mlmc_has_the_mean_of_nested() -> None:
    policy, x = linear(), torch.ones(N, 3)
    _, log_probs = policy.conditionals(x, policy.noise(x, particles=8))
    difference = mlmc(log_probs) - nested(log_probs)
    assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(N)


@pytest.mark.parametrize("estimator", ["naive", "iwae", "nested", "mlmc", "mlmc_fresh"])
def test_without_particles_the_log_prob_is_conditional_whatever_the_estimator(estimator: str) -> None:
    policy, x = build(num_particles=0, estimator=estimator), torch.randn(5, 3)
    torch.manual_seed(1)
    draw = policy.sample(x)
    torch.manual_seed(1)
    s_0 = policy.latents(x, 1)[0]
    expected = policy.decoder.sample(s_0)
    assert torch.equal(draw.raw, expected.raw)
    assert torch.equal(draw.log_prob, expected.log_prob)


def test_a_latent_without_spread_is_a_tanh_gaussian() -> None:
    """q at a point: pi(a | x) is the decoder at that point, whatever K and estimator."""
    for estimator in ("nested", "mlmc"):
        policy, x = build(estimator=estimator), torch.randn(5, 3)
        with torch.no_grad():
            policy.encoder.linears[-1].weight[4:] = 0.0
            policy.encoder.linears[-1].bias[4:] = -100.0
        point = policy.q(x)[0]
        draw = policy.sample(x)
        expected = policy.decoder.log_prob(draw.raw, point)
        torch.testing.assert_close(draw.log_prob, expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(policy.log_prob(draw.raw, x), expected, rtol=1e-3, atol=1e-3)


def test_mode_is_the_decoders_at_the_mean_of_q() -> None:
    policy, x = build(), torch.randn(5, 3)
    torch.testing.assert_close(policy.mode(x), torch.tanh(policy.decoder.stats(policy.q(x)[0])[0]))


@pytest.mark.parametrize(("u", "x"), [((5, 2), (5, 3)), ((7, 5, 2), (5, 3)), ((5, 2), (7, 5, 3)), ((7, 1, 2), (5, 3))])
def test_log_prob_broadcasts(u: tuple[int, ...], x: tuple[int, ...]) -> None:
    pre_tanh, inputs = torch.randn(u), torch.randn(x)
    lead = torch.broadcast_shapes(u[:-1], x[:-1])
    torch.manual_seed(1)
    found = build().log_prob(pre_tanh, inputs)
    assert found.shape == lead


@pytest.mark.parametrize("estimator", ["nested", "mlmc", "mlmc_fresh"])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_gradient_of_a_draw_by_finite_differences(part: str, estimator: str) -> None:
    """Through the action and through s_0..s_K, into both networks, at fixed noise."""
    policy, x = build(activation="tanh", estimator=estimator, conditional_penalty=0.2), torch.randn(64, 3)

    def loss(policy: LatentGaussian) -> Tensor:
        torch.manual_seed(3)
        draw = policy.sample(x)
        return (draw.log_prob[0] + draw.penalty + 2.0 * draw.action[0].sum(-1)).double().mean()

    loss(policy).backward()
    for name, weight in getattr(policy, part).named_parameters():
        direction, step = torch.randn_like(weight), 2e-3
        values = []
        for sign in (1.0, -1.0):
            moved = copy.deepcopy(policy)
            with torch.no_grad():
                getattr(moved, part).get_parameter(name).add_(direction, alpha=sign * step)
                values.append(float(loss(moved)))
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(float((weight.grad * direction).sum()), rel=5e-3, abs=1e-3), name


def two_modes(pre_tanh: Tensor) -> Tensor:
    """The density before tanh of two Gaussians with means -0.8 and 0.8 and standard deviation 0.2."""
    log_probs = [normal_log_prob(pre_tanh, torch.tensor([mean]), torch.tensor([0.2])) for mean in (-0.8, 0.8)]
    return torch.stack(log_probs).exp().mean(0)


def distance_to_two_modes(policy: LatentGaussian | TanhGaussian, marginal: bool) -> float:
    """Total variation, by quadrature, after a fit to draws of the two modes by maximum likelihood."""
    optimizer = torch.optim.Adam(policy.parameters(), 1e-2)
    for _ in range(400):
        pre_tanh = 1.6 * torch.randint(2, (256, 1)) - 0.8 + 0.2 * torch.randn(256, 1)
        optimizer.zero_grad()
        policy.log_prob(pre_tanh, torch.zeros(256, 1)).mean().neg().backward()
        optimizer.step()
    grid = torch.linspace(-3.0, 3.0, 301)[:, None]
    with torch.no_grad():
        if marginal:
            density = policy.decoder.log_prob(grid[:, None], policy.latents(torch.zeros(1), 4000)).exp().mean(1)
        else:
            density = policy.log_prob(grid, torch.zeros(1)).exp()
    density = density * tanh_log_det(grid).sum(-1).exp()
    return float((density - two_modes(grid)).abs().sum()) * 0.02 / 2


def test_it_fits_two_modes_where_a_gaussian_cannot() -> None:
    """Proposition 1 of SMAC, on one density; other seeds stay for long where the latent is not used."""
    torch.manual_seed(3)
    latent = LatentGaussian(LatentGaussian.Config(latent=2, num_particles=16), (1,), box(1), 32, 1, "tanh")
    assert distance_to_two_modes(latent, marginal=True) < 0.1
    assert distance_to_two_modes(TanhGaussian((1,), box(1), 32, 1, "tanh", std="log"), marginal=False) > 0.45


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": "mlmc", "num_particles": 6}, "num_particles: found 6, expected a power of two.*nearest: 4 or 8"),
    ],
)
def test_refusals(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LatentGaussian.Config(**settings)
