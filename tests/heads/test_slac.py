"""The SLAC head: its published size, what its parts read, and that only a whole history starts a transition."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import BOTH_SPEC, STATE_SPEC
from tests.test_agent import build
from worldrl.beliefs.rssm import RSSM
from worldrl.beliefs.slac import SLAC as Belief
from worldrl.heads.sac import SAC, transitions
from worldrl.heads.slac import SLAC

SMALL = SLAC.Config(units=16)
MODEL = Belief.Config(z1=3, z2=6, units=8, depth=2, vector_units=5, history=3)


def test_parameter_counts_of_the_published_agent() -> None:
    head = SLAC(SLAC.Config(), 288, 8 * 256 + 7 * 6, 6)
    assert sum(p.numel() for p in head.policy.parameters()) == 604_172
    assert sum(p.numel() for p in head.critic.parameters()) == 283_138


def test_it_is_sac_whose_actor_reads_the_context(make_batch) -> None:
    """The same settings on the plain head give the same update, bit for bit."""
    ends = []
    for kind, config in ((SLAC, SMALL), (SAC, SAC.Config(**SMALL.__dict__))):
        torch.manual_seed(0)
        model = Belief(MODEL, BOTH_SPEC)
        head = kind(config, model.feat_dim, model.context_dim, 2)
        batch = make_batch(BOTH_SPEC)
        belief, _, _ = model.observe(batch, 0)
        ends.append(head.update("update", batch.drop_rows(model.lost_rows), belief, model))
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_the_actor_reads_the_context_and_the_critic_the_state(make_batch) -> None:
    model = Belief(MODEL, STATE_SPEC)
    head = SLAC(SMALL, model.feat_dim, model.context_dim, 2)
    belief, _, _ = model.observe(make_batch(STATE_SPEC), 0)
    states = head.actor_states(belief)
    assert torch.equal(states.inputs, belief.context[:, :-1])
    assert torch.equal(states.feat, belief.feat[:, :-1])
    assert torch.equal(head.critic_states(belief)[0], belief.feat)


def test_published_windows_hold_one_transition(make_batch) -> None:
    """Nine rows: the critic learns from the last pair alone, which is masked where it crosses an episode border."""
    from worldrl.heads.sac import transitions

    model = Belief(Belief.Config(z1=3, z2=6, units=8, vector_units=5), STATE_SPEC)
    batch = make_batch(STATE_SPEC, t=9, border=8)
    belief, _, _ = model.observe(batch, 0)
    tr = transitions(batch.drop_rows(model.lost_rows), belief.feat[None])
    assert tr.reward.tolist() == batch.reward[:, 8:].tolist()
    assert tr.action.tolist() == batch.action[:, 8:].tolist()
    assert tr.mask[:, 0].tolist() == [0, 1, 1, 1]


def test_on_the_rssm_the_actor_sees_only_what_is_deterministic(make_batch) -> None:
    model = RSSM(RSSM.Config(stoch=4, deter=8, hidden=8, reward_units=8, vector_units=8), STATE_SPEC)
    head = SLAC(SMALL, model.feat_dim, model.context_dim, 2)
    batch = make_batch(STATE_SPEC)
    belief, _, _ = model.observe(batch, 0)
    metrics = head.update("update", batch, belief, model)
    assert all(torch.isfinite(value) for value in metrics.values())
    row = belief._replace(context=belief.context[:, 0])
    assert torch.equal(head.act(row, explore=False), head.act(row._replace(feat=row.feat + 1.0), explore=False))


@pytest.mark.parametrize("belief", ["rssm", "slac"])
def test_next_actions_are_chosen_in_the_context_of_the_next_row(belief: str, make_batch) -> None:
    agent = build(belief, "slac", STATE_SPEC)
    batch = make_batch(STATE_SPEC)
    known = agent.model.observe(batch, 0)[0]
    tr = transitions(batch.drop_rows(agent.model.lost_rows), known.feat[None])
    alpha = torch.tensor(0.3)
    torch.manual_seed(1)
    y = agent.head.td_target(tr, known, alpha)[0]
    torch.manual_seed(1)
    draw = agent.head.policy.sample(known.context[None, :, 1:])
    q = agent.head.target(known.feat[:, 1:], draw.action[0, 0]).amin(0)
    torch.testing.assert_close(y, tr.reward + 0.99 * (q - alpha * draw.log_prob[0, 0]))
