"""MPO against its oracle, the optimum of its dual, the limits of its temperature, its trust region."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.optimize import minimize_scalar

from tests.conftest import STATE_SPEC
from tests.oracles.mpo import MPO as Oracle
from tests.oracles.side_by_side import compare, plain_agent, random_rows
from tests.test_agent import build as build_agent
from worldrl.beliefs.identity import Identity
from worldrl.errors import UserError
from worldrl.heads.mpo import MPO, Gaussian, action_weights, information, rescaling, shift, temperature_loss
from worldrl.heads.transitions import transitions


def build(**settings: Any) -> MPO:
    model = Identity(Identity.Config(), STATE_SPEC)
    return MPO(MPO.Config(**{**MPO.tiny, **settings}), model.sizes(STATE_SPEC.actions))


@pytest.mark.parametrize("settings", [{}, {"critics": 1, "gamma": 0.9}, {"temperature": "residual"}], ids=str)
def test_updates_are_the_oracles(settings: dict[str, Any]) -> None:
    """The copies of the policy too: one at every second update."""
    changes = {f"head.{key}": value for key, value in {**MPO.tiny, "policy_period": 2, **settings}.items()}
    agent = build_agent("identity", "mpo", STATE_SPEC, **changes)
    compare(agent, plain_agent(agent, Oracle), [random_rows(STATE_SPEC, seed) for seed in range(4)])


def test_at_the_optimum_of_the_dual_the_weights_are_epsilon_nats_from_the_old_policy() -> None:
    q, mask, epsilon = 3.0 * torch.randn(20, 64, 1, dtype=torch.float64), torch.ones(64, 1), 0.1
    loss = lambda eta: float(temperature_loss(q, mask, torch.tensor(eta), epsilon))  # noqa: E731
    eta = torch.tensor(minimize_scalar(loss, bounds=(1e-3, 1e3), method="bounded", options={"xatol": 1e-9}).x)
    assert float(information(action_weights(q, eta)).mean()) == pytest.approx(epsilon, abs=1e-6)


def test_a_cold_temperature_is_greedy_and_a_hot_one_keeps_the_old_policy() -> None:
    q = torch.randn(20, 8, 3)
    cold, hot = action_weights(q, torch.tensor(1e-4)), action_weights(q, torch.tensor(1e6))
    assert torch.equal(cold.argmax(0), q.argmax(0))
    assert cold.amax(0).min() > 0.999
    torch.testing.assert_close(hot, torch.full_like(q, 1 / 20), atol=1e-6, rtol=0)
    assert information(hot).abs().max() < 1e-6


def test_both_kl_terms_are_those_of_torch_and_their_exact_sum_is_the_kl_of_both_changes() -> None:
    old, new = (Gaussian(torch.randn(4, 3, 2), 0.1 + torch.rand(4, 3, 2)) for _ in range(2))
    normal, kl = torch.distributions.Normal, torch.distributions.kl_divergence
    torch.testing.assert_close(shift(old, new), kl(normal(*old), normal(new.mean, old.std)))
    torch.testing.assert_close(rescaling(old, new), kl(normal(*old), normal(old.mean, new.std)))
    both = rescaling(old, new) + shift(old, new) * (old.std / new.std).square()
    torch.testing.assert_close(both, kl(normal(*old), normal(*new)))


def test_the_multiplier_of_a_bound_that_is_broken_grows_and_that_of_one_that_holds_shrinks() -> None:
    head = build(dual_lr=0.1)
    before = [alpha.detach().clone() for alpha in head.multipliers()]
    q, mask = torch.randn(3, 4, 1), torch.ones(4, 1)
    broken, held = torch.full((2,), 1.0), torch.zeros(2)
    head.optimizers["dual"].step(head.dual_loss(q, mask, head.temperature(torch.ones(())), broken, held))
    mean, std = head.multipliers()
    assert (mean > before[0]).all()
    assert (std < before[1]).all()


def test_with_equal_values_the_best_fit_is_the_old_policy(make_batch) -> None:
    """The weights are then equal, and what many draws of the old policy are fitted best by is that policy."""
    head = build(samples=20_000)
    tr = transitions(make_batch(STATE_SPEC), torch.randn(1, 4, 6, 5))
    judged = head.judge(tr.feat[0])
    loss, kl_mean, kl_std = head.policy_loss(tr, judged, action_weights(torch.zeros_like(judged.q), torch.ones(())))
    assert kl_mean.abs().max() < 1e-12  # rounding
    assert kl_std.abs().max() < 1e-12
    grads = torch.autograd.grad(loss, list(head.policy.parameters()))
    assert max(float(grad.abs().max()) for grad in grads) < 0.02


def test_the_old_policy_is_the_policy_of_the_last_copy(make_batch) -> None:
    head, model = build(policy_period=3), Identity(Identity.Config(), STATE_SPEC)
    assert [head.phase(n) for n in range(6)] == ["update", "update", "copy"] * 2
    same = []
    for n in range(3):
        batch = make_batch(STATE_SPEC)
        head.update(head.phase(n), batch, model.observe(batch, 0)[0], model)
        same.append(all(map(torch.equal, head.policy.parameters(), head.target_policy.parameters())))
    assert same == [False, False, True]


@pytest.mark.parametrize("limits", [(1e3, 1e-3), (0.0, 1.0)])
def test_limits_are_a_range_above_zero(limits: tuple[float, float]) -> None:
    with pytest.raises(UserError):
        MPO.Config(residual_limits=limits)


def test_the_residual_sets_the_temperature_within_its_limits() -> None:
    head = build(temperature="residual", residual_scale=2.0, residual_limits=(0.5, 4.0))
    assert [float(head.temperature(torch.tensor(x))) for x in (0.1, 1.0, 9.0)] == [0.5, 2.0, 4.0]
    assert len(head.optimizers["dual"].params) == 2
