"""The agent: pairs that cannot work are refused, the latch names the first bad loss, and every pair learns a toy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from tests.conftest import BOTH_SPEC, PIXEL_SPEC, STATE_SPEC
from worldrl.acting.episodes import AgentActs, run_episodes
from worldrl.agent import MODEL_ONLY, Agent, check_parts, require_imputation
from worldrl.config import config_from_dict
from worldrl.data.replay import Replay
from worldrl.envs import make_envs
from worldrl.envs.make import EnvConfig
from worldrl.errors import UserError
from worldrl.heads.transitions import transitions
from worldrl.registry import HEADS, load_class, takes_policy
from worldrl.types import Actions, Batch, EnvSpec, Extra, Head, Needs, Sizes, box, choice

TINY = {
    "rssm": {"belief.stoch": 4, "belief.deter": 16, "belief.hidden": 16, "belief.depth": 2, "belief.vector_units": 16},
    "slac": {
        "belief.z1": 4,
        "belief.z2": 16,
        "belief.units": 32,
        "belief.depth": 2,
        "belief.vector_units": 16,
        "belief.history": 3,
        "belief.model_batch": 8,
        "head.units": 32,
    },
    "identity": {},
    "sac": {"head.units": 32, "head.actor_layers": 2, "head.critic_layers": 2},
    "smac": {"head.units": 32, "head.actor_layers": 2, "head.critic_layers": 2, "head.num_particles": 4},
    "dreamer": {"head.units": 32, "head.actor_layers": 2, "head.value_layers": 2, "head.horizon": 5},
    "td3": {"head.units": 32},
    "ddpg": {"head.units": 32},
    "pmoe": {"head.units": 32, "head.actor_layers": 2, "head.critic_layers": 2},
    "value_sac": {"head.units": 32},
    "miracle": {"head.units": 32, "head.marginal_samples": 4, "head.marginal_batch": 32},
    "virel": {"head.units": 32, "head.residual_batch": 64},
    "cql": {"head.units": 32, "head.actor_layers": 2, "head.critic_layers": 2, "head.samples": 3},
    "misa": {"head.units": 32, "head.samples": 4},
}
BETA = {"head.temperature": "residual"}
VIRELS = {"virel_beta": BETA, "virel1": {"head.critics": "two_hard"}, "virel2": {"head.critics": "hard_and_soft"}}


def build(belief: str, head: str, spec: EnvSpec, **settings: Any) -> Agent:
    """``head`` may name a policy too: ``sac+flow``."""
    head, _, policy = head.partition("+")
    tiny = {
        k: v
        for part, kind in ((belief, "belief."), (head, "head."))
        for k, v in TINY.get(part, {}).items()
        if kind in k
    }
    values = {"belief": belief, "head": head, "policy": policy or "own", **tiny, "device": "cpu", **settings}
    return Agent(config_from_dict(values), spec)


def make_extra(agent: Agent, make_batch: Callable[..., Batch]) -> Extra:
    """Random rows for what the head needs beside its slice; one of them a first row."""
    recent = make_batch(agent.spec._replace(obs={}), b=8, t=1, border=0)
    return {"td": make_batch(agent.spec, b=3, border=1), "recent": recent}


FAST = {
    "sac": {"head.critic_lr": 3e-3, "head.init_alpha": 0.05, "head.init_std": 1.0},
    "smac": {"head.critic_lr": 3e-3, "head.init_alpha": 0.05, "head.init_std": 1.0},
    "slac": {"head.critic_lr": 3e-3, "head.init_alpha": 0.05, "head.init_std": 1.0},
    "dreamer": {"head.value_lr": 3e-3, "head.init_std": 1.0},
    "td3": {"head.critic_lr": 3e-3},
    "ddpg": {"head.critic_lr": 3e-3},
    "pmoe": {"head.critic_lr": 3e-3, "head.init_alpha": 0.05},
    "value_sac": {"head.critic_lr": 3e-3, "head.reward_scale": 20.0, "head.tau": 0.02},
    "miracle": {"head.critic_lr": 3e-3, "head.reward_scale": 20.0, "head.tau": 0.02, "head.marginal_lr": 3e-3},
    "virel": {"head.critic_lr": 3e-3, "head.init_alpha": 0.05, "head.tau": 0.02},
}


class Chase(gymnasium.Env):
    """Twenty steps; each action moves the point by a tenth; the reward is how near the point is to the target."""

    observation_space = gymnasium.spaces.Box(-2.0, 2.0, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.point, self.target = self.np_random.uniform(-1, 1, 2)
        self.t = 0
        return self.observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.point = float(np.clip(self.point + 0.2 * action[0], -2, 2))
        self.t += 1
        return self.observation(), 1.0 - abs(self.point - self.target), False, self.t == 20, {}

    def observation(self) -> np.ndarray:
        return np.array([self.point, self.target], np.float32)


@pytest.mark.parametrize("head", ["sac", "smac"])
def test_bf16_keeps_losses_and_parameters_in_float32_and_close(head: str, make_batch) -> None:
    """The whole update, the head's losses, targets and densities included, against the same update in float32."""
    batch, metrics = make_batch(PIXEL_SPEC), {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(5)
        agent = build("rssm", head, PIXEL_SPEC, precision=precision)
        metrics[precision] = agent.update("update", batch)
    assert all(value.dtype == torch.float32 for value in metrics["bf16"].values())
    assert all(p.dtype == torch.float32 for part in (agent.model, agent.head) for p in part.parameters())
    for name in ("loss/critic", "loss/actor", "loss/alpha", "policy/entropy", "critic/q"):
        torch.testing.assert_close(metrics["bf16"][name], metrics["fp32"][name], rtol=0.03, atol=0.03)
    assert not torch.equal(metrics["bf16"]["loss/critic"], metrics["fp32"]["loss/critic"])


def test_acting_on_several_paths_averages_their_modes() -> None:
    agent = build("rssm", "smac", STATE_SPEC)
    rows = {
        "state": np.ones((2, 5), np.float32),
        "action": np.zeros((2, 2), np.float32),
        "is_first": np.ones(2, np.float32),
    }
    state, action, belief = agent.act(agent.initial(2, particles=6), rows, explore=False)
    assert belief.particles.shape == (6, 2, agent.model.feat_dim)
    paths = torch.cat([belief.feat[None], belief.particles])
    with torch.no_grad():
        expected = agent.head.policy.mode(paths).mean(0)
    torch.testing.assert_close(torch.from_numpy(action), expected)
    assert state["deter"].shape == (2, 7, 16)


def test_model_only_updates_leave_the_head_alone(make_batch) -> None:
    agent = build("rssm", "smac", STATE_SPEC)
    before = [p.clone() for p in agent.head.parameters()]
    metrics = agent.update(MODEL_ONLY, make_batch(STATE_SPEC))
    assert all(torch.equal(a, b) for a, b in zip(before, agent.head.parameters(), strict=True))
    assert "loss/critic" not in metrics
    assert "loss/state" in metrics


def test_model_only_updates_read_no_more_windows_than_the_model_learns_from(make_batch) -> None:
    batch, seen = make_batch(STATE_SPEC, b=12), []
    agent = build("slac", "slac", STATE_SPEC)
    observe = agent.model.observe
    agent.model.observe = lambda part, *rest: (seen.append(len(part.reward)), observe(part, *rest))[1]
    for phase in (MODEL_ONLY, agent.next_phase()):
        agent.update(phase, batch)
    assert seen == [8, 12]


@pytest.mark.parametrize("belief", ["rssm", "slac"])
def test_the_model_learns_at_every_nth_update_and_the_head_at_each(belief: str, make_batch) -> None:
    agent = build(belief, "sac", BOTH_SPEC, **{"schedule.model_every": 3})
    learnt = []
    for _ in range(7):
        before = [[p.clone() for p in part.parameters() if p.requires_grad] for part in (agent.model, agent.head)]
        metrics = agent.update(agent.next_phase(), make_batch(BOTH_SPEC))
        agent.updates += 1
        after = [[p for p in part.parameters() if p.requires_grad] for part in (agent.model, agent.head)]
        changed = [not all(map(torch.equal, x, y)) for x, y in zip(before, after, strict=True)]
        assert changed[0] == ("loss/pixels" in metrics)
        assert changed[1]
        learnt.append(changed[0])
    assert learnt == [True, False, False, True, False, False, True]


@pytest.mark.parametrize("belief", ["rssm", "slac"])
def test_a_frozen_model_has_no_optimiser_and_no_losses(belief: str, make_batch) -> None:
    agent = build(belief, "smac", BOTH_SPEC, **{"schedule.model_every": 0, "init_from": "some_run"})
    before = [p.clone() for p in agent.model.parameters()]
    for _ in range(3):
        metrics = agent.update(agent.next_phase(), make_batch(BOTH_SPEC))
        agent.updates += 1
        assert "loss/critic" in metrics
        assert not {"loss/pixels", "loss/state", "loss/kl"} & set(metrics)
    assert "model" not in agent.optimizers
    assert all(map(torch.equal, before, agent.model.parameters()))


def test_the_model_is_constant_while_the_head_learns(make_batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dream's backward pass would otherwise compute gradients of the model that nobody reads."""
    agent, seen = build("rssm", "dreamer", STATE_SPEC), []
    imagine = type(agent.model).imagine

    def watched(model: Any, *arguments: Any) -> Any:
        seen.extend(param.requires_grad for param in model.parameters())
        return imagine(model, *arguments)

    monkeypatch.setattr(type(agent.model), "imagine", watched)
    agent.update(agent.next_phase(), make_batch(STATE_SPEC))
    assert set(seen) == {False}
    assert all(param.requires_grad for param in agent.model.parameters())


def test_a_belief_is_the_same_whether_its_model_learns_or_not(make_batch) -> None:
    agent, batch = build("rssm", "smac", BOTH_SPEC), make_batch(BOTH_SPEC, border=2)
    beliefs = []
    for learn in (True, False):
        torch.manual_seed(1)
        belief, losses, _ = agent.model.observe(batch, 3, learn)
        assert bool(losses) == learn
        beliefs.append(belief)
    assert all(torch.equal(a, b) for a, b in zip(*beliefs, strict=True))


def test_a_head_that_needs_imagination_is_refused_with_the_beliefs_that_have_it() -> None:
    with pytest.raises(UserError) as caught:
        build("identity", "dreamer", STATE_SPEC)
    error = caught.value
    assert (error.where, error.found) == ("head Dreamer", "the belief Identity")
    assert (error.expected, error.fix) == ("a belief that can imagine", "beliefs that can: rssm, slac")


def test_a_head_without_a_choice_of_policy_refuses_one() -> None:
    with pytest.raises(UserError) as caught:
        build("identity", "td3+flow", STATE_SPEC)
    error = caught.value
    assert (error.where, error.found, error.expected) == ("head=td3", "policy=flow", "policy=own")
    assert error.fix.endswith(", ".join(filter(takes_policy, HEADS)))


def test_smac_refuses_a_policy_that_only_bounds_densities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldrl.policies.flow.Flow.exact_density", False)
    with pytest.raises(UserError) as caught:
        build("identity", "smac+flow", STATE_SPEC)
    assert (caught.value.where, caught.value.expected) == ("head=smac", "a policy with an exact density")
    build("identity", "sac+flow", STATE_SPEC)


def test_identity_refuses_pixels() -> None:
    with pytest.raises(UserError) as caught:
        build("identity", "sac", PIXEL_SPEC)
    assert (caught.value.where, caught.value.found) == ("belief=identity", "observations pixels of uint8")
    assert "env.obs=state" in caught.value.fix


def test_the_latch_names_the_first_bad_loss_and_its_update(make_batch) -> None:
    agent = build("rssm", "sac", STATE_SPEC)
    batch = make_batch(STATE_SPEC)
    for _ in range(2):
        agent.update("update", batch)
    assert agent.first_non_finite() is None
    batch.reward[0, 0] = float("inf")
    for _ in range(3):
        agent.update("update", batch)
    assert agent.first_non_finite() == ("loss/reward", 3)


def test_the_latch_counts_on_after_a_resume(make_batch) -> None:
    first, resumed = (build("identity", "sac", STATE_SPEC) for _ in range(2))
    first.updates = 5
    resumed.load_state_dict(first.state_dict())
    batch = make_batch(STATE_SPEC)
    batch.reward[0, 1] = float("nan")
    resumed.update("update", batch)
    assert resumed.first_non_finite()[1] == 6


def test_noise_keeps_actions_in_range_and_is_off_when_asked() -> None:
    agent = build("identity", "sac", STATE_SPEC, **{"schedule.action_noise": 9.0, "head.init_std": 0.1})
    rows = {"state": np.zeros((64, 5), np.float32), "action": np.zeros((64, 2), np.float32), "is_first": np.ones(64)}
    rows["is_first"] = rows["is_first"].astype(np.float32)
    noisy = agent.act({}, rows, explore=True)[1]
    assert np.abs(noisy).max() == 1.0
    assert np.abs(agent.act({}, rows, explore=True, perturb=False)[1]).max() < 1.0
    assert np.ptp(agent.act({}, rows, explore=False)[1], axis=0).max() == 0.0


# Heads learn from states within seconds; on a world model, those that ask different things of it.
VERSIONS = {"slac", "ddpg", "value_sac"}  # of heads that learn here too
LEARNERS = [("identity", head, {}) for head in FAST if head not in {"dreamer", *VERSIONS}]
LEARNERS += [("identity", "sac+flow", {}), ("rssm", "smac", {})]
LONGER = [("identity", head, {}) for head in ("sac+mixture", "sac+latent", "miracle+mixture", *sorted(VERSIONS))]
LONGER += [("identity", "virel", settings) for settings in VIRELS.values()]
LONGER += [("rssm", head, {}) for head in ("sac", "dreamer", "td3", "miracle", "smac+mixture")]
LONGER += [("slac", head, {}) for head in ("slac", "dreamer")]


@pytest.mark.parametrize(
    ("belief", "head", "settings"), [*LEARNERS, *(pytest.param(*each, marks=pytest.mark.slow) for each in LONGER)]
)
def test_agents_learn_a_toy_within_seconds(belief: str, head: str, settings: dict[str, Any]) -> None:
    """Random play scores about 0.2 per step, standing still about 0.3, chasing about 0.85."""
    config = EnvConfig(obs="state", action_repeat=1)
    envs = make_envs(config, f"{__name__}:Chase", seed=0)
    common = {"head.actor_lr": 3e-3, "head.gamma": 0.9}
    windows, length, steps, fast = (64, 2, 900, {}) if belief == "identity" else (8, 8, 800, {"belief.lr": 3e-3})
    agent = build(belief, head, envs.spec, **common, **FAST[head.partition("+")[0]], **fast, **settings)
    replay = Replay(envs.spec, 5_000)
    rng = np.random.default_rng(0)
    rows = envs.reset()
    state = agent.initial(1)
    for step in range(steps):
        replay.add(rows)
        if step < 300:
            action = rng.uniform(-1, 1, (1, 1)).astype(np.float32)
        else:
            state, action, _ = agent.act(state, rows, explore=True, perturb=False)
            batch = replay.sample(windows, length)
            extra = replay.sample_extra(agent.head.needs, length, agent.model.lost_rows)
            agent.update(agent.next_phase(), batch, extra)
            agent.updates += 1
        rows = envs.step(action)
    trained = np.mean(run_episodes(envs, AgentActs(agent, 1), 20, first=10_000).returns)
    envs.close()
    assert trained > 12.0


NAMESAKE = {"value": "critic_lr"}  # of heads without a value_lr


@pytest.mark.parametrize("name", HEADS)
def test_every_optimiser_has_its_own_settings_and_all_of_its_part(name: str) -> None:
    config = load_class("head", name).Config
    keys = [field.name for field in fields(config)]
    rates = {key: 1e-3 * (i + 1) for i, key in enumerate(key for key in keys if key.endswith("_lr"))}
    eps = {"head.adam_eps": 1e-5} if "adam_eps" in keys else {}
    belief = {"belief.lr": 0.5, "belief.grad_clip": 3.0, "belief.adam_eps": 1e-6}
    given = {f"head.{key}": rate for key, rate in rates.items()} | {"head.grad_clip": 7.0, **eps, **belief}
    kinds = load_class("head", name)(config(), Sizes((5,), (5,), box(2))).needs.actions
    spec = STATE_SPEC if "box" in kinds else STATE_SPEC._replace(actions=choice(3))
    agent = build("rssm", name, spec, **given)
    parts = {"actor": "policy", "model": None}
    for key, optimizer in agent.optimizers.items():
        model = key == "model"
        rate = 0.5 if model else rates[f"{key}_lr" if f"{key}_lr" in rates else NAMESAKE[key]]
        clip = 3.0 if model else 0.0 if key == "alpha" else 7.0
        assert (optimizer.lr, optimizer.clip) == (rate, clip), key
        assert optimizer.eps == (1e-6 if model else eps.get("head.adam_eps", 1e-8)), key
        if key != "alpha":
            part = agent.model if model else getattr(agent.head, parts.get(key, key))
            assert {id(p) for p in optimizer.params} == {id(p) for p in part.parameters()}, key


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
    action = agent.act(agent.initial(n), rows, explore=True, perturb=False)[1]
    torch.manual_seed(1)
    belief = agent.model.step(agent.initial(n), {"state": torch.zeros(n, 5)}, torch.zeros(n, 2), torch.ones(n))[1]
    assert np.array_equal(action, agent.head.policy.sample(belief.feat).action[0].detach().numpy())


@pytest.mark.parametrize("belief", ["rssm", "slac"])
@pytest.mark.parametrize("head", ["miracle", "virel", "sac+flow"])
def test_heads_of_states_learn_from_images_alone(belief: str, head: str, make_batch) -> None:
    agent = build(belief, head, PIXEL_SPEC)
    before = [p.clone() for p in agent.head.policy.parameters()]
    metrics = agent.update(agent.next_phase(), make_batch(PIXEL_SPEC), make_extra(agent, make_batch))
    assert all(torch.isfinite(value) for value in metrics.values())
    assert all(not torch.equal(a, b) for a, b in zip(before, agent.head.policy.parameters(), strict=True))


@pytest.mark.parametrize("head", ["sac", "smac", "slac", "pmoe", "value_sac", "miracle", "virel", "cql", "misa"])
def test_the_reward_scale_multiplies_the_reward_and_nothing_else(head: str, make_batch) -> None:
    batch, targets = make_batch(STATE_SPEC), []
    for scale in (1.0, 3.0):
        torch.manual_seed(0)
        agent = build("identity", head, STATE_SPEC, **{"head.reward_scale": scale})
        belief = agent.model.observe(batch, 0)[0]
        tr = transitions(batch, belief.feat[None])
        torch.manual_seed(1)
        targets.append(agent.head.td_target(tr, belief, torch.tensor(0.3)))
    torch.testing.assert_close(targets[1] - targets[0], (2.0 * tr.reward).expand_as(targets[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("actions", "settings", "where"),
    [
        (choice(3), {"schedule.action_noise": 0.3}, "schedule.action_noise"),
        (box(2), {"schedule.epsilon.start": 0.3}, "schedule.epsilon"),
        (box(2), {"schedule.epsilon.end": 0.3}, "schedule.epsilon"),
        (choice(3), {"schedule.epsilon.start": 0.1, "schedule.epsilon.end": 0.3}, "schedule.epsilon"),
        (choice(3), {"schedule.epsilon.start": 0.3}, "schedule.epsilon.frames"),
    ],
)
def test_the_exploration_of_another_kind_of_action_is_refused(actions: Actions, settings: dict, where: str) -> None:
    with pytest.raises(UserError) as refused:
        build("identity", "sac", STATE_SPEC._replace(actions=actions), **settings)
    assert refused.value.where == where
    assert "schedule." in refused.value.fix


class Dreams(Head):
    """A head of choices that imagines."""

    @dataclass(frozen=True)
    class Config:
        pass

    needs = Needs(imagine=True, actions=("choice",))

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__()


def test_what_is_told_is_what_no_other_kind_of_action_would_cure() -> None:
    """It takes no box, but it does not go with this belief on a choice either."""
    with pytest.raises(UserError) as refused:
        check_parts(config_from_dict({"belief": "identity", "head": f"{__name__}:Dreams", "env.obs": "state"}))
    assert "Identity" in refused.value.found


def test_a_window_must_hold_the_steps_of_a_return() -> None:
    settings = {"belief": "stack", "head": "dqn", "head.steps": 3, "env.obs": "state"}
    check_parts(config_from_dict({**settings, "replay.length": 7}))  # three rows of the stack, four of the return
    with pytest.raises(UserError) as refused:
        check_parts(config_from_dict({**settings, "replay.length": 6}))
    assert refused.value.expected.startswith("7 or more")


@pytest.mark.parametrize("head", ["dqn", "td3"])
def test_parts_of_either_kind_of_action_pass_before_the_task_is_known(head: str) -> None:
    check_parts(config_from_dict({"belief": "identity", "head": head, "env.obs": "state"}))


def test_only_beliefs_that_predict_are_told_what_is_lost() -> None:
    require_imputation(build("rssm", "sac", STATE_SPEC).model, "--known-dropout")
    with pytest.raises(UserError) as refused:
        require_imputation(build("identity", "sac", STATE_SPEC).model, "--known-dropout")
    assert (refused.value.where, refused.value.found) == ("--known-dropout", "the belief Identity")
    assert refused.value.expected.endswith("rssm, slac")


def test_updates_of_the_model_only_are_none_of_the_head() -> None:
    agent = build("rssm", "onestep", STATE_SPEC, **{"schedule.pretrain": 3, "head.evaluation_updates": 2})
    agent.updates = 3
    found = []
    for _ in range(4):
        found.append(agent.next_phase())
        agent.updates += 1
    assert found == [agent.head.phase(n) for n in range(4)]
    assert len(set(found)) > 1


@pytest.mark.parametrize(
    "settings", [{"head": "virel", "temperature": "residual", "residual_batch": 8}, {"head": "mirl"}]
)
def test_everything_that_a_head_learns_from_is_normalised(settings: dict[str, Any], make_batch) -> None:
    """The slice, and the rows in addition to it: as an agent without a normaliser learns from scaled rows."""
    head, fields_ = settings["head"], {f"head.{key}": value for key, value in settings.items() if key != "head"}
    spec = STATE_SPEC._replace(actions=choice(3)) if head == "mirl" else STATE_SPEC
    raw, agents = [make_batch(spec), make_batch(spec, b=3, border=1)], []
    for normalize in (True, False):
        torch.manual_seed(0)
        agents.append(build("identity", head, spec, **{"data.name": "x", "data.normalize": normalize, **fields_}))
    rng = np.random.default_rng(0)
    agents[0].normalizer.fit({"state": rng.normal(3.0, 5.0, (100, *spec.obs["state"].shape))})
    scaled = [batch._replace(obs=agents[0].normalizer(batch.obs)) for batch in raw]
    records = []
    for agent, (batch, more) in zip(agents, (raw, scaled), strict=True):
        torch.manual_seed(1)
        records.append(agent.update(agent.next_phase(), batch, {"td": more, "recent": more}))
    for name, value in records[0].items():
        torch.testing.assert_close(value, records[1][name], msg=name)
    for one, other in zip(*(agent.head.parameters() for agent in agents), strict=True):
        torch.testing.assert_close(one, other)
