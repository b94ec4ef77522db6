"""The marginal policy against Gaussians and mixtures whose densities are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from worldrl.nn.functional import normal_log_prob, tanh_log_det
from worldrl.policies.action_prior import MarginalPolicy, bounded

WIDE = (-60.0, 60.0)  # bounds that change nothing


def linear(w: float, std: float, **settings: Any) -> MarginalPolicy:
    """Mean w u and a constant std in one dimension: the pre-tanh marginal is N(0, w^2 + std^2)."""
    marginal = MarginalPolicy(1, units=1, layers=0, log_var=WIDE, **settings)
    with torch.no_grad():
        marginal.decoder.linears[0].weight.copy_(torch.tensor([[w], [0.0]]))
        marginal.decoder.linears[0].bias.copy_(torch.tensor([0.0, 2.0 * math.log(std)]))
    return marginal


def exact(z: Tensor, w: float, std: float) -> Tensor:
    return normal_log_prob(z, torch.zeros(1), torch.tensor([math.hypot(w, std)])) - tanh_log_det(z).sum(-1)


class Posterior(nn.Module):
    """q(u | a) of ``linear``, exactly."""

    def __init__(self, w: float, std: float) -> None:
        super().__init__()
        self.gain, self.log_var = w / (w**2 + std**2), math.log(std**2 / (w**2 + std**2))

    def forward(self, action: Tensor) -> Tensor:
        z = torch.atanh(action)
        return torch.cat([self.gain * z, torch.full_like(z, self.log_var)], -1)


@pytest.mark.parametrize("shared", [False, True])
def test_density_of_a_gaussian(shared: bool) -> None:
    z = torch.tensor([[-1.5], [0.0], [0.7]])
    found = linear(0.8, 0.5, samples=40_000, shared=shared).log_prob(z)
    torch.testing.assert_close(found, exact(z, 0.8, 0.5), atol=0.03, rtol=0.0)


def test_one_sample_is_a_component() -> None:
    marginal, z = linear(0.8, 0.5, samples=1), torch.randn(6, 1)
    torch.manual_seed(3)
    u = torch.randn(1, 6, 1)[0]
    torch.manual_seed(3)
    expected = torch.distributions.Normal(0.8 * u, 0.5).log_prob(z)[:, 0] - (1 - torch.tanh(z) ** 2).log()[:, 0]
    torch.testing.assert_close(marginal.log_prob(z), expected, rtol=1e-4, atol=1e-5)


def test_log_mean_exp_is_a_lower_bound_that_rises() -> None:
    z = torch.randn(20_000, 1) * math.hypot(1.0, 0.3)
    values = [float(linear(1.0, 0.3, samples=n).log_prob(z).mean()) for n in (1, 4, 20)]
    assert values == sorted(values)
    assert values[-1] < float(exact(z, 1.0, 0.3).mean())


def test_the_density_of_actions_integrates_to_one() -> None:
    marginal = MarginalPolicy(1, units=8, layers=2, samples=20, shared=True)
    a = torch.linspace(-1, 1, 200_001)[1:-1, None]
    assert float(marginal.log_prob(torch.atanh(a)).exp().mean()) * 2.0 == pytest.approx(1.0, abs=2e-3)


def test_exact_posterior_gives_the_exact_density_and_its_bound() -> None:
    marginal = linear(0.8, 0.5, samples=3, fit="vae")
    marginal.encoder = Posterior(0.8, 0.5)
    z = torch.tensor([[-1.0], [0.2], [0.9]])
    torch.testing.assert_close(marginal.log_prob(z), exact(z, 0.8, 0.5), rtol=1e-4, atol=1e-4)
    bound = -marginal.loss(torch.tanh(z).expand(20_000, 3, 1)).mean(0)
    torch.testing.assert_close(bound, exact(z, 0.8, 0.5), rtol=0.0, atol=0.03)


@pytest.mark.parametrize("fit", ["likelihood", "single", "vae"])
def test_the_density_moves_with_its_argument_alone(fit: Any) -> None:
    """The gradient is the mean of the components' gradients, weighted by the components' posterior."""
    marginal = linear(0.8, 0.5, samples=5, fit=fit)
    z = torch.tensor([[0.4]], requires_grad=True)
    torch.manual_seed(1)
    mean, std, log_weight = marginal._components(z)
    posterior = torch.softmax(normal_log_prob(z, mean, std) + log_weight, 0)[..., None]
    expected = (posterior * (mean - z) / std**2).sum(0) + 2.0 * torch.tanh(z)
    torch.manual_seed(1)
    found, *unused = torch.autograd.grad(
        marginal.log_prob(z).sum(), [z, *marginal.parameters()], allow_unused=True, materialize_grads=False
    )
    torch.testing.assert_close(found, expected.detach())
    assert unused == [None] * len(list(marginal.parameters()))


def fitted(fit: Any) -> float:
    """Mean log density, by many samples, of actions at two places, after a fit to them."""
    marginal = MarginalPolicy(1, units=16, layers=2, samples=20, fit=fit)
    adam = torch.optim.Adam(marginal.parameters(), lr=1e-2)
    signs = torch.randint(0, 2, (64, 1)) * 2.0 - 1.0
    actions = torch.tanh(1.5 * signs + 0.15 * torch.randn(64, 1))
    for _ in range(400):
        adam.zero_grad()
        marginal.loss(actions).mean().backward()
        adam.step()
    marginal.samples = 500
    return float(marginal.log_prob(torch.atanh(actions)).detach().mean())


def test_the_mixture_finds_both_modes_and_the_literal_objective_neither() -> None:
    assert fitted("likelihood") > fitted("single") + 1.0


def test_losses_are_densities_of_actions() -> None:
    marginal, z = linear(0.8, 0.5, samples=1), torch.randn(6, 1)
    torch.manual_seed(2)
    expected = marginal.log_prob(z)
    torch.manual_seed(2)
    torch.testing.assert_close(-marginal.loss(torch.tanh(z)), expected, rtol=1e-4, atol=1e-4)


def test_actions_at_the_edge_stay_finite_and_all_others_are_as_they_are() -> None:
    """The float32 next to one is below the bound, so that only one itself is moved."""
    marginal, edge = linear(0.8, 0.5, samples=1), torch.tensor([[1.0], [-1.0]])
    inside = torch.nextafter(edge, torch.zeros(1))
    found = []
    for action in (edge, inside):
        torch.manual_seed(3)
        found.append(marginal.loss(action))
    assert torch.isfinite(found[0]).all()
    assert torch.equal(*found)
    torch.manual_seed(3)
    torch.testing.assert_close(found[1], -marginal.log_prob(torch.atanh(inside)), rtol=1e-5, atol=1e-5)
    assert float(torch.atanh(inside).abs().max()) == pytest.approx(0.5 * math.log(2.0**25), rel=1e-6)


def test_bounds_are_smooth_and_hold() -> None:
    x = torch.tensor([-100.0, -5.0, 100.0])
    low, middle, high = bounded(x, -10.0, 0.5).tolist()
    assert low == pytest.approx(-10.0, abs=1e-4)
    assert middle == pytest.approx(-5.0, abs=0.02)
    assert high == pytest.approx(0.5, abs=1e-3)
