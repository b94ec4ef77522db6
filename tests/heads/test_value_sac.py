"""The head with a value network against its oracle."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import STATE_SPEC
from tests.oracles import value_sac as oracle
from tests.oracles.side_by_side import compare, plain_agent, random_rows
from tests.test_agent import build as build_agent
from worldrl.beliefs.identity import Identity
from worldrl.heads.value_sac import ValueSAC

SMALL = ValueSAC.Config(units=16, tau=0.1, reward_scale=3.0, init_alpha=0.4)


def build(config: ValueSAC.Config = SMALL) -> tuple[Identity, ValueSAC]:
    model = Identity(Identity.Config(), STATE_SPEC)
    return model, ValueSAC(config, model.sizes(STATE_SPEC.actions))


def test_a_row_that_no_transition_touches_changes_nothing(make_batch) -> None:
    ends = []
    for shift in (0.0, 5.0):
        torch.manual_seed(0)
        model, head = build()
        batch = make_batch(STATE_SPEC, b=2, t=4, border=2)
        batch.is_terminal[0, 1] = 1.0
        batch.obs["state"][0, 1] += shift
        batch.reward[0, 2] += shift
        torch.manual_seed(1)
        metrics = head.update("update", batch, model.observe(batch, 0)[0], model)
        ends.append((metrics, [p.clone() for p in head.parameters()]))
    assert all(torch.equal(ends[0][0][key], ends[1][0][key]) for key in ends[0][0])
    assert all(torch.equal(a, b) for a, b in zip(ends[0][1], ends[1][1], strict=True))


def test_a_learned_temperature_follows_the_entropy(make_batch) -> None:
    """It rises where the entropy is below its target, and falls where it is above."""
    for scale, rises in ((-0.69, True), (5.0, False)):
        config = ValueSAC.Config(units=16, tune_alpha=True, target_entropy_scale=scale)
        model, head = build(config)
        batch = make_batch(STATE_SPEC)
        head.update("update", batch, model.observe(batch, 0)[0], model)
        assert (float(head.log_alpha.detach()) > 0) == rises


@pytest.mark.parametrize("policy", ["own", "mixture"])
@pytest.mark.parametrize(
    "settings",
    [
        {"head.reward_scale": 3.0, "head.init_alpha": 0.4},
        {"head.tune_alpha": True},
        {"head.critic_lr": 3e-3, "head.actor_lr": 1e-3, "head.gamma": 0.9, "head.tau": 0.1},
    ],
    ids=str,
)
def test_updates_are_the_oracles(settings: dict, policy: str) -> None:
    agent = build_agent("identity", f"value_sac+{policy}", STATE_SPEC, **settings)
    compare(agent, plain_agent(agent, oracle.ValueSAC), [random_rows(STATE_SPEC, n) for n in range(4)])
