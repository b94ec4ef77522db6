"""Where presets are, and what is in them: ``agent/NAME.yaml``, ``env/NAME.yaml``, ``experiment/NAME.yaml``.

The package's presets are in ``configs/`` of its repository, and inside the package in a wheel. A user's own are in
``./configs/``, or in the folder that ``presets=DIR`` names. A preset may say ``base: NAME`` to build on the settings of
another preset of its group. A name that begins with ``_`` is only a base. An experiment may have settings for single
tasks, ``tasks: {walker_walk: {env.action_repeat: 2}}``, which count over its others.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldrl.config import flatten, read_yaml
from worldrl.envs.families import canonical_name
from worldrl.errors import UserError, unknown, wrong
from worldrl.registry import DEFAULTS, PARTS, canonical, shared_fields

GROUPS = ("agent", "env", "experiment")  # settings whose value is the name of a preset
OWN = "configs"  # a user's own folder, in the current one
BASE = "base"
TASKS = "tasks."
NOT_SETTINGS = ("resume", "sweep", "presets", "allow")  # arguments that are not settings of a run
CHOICES: dict[str, tuple[str, ...]] = {  # what a preset of each group may choose
    "agent": ("env", *PARTS),
    "env": (),
    "experiment": ("agent", "env", *PARTS),
}

Arguments = dict[str, Any]  # dotted keys, as on the command line


def shipped() -> Path:
    """The folder of the package's own presets, in a clone, an editable install and a wheel."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def own_folder(folder: Any = None) -> Path:
    """The folder of the user's presets: ``presets=DIR``, or by default ``./configs``, which need not exist."""
    if folder is None:
        return Path(OWN)
    if not isinstance(folder, str | Path):
        raise wrong("presets", folder, "a folder")
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise wrong("presets", str(folder), "a folder with agent/, env/ or experiment/")
    return path


def preset_names(group: str, own: Path | None = None) -> list[str]:
    """Names that ``agent=``, ``env=`` or ``experiment=`` accepts."""
    folders = [shipped(), *([own] if own else [])]
    found = {path.stem for folder in folders for path in (folder / group).glob("*.yaml")}
    return sorted(name for name in found if not name.startswith("_"))


def preset_for(experiment: Any, agent: Any, own: Path) -> str | None:
    """The experiment ``EXPERIMENT_AGENT``, if there is one: it has the settings of ``experiment`` for this agent."""
    name = f"{experiment}_{agent}"
    return name if name in preset_names("experiment", own) else None


def preset_path(group: str, name: str, own: Path) -> Path:
    """The file of a preset; a user's file with the name of a package preset must be an exact copy of it."""
    ours, theirs = (folder / group / f"{name}.yaml" for folder in (shipped(), own))
    if not theirs.is_file():
        if not ours.is_file():
            raise UserError(f"{group} preset", f"base: {name}", f"a file {group}/{name}.yaml")
        return ours
    if ours.is_file() and theirs.read_bytes() != ours.read_bytes():
        fix = f"rename it: {group}/my_{name.lstrip('_')}.yaml may say base: {name}"
        raise UserError(str(theirs), f"the name of a preset of worldrl, {group}={name}", "a name of its own", fix)
    return theirs


def read_preset(group: str, name: Any, own: Path) -> Arguments:
    """The settings of one preset over those of its base, dotted; none for ``None``.

    Raises:
        UserError: no such preset, a user's own under the name of the package's, or a base that leads back to it.
    """
    if name is None:
        return {}
    if name not in (names := preset_names(group, own)):
        raise unknown(group, str(name), names)
    return _with_base(group, name, own, ())


def read_base() -> Arguments:
    """The lowest layer of every run, ``train.yaml``."""
    return _read(shipped() / "train.yaml")


def settings_for(layer: Mapping[str, Any], intended: Mapping[str, Any], parts: Mapping[str, str]) -> Arguments:
    """A layer's settings, without those that do not apply to a part chosen in place of the ``intended`` one."""
    settings = dict(layer)
    for kind, chosen in parts.items():
        if kind not in intended or canonical(kind, intended[kind]) == canonical(kind, chosen):
            continue
        shared = {f"{kind}.{name}" for name in shared_fields(kind, intended[kind], chosen)}
        settings = {k: v for k, v in settings.items() if k in shared or not k.startswith(f"{kind}.")}
    return settings


def for_task(experiment: Mapping[str, Any], task: str, where: str) -> Arguments:
    """An experiment's settings for one task: those under ``tasks`` over the others.

    Raises:
        UserError: a choice or a setting of a part under ``tasks``: these count for every task.
    """
    settings = {key: value for key, value in experiment.items() if not key.startswith(TASKS)}
    if len(settings) == len(experiment):
        return settings
    mine = f"{TASKS}{canonical_name(task) if task else ''}"
    if mine in experiment:
        raise UserError(where, f"{mine}: {experiment[mine]}", "settings, such as {env.action_repeat: 2}")
    special = {key.removeprefix(f"{mine}."): experiment[key] for key in experiment if key.startswith(f"{mine}.")}
    for key in special:
        if key in ("task", *GROUPS, *NOT_SETTINGS) or key.partition(".")[0] in PARTS:
            raise UserError(where, f"{mine}.{key}", "a setting of env, schedule, replay or the like: not of a part")
    return {**settings, **special}


def read_agent(name: Any, own: Path) -> Arguments:
    """An agent's preset, completed by the parts that it does not name; none for ``None``."""
    preset = read_preset("agent", name, own)
    return {**DEFAULTS, **preset} if preset else preset


def parts_of(layer: Mapping[str, Any], own: Path) -> dict[str, str]:
    """The parts that a layer chooses, by its agent or by name."""
    both = {**read_agent(layer.get("agent"), own), **layer}
    chosen = {kind: both[kind] for kind in PARTS if kind in both}
    for kind, name in chosen.items():
        if not isinstance(name, str):
            raise UserError(kind, repr(name), "a name")
    return chosen


def _with_base(group: str, name: str, own: Path, above: tuple[str, ...]) -> Arguments:
    if name in above:
        raise UserError(f"{group} '{above[0]}'", f"base: {' > '.join([*above[1:], name])}", "a base above it")
    path = preset_path(group, name, own)
    settings = dict(_read(path))
    base = settings.pop(BASE, None)
    for key in (*GROUPS, *PARTS, *NOT_SETTINGS):
        if key in settings and key not in CHOICES[group]:
            raise UserError(str(path), f"{key}: {settings[key]}", f"no {key} in a preset of {group}")
    if base is None:
        return settings
    under = _with_base(group, str(base), own, (*above, name))
    chosen = parts_of(settings, own)
    kept = settings_for(under, parts_of(under, own), chosen)
    return {**{key: value for key, value in kept.items() if key not in chosen}, **settings}


def _read(path: Path) -> Arguments:
    return _cached(path, path.stat().st_mtime_ns)


@functools.cache
def _cached(path: Path, changed: int) -> Arguments:
    """Read once for all jobs of a sweep; callers must not write into it."""
    return flatten(read_yaml(path))
