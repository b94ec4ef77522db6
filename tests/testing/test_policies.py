"""``check_policy``: what the package ships passes, and each mistake is told by its own message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import worldrl.types
from tests.testing.refusal import check_refusal
from worldrl.nn.functional import normal_log_prob, tanh_log_det
from worldrl.registry import OWN_POLICY, POLICIES, load_class
from worldrl.testing import check_policy
from worldrl.types import NOISE, Draw, Noise

SMALL_POLICIES: dict[str, dict[str, Any]] = {
    "flow": {"blocks": 3},
    "mixture": {"components": 4},
    "latent": {"conditional_penalty": 0.1},
}


@pytest.mark.parametrize("name", [name for name in POLICIES if name != OWN_POLICY])
def test_shipped_policies_pass(name: str) -> None:
    check_policy(name, **{**load_class("policy", name).tiny, **SMALL_POLICIES.get(name, {})})


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


class NoiseOfOne(Policy):
    def noise(self, x: Any, n: int = 1, source: Noise = NOISE) -> Any:
        return super().noise(x, {1: 1}[n], source)


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
    (NoiseOfOne, "noise(x, 3)", "KeyError: 3"),
    (UnsavedNoise, "policy UnsavedNoise on a box", "another action of sample after saving and loading"),
]


@pytest.mark.parametrize(("cls", "where", "found"), POLICY_MISTAKES, ids=[cls.__name__ for cls, *_ in POLICY_MISTAKES])
def test_a_policy_with_one_mistake(cls: type, where: str, found: str) -> None:
    check_refusal(check_policy, cls, {}, where, found)


def test_a_policy_without_a_mistake() -> None:
    check_policy(Policy)
