"""The SMAC head against its oracle, and its limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.conftest import PIXEL_SPEC, STATE_SPEC
from tests.errors import refusing
from tests.oracles import smac as oracle
from tests.oracles.rssm import RSSM as RSSMOracle
from tests.oracles.side_by_side import compare, plain_agent, random_rows
from tests.oracles.slac import SLAC as SLACOracle
from tests.test_agent import build as build_agent
from worldrl.beliefs.rssm import RSSM
from worldrl.estimators.marginal import ESTIMATORS
from worldrl.heads.sac import SAC
from worldrl.heads.smac import SMAC
from worldrl.heads.transitions import transitions

BELIEF = RSSM.Config(stoch=4, deter=8, hidden=8, reward_units=8, vector_units=8)
SIZES = {"units": 16, "actor_layers": 2, "critic_layers": 2}


def build(**settings) -> tuple[RSSM, SMAC]:
    torch.manual_seed(1)
    model = RSSM(BELIEF, STATE_SPEC)
    return model, SMAC(SMAC.Config(**SIZES, **settings), model.sizes(STATE_SPEC.actions))


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
    sac = SAC(SAC.Config(**SIZES), model.sizes(STATE_SPEC.actions))
    a, b = run(model, smac, batch), run(model, sac, batch)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert all(torch.equal(p, q) for p, q in zip(smac.parameters(), sac.parameters(), strict=True))


def test_the_log_says_how_far_particles_differ(make_batch) -> None:
    """Zero for a belief whose particles are all the same, and more for one that does not know."""
    model, head = build(num_particles=4, init_std=0.1)
    batch = make_batch(STATE_SPEC, border=3)
    belief = model.observe(batch, 4)[0]
    same = belief._replace(particles=belief.feat.expand_as(belief.particles))
    wide = belief._replace(particles=belief.feat + 3.0 * torch.randn(belief.particles.shape))
    found = []
    for seen in (same, wide):
        states, tr = head.actor_states(seen), transitions(batch, seen.feat[None])
        found.append(head.actor_loss(states, tr, torch.tensor(0.1))[2])
    assert all(abs(value) < 1e-5 for value in found[0].values())
    assert all(
        found[1][key] > 0.01 and not found[1][key].requires_grad for key in ("policy/marginal_gain", "critic/spread")
    )


def test_roulette_phase_depends_on_the_seed_and_the_update_number() -> None:
    model, head = build(estimator="roulette", num_particles=4)

    def phases(seed: int) -> list[str]:
        torch.manual_seed(seed)
        again = SMAC(head.config, model.sizes(STATE_SPEC.actions))
        torch.rand(7)
        return [again.phase(n) for n in range(300)]

    assert phases(1) == phases(1) == [head.phase(n) for n in range(300)]
    assert phases(1) != phases(2)
    assert len(set(phases(1))) > 3
    assert head.particles("roulette-0") == 1
    assert head.particles("roulette-3") == 15


def test_refusals() -> None:
    with refusing("head.critic_particles", found="True", expected="false"):
        build(critic_particles=True, critic_entropy="marginal")
    with refusing("num_particles", found="6", expected="4 or 8"):
        build(estimator="mlmc", num_particles=6)
    with refusing("head.actor_input", expected="feat"):
        build(actor_input="context")


NARROW: list[dict[str, Any]] = [  # switches of a narrow policy, under whose paths the densities of an action differ
    {},
    {"head.critic_entropy": "marginal"},
    {"head.estimator": "iwae"},
    {"head.estimator": "mlmc"},
    {"head.critic_particles": True},
]
SWITCHES: list[dict[str, Any]] = [
    *({"head.estimator": name} for name in ESTIMATORS),
    *({"head.q_aggregate": name, "head.q_twins_first": False} for name in ("lse", "mean", "min")),
    *({"head.q_aggregate": name} for name in ("mean", "min")),
    {"head.q_include_s0": False},
    {"head.critic_particles": True},
    {"head.critic_entropy": "marginal"},
    *({"head.init_std": 0.3, **other} for other in NARROW),
    {"belief.particles": "last_step", "belief.burn_in": 2, "belief.free_nats_per_element": True},
]


@pytest.mark.parametrize("settings", SWITCHES, ids=str)
def test_updates_are_the_oracles(settings: dict[str, Any]) -> None:
    """Eqs. 11, 12, 14, 15, 23, 25, and what a switch puts in their place."""
    spec = STATE_SPEC._replace(terminates=True)
    agent = build_agent("rssm", "smac", spec, **{"schedule.model_every": 2, **settings})
    compare(agent, plain_agent(agent, oracle.SMAC, RSSMOracle), [random_rows(spec, n) for n in range(3)])


@pytest.mark.parametrize("belief", ["rssm", "slac"])
def test_updates_from_images_are_the_oracles(belief: str) -> None:
    """World model and head together: a gradient that reaches the wrong weight, or a row off by one, shows here."""
    spec = PIXEL_SPEC._replace(terminates=True)
    settings = {"belief.background": True, "head.grad_clip": 0.5, "head.init_alpha": 0.1}
    if belief == "rssm":
        settings |= {
            "belief.kl_scale": 0.3,
            "belief.free_nats": 0.0,
            "belief.reward_scale": 10.0,
            "belief.grad_clip": 5.0,
        }
    agent = build_agent(belief, "smac", spec, **settings)
    plain = plain_agent(agent, oracle.SMAC, RSSMOracle if belief == "rssm" else SLACOracle)
    compare(agent, plain, [random_rows(spec, n) for n in range(4)])


def test_updates_of_a_mixture_under_the_marginal_are_the_oracles() -> None:
    agent = build_agent("rssm", "smac+mixture", STATE_SPEC)
    compare(agent, plain_agent(agent, oracle.SMAC, RSSMOracle), [random_rows(STATE_SPEC, n) for n in range(3)])
