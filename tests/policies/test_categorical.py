"""The policy of a choice, and what exact expectations make of SAC and SMAC: sums over the actions, written out here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import STATE_SPEC
from tests.oracles import discrete
from tests.oracles.rssm import RSSM as RSSMOracle
from tests.oracles.side_by_side import compare, plain_agent, random_rows
from worldrl.agent import Agent
from worldrl.config import config_from_dict
from worldrl.data.replay import Replay
from worldrl.errors import UserError
from worldrl.heads.transitions import transitions
from worldrl.nn.optim import Optimizer
from worldrl.policies.action_prior import MarginalChoice
from worldrl.policies.categorical import Categorical
from worldrl.registry import tiny_settings
from worldrl.types import Batch, Draw, choice, hardened

A = 3
SPEC = STATE_SPEC._replace(actions=choice(A))


def policy() -> Categorical:
    torch.manual_seed(0)
    return Categorical(Categorical.Config(), (5,), choice(A), 8, 1, "tanh")


def rows(b: int = 4, t: int = 6) -> Batch:
    """Random rows whose actions are one-hot."""
    torch.manual_seed(1)
    action = torch.eye(A)[torch.randint(A, (b, t))]
    obs, zeros = {"state": torch.randn(b, t, 5)}, torch.zeros(b, t)
    return Batch(obs, action, torch.randn(b, t), zeros.clone(), zeros.clone())


def agent(head: str, belief: str = "identity", **settings: object) -> Agent:
    torch.manual_seed(0)
    parts = {"belief": belief, **tiny_settings("belief", belief), "head": head, **tiny_settings("head", head)}
    return Agent(config_from_dict({**parts, "device": "cpu", **settings}), SPEC)


# --- the policy -------------------------------------------------------------------------------------------------------


def test_a_given_choice_is_what_its_density_takes() -> None:
    given, x = hardened(torch.randn(6, A)), torch.randn(6, 5)
    probabilities = policy().net(x).softmax(-1)
    found = policy().log_prob(policy().raw_of(given), x).exp()
    torch.testing.assert_close(found, probabilities.gather(-1, given.argmax(-1, keepdim=True))[:, 0])


def test_a_draw_is_every_action_once_with_its_probability() -> None:
    one, x = policy(), torch.randn(7, 5)
    draw = one.sample(x)
    probs = one.net(x).softmax(-1)
    for a in range(A):
        assert torch.equal(draw.action[a], torch.eye(A)[a].expand(7, A))
        torch.testing.assert_close(draw.weight[a], probs[:, a])
        torch.testing.assert_close(draw.log_prob[a], probs[:, a].log())
    assert torch.equal(draw.raw, draw.action)
    assert torch.equal(one.log_prob(draw.raw, x), draw.log_prob)
    assert torch.equal(one.mode(x).argmax(-1), probs.argmax(-1))


def test_densities_of_given_actions_broadcast() -> None:
    one = policy()
    raw, x = torch.eye(A)[:, None], torch.randn(4, 1, 7, 5)  # particles lead
    torch.testing.assert_close(one.log_prob(raw, x).exp().sum(1), torch.ones(4, 7))


def test_one_action_comes_by_its_probability_and_is_one_hot() -> None:
    one, x = policy(), torch.randn(5).expand(50_000, 5)
    found = one.sample(x).one()
    assert ((found == 0) | (found == 1)).all()
    torch.testing.assert_close(found.detach().mean(0), one.log_probs(x[0]).exp().detach(), atol=0.01, rtol=0)


def test_the_straight_through_gradient_is_that_of_the_relaxed_objective() -> None:
    """Of f(a) = c . a, whose relaxed objective c . pi(x) is differentiated by finite differences in float64."""
    torch.manual_seed(3)
    logits, c = torch.randn(A, dtype=torch.float64, requires_grad=True), torch.randn(A, dtype=torch.float64)

    def draw(x: Tensor) -> Draw:
        action, log_prob = torch.eye(A, dtype=torch.float64), x.log_softmax(-1)
        return Draw(action, action, log_prob, log_prob.exp())

    (found,) = torch.autograd.grad(draw(logits).one() @ c, logits)
    h = 1e-6
    with torch.no_grad():
        steps = [h * torch.eye(A, dtype=torch.float64)[i] for i in range(A)]
        expected = [((logits + e).softmax(-1) - (logits - e).softmax(-1)) @ c / (2 * h) for e in steps]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-6, atol=1e-9)


# --- heads ------------------------------------------------------------------------------------------------------------


def test_sac_is_exact_discrete_sac() -> None:
    """Targets and losses as sums over the actions (Christodoulou 2019, arXiv 1910.07207, eqs. 10 to 12)."""
    head, batch, alpha = agent("sac").head, rows(), torch.tensor(0.3)
    feat = batch.obs["state"]
    tr = transitions(batch, feat[None])
    belief = agent("sac").model.observe(batch, 0)[0]
    probs, q = head.policy.net(feat).softmax(-1), head.critic.values(feat).amin(0)
    target_q = head.target.values(feat).amin(0)
    value = (probs * (target_q - alpha * probs.log())).sum(-1)
    y = batch.reward[:, 1:] + 0.99 * value[:, 1:]
    torch.testing.assert_close(head.td_target(tr, belief, alpha)[0], y.detach(), rtol=1e-5, atol=1e-6)
    loss, log_pi, _ = head.actor_loss(head.actor_states(belief), tr, alpha)
    expected = (probs * (alpha * probs.log() - q.detach())).sum(-1)[:, :-1].mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(log_pi, (probs * probs.log()).sum(-1)[:, :-1])
    params = list(head.policy.parameters())
    for ours, theirs in zip(*(torch.autograd.grad(x, params) for x in (loss, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    chosen = batch.action[:, 1:].argmax(-1, keepdim=True)
    taken = [one[:, :-1].gather(-1, chosen)[..., 0] for one in head.critic.values(feat)]
    found, _ = head.critic_loss(tr, y.detach()[None])
    torch.testing.assert_close(found, sum((one - y.detach()).square().mean() for one in taken), rtol=1e-5, atol=1e-6)
    assert head.target_entropy == pytest.approx(0.98 * torch.tensor(float(A)).log().item())


def test_smac_marginalises_exactly_over_particles() -> None:
    """log mean_k pi(a | s_k) and log mean_k exp min_j Q_j(s_k, a) of every action, weighted by pi(a | s_0)."""
    whole = agent("smac", "rssm", **{"head.num_particles": 4})
    head, batch, alpha = whole.head, rows(), torch.tensor(0.3)
    belief = whole.model.observe(batch, 4)[0]
    states = torch.cat([belief.feat[None], belief.particles])[:, :, :-1]  # (K + 1, B, S, F)
    probs = head.policy.net(states).softmax(-1)
    marginal = probs.mean(0).log()
    q = head.critic.values(states).amin(0).exp().mean(0).log()
    tr = transitions(batch, belief.feat[None])
    loss, log_pi, _ = head.actor_loss(head.actor_states(belief), tr, alpha)
    expected = (probs[0] * (alpha * marginal - q.detach())).sum(-1).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(log_pi, (probs[0] * marginal).sum(-1), rtol=1e-5, atol=1e-6)
    draw = head.policy.sample(states[0])
    torch.testing.assert_close(head.log_pi(draw, head.actor_states(belief)), marginal.movedim(-1, 0))


@pytest.mark.parametrize(
    ("head", "belief", "plain"),
    [
        ("sac", "identity", discrete.DiscreteSAC),
        ("sac", "rssm", discrete.DiscreteSAC),
        ("smac", "rssm", discrete.DiscreteSMAC),
    ],
)
def test_updates_are_the_oracles(head: str, belief: str, plain: type) -> None:
    """Whole updates of SAC and SMAC, whose formulas know nothing of choices, beside sums over the actions."""
    whole = agent(head, belief)
    other = plain_agent(whole, plain, RSSMOracle if belief == "rssm" else None)
    compare(whole, other, [random_rows(SPEC, n) for n in range(4)])


@pytest.mark.parametrize(
    ("head", "plain"),
    [
        ("value_sac", discrete.DiscreteValueSAC),
        ("virel", discrete.DiscreteVIREL),
        ("miracle", discrete.DiscreteMIRACLE),
    ],
)
def test_updates_of_heads_with_a_value_network_are_the_oracles(head: str, plain: type) -> None:
    whole = agent(head, **({"head.reward_scale": 3.0, "head.marginal_lr": 0.1} if head == "miracle" else {}))
    recent = {"recent": random_rows(SPEC._replace(obs={}), 9, b=8, t=1)}
    compare(whole, plain_agent(whole, plain), [random_rows(SPEC, n) for n in range(4)], recent)


def test_the_marginal_of_a_choice_becomes_the_frequency_of_actions() -> None:
    marginal = MarginalChoice(A)
    taken = torch.eye(A)[torch.tensor([0, 0, 0, 1, 1, 2])]
    optimizer = Optimizer(marginal.parameters(), 0.1)
    for _ in range(400):
        optimizer.step(marginal.loss(taken).mean())
    expected = torch.tensor([3.0, 2.0, 1.0]) / 6
    torch.testing.assert_close(marginal.log_prob(torch.eye(A)).exp(), expected, atol=1e-4, rtol=0)
    assert not marginal.log_prob(torch.eye(A)).requires_grad
    torch.testing.assert_close(marginal.sample(40_000).mean(0), expected, atol=0.01, rtol=0)


@pytest.mark.parametrize(("belief", "head"), [("identity", "sac"), ("rssm", "smac"), ("identity", "virel")])
def test_a_critic_runs_once_a_state(belief: str, head: str) -> None:
    """Rows of its forward passes do not grow with the number of actions, and not with actions times particles."""
    whole, batch = agent(head, belief), rows()
    counted, values = [], type(whole.head.critic).values

    def watched(self: object, feat: Tensor, *how: object) -> Tensor:
        counted.append(feat.shape[:-1].numel())
        return values(self, feat, *how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(whole.head.critic), "values", watched)
        whole.update("update", batch, {"td": batch, "recent": batch})
    states, particles = 4 * 5, whole.head.needs.particles
    assert counted
    assert max(counted) <= states * (1 + particles)


@pytest.mark.parametrize("head", ["sac", "slac", "smac", "value_sac", "miracle", "virel", "dreamer"])
def test_heads_learn_from_choices_and_make_them(head: str) -> None:
    whole, batch = agent(head, "rssm"), rows()
    before = [p.clone() for p in whole.head.policy.parameters()]
    metrics = whole.update("update", batch, {"td": batch, "recent": batch})
    assert all(torch.isfinite(x) for x in metrics.values())
    assert not all(map(torch.equal, before, whole.head.policy.parameters()))
    seen = {"state": batch.obs["state"][:, 0].numpy(), "action": batch.action[:, 0].numpy()}
    for explore in (True, False):
        state = whole.initial(4, particles=3)
        _, action, _ = whole.act(state, seen | {"is_first": torch.ones(4).numpy()}, explore)
        assert sorted({*action.flatten().tolist()}) == [0.0, 1.0]
        assert (action.sum(-1) == 1.0).all()


@dataclass
class Refused:
    head: str
    policy: str = "own"


@pytest.mark.parametrize("case", [Refused("td3"), Refused("mpo"), Refused("pmoe"), Refused("sac", "flow")], ids=str)
def test_who_takes_no_choice_is_refused_in_one_line(case: Refused) -> None:
    with pytest.raises(UserError) as refused:
        agent(case.head, policy=case.policy)
    assert (refused.value.found, refused.value.expected) == ("actions of the kind choice", "actions of the kind box")
    assert refused.value.fix


def test_rows_of_the_replay_are_one_hot() -> None:
    replay, rng = Replay(SPEC, 40), np.random.default_rng(0)
    zeros = np.zeros(1, np.float32)
    for _ in range(30):
        row = {"state": rng.normal(size=(1, 5)).astype(np.float32), "action": SPEC.actions.random(rng, 1)}
        replay.add({**row, "reward": zeros, "is_first": zeros, "is_terminal": zeros})
    action = replay.sample(16, 3, torch.device("cpu")).action
    assert action.shape == (16, 3, A)
    assert torch.equal(action, hardened(action))
