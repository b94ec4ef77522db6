"""The SAC head on the latent-variable policy, SMAC without a world model, against its oracle."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import BOTH_SPEC, STATE_SPEC
from tests.oracles import sac as oracle
from tests.oracles.side_by_side import compare, plain_agent, random_rows
from tests.test_agent import build
from worldrl.agent import Agent
from worldrl.errors import UserError
from worldrl.types import EnvSpec

LATENT = {"policy": "latent", "policy.latent": 4, "policy.num_particles": 4}


def latent_agent(belief: str, spec: EnvSpec, **settings) -> Agent:
    return build(belief, "sac", spec, **LATENT, **settings)


@pytest.mark.parametrize("belief", ["identity", "rssm"])
def test_both_networks_of_the_policy_learn_and_the_agent_acts(belief: str, make_batch) -> None:
    spec = STATE_SPEC if belief == "identity" else BOTH_SPEC
    agent = latent_agent(belief, spec)
    assert agent.head.policy.config.latent == 4
    before = {name: p.clone() for name, p in agent.head.policy.named_parameters()}
    metrics = agent.update("update", make_batch(spec))
    assert all(torch.isfinite(value) for value in metrics.values())
    assert not any(torch.equal(p, before[name]) for name, p in agent.head.policy.named_parameters())


def test_the_smac_head_refuses_it_in_one_line() -> None:
    with pytest.raises(UserError) as caught:
        build("rssm", "smac", BOTH_SPEC, **LATENT)
    assert (caught.value.where, caught.value.expected) == ("head=smac", "a policy with an exact density")
    assert "head=sac" in caught.value.fix


@pytest.mark.parametrize("estimator", ["naive", "iwae", "nested", "mlmc", "mlmc_fresh"])
@pytest.mark.parametrize("penalty", [0.0, 0.5])
def test_updates_are_the_oracles(estimator: str, penalty: float) -> None:
    """Eqs. 23, 24 and 26."""
    settings = {"policy.estimator": estimator, "policy.conditional_penalty": penalty}
    agent = latent_agent("identity", STATE_SPEC, **settings)
    compare(agent, plain_agent(agent, oracle.SAC), [random_rows(STATE_SPEC, n) for n in range(4)])
