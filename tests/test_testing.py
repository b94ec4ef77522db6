"""The checkers: what the package ships passes, and each mistake is told by its own message."""

from __future__ import annotations

import importlib.util
import inspect
import random
import re
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import worldrl.types
from worldrl import testing
from worldrl.beliefs.identity import Identity
from worldrl.beliefs.rssm import RSSM
from worldrl.errors import UserError
from worldrl.heads.miracle import MIRACLE
from worldrl.heads.sac import SAC
from worldrl.heads.smac import SMAC
from worldrl.nn.functional import normal_log_prob, tanh_log_det
from worldrl.registry import BELIEFS, HEADS, OWN_POLICY, POLICIES, load_class
from worldrl.testing import check_belief, check_head, check_policy
from worldrl.types import NOISE, Draw, Noise

HEAD_SETTINGS: dict[str, list[dict[str, Any]]] = {  # beside the tiny ones; heads that are not named have only those
    "sac": [{}, {"actor_input": "context", "tune_alpha": False}],
    "smac": [{}, {"estimator": "roulette"}],
    "dqn": [{}, {"steps": 7}],
    "ddpg": [{}, {"networks": "original", "critic_l2": 0.01}],
    "value_sac": [{"tune_alpha": True}],
    "miracle": [{}, {"marginal_fit": "vae", "marginal_actions": 0}],
    "virel": [
        {"temperature": "residual", "critics": "hard_and_soft"},
        {"temperature": "residual", "residual_batch": 0, "critics": "two_hard"},
    ],
}
BELIEF_SETTINGS: dict[str, list[dict[str, Any]]] = {
    "rssm": [{"burn_in": 1}, {"particles": "last_step"}],
    "slac": [{"model_batch": 2}],
}
SMALL_POLICIES: dict[str, dict[str, Any]] = {
    "flow": {"blocks": 3},
    "mixture": {"components": 4},
    "latent": {"conditional_penalty": 0.1},
}
HEAD_CASES = [(name, settings) for name in HEADS for settings in HEAD_SETTINGS.get(name, [{}])]
BELIEF_CASES = [(name, settings) for name in BELIEFS for settings in BELIEF_SETTINGS.get(name, [{}])]


@pytest.mark.parametrize(("name", "settings"), HEAD_CASES)
def test_shipped_heads_pass(name: str, settings: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    check_head(name, **{**load_class("head", name).tiny, **settings})
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("name", "settings"), BELIEF_CASES)
def test_shipped_beliefs_pass(name: str, settings: dict[str, Any]) -> None:
    check_belief(name, **{**load_class("belief", name).tiny, **settings})


@pytest.mark.parametrize("name", [name for name in POLICIES if name != OWN_POLICY])
def test_shipped_policies_pass(name: str) -> None:
    check_policy(name, **{**load_class("policy", name).tiny, **SMALL_POLICIES.get(name, {})})


# --- heads with one mistake each --------------------------------------------------------------------------------------


class Head(SAC):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.counter = 0


class Plain:
    @dataclass(frozen=True)
    class Config:
        pass


class Thawed(Head):
    @dataclass
    class Config:
        units: int = 8


class NoDefault(Head):
    @dataclass(frozen=True)
    class Config:
        units: int


class Crashes(Head):
    def act(self, belief: Any, explore: bool, noise: Noise = NOISE) -> Any:
        return {}["missing"]


class TakesContextForFeat(Head):
    def actor_input(self, belief: Any) -> Any:
        return belief.context


class NeedsTwice(Head):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.needs = self.needs._replace(actor_input="context", imagine=True)


class PlainAdam(Head):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.optimizers["actor"] = torch.optim.Adam(self.policy.parameters())


class NamedModel(Head):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.optimizers["model"] = self.optimizers["actor"]


class NumberedPhase(Head):
    def phase(self, n: int) -> Any:
        return n % 2


class ReservedPhase(Head):
    def phase(self, n: int) -> str:
        return "model"


class ForgetfulPhase(Head):
    def phase(self, n: int) -> str:
        self.counter += 1
        return f"update-{self.counter % 3}"


class Unsquashed(Head):
    def act(self, belief: Any, explore: bool, noise: Noise = NOISE) -> Any:
        return super().act(belief, explore) * 3


class FlatAction(Head):
    def act(self, belief: Any, explore: bool, noise: Noise = NOISE) -> Any:
        return super().act(belief, explore)[0]


class ActsWithOwnNoise(Head):
    def act(self, belief: Any, explore: bool, noise: Noise = NOISE) -> Any:
        return super().act(belief, explore)


class ActsWithGraph(Head):
    def act(self, belief: Any, explore: bool, noise: Noise = NOISE) -> Any:
        return self.policy.mode(belief.feat)


class Updates(Head):
    """``update`` with something done to its metrics, or beside it."""

    def update(self, phase: str, batch: Any, belief: Any, model: Any, extra: Any = None) -> Any:
        return self.spoil(super().update(phase, batch, belief, model), batch, belief, model)

    def spoil(self, metrics: Any, batch: Any, belief: Any, model: Any) -> Any:
        return metrics


class VectorMetric(Updates):
    def spoil(self, metrics: Any, *given: Any) -> Any:
        return {**metrics, "loss/actor": torch.zeros(2)}


class FloatMetric(Updates):
    def spoil(self, metrics: Any, *given: Any) -> Any:
        return {**metrics, "critic/q": 0.5}


class GraphMetric(Updates):
    def spoil(self, metrics: Any, *given: Any) -> Any:
        return {**metrics, "loss/alpha": self.log_alpha * 2}


class NoLoss(Updates):
    def spoil(self, metrics: Any, *given: Any) -> Any:
        return {"critic/q": metrics["critic/q"]}


class NotFinite(Updates):
    def spoil(self, metrics: Any, *given: Any) -> Any:
        return {**metrics, "loss/actor": torch.tensor(float("nan"))}


class Synchronises(Updates):
    def spoil(self, metrics: Any, *given: Any) -> Any:
        return dict(metrics) if metrics["loss/actor"] > 0 else metrics


class Masks(Updates):
    def spoil(self, metrics: Any, batch: Any, *given: Any) -> Any:
        return {**metrics, "loss/x": batch.reward[batch.is_first > 0].sum()}


class SlicesByTensor(Updates):
    def spoil(self, metrics: Any, batch: Any, *given: Any) -> Any:
        return {**metrics, "loss/x": batch.reward[0][: batch.is_first.sum().long()].sum()}


class GathersScalars(Updates):
    def spoil(self, metrics: Any, batch: Any, *given: Any) -> Any:
        return {**metrics, "loss/x": torch.tensor([metrics["loss/actor"], 1.0]).sum()}


class CountsClasses(Updates):
    def spoil(self, metrics: Any, batch: Any, *given: Any) -> Any:
        return {**metrics, "loss/x": F.one_hot(batch.is_first.long()).float().mean()}


class TrainsTheModel(Updates):
    def spoil(self, metrics: Any, batch: Any, belief: Any, model: Any) -> Any:
        model.imagine(belief.feat.flatten(0, 1), lambda x: self.policy.mode(x), 1).reward.sum().backward()
        return metrics


class WritesIntoTheBatch(Updates):
    def spoil(self, metrics: Any, batch: Any, *given: Any) -> Any:
        batch.reward.mul_(0.1)
        return metrics


class OtherNoise(Updates):
    def spoil(self, metrics: Any, *given: Any) -> Any:
        return {**metrics, "loss/x": torch.tensor(random.random())}


class CrossesBorders(Updates):
    def spoil(self, metrics: Any, batch: Any, *given: Any) -> Any:
        return {**metrics, "loss/x": batch.reward.mean()}


class FitsFirstRows(MIRACLE):
    def marginal_loss(self, recent: Any) -> Any:
        return self.marginal.loss(recent.action).mean()


class WritesIntoExtra(MIRACLE):
    def marginal_loss(self, recent: Any) -> Any:
        recent.action.mul_(0.9)
        return super().marginal_loss(recent)


class Idle(Head):
    def update(self, *args: Any) -> Any:
        return {"loss/x": torch.zeros(())}


class IdleActor(Updates):
    def actor_step(self, loss: Any, log_pi: Any, logged: Any, mask: Any, alpha: Any) -> Any:
        return {"loss/actor": loss.detach()}


class EverySecondActor(Updates):
    def actor_step(self, *args: Any) -> Any:
        self.counter += 1
        return super().actor_step(*args) if self.counter % 2 else {"loss/actor": args[0].detach()}


class HiddenState(Updates):
    def spoil(self, metrics: Any, *given: Any) -> Any:
        self.counter += 1
        return {**metrics, "loss/x": torch.tensor(float(self.counter))}


HEAD_MISTAKES = [  # the class, and what the error has for where and found
    (Plain, "head 'Plain'", "another class"),
    (Thawed, "head Thawed: Config", "a dataclass that can be changed after it was checked"),
    (NoDefault, "Config.units", "no default"),
    (Crashes, "act(belief, explore=True) with 0 particles", "KeyError: 'missing' ("),
    (TakesContextForFeat, "act(belief, explore=True) with 0 particles", "mat1 and mat2"),
    (NeedsTwice, "head NeedsTwice", "actor_input=context"),
    (PlainAdam, "optimizers['actor']", "torch.optim.adam.Adam"),
    (NamedModel, "optimizers['model']", "the name of the belief model's optimiser"),
    (NumberedPhase, "phase(n)", "0"),
    (ReservedPhase, "phase(n)", "'model', a name that the agent uses itself"),
    (ForgetfulPhase, "phase(n)", "another name at the second call"),
    (Unsquashed, "act(belief, explore=True) with 0 particles", "2."),
    (FlatAction, "act(belief, explore=True) with 0 particles: action", "shape (2,)"),
    (ActsWithGraph, "with 0 particles: action", "a tensor with a graph"),
    (ActsWithOwnNoise, "act(belief, explore=True) with 0 particles", "another action with other numbers than"),
    (VectorMetric, "update('update'): loss/actor", "shape (2,)"),
    (FloatMetric, "update('update'): critic/q", "an object of type float"),
    (GraphMetric, "update('update'): loss/alpha", "a tensor with a graph"),
    (NoLoss, "update('update')", "['critic/q']"),
    (NotFinite, "update('update'): loss/actor", "numbers that are not finite"),
    (Synchronises, "update('update')", "values read on the host (__bool__)"),
    (Masks, "update('update')", "an index whose size is read on the host"),
    (SlicesByTensor, "update('update')", "an index whose size is read on the host"),
    (GathersScalars, "update('update')", "values read on the host (tensor)"),
    (CountsClasses, "update('update')", "values read on the host (one_hot)"),
    (TrainsTheModel, "update('update')", "gradients left in the belief model"),
    (WritesIntoTheBatch, "update('update')", "that it changes its arguments in place"),
    (OtherNoise, "update('update')", "another loss/x from the same seed"),
    (CrossesBorders, "update('update')", "another loss/x with another reward or action of a first row"),
    (FitsFirstRows, "update('update')", "another loss/marginal with another reward or action of a first row"),
    (WritesIntoExtra, "update('update')", "that it changes its arguments in place"),
    (Idle, "update", "no parameter changed by update"),
    (IdleActor, "optimizers['actor']", "no step in update"),
    (EverySecondActor, "head EverySecondActor on a box", "after saving and loading"),
    (HiddenState, "head HiddenState on a box", "another loss/x after saving and loading"),
]


def check_refusal(check: Any, cls: type, settings: dict[str, Any], where: str, found: str) -> None:
    with pytest.raises(UserError) as refused:
        check(cls, **settings)
    assert where in refused.value.where
    assert found in refused.value.found
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("cls", "where", "found"), HEAD_MISTAKES, ids=[cls.__name__ for cls, *_ in HEAD_MISTAKES])
def test_a_head_with_one_mistake(cls: type, where: str, found: str) -> None:
    check_refusal(check_head, cls, {} if cls in (Plain, Thawed, NoDefault) else {"units": 8}, where, found)


# --- heads that add something -----------------------------------------------------------------------------------------


class MixedQ(SMAC):
    """With particles, SMAC calls no ``q_pi``."""

    @dataclass(frozen=True)
    class Config(SMAC.Config):
        mix: float = 0.3

    def q_pi(self, draw: Any, states: Any) -> Any:
        q = self.critic(states.feat, draw.action, frozen=True)
        return self.config.mix * q.mean(0) + (1 - self.config.mix) * q.amin(0)  # type: ignore[attr-defined]


class MixedQOfABase(MixedQ):
    pass


class NoGrad(SMAC):
    """The function in the class is torch's wrapper, which is the same for all functions."""

    @torch.no_grad()
    def q_pi(self, draw: Any, states: Any) -> Any:
        return super().q_pi(draw, states)

    @torch.no_grad()
    def rewards(self, tr: Any) -> Any:
        return super().rewards(tr)


class Misnamed(SAC):
    """Nothing calls ``qpi``, so nothing reads the setting."""

    @dataclass(frozen=True)
    class Config(SAC.Config):
        mix: float = 0.3

        def __post_init__(self) -> None:
            assert self.mix < 1  # only checked

    def qpi(self, draw: Any, states: Any) -> Any:
        return self.config.mix * super().q_pi(draw, states)  # type: ignore[attr-defined]


class Undecorated(SAC):
    class Config(SAC.Config):
        mix: float = 0.3


class UndecoratedBase(Undecorated):
    @dataclass(frozen=True)
    class Config(Undecorated.Config):
        other: float = 0.3


@pytest.mark.parametrize(
    ("cls", "settings", "where"),
    [
        (MixedQ, {}, "head MixedQ: q_pi"),
        (MixedQ, {"mix": 0.5}, "head MixedQ: q_pi"),
        (MixedQOfABase, {}, "head MixedQOfABase: q_pi"),
        (NoGrad, {}, "head NoGrad: q_pi"),
        (Misnamed, {}, "head Misnamed: Config.mix"),
    ],
)
def test_what_has_no_effect_is_refused(cls: Any, settings: dict[str, Any], where: str) -> None:
    before = sys.getprofile(), cls.Config.__getattribute__
    with pytest.raises(UserError) as refused:
        check_head(cls, **cls.tiny, **settings)
    assert refused.value.where == where
    assert "\n" not in str(refused.value)
    assert (sys.getprofile(), cls.Config.__getattribute__) == before


def test_the_methods_that_the_parent_calls_are_named() -> None:
    with pytest.raises(UserError) as refused:
        check_head(MixedQ, **MixedQ.tiny)
    assert {"particle_q", "marginal_q", "actor_loss"} <= set(re.findall(r"\w+", refused.value.expected))
    assert "q_pi" not in re.findall(r"\w+", refused.value.expected)


@pytest.mark.parametrize("settings", [{}, {"mix": 0.3}])
@pytest.mark.parametrize("cls", [Undecorated, UndecoratedBase])
def test_a_config_without_its_decorator_is_refused(cls: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(UserError) as refused:
        check_head(cls, **cls.tiny, **settings)
    assert refused.value.where == f"head {cls.__name__}: Config"
    assert "Undecorated.Config" in refused.value.found
    assert "mix" in refused.value.found
    assert "@dataclass(frozen=True)" in refused.value.expected


class SameSettings(SAC):
    class Config(SAC.Config):
        """Without annotations, no decorator is missing."""


class BothQ(SMAC):
    """Made for SMAC with particles and without."""

    def q_pi(self, draw: Any, states: Any) -> Any:
        return 2 * super().q_pi(draw, states)

    def particle_q(self, draw: Any, states: Any) -> Any:
        return 2 * super().particle_q(draw, states)


class Special(SMAC):
    """Methods that only a run calls, settings that only those read, and a branch that is not taken."""

    @dataclass(frozen=True)
    class Config(SMAC.Config):
        doubled: bool = False
        factor: float = 2.0
        base: float = 1.0
        least: int = 5
        poor: float = 0.1

        def __post_init__(self) -> None:
            super().__post_init__()
            object.__setattr__(self, "half", self.base / 2)

    config: Any

    def too_short(self, updates: int) -> str:
        return "too short" if updates < self.config.least else ""

    def advice(self, metrics: Any) -> str:
        return "poor" if metrics.get("critic/q", 0.0) < self.config.poor else ""

    def probabilities(self, belief: Any, explore: bool) -> Any:
        return super().probabilities(belief, explore)

    def rewards(self, tr: Any) -> Any:
        return self.scaled(tr) if self.config.doubled else super().rewards(tr)

    def scaled(self, tr: Any) -> Any:
        return times(self.config, tr.reward)

    def marginal_log_pi(self, draw: Any, particles: Any) -> Any:
        return super().marginal_log_pi(draw, particles)


def times(config: Any, x: Any) -> Any:
    return config.factor * x


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (SameSettings, {}),
        (MixedQ, {"num_particles": 0}),
        (BothQ, {}),
        (BothQ, {"num_particles": 0}),
        (Special, {}),
        (Special, {"doubled": True, "num_particles": 0}),
    ],
)
def test_what_may_have_an_effect_is_accepted(cls: Any, settings: dict[str, Any]) -> None:
    check_head(cls, **{**cls.tiny, **settings})


@pytest.mark.parametrize("name", HEADS)
def test_a_copy_of_a_shipped_head_passes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the user's class, with the package's as its parent."""
    cls = load_class("head", name)
    spec = importlib.util.spec_from_file_location(f"copy_of_{name}", inspect.getfile(cls))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    check_head(getattr(module, cls.__name__), **{**cls.tiny, **HEAD_SETTINGS.get(name, [{}])[-1]})


# --- policies with one mistake each -----------------------------------------------------------------------------------


class Policy(worldrl.types.Policy):
    """A tanh-Gaussian whose standard deviation is the same in all states."""

    @dataclass(frozen=True)
    class Config:
        std: float = 0.3

    exact_density = True

    def __init__(self, config: Any, shape: Any, actions: Any, units: int, layers: int, activation: str) -> None:
        super().__init__()
        self.mean = nn.Linear(shape[0], actions.size)
        self.log_std = nn.Parameter(torch.full((actions.size,), config.std).log())

    def noise(self, x: Any, n: int = 1, source: Noise = NOISE) -> Any:
        return source.normal((n, *x.shape[:-1], len(self.log_std)), -2, x)

    def sample(self, x: Any, noise: Any = None) -> Draw:
        noise = self.noise(x) if noise is None else noise
        raw = self.mean(x) + self.log_std.exp() * noise
        return self.spoil(Draw(raw.tanh(), raw, Policy.log_prob(self, raw, x), 1 / len(raw)))

    def spoil(self, draw: Draw) -> Any:
        return draw

    def log_prob(self, raw: Any, x: Any) -> Any:
        return normal_log_prob(raw, self.mean(x), self.log_std.exp()) - tanh_log_det(raw).sum(-1)

    def mode(self, x: Any) -> Any:
        return self.mean(x).tanh()


class NoDensityKind(Policy):
    exact_density = None  # type: ignore[assignment]


class BareAction(Policy):
    def spoil(self, draw: Draw) -> Any:
        return draw.action


class NoDrawAxis(Policy):
    def spoil(self, draw: Draw) -> Any:
        return draw._replace(action=draw.action[0])


class OtherRaw(Policy):
    def spoil(self, draw: Draw) -> Any:
        return draw._replace(raw=draw.raw + 1)


class TwoUnweighted(Policy):
    def spoil(self, draw: Draw) -> Any:
        return Draw(*(torch.cat([x, x]) for x in draw[:3]))


class HeavyWeights(Policy):
    def spoil(self, draw: Draw) -> Any:
        return draw._replace(weight=2 * torch.ones_like(draw.log_prob))


class LongPenalty(Policy):
    def spoil(self, draw: Draw) -> Any:
        return draw._replace(penalty=draw.log_prob)


class Unlearnable(Policy):
    def spoil(self, draw: Draw) -> Any:
        return draw._replace(action=draw.action.detach())


class WideMode(Policy):
    def mode(self, x: Any) -> Any:
        return 3 * super().mode(x).sign()


class OtherDensity(Policy):
    def log_prob(self, raw: Any, x: Any) -> Any:
        return super().log_prob(raw, x) + 0.1


class NoJacobian(Policy):
    def spoil(self, draw: Draw) -> Any:
        return draw._replace(log_prob=draw.log_prob + tanh_log_det(draw.raw).sum(-1))

    def log_prob(self, raw: Any, x: Any) -> Any:
        return super().log_prob(raw, x) + tanh_log_det(raw).sum(-1)


class RaggedDensity(Policy):
    def log_prob(self, raw: Any, x: Any) -> Any:
        return super().log_prob(raw, x).sum()


class OwnNoise(Policy):
    def noise(self, x: Any, n: int = 1, source: Noise = NOISE) -> Any:
        return super().noise(x, n)


class UnsavedNoise(Policy):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.shift = torch.rand(())

    def sample(self, x: Any, noise: Any = None) -> Draw:
        return super().sample(x + self.shift, noise)

    def log_prob(self, raw: Any, x: Any) -> Any:
        return super().log_prob(raw, x + self.shift)


class NoKindOfAction(Policy):
    actions = ("boxes",)


class OneAct(Policy):
    def act(self, x: Any, noise: Noise = NOISE) -> Any:
        return super().act(x, noise)[:1]


class WideAct(Policy):
    def act(self, x: Any, noise: Noise = NOISE) -> Any:
        return 7 * super().act(x, noise)


class DrawnMode(Policy):
    def mode(self, x: Any) -> Any:
        return self.sample(x).action[0]


class WrongInverse(Policy):
    def raw_of(self, action: Any) -> Any:
        return action


class ConstantDensity(Policy):
    def log_prob(self, raw: Any, x: Any) -> Any:
        return super().log_prob(raw, x).detach()


POLICY_MISTAKES = [
    (NoKindOfAction, "policy NoKindOfAction: actions", "('boxes',)"),
    (OneAct, "act(x, noise): action", "shape (1, 2)"),
    (WideAct, "act(x, noise)", "4."),
    (DrawnMode, "mode(x)", "another action at a second call"),
    (WrongInverse, "raw_of(action)", "another number than the action's own"),
    (ConstantDensity, "log_prob(raw, x)", "no gradient to its parameters"),
    (NoDensityKind, "exact_density", "None"),
    (BareAction, "sample(x) with x of shape (3, 6)", "an object of type Tensor"),
    (NoDrawAxis, "action", "shape (3, 2)"),
    (OtherRaw, "action", "that it is not tanh of raw"),
    (TwoUnweighted, "weight", "2 draws whose weights sum to 2"),
    (HeavyWeights, "weight", "1 draws whose weights sum to 2"),
    (LongPenalty, "penalty", "shape (1, 3)"),
    (Unlearnable, "action", "no gradient to its parameters"),
    (WideMode, "mode(x)", "3"),
    (OtherDensity, "log_prob(raw, x)", "another value than the log_prob of sample"),
    (NoJacobian, "log_prob(raw, x)", "a density of actions that integrates to 0."),
    (RaggedDensity, "log_prob(raw, x): density", "shape ()"),
    (OwnNoise, "act(x, noise)", "another action with other numbers than"),
    (UnsavedNoise, "policy UnsavedNoise on a box", "another action of sample after saving and loading"),
]


@pytest.mark.parametrize(("cls", "where", "found"), POLICY_MISTAKES, ids=[cls.__name__ for cls, *_ in POLICY_MISTAKES])
def test_a_policy_with_one_mistake(cls: type, where: str, found: str) -> None:
    check_refusal(check_policy, cls, {}, where, found)


def test_a_policy_without_a_mistake() -> None:
    check_policy(Policy)


# --- beliefs with one mistake each ------------------------------------------------------------------------------------

SIZES = {"stoch": 3, "deter": 6, "hidden": 6, "reward_units": 6, "vector_units": 6}


class Model(RSSM):
    """From state vectors only, to be quick."""

    def __init__(self, config: Any, spec: Any) -> None:
        if "pixels" in spec.obs:
            raise UserError("no images")
        super().__init__(config, spec)
        self.scale = 1.0


class RefusesAll(Identity):
    def __init__(self, config: Any, spec: Any) -> None:
        raise UserError("not today")


class NoContextDim(Model):
    def __init__(self, config: Any, spec: Any) -> None:
        super().__init__(config, spec)
        self.context_dim = None


class Frozen(Model):
    def __init__(self, config: Any, spec: Any) -> None:
        super().__init__(config, spec)
        self.gru.requires_grad_(False)


class Unused(Model):
    def __init__(self, config: Any, spec: Any) -> None:
        super().__init__(config, spec)
        self.spare = nn.Linear(1, 1)


class NoLearningRate(Identity):
    def __init__(self, config: Any, spec: Any) -> None:
        super().__init__(config, spec)
        self.layer = nn.Linear(1, 1)


class LosesRows(Model):
    def __init__(self, config: Any, spec: Any) -> None:
        super().__init__(config, spec)
        self.lost_rows = 1


class StepsWithOwnNoise(Model):
    def step(
        self, state: Any, obs: Any, action: Any, is_first: Any, deterministic: bool = False, noise: Noise = NOISE
    ) -> Any:
        return super().step(state, obs, action, is_first, deterministic)


class Observes(Model):
    """``observe`` with something done to what it gives."""

    def observe(self, batch: Any, particles: int, learn: bool = True) -> Any:
        return self.spoil(batch, *super().observe(batch, particles, learn))

    def spoil(self, batch: Any, belief: Any, losses: Any, metrics: Any) -> Any:
        return belief, losses, metrics


class Attached(Observes):
    def spoil(self, batch: Any, belief: Any, losses: Any, metrics: Any) -> Any:
        return belief._replace(feat=belief.feat + self.gru.bias_ih[0]), losses, metrics


class OneParticle(Observes):
    def spoil(self, batch: Any, belief: Any, losses: Any, metrics: Any) -> Any:
        return belief._replace(particles=belief.particles[:1]), losses, metrics


class TwoResults(Observes):
    def spoil(self, batch: Any, belief: Any, losses: Any, metrics: Any) -> Any:
        return belief, losses


class AlwaysLearns(Observes):
    def spoil(self, batch: Any, belief: Any, losses: Any, metrics: Any) -> Any:
        return belief, losses or {"x": torch.zeros(())}, metrics


class DetachedLosses(Observes):
    def spoil(self, batch: Any, belief: Any, losses: Any, metrics: Any) -> Any:
        return belief, {key: value.detach() for key, value in losses.items()}, metrics


class Shifted(Observes):
    def spoil(self, batch: Any, belief: Any, losses: Any, metrics: Any) -> Any:
        return belief._replace(feat=belief.feat + 0.5), losses, metrics


class NumberedNoise(Observes):
    def spoil(self, batch: Any, belief: Any, losses: Any, metrics: Any) -> Any:
        self.scale += 0.00001
        return belief._replace(entropy=belief.entropy * self.scale), losses, metrics


class Unsaved(Observes):
    def __init__(self, config: Any, spec: Any) -> None:
        super().__init__(config, spec)
        self.scale = torch.rand(())

    def spoil(self, batch: Any, belief: Any, losses: Any, metrics: Any) -> Any:
        return belief._replace(entropy=belief.entropy * (1 + 1e-5 * self.scale)), losses, metrics


class NeverResets(Model):
    def step(self, state: Any, obs: Any, prev_action: Any, is_first: Any, *rest: Any) -> Any:
        return super().step(state, obs, prev_action, torch.zeros_like(is_first), *rest)


class ResetsAll(Model):
    def step(self, state: Any, obs: Any, prev_action: Any, is_first: Any, *rest: Any) -> Any:
        return super().step(state, obs, prev_action, is_first.amax() + torch.zeros_like(is_first), *rest)


class ForgetsTheState(Model):
    def step(self, *args: Any) -> Any:
        state, belief = super().step(*args)
        return {"deter": state["deter"]}, belief


class DreamsElsewhere(Model):
    def imagine(self, feat: Any, actor: Any, horizon: int) -> Any:
        return super().imagine(feat + 1, actor, horizon)


class DreamsDetached(Model):
    def imagine(self, feat: Any, actor: Any, horizon: int) -> Any:
        return super().imagine(feat, lambda x: actor(x).detach(), horizon)


class DecodesOther(Model):
    def decode(self, feat: Any) -> Any:
        return {"image": feat}


class ReadsTheLost(Identity):
    imputes = True


BELIEF_MISTAKES = [
    (RefusesAll, "belief RefusesAll", "that it refuses vectors, images and both: not today"),
    (NoContextDim, "belief NoContextDim on state: context_dim", "None"),
    (Frozen, "parameter gru.weight_ih", "that it takes no gradient"),
    (Unused, "parameter spare.weight", "no part in the losses"),
    (NoLearningRate, "Config", "no lr"),
    (LosesRows, "observe(batch, 2, learn=True): feat", "shape (3, 5, 9)"),
    (Attached, "feat", "a tensor with a graph"),
    (OneParticle, "particles", "shape (1, 3, 4, 9)"),
    (TwoResults, "observe", "an object of type tuple"),
    (AlwaysLearns, "observe(learn=False)", "losses ['x']"),
    (DetachedLosses, "observe", "losses without a graph"),
    (StepsWithOwnNoise, "step", "another state"),
    (Shifted, "step", "another feat than observe on the same rows without noise"),
    (NumberedNoise, "observe", "another entropy from the same seed"),
    (Unsaved, "observe", "another entropy after saving and loading"),
    (NeverResets, "step", "after is_first = 1 that depends on the rows before"),
    (ResetsAll, "step", "another belief of a row where another row has is_first = 1"),
    (ForgetsTheState, "step: state", "{'deter': ((3, 3, 6), torch.float32)}"),
    (DreamsElsewhere, "imagine", "another feat at its beginning"),
    (DreamsDetached, "imagine: reward", "no gradient to the actions"),
    (DecodesOther, "decode", "['image']"),
    (ReadsTheLost, "step", "another feat by readings that SEEN says are lost"),
]


@pytest.mark.parametrize(("cls", "where", "found"), BELIEF_MISTAKES, ids=[cls.__name__ for cls, *_ in BELIEF_MISTAKES])
def test_a_belief_with_one_mistake(cls: type, where: str, found: str) -> None:
    check_refusal(check_belief, cls, {} if issubclass(cls, Identity) else SIZES, where, found)


def test_a_class_without_settings_and_a_setting_that_does_not_exist() -> None:
    with pytest.raises(UserError) as refused:
        check_head(nn.Linear)
    assert (refused.value.where, refused.value.found) == ("head 'Linear'", "no Config")
    with pytest.raises(UserError) as refused:
        check_head("sac", unit=8)
    assert refused.value.where == "head SAC: Config"
    assert "unexpected keyword argument 'unit'" in refused.value.found


@pytest.mark.parametrize(
    ("code", "waits"),
    [
        ("x.item()", True),
        ("x.to('cpu')", True),
        ("x.to(x.device)", False),
        ("x.to(torch.float64)", False),
        ("torch.where(x > 0)", True),
        ("torch.where(x > 0, x, 0 * x)", False),
        ("torch.argwhere(x)", True),
        ("x[x > 0]", True),
        ("x.__setitem__(x > 0, x.new_zeros(2))", True),
        ("x.__setitem__(x > 0, 0.0)", False),
        ("x.__setitem__(0, 0.0)", False),
    ],
)
def test_what_makes_the_host_wait(code: str, waits: bool) -> None:
    x = torch.tensor([1.0, -1.0, 2.0])
    with testing._NoSync("it"), pytest.raises(UserError) if waits else nullcontext():
        eval(code, {"x": x, "torch": torch})


def test_settings_are_checked_as_those_of_a_run() -> None:
    for value in ("a", 0):
        with pytest.raises(UserError) as refused:
            check_head("sac", units=value)
        assert refused.value.where == "head.units"
