"""TD3+BC against its oracle, and its limits: TD3, cloning, Q of any scale."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import STATE_SPEC
from tests.heads.toy_data import learn, linear_expert, regret
from tests.oracles.side_by_side import compare, plain_agent, random_rows
from tests.oracles.td3_bc import TD3BC as Oracle
from tests.test_agent import build as build_agent
from worldrl.beliefs.identity import Identity
from worldrl.heads.td3 import TD3
from worldrl.heads.td3_bc import TD3BC
from worldrl.heads.transitions import Transition, transitions


def build(cls: type[TD3] = TD3BC, **settings: Any) -> TD3:
    torch.manual_seed(0)
    sizes = Identity(Identity.Config(), STATE_SPEC).sizes(STATE_SPEC.actions)
    return cls(cls.Config(units=16, **settings), sizes)


def gradient(head: TD3, tr: Transition) -> Tensor:
    """Of the actor's loss, as one vector."""
    return torch.cat([x.flatten() for x in torch.autograd.grad(head.actor_loss(tr), list(head.policy.parameters()))])


@pytest.fixture
def tr(make_batch) -> Transition:
    batch = make_batch(STATE_SPEC, border=2)
    return transitions(batch, batch.obs["state"][None])


@pytest.mark.parametrize("settings", [{}, {"head.alpha": 0.3, "head.policy_delay": 1, "head.grad_clip": 0.1}], ids=str)
def test_updates_are_the_oracles(settings: dict[str, Any]) -> None:
    agent = build_agent("identity", "td3_bc", STATE_SPEC, **settings)
    compare(agent, plain_agent(agent, Oracle), [random_rows(STATE_SPEC, n) for n in range(4)])


def test_with_all_the_weight_on_q_the_actor_moves_as_td3s(tr: Transition) -> None:
    """A large alpha leaves only the direction of TD3's gradient, which is what Adam steps along."""
    ours, theirs = gradient(build(alpha=1e6), tr), gradient(build(TD3), tr)
    torch.testing.assert_close(ours / ours.norm(), theirs / theirs.norm(), rtol=1e-3, atol=1e-5)


def test_without_weight_on_q_the_actor_clones(tr: Transition) -> None:
    head = build(alpha=0.0)
    squared = (head.policy.mode(tr.feat[0]) - tr.action).square().mean(-1)
    assert float(head.actor_loss(tr).detach()) == pytest.approx(float(squared[tr.mask > 0].mean().detach()), rel=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_scale_of_q_does_not_matter_to_the_actor(tr: Transition, scale: float) -> None:
    head = build()
    other = deepcopy(head)
    with torch.no_grad():
        for last in (other.critic.weights[-1], other.critic.biases[-1]):
            last.mul_(scale)
    torch.testing.assert_close(gradient(head, tr), gradient(other, tr), rtol=1e-4, atol=1e-6)


def test_the_actor_clones_the_given_actions(tr: Transition) -> None:
    head = build()
    assert head.actor_loss(tr) != head.actor_loss(tr._replace(action=tr.action + 0.1))


def test_it_does_better_than_a_clone() -> None:
    data = linear_expert(bias=0.4)
    settings = {"head.critic_lr": 3e-3, "head.gamma": 0.5, "head.policy_delay": 1}
    assert regret(learn("td3_bc", data, **settings)) < 0.5 * data.cloned
