"""The settings of a run, composed in the same way for the command line, a sweep, Python and an installed package.

Presets are composed here and not by Hydra's defaults list, for two reasons. A preset's settings for a part must vanish
when that part is swapped (``experiment=paper_smac head=sac`` has no use for ``head.estimator``), which a defaults list
cannot express; and every mistake must end in a one-line error.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldrl.config import (
    MAY_CHANGE,
    Config,
    check_keys,
    config_from_dict,
    config_to_dict,
    flatten,
    known_keys,
    may_change,
)
from worldrl.envs.families import canonical_name, has_cameras
from worldrl.errors import UserError, wrong
from worldrl.files import is_file
from worldrl.presets import (
    GROUPS,
    NOT_SETTINGS,
    Arguments,
    for_task,
    own_folder,
    parts_of,
    read_agent,
    read_base,
    read_preset,
    settings_for,
)
from worldrl.registry import PARTS, agent_label, canonical
from worldrl.runs.settings import CONFIG_FILE, check_same_belief, load_config, run_folder, world_of
from worldrl.trust import allow, allow_named

RUNS = "runs"  # the folder of all run folders
REPEAT = "env.action_repeat"


def compose(arguments: Mapping[str, Any]) -> Config:
    """The settings of one run from its arguments and the presets that they name.

    Layers, each over the one before: dataclass defaults, ``train.yaml``, the ``env`` preset, the ``agent``, the
    ``experiment``, the arguments. Choices (agent, env, belief, head, policy) are made first: an argument beats an
    experiment, an experiment beats the agent it runs on, an agent named in the arguments brings its own choices with
    it, and an environment its task. If another part than the preset's is chosen, the preset's settings for that part
    (``head.*``) count only if both parts inherit them.
    With ``init_from`` the task, the environment and the belief come from that run, and only the arguments beat them.

    Args:
        arguments: dotted or nested, as on the command line; ``presets`` names the folder of the user's own ones,
            ``allow`` modules that run folders may use. A part or task may be the class itself.

    Raises:
        UserError: a mistake in the arguments; it names the nearest valid keys, presets, parts or values.
    """
    given = _named(flatten(arguments))
    own = own_folder(given.get("presets"))
    allow(given.get("allow", ()))
    asked = {key: value for key, value in given.items() if key not in NOT_SETTINGS}
    base, experiment = read_base(), read_preset("experiment", asked.get("experiment"), own)
    name = _first("agent", asked, experiment, base)
    agent = read_agent(name, own)
    middle = (agent, experiment) if "agent" in asked else (experiment, agent)
    order = (asked, *middle, base)
    init_from = _first("init_from", *order, {"init_from": ""})
    for layer in order:  # the user's own arguments and presets, but not a run folder
        allow_named(layer)
    data = _first("data", *order, {"data": ""})
    in_data, unknown = _world_of_data(data) if data else ({}, {})
    world = {**in_data, **(world_of(init_from) if init_from else {})}
    env = read_preset("env", _first("env", *order), own)
    named = {"task": env["task"]} if "env" in asked and "task" in env else {}
    parts = {kind: canonical(kind, _first(kind, asked, world, *order)) for kind in PARTS}
    of_experiment = f"experiment '{asked.get('experiment')}'"
    task = _first("task", asked, named, world, *order, env, {"task": ""})
    settings_of_task = for_task(experiment, task, of_experiment)
    values: Arguments = {}
    for where, layer, intended in (
        ("configs/train.yaml", base, base),
        ("env preset", env, env),
        (f"agent '{name}'", agent, agent),
        ("data", unknown, unknown),
        (of_experiment, settings_of_task, parts_of(experiment, own)),
        ("env preset", named, {}),
        ("init_from or data", world, world),
        ("env preset", env if "env" in asked and world else {}, env),
        ("", asked, {}),
    ):
        settings = settings_for(_plain(layer), intended, parts)
        check_keys(settings, {*known_keys(parts), *GROUPS, *NOT_SETTINGS}, where)
        values.update(settings)
    values.update({key: value for key, value in world.items() if key == "data"})  # an absolute path
    values.update(_without_acting(values, asked))
    label = agent_label(name, {kind: _first(kind, agent) for kind in PARTS}, **parts)
    config = config_from_dict({**values, **parts, "agent": label})
    if init_from:
        check_same_belief(config)
    camera = config.env.render.camera
    if camera != -1 and config.task and not has_cameras(config.task):
        raise wrong("env.render.camera", camera, f"-1: {config.task} has no cameras to choose from")
    return dataclasses.replace(config, task=canonical_name(config.task)) if config.task else config


def resumed(run_dir: Path, changes: Mapping[str, Any]) -> Config:
    """The settings of a run folder with changes, dotted. Raises UserError for a key that may not change.

    ``data`` may name the new place of the same rows, which their checksum proves.
    """
    if run_folder(run_dir) != Path(run_dir):
        fix = f"start a new run with init_from={run_dir}"
        raise UserError(f"resume={run_dir}", "the agent of the package, without its optimisers", "a run folder", fix)
    allow(changes.get("allow", ()))
    changes = {key: value for key, value in changes.items() if key != "allow"}
    stored = load_config(run_dir)
    check_keys(changes, known_keys({kind: getattr(stored, kind)["name"] for kind in PARTS}) | set(GROUPS))
    if stored.data.name and changes.get("data"):
        changes["data"] = str(Path(changes["data"]).expanduser().absolute())
    for key in changes:
        if not may_change(key) and not (key == "data" and stored.data.name):
            fix = f"a resumed run may change: {', '.join(MAY_CHANGE)}"
            raise wrong(key, changes[key], f"the value that the run in {run_dir} has", fix)
    changed = config_from_dict({**flatten(config_to_dict(stored)), **changes}) if changes else stored
    if changed.data.name and bool(changed.frames) != bool(stored.frames):
        expected = f"{stored.frames}: a run on data either acts or it does not"
        fix = f"start a new run with init_from={run_dir}" if stored.frames == 0 else ""
        raise UserError("frames", str(changed.frames), expected, fix)
    return changed


def run_name(config: Config, sweep: str = "") -> str:
    """``<task>/<agent>/<seed>-<stamp>``, new at every call; in a sweep, the same for the same settings.

    That is ``<sweep>/<task>/<agent>/<seed>-<digest>``, where the digest is of every setting that may not change on
    resume.
    """
    task = re.sub(r"[^\w.@+-]+", "_", config.task or Path(config.data.name).stem)
    place = f"{task}/{config.agent}/{config.seed}"
    if not sweep:
        return f"{place}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    fixed = {key: value for key, value in flatten(config_to_dict(config)).items() if not may_change(key)}
    digest = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()
    return f"{sweep}/{place}-{digest[:8]}"


def _world_of_data(name: str) -> tuple[Arguments, Arguments]:
    """The environment that a data set comes from, which only the arguments beat; and what it does not tell."""
    from worldrl.data.formats import format_of  # imports torch, which a report does not need

    path = Path(name).expanduser()
    if is_file(path / CONFIG_FILE):
        world = {key: value for key, value in world_of(str(path), "data").items() if key.startswith(("task", "env."))}
    else:
        world = format_of(path).world(path)
    unknown: Arguments = {}
    if not _can_be_made(world.get("task", "")):
        world, unknown = {key: value for key, value in world.items() if key != "task"}, {"task": ""}
        if world.get(REPEAT) == 1:  # of a file that knows no task, and so no repeat either
            unknown[REPEAT] = world.pop(REPEAT)
    return {**world, "data": str(path.absolute())}, unknown


def _can_be_made(task: str) -> bool:
    """Whether the task that a data set names exists here."""
    try:
        return bool(task and canonical_name(task))
    except UserError:
        return False


def _without_acting(values: Arguments, asked: Arguments) -> Arguments:
    """What a run on data leaves out by default: acting, and evaluations if there is no environment."""
    left_out: Arguments = {}
    if values.get("data") and "frames" not in values:
        left_out["frames"] = 0
    if values.get("task") == "" and "eval.every" not in asked:
        left_out["eval.every"] = 0
    return left_out


def _named(given: Mapping[str, Any]) -> Arguments:
    """Paths as strings, and classes and functions by the names under which they can be imported."""
    named = {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in given.items()}
    for key in ("task", *PARTS):
        if callable(value := given.get(key)):
            named[key] = f"{value.__module__}:{value.__qualname__}"
    return named


def _plain(layer: Mapping[str, Any]) -> Arguments:
    """A layer without its choices, which have already been made."""
    return {key: value for key, value in layer.items() if key not in (*GROUPS, *PARTS)}


def _first(key: str, *layers: Mapping[str, Any]) -> str:
    for layer in layers:
        if key not in layer:
            continue
        if not isinstance(layer[key], str):
            raise UserError(key, repr(layer[key]), "a name")
        return str(layer[key])
    raise UserError(f"no {key} is chosen", fix=f"set {key}=")
