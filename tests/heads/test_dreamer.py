"""The Dreamer head against its oracle: returns, who sees which reward and value, and where gradients go."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.conftest import STATE_SPEC
from tests.oracles import dreamer as oracle
from tests.oracles.dreamer import mixed_return
from tests.oracles.rssm import RSSM as RSSMOracle
from tests.oracles.side_by_side import compare, plain_agent, random_rows
from tests.test_agent import build as build_agent
from worldrl.beliefs.rssm import RSSM
from worldrl.errors import UserError
from worldrl.heads.dreamer import Dreamer, arrival_weights, lambda_return, return_terms
from worldrl.types import Batch, Belief, Rollout, Sizes, box, choice

BELIEF = RSSM.Config(stoch=4, deter=8, hidden=8, reward_units=8, vector_units=8)
SIZES = {"units": 16, "actor_layers": 2, "value_layers": 2, "horizon": 4, "mode_samples": 0}
FORMS = ("tf2", "tf1", "pytorch")
CHOICES = Sizes((4,), (4,), choice(3))


def build(terminates: bool = False, **settings) -> tuple[RSSM, Dreamer]:
    torch.manual_seed(1)
    model = RSSM(BELIEF, STATE_SPEC._replace(terminates=terminates))
    return model, Dreamer(Dreamer.Config(**{**SIZES, **settings}), model.sizes(STATE_SPEC.actions))


def run(model: RSSM, head: Dreamer, batch: Batch, updates: int = 3) -> dict[str, Tensor]:
    torch.manual_seed(2)
    for _ in range(updates):
        metrics = head.update("update", batch, model.observe(batch, 0)[0], model)
    return metrics


# --- the return -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.95, 1.0])
def test_lambda_return_is_the_average_of_n_step_returns(lam: float) -> None:
    reward, discount, next_value = torch.randn(6, 3), torch.rand(6, 3), torch.randn(6, 3)
    found = lambda_return(reward, discount, next_value, lam)
    for t in range(6):
        for n in range(3):
            expected = mixed_return(reward[:, n], discount[:, n], next_value[:, n], lam, t)
            torch.testing.assert_close(found[t, n], expected)


def test_lambda_zero_looks_one_step_ahead_and_lambda_one_sums_to_the_end() -> None:
    reward, next_value = torch.randn(5, 2), torch.randn(5, 2)
    discount = torch.full((5, 2), 0.9)
    torch.testing.assert_close(lambda_return(reward, discount, next_value, 0.0), reward + 0.9 * next_value)
    powers = 0.9 ** torch.arange(5.0)
    expected = (powers[:, None] * reward).sum(0) + 0.9**5 * next_value[-1]
    torch.testing.assert_close(lambda_return(reward, discount, next_value, 1.0)[0], expected)


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_a_constant_reward_with_its_true_value_is_a_fixed_point(lam: float) -> None:
    value = torch.full((5, 1), 2.0 / (1 - 0.9))
    found = lambda_return(torch.full((5, 1), 2.0), torch.full((5, 1), 0.9), value, lam)
    torch.testing.assert_close(found, value)


# --- who belongs to whom ----------------------------------------------------------------------------------------------

# A dream of four steps. Reward t says t, v(s_t) says 100 t, and c_t is 1 / (10 t).
NAMES = torch.arange(5.0)[:, None]
DREAM = Rollout(NAMES[..., None], torch.zeros(4, 1, 1), NAMES, torch.cat([torch.ones(1, 1), 0.1 / NAMES[1:]]))
D = [0.5 * float(c) for c in DREAM.discount]  # gamma = 0.5


@pytest.mark.parametrize(
    ("form", "reward", "value", "next_value", "weights"),
    [
        ("tf2", [1, 2, 3], [100, 200, 300], [200, 300, 400], [1, D[1], D[1] * D[2]]),
        ("tf1", [1, 2, 3], [100, 200, 300], [200, 300, 300], [1, D[1], D[1] * D[2]]),
        ("pytorch", [1, 2, 3, 4], [0, 100, 200, 300], [100, 200, 300, 400], [1, D[1], D[1] * D[2], D[1] * D[2] * D[3]]),
    ],
)
def test_a_dream_that_names_its_steps(form: str, reward: list, value: list, next_value: list, weights: list) -> None:
    """The discount of a return is that of its own reward's state, and weights multiply the discounts before it."""
    first = 0 if form == "pytorch" else 1
    terms = return_terms(DREAM, 100.0 * NAMES[first:], 0.5, form)
    assert terms.reward[:, 0].tolist() == reward
    assert terms.value[:, 0].tolist() == value
    assert terms.next_value[:, 0].tolist() == next_value
    assert terms.discount[:, 0].tolist() == pytest.approx([D[int(r)] for r in reward])
    found = arrival_weights(torch.ones(1), terms.discount)
    assert found[:, 0].tolist() == pytest.approx(weights)
    assert not arrival_weights(torch.zeros(1), terms.discount).any()


# --- gradients --------------------------------------------------------------------------------------------------------


def dreamt_terms(model: RSSM, head: Dreamer, feat: Tensor, actor: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Returns and weights of a dream with the noise of one seed."""
    torch.manual_seed(7)
    rollout = model.imagine(feat, actor, head.config.horizon)
    terms = return_terms(rollout, head.value(rollout.feat[1:]), 0.99, "tf2")
    returns = lambda_return(terms.reward, terms.discount, terms.next_value, 0.95)
    return returns, arrival_weights(torch.ones(len(feat)), terms.discount)


def replay(head: Dreamer, seen: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """An actor that reads these states, whatever it is shown."""
    states = iter(seen)
    return lambda _: head.policy.sample(next(states)).action[0]


def test_actor_gradient_through_the_dynamics_is_the_finite_difference() -> None:
    """With the weights, and the states that the actor reads, held where they were: gradients do not see them."""
    model, head = build(terminates=True, init_std=0.5)
    with torch.no_grad():
        for p in (*model.parameters(), *head.value.parameters()):
            p.mul_(2.0)  # a world in which actions matter
    feat, seen = torch.randn(64, model.feat_dim), []

    def record(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return head.policy.sample(x.detach()).action[0]

    params = list(head.policy.parameters())
    returns, weight = dreamt_terms(model, head, feat, record)
    grads = torch.autograd.grad(head.actor_loss(returns, weight), params)
    norm = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
    assert norm > 1e-2
    for direction in ([g / norm for g in grads], [torch.randn_like(g) / 10 for g in grads]):
        values = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                torch._foreach_add_(params, direction, alpha=sign * 0.02)
                returns, _ = dreamt_terms(model, head, feat, replay(head, seen))
                values.append(head.actor_loss(returns, weight))
                torch._foreach_sub_(params, direction, alpha=sign * 0.02)
        expected = torch.stack([(g * d).sum() for g, d in zip(grads, direction, strict=True)]).sum()
        torch.testing.assert_close((values[0] - values[1]) / 0.04, expected, rtol=0.01, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_the_world_model_is_neither_changed_nor_differentiated(make_batch, form: str) -> None:
    """Its weights are constants: the same arithmetic is done whether or not they could have gradients."""
    batch, flops, results = make_batch(STATE_SPEC), [], []
    for frozen in (False, True):
        model, head = build(terminates=True, returns=form)
        belief = model.observe(batch, 0)[0]
        model.requires_grad_(not frozen)
        before = [p.detach().clone() for p in model.parameters()]
        torch.manual_seed(4)
        with FlopCounterMode(display=False) as counter:
            results.append(head.update("update", batch, belief, model))
        flops.append(counter.get_total_flops())
        assert all(p.grad is None for p in model.parameters())
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert flops[0] == flops[1]
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


def test_each_step_moves_its_own_network_alone() -> None:
    model, head = build()
    feat = torch.randn(2, 3, model.feat_dim)
    rollout, _ = head.dream(feat, model)
    value = head.value(rollout.feat[1:])
    before = [p.detach().clone() for p in head.value.parameters()]
    head.optimizers["actor"].step(-value.mean(), retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(before, head.value.parameters(), strict=True))
    before = [p.detach().clone() for p in head.policy.parameters()]
    head.optimizers["value"].step(value.square().mean())
    assert all(torch.equal(a, b) for a, b in zip(before, head.policy.parameters(), strict=True))


def test_an_update_is_determined_by_its_seed(make_batch) -> None:
    batch = make_batch(STATE_SPEC, border=2)
    ends = []
    for _ in range(2):
        model, head = build()
        ends.append((run(model, head, batch), list(head.parameters())))
    assert all(torch.equal(ends[0][0][key], ends[1][0][key]) for key in ends[0][0])
    assert all(torch.equal(a, b) for a, b in zip(ends[0][1], ends[1][1], strict=True))


# --- termination ------------------------------------------------------------------------------------------------------


def test_nothing_counts_after_a_predicted_end(make_batch) -> None:
    """Where the model is sure that every episode ends, a return is its first reward and later entries weigh nothing."""
    model, head = build(terminates=True)
    with torch.no_grad():
        model.continue_head.linears[-1].weight.zero_()
        model.continue_head.linears[-1].bias.fill_(-200.0)
    feat = model.observe(make_batch(STATE_SPEC), 0)[0].feat
    rollout, _ = head.dream(feat, model)
    assert not rollout.discount.any()
    terms = return_terms(rollout, head.value(rollout.feat[1:]), 0.99, "tf2")
    assert torch.equal(lambda_return(terms.reward, terms.discount, terms.next_value, 0.95), terms.reward)
    weight = arrival_weights(torch.ones(24), terms.discount)
    assert weight[0].all()
    assert not weight[1:].any()


def test_no_dream_starts_where_an_episode_has_ended(make_batch) -> None:
    batch = make_batch(STATE_SPEC)
    batch.is_terminal[1, 3] = 1.0
    results = []
    for shift in (0.0, 3.0):
        model, head = build(terminates=True, entropy_scale=0.1)
        belief = model.observe(batch, 0)[0]
        belief.feat[1, 3] += shift
        torch.manual_seed(4)
        results.append(head.update("update", batch, belief, model))
    for key in ("loss/actor", "loss/value", "opt/actor/grad_norm", "opt/value/grad_norm"):
        assert results[0][key] == results[1][key]


# --- switches ---------------------------------------------------------------------------------------------------------


def test_entropy_bonus_widens_the_policy(make_batch) -> None:
    batch = make_batch(STATE_SPEC)
    entropy = [
        run(*build(entropy_scale=scale, init_std=0.3, actor_lr=1e-2), batch, 30)["policy/entropy"]
        for scale in (0.0, 10.0)
    ]
    assert entropy[1] > entropy[0] + 0.5


def test_evaluation_takes_the_densest_of_many_draws() -> None:
    """A wide tanh-Gaussian is densest at the ends; a narrow one near the tanh of its mean."""
    _, head = build(mode_samples=100)
    feat = torch.randn(5, head.policy.net.linears[0].in_features)
    torch.manual_seed(0)
    with torch.no_grad():
        draw = head.policy.sample(feat, torch.randn(100, 1, 5, head.policy.action_dim)[:, 0])
    best = torch.stack([draw.action[draw.log_prob[:, n].argmax(), n] for n in range(5)])
    torch.manual_seed(0)
    belief = Belief(feat, feat.expand(0, *feat.shape), feat, feat[:, 0])
    assert torch.equal(head.act(belief, explore=False), best)
    assert best.abs().min() > 0.9
    _, narrow = build(mode_samples=100, init_std=0.05)
    _, mean = build(init_std=0.05)
    torch.testing.assert_close(narrow.act(belief, False), mean.act(belief, False), atol=0.1, rtol=0.0)


def test_acting_on_several_paths_averages_their_modes() -> None:
    model, head = build()
    feat, particles = torch.randn(3, model.feat_dim), torch.randn(4, 3, model.feat_dim)
    belief = Belief(feat, particles, feat, feat[:, 0])
    paths = torch.cat([feat[None], particles])
    torch.testing.assert_close(head.act(belief, explore=False), head.policy.mode(paths).mean(0).detach())


def test_bf16_keeps_returns_and_losses_in_float32_and_close(make_batch) -> None:
    batch, results = make_batch(STATE_SPEC), []
    for half in (False, True):
        model, head = build(terminates=True)
        belief = model.observe(batch, 0)[0]
        torch.manual_seed(4)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            rollout, _ = head.dream(belief.feat, model)
            assert all(x.dtype == torch.float32 for x in (*rollout, head.value(rollout.feat)))
            torch.manual_seed(4)
            results.append(head.update("update", batch, belief, model))
    for key in ("loss/actor", "loss/value", "policy/entropy"):
        torch.testing.assert_close(results[1][key], results[0][key], rtol=0.05, atol=0.01)


def test_published_sizes() -> None:
    """Parameter counts of the TF2 program for six action dimensions."""
    head = Dreamer(Dreamer.Config(), Sizes((230,), (1224,), box(6)))
    assert sum(p.numel() for p in head.policy.parameters()) == 578_412
    assert sum(p.numel() for p in head.value.parameters()) == 413_601
    rates = {name: optimizer.lr for name, optimizer in head.optimizers.items()}
    assert rates == {"actor": 8e-5, "value": 8e-5}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"head.entropy_scale": 0.1, "head.init_std": 1.0, "head.grad_clip": 0.01},
        {"head.gamma": 0.9, "head.lam": 0.7, "head.value_lr": 1e-3},
    ],
    ids=str,
)
def test_updates_are_the_oracles(form: str, settings: dict) -> None:
    """Eqs. 6 to 8 in each form, in dreams of the RSSM's own oracle."""
    spec = STATE_SPEC._replace(terminates=True)
    agent = build_agent("rssm", "dreamer", spec, **{"head.returns": form, "schedule.model_every": 2, **settings})
    compare(agent, plain_agent(agent, oracle.Dreamer, RSSMOracle), [random_rows(spec, n) for n in range(4)])


@pytest.mark.parametrize("gradient", ["dynamics", "score"])
@pytest.mark.parametrize("form", ["tf2", "pytorch"])
def test_updates_on_choices_are_the_oracles(form: str, gradient: str) -> None:
    """Straight-through and score function, on the world model."""
    spec = STATE_SPEC._replace(actions=choice(3), terminates=True)
    changes = {"head.returns": form, "head.actor_gradient": gradient, "head.entropy_scale": 0.01}
    agent = build_agent("rssm", "dreamer", spec, **changes)
    other = plain_agent(agent, oracle.DiscreteDreamer, RSSMOracle)
    compare(agent, other, [random_rows(spec, n) for n in range(3)])


def test_the_score_function_is_the_gradient_of_the_expected_return() -> None:
    """One state, one step, a known return of each action: over all actions the loss has the exact gradient."""
    head = Dreamer(Dreamer.Config(**{**Dreamer.tiny, "returns": "pytorch", "actor_gradient": "score"}), CHOICES)
    feat, returns = torch.randn(1, 4).expand(2, 3, 4), torch.tensor([[1.0, -2.0, 5.0]])
    action = torch.eye(3)[None]
    pi = head.policy.log_probs(feat[0, :1])[0].exp()
    rollout = Rollout(feat, action, torch.zeros(2, 3), torch.ones(2, 3))
    loss = head.score_loss(rollout, returns, 3 * pi.detach()[None])  # each action as often as it is drawn
    params = list(head.policy.parameters())
    found = torch.autograd.grad(loss, params, retain_graph=True)
    expected = torch.autograd.grad(-(pi * returns[0]).sum(), params)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)


def test_the_score_function_is_for_choices() -> None:
    with pytest.raises(UserError) as refused:
        Dreamer(Dreamer.Config(actor_gradient="score"), Sizes((4,), (4,), box(2)))
    assert refused.value.expected.startswith("dynamics")
