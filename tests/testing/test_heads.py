"""``check_head``: what the package ships passes, and each mistake is told by its own message."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.testing.refusal import check_refusal
from worldrl.heads.miracle import MIRACLE
from worldrl.heads.sac import SAC
from worldrl.registry import HEADS, load_class
from worldrl.testing import check_head
from worldrl.types import NOISE, Noise

HEAD_SETTINGS: dict[str, list[dict[str, Any]]] = {  # in addition to the tiny ones, which all heads have
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
HEAD_CASES = [(name, settings) for name in HEADS for settings in HEAD_SETTINGS.get(name, [{}])]


@pytest.mark.parametrize(("name", "settings"), HEAD_CASES)
def test_shipped_heads_pass(name: str, settings: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    check_head(name, **{**load_class("head", name).tiny, **settings})
    assert torch.equal(torch.get_rng_state(), before)


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
    """``update`` with something done to its metrics, or in addition to it."""

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


@pytest.mark.parametrize(("cls", "where", "found"), HEAD_MISTAKES, ids=[cls.__name__ for cls, *_ in HEAD_MISTAKES])
def test_a_head_with_one_mistake(cls: type, where: str, found: str) -> None:
    check_refusal(check_head, cls, {} if cls in (Plain, Thawed, NoDefault) else {"units": 8}, where, found)
