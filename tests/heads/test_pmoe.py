"""The mixture-of-experts head against its oracle, and what its gradients reach."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import STATE_SPEC
from tests.oracles import pmoe as oracle
from tests.oracles.side_by_side import compare, plain_agent, random_rows
from tests.test_agent import build as build_agent
from worldrl.beliefs.identity import Identity
from worldrl.heads.pmoe import PMOE, gate_loss
from worldrl.heads.transitions import transitions
from worldrl.types import Sizes, box

SMALL = PMOE.Config(units=16, actor_layers=2, critic_layers=2, experts=3)


@pytest.fixture
def head() -> PMOE:
    return PMOE(SMALL, Sizes((5,), (5,), box(2)))


def test_gate_loss_is_the_mean_squared_error_to_the_best() -> None:
    weight = torch.tensor([[0.2, 0.6], [0.3, 0.3], [0.5, 0.1]])
    expected = torch.tensor([(0.04 + 0.09 + 0.25) / 3, (0.36 + 0.49 + 0.01) / 3])
    torch.testing.assert_close(gate_loss(weight, torch.tensor([2, 1])), expected)


def test_the_best_expert_alone_learns_from_the_objective_and_the_gate_from_its_own_loss(head: PMOE, make_batch) -> None:
    """One state: the bias of the last layer is what the network puts out, M logits, M means and M raw stds."""
    batch = make_batch(STATE_SPEC, b=1, t=2)
    belief = Identity(Identity.Config(), STATE_SPEC).observe(batch, 0)[0]
    tr = transitions(batch, belief.feat[None])
    states, alpha, bias = head.actor_states(belief), torch.tensor(0.3), head.policy.net.linears[-1].bias
    torch.manual_seed(1)
    draw = head.policy.sample(states.inputs)
    best = head.q_pi(draw, states).argmax(0)
    (gate_grad,) = torch.autograd.grad(gate_loss(draw.weight, best).mean(), bias)
    torch.manual_seed(1)
    (grad,) = torch.autograd.grad(head.actor_loss(states, tr, alpha)[0], bias)
    logits, mean, raw = grad.split([3, 6, 6])
    assert logits.abs().min() > 0
    torch.testing.assert_close(logits, gate_grad[:3])
    assert not gate_grad[3:].any()
    for part in (mean, raw):
        moved = part.unflatten(0, (3, 2)).abs() > 0
        assert torch.equal(moved, (torch.arange(3) == best.item())[:, None].expand(3, 2))


def test_updates_are_the_oracles() -> None:
    agent = build_agent("identity", "pmoe", STATE_SPEC, **{"head.experts": 3})
    compare(agent, plain_agent(agent, oracle.PMOE), [random_rows(STATE_SPEC, n) for n in range(4)])
