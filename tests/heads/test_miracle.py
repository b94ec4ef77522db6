"""MIRACLE against its oracle, and what its marginal policy learns from."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import STATE_SPEC
from tests.oracles import value_sac as oracle
from tests.oracles.side_by_side import compare, plain_agent, random_rows
from tests.test_agent import build as build_agent
from worldrl.beliefs.identity import Identity
from worldrl.errors import UserError
from worldrl.heads.miracle import MIRACLE
from worldrl.heads.transitions import transitions
from worldrl.nn.functional import tanh_log_det
from worldrl.types import Batch, Draw, choice

ONE = torch.tensor(1.0)


def build(cls: Any = MIRACLE, **settings: Any) -> tuple[Identity, Any]:
    model = Identity(Identity.Config(), STATE_SPEC)
    config = cls.Config(**{"units": 16, "reward_scale": 10.0, "tau": 0.01, **settings})
    return model, cls(config, model.sizes(STATE_SPEC.actions))


def recent(make_batch: Any, n: int = 8) -> dict[str, Batch]:
    return {"recent": make_batch(STATE_SPEC._replace(obs={}), b=n, t=1)}


def known_marginal(pre_tanh: Tensor) -> Tensor:
    """Something simple that depends on its argument."""
    return -(pre_tanh - 0.3).square().sum(-1)


def test_the_actor_moves_towards_likely_actions(make_batch, monkeypatch) -> None:
    """The gradient reaches the policy through the argument of the marginal."""
    model, head = build()
    belief = model.observe(make_batch(STATE_SPEC), 0)[0]
    params, gradients, seen = list(head.policy.parameters()), [], []
    for marginal in (lambda z: seen.append(z) or known_marginal(z), lambda z: known_marginal(z.detach())):
        monkeypatch.setattr(head.marginal, "log_prob", marginal)
        torch.manual_seed(0)
        excess = head.judge(head.actor_states(belief)).excess.sum()
        gradients.append(torch.autograd.grad(excess, params, retain_graph=True))
    towards = torch.autograd.grad(-known_marginal(seen[0]).sum(), params)
    assert any(g.norm() > 1e-3 for g in towards)
    for whole, rest, expected in zip(*gradients, towards, strict=True):
        torch.testing.assert_close(whole - rest, expected, rtol=1e-3, atol=1e-5)


def test_losses_of_actor_and_values_leave_the_marginal_alone(make_batch) -> None:
    model, head = build()
    batch = make_batch(STATE_SPEC)
    belief = model.observe(batch, 0)[0]
    states, tr = head.actor_states(belief), transitions(batch, belief.feat[None])
    judged = head.judge(states)
    loss = head.policy_loss(judged, tr, ONE) + head.value_loss(states, judged, tr.mask, ONE)
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


@pytest.mark.parametrize(
    "settings",
    [
        *({"head.marginal_fit": fit} for fit in ("likelihood", "single", "vae")),
        {"head.marginal_shared": True, "head.marginal_actions": 0},
        {"head.marginal_log_var": (-3.0, 0.1), "head.reward_scale": 2.0},
    ],
    ids=str,
)
def test_updates_are_the_oracles(settings: dict[str, Any]) -> None:
    """Eqs. 20 to 22, and the fit of the marginal policy to recent actions."""
    agent = build_agent("identity", "miracle", STATE_SPEC, **settings)
    beside = {"recent": random_rows(STATE_SPEC._replace(obs={}), 50, b=8, t=1)}
    compare(agent, plain_agent(agent, oracle.MIRACLE), [random_rows(STATE_SPEC, n) for n in range(4)], beside)


@pytest.mark.parametrize("setting", [{"marginal_fit": "vae"}, {"marginal_fit": "single"}, {"marginal_shared": True}])
def test_settings_of_a_mixture_are_refused_for_choices(setting: dict[str, Any]) -> None:
    spec = STATE_SPEC._replace(actions=choice(3))
    model = Identity(Identity.Config(), spec)
    with pytest.raises(UserError):
        MIRACLE(MIRACLE.Config(units=16, **setting), model.sizes(spec.actions))
