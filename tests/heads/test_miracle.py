"""MIRACLE: eqs. 20 to 22 by hand, the limits in which it is SAC, and what its marginal policy learns from."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import STATE_SPEC
from worldrl.beliefs.identity import Identity
from worldrl.errors import UserError
from worldrl.heads.miracle import MIRACLE
from worldrl.heads.sac import transitions
from worldrl.heads.value_sac import ValueSAC
from worldrl.nn.functional import tanh_log_det
from worldrl.types import Batch, Draw

ONE = torch.tensor(1.0)


def build(cls: Any = MIRACLE, **settings: Any) -> tuple[Identity, Any]:
    model = Identity(Identity.Config(), STATE_SPEC)
    config = cls.Config(**{"units": 16, "reward_scale": 10.0, "tau": 0.01, **settings})
    return model, cls(config, model.feat_dim, model.context_dim, STATE_SPEC.action_dim)


def recent(make_batch: Any, n: int = 8) -> dict[str, Batch]:
    return {"recent": make_batch(STATE_SPEC._replace(obs={}), b=n, t=1)}


def known_marginal(pre_tanh: Tensor) -> Tensor:
    """Something simple that depends on its argument."""
    return -(pre_tanh - 0.3).square().sum(-1)


def test_equations_20_to_22(make_batch, monkeypatch) -> None:
    model, head = build()
    monkeypatch.setattr(head.marginal, "log_prob", known_marginal)
    batch = make_batch(STATE_SPEC, b=6, t=2)
    batch.is_terminal[1, 1] = 1.0
    belief = model.observe(batch, 0)[0]
    tr, states = transitions(batch, belief.feat[None]), head.actor_states(belief)
    s, a, s2 = batch.obs["state"][:, 0], batch.action[:, 1], batch.obs["state"][:, 1]
    y = 10 * batch.reward[:, 1] + 0.99 * (1 - batch.is_terminal[:, 1]) * head.target(s2)[0]
    expected_q = sum(((q - y) ** 2).mean() for q in head.critic(s, a))
    torch.testing.assert_close(head.critic_loss(tr, head.td_target(tr, belief, ONE))[0], expected_q)
    judged = head.judge(states)
    draw = judged.draw
    q = head.critic(s, draw.action[0, :, 0]).min(0).values
    gain = q - draw.log_prob[0, :, 0] + known_marginal(draw.pre_tanh[0, :, 0])
    torch.testing.assert_close(head.policy_loss(judged, tr.mask, ONE), -gain.mean())
    expected_v = ((head.value(s)[0] - gain.detach()) ** 2).mean()
    torch.testing.assert_close(head.value_loss(states, judged, tr.mask, ONE), expected_v)
    information = (draw.log_prob - known_marginal(draw.pre_tanh)).mean()
    torch.testing.assert_close(head.describe(judged, tr.mask)["policy/information"], information.detach())


def test_with_a_constant_marginal_it_is_sac_with_a_value_network(make_batch, monkeypatch) -> None:
    results = []
    for cls in (ValueSAC, MIRACLE):
        torch.manual_seed(0)
        model, head = build(cls)
        if cls is MIRACLE:
            monkeypatch.setattr(head.marginal, "log_prob", lambda pre_tanh: torch.zeros(pre_tanh.shape[:-1]))
        torch.manual_seed(1)
        for _ in range(3):
            batch = make_batch(STATE_SPEC)
            state = torch.get_rng_state()
            head.update("update", batch, model.observe(batch, 0)[0], model, recent(make_batch))
            torch.set_rng_state(state)
        results.append([p for part in (head.policy, head.critic, head.value) for p in part.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_actor_moves_towards_likely_actions(make_batch, monkeypatch) -> None:
    """The gradient reaches the policy through the argument of the marginal."""
    model, head = build()
    belief = model.observe(make_batch(STATE_SPEC), 0)[0]
    norms = []
    for marginal in (known_marginal, lambda z: known_marginal(z.detach())):
        monkeypatch.setattr(head.marginal, "log_prob", marginal)
        torch.manual_seed(0)
        excess = head.judge(head.actor_states(belief)).excess.sum()
        norms.append([g.norm() for g in torch.autograd.grad(excess, list(head.policy.parameters()))])
    assert not all(torch.equal(a, b) for a, b in zip(*norms, strict=True))


def test_losses_of_actor_and_values_leave_the_marginal_alone(make_batch) -> None:
    model, head = build()
    batch = make_batch(STATE_SPEC)
    belief = model.observe(batch, 0)[0]
    states, mask = head.actor_states(belief), transitions(batch, belief.feat[None]).mask
    judged = head.judge(states)
    loss = head.policy_loss(judged, mask, ONE) + head.value_loss(states, judged, mask, ONE)
    params = list(head.marginal.parameters())
    assert torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=False) == (None,) * len(params)


def test_the_marginal_learns_from_actions_and_not_from_first_rows(make_batch) -> None:
    _, head = build()
    rows = recent(make_batch)["recent"]
    rows.is_first[2] = 1.0
    losses = []
    for value in (0.0, 0.9):
        rows.action[2] = value
        torch.manual_seed(0)
        losses.append(head.marginal_loss(rows))
    assert torch.equal(*losses)
    rows.action[3] = -0.8
    torch.manual_seed(0)
    assert not torch.equal(head.marginal_loss(rows), losses[0])


def test_it_asks_for_recent_rows_or_takes_its_own(make_batch) -> None:
    model, head = build(marginal_batch=12, marginal_actions=500)
    assert head.needs.recent_batch == 12
    assert head.needs.recent_actions == 500
    batch = make_batch(STATE_SPEC)
    with pytest.raises(KeyError, match="recent"):
        head.update("update", batch, model.observe(batch, 0)[0], model)
    model, head = build(marginal_actions=0)
    assert head.needs.recent_batch == 0
    assert torch.isfinite(head.update("update", batch, model.observe(batch, 0)[0], model)["loss/marginal"])


def test_it_learns_the_marginal_of_what_it_is_given() -> None:
    """Actions of two kinds: the density is high at both and low between."""
    _, head = build(marginal_lr=1e-2)
    signs = torch.randint(0, 2, (64, 1, 1)) * 2.0 - 1.0
    action = torch.tanh(signs + 0.2 * torch.randn(64, 1, 2))
    zeros = torch.zeros(64, 1)
    for _ in range(150):
        head.optimizers["marginal"].step(head.marginal_loss(Batch({}, action, zeros, zeros, zeros)))
    head.marginal.samples = 500
    ends = head.marginal.log_prob(torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0], [1.0, -1.0]]))
    assert ends[:2].min() > ends[2:].max() + 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"marginal_samples": 0}, r"head.marginal_samples: found 0, expected 1 or more"),
        ({"marginal_actions": -1}, r"head.marginal_actions: found -1, expected 0 or more"),
        ({"marginal_log_var": (1.0, 0.0)}, r"head.marginal_log_var: found \(1.0, 0.0\), expected"),
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MIRACLE.Config(**settings)


@pytest.mark.parametrize("at", [0.3, 8.0, 15.0, 40.0])
def test_what_tanh_adds_to_both_densities_cancels(at: float) -> None:
    """log pi - log m of actions is that of their values before tanh, also where tanh is flat."""
    _, head = build()
    u = torch.full((1, 3, 4, 2), at)
    own, other = torch.randn(1, 3, 4), torch.randn(1, 3, 4)  # log-densities before tanh
    jacobian = tanh_log_det(u).sum(-1)
    head.marginal.log_prob = lambda pre_tanh: other - tanh_log_det(pre_tanh).sum(-1)
    excess = head.excess(Draw(torch.tanh(u), u, own - jacobian))
    torch.testing.assert_close(excess, own - other, rtol=0, atol=2e-5)


def test_the_marginal_has_the_jacobian_of_tanh() -> None:
    _, head = build()
    u = torch.tensor([[0.3, -2.0], [8.0, 15.0]])
    torch.manual_seed(1)
    found = head.marginal.log_prob(u)
    torch.manual_seed(1)
    mean, std, _ = head.marginal._components(u)
    normal = torch.distributions.Normal(mean.double(), std.double()).log_prob(u.double()).sum(-1)
    expected = normal.logsumexp(0) - math.log(len(normal)) - torch.log(1 - torch.tanh(u.double()) ** 2).sum(-1)
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-5, atol=1e-5)
    u64 = u[1].double()
    flat = normal[:, 1].logsumexp(0) - math.log(len(normal)) - (math.log(4) - 2 * u64).sum()
    torch.testing.assert_close(found[1].double(), flat, rtol=1e-5, atol=1e-4)
