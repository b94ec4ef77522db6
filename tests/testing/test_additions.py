"""What a head adds is refused if it has no effect, and only then."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tests.testing.test_heads import HEAD_SETTINGS
from worldrl.errors import UserError
from worldrl.heads.sac import SAC
from worldrl.heads.smac import SMAC
from worldrl.registry import HEADS, load_class
from worldrl.testing import check_head


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
