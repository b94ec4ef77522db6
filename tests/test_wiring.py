"""The wiring between parts: plausible mistakes that tests of single parts let pass, found by putting them in."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli

from tests.conftest import STATE_SPEC
from tests.test_agent import build
from tests.toy_runs import STATE_SAC
from tests.training.test_loop import STATE, make_trainer
from worldrl.beliefs.slac import SLAC as SLACBelief
from worldrl.envs.stream import EVAL
from worldrl.estimators.marginal import ESTIMATORS, independent_draws, marginal_q
from worldrl.heads.dreamer import arrival_weights, lambda_return, return_terms
from worldrl.heads.sac import transitions
from worldrl.nn.optim import Optimizer
from worldrl.policies.latent import LatentGaussian
from worldrl.registry import HEADS, load_class

NAMESAKE = {"value": "critic_lr"}  # of heads without a value_lr


@pytest.mark.parametrize("name", HEADS)
def test_every_optimiser_has_its_own_settings_and_all_of_its_part(name: str) -> None:
    config = load_class("head", name).Config
    keys = [field.name for field in fields(config)]
    rates = {key: 1e-3 * (i + 1) for i, key in enumerate(key for key in keys if key.endswith("_lr"))}
    eps = {"head.adam_eps": 1e-5} if "adam_eps" in keys else {}
    belief = {"belief.lr": 0.5, "belief.grad_clip": 3.0, "belief.adam_eps": 1e-6}
    given = {f"head.{key}": rate for key, rate in rates.items()} | {"head.grad_clip": 7.0, **eps, **belief}
    agent = build("rssm", name, STATE_SPEC, **given)
    parts = {"actor": "policy", "model": None}
    for key, optimizer in agent.optimizers.items():
        model = key == "model"
        rate = 0.5 if model else rates[f"{key}_lr" if f"{key}_lr" in rates else NAMESAKE[key]]
        clip = 3.0 if model else 0.0 if key == "alpha" else 7.0
        assert (optimizer.adam.defaults["lr"], optimizer.clip) == (rate, clip), key
        assert optimizer.adam.defaults["eps"] == (1e-6 if model else eps.get("head.adam_eps", 1e-8)), key
        if key != "alpha":
            part = agent.model if model else getattr(agent.head, parts.get(key, key))
            assert {id(p) for p in optimizer.params} == {id(p) for p in part.parameters()}, key


def test_dreamers_gradients_are_those_of_the_losses_as_printed(make_batch) -> None:
    """The actor learns through values, not through what it reads; the value net learns from constant returns."""
    batch, ends = make_batch(STATE_SPEC), []
    for _ in range(2):
        torch.manual_seed(1)
        agent = build("rssm", "dreamer", STATE_SPEC, **{"head.grad_clip": 0.0, "head.init_std": 1.0})
        torch.manual_seed(2)
        ends.append((agent.head, agent.model, agent.model.observe(batch, 0)[0]))
    (head, model, belief), (twin, _, _) = ends
    torch.manual_seed(4)
    head.update("update", batch, belief, model)
    torch.manual_seed(4)
    rollout = model.imagine(belief.feat.flatten(0, 1), lambda s: twin.policy.sample(s.detach()).action[0], 5)
    terms = return_terms(rollout, twin.value(rollout.feat[1:]), 0.99, "tf2")
    returns = lambda_return(terms.reward, terms.discount, terms.next_value, 0.95)
    weight = arrival_weights(torch.ones(24), terms.discount)
    value = twin.value(rollout.feat[1:-1].detach())
    losses = {"actor": -(weight * returns).mean(), "value": (weight * (value - returns.detach()) ** 2).mean() / 2}
    for name, loss in losses.items():
        params = twin.optimizers[name].params
        grads = torch.autograd.grad(loss, params, retain_graph=True)
        state = head.optimizers[name].adam.state
        for p, expected in zip(head.optimizers[name].params, grads, strict=True):
            torch.testing.assert_close(10 * state[p]["exp_avg"], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "roulette"])
def test_smac_has_the_estimator_that_it_is_asked_for(name: str, make_batch) -> None:
    agent = build("rssm", "smac", STATE_SPEC, **{"head.estimator": name, "head.num_particles": 4})
    head = agent.head
    belief = agent.model.observe(make_batch(STATE_SPEC), head.needs.particles)[0]
    states = head.actor_states(belief)
    draw = head.policy.sample(states.feat)
    log_probs = torch.stack([head.policy.log_prob(draw.pre_tanh, s) for s in (states.feat, *states.particles)])
    torch.testing.assert_close(head.log_pi(draw, states), ESTIMATORS[name](log_probs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("aggregate", ["lse", "mean", "min"])
@pytest.mark.parametrize("first", [False, True])
def test_smac_has_the_aggregate_that_it_is_asked_for(aggregate: str, first: bool, make_batch) -> None:
    agent = build("rssm", "smac", STATE_SPEC, **{"head.q_aggregate": aggregate, "head.q_twins_first": first})
    head = agent.head
    states = head.actor_states(agent.model.observe(make_batch(STATE_SPEC), 4)[0])
    draw = head.policy.sample(states.feat)
    q = torch.stack([head.critic(s, draw.action) for s in (states.feat, *states.particles)], 1)
    torch.testing.assert_close(head.q_pi(draw, states), marginal_q(q, aggregate, first))


@pytest.mark.parametrize("name", ["naive", "iwae", "nested", "mlmc", "mlmc_fresh"])
def test_the_latent_policy_has_the_estimator_that_it_is_asked_for(name: str) -> None:
    policy = LatentGaussian(LatentGaussian.Config(latent=4, num_particles=8, estimator=name), 3, 2, 16, 1, "relu")
    x = torch.randn(5, 3)
    torch.manual_seed(1)
    draw = policy.sample(x)
    torch.manual_seed(1)
    _, log_probs = policy.conditionals(x, independent_draws(name, 8))
    assert torch.equal(draw.log_prob[0], ESTIMATORS[name](log_probs))


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


def test_losses_of_a_mixture_are_weighted_over_its_components(make_batch) -> None:
    alpha, batch, mask = torch.tensor(0.3), make_batch(STATE_SPEC), torch.ones(4, 5)
    for name in ("sac", "value_sac"):
        agent = build("identity", f"{name}+mixture", STATE_SPEC)
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


def test_slacs_continue_predictor_learns_and_dreams_that_an_episode_goes_on(make_batch) -> None:
    config = SLACBelief.Config(z1=3, z2=6, units=8, vector_units=5, history=1, model_batch=0)
    ends, batch = STATE_SPEC._replace(terminates=True), make_batch(STATE_SPEC)
    batch.is_terminal[0, 2] = batch.is_terminal[3, 5] = 1.0
    model = SLACBelief(config, ends)
    belief, losses, _ = model.observe(batch, 0)
    logits = model.continue_head(belief.feat)[..., 0]
    expected = -Bernoulli(logits=logits).log_prob(1 - batch.is_terminal).sum(1).mean()
    torch.testing.assert_close(losses["continue"], expected)
    dream = model.imagine(belief.feat[:, 0], lambda feat: feat[:, :2], 3)
    torch.testing.assert_close(dream.discount, Bernoulli(logits=model.continue_head(dream.feat)[..., 0]).probs)


def test_td3s_actor_leaves_masked_rows_alone(make_batch) -> None:
    agent, found = build("identity", "td3", STATE_SPEC), []
    batch = make_batch(STATE_SPEC, b=2, t=4, border=2)
    for shift in (0.0, 5.0):
        batch.obs["state"][0, 1] += shift
        found.append(agent.head.actor_loss(transitions(batch, batch.obs["state"][None])))
    assert torch.equal(*found)


def test_action_noise_is_centred_and_as_wide_as_asked() -> None:
    agent = build("identity", "td3", STATE_SPEC, **{"schedule.action_noise": 0.1})
    n = 20_000
    rows = {"state": np.zeros((n, 5), np.float32), "action": np.zeros((n, 2), np.float32)}
    rows["is_first"] = np.ones(n, np.float32)
    noise = agent.act({}, rows, explore=True)[1] - agent.act({}, rows, explore=False)[1]
    np.testing.assert_allclose(noise.mean(0), 0.0, atol=0.005)
    np.testing.assert_allclose(noise.std(0), 0.1, atol=0.005)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.05


@pytest.mark.parametrize("head", ["sac", "smac", "dreamer", "value_sac"])
def test_exploring_is_a_draw_of_the_policy(head: str) -> None:
    agent = build("identity" if head != "dreamer" else "rssm", head, STATE_SPEC)
    n = 200
    rows = {"state": np.zeros((n, 5), np.float32), "action": np.zeros((n, 2), np.float32)}
    rows["is_first"] = np.ones(n, np.float32)
    torch.manual_seed(1)
    action = agent.act(agent.initial(n), rows, explore=True, noise=False)[1]
    torch.manual_seed(1)
    belief = agent.model.step(agent.initial(n), {"state": torch.zeros(n, 5)}, torch.zeros(n, 2), torch.ones(n))[1]
    assert np.array_equal(action, agent.head.policy.sample(belief.feat).action[0].detach().numpy())


def test_paths_while_acting_are_independent() -> None:
    agent = build("rssm", "smac", STATE_SPEC)
    obs, first = {"state": torch.ones(2000, 5)}, torch.ones(2000)
    belief = agent.model.step(agent.initial(2000, particles=1), obs, torch.zeros(2000, 2), first)[1]
    ours, theirs = (x[:, :4] - x[:, :4].mean(0) for x in (belief.feat, belief.particles[0]))
    correlation = (ours * theirs).mean(0) / (ours.std(0) * theirs.std(0))
    assert correlation.abs().max() < 0.1


def test_the_traced_step_is_the_fused_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for traced in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda traced=traced: traced)
        param = torch.nn.Parameter(torch.ones(3))
        optimizer = Optimizer([param], lr=0.01, clip=0.5, eps=0.1)
        for _ in range(3):
            optimizer.step(param.pow(3).sum())
        ends.append(param)
    torch.testing.assert_close(*ends)


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_the_loop_explores_while_training_and_carries_its_state(tmp_path: Path, monkeypatch) -> None:
    trainer = make_trainer({**STATE, "frames": 2_500, "eval.episodes": 2}, tmp_path / "run")
    act, calls = trainer.agent.act, {True: [], False: []}

    def watched(state, rows, explore, *rest, noise=True, **options):
        result = act(state, rows, explore, *rest, noise=noise, **options)
        calls[noise].append((state, result[0], explore))
        return result

    monkeypatch.setattr(trainer.agent, "act", watched)
    trainer.run()
    trainer.close()
    assert all(explore for *_, explore in calls[True])
    assert not any(explore for *_, explore in calls[False])
    assert len(calls[True]) > 100
    broken = {k: sum(a[1]["deter"] is not b[0]["deter"] for a, b in pairwise(x)) for k, x in calls.items()}
    assert broken == {True: 0, False: 1}  # the two evaluations


def test_what_is_stored_is_what_was_done(tmp_path: Path) -> None:
    """Count shows the action that led to a row, and gives the number of its step as observation and as reward."""
    count = {"task": "tests.envs.toy_envs:Count", "frames": 60, "schedule.prefill": 30, "eval.every": 0}
    trainer = make_trainer({**STATE_SAC, **count, "replay.length": 2, "replay.capacity": 100}, tmp_path / "run")
    trainer.run()
    trainer.close()
    n = len(trainer.replay)
    batch = trainer.replay.window(np.arange(n), np.zeros(n, int), 1)
    step, shown, _ = batch.obs["state"][:, 0].unbind(-1)
    assert step.tolist() == [float(t % 6) for t in range(n)]
    assert torch.equal(batch.reward[:, 0], step)
    assert torch.equal(batch.is_first[:, 0], (step == 0).float())
    torch.testing.assert_close(shown, torch.where(step == 0, 0.0, 2 * (batch.action[:, 0, 0] + 1)))
    assert not batch.action[step == 0].any()


def test_evaluations_play_new_episodes_of_their_own_stream(tmp_path: Path) -> None:
    trainer = make_trainer({**STATE, "eval.episodes": 2}, tmp_path / "run")
    trainer.evaluate()
    assert trainer.eval_envs._key == (trainer.config.seed, EVAL)
    assert trainer.eval_envs.state()["episode"].tolist() == [1]
    trainer.evaluate()
    assert trainer.eval_envs.state()["episode"].tolist() == [3]
    trainer.close()
