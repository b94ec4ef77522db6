"""VIREL against its oracle: the temperature from the residual, and its three sets of critics."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.conftest import BOTH_SPEC, STATE_SPEC
from tests.oracles import value_sac as oracle
from tests.oracles.rssm import RSSM as RSSMOracle
from tests.oracles.side_by_side import compare, plain_agent, random_rows
from tests.test_agent import build as build_agent
from worldrl.beliefs.identity import Identity
from worldrl.beliefs.rssm import RSSM
from worldrl.beliefs.slac import SLAC
from worldrl.errors import UserError
from worldrl.heads.transitions import transitions
from worldrl.heads.virel import VIREL

TINY_RSSM = RSSM.Config(stoch=4, deter=8, hidden=8, reward_units=8, vector_units=8)
TINY_SLAC = SLAC.Config(z1=4, z2=8, units=8, depth=2, vector_units=8, history=3)

RESIDUAL = {"head.temperature": "residual"}


def build(**settings: Any) -> tuple[Identity, VIREL]:
    model = Identity(Identity.Config(), STATE_SPEC)
    head = VIREL(VIREL.Config(units=16, **settings), model.sizes(STATE_SPEC.actions))
    return model, head


def test_the_temperature_comes_from_the_transitions_beside_the_slice(make_batch) -> None:
    model, head = build(temperature="residual", residual_scale=0.3)
    assert head.needs.td_batch == 4096
    beside = make_batch(STATE_SPEC, b=64, t=2, border=1)
    tr = transitions(make_batch(STATE_SPEC), model.observe(make_batch(STATE_SPEC), 0)[0].feat[None])
    alpha, metrics = head.temperature(tr, model, {"td": beside})
    expected = head.residual(transitions(beside, beside.obs["state"][None]))
    assert torch.equal(metrics["policy/residual"], expected)
    torch.testing.assert_close(alpha, 0.3 * expected)
    alpha, metrics = head.temperature(tr, model, {})
    assert float(metrics["policy/residual"]) == 1.0
    assert float(alpha) == pytest.approx(0.3)


def test_the_updates_own_transitions_may_do(make_batch) -> None:
    model, head = build(temperature="residual", residual_batch=0)
    assert head.needs.td_batch == 0
    batch = make_batch(STATE_SPEC)
    belief = model.observe(batch, 0)[0]
    expected = head.residual(transitions(batch, belief.feat[None]))
    assert torch.equal(head.update("update", batch, belief, model)["policy/residual"], expected)


@pytest.mark.parametrize(("reward", "expected"), [(1e6, 10.0), (0.0, 1e-4)])
def test_the_temperature_keeps_its_limits(reward: float, expected: float, make_batch) -> None:
    model, head = build(temperature="residual")
    for part in (head.critic, head.value):
        for p in part.parameters():
            p.data.zero_()
    beside = make_batch(STATE_SPEC)
    beside.reward.fill_(reward)
    alpha, metrics = head.temperature(transitions(beside, beside.obs["state"][None]), model, {"td": beside})
    assert float(alpha) == pytest.approx(expected)
    assert float(metrics["policy/residual"]) == pytest.approx(reward**2)


@pytest.mark.parametrize(("belief", "config"), [(RSSM, TINY_RSSM), (SLAC, TINY_SLAC)])
def test_the_belief_filters_the_transitions_beside_the_slice(belief: Any, config: Any, make_batch) -> None:
    model = belief(config, BOTH_SPEC if belief is SLAC else STATE_SPEC)
    spec = BOTH_SPEC if belief is SLAC else STATE_SPEC
    head = VIREL(VIREL.Config(units=16), model.sizes(STATE_SPEC.actions))
    tr = head.td_transitions(model, {"td": make_batch(spec, b=3, t=6)})
    assert tr.feat.shape == (1, 3, 5 - model.lost_rows, model.feat_dim)
    assert tr.reward.shape == (3, 5 - model.lost_rows)
    assert not tr.feat.requires_grad


def test_the_temperature_of_the_loss_is_the_residuals(make_batch) -> None:
    """Two updates that differ in the transitions beside the slice alone differ in the actor alone."""
    ends = []
    for scale in (1.0, 50.0):
        torch.manual_seed(0)
        model, head = build(temperature="residual")
        batch, beside = make_batch(STATE_SPEC), make_batch(STATE_SPEC)
        beside.reward.mul_(scale)
        belief = model.observe(batch, 0)[0]
        metrics = head.update("update", batch, belief, model, {"td": beside})
        torch.testing.assert_close(metrics["policy/alpha"], (4e-3 * metrics["policy/residual"]).clamp(1e-4, 10.0))
        ends.append({name: [p.clone() for p in getattr(head, name).parameters()] for name in ("critic", "value")})
        ends[-1]["actor"] = [metrics["loss/actor"]]
    for name in ("critic", "value"):
        assert all(torch.equal(a, b) for a, b in zip(ends[0][name], ends[1][name], strict=True))
    assert ends[0]["actor"] != ends[1]["actor"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": "residual", "tune_alpha": True}, "head.tune_alpha: found True, expected false"),
        ({"residual_limits": (0.0, 1.0)}, r"head.residual_limits: found \(0.0, 1.0\), expected"),
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        VIREL.Config(**settings)


@pytest.mark.parametrize(
    ("belief", "settings"),
    [
        ("identity", {"head.reward_scale": 5.0, "head.init_alpha": 0.7}),
        ("identity", {"head.critics": "two_hard", "head.init_alpha": 0.7}),
        ("identity", {"head.critics": "hard_and_soft", "head.soft_reward_scale": 0.5, "head.init_alpha": 0.7}),
        ("identity", {**RESIDUAL, "head.residual_scale": 0.3}),
        ("identity", {**RESIDUAL, "head.residual_value": "target", "head.critics": "hard_and_soft"}),
        ("identity", {**RESIDUAL, "head.residual_batch": 0}),
        ("rssm", RESIDUAL),
    ],
    ids=str,
)
def test_updates_are_the_oracles(belief: str, settings: dict[str, Any]) -> None:
    """All variants of appendix H, and the temperature from the residual of transitions beside the slice."""
    agent = build_agent(belief, "virel", STATE_SPEC, **settings)
    beside = {"td": random_rows(STATE_SPEC, 50, b=8)}
    plain = plain_agent(agent, oracle.VIREL, RSSMOracle if belief == "rssm" else None)
    compare(agent, plain, [random_rows(STATE_SPEC, n) for n in range(4)], beside)
