"""Every setting of a run, as frozen dataclasses, and the checks between what a user writes and them.

Hot code never sees OmegaConf. Users always see dotted keys: ``env.render.quality``, ``head.critic_lr``.
"""

from __future__ import annotations

import dataclasses
import io
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import AliasEvent, YAMLError

from worldrl.data.settings import DataConfig, ReplayConfig
from worldrl.envs.make import EnvConfig
from worldrl.errors import UserError, given_twice, unknown, wrong
from worldrl.fields import (
    FIELD_TYPES,
    Device,
    Every,
    Frames,
    Label,
    NotNegative,
    OneOf,
    Range,
    Share,
    SomeFrames,
    hints_of,
    is_checked,
    of_updates,
    type_name,
    typed,
)
from worldrl.files import damaged, read_text
from worldrl.registry import DEFAULTS, OWN_POLICY, PARTS, agent_label, canonical, load_class


@dataclass(frozen=True)
class EpsilonConfig:
    """The probability of a random action in training, which falls linearly; for tasks with a choice of actions."""

    start: Share = 0.0
    end: Share = 0.0
    frames: Frames = 0  # length of the fall, from the first frame of the run; then it stays at its end


@dataclass(frozen=True)
class ScheduleConfig:
    """When to act at random and when to learn; the unit of time is the frame (agent step x action repeat)."""

    prefill: Frames = 10_000  # frames of uniform random actions before the first update
    pretrain: Annotated[int, Range(0, 1e9)] = 0  # model-only updates right after the prefill
    updates_per_1000_frames: Annotated[float, Range(0, 100_000)] = 100.0
    model_every: Every = 1  # the belief model learns in every n-th update, the head in each; 0: never (with init_from)
    action_noise: NotNegative = 0.0  # std of Gaussian noise added to training actions in a box
    epsilon: EpsilonConfig = field(default_factory=EpsilonConfig)


@dataclass(frozen=True)
class EvalConfig:
    every: Frames = 10_000  # frames, or updates while it learns from data; 0 is never
    episodes: Annotated[int, Range(1, 100_000)] = 5
    video: bool = True  # of the first evaluation episode


@dataclass(frozen=True)
class LogConfig:
    every: SomeFrames = 1_000  # frames, or updates while it learns from data
    tensorboard: bool = True
    progress: bool = True


@dataclass(frozen=True)
class CheckpointConfig:
    minutes: Annotated[float, Range(0, 1e6, above=True)] = 10.0
    replay: bool = True  # without it a resumed run starts from an empty replay and is not exact


@dataclass(frozen=True)
class Config:
    """One run. ``belief``, ``head`` and ``policy`` have ``name`` and the fields of that class's own ``Config``."""

    task: str = "walker_walk"  # "" if there are only data
    agent: Label = "smac"  # a label; its parts say what it is
    seed: Annotated[int, Range(0, 2**32 - 1)] = 1
    frames: Frames = 1_000_000  # of acting
    updates: Frames = 0  # of learning from data, before any acting
    init_from: str = ""  # a run folder: start with its trained belief model
    init_from_checkpoint: Annotated[str, OneOf("last", "best")] = "last"
    belief: dict[str, Any] = field(default_factory=lambda: {"name": "rssm"})
    head: dict[str, Any] = field(default_factory=lambda: {"name": "smac"})
    policy: dict[str, Any] = field(default_factory=lambda: {"name": OWN_POLICY})
    env: EnvConfig = field(default_factory=EnvConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    log: LogConfig = field(default_factory=LogConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    device: Device = "auto"
    precision: Annotated[str, OneOf("auto", "fp32", "bf16", "fp16")] = "auto"
    speed: Annotated[str, OneOf("auto", "eager", "compile", "capture")] = "eager"  # the run writes what auto became
    deterministic: bool = False  # deterministic cuDNN kernels, slower
    threads: Annotated[int, Range(0, 1_024)] = 0  # torch CPU threads, 0: torch's own choice

    @property
    def length(self) -> int:
        """The length of a whole run: its updates on data and its frames of acting."""
        return self.updates + self.frames

    @property
    def all_updates(self) -> int:
        """The updates of a whole run, on data and while acting, without pretraining.

        Those that the last tick's own frames are due are not made.
        """
        tick = self.env.action_repeat * self.env.num_envs
        last = (self.frames - 1) // tick * tick
        acting = max(0, last - self.schedule.prefill) * self.schedule.updates_per_1000_frames / 1000
        return self.updates + int(acting)


# --- what a value may be ----------------------------------------------------------------------------------------------

YAML_BYTES = 2**18  # of a file of settings, which takes a second to parse

MAY_CHANGE = ("frames", "updates", "eval.*", "log.*", "checkpoint.*", "env.timeout_s")  # on resume


def may_change(key: str) -> bool:
    """Whether a resumed run may change this dotted key."""
    return any(key == name or (name.endswith(".*") and key.startswith(name[:-1])) for name in MAY_CHANGE)


def _check_together(config: Config) -> None:
    rows, length = config.replay.capacity, config.replay.length * config.env.num_envs
    if rows < length:
        raise wrong("replay.capacity", rows, f"at least replay.length x env.num_envs = {length}")
    if config.schedule.model_every == 0:
        _check_frozen(config)
    if config.init_from_checkpoint != "last" and not config.init_from:
        raise wrong("init_from_checkpoint", config.init_from_checkpoint, "nothing", "add init_from=RUN_DIR")
    _check_data(config)
    if config.env.target_return is not None:
        _check_target_return(config)


def _check_target_return(config: Config) -> None:
    """Refuse a target return if no returns have been seen, or if they are on no scale that a network can read."""
    target = config.env.target_return
    if not config.data.name:
        raise wrong("env.target_return", target, "none: only data say what came of an episode", "add data=PATH")
    if config.frames:
        expected = "0 with env.target_return: the return that an agent gets is not the return that it was asked for"
        raise wrong("frames", config.frames, expected, "learn from the data only: updates=N")
    if not config.data.normalize:
        raise wrong("data.normalize", False, "true with env.target_return: returns may be of any size")


def _check_data(config: Config) -> None:
    if config.data.normalize and config.env.mask:
        expected = "false with env.mask: where the data lose no reading, the mask is constant and has no scale"
        raise wrong("data.normalize", True, expected)
    if not config.data.name:
        if config.updates:
            raise wrong("updates", config.updates, "0: they are updates on data", "add data=PATH")
        if config.data.normalize and not config.init_from:
            raise wrong("data.normalize", True, "false: there are no statistics", "add data=PATH or init_from=RUN_DIR")
        if not config.task:
            raise wrong("task", "", "a task", "add one, such as task=walker_walk, or data=PATH")
        for item in dataclasses.fields(config.data):
            value = getattr(config.data, item.name)
            if item.name not in ("normalize", "reference") and value != item.default:
                raise wrong(f"data.{item.name}", value, "nothing: there are no data", "add data=PATH")
    if config.data.reference is not None and config.data.reference[0] == config.data.reference[1]:
        raise wrong("data.reference", list(config.data.reference), "two different returns")
    if not config.length:
        raise wrong("frames", 0, "1 or more", "add updates=N to learn from the data" if config.data.name else "")
    for key, value in (("frames", config.frames), ("eval.every", config.eval.every)):
        if value and not config.task:
            raise wrong(key, value, f"0: no environment is known for data={config.data.name}", "add task=NAME")


def _check_frozen(config: Config) -> None:
    if not config.init_from:
        raise UserError(
            "schedule.model_every", "0: the belief model never learns", "init_from=RUN_DIR in addition to it"
        )
    if config.schedule.pretrain:
        pretrain = config.schedule.pretrain
        raise wrong("schedule.pretrain", pretrain, "0: with schedule.model_every=0 the belief model never learns")


# --- dictionaries -----------------------------------------------------------------------------------------------------


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested or dotted settings as one flat dict of dotted keys; ``head: sac`` and ``head: {name: sac}`` are the same.

    Raises:
        UserError: something that is not a mapping, a key that is not text, or one that is given twice.
    """
    if not isinstance(settings, Mapping):
        raise wrong("settings", settings, "a dict such as {'agent': 'sac', 'task': 'walker_walk'}")
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if not isinstance(key, str):
            raise wrong("a key of the settings", key, "text")
        dotted = _dotted(prefix, key)
        items = flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {dotted: value}
        for name in items:
            if name in flat:
                raise given_twice(name)
        flat.update(items)
    return flat


def _dotted(prefix: str, name: str) -> str:
    """A setting's key. The value of a group is its ``name``: ``head=sac``, ``data=PATH``."""
    return (prefix + name).removesuffix(".name")


def config_from_dict(settings: Mapping[str, Any]) -> Config:
    """Checked settings from nested or dotted ones; what is missing takes its default.

    No preset is read: ``agent`` is a label of the parts that are given. Each of them may be a name or a dict with
    ``name``; its other fields are those of that class's own ``Config``, and all of them are filled in.

    Raises:
        UserError: one line for an unknown key (with the nearest ones), a wrong type or a wrong value.
    """
    flat = flatten(settings)
    agent, parts = _agent_and_parts(flat)
    known = {**_leaves(Config), **_part_leaves(parts)}
    check_keys(flat, {*known, *PARTS})
    values = {key: typed(key, flat.get(key, default), hint) for key, (hint, default) in known.items()}
    values["agent"] = agent
    values.update(_lengths(known, {*flat}, values))
    config = _assemble(Config, "", {**values, **_part_dicts(values, parts)})
    _check_together(config)
    return config


def _lengths(known: Mapping[str, tuple[Any, Any]], given: set[str], values: Mapping[str, Any]) -> dict[str, int]:
    """Lengths inside a part that are not given and follow those of the run (``fields.OfUpdates``)."""
    follow = {key: of_updates(hint) for key, (hint, _) in known.items() if key not in given}
    found = {key: each.length(values["updates"], values["frames"]) for key, each in follow.items() if each}
    return {key: length for key, length in found.items() if length}


def config_to_dict(config: Config) -> dict[str, Any]:
    """The settings as nested plain dicts, lists and scalars, ready for YAML; ``config_from_dict`` takes them back."""
    return typing.cast("dict[str, Any]", _plain(dataclasses.asdict(config)))


def known_keys(parts: Mapping[str, str]) -> set[str]:
    """Every dotted key of a run with these ``parts``."""
    return {*_leaves(Config), *_part_leaves(parts), *PARTS}


def check_keys(keys: Iterable[str], valid: set[str], where: str = "") -> None:
    """Raise UserError for the first key that is not valid, with the nearest ones. ``where`` begins the message."""
    for key in keys:
        if key in valid:
            continue
        fields = sorted(name for name in valid if name.startswith(f"{key}."))
        if fields:
            error = UserError(key, "a value for the whole group", f"one for a setting of it: {', '.join(fields)}")
        else:
            error = _unknown_key(key, valid)
        raise error.inside(where) if where else error


ELSEWHERE = {  # what other packages call a setting -> the last part of its keys here
    "batch_size": "batch",
    "buffer_size": "capacity",
    "discount": "gamma",
    "frame_skip": "action_repeat",
    "gradient_steps": "updates_per_1000_frames",
    "learning_rate": "lr",
    "learning_starts": "prefill",
    "n_envs": "num_envs",
    "seq_len": "length",
    "total_timesteps": "frames",
    "utd": "updates_per_1000_frames",
}


def _unknown_key(key: str, valid: set[str]) -> UserError:
    """The error for an unknown key: it names the other part with this setting, related or similar keys, or --help."""
    group, _, last = key.rpartition(".")
    if group in valid and (others := _parts_with(group, last)):
        return UserError(f"unknown key '{key}'", f"a setting of {', '.join(others)}", f"one of this {group}")
    if related := _related(group, ELSEWHERE.get(last, last), valid):
        return unknown("key", key, related)
    error = unknown("key", key, valid)
    return error if error.fix else UserError(error.where, fix="see --help, or list all keys with --cfg job")


def _parts_with(kind: str, setting: str) -> list[str]:
    """``kind=name`` of each registered part that has a setting; none for any other word."""
    return [f"{kind}={name}" for name in PARTS.get(kind, ()) if f"{kind}.{setting}" in _part_leaves({kind: name})]


def _related(group: str, last: str, valid: set[str]) -> set[str]:
    """Valid keys of the same group that share a word (``head.lr``, ``head.actor_lr``), else those with the same last
    part."""
    words = set(last.split("_"))
    near = {name for name in valid if name.rpartition(".")[0] == group and words & set(_last(name).split("_"))}
    return near or {name for name in valid if f"_{_last(name)}".endswith(f"_{last}")}


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _agent_and_parts(flat: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The label and the registered names of the parts."""
    plain = Config()
    usual = {**DEFAULTS, "belief": plain.belief["name"], "head": plain.head["name"]}
    parts = {kind: canonical(kind, typed(kind, flat.get(kind, usual[kind]), str)) for kind in PARTS}
    if "agent" not in flat:
        return agent_label(plain.agent, usual, **parts), parts
    if not {"belief", "head"} <= set(flat):
        fix = "worldrl.train and worldrl.compose.compose take them from its preset"
        raise wrong("agent", flat["agent"], "belief and head in addition to this label", fix)
    return typed("agent", flat["agent"], str), parts


def _leaves(cls: Any, prefix: str = "", groups: bool = True) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (type, default) of a dataclass and (``groups``) those inside it; the parts are left out.

    Raises:
        UserError: a field without a default, or of a type that ``typed`` does not check.
    """
    hints = hints_of(cls)
    found: dict[str, tuple[Any, Any]] = {}
    for item in dataclasses.fields(cls):
        hint, key = hints[item.name], _dotted(prefix, item.name)
        if groups and dataclasses.is_dataclass(hint):
            found.update(_leaves(hint, f"{key}."))
        elif key not in PARTS:
            if not is_checked(hint):
                raise UserError(key, f"a field of type {type_name(hint)}", f"one of {FIELD_TYPES}")
            found[key] = (hint, _default(key, item))
    return found


def _default(key: str, item: dataclasses.Field[Any]) -> Any:
    if item.default is not dataclasses.MISSING:
        return item.default
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    raise UserError(key, "no default", "one, which every setting has")


def _part_leaves(parts: Mapping[str, str]) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for kind, name in parts.items():
        found.update(_leaves(load_class(kind, name).Config, f"{kind}.", groups=False))
    return found


def _part_dicts(values: Mapping[str, Any], parts: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """``{"belief": {"name": ..., ...}, "head": {...}, ...}``, each accepted by its class's own ``Config``."""
    found = {}
    for kind, name in parts.items():
        cls = load_class(kind, name).Config
        settings = {item.name: values[f"{kind}.{item.name}"] for item in dataclasses.fields(cls)}
        try:
            cls(**settings)
        except ValueError as error:
            raise UserError(f"{kind}={name}", f"settings that it refuses: {error}") from error
        found[kind] = {"name": name, **settings}
    return found


def _assemble(cls: Any, prefix: str, values: Mapping[str, Any]) -> Any:
    hints = hints_of(cls)
    arguments = {}
    for item in dataclasses.fields(cls):
        key = _dotted(prefix, item.name)
        nested = dataclasses.is_dataclass(hints[item.name])
        arguments[item.name] = _assemble(hints[item.name], f"{key}.", values) if nested else values[key]
    return cls(**arguments)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


# --- files ------------------------------------------------------------------------------------------------------------


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping as plain values. Raises UserError if the file is not one."""
    try:
        text = read_text(path, YAML_BYTES)
        if "&" in text and any(isinstance(event, AliasEvent) for event in yaml.parse(text)):
            raise damaged(path, "a YAML alias", "every value written out")  # a few of them make billions of values
        found = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
    except (OSError, ValueError, YAMLError, RecursionError, OmegaConfBaseException) as error:
        raise UserError(f"cannot read {path}", " ".join(str(error).split()), "settings in YAML") from error
    if not isinstance(found, dict):
        raise UserError(str(path), "a list", "settings such as 'frames: 1000'")
    return typing.cast("dict[str, Any]", found)


def to_yaml(config: Config) -> str:
    """The settings as YAML text, in the order of the dataclasses."""
    return OmegaConf.to_yaml(OmegaConf.create(config_to_dict(config)))
