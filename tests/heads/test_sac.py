"""The SAC head against an independent SAC, time alignment, masks and termination."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.conftest import STATE_SPEC
from tests.test_agent import build as build_agent
from worldrl.beliefs.identity import Identity
from worldrl.beliefs.rssm import RSSM
from worldrl.heads.sac import SAC, transitions
from worldrl.types import Batch, Belief

SMALL = SAC.Config(
    units=16, actor_layers=2, critic_layers=2, activation="relu", critic_init="default", policy_std="log", grad_clip=0.0
)


def build(config: SAC.Config = SMALL) -> tuple[Identity, SAC]:
    model = Identity(Identity.Config(), STATE_SPEC)
    return model, SAC(config, model.feat_dim, model.context_dim, STATE_SPEC.action_dim)


class PlainSAC:
    """Textbook SAC on (s, a, r, s', d): its own losses, critics and updates; the actor's network is copied."""

    def __init__(self, head: SAC) -> None:
        self.actor = deepcopy(head.policy.net)
        self.critics = [self.separate(head, j) for j in range(2)]
        self.targets = deepcopy(self.critics)
        self.log_alpha = nn.Parameter(head.log_alpha.detach().clone())
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr=3e-4)
        self.critic_adam = torch.optim.Adam([p for c in self.critics for p in c.parameters()], lr=3e-4)
        self.alpha_adam = torch.optim.Adam([self.log_alpha], lr=3e-4)

    @staticmethod
    def separate(head: SAC, j: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for w, b in zip(head.critic.weights, head.critic.biases, strict=True):
            linear = nn.Linear(w.shape[1], w.shape[2])
            linear.weight.data, linear.bias.data = w[j].detach().T.clone(), b[j, 0].detach().clone()
            layers += [linear, nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def sample(self, s: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.actor(s).chunk(2, -1)
        std = (-5 + 3.5 * (torch.tanh(raw) + 1)).exp()
        u = mean + std * noise
        log_prob = torch.distributions.Normal(mean, std).log_prob(u).sum(-1)
        return torch.tanh(u), log_prob - (2 * (math.log(2) - u - F.softplus(-2 * u))).sum(-1)

    def q(self, critics: list, s: Tensor, a: Tensor) -> Tensor:
        return torch.stack([c(torch.cat([s, a], -1))[..., 0] for c in critics])

    def update(self, s: Tensor, a: Tensor, r: Tensor, s2: Tensor, d: Tensor, noises: list[Tensor]) -> None:
        alpha = self.log_alpha.exp().detach()
        with torch.no_grad():
            a2, log_pi2 = self.sample(s2, noises[0])
            y = r + 0.99 * (1 - d) * (self.q(self.targets, s2, a2).amin(0) - alpha * log_pi2)
        loss = (self.q(self.critics, s, a) - y).square().mean(-1).sum()
        self.step(self.critic_adam, loss)
        action, log_pi = self.sample(s, noises[1])
        self.step(self.actor_adam, (alpha * log_pi - self.q(self.critics, s, action).amin(0)).mean())
        self.step(self.alpha_adam, -self.log_alpha * (log_pi.detach().mean() - 2))
        with torch.no_grad():
            for critic, target in zip(self.critics, self.targets, strict=True):
                for p, q in zip(critic.parameters(), target.parameters(), strict=True):
                    q.copy_(0.005 * p + 0.995 * q)

    @staticmethod
    def step(adam: torch.optim.Adam, loss: Tensor) -> None:
        adam.zero_grad()
        loss.backward()
        adam.step()


def test_identity_belief_reproduces_an_independent_sac(make_batch) -> None:
    model, head = build()
    plain = PlainSAC(head)
    for _ in range(5):
        batch = make_batch(STATE_SPEC, b=32, t=2)
        batch.is_terminal[3, 1] = 1.0
        belief, losses, _ = model.observe(batch, 0)
        assert not losses
        state = torch.get_rng_state()
        noises = [torch.randn(1, 32, 1, 2)[0, :, 0], torch.randn(32, 1, 2)[:, 0]]
        torch.set_rng_state(state)
        head.update("update", batch, belief, model)
        s = batch.obs["state"]
        plain.update(s[:, 0], batch.action[:, 1], batch.reward[:, 1], s[:, 1], batch.is_terminal[:, 1], noises)
    for ours, theirs in zip(head.policy.net.parameters(), plain.actor.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    for j in range(2):
        for k, linear in enumerate(m for m in plain.critics[j] if isinstance(m, nn.Linear)):
            torch.testing.assert_close(head.critic.weights[k][j].T, linear.weight, rtol=1e-4, atol=1e-6)
        for k, linear in enumerate(m for m in plain.targets[j] if isinstance(m, nn.Linear)):
            torch.testing.assert_close(head.target.weights[k][j].T, linear.weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(head.log_alpha, plain.log_alpha)


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
    head = SAC(SMALL, model.feat_dim, model.context_dim, 2)
    belief, _, _ = model.observe(make_batch(STATE_SPEC), 0)
    before = [p.clone() for p in model.parameters()]
    head.update("update", make_batch(STATE_SPEC), belief, model)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_context_actor_reads_the_context(make_batch) -> None:
    config = RSSM.Config(stoch=4, deter=8, hidden=8, reward_units=8, vector_units=8)
    model = RSSM(config, STATE_SPEC)
    head = SAC(SAC.Config(**{**SMALL.__dict__, "actor_input": "context"}), model.feat_dim, model.context_dim, 2)
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
    assert {f"{name}_lr": o.adam.defaults["lr"] for name, o in head.optimizers.items()} == rates


def test_losses_of_a_mixture_are_weighted_over_its_components(make_batch) -> None:
    alpha, batch, mask = torch.tensor(0.3), make_batch(STATE_SPEC), torch.ones(4, 5)
    for name in ("sac", "value_sac"):
        agent = build_agent("identity", f"{name}+mixture", STATE_SPEC)
        head, states = agent.head, agent.head.actor_states(agent.model.observe(batch, 0)[0])
        with torch.no_grad():
            head.policy.net.linears[-1].weight.mul_(5.0)  # weights that differ
        torch.manual_seed(1)
        draw = head.policy.sample(states.inputs)
        gain = head.critic(states.feat, draw.action).amin(0) - alpha * draw.log_prob
        expected = -sum(w * g for w, g in zip(draw.weight, gain, strict=True)).mean()
        torch.manual_seed(1)
        if name == "sac":
            found = head.actor_loss(states, mask, alpha)[0]
        else:
            judged = head.judge(states)
            found = head.policy_loss(judged, mask, alpha)
            target = sum(w * g for w, g in zip(draw.weight, gain, strict=True)).detach()
            value = (head.value(states.feat)[0] - target).square().mean()
            torch.testing.assert_close(head.value_loss(states, judged, mask, alpha), value)
        torch.testing.assert_close(found, expected)
        params = list(head.policy.parameters())
        ours, theirs = (torch.autograd.grad(x, params) for x in (found, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
