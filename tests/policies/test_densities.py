"""Flow and mixture: densities against integrals, torch.distributions and autograd; modes; unbiased stratified draws."""

from __future__ import annotations

import pytest
import torch
from torch import distributions, nn

from worldrl.policies.flow import Flow
from worldrl.policies.mixture import Mixture
from worldrl.policies.tanh_gaussian import TanhGaussian
from worldrl.types import INSIDE, Draw, box

CHOICES = {
    "flow2": (Flow, Flow.Config()),
    "flow4": (Flow, Flow.Config(blocks=4)),
    "mixture5": (Mixture, Mixture.Config()),
    "mixture10": (Mixture, Mixture.Config(10)),
}


def build(name: str, action_dim: int, sharpen: float = 3.0) -> nn.Module:
    """A policy on inputs of three numbers, its last layers enlarged so that x and the halves matter."""
    cls, config = CHOICES[name]
    policy = cls(config, (3,), box(action_dim), 16, 2, "tanh")
    with torch.no_grad():
        for module in [policy.net] if name.startswith("mixture") else [block.net for block in policy.blocks]:
            module.linears[-1].weight.mul_(sharpen)
    return policy


@pytest.mark.parametrize("action_dim", [1, 2])
@pytest.mark.parametrize("name", CHOICES)
def test_densities_integrate_to_one(name: str, action_dim: int) -> None:
    """Over actions: each density of a = tanh(u) times da / du, summed over a grid of u."""
    policy, x = build(name, action_dim, sharpen=1.0), torch.randn(3)
    u = torch.linspace(-9, 9, 20_001 if action_dim == 1 else 901)
    grid = torch.cartesian_prod(*[u] * action_dim).reshape(-1, action_dim)
    with torch.no_grad():
        log_mass = policy.log_prob(grid, x).double() - 2.0 * torch.cosh(grid.double()).log().sum(-1)
    assert float(log_mass.exp().sum() * (u[1] - u[0]) ** action_dim) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("name", CHOICES)
def test_the_density_of_a_draw_is_the_density_of_that_action(name: str) -> None:
    policy, x = build(name, 3), torch.randn(4, 5, 3)
    draw = policy.sample(x)
    assert draw.action.shape[1:] == (4, 5, 3)
    torch.testing.assert_close(draw.action, torch.tanh(draw.raw))
    torch.testing.assert_close(draw.log_prob, policy.log_prob(draw.raw, x), rtol=1e-4, atol=1e-4)
    others = torch.randn(6, 1, 4, 5, 3)  # particles against all draws, as SMAC asks
    every = policy.log_prob(draw.raw, others)
    assert every.shape == (6, len(draw.action), 4, 5)
    torch.testing.assert_close(every[2], policy.log_prob(draw.raw, others[2, 0]))


@pytest.mark.parametrize("name", [*CHOICES, "own"])
def test_drawing_is_sample_and_an_action_leads_back_to_its_raw_value(name: str) -> None:
    policy = TanhGaussian((3,), box(2), 16, 2, std="log") if name == "own" else build(name, 2, sharpen=1.0)
    x = torch.randn(4, 5, 3)
    noise = policy.noise(x, 2)
    draw = policy.sample(x, noise)
    for one, other in zip(policy.drawing(x)(noise), draw, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    inside = draw.action.abs() < INSIDE
    assert inside.any()
    torch.testing.assert_close(policy.raw_of(draw.action)[inside], draw.raw[inside], rtol=1e-3, atol=1e-4)
    assert torch.isfinite(policy.raw_of(torch.tensor([-1.0, 0.0, 1.0]))).all()


@pytest.mark.parametrize("action_dim", [1, 2, 3, 5])
@pytest.mark.parametrize("name", ["flow2", "flow4"])
def test_flow_log_determinant_is_autograds_and_its_inverse_inverts(name: str, action_dim: int) -> None:
    flow, x, z = build(name, action_dim), torch.randn(3), torch.randn(action_dim)
    u, log_det = flow.transform(z, x)
    jacobian = torch.autograd.functional.jacobian(lambda z: flow.transform(z, x)[0], z)
    torch.testing.assert_close(log_det, jacobian.slogdet().logabsdet, rtol=1e-4, atol=1e-5)
    for block in reversed(flow.blocks):
        u, _ = block.inverse(u, x)
    torch.testing.assert_close(u, z, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "least"), [("flow2", 2), ("flow4", 3)])
def test_every_part_of_an_action_depends_on_the_state_and_on_other_parts(name: str, least: int) -> None:
    """Two blocks mix each coordinate with another one, four mix each with all."""
    flow, x, z = build(name, 3), torch.randn(3), torch.randn(3)
    by_x = torch.autograd.functional.jacobian(lambda x: flow.transform(z, x)[0], x)
    by_z = torch.autograd.functional.jacobian(lambda z: flow.transform(z, x)[0], z)
    assert (by_x.abs().sum(1) > 1e-6).all()
    assert ((by_z.abs() > 1e-6).sum(1) >= least).all()


def test_mixture_density_is_that_of_torch() -> None:
    policy, x = build("mixture5", 3), torch.randn(7, 3)
    stats = policy.stats(x)
    components = distributions.Independent(distributions.Normal(stats.mean, stats.std), 1)
    mixture = distributions.MixtureSameFamily(distributions.Categorical(logits=stats.log_weight), components)
    u = torch.randn(7, 3)
    expected = mixture.log_prob(u) - (1.0 - torch.tanh(u).square()).log().sum(-1)
    torch.testing.assert_close(policy.log_prob(u, x), expected, rtol=1e-4, atol=1e-4)


def test_modes() -> None:
    x = torch.randn(7, 3)
    flow = build("flow4", 3)
    torch.testing.assert_close(flow.mode(x), torch.tanh(flow.transform(torch.zeros(7, 3), x)[0]))
    mixture = build("mixture5", 3)
    stats = mixture.stats(x)
    expected = torch.stack([stats.mean[i, stats.log_weight[i].argmax()] for i in range(7)]).tanh()
    torch.testing.assert_close(mixture.mode(x), expected)


def test_stratified_draws_are_unbiased_and_so_is_their_gradient() -> None:
    """E f(a) and its gradient for f(a) = sum a^2: by quadrature, and by weighted draws of every component."""
    policy, x = build("mixture5", 1), torch.randn(3)
    u = torch.linspace(-14, 14, 20_001)
    density = policy.log_prob(u[:, None], x).exp() / torch.cosh(u).square()
    exact = (density * torch.tanh(u).square()).sum() * (u[1] - u[0])
    draw = policy.sample(x.expand(200_000, 3))
    weight = draw.weight
    torch.testing.assert_close(weight.sum(0), torch.ones(200_000))
    estimate = (weight * draw.action[..., 0].square()).sum(0).mean()
    torch.testing.assert_close(estimate, exact, rtol=0.01, atol=0.0)
    for ours, theirs in zip(
        *(torch.autograd.grad(f, list(policy.parameters())) for f in (estimate, exact)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=2e-3)


def test_one_action_is_drawn_by_its_weight() -> None:
    weight = torch.tensor([0.2, 0.5, 0.3])[:, None].expand(3, 50_000)
    action = torch.arange(3.0)[:, None, None].expand(3, 50_000, 2)
    picked = Draw(action, action, weight, weight).one()
    assert picked.shape == (50_000, 2)
    torch.testing.assert_close(picked[:, 0].long().bincount() / 50_000, weight[:, 0], atol=0.01, rtol=0)
    assert torch.equal(Draw(action[:1], action[:1], weight[:1]).one(), action[0])
