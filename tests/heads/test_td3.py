"""TD3 and DDPG against their oracle: updates, delays, smoothing noise, the original networks."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import STATE_SPEC
from tests.oracles import td3 as oracle
from tests.oracles.side_by_side import compare, plain_agent, random_rows
from tests.test_agent import build as build_agent
from worldrl.beliefs.identity import Identity
from worldrl.errors import UserError
from worldrl.heads.ddpg import DDPG, LateActionQ
from worldrl.heads.td3 import TD3
from worldrl.heads.transitions import transitions
from worldrl.types import Batch

SMALL = {"units": 16}


def build(cls: type[TD3] = TD3, **settings) -> tuple[Identity, TD3]:
    model = Identity(Identity.Config(), STATE_SPEC)
    return model, cls(cls.Config(**{**SMALL, **settings}), model.sizes(STATE_SPEC.actions))


def update(model: Identity, head: TD3, n: int, batch: Batch) -> dict[str, Tensor]:
    return head.update(head.phase(n), batch, model.observe(batch, 0)[0], model)


def test_actor_and_targets_move_at_every_nth_update_and_the_critics_at_each(make_batch) -> None:
    model, head = build(policy_delay=3)
    parts = {"critic": head.critic, "actor": head.policy, "targets": nn.ModuleList([head.target, head.target_policy])}
    moved = []
    for n in range(6):
        before = {name: deepcopy(list(part.parameters())) for name, part in parts.items()}
        metrics = update(model, head, n, make_batch(STATE_SPEC))
        changed = {k for k, part in parts.items() if not all(map(torch.equal, before[k], part.parameters()))}
        assert ("loss/actor" in metrics) == ("actor" in changed)
        moved.append(changed)
    every = {"critic", "actor", "targets"}
    assert moved == [{"critic"}, {"critic"}, every, {"critic"}, {"critic"}, every]
    assert {build(policy_delay=1)[1].phase(n) for n in range(4)} == {"update"}


def test_smoothing_noise_is_clipped_and_so_is_the_action() -> None:
    _, head = build(target_noise=2.0, noise_clip=0.3)
    feat = torch.randn(1, 500, 1, 5)
    mode = head.target_policy.mode(feat)
    difference = (head.next_action(feat) - mode).abs()
    assert difference.max() == pytest.approx(0.3, abs=1e-6)
    assert (difference > 0.2999).float().mean() > 0.8
    with torch.no_grad():
        head.target_policy.net.linears[-1].bias.fill_(9.0)
    assert head.next_action(feat).max() == 1.0
    _, quiet = build(DDPG)
    assert torch.equal(quiet.next_action(feat), quiet.target_policy.mode(feat))


def test_the_actor_climbs_the_first_critic_alone(make_batch) -> None:
    _, head = build()
    tr = transitions(make_batch(STATE_SPEC), torch.randn(1, 4, 6, 5))
    before = head.actor_loss(tr)
    with torch.no_grad():
        for weight in head.critic.weights:
            weight[1].add_(1.0)
    assert torch.equal(head.actor_loss(tr), before)


def test_acting_is_deterministic_and_averages_over_paths(make_batch) -> None:
    model, head = build()
    belief = model.observe(make_batch(STATE_SPEC), 3)[0]
    row = belief._replace(feat=belief.feat[:, 0], particles=torch.randn(3, 4, 5))
    assert torch.equal(head.act(row, True), head.act(row, False))
    expected = torch.stack([head.policy.mode(x) for x in (row.feat, *row.particles)]).mean(0)
    torch.testing.assert_close(head.act(row, True), expected)


def test_masked_pairs_reach_no_loss(make_batch) -> None:
    model, head = build(target_noise=0.0)
    losses = []
    for reward in (0.0, 9.0):
        torch.manual_seed(0)
        batch = make_batch(STATE_SPEC, b=2, t=4, border=2)
        batch.reward[0, 2] = reward
        tr = transitions(batch, model.observe(batch, 0)[0].feat[None])
        losses.append(head.critic_loss(tr, head.td_target(tr))[0])
    assert losses[0] == losses[1]


def test_the_original_critic_meets_the_action_in_its_second_layer() -> None:
    q = LateActionQ(5, 2)
    assert [tuple(m.weight.shape) for m in q.children()] == [(400, 5), (300, 402), (1, 300)]
    feat, action = torch.randn(6, 5), torch.randn(6, 2, requires_grad=True)
    hidden = torch.relu(q.second(torch.cat([torch.relu(q.first(feat)), action], -1)))
    torch.testing.assert_close(q(feat, action), q.last(hidden).squeeze(-1)[None])
    frozen = q(feat, action, frozen=True)
    assert torch.equal(frozen, q(feat, action))
    grads = torch.autograd.grad(frozen.sum(), [action, *q.parameters()], allow_unused=True)
    assert grads[0] is not None
    assert all(grad is None for grad in grads[1:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"networks": "original", "critics": 2}, "head.critics: found 2, expected 1 with head.networks=original"),
    ],
)
def test_settings_of_ddpg_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DDPG.Config(**settings)


def test_td3s_actor_leaves_masked_rows_alone(make_batch) -> None:
    agent, found = build_agent("identity", "td3", STATE_SPEC), []
    batch = make_batch(STATE_SPEC, b=2, t=4, border=2)
    for shift in (0.0, 5.0):
        batch.obs["state"][0, 1] += shift
        found.append(agent.head.actor_loss(transitions(batch, batch.obs["state"][None])))
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("head", "settings"),
    [
        ("td3", {}),
        ("td3", {"head.policy_delay": 1, "head.critics": 3, "head.grad_clip": 0.1}),
        ("td3", {"head.policy_delay": 1, "head.gamma": 0.9, "head.tau": 0.1}),
        ("ddpg", {}),
        ("ddpg", {"head.networks": "original", "head.critic_l2": 1e-2}),
    ],
    ids=str,
)
def test_updates_are_the_oracles(head: str, settings: dict[str, Any]) -> None:
    agent = build_agent("identity", head, STATE_SPEC, **settings)
    compare(agent, plain_agent(agent, oracle.TD3), [random_rows(STATE_SPEC, n) for n in range(5)])


def test_the_original_ddpg_decays_its_critic_as_adams_weight_decay_does(make_batch) -> None:
    model, head = build(DDPG, networks="original", critic_l2=1e-2, critic_lr=1e-3)
    critic = deepcopy(head.critic)
    adam = torch.optim.Adam(critic.parameters(), lr=1e-3, weight_decay=1e-2)
    batch = make_batch(STATE_SPEC, b=32, t=2)
    tr = transitions(batch, model.observe(batch, 0)[0].feat[None])
    (critic(tr.feat, tr.action[None]) - head.td_target(tr)).square().mean().backward()
    adam.step()
    update(model, head, 0, batch)
    for ours, theirs in zip(head.critic.parameters(), critic.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert [m.out_features for m in head.policy.net.linears] == [400, 300, 2]
