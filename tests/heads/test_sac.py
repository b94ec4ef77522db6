"""The SAC head against its oracle, time alignment, masks and termination."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from tests.conftest import STATE_SPEC
from tests.oracles import sac as oracle
from tests.oracles.rssm import RSSM as RSSMOracle
from tests.oracles.side_by_side import compare, plain_agent, random_rows
from tests.test_agent import build as build_agent
from worldrl.beliefs.identity import Identity
from worldrl.beliefs.rssm import RSSM
from worldrl.errors import UserError
from worldrl.heads.sac import SAC
from worldrl.heads.transitions import transitions
from worldrl.types import Actions, Batch, Belief, Sizes, box, choice

SMALL = SAC.Config(
    units=16, actor_layers=2, critic_layers=2, activation="relu", critic_init="default", policy_std="log", grad_clip=0.0
)


def build(config: SAC.Config = SMALL) -> tuple[Identity, SAC]:
    model = Identity(Identity.Config(), STATE_SPEC)
    return model, SAC(config, model.sizes(STATE_SPEC.actions))


def test_pairs_name_their_own_time_step() -> None:
    """In a toy where state, action and reward of row t all say t, each pair says (t, t + 1, t + 1, t + 1)."""
    t = torch.arange(5.0).expand(2, 5)
    first = torch.zeros(2, 5)
    first[1, 3] = 1.0
    batch = Batch({"state": t[..., None]}, t[..., None], t, first, torch.zeros(2, 5))
    tr = transitions(batch, t[None, ..., None])
    assert tr.feat[0, 0, :, 0].tolist() == [0, 1, 2, 3]
    assert tr.action[0, :, 0].tolist() == tr.reward[0].tolist() == tr.next_feat[0, 0, :, 0].tolist() == [1, 2, 3, 4]
    assert tr.mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 1]]


@pytest.mark.parametrize("field", ["obs", "action", "reward", "is_terminal"])
def test_masked_pairs_do_not_reach_any_loss(make_batch, field: str) -> None:
    """What stands in a first row's action, reward and end flag, and in the last row before it, changes nothing."""
    model, head = build()
    batch = make_batch(STATE_SPEC, b=2, t=4, border=2)

    def critic_loss(b: Batch) -> Tensor:
        tr = transitions(b, model.observe(b, 0)[0].feat[None])
        torch.manual_seed(0)
        y = head.td_target(tr, model.observe(b, 0)[0], torch.tensor(0.1))
        return head.critic_loss(tr, y)[0]

    before = critic_loss(batch)
    if field != "obs":
        getattr(batch, field)[0, 2] = 0.7
        assert critic_loss(batch) == before
    else:
        batch.obs["state"][0, 2, 0] += 1.0  # a first row starts a pair of its own: it does matter
        assert critic_loss(batch) != before


def test_termination_ends_the_bootstrap_and_truncation_does_not(make_batch) -> None:
    model, head = build()
    batch = make_batch(STATE_SPEC, b=1, t=3)
    batch.is_terminal[0, 2] = 1.0
    tr = transitions(batch, model.observe(batch, 0)[0].feat[None])
    y = head.td_target(tr, model.observe(batch, 0)[0], torch.tensor(0.1))[0, 0]
    assert y[1] == batch.reward[0, 2]
    assert y[0] != batch.reward[0, 1]


def test_the_actor_loss_reads_the_rows_that_a_transition_starts_from(make_batch) -> None:
    model, head = build()
    belief = model.observe(make_batch(STATE_SPEC, b=2, t=4), 0)[0]
    states = head.actor_states(belief)
    assert torch.equal(states.inputs, belief.feat[:, :3])


def test_gradients_never_reach_the_belief(make_batch) -> None:
    config = RSSM.Config(stoch=4, deter=8, hidden=8, reward_units=8, vector_units=8)
    model = RSSM(config, STATE_SPEC)
    head = SAC(SMALL, model.sizes(STATE_SPEC.actions))
    belief, _, _ = model.observe(make_batch(STATE_SPEC), 0)
    assert not any(x.requires_grad for x in belief)
    before = [p.clone() for p in model.parameters()]
    head.update("update", make_batch(STATE_SPEC), belief, model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_context_actor_reads_the_context(make_batch) -> None:
    config = RSSM.Config(stoch=4, deter=8, hidden=8, reward_units=8, vector_units=8)
    model = RSSM(config, STATE_SPEC)
    head = SAC(SAC.Config(**{**SMALL.__dict__, "actor_input": "context"}), model.sizes(STATE_SPEC.actions))
    batch = make_batch(STATE_SPEC)
    belief, _, _ = model.observe(batch, 0)
    head.update("update", batch, belief, model)
    assert head.policy.net.linears[0].in_features == model.context_dim
    row = Belief(belief.feat[:, 0], belief.particles[:, :, 0], belief.context[:, 0], belief.entropy[:, 0])
    other = row._replace(feat=row.feat + 1.0)
    assert torch.equal(head.act(row, explore=False), head.act(other, explore=False))


def test_fixed_temperature_stays(make_batch) -> None:
    model, head = build(SAC.Config(**{**SMALL.__dict__, "init_alpha": 0.2, "tune_alpha": False}))
    batch = make_batch(STATE_SPEC)
    metrics = head.update("update", batch, model.observe(batch, 0)[0], model)
    assert float(head.log_alpha.detach().exp()) == pytest.approx(0.2)
    assert "loss/alpha" not in metrics


def test_first_update_uses_the_initial_temperature(make_batch) -> None:
    """The released SMAC code minimises entropy in its first update (alpha = -1)."""
    model, head = build()
    batch = make_batch(STATE_SPEC)
    assert head.update("update", batch, model.observe(batch, 0)[0], model)["policy/alpha"] == 1.0


def test_a_row_that_no_transition_touches_changes_nothing(make_batch) -> None:
    """The last row before a border starts no pair, and a terminal one ends its pair without its value."""
    ends = []
    for shift in (0.0, 5.0):
        torch.manual_seed(0)
        model, head = build()
        batch = make_batch(STATE_SPEC, b=2, t=4, border=2)
        batch.is_terminal[0, 1] = 1.0
        batch.obs["state"][0, 1] += shift
        torch.manual_seed(1)
        metrics = head.update("update", batch, model.observe(batch, 0)[0], model)
        ends.append((metrics, [p.clone() for p in head.parameters()]))
    assert all(torch.equal(ends[0][0][key], ends[1][0][key]) for key in ends[0][0])
    assert all(torch.equal(a, b) for a, b in zip(ends[0][1], ends[1][1], strict=True))


def test_each_optimiser_has_its_own_learning_rate() -> None:
    rates = {"actor_lr": 1e-3, "critic_lr": 2e-3, "alpha_lr": 3e-3}
    _, head = build(SAC.Config(**{**SMALL.__dict__, **rates}))
    assert {f"{name}_lr": o.lr for name, o in head.optimizers.items()} == rates


@pytest.mark.parametrize(
    "settings", [{}, {"head.reward_scale": 3.0, "head.init_alpha": 0.2}, {"head.tune_alpha": False}], ids=str
)
@pytest.mark.parametrize("policy", ["own", "flow", "mixture"])
def test_updates_are_the_oracles(policy: str, settings: dict) -> None:
    agent = build_agent("identity", f"sac+{policy}", STATE_SPEC, **settings)
    compare(agent, plain_agent(agent, oracle.SAC), [random_rows(STATE_SPEC, n) for n in range(4)])


@pytest.mark.parametrize("settings", [{}, {"head.actor_input": "context"}, {"head.grad_clip": 0.5}], ids=str)
def test_updates_of_latent_sac_are_the_oracles(settings: dict) -> None:
    """The world model learns at every second update only."""
    spec = STATE_SPEC._replace(terminates=True)
    agent = build_agent("rssm", "sac", spec, **{"schedule.model_every": 2, **settings})
    compare(agent, plain_agent(agent, oracle.SAC, RSSMOracle), [random_rows(spec, n) for n in range(4)])


@pytest.mark.parametrize(
    ("actions", "scale", "fits"),
    [
        (box(2), -0.69, True),
        (box(2), -0.7, False),
        (choice(3), 1.02, True),
        (choice(3), 1.03, False),
        (choice(1), 2.0, True),
    ],
)
def test_an_entropy_that_no_policy_has_is_refused(actions: Actions, scale: float, fits: bool) -> None:
    with nullcontext() if fits else pytest.raises(UserError):
        SAC(SAC.Config(**SAC.tiny, target_entropy_scale=scale), Sizes((3,), (3,), actions))
    SAC(SAC.Config(**SAC.tiny, target_entropy_scale=scale, tune_alpha=False), Sizes((3,), (3,), actions))
