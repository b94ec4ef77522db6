"""The SLAC head against its oracle: its published size, what its parts read, and that only a whole history counts."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import BOTH_SPEC, STATE_SPEC
from tests.oracles import sac as oracle
from tests.oracles.rssm import RSSM as RSSMOracle
from tests.oracles.side_by_side import compare, plain_agent, random_rows
from tests.oracles.slac import SLAC as SLACOracle
from tests.test_agent import build
from worldrl.beliefs.rssm import RSSM
from worldrl.beliefs.slac import SLAC as Belief
from worldrl.heads.slac import SLAC
from worldrl.heads.transitions import transitions
from worldrl.types import Sizes, box

SMALL = SLAC.Config(units=16)
MODEL = Belief.Config(z1=3, z2=6, units=8, depth=2, vector_units=5, history=3)


def test_parameter_counts_of_the_published_agent() -> None:
    head = SLAC(SLAC.Config(), Sizes((288,), (8 * 256 + 7 * 6,), box(6)))
    assert sum(p.numel() for p in head.policy.parameters()) == 604_172
    assert sum(p.numel() for p in head.critic.parameters()) == 283_138


def test_the_actor_reads_the_context_and_the_critic_the_state(make_batch) -> None:
    model = Belief(MODEL, STATE_SPEC)
    head = SLAC(SMALL, model.sizes(STATE_SPEC.actions))
    belief, _, _ = model.observe(make_batch(STATE_SPEC), 0)
    states = head.actor_states(belief)
    assert torch.equal(states.inputs, belief.context[:, :-1])
    assert torch.equal(states.feat, belief.feat[:, :-1])
    assert torch.equal(head.critic_states(belief)[0], belief.feat)


def test_published_windows_hold_one_transition(make_batch) -> None:
    """Nine rows: the critic learns from the last pair alone, which is masked where it crosses an episode border."""

    model = Belief(Belief.Config(z1=3, z2=6, units=8, vector_units=5), STATE_SPEC)
    batch = make_batch(STATE_SPEC, t=9, border=8)
    belief, _, _ = model.observe(batch, 0)
    tr = transitions(batch.drop_rows(model.lost_rows), belief.feat[None])
    assert tr.reward.tolist() == batch.reward[:, 8:].tolist()
    assert tr.action.tolist() == batch.action[:, 8:].tolist()
    assert tr.mask[:, 0].tolist() == [0, 1, 1, 1]


def test_on_the_rssm_the_actor_sees_only_what_is_deterministic(make_batch) -> None:
    model = RSSM(RSSM.Config(stoch=4, deter=8, hidden=8, reward_units=8, vector_units=8), STATE_SPEC)
    head = SLAC(SMALL, model.sizes(STATE_SPEC.actions))
    batch = make_batch(STATE_SPEC)
    belief, _, _ = model.observe(batch, 0)
    metrics = head.update("update", batch, belief, model)
    assert all(torch.isfinite(value) for value in metrics.values())
    row = belief._replace(context=belief.context[:, 0])
    assert torch.equal(head.act(row, explore=False), head.act(row._replace(feat=row.feat + 1.0), explore=False))


@pytest.mark.parametrize("belief", ["rssm", "slac"])
def test_updates_are_the_oracles(belief: str) -> None:
    """The actor on the context of its row and of the next, the critic on the state."""
    spec = BOTH_SPEC._replace(terminates=True)
    agent = build(belief, "slac", spec)
    plain = plain_agent(agent, oracle.SAC, RSSMOracle if belief == "rssm" else SLACOracle)
    compare(agent, plain, [random_rows(spec, n) for n in range(3)])
