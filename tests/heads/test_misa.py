"""MISA against its oracle, the limits of its relations (CQL, cloning, SAC), its sampler, its invariances."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import STATE_SPEC
from tests.oracles.misa import MISA as Oracle
from tests.oracles.misa import DiscreteMISA
from tests.oracles.rssm import RSSM as RSSMOracle
from tests.oracles.side_by_side import compare, plain_agent, random_rows
from tests.test_agent import build
from worldrl.agent import Agent
from worldrl.errors import UserError
from worldrl.heads.cql import Proposed
from worldrl.heads.misa import MISA, VARIANTS, Tilted, no_actions
from worldrl.heads.transitions import transitions
from worldrl.nn.optim import Optimizer
from worldrl.types import Batch, Belief, choice

TINY = {"head.units": 16, "head.samples": 4, "head.activation": "elu"}
ROWS = [random_rows(STATE_SPEC, seed) for seed in range(4)]


def misa(**settings: Any) -> Agent:
    return build("identity", "misa", STATE_SPEC, **TINY | {f"head.{key}": value for key, value in settings.items()})


def seen(agent: Agent, seed: int = 0, b: int = 6, t: int = 2) -> tuple[Any, Any]:
    """Transitions, and the states that the actor sees in them."""
    rows = random_rows(STATE_SPEC, seed, b=b, t=t)
    belief: Belief = agent.model.observe(rows, 0)[0]
    return transitions(rows, belief.feat[None]), agent.head.actor_states(belief)


# --- whole updates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "t"])
def test_updates_are_the_oracles(variant: str) -> None:
    agent = misa(variant=variant, actor_lr=1e-3, correction_weight=0.3)
    compare(agent, plain_agent(agent, Oracle), ROWS)


@pytest.mark.parametrize("sampler", ["hmc", "snis"])
def test_updates_with_an_energy_of_its_own_are_the_oracles(sampler: str) -> None:
    """A constant changes nothing of T's gap: the last bias has no gradient except rounding, which Adam enlarges."""
    agent = misa(variant="t", actor_lr=1e-3, correction_weight=0.3, sampler=sampler, activation="tanh")
    agent.head.optimizers["energy"] = Optimizer(list(agent.head.energy.parameters())[:-1], 3e-4)
    compare(agent, plain_agent(agent, Oracle), ROWS)


@pytest.mark.parametrize(
    "settings",
    [
        {"sampler": "snis"},
        {"sampler": "snis", "variant": "dv"},
        {"budget": 0.2, "critic_lr": 1e-3},
        {"decay_updates": 5, "burn_in": 1, "leapfrogs": 3},
        {"acceptance": 0.0, "policy_std": "softplus", "backup_entropy": True},
        {"critic_weight": 0.0},
    ],
    ids=str,
)
def test_updates_with_other_settings_are_the_oracles(settings: dict[str, Any]) -> None:
    agent = misa(**settings)
    compare(agent, plain_agent(agent, Oracle), ROWS)


def test_updates_on_a_world_model_are_the_oracles() -> None:
    spec = STATE_SPEC._replace(terminates=True)
    agent = build("rssm", "misa", spec, **TINY)
    compare(agent, plain_agent(agent, Oracle, RSSMOracle), [random_rows(spec, n) for n in range(3)])


@pytest.mark.parametrize("variant", ["misa", "dv", "f", "no_ba", "t"])
def test_updates_with_choices_are_the_oracles(variant: str) -> None:
    """Exact: nothing is drawn."""
    spec = STATE_SPEC._replace(actions=choice(3))
    agent = build("identity", "misa", spec, **TINY, **{"head.variant": variant, "head.actor_lr": 1e-3})
    state = torch.get_rng_state()
    agent.update("update", random_rows(spec, 9))
    assert torch.equal(state, torch.get_rng_state())
    agent = build("identity", "misa", spec, **TINY, **{"head.variant": variant, "head.actor_lr": 1e-3})
    compare(agent, plain_agent(agent, DiscreteMISA), [random_rows(spec, seed) for seed in range(4)])


# --- relations --------------------------------------------------------------------------------------------------------


def test_without_its_weights_it_is_sac_bit_for_bit() -> None:
    common = {"head.units": 16, "head.activation": "elu", "head.actor_lr": 1e-4, "head.critic_init": "default"}
    common |= {"head.actor_layers": 2, "head.critic_layers": 2, "head.policy_std": "log", "head.grad_clip": 0.0}
    common |= {"head.alpha_lr": 1e-4}
    off = {"head.critic_weight": 0.0, "head.bc_weight": 0.0, "head.correction_weight": 0.0, "head.entropy_weight": 1.0}
    ends = []
    for head, more in (("sac", {}), ("misa", {**off, "head.backup_entropy": True})):
        torch.manual_seed(0)
        agent = build("identity", head, STATE_SPEC, **common, **more)
        for n, rows in enumerate(ROWS):
            torch.manual_seed(n)
            agent.update("update", rows)
        ends.append([agent.head.policy.state_dict(), agent.head.critic.state_dict(), agent.head.target.state_dict()])
    for ours, theirs in zip(*ends, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_with_a_uniform_policy_its_gap_is_that_of_cql() -> None:
    """Of a choice, log-sum-exp less log A; CQL's own is without that constant."""
    spec = STATE_SPEC._replace(actions=choice(3))
    sizes = {"head.actor_layers": 2, "head.critic_layers": 2}
    heads = [build("identity", name, spec, **TINY, **sizes).head for name in ("misa", "cql")]
    heads[1].load_state_dict({name: x for name, x in heads[0].state_dict().items() if name != "log_step"}, strict=False)
    for head in heads:
        for p in head.policy.parameters():
            p.data.zero_()
    rows = random_rows(spec, 0)
    belief = build("identity", "cql", spec).model.observe(rows, 0)[0]
    tr = transitions(rows, belief.feat[None])
    ours, theirs = heads
    draw = ours.draws(ours.actor_states(belief))
    y = torch.zeros(1, *tr.reward.shape)
    gap = ours.conservative_loss(tr, y, Proposed(draw.action, draw.weight.log())).gap
    torch.testing.assert_close(gap + math.log(3), theirs.conservative_loss(tr, y, theirs.propose(tr, belief)).gap)


def test_the_cloning_term_reads_the_given_actions() -> None:
    """Its gradient is that of the exact density of tanh N(mu, sigma^2) at the data's actions, and turns with them."""
    agent = misa(correction_weight=0.0)
    tr, states = seen(agent)
    nothing = no_actions(tr)
    for shift in (0.0, 0.3):
        given = tr._replace(action=(tr.action + shift).clamp(-0.99, 0.99))
        loss, log_prob = agent.head.information_loss(states, given, nothing)
        mean, std = agent.head.policy.stats(states.inputs)
        normal = torch.distributions.Normal(mean, std)
        exact = torch.distributions.TransformedDistribution(normal, torch.distributions.TanhTransform())
        want = (exact.log_prob(given.action).sum(-1) * tr.mask).sum() / tr.mask.sum()
        torch.testing.assert_close(log_prob, want.detach(), rtol=1e-3, atol=1e-3)
        params = list(agent.head.policy.parameters())
        ours, theirs = torch.autograd.grad(loss, params), torch.autograd.grad(-0.5 * want, params)
        for found, wanted in zip(ours, theirs, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_with_unit_variance_cloning_is_the_squared_distance_before_tanh(monkeypatch: pytest.MonkeyPatch) -> None:
    """TD3+BC as a Gaussian: -log pi(a) = |mu - u|^2 / 2 and a constant, with u the value before tanh of a."""
    agent = misa()
    tr, states = seen(agent)
    stats = agent.head.policy.stats
    monkeypatch.setattr(agent.head.policy, "stats", lambda x: (stats(x)[0], torch.ones_like(stats(x)[1])))
    loss, _ = agent.head.information_loss(states, tr, no_actions(tr))
    distance = (stats(states.inputs)[0] - tr.action.clamp(-0.999, 0.999).atanh()).square().sum(-1)
    params = list(agent.head.policy.parameters())
    ours = torch.autograd.grad(loss, params)
    theirs = torch.autograd.grad(0.5 * 0.5 * (distance * tr.mask).sum() / tr.mask.sum(), params, allow_unused=True)
    for found, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_large_weight_of_cloning_is_cloning() -> None:
    """The direction of the policy's step is then that of -log pi(a | s) only."""
    agent = misa(bc_weight=1e6)
    tr, states = seen(agent)
    tilted = Tilted(torch.zeros(1, *tr.action.shape), torch.ones(1, *tr.reward.shape))
    params = list(agent.head.policy.parameters())
    loss = agent.head.actor_loss(states, tr, torch.tensor(0.2))[0] + agent.head.information_loss(states, tr, tilted)[0]
    whole = torch.cat([g.flatten() for g in torch.autograd.grad(loss, params)])
    only = -agent.head.policy.log_prob(agent.head.policy.raw_of(tr.action), states.inputs)
    cloning = torch.cat([g.flatten() for g in torch.autograd.grad((only * tr.mask).sum(), params)])
    assert torch.cosine_similarity(whole, cloning, 0) > 1 - 1e-6


def flat(agent: Agent) -> None:
    """Critics that say the same of every action."""
    for p in agent.head.critic.parameters():
        p.data.zero_()


def test_where_all_actions_are_worth_the_same_samples_are_the_policys() -> None:
    """And the correction's gradient has mean zero: 4000 chains, in one state."""
    agent = misa(acceptance=0.0)
    flat(agent)
    rows = random_rows(STATE_SPEC, 0, b=1, t=2)._replace(is_first=torch.zeros(1, 2))
    rows = type(rows)(
        {key: x.expand(4000, -1, -1) for key, x in rows.obs.items()}, *(x.expand(4000, *x.shape[1:]) for x in rows[1:])
    )
    belief = agent.model.observe(rows, 0)[0]
    tr, states = transitions(rows, belief.feat[None]), agent.head.actor_states(belief)
    head: MISA = agent.head
    energies, _ = head.learn_bound(tr, torch.zeros(1, 4000, 1), head.draws(states))
    flat(agent)
    tilted, told = head.tilt(states, energies, tr.mask)
    assert float(told["sampler/acceptance"]) > 0.7  # the leapfrog's own error only
    mean, std = head.policy.stats(states.inputs)
    noise = ((tilted.raw[0] - mean) / std).detach().flatten(0, 1)
    assert noise.mean(0).abs().max() < 4 / math.sqrt(4000)
    assert (noise.var(0) - 1).abs().max() < 4 * math.sqrt(2 / 4000)
    log_pi = head.policy.log_prob(tilted.raw, states.inputs)
    score = torch.autograd.grad(log_pi.mean(), mean_parameters(head))
    assert all(g.abs().max() < 0.2 for g in score)


def mean_parameters(head: MISA) -> list[Tensor]:
    """The bias of the policy's last layer."""
    return [list(head.policy.parameters())[-1]]


def test_a_chain_that_hardly_moves_is_told_with_its_cure() -> None:
    head = misa().head
    assert not head.advice({"sampler/acceptance": 0.3})
    assert not head.advice({"loss/critic": 1.0})
    assert "head.sampler=snis" in head.advice({"sampler/acceptance": 0.29})
    assert "head.acceptance=0.7" in misa(acceptance=0.0).head.advice({"sampler/acceptance": 0.1})


@pytest.mark.parametrize("variant", ["misa", "dv", "f"])
def test_invariances(variant: str) -> None:
    """MISA's gap is the same under Q + c(s), DV's under Q + c, f's under neither."""
    head: MISA = misa(variant=variant).head
    value, others = torch.randn(2, 6, 1), torch.randn(2, 4, 6, 1)
    proposed = Proposed(torch.zeros(4, 6, 1, 2), torch.full((4, 6, 1), -math.log(4)))
    mask, c = torch.ones(6, 1), torch.randn(6, 1)
    gap = lambda shift: float(head.gap(value + shift, others + shift, proposed, mask))  # noqa: E731
    same = {"all": abs(gap(torch.tensor(0.7)) - gap(0.0)) < 1e-5, "each": abs(gap(c) - gap(0.0)) < 1e-5}
    assert same == {"misa": {"all": True, "each": True}, "dv": {"all": True, "each": False}}.get(
        variant, {"all": False, "each": False}
    )


# --- traps ------------------------------------------------------------------------------------------------------------


def test_nothing_but_the_policy_learns_from_the_actors_step() -> None:
    agent = misa()
    tr, states = seen(agent)
    head: MISA = agent.head
    energies, _ = head.learn_bound(tr, torch.zeros(1, *tr.reward.shape), head.draws(states))
    tilted, _ = head.tilt(states, energies, tr.mask)
    assert not any(x.requires_grad for x in (*energies[1:], energies.draw.raw, *tilted))
    loss = head.actor_loss(states, tr, torch.tensor(0.1))[0] + head.information_loss(states, tr, tilted)[0]
    assert not any(torch.autograd.grad(loss, list(head.critic.parameters()), allow_unused=True, retain_graph=True))
    assert all(p.grad is None for p in head.parameters())


def test_the_step_of_the_chain_follows_the_acceptance() -> None:
    agent = misa(acceptance=0.99, critic_lr=0.0)
    steps = []
    for n in range(5):
        metrics = agent.update("update", random_rows(STATE_SPEC, n, b=64, t=2))
        steps.append(metrics["sampler/step"].item())
    assert steps[0] == 1.0
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] < 1.0


def test_extreme_values_stay_finite_under_every_bound() -> None:
    for variant in ("misa", "dv", "f"):
        agent = misa(variant=variant)
        for weight in (agent.head.critic.weights[-1], agent.head.critic.biases[-1]):
            weight.data.fill_(500.0)
        metrics = agent.update("update", random_rows(STATE_SPEC, 0))
        assert all(torch.isfinite(value) for value in metrics.values()), variant
        assert all(torch.isfinite(p).all() for p in agent.head.parameters()), variant


def test_a_policy_that_only_bounds_densities_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        build("identity", "misa+latent", STATE_SPEC)
    assert (caught.value.where, caught.value.expected) == ("head=misa", "a policy with an exact density")


def test_half_precision_learns_the_policy_from_the_same_gradient() -> None:
    """Copies of weights that are made without gradient must not be used where there is one."""
    found = {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        agent = build("identity", "misa", STATE_SPEC, precision=precision, **TINY)
        torch.manual_seed(1)
        found[precision] = agent.update("update", ROWS[0])
    for name in ("opt/actor/grad_norm", "opt/critic/grad_norm", "loss/actor", "policy/log_prob"):
        torch.testing.assert_close(found["bf16"][name], found["fp32"][name], rtol=0.05, atol=0.05)


# --- learning ---------------------------------------------------------------------------------------------------------


def one_step(n: int, rng: torch.Generator) -> Batch:
    """Windows of one transition: random actions, rewarded for being near to what the state says, at the end of all."""
    state = torch.randn(n, 2, 5, generator=rng)
    action = 2 * torch.rand(n, 2, 2, generator=rng) - 1
    reward = -10 * (action[:, 1] - wanted(state[:, 0])).square().mean(-1)
    last = torch.tensor([0.0, 1.0]).expand(n, 2)
    return Batch({"state": state}, action, torch.stack([torch.zeros(n), reward], 1), torch.zeros(n, 2), last)


def wanted(state: Tensor) -> Tensor:
    return 0.8 * torch.tanh(state[..., :2])


@pytest.mark.parametrize("head", ["misa", "cql"])
def test_from_random_actions_it_learns_to_act_well(head: str) -> None:
    """Its mean squared distance from what is best is a fifth of the best constant's, or less."""
    settings = {"head.actor_lr": 1e-2, "head.critic_lr": 1e-2, "head.activation": "relu", "head.policy_std": "log"}
    agent = build("identity", head, STATE_SPEC, **settings, **{"head.critic_weight": 0.5})
    rng = torch.Generator().manual_seed(0)
    for _ in range(150):
        agent.update(agent.next_phase(), one_step(128, rng))
    state = torch.randn(500, 5, generator=rng)
    belief = Belief(state, torch.empty(0, 500, 5), state, torch.zeros(500))
    distance = (agent.head.act(belief, explore=False) - wanted(state)).square().mean()
    assert distance < 0.2 * wanted(state).square().mean()


@pytest.mark.parametrize("variant", ["ba", "t"])
def test_a_budget_needs_a_bound_for_the_critics(variant: str) -> None:
    with pytest.raises(UserError) as caught:
        misa(variant=variant, budget=3.0)
    assert caught.value.where == "head.budget"


def test_without_an_entropy_term_there_is_no_temperature_to_run_away() -> None:
    agent = build("identity", "misa", STATE_SPEC, **TINY, **{"head.entropy_weight": 0.0, "head.alpha_lr": 0.5})
    for rows in ROWS:
        agent.update("update", rows)
    assert agent.head.log_alpha.item() == 0.0
    assert "alpha" not in agent.head.optimizers
    kept = build("identity", "misa", STATE_SPEC, **TINY, **{"head.entropy_weight": 0.0, "head.backup_entropy": True})
    assert "alpha" in kept.head.optimizers
