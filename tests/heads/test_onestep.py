"""One-step RL against its oracle: both phases, both improvements, and the value of a behaviour that is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.conftest import STATE_SPEC
from tests.fake_cuda import GPU, Strict, fake_cuda
from tests.heads.toy_data import learn, linear_expert, regret
from tests.oracles.onestep import OneStep as Oracle
from tests.oracles.side_by_side import compare, plain_agent, random_rows
from tests.test_agent import build as build_agent
from worldrl.types import Batch, ObsSpec, box, choice

CHOICES = STATE_SPEC._replace(actions=choice(3))
SMALL = {"head.units": 16, "head.samples": 4, "head.evaluation_updates": 2}
FAST = {f"head.{part}_lr": 1e-2 for part in ("actor", "behavior", "critic")}  # so that the order of the steps shows


@pytest.mark.parametrize("spec", [STATE_SPEC, CHOICES], ids=["box", "choice"])
@pytest.mark.parametrize(
    "settings",
    [
        {"head.alpha": 0.3},
        {"head.improvement": "weighted", "head.alpha": 0.3},
        {"head.improvement": "weighted", "head.alpha": 0.02, "head.max_weight": 2.0, "head.critics": 2},
    ],
    ids=str,
)
def test_updates_are_the_oracles(spec: Any, settings: dict[str, Any]) -> None:
    agent = build_agent("identity", "onestep", spec, **SMALL, **FAST, **settings)
    compare(agent, plain_agent(agent, Oracle), [random_rows(spec, n) for n in range(5)])


def test_each_phase_leaves_the_others_parts_alone() -> None:
    agent = build_agent("identity", "onestep", STATE_SPEC, **SMALL)
    head, moved = agent.head, []
    parts = {"policy": head.policy, "behavior": head.behavior, "critic": head.critic, "target": head.target}
    for n in range(4):
        before = {name: [p.clone() for p in part.parameters()] for name, part in parts.items()}
        agent.update(agent.next_phase(), random_rows(STATE_SPEC, n))
        agent.updates += 1
        moved.append({k for k, part in parts.items() if not all(map(torch.equal, before[k], part.parameters()))})
        same = all(map(torch.equal, head.policy.parameters(), head.behavior.parameters()))
        assert same == (n < 2)
    assert moved == [set(parts), set(parts), {"policy"}, {"policy"}]


def test_the_value_is_that_of_the_behaviour() -> None:
    """Two states in turn, and data that always act by 0.5: Q(s, 0.5) solves two equations; no better action matters."""
    spec = STATE_SPEC._replace(obs={"state": ObsSpec((2,), "float32")}, actions=box(1))
    settings = {"head.units": 32, "head.critic_lr": 1e-2, "head.tau": 0.1, "head.gamma": 0.5, "head.actor_layers": 1}
    agent = build_agent("identity", "onestep", spec, **settings)
    state = torch.eye(2)[torch.arange(6) % 2]
    zeros, action = torch.zeros(1, 6), torch.full((1, 6, 1), 0.5)
    reward = torch.tensor([[2.0, 1.0] * 3])  # 1 on arriving in the second state, 2 on arriving in the first
    batch = Batch({"state": state[None]}, action, reward, zeros, zeros)
    for _ in range(300):
        agent.update("evaluation", batch)
    q = agent.head.critic(state[:2], action[0, :2]).squeeze(0).detach()
    v0 = (1.0 + 0.5 * 2.0) / (1.0 - 0.25)  # V(first) = 1 + 0.5 V(second), V(second) = 2 + 0.5 V(first)
    torch.testing.assert_close(q, torch.tensor([v0, 2.0 + 0.5 * v0]), rtol=0.02, atol=0.0)


def test_far_from_greedy_the_policy_stays_the_behaviour() -> None:
    """With all the weight on the divergence, improvement has nothing to do."""
    agent = build_agent("identity", "onestep", CHOICES, **SMALL, **{"head.alpha": 1e9, "head.actor_lr": 1e-2})
    for n in range(2):
        agent.update(agent.next_phase(), random_rows(CHOICES, n))
        agent.updates += 1
    rows = random_rows(CHOICES, 3)
    for _ in range(20):
        metrics = agent.update("improvement", rows)
    assert float(metrics["policy/kl"]) < 1e-3


@pytest.mark.parametrize("improvement", ["reverse_kl", "weighted"])
def test_improvement_stays_on_the_gpu_too(improvement: str) -> None:
    """Phases that come late are not among those that every preset is tried on."""
    with fake_cuda():
        agent = build_agent("identity", "onestep", STATE_SPEC, **SMALL, **{"head.improvement": improvement})
        zeros = torch.zeros(8, 4, device=GPU)
        rows = Batch({"state": zeros[..., None].expand(8, 4, 5)}, zeros[..., None].expand(8, 4, 2), zeros, zeros, zeros)
        with Strict():
            metrics = agent.update("improvement", rows)
        assert {"loss/actor", "opt/actor/grad_norm"} < set(metrics)


@pytest.mark.parametrize("improvement", ["reverse_kl", "weighted"])
@pytest.mark.parametrize("kind", ["box", "choice"])
def test_it_does_better_than_a_clone(kind: str, improvement: str) -> None:
    data = linear_expert(bias=0.4 if kind == "box" else 0.1, kind=kind)
    settings = {
        "head.improvement": improvement,
        "head.alpha": 0.1,
        "head.critic_lr": 3e-3,
        "head.behavior_lr": 3e-3,
        "head.gamma": 0.5,
        "head.evaluation_updates": 250,
        "head.tau": 0.05,
    }
    assert regret(learn("onestep", data, rows=3, **settings)) < 0.4 * data.cloned
