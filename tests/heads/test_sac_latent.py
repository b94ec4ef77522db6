"""The SAC head on the latent-variable policy: SMAC without a world model, its losses written out."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import BOTH_SPEC, STATE_SPEC
from tests.test_agent import build
from worldrl.agent import Agent
from worldrl.errors import UserError
from worldrl.heads.sac import transitions
from worldrl.types import EnvSpec

LATENT = {"policy": "latent", "policy.latent": 4, "policy.num_particles": 4}


def latent_agent(belief: str, spec: EnvSpec, **settings) -> Agent:
    return build(belief, "sac", spec, **LATENT, **settings)


def test_critic_target_holds_the_marginal_log_probability(make_batch) -> None:
    head, batch = latent_agent("identity", STATE_SPEC).head, make_batch(STATE_SPEC, b=8, t=2)
    x = batch.obs["state"]
    alpha = torch.tensor(0.3)
    torch.manual_seed(0)
    y = head.td_target(transitions(batch, x[None]), None, alpha)[0]
    torch.manual_seed(0)
    latents = head.policy.latents(x[None, :, 1:], 5)
    draw = head.policy.decoder.sample(latents[0])
    densities = torch.stack([head.policy.decoder.log_prob(draw.pre_tanh[0], s) for s in latents]).exp()
    q = head.target(x[:, 1:], draw.action[0, 0]).amin(0)
    expected = batch.reward[:, 1:] + 0.99 * (q - alpha * densities.mean(0)[0].log())
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


def test_actor_loss_is_eq_24_with_the_penalty_of_eq_26(make_batch) -> None:
    """beta = alpha x weight, and the temperature sees the marginal entropy alone."""
    agent = latent_agent("identity", STATE_SPEC, **{"policy.conditional_penalty": 0.5, "policy.estimator": "mlmc"})
    head, batch = agent.head, make_batch(STATE_SPEC, b=8, t=2)
    belief, alpha = agent.model.observe(batch, 0)[0], torch.tensor(0.3)
    states = head.actor_states(belief)
    torch.manual_seed(0)
    loss, log_pi = head.actor_loss(states, torch.ones(8, 1), alpha)
    torch.manual_seed(0)
    draw = head.policy.sample(states.inputs)
    torch.manual_seed(0)
    conditional = head.policy.decoder.sample(head.policy.latents(states.inputs, 5)[0]).log_prob[0]
    q = head.critic(states.feat, draw.action[0]).amin(0)
    expected = alpha * draw.log_prob[0] - q - (alpha * 0.5) * conditional
    torch.testing.assert_close(loss, expected.mean())
    torch.testing.assert_close(log_pi, draw.log_prob[0])


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
    with pytest.raises(UserError, match="policy LatentGaussian only bounds them; use head=sac"):
        build("rssm", "smac", BOTH_SPEC, **LATENT)
