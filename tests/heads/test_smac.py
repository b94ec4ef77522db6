"""The SMAC head: its limits, its switches, its equations."""

from __future__ import annotations

import math

import pytest
import torch

from tests.conftest import STATE_SPEC
from tests.test_agent import build as build_agent
from worldrl.beliefs.rssm import RSSM
from worldrl.errors import UserError
from worldrl.estimators.marginal import ESTIMATORS, marginal_q
from worldrl.heads.sac import SAC, transitions
from worldrl.heads.smac import SMAC

BELIEF = RSSM.Config(stoch=4, deter=8, hidden=8, reward_units=8, vector_units=8)
SIZES = {"units": 16, "actor_layers": 2, "critic_layers": 2}


def build(**settings) -> tuple[RSSM, SMAC]:
    torch.manual_seed(1)
    model = RSSM(BELIEF, STATE_SPEC)
    return model, SMAC(SMAC.Config(**SIZES, **settings), model.feat_dim, model.context_dim, 2)


def run(model: RSSM, head: SAC, batch, updates: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    for n in range(updates):
        phase = head.phase(n)
        belief = model.observe(batch, head.particles(phase))[0]
        metrics = head.update(phase, batch, belief, model)
    return metrics


def test_without_particles_smac_is_latent_sac_bit_for_bit(make_batch) -> None:
    batch = make_batch(STATE_SPEC, border=3)
    model, smac = build(num_particles=0)
    torch.manual_seed(1)
    RSSM(BELIEF, STATE_SPEC)
    sac = SAC(SAC.Config(**SIZES), model.feat_dim, model.context_dim, 2)
    a, b = run(model, smac, batch), run(model, sac, batch)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert all(torch.equal(p, q) for p, q in zip(smac.parameters(), sac.parameters(), strict=True))


def test_equal_particles_are_latent_sac(make_batch) -> None:
    """Where every particle equals feat, the marginal is the conditional, whatever K."""
    batch = make_batch(STATE_SPEC)
    model, head = build(num_particles=4)
    belief = model.observe(batch, 0)[0]
    same = belief._replace(particles=belief.feat.expand(4, *belief.feat.shape))
    alpha, mask = torch.tensor(0.3), torch.ones(4, 5)
    torch.manual_seed(0)
    loss, log_pi = head.actor_loss(head.actor_states(same), mask, alpha)
    torch.manual_seed(0)
    expected_loss, expected_log_pi = SAC.actor_loss(head, head.actor_states(belief), mask, alpha)
    torch.testing.assert_close(loss, expected_loss)
    torch.testing.assert_close(log_pi, expected_log_pi)


def test_actor_loss_is_eq_15_written_out(make_batch) -> None:
    batch = make_batch(STATE_SPEC)
    model, head = build(num_particles=2)
    belief = model.observe(batch, 2)[0]
    states, alpha = head.actor_states(belief), torch.tensor(0.3)
    torch.manual_seed(0)
    loss, _ = head.actor_loss(states, torch.ones(4, 5), alpha)
    torch.manual_seed(0)
    draw = head.policy.sample(states.feat)
    action, u = draw.action[0], draw.pre_tanh[0]
    feats = [states.feat, *states.particles]
    densities = torch.stack([head.policy.log_prob(u, s) for s in feats]).exp().mean(0)
    q = torch.stack([head.critic(s, action).amin(0) for s in feats]).exp().mean(0).log()
    torch.testing.assert_close(loss, (alpha * densities.log() - q).mean(), rtol=1e-4, atol=1e-5)


def test_without_s0_the_marginal_q_has_k_terms(make_batch) -> None:
    batch = make_batch(STATE_SPEC)
    model, head = build(num_particles=2, q_include_s0=False)
    belief = model.observe(batch, 2)[0]
    states = head.actor_states(belief)
    draw = head.policy.sample(states.feat)
    q = torch.stack([head.critic(s, draw.action[0]).amin(0) for s in states.particles])
    torch.testing.assert_close(head.q_pi(draw, states)[0], torch.logsumexp(q, 0) - math.log(2))


@pytest.mark.parametrize(
    "settings",
    [{"estimator": name, "num_particles": 4} for name in ("naive", "iwae", "nested", "mlmc", "mlmc_fresh", "roulette")]
    + [
        {"num_particles": 4, "critic_particles": True},
        {"num_particles": 4, "critic_entropy": "marginal"},
        {"num_particles": 4, "q_twins_first": False, "q_aggregate": "mean"},
    ],
    ids=str,
)
def test_every_switch_updates_and_stays_finite(make_batch, settings: dict) -> None:
    model, head = build(**settings)
    before = [p.clone() for p in head.policy.parameters()]
    metrics = run(model, head, make_batch(STATE_SPEC, border=2))
    assert all(torch.isfinite(x) for x in metrics.values())
    assert all(not torch.equal(p, q) for p, q in zip(before, head.policy.parameters(), strict=True))


def test_particle_critic_has_its_own_action_and_target_per_particle(make_batch) -> None:
    batch = make_batch(STATE_SPEC)
    model, head = build(num_particles=2, critic_particles=True)
    belief = model.observe(batch, 2)[0]
    tr = transitions(batch, head.critic_states(belief))
    torch.manual_seed(0)
    y = head.td_target(tr, belief, torch.tensor(0.3))
    assert y.shape == (3, 4, 5)
    torch.manual_seed(0)
    feats = torch.cat([belief.feat[None], belief.particles])[:, :, 1:]
    draw = head.policy.sample(feats)
    for k in range(3):
        q = head.target(feats[k], draw.action[0, k]).amin(0)
        torch.testing.assert_close(y[k], tr.reward + 0.99 * (q - 0.3 * draw.log_prob[0, k]))


def test_marginal_target_uses_the_particles_of_the_next_row(make_batch) -> None:
    batch = make_batch(STATE_SPEC)
    model, head = build(num_particles=2, critic_entropy="marginal")
    belief = model.observe(batch, 2)[0]
    tr = transitions(batch, head.critic_states(belief))
    torch.manual_seed(0)
    y = head.td_target(tr, belief, torch.tensor(0.3))[0]
    torch.manual_seed(0)
    draw = head.policy.sample(tr.next_feat)
    u = draw.pre_tanh[0, 0]
    states = [belief.feat[:, 1:], *belief.particles[:, :, 1:]]
    log_pi = torch.stack([head.policy.log_prob(u, s) for s in states]).exp().mean(0).log()
    q = head.target(tr.next_feat[0], draw.action[0, 0]).amin(0)
    torch.testing.assert_close(y, tr.reward + 0.99 * (q - 0.3 * log_pi), rtol=1e-4, atol=1e-4)


def test_roulette_phase_depends_on_the_seed_and_the_update_number() -> None:
    model, head = build(estimator="roulette", num_particles=4)

    def phases(seed: int) -> list[str]:
        torch.manual_seed(seed)
        again = SMAC(head.config, model.feat_dim, model.context_dim, 2)
        torch.rand(7)
        return [again.phase(n) for n in range(300)]

    assert phases(1) == phases(1) == [head.phase(n) for n in range(300)]
    assert phases(1) != phases(2)
    assert len(set(phases(1))) > 3
    assert head.particles("roulette-0") == 1
    assert head.particles("roulette-3") == 15


def test_refusals() -> None:
    with pytest.raises(UserError, match="critic_entropy=marginal is for one draw"):
        build(critic_particles=True, critic_entropy="marginal")
    with pytest.raises(UserError, match="power of two, found 6; nearest: 4 or 8"):
        build(estimator="mlmc", num_particles=6)
    with pytest.raises(UserError, match="actor_input must be feat"):
        build(actor_input="context")


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "roulette"])
def test_smac_has_the_estimator_that_it_is_asked_for(name: str, make_batch) -> None:
    agent = build_agent("rssm", "smac", STATE_SPEC, **{"head.estimator": name, "head.num_particles": 4})
    head = agent.head
    belief = agent.model.observe(make_batch(STATE_SPEC), head.needs.particles)[0]
    states = head.actor_states(belief)
    draw = head.policy.sample(states.feat)
    log_probs = torch.stack([head.policy.log_prob(draw.pre_tanh, s) for s in (states.feat, *states.particles)])
    torch.testing.assert_close(head.log_pi(draw, states), ESTIMATORS[name](log_probs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("aggregate", ["lse", "mean", "min"])
@pytest.mark.parametrize("first", [False, True])
def test_smac_has_the_aggregate_that_it_is_asked_for(aggregate: str, first: bool, make_batch) -> None:
    agent = build_agent("rssm", "smac", STATE_SPEC, **{"head.q_aggregate": aggregate, "head.q_twins_first": first})
    head = agent.head
    states = head.actor_states(agent.model.observe(make_batch(STATE_SPEC), 4)[0])
    draw = head.policy.sample(states.feat)
    q = torch.stack([head.critic(s, draw.action) for s in (states.feat, *states.particles)], 1)
    torch.testing.assert_close(head.q_pi(draw, states), marginal_q(q, aggregate, first))
