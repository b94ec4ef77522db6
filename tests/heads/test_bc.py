"""Behavioural cloning against its oracle: squares, likelihoods, choices; a linear expert is recovered."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.conftest import STATE_SPEC
from tests.heads.toy_data import learn, linear_expert, regret
from tests.oracles import fitted as oracle
from tests.oracles.side_by_side import compare, plain_agent, random_rows
from tests.test_agent import build as build_agent
from worldrl.heads.transitions import transitions
from worldrl.types import choice

CHOICES = STATE_SPEC._replace(actions=choice(3))


@pytest.mark.parametrize("settings", [{}, {"head.loss": "likelihood"}, {"head.grad_clip": 0.1}], ids=str)
def test_updates_are_the_oracles(settings: dict[str, Any]) -> None:
    agent = build_agent("identity", "bc", STATE_SPEC, **settings)
    compare(agent, plain_agent(agent, oracle.BC), [random_rows(STATE_SPEC, n) for n in range(3)])


def test_choices_are_cloned_by_cross_entropy() -> None:
    agent = build_agent("identity", "bc", CHOICES)
    compare(agent, plain_agent(agent, oracle.ChoiceBC), [random_rows(CHOICES, n) for n in range(3)])


@pytest.mark.parametrize("loss", ["mse", "likelihood"])
def test_masked_rows_and_rewards_reach_no_loss_and_given_actions_do(make_batch, loss: str) -> None:
    head = build_agent("identity", "bc", STATE_SPEC, **{"head.loss": loss}).head
    batch = make_batch(STATE_SPEC, border=2)
    tr = transitions(batch, batch.obs["state"][None])
    masked = (1.0 - tr.mask)[..., None]
    before = head.actor_loss(tr)
    assert torch.equal(head.actor_loss(tr._replace(action=tr.action + masked, reward=tr.reward + 5.0)), before)
    assert head.actor_loss(tr._replace(action=0.9 * tr.action)) != before


@pytest.mark.parametrize("loss", ["mse", "likelihood"])
@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_a_linear_expert_is_recovered(loss: str, noise: float) -> None:
    """From noisy actions, up to what the ends of the box hide of their mean."""
    data = linear_expert(bias=0.0, noise=noise)
    assert regret(learn("bc", data, **{"head.loss": loss})) < data.cloned + 0.003


def test_the_more_frequent_choice_is_recovered() -> None:
    assert regret(learn("bc", linear_expert(bias=-0.3, kind="choice"))) < 0.1
    assert regret(learn("bc", linear_expert(bias=0.3, kind="choice"))) > 0.9


def test_the_deterministic_clone_explores_only_by_added_noise() -> None:
    heads = [build_agent("identity", "bc", STATE_SPEC, **{"head.loss": loss}).head for loss in ("mse", "likelihood")]
    assert [head.needs.action_noise for head in heads] == [True, False]
    assert not build_agent("identity", "bc", CHOICES).head.needs.action_noise
