"""Densities against float64, quadrature and torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Independent, Normal, kl_divergence

from worldrl.nn.functional import (
    at_action,
    elu_,
    inverse_softplus,
    limited,
    log_mean_exp,
    masked_mean,
    normal_entropy,
    normal_kl,
    normal_log_prob,
    tanh_log_det,
)
from worldrl.policies.tanh_gaussian import TanhGaussian
from worldrl.types import box


def test_tanh_log_det_is_exact_where_the_textbook_form_underflows() -> None:
    u = torch.linspace(-20, 20, 401, dtype=torch.float64)
    exact = -2 * torch.log(torch.cosh(u))
    torch.testing.assert_close(tanh_log_det(u), exact, rtol=1e-9, atol=1e-9)
    assert (tanh_log_det(u.float()) - exact).abs().max() < 1e-5


def test_elu_and_its_gradient_are_torchs_to_float32_rounding() -> None:
    x = torch.cat([torch.linspace(-30, 30, 1001), torch.tensor([-1e-6, 0.0, 1e-6, -200.0])])
    exact, ours = x.double().requires_grad_(), x.clone().requires_grad_()
    y, z = F.elu(exact), elu_(ours * 1.0)
    torch.testing.assert_close(z.double(), y, rtol=1e-6, atol=1.2e-7)
    weight = torch.randn(len(x))
    (expected,) = torch.autograd.grad((weight.double() * y).sum(), exact)
    (found,) = torch.autograd.grad((weight * z).sum(), ours)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=5e-7)
    assert elu_(torch.tensor([math.nan])).isnan().all()


def test_tanh_gaussian_integrates_to_one() -> None:
    policy = TanhGaussian((3,), box(1), units=4, layers=1, init_std=1.0).double()
    x = torch.randn(1, 3, dtype=torch.float64)
    edges = torch.linspace(-1 + 1e-7, 1 - 1e-7, 400_001, dtype=torch.float64)
    action = 0.5 * (edges[1:] + edges[:-1])
    density = policy.log_prob(torch.atanh(action)[:, None], x).exp().detach()
    assert float(density.sum() * (edges[1] - edges[0])) == pytest.approx(1.0, abs=1e-4)


def test_gaussian_formulas_against_torch() -> None:
    mean, prior_mean, x = torch.randn(3, 4, 5).unbind()
    std, prior_std = (torch.rand(2, 4, 5) + 0.2).unbind()
    p, q = Independent(Normal(mean, std), 1), Independent(Normal(prior_mean, prior_std), 1)
    torch.testing.assert_close(normal_log_prob(x, mean, std), p.log_prob(x))
    torch.testing.assert_close(normal_entropy(std), p.entropy())
    torch.testing.assert_close(normal_kl(mean, std, prior_mean, prior_std), kl_divergence(p, q))


def test_small_ones() -> None:
    x = torch.tensor([[1.0, 5.0], [3.0, 7.0]])
    mask = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert masked_mean(x, mask) == 2.0
    assert masked_mean(torch.stack([x, x + 1]), mask) == 2.5
    assert masked_mean(x, torch.zeros(2, 2)) == 0.0
    assert math.log1p(math.exp(inverse_softplus(5.0))) == pytest.approx(5.0)
    one = torch.randn(1, 9)
    assert torch.equal(log_mean_exp(one), one[0])


def test_initial_standard_deviation_is_five() -> None:
    policy = TanhGaussian((3,), box(2), units=4, layers=1)
    torch.nn.init.zeros_(policy.net.linears[-1].weight)
    torch.nn.init.zeros_(policy.net.linears[-1].bias)
    _, std = policy.stats(torch.randn(6, 3))
    torch.testing.assert_close(std, torch.full((6, 2), 5.0001))


def test_sample_and_log_prob_agree_far_in_the_tails() -> None:
    policy = TanhGaussian((3,), box(2), units=4, layers=1, init_std=8.0)
    x = torch.randn(500, 3)
    draw = policy.sample(x)
    assert draw.raw.abs().max() > 12
    torch.testing.assert_close(policy.log_prob(draw.raw, x), draw.log_prob)


@pytest.mark.parametrize(("x", "wanted"), [(-6.0, -5.0), (-6.0, 0.0), (3.0, 2.0), (3.0, 0.0), (0.5, 1.0)])
def test_a_number_returns_from_beyond_its_limits_and_goes_no_further(x: float, wanted: float) -> None:
    at = torch.tensor([x], requires_grad=True)
    limited(at, -5.0, 2.0).sub(wanted).square().sum().backward()
    inside = min(max(x, -5.0), 2.0)
    assert limited(at, -5.0, 2.0).item() == inside
    assert at.grad is not None
    assert at.grad.item() == 2 * (inside - wanted)  # zero at the limit itself
    at.grad = None
    (limited(at, -5.0, 2.0) * (1.0 if x < 0 else -1.0)).sum().backward()
    assert at.grad.item() == (0.0 if inside != x else -1.0)


@pytest.mark.parametrize(
    ("values", "action"),
    [
        ((3, 4), (3, 4)),  # one action a state
        ((3, 4), (5, 3, 4)),  # five actions a state
        ((1, 3, 4), (5, 1, 4)),
        ((2, 1, 3, 4), (5, 3, 4)),  # two critics
        ((2, 6, 1, 3, 4), (5, 3, 4)),  # and six particles
        ((4,), (5, 4)),
        ((2, 1, 1, 4), (5, 3, 4)),
        ((3, 4), (4,)),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_values_at_actions_are_the_sum_over_all(values: tuple[int, ...], action: tuple[int, ...], shared: bool) -> None:
    """Shared by all states, as every choice is, or not; the values and their gradient, to the last bit."""
    torch.manual_seed(0)
    q = torch.randn(values, requires_grad=True)
    lead = (action[0], *[1] * (len(action) - 2)) if shared and len(action) > 1 else action[:-1]
    a = F.one_hot(torch.randint(4, lead), 4).float().expand(action)
    found, wanted = at_action(q, a), torch.einsum("...a,...a->...", *torch.broadcast_tensors(q, a))
    assert torch.equal(found, wanted)
    weight = torch.randn_like(wanted)
    mine, other = (torch.autograd.grad((weight * each).sum(), q)[0] for each in (found, wanted))
    torch.testing.assert_close(mine, other)


def test_a_straight_through_action_has_a_gradient() -> None:
    q, rows = torch.randn(1, 4), torch.eye(4).requires_grad_()
    at_action(q, rows).sum().backward()
    assert torch.equal(rows.grad, q.expand(4, 4))


def test_every_choice_is_taken_to_the_last_bit_and_without_a_copy_for_each() -> None:
    n = 1_000
    q = torch.randn(64, n)
    every = torch.eye(n)[:, None].expand(n, 64, n)  # 256 MB, were it not a view
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        found = at_action(q, every)
    assert torch.equal(found, q.mT)
    assert max(event.cpu_memory_usage for event in profile.function_events) < 2e7
