"""VIREL: the losses of its appendix H by hand, the temperature from the residual, and its three critics."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch

from tests.conftest import BOTH_SPEC, STATE_SPEC
from worldrl.beliefs.identity import Identity
from worldrl.beliefs.rssm import RSSM
from worldrl.beliefs.slac import SLAC
from worldrl.errors import UserError
from worldrl.heads.sac import transitions
from worldrl.heads.virel import VIREL
from worldrl.nn.functional import masked_mean

TINY_RSSM = RSSM.Config(stoch=4, deter=8, hidden=8, reward_units=8, vector_units=8)
TINY_SLAC = SLAC.Config(z1=4, z2=8, units=8, depth=2, vector_units=8, history=3)


def build(**settings: Any) -> tuple[Identity, VIREL]:
    model = Identity(Identity.Config(), STATE_SPEC)
    head = VIREL(VIREL.Config(units=16, **settings), model.feat_dim, model.context_dim, STATE_SPEC.action_dim)
    return model, head


def hand(make_batch: Any, model: Identity, head: VIREL) -> dict[str, Any]:
    """One batch of transitions, taken apart, and one draw of the policy."""
    batch = make_batch(STATE_SPEC, b=6, t=2)
    batch.is_terminal[1, 1] = 1.0
    belief = model.observe(batch, 0)[0]
    states = head.actor_states(belief)
    judged = head.judge(states)
    s = batch.obs["state"]
    return {
        "belief": belief,
        "states": states,
        "tr": transitions(batch, belief.feat[None]),
        "judged": judged,
        "s": s[:, 0],
        "a": batch.action[:, 1],
        "r": batch.reward[:, 1],
        "live": 1 - batch.is_terminal[:, 1],
        "s2": s[:, 1],
        "log_pi": judged.draw.log_prob[0, :, 0],
        "q_pi": head.critic(s[:, 0], judged.draw.action[0, :, 0]),
    }


@pytest.mark.parametrize("critics", ["hard", "two_hard"])
def test_hard_losses(critics: Any, make_batch) -> None:
    model, head = build(critics=critics, reward_scale=5.0)
    x, alpha = hand(make_batch, model, head), torch.tensor(0.7)
    assert len(x["q_pi"]) == (1 if critics == "hard" else 2)
    y = 5.0 * x["r"] + 0.99 * x["live"] * head.target(x["s2"])[0]
    expected_q = sum(((q - y) ** 2).mean() for q in head.critic(x["s"], x["a"]))
    torch.testing.assert_close(head.critic_loss(x["tr"], head.td_target(x["tr"], x["belief"], alpha))[0], expected_q)
    least = x["q_pi"].min(0).values
    expected_v = ((head.value(x["s"])[0] - least.detach()) ** 2).mean()
    mask = x["tr"].mask
    torch.testing.assert_close(head.value_loss(x["states"], x["judged"], mask, alpha), expected_v)
    expected_pi = (0.7 * x["log_pi"] - least).mean()
    torch.testing.assert_close(head.policy_loss(x["judged"], mask, alpha), expected_pi)


def test_hard_and_soft_losses(make_batch) -> None:
    model, head = build(critics="hard_and_soft", soft_reward_scale=0.5)
    x, alpha, mask = hand(make_batch, model, head), torch.tensor(0.7), torch.ones(6, 1)
    y_hard = x["r"] + 0.99 * x["live"] * head.target(x["s2"])[0]
    y_soft = 0.5 * x["r"] + 0.99 * x["live"] * head.target(x["s2"])[1]
    q_hard, q_soft = head.critic(x["s"], x["a"])
    expected_q = ((q_hard - y_hard) ** 2).mean() + ((q_soft - y_soft) ** 2).mean()
    torch.testing.assert_close(head.critic_loss(x["tr"], head.td_target(x["tr"], x["belief"], alpha))[0], expected_q)
    least, soft = x["q_pi"].min(0).values, x["q_pi"][1] - 0.7 * x["log_pi"]
    v_hard, v_soft = head.value(x["s"])
    expected_v = ((v_hard - least.detach()) ** 2).mean() + ((v_soft - soft.detach()) ** 2).mean()
    torch.testing.assert_close(head.value_loss(x["states"], x["judged"], mask, alpha), expected_v)
    torch.testing.assert_close(head.policy_loss(x["judged"], mask, alpha), (0.7 * x["log_pi"] - least).mean())


@pytest.mark.parametrize("source", ["online", "target"])
def test_the_residual_is_the_mean_squared_bellman_error(source: Any, make_batch) -> None:
    model, head = build(temperature="residual", residual_value=source, reward_scale=3.0)
    for p in head.target.parameters():
        p.data.add_(0.05)
    x = hand(make_batch, model, head)
    value = (head.value if source == "online" else head.target)(x["s2"])[0]
    error = 3.0 * x["r"] + 0.99 * x["live"] * value - head.critic(x["s"], x["a"])[0]
    found = head.residual(x["tr"])
    torch.testing.assert_close(found, error.square().mean())
    assert not found.requires_grad


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
    head = VIREL(VIREL.Config(units=16), model.feat_dim, model.context_dim, 2)
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
        ({"temperature": "residual", "tune_alpha": True}, "head.temperature=residual sets alpha"),
        ({"residual_limits": (0.0, 1.0)}, r"head.residual_limits: found \(0.0, 1.0\), expected"),
        ({"residual_batch": -1}, "head.residual_batch: found -1, expected 0 or more"),
        ({"residual_scale": 0.0}, "expected more than 0"),
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        VIREL.Config(**settings)


def test_the_residual_is_the_temperature_of_the_whole_update(make_batch) -> None:
    """The actor's loss is E [lambda e log pi - Q], e of the critics before the step and Q after it."""
    model, head = build(temperature="residual", residual_scale=0.3, residual_limits=(1e-9, 1e9))
    batch, beside = make_batch(STATE_SPEC, b=32, t=2), make_batch(STATE_SPEC, b=64, t=2, border=1)
    belief = model.observe(batch, 0)[0]
    residual = head.residual(transitions(beside, beside.obs["state"][None]))
    policy = deepcopy(head.policy)
    torch.manual_seed(1)
    metrics = head.update("update", batch, belief, model, {"td": beside})
    torch.manual_seed(1)
    draw = policy.sample(belief.feat[:, :-1])
    expected = 0.3 * residual * draw.log_prob[0] - head.critic(belief.feat[:, :-1], draw.action[0])[0]
    torch.testing.assert_close(metrics["loss/actor"], masked_mean(expected, 1 - batch.is_first[:, 1:]))
