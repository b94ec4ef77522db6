"""A range stands on its field, and refuses what makes no sense, could not be built or would never end."""

from __future__ import annotations

import dataclasses
import typing
from typing import Annotated, Any

import pytest

from tests.errors import refusing
from worldrl.config import Config, config_from_dict, flatten
from worldrl.errors import UserError
from worldrl.fields import OneOf, Pattern, Range, ranges, rules
from worldrl.registry import PARTS, load_class


def refused(settings: dict[str, Any]) -> UserError:
    with pytest.raises(UserError) as caught:
        config_from_dict(settings)
    return caught.value


@pytest.mark.parametrize(
    ("settings", "key", "found", "expected"),
    [
        ({"head": "td3", "head.critics": 1e30}, "head.critics", repr(int(1e30)), "at most 100"),
        ({"policy": "flow", "policy.blocks": 1e30}, "policy.blocks", repr(int(1e30)), "at most 100"),
        ({"threads": 100_000}, "threads", "100000", "at most 1,024"),
        ({"replay.batch": 1e9}, "replay.batch", "1000000000", "at most 1,000,000"),
        ({"eval.episodes": 1e30}, "eval.episodes", repr(int(1e30)), "at most 100,000"),
        ({"schedule.updates_per_1000_frames": 1e6}, "schedule.updates_per_1000_frames", "1000000.0", "at most 100,000"),
        ({"frames": 1e30}, "frames", repr(int(1e30)), "at most 1,000,000,000,000"),
        ({"belief.kl_scale": -1}, "belief.kl_scale", "-1.0", "0 or more"),
        ({"belief.reward_scale": -1}, "belief.reward_scale", "-1.0", "0 or more"),
        ({"head.tau": 0}, "head.tau", "0.0", "a number in (0, 1]"),
        ({"head.gamma": 1.5}, "head.gamma", "1.5", "a number in [0, 1]"),
        ({"head": "sac", "head.reward_scale": 0}, "head.reward_scale", "0.0", "more than 0"),
        ({"env.corruption.missing": 2}, "env.corruption.missing", "2.0", "a share of the values in [0, 1]"),
        ({"env.corruption.gaussian": -1}, "env.corruption.gaussian", "-1.0", "a standard deviation of 0 or more"),
        ({"env.corruption.burst_length": 0}, "env.corruption.burst_length", "0", "1 or more"),
        ({"seed": 2**32}, "seed", str(2**32), "at most 4,294,967,295"),
    ],
)
def test_the_error_says_what_is_wrong(settings: dict[str, Any], key: str, found: str, expected: str) -> None:
    error = refused(settings)
    assert (error.where, error.found, error.expected) == (key, found, expected)


def test_a_belief_without_weights_has_no_learning_rate() -> None:
    assert refused({"belief": "identity", "head": "sac", "belief.lr": 1e-3}).where.startswith("unknown key 'belief.lr'")
    hint = str(refused({"belief": "identity", "head": "sac", "learning_rate": 1e-3}))
    assert "head.actor_lr" in hint
    assert "belief.lr" not in hint


def fields(cls: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> annotation, of a dataclass and those inside it."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found: dict[str, Any] = {}
    for item in dataclasses.fields(cls):
        hint = hints[item.name]
        found.update(
            fields(hint, f"{prefix}{item.name}.") if dataclasses.is_dataclass(hint) else {prefix + item.name: hint}
        )
    return found


WITHOUT = {"head.target_entropy_scale"}  # any finite number


@pytest.mark.parametrize(
    "cls", [Config, *(load_class(kind, name).Config for kind in PARTS for name in PARTS[kind])], ids=str
)
def test_every_number_has_a_range(cls: Any) -> None:
    bare = {key for key, hint in fields(cls).items() if hint in (int, float)}
    assert {f"head.{key}" for key in bare} <= WITHOUT


def test_every_default_is_in_its_range() -> None:
    for kind in PARTS:
        for name in PARTS[kind]:
            cls = load_class(kind, name).Config
            for field, allowed in ranges(cls).items():
                allowed.check(field, getattr(cls(), field))
    assert flatten(dataclasses.asdict(config_from_dict({})))["frames"] == 1_000_000


def test_rules_are_read_from_the_annotation() -> None:
    rule = Range(0, 4, above=True)
    assert list(rules(Annotated[int, rule])) == [rule]
    assert list(rules(int)) == []
    rule.check("x", 4)
    for bad in (0, 5, float("nan")):
        with pytest.raises(UserError):
            rule.check("x", bad)
    endless = Range(0, float("inf"))
    endless.check("x", 1e300)
    assert str(endless) == "[0, inf]"
    OneOf("a", "b").check("x", "a")
    with refusing("value of x 'c'"):
        OneOf("a", "b").check("x", "c")
    with refusing("x", found="'gpu'"):
        Pattern("cpu|cuda", "a device").check("x", "gpu")
