"""Settings: checks that answer in one line, parts with their own fields, and the way to a file and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from worldrl.config import Config, config_from_dict, config_to_dict, flatten, may_change
from worldrl.errors import UserError
from worldrl.registry import agent_label, canonical, load_class, settings_of, shared_fields
from worldrl.runs.settings import load_config, save_config
from worldrl.types import BeliefModel, Head, Policy


class ToyHead(Head):
    """A user's own head, as far as settings go."""

    @dataclass(frozen=True)
    class Config:
        lr: float = 1e-3
        units: tuple[int, ...] = (64, 64)
        mode: Literal["fast", "slow"] = "fast"
        limit: int | None = None
        clip: bool = False

        def __post_init__(self) -> None:
            if self.lr <= 0:
                raise ValueError(f"lr {self.lr}: expected more than 0")


class OddHead(Head):
    """Names and ranges of its own."""

    @dataclass(frozen=True)
    class Config:
        offset: int = -1
        gamma: float = 1.5
        units: int = 0


class DictHead(Head):
    """Settings in a type that is not checked, and that a file would read back as other keys."""

    @dataclass(frozen=True)
    class Config:
        weights: dict[str, float] = field(default_factory=dict)


class ListHead(Head):
    @dataclass(frozen=True)
    class Config:
        sizes: list[int] = field(default_factory=list)


class GroupHead(Head):
    """Settings in a dataclass of their own."""

    @dataclass(frozen=True)
    class Config:
        inner: ToyHead.Config = field(default_factory=ToyHead.Config)


class ToyBelief(BeliefModel):
    @dataclass(frozen=True)
    class Config:
        size: int = 4


class ToyPolicy(Policy):
    @dataclass(frozen=True)
    class Config:
        width: int = 2


class NoSettings:
    """A class that forgot its Config."""


HEAD, BELIEF, POLICY = (f"{__name__}:Toy{part}" for part in ("Head", "Belief", "Policy"))


def toy(**head: Any) -> dict[str, Any]:
    return {"belief": BELIEF, "head": {"name": HEAD, **head}}


def refusal(settings: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        config_from_dict(settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_are_the_dataclasses() -> None:
    config = config_from_dict({})
    assert config.env == Config().env
    assert config.replay == Config().replay
    assert (config.agent, config.belief["name"], config.head["name"]) == ("smac", "rssm", "smac")


def test_a_label_goes_with_its_parts() -> None:
    with pytest.raises(UserError) as refused:
        config_from_dict({"agent": "sac"})
    assert (refused.value.where, refused.value.found) == ("agent", "'sac'")


def test_a_users_own_part_judges_its_settings_itself() -> None:
    name = f"{__name__}:OddHead"
    assert config_from_dict({"belief": BELIEF, "head": name}).head == {
        "name": name,
        "offset": -1,
        "gamma": 1.5,
        "units": 0,
    }
    assert refusal({"head": "sac", "head.gamma": 1.5}) == "head.gamma: found 1.5, expected a number in [0, 1]"


@pytest.mark.parametrize(("cls", "key"), [(DictHead, "weights"), (GroupHead, "inner")])
def test_a_field_of_a_type_that_is_not_checked_is_refused(cls: type[Head], key: str) -> None:
    with pytest.raises(UserError) as refused:
        config_from_dict({"belief": BELIEF, "head": f"{__name__}:{cls.__name__}"})
    assert refused.value.where == f"head.{key}"


def test_a_list_is_checked_like_a_tuple() -> None:
    parts = {"belief": BELIEF, "head": f"{__name__}:ListHead"}
    assert config_from_dict({**parts, "head.sizes": (1, 2.0)}).head["sizes"] == [1, 2]
    assert refusal({**parts, "head.sizes": ["x"]}).startswith("head.sizes[0]: found 'x'")


def test_a_number_or_a_list_stays_what_it_is(tmp_path: Path) -> None:
    for given, expected in ((0, 0.0), ([0, np.float64(-2)], (0.0, -2.0)), (None, None)):
        config = config_from_dict(
            {"data": "a.npz", "updates": 1, "task": "", "frames": 0, "eval.every": 0, "data.low": given}
        )
        assert config.data.low == expected
        assert config_from_dict(config_to_dict(config)) == config
        save_config(config, tmp_path)
        assert load_config(tmp_path) == config
    for wrong, where in (
        ("x", "data.low"),
        ([0, "x"], "data.low[1]"),
        ([float("nan")], "data.low[0]"),
        (True, "data.low"),
    ):
        with pytest.raises(UserError) as refused:
            config_from_dict({"data": "a.npz", "updates": 1, "data.low": wrong})
        assert refused.value.where == where


def test_numbers_of_numpy_are_numbers() -> None:
    config = config_from_dict({**toy(lr=np.float64(1e-3), clip=np.bool_(True)), "seed": np.int64(3)})
    assert (config.seed, config.head["lr"], config.head["clip"]) == (3, 1e-3, True)
    assert (type(config.seed), type(config.head["lr"]), type(config.head["clip"])) == (int, float, bool)
    assert type(config_from_dict({"env.render.size": np.int64(64)}).env.render.size) is int
    assert refusal({"seed": np.array([1, 2])}).startswith("seed: found")
    assert refusal(toy(lr=10**400)).startswith("head.lr: found")


def test_nested_and_dotted_settings_are_the_same() -> None:
    nested = {"env": {"render": {"quality": "fast"}}, "head": {"name": "sac", "critic_lr": 1}, "frames": 1e6}
    dotted = {"env.render.quality": "fast", "head": "sac", "head.critic_lr": 1.0, "frames": 1_000_000}
    assert config_from_dict(nested) == config_from_dict(dotted)


def test_values_take_the_annotated_type() -> None:
    config = config_from_dict({**toy(lr=1, units=[8, 8], limit=None), "frames": 2e3})
    assert config.head == {"name": HEAD, "lr": 1.0, "units": (8, 8), "mode": "fast", "limit": None, "clip": False}
    assert type(config.head["lr"]) is float
    assert type(config.frames) is int


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"critic_lr": 1}, ["unknown key 'critic_lr'", "head.critic_lr"]),
        ({"head.critic_lrr": 1}, ["unknown key 'head.critic_lrr'", "head.critic_lr"]),
        ({"batch": 8}, ["replay.batch"]),
        ({"env": "state"}, ["env: found a value for the whole group", "env.obs"]),
        ({"head": "sacc"}, ["unknown head 'sacc'", "sac"]),
        ({"belief": "rsm"}, ["unknown belief 'rsm'", "rssm"]),
        ({"policy": "owm"}, ["unknown policy 'owm'", "own"]),
        ({"policy.width": 1}, ["unknown key 'policy.width'"]),
        ({"policy": POLICY, "policy.width": "1"}, ["policy.width: found '1'"]),
        (
            {"head": "no_such_package.mod:Head"},
            ["head=no_such_package.mod:Head cannot be imported", "No module named 'no_such_package'"],
        ),
        ({"head": "worldrl.heads.sac:SACC"}, ["'SACC'", "SAC"]),
        ({"head": f"{__name__}:NoSettings"}, ["no Config"]),
        ({"task": 3}, ["task: found 3", "text"]),
        ({"env.obs": "pixel"}, ["'pixel'", "pixels"]),
        ({"precision": "fp8"}, ["'fp8'", "fp32"]),
        ({"device": "gpu"}, ["device: found 'gpu'", "cuda:N"]),
        ({"head.units": 0}, ["head.units: found 0", "1 or more"]),
        ({"head.critic_layers": 0}, ["head.critic_layers: found 0", "1 or more"]),
        ({"head.num_particles": -1}, ["head.num_particles: found -1", "0 or more"]),
        ({"head.tau": 2.0}, ["head.tau: found 2.0", "(0, 1]"]),
        ({"head.init_alpha": 0.0}, ["head.init_alpha: found 0.0", "more than 0"]),
        ({"belief.lr": -1.0}, ["belief.lr: found -1.0", "0 or more"]),
        ({"seed": -1}, ["seed: found -1", "0 or more"]),
        ({"seed": True}, ["an integer"]),
        ({"frames": 1.5}, ["frames: found 1.5"]),
        ({"frames": 0}, ["1 or more"]),
        ({"replay.length": 1}, ["2 or more"]),
        ({"replay.batch": "8"}, ["replay.batch: found '8'"]),
        ({"replay.capacity": 10}, ["replay.length"]),
        ({"env.num_envs": 0}, ["1 or more"]),
        ({"env.corruption.missing": 1.5}, ["[0, 1]"]),
        ({"env.render.size": 84}, ["env.render.size", "84", "64"]),
        ({"schedule.action_noise": float("nan")}, ["a number"]),
        ({"eval.video": 1}, ["true or false"]),
        ({"seed": 1, "env": {"obs": "state"}, "env.obs": "state"}, ["env.obs: found two values"]),
        ({"head": {"name": "sac", "estimator": "nested"}}, ["unknown key 'head.estimator'"]),
        (toy(units=3), ["head.units: found 3", "a list"]),
        (toy(units=[3, "a"]), ["head.units[1]"]),
        (toy(mode="fats"), ["'fats'", "fast"]),
        (toy(limit="x"), ["head.limit"]),
        (toy(lr=0.0), ["lr 0.0: expected more than 0"]),
    ],
)
def test_mistakes_are_told_in_one_line(settings: dict[str, Any], words: list[str]) -> None:
    message = refusal(settings)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("head", "key", "follows", "usual"),
    [
        ("iql", "decay_updates", 600, 0),
        ("misa", "decay_updates", 600, 0),
        ("onestep", "evaluation_updates", 300, 500_000),
    ],
)
def test_a_length_inside_of_a_head_follows_the_runs_unless_it_is_given(
    head: str, key: str, follows: int, usual: int
) -> None:
    def length(**settings: Any) -> Any:
        values = {"belief": "identity", "head": head, "data": "there", "frames": 0, "updates": 600, "task": ""}
        return config_from_dict({**values, "eval.every": 0, **settings}).head[key]

    assert length() == follows
    assert length(**{f"head.{key}": 7}) == 7
    assert length(updates=0, data="", frames=9, task="x") == usual
    acts = length(frames=9, task="x")  # a rate that is zero would learn nothing then
    assert acts == (follows if head == "onestep" else usual)
    config = config_from_dict({"belief": "identity", "head": head, "data": "there", "frames": 9, "updates": 600})
    assert config_from_dict({**flatten(config_to_dict(config)), "updates": 900}).head[key] == config.head[key]


def test_keys_must_be_text() -> None:
    with pytest.raises(UserError) as caught:
        flatten({"head": {1: 2}})
    assert (caught.value.found, caught.value.expected) == ("1", "text")


def test_settings_must_be_a_mapping() -> None:
    with pytest.raises(UserError) as caught:
        flatten("sac")  # type: ignore[arg-type]
    assert (caught.value.where, caught.value.found) == ("settings", "'sac'")


def test_round_trip() -> None:
    config = config_from_dict({**toy(units=[3], lr=1e-8), "task": "cartpole-swingup", "seed": 7, "env.obs": "state"})
    assert config_from_dict(config_to_dict(config)) == config


def test_labels() -> None:
    pair = {"belief": "rssm", "head": "smac"}
    assert agent_label("smac", pair, "rssm", "smac") == "smac"
    assert agent_label("smac", pair, "rssm", "sac") == "sac@rssm"
    assert agent_label("smac", pair, "rssm", "smac", POLICY) == "smac@rssm+ToyPolicy"
    assert agent_label("mine", {**pair, "policy": POLICY}, "rssm", "smac", POLICY) == "mine"
    assert agent_label("mine", {**pair, "policy": POLICY}, "rssm", "smac") == "smac@rssm"
    assert config_from_dict({"head": HEAD}).agent == "ToyHead@rssm"
    assert config_from_dict({"head": "latent_sac"}).agent == "sac@rssm"
    assert config_from_dict({**toy(), "agent": "mine"}).agent == "mine"


def test_names_of_parts() -> None:
    assert canonical("head", "latent_sac") == canonical("head", "worldrl.heads.sac:SAC") == "sac"
    assert load_class("head", "latent_sac") is load_class("head", "sac")
    assert shared_fields("head", "smac", "sac") == shared_fields("head", "sac", "smac") != set()
    assert "num_particles" not in shared_fields("head", "smac", "sac")
    assert shared_fields("head", "smac", HEAD) == set()
    assert "init_alpha" in shared_fields("head", "smac", "sac") & shared_fields("head", "miracle", "virel")
    assert "init_alpha" not in shared_fields("head", "sac", "virel")  # alpha itself there
    assert settings_of("head", {"name": HEAD, "lr": 0.5}) == ToyHead.Config(lr=0.5)


def test_what_a_resumed_run_may_change() -> None:
    assert all(map(may_change, ["frames", "eval.every", "log.every", "checkpoint.minutes"]))
    assert not any(map(may_change, ["seed", "threads", "device", "framesx", "evaluation", "head.critic_lr", "task"]))


def test_a_mask_is_not_normalised() -> None:
    """Its column would be constant in data without losses, and a lost group would read as about -1000."""
    with pytest.raises(UserError) as refused:
        config_from_dict({"data.name": "x.npz", "updates": 1, "data.normalize": True, "env.mask": True})
    assert refused.value.where == "data.normalize"
