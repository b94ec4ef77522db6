"""CQL against its oracle, its multiplier, its limits, and what its proposals are worth."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.conftest import STATE_SPEC
from tests.oracles.cql import CQL as Oracle
from tests.oracles.cql import DiscreteCQL
from tests.oracles.rssm import RSSM as RSSMOracle
from tests.oracles.side_by_side import compare, plain_agent, random_rows
from tests.test_agent import build
from worldrl.heads.cql import CQL, Judged, state_weights
from worldrl.heads.transitions import transitions
from worldrl.types import choice

TINY = {"head.units": 16, "head.actor_layers": 2, "head.critic_layers": 2, "head.samples": 3}
ROWS = [random_rows(STATE_SPEC, seed) for seed in range(4)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"head.budget": 0.5, "head.critic_lr": 3e-3},
        {"head.backup_entropy": True, "head.policy_std": "log", "head.grad_clip": 0.0},
    ],
    ids=str,
)
def test_updates_are_the_oracles(settings: dict[str, Any]) -> None:
    agent = build("identity", "cql", STATE_SPEC, **TINY, **settings)
    compare(agent, plain_agent(agent, Oracle), ROWS)


def test_updates_on_a_world_model_are_the_oracles() -> None:
    spec = STATE_SPEC._replace(terminates=True)
    agent = build("rssm", "cql", spec, **TINY)
    compare(agent, plain_agent(agent, Oracle, RSSMOracle), [random_rows(spec, n) for n in range(3)])


@pytest.mark.parametrize("settings", [{}, {"head.budget": -0.5}], ids=str)
def test_updates_with_choices_are_the_oracles(settings: dict[str, Any]) -> None:
    """Exact: nothing is drawn."""
    spec = STATE_SPEC._replace(actions=choice(3))
    agent = build("identity", "cql", spec, **TINY, **settings)
    compare(agent, plain_agent(agent, DiscreteCQL), [random_rows(spec, seed) for seed in range(4)])


def test_choices_that_the_policy_has_given_up_count() -> None:
    """The policy's probability of two choices is zero in float32; their values are in log Z all the same."""
    spec = STATE_SPEC._replace(actions=choice(3))
    agent = build("identity", "cql", spec, **TINY)
    agent.head.policy.net.linears[-1].bias.data = torch.tensor([0.0, -120.0, -200.0])
    compare(agent, plain_agent(agent, DiscreteCQL), [random_rows(spec, seed) for seed in range(2)])


def ends(head: str, **settings: Any) -> list[torch.Tensor]:
    torch.manual_seed(0)
    agent = build("identity", head, STATE_SPEC, **{key: value for key, value in TINY.items() if "samples" not in key})
    config = type(agent.head).Config(**{**agent.head.config.__dict__, **settings})
    torch.manual_seed(0)
    other = type(agent.head)(config, agent.model.sizes(STATE_SPEC.actions))
    for n, rows in enumerate(ROWS):
        torch.manual_seed(n)
        other.update("update", rows, agent.model.observe(rows, 0)[0], agent.model)
    return list(other.parameters())


def test_without_its_weight_it_is_sac_bit_for_bit() -> None:
    assert all(map(torch.equal, ends("sac"), ends("cql", critic_weight=0.0, backup_entropy=True)))


def test_its_proposals_estimate_the_integral_of_exp_q() -> None:
    """By the oracle of a grid: two actions, 400 points each way."""
    agent = build("identity", "cql", STATE_SPEC, **{**TINY, "head.samples": 4_000})
    head: CQL = agent.head
    rows = random_rows(STATE_SPEC, 0, b=3, t=2)
    belief = agent.model.observe(rows, 0)[0]
    tr = transitions(rows, belief.feat[None])
    proposed = head.propose(tr, belief)
    side = (torch.arange(400) + 0.5) / 200 - 1
    grid = torch.cartesian_prod(side, side)[:, None, None].expand(-1, 3, 1, -1)
    with torch.no_grad():
        estimate = (head.critic(tr.feat[0], proposed.action) + proposed.log_weight).logsumexp(1)
        exact = head.critic(tr.feat[0], grid).logsumexp(1) - 2 * math.log(200)
    assert (estimate - exact).abs().max() < 0.05


def test_the_multiplier_grows_above_the_budget_shrinks_below_it_and_has_a_top() -> None:
    agent = build("identity", "cql", STATE_SPEC, **TINY, **{"head.budget": 1.0})
    head: CQL = agent.head
    found = [head.multiplier().item()]
    for gap in (3.0, -3.0, -3.0):
        q = head.critic(torch.zeros(1, 5), torch.zeros(1, 2)).mean()
        head.learn(Judged(q, q.detach(), torch.tensor(gap), q.detach()))
        found.append(head.multiplier().item())
    assert found[0] == pytest.approx(math.e)
    assert found[1] > found[0]
    assert found[3] < found[2] < found[1]
    head.log_multiplier.data.fill_(13.9)
    assert head.multiplier().item() == pytest.approx(1e6)
    q = head.critic(torch.zeros(1, 5), torch.zeros(1, 2)).mean()
    head.learn(Judged(q, q.detach(), torch.tensor(-3.0), q.detach()))
    assert head.log_multiplier.item() < 13.9  # it comes back from its top


def test_the_critic_is_called_once_for_all_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = build("identity", "cql", STATE_SPEC, **TINY)
    shapes, forward = [], agent.head.critic.forward
    monkeypatch.setattr(
        agent.head.critic,
        "forward",
        lambda feat, action, **more: (shapes.append(action.shape), forward(feat, action, **more))[1],
    )
    agent.update("update", random_rows(STATE_SPEC, 0, b=4, t=2))
    assert [tuple(shape) for shape in shapes] == [(1 + 3 * 3, 4, 1, 2), (1, 4, 1, 2)]


def test_the_weights_of_states_leave_masked_ones_out() -> None:
    assert state_weights(torch.tensor([[1.0, 0.0], [1.0, 0.0]])).tolist() == [[0.5, 0.0], [0.5, 0.0]]
    assert state_weights(torch.zeros(2, 1)).sum() == 0
