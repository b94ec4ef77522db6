"""The Gaussian that is not squashed: its density is torch's, its draws are clipped, its spread is bounded."""

from __future__ import annotations

import pytest
import torch

from worldrl.policies.gaussian import Gaussian
from worldrl.types import box


def policy(log_std: float = -0.7) -> Gaussian:
    made = Gaussian((5,), box(3), 8, 1, "tanh")
    with torch.no_grad():
        made.log_std.add_(log_std * torch.tensor([1.0, 0.5, 2.0]))
    return made


def test_the_density_is_torchs_at_draws_and_at_given_actions_on_the_ends_of_the_box() -> None:
    one, x = policy(), torch.randn(7, 5)
    normal = torch.distributions.Normal(torch.tanh(one.net(x)), one.log_std.exp())
    draw = one.sample(x, one.noise(x, 4))
    torch.testing.assert_close(draw.log_prob, normal.log_prob(draw.raw).sum(-1))
    ends = torch.tensor([1.0, -1.0, 0.0]).expand(7, 3)
    torch.testing.assert_close(one.log_prob(ends, x), normal.log_prob(ends).sum(-1))
    others = torch.randn(6, 1, 7, 5)
    assert one.log_prob(draw.raw, others).shape == (6, 4, 7)


def test_draws_are_clipped_and_have_the_law_of_the_density() -> None:
    one, x = policy(), torch.zeros(20_000, 5)
    draw = one.sample(x)
    assert torch.equal(draw.action, draw.raw.clamp(-1.0, 1.0))
    assert draw.action.abs().max() == 1.0
    torch.testing.assert_close(draw.raw[0].mean(0), one.mean(x)[0], atol=0.02, rtol=0.0)
    torch.testing.assert_close(draw.raw[0].std(0), one.log_std.exp(), rtol=0.03, atol=0.0)
    assert torch.equal(one.mode(x), one.mean(x))


@pytest.mark.parametrize(("log_std", "expected"), [(-9.0, -5.0), (9.0, 2.0)])
def test_the_spread_is_bounded(log_std: float, expected: float) -> None:
    assert policy(2 * log_std).std().log().detach().tolist() == pytest.approx([expected] * 3)


def test_the_spread_returns_from_its_floor() -> None:
    own = policy()
    own.log_std.data.fill_(-5.2)
    optimizer = torch.optim.Adam(own.parameters(), 1e-2)
    for _ in range(50):
        optimizer.zero_grad()
        (-own.log_prob(torch.randn(64, 3), torch.zeros(64, 5)).mean()).backward()
        optimizer.step()
    assert (own.log_std > -4.9).all()
