"""ReBRAC against its oracle; its penalties at zero, the transitions it learns from, its layer norms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.conftest import STATE_SPEC
from tests.heads.toy_data import learn, linear_expert, regret
from tests.oracles.rebrac import ReBRAC as Oracle
from tests.oracles.side_by_side import compare, plain_agent, random_rows
from tests.test_agent import build as build_agent
from worldrl.agent import check_length
from worldrl.config import config_from_dict
from worldrl.errors import UserError
from worldrl.heads.transitions import followed
from worldrl.nn.mlp import TwinQ
from worldrl.types import Batch

SMALL = {"head.units": 16}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"head.actor_penalty": 1.0, "head.critic_penalty": 2.0, "head.policy_delay": 1},
        {"head.critic_norm": False, "head.critics": 3},
    ],
    ids=str,
)
def test_updates_are_the_oracles(settings: dict[str, Any]) -> None:
    agent = build_agent("identity", "rebrac", STATE_SPEC, **SMALL, **settings)
    compare(agent, plain_agent(agent, Oracle), [random_rows(STATE_SPEC, n) for n in range(4)])


def counted(first: list[int], terminal: list[int] | None = None) -> list[float]:
    """Which pairs of one window count."""
    is_first, is_terminal = (torch.tensor([flags or [0] * len(first)]).float() for flags in (first, terminal))
    rows = len(first)
    batch = Batch({}, torch.arange(float(rows))[None, :, None], torch.zeros(1, rows), is_first, is_terminal)
    tr, next_action = followed(batch, torch.arange(float(rows)).reshape(1, 1, rows, 1))
    assert torch.equal(next_action, tr.next_feat[0] + 1.0)
    assert torch.equal(tr.action, tr.feat[0] + 1.0)
    return tr.mask[0].tolist()


def test_a_transition_counts_if_its_next_action_is_known() -> None:
    assert counted([1, 0, 0, 0, 0]) == [1, 1, 1]  # rows 3 and 4 are a transition of which nobody knows what came next
    assert counted([1, 0, 0, 1, 0]) == [1, 0, 0]  # a time limit in row 2: nobody acted there
    assert counted([1, 0, 0, 1, 0], [0, 0, 1, 0, 0]) == [1, 1, 0]  # an end in row 2: nothing comes after it


def test_windows_of_two_rows_are_refused() -> None:
    config = config_from_dict({"head": "rebrac", "belief": "identity", "replay.length": 2, "device": "cpu"})
    agent = build_agent("identity", "rebrac", STATE_SPEC, **SMALL)
    with pytest.raises(UserError) as caught:
        check_length(config, agent.model, agent.head)
    assert (caught.value.where, caught.value.found) == ("replay.length", "2")
    assert caught.value.expected.startswith("3 or more")


def test_the_critics_penalty_lowers_the_target_by_the_distance_from_the_datas_next_action(make_batch) -> None:
    batch, targets = make_batch(STATE_SPEC), []
    for penalty in (0.0, 2.0):
        settings = {"head.critic_penalty": penalty, "head.target_noise": 0.0, "head.gamma": 0.9}
        torch.manual_seed(0)
        head = build_agent("identity", "rebrac", STATE_SPEC, **SMALL, **settings).head
        tr, next_action = followed(batch, batch.obs["state"][None])
        targets.append(head.penalized_target(tr, next_action))
    far = (head.target_policy.mode(tr.next_feat) - next_action).square().sum(-1)
    torch.testing.assert_close(targets[0] - targets[1], 0.9 * 2.0 * far.detach())


def test_stacked_layer_norms_are_torchs() -> None:
    q, feat, action = TwinQ(5, 2, 8, 2, "relu", norm=True), torch.randn(7, 5), torch.randn(7, 2)
    with torch.no_grad():
        for norm in q.norms:
            norm.add_(0.3 * torch.randn_like(norm))
    for j in range(2):
        x = torch.cat([feat, action], -1)
        for i in range(2):
            x = torch.relu(x @ q.weights[i][j] + q.biases[i][j])
            x = F.layer_norm(x, (8,), *q.norms[i][j])
        torch.testing.assert_close(q(feat, action)[j], (x @ q.weights[2][j] + q.biases[2][j])[:, 0])
    assert torch.equal(q(feat, action, first=1), q(feat, action)[:1])
    frozen = q(feat, action.requires_grad_(), frozen=True).sum()
    grads = torch.autograd.grad(frozen, [action, *q.parameters()], allow_unused=True)
    assert [grad is None for grad in grads] == [False] + [True] * len(list(q.parameters()))


def test_it_does_better_than_a_clone() -> None:
    settings = {"head.critic_lr": 3e-3, "head.gamma": 0.5, "head.policy_delay": 1, "head.actor_penalty": 0.5}
    data = linear_expert(bias=0.4)
    assert regret(learn("rebrac", data, rows=3, **settings)) < 0.5 * data.cloned
