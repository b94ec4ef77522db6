"""AWAC against its oracle; without a preference it is cloning."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.conftest import STATE_SPEC
from tests.heads.toy_data import learn, linear_expert, regret
from tests.oracles.awac import AWAC as Oracle
from tests.oracles.side_by_side import compare, plain_agent, random_rows
from tests.test_agent import build as build_agent
from worldrl.types import choice

CHOICES = STATE_SPEC._replace(actions=choice(3))
SMALL = {"head.units": 16}
FAST = {"head.actor_lr": 1e-2, "head.critic_lr": 1e-2}  # so that the order of the steps shows


@pytest.mark.parametrize("spec", [STATE_SPEC, CHOICES], ids=["box", "choice"])
@pytest.mark.parametrize(
    "settings", [{}, {"head.temperature": 0.05, "head.max_weight": 2.0, "head.critics": 1, "head.tau": 0.1}], ids=str
)
def test_updates_are_the_oracles(spec: Any, settings: dict[str, Any]) -> None:
    agent = build_agent("identity", "awac", spec, **SMALL, **FAST, **settings)
    compare(agent, plain_agent(agent, Oracle), [random_rows(spec, n) for n in range(4)])


@pytest.mark.parametrize("spec", [STATE_SPEC, CHOICES], ids=["box", "choice"])
def test_at_a_high_temperature_the_actor_clones(spec: Any) -> None:
    batch, ends = random_rows(spec, 1), []
    for name, settings in (("awac", {"head.temperature": 1e9}), ("bc", {"head.loss": "likelihood"})):
        torch.manual_seed(0)
        agent = build_agent("identity", name, spec, **SMALL, **settings, **{"head.actor_layers": 2})
        agent.update(agent.next_phase(), batch)
        ends.append(list(agent.head.policy.parameters()))
    assert all(map(torch.equal, *ends))


def test_the_value_of_a_choice_is_exact() -> None:
    agent = build_agent("identity", "awac", CHOICES, **SMALL)
    head, feat = agent.head, torch.randn(1, 4, 3, 5)
    q = torch.stack([head.critic(feat, action.expand(1, 4, 3, 3)).amin(0) for action in torch.eye(3)], -1)
    torch.testing.assert_close(head.expected(head.critic, feat), (head.policy.log_probs(feat).exp() * q).sum(-1))


@pytest.mark.parametrize("kind", ["box", "choice"])
def test_it_does_better_than_a_clone(kind: str) -> None:
    data = linear_expert(bias=0.4 if kind == "box" else 0.1, kind=kind)
    fast = {"head.critic_lr": 3e-3, "head.gamma": 0.5, "head.temperature": 0.1}
    assert regret(learn("awac", data, **fast)) < 0.4 * data.cloned
