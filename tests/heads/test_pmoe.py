"""The mixture-of-experts head: its losses against a plain computation, and what its gradients reach."""

from __future__ import annotations

import pytest
import torch
from torch import distributions

from tests.conftest import STATE_SPEC
from worldrl.beliefs.identity import Identity
from worldrl.errors import UserError
from worldrl.heads.pmoe import PMOE, gate_loss

SMALL = PMOE.Config(units=16, actor_layers=2, critic_layers=2, experts=3)


@pytest.fixture
def head() -> PMOE:
    return PMOE(SMALL, 5, 5, 2)


def test_every_draw_has_the_density_of_its_own_expert(head: PMOE) -> None:
    x = torch.randn(7, 5)
    draw, stats = head.policy.sample(x), head.policy.stats(x)
    for m in range(3):
        normal = distributions.Independent(distributions.Normal(stats.mean[:, m], stats.std[:, m]), 1)
        expected = normal.log_prob(draw.pre_tanh[m]) - (1 - draw.action[m].square()).log().sum(-1)
        torch.testing.assert_close(draw.log_prob[m], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(draw.weight.sum(0), torch.ones(7))


def test_gate_loss_is_the_mean_squared_error_to_the_best() -> None:
    weight = torch.tensor([[0.2, 0.6], [0.3, 0.3], [0.5, 0.1]])
    expected = torch.tensor([(0.04 + 0.09 + 0.25) / 3, (0.36 + 0.49 + 0.01) / 3])
    torch.testing.assert_close(gate_loss(weight, torch.tensor([2, 1])), expected)


def test_actor_loss_is_that_of_the_best_expert(head: PMOE, make_batch) -> None:
    batch = make_batch(STATE_SPEC, b=3, t=2)
    belief = Identity(Identity.Config(), STATE_SPEC).observe(batch, 0)[0]
    states, alpha = head.actor_states(belief), torch.tensor(0.3)
    torch.manual_seed(1)
    loss, log_pi = head.actor_loss(states, torch.ones(3, 1), alpha)
    torch.manual_seed(1)
    draw = head.policy.sample(states.inputs)
    total = []
    for i in range(3):
        q = [head.critic(states.feat[i, 0], draw.action[m, i, 0]).min() for m in range(3)]
        best = int(torch.stack(q).argmax())
        assert log_pi[i, 0] == draw.log_prob[best, i, 0]
        gate = sum((draw.weight[m, i, 0] - float(m == best)) ** 2 for m in range(3)) / 3
        total.append(alpha * draw.log_prob[best, i, 0] - q[best] + gate)
    torch.testing.assert_close(loss, torch.stack(total).mean())


def test_the_best_expert_alone_learns_from_the_objective_and_the_gate_from_its_own_loss(head: PMOE, make_batch) -> None:
    """One state: the bias of the last layer is what the network puts out, M logits, M means and M raw stds."""
    belief = Identity(Identity.Config(), STATE_SPEC).observe(make_batch(STATE_SPEC, b=1, t=2), 0)[0]
    states, alpha, bias = head.actor_states(belief), torch.tensor(0.3), head.policy.net.linears[-1].bias
    torch.manual_seed(1)
    draw = head.policy.sample(states.inputs)
    best = head.q_pi(draw, states).argmax(0)
    (gate_grad,) = torch.autograd.grad(gate_loss(draw.weight, best).mean(), bias)
    torch.manual_seed(1)
    (grad,) = torch.autograd.grad(head.actor_loss(states, torch.ones(1, 1), alpha)[0], bias)
    logits, mean, raw = grad.split([3, 6, 6])
    assert logits.abs().min() > 0
    torch.testing.assert_close(logits, gate_grad[:3])
    assert not gate_grad[3:].any()
    for part in (mean, raw):
        moved = part.unflatten(0, (3, 2)).abs() > 0
        assert torch.equal(moved, (torch.arange(3) == best.item())[:, None].expand(3, 2))


def test_the_target_is_the_expectation_over_the_gate(head: PMOE, make_batch) -> None:
    from worldrl.heads.sac import transitions

    batch = make_batch(STATE_SPEC, b=3, t=2)
    batch.is_terminal[1, 1] = 1.0
    belief = Identity(Identity.Config(), STATE_SPEC).observe(batch, 0)[0]
    tr, alpha = transitions(batch, belief.feat[None]), torch.tensor(0.3)
    torch.manual_seed(1)
    y = head.td_target(tr, belief, alpha)
    torch.manual_seed(1)
    draw = head.policy.sample(tr.next_feat)
    values = head.target(tr.next_feat, draw.action).amin(0) - alpha * draw.log_prob
    live = torch.tensor([[1.0], [0.0], [1.0]])
    torch.testing.assert_close(y, tr.reward + 0.99 * live * (draw.weight * values).sum(0))


def test_no_experts_are_refused() -> None:
    with pytest.raises(UserError, match=r"head\.experts: found 0"):
        PMOE.Config(experts=0)
