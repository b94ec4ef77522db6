"""IQL against its oracle; its expectile, its weights and the decay of its actor's rate at their limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.conftest import STATE_SPEC
from tests.heads.toy_data import learn, linear_expert, regret
from tests.oracles.iql import IQL as Oracle
from tests.oracles.side_by_side import compare, plain_agent, random_rows
from tests.test_agent import build as build_agent
from worldrl.heads.iql import expectile_loss
from worldrl.heads.transitions import transitions
from worldrl.types import choice

CHOICES = STATE_SPEC._replace(actions=choice(3))
SMALL = {"head.units": 16}
FAST = {f"head.{part}_lr": 1e-2 for part in ("actor", "value", "critic")}  # so that the order of the steps shows


@pytest.mark.parametrize("spec", [STATE_SPEC, CHOICES], ids=["box", "choice"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"head.expectile": 0.9, "head.beta": 10.0, "head.max_weight": 1.5, "head.grad_clip": 0.1, "head.critics": 3}],
    ids=str,
)
def test_updates_are_the_oracles(spec: Any, settings: dict[str, Any]) -> None:
    """Four updates of a decay over three: the actor's last step is none."""
    agent = build_agent("identity", "iql", spec, **SMALL, **FAST, **settings, **{"head.decay_updates": 3})
    compare(agent, plain_agent(agent, Oracle), [random_rows(spec, n) for n in range(4)])


def expectile(values: torch.Tensor, tau: float) -> float:
    """What the loss is least at, by Newton's method."""
    v = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for _ in range(50):
        (slope,) = torch.autograd.grad(expectile_loss(values - v, tau).mean(), v, create_graph=True)
        (curvature,) = torch.autograd.grad(slope, v)
        v = (v - slope / curvature).detach().requires_grad_()
    return float(v.detach())


def test_the_expectile_goes_from_the_mean_to_the_largest_value() -> None:
    values = torch.randn(200, dtype=torch.float64)
    assert expectile(values, 0.5) == pytest.approx(float(values.mean()))
    found = [expectile(values, tau) for tau in (0.5, 0.7, 0.9, 0.99, 1 - 1e-7)]
    assert found == sorted(found)
    assert found[-1] == pytest.approx(float(values.max()), abs=1e-3)
    above, below = (values - found[1]).clamp(min=0).mean(), (found[1] - values).clamp(min=0).mean()
    assert 0.7 * float(above) == pytest.approx(0.3 * float(below))  # what defines the 0.7-expectile


def test_without_weight_on_advantages_the_actor_clones(make_batch) -> None:
    batch, ends = make_batch(STATE_SPEC, border=2), []
    for name, settings in (("iql", {"head.beta": 0.0}), ("bc", {"head.loss": "likelihood"})):
        torch.manual_seed(0)
        agent = build_agent("identity", name, STATE_SPEC, **SMALL, **settings)
        agent.update(agent.next_phase(), batch)
        ends.append(list(agent.head.policy.parameters()))
    torch.testing.assert_close(*ends)


def test_no_weight_is_above_its_limit(make_batch) -> None:
    head = build_agent("identity", "iql", STATE_SPEC).head
    weight = head.weights(torch.tensor([-1e9, 0.0, 1.0, 1e9]), 3.0)
    assert weight.tolist() == pytest.approx([0.0, 1.0, float(torch.tensor(3.0).exp()), 100.0])


def test_only_the_actors_rate_decays() -> None:
    head = build_agent("identity", "iql", STATE_SPEC, **{"head.decay_updates": 9}).head
    assert {name: optimizer.decay and optimizer.decay.steps for name, optimizer in head.optimizers.items()} == {
        "value": None,
        "actor": 9,
        "critic": None,
    }
    constant = build_agent("identity", "iql", STATE_SPEC, **{"head.decay_updates": 0}).head
    assert constant.optimizers["actor"].decay is None


def test_no_action_but_the_datas_is_judged(make_batch, monkeypatch: pytest.MonkeyPatch) -> None:
    head, batch = build_agent("identity", "iql", STATE_SPEC).head, make_batch(STATE_SPEC)
    monkeypatch.setattr(head.policy, "sample", None)
    monkeypatch.setattr(head.policy, "mode", None)
    tr, judged = transitions(batch, batch.obs["state"][None]), []
    for part in (head.critic, head.target):
        part.register_forward_pre_hook(lambda _, args: judged.append(args[1]))
    agent = build_agent("identity", "iql", STATE_SPEC)
    head.update("update", batch, agent.model.observe(batch, 0)[0], agent.model)
    assert len(judged) == 2
    assert all(torch.equal(action[0], tr.action) for action in judged)


@pytest.mark.parametrize("kind", ["box", "choice"])
def test_it_does_better_than_a_clone(kind: str) -> None:
    data = linear_expert(bias=0.4 if kind == "box" else 0.1, kind=kind)
    fast = {"head.critic_lr": 3e-3, "head.value_lr": 3e-3, "head.gamma": 0.5, "head.tau": 0.05, "head.beta": 10.0}
    assert regret(learn("iql", data, **fast)) < 0.4 * data.cloned
