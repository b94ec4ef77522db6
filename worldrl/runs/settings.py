"""The settings of a run folder: written, read, compared with those that its agent was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldrl import origin
from worldrl.config import YAML_BYTES, Config, config_from_dict, config_to_dict, flatten, may_change, read_yaml, to_yaml
from worldrl.data.settings import DEMO
from worldrl.errors import UserError, new_file, printable, wrong
from worldrl.files import is_file, read_text
from worldrl.registry import PARTS, load_class
from worldrl.trust import check_allowed

CONFIG_FILE = "config.yaml"
OLDER = "if worldrl 0.1.0 wrote this run, that version reads it; worldrl report reads its curves"


def save_config(config: Config, run_dir: Path, protocol: str = "") -> None:
    """Write ``config.yaml`` into the run folder, in place of an existing one; never half a file.

    A comment in its first line names the version and commit of this package, and those of an existing one. The next
    line has the environment's ``protocol``, if there is one.
    """
    path = Path(run_dir) / CONFIG_FILE
    before = read_text(path, YAML_BYTES) if path.is_file() else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path, "make room, or choose another run folder: hydra.run.dir=DIR") as partial:
        told = f"# {printable(protocol)}\n" if protocol else ""
        partial.write_text(f"{origin.note(before)}\n{told}{to_yaml(config)}", encoding="utf-8")


def run_folder(run_dir: str | Path) -> Path:
    """The folder that a run is read from: ``run_dir``, or the run inside the package if ``demo`` is not a folder."""
    path = Path(run_dir)
    return Path(__file__).parents[1] / DEMO if str(path) == DEMO and not is_file(path / CONFIG_FILE) else path


def load_config(run_dir: Path, **changes: Any) -> Config:
    """The settings of a run folder; ``changes`` are dotted keys with new values (``**{"eval.every": 100}``).

    Raises:
        UserError: no run in the folder, settings that do not pass ``config_from_dict``, or code from outside the
            package that is not allowed (``worldrl.trust``).
    """
    path = run_folder(run_dir) / CONFIG_FILE
    if not is_file(path):
        lost = f"put {CONFIG_FILE} back if this was one" if Path(run_dir).is_dir() else ""
        raise UserError(f"no run in '{run_dir}'", f"no {CONFIG_FILE}", "a folder that worldrl train wrote", lost)
    stored = _stored(path)
    if not stored:
        raise UserError(str(path), "an empty file", "the settings of the run", "put them back")
    if not {"belief", "head"} <= set(stored) and "agent" in stored:
        raise UserError(str(path), "no belief and head", "a run of worldrl train", "worldrl report reads other runs")
    check_allowed(path, stored)
    try:
        return config_from_dict({**stored, **changes})
    except UserError as error:
        if changes:
            load_config(run_dir)  # either the file is wrong or the changes are
            raise
        told = error.inside(path)
        raise (told.also(OLDER) if error.where.startswith("unknown key") else told) from error


def _stored(path: Path) -> dict[str, Any]:
    try:
        return flatten(read_yaml(path))
    except UserError as error:
        raise error if str(path) in error.where else error.inside(path) from None


HOW = ("agent", "device", "precision", "speed", "threads", "deterministic")  # a label, and how a run is computed


def check_unchanged(run_dir: Path, trained: Mapping[str, Any], agent_only: bool = False) -> None:
    """Refuse a run folder whose settings file was changed by hand, where the agent or its past depends on it.

    Args:
        trained: the settings in the checkpoint, nested.
        agent_only: look only at belief, head, policy and normaliser; the agent may act somewhere else.

    Raises:
        UserError: the first setting that differs.
    """
    path = Path(run_dir) / CONFIG_FILE
    check_allowed(path, flatten(read_yaml(path)))
    check_allowed(f"{run_dir}: its checkpoint", flatten(trained))
    stored, then = flatten(read_yaml(path)), flatten(config_to_dict(config_from_dict(trained)))
    now = flatten(config_to_dict(config_from_dict(stored)))
    for key in sorted(now.keys() | then.keys()):
        if agent_only and key.split(".")[0] not in PARTS and key != "data.normalize":
            continue
        if key == "data" and then["data.checksum"]:  # the rows may be in a new place: their checksum is compared
            continue
        if key not in HOW and not may_change(key) and now.get(key) != then.get(key):
            expected = f"{key}={then.get(key)}, with which the checkpoint was trained"
            raise UserError(str(path), f"{key}={now.get(key)}", expected, "put it back")


def moved(config: Config, trained: Mapping[str, Any]) -> list[str]:
    """A line for each setting of the environment in which ``config`` differs from ``trained`` (nested)."""
    then, now = (flatten(config_to_dict(each)) for each in (config_from_dict(trained), config))
    keys = [key for key in now if key == "seed" or (key.startswith("env.") and not may_change(key))]
    return [f"{key} is {now[key]}, not {then[key]} as in training" for key in keys if now[key] != then[key]]


# --- starting from another run ----------------------------------------------------------------------------------------

OPTIMISER_SETTINGS = ("belief.lr", "belief.grad_clip", "belief.adam_eps")


def world_of(run_dir: str, where: str = "init_from") -> dict[str, Any]:
    """Task, environment and belief of a run, dotted: what a run with ``init_from`` has where nothing else is said.

    ``where`` names the setting in an error.

    Raises:
        UserError: no run in the folder.
    """
    try:
        stored = flatten(config_to_dict(load_config(Path(run_dir))))
    except UserError as error:
        raise error.inside(where) from error
    kept = ("task", "belief", "data.normalize")
    return {k: v for k, v in stored.items() if k in kept or k.startswith(("env.", "belief."))}


def check_same_belief(config: Config) -> None:
    """Refuse a belief whose class or settings are not those of the run that ``init_from`` names.

    Raises:
        UserError: the first setting that differs; those of the optimiser may, and those that change no weight (a
            belief's ``free``).
    """
    may_differ = {*OPTIMISER_SETTINGS, *(f"belief.{name}" for name in load_class("belief", config.belief["name"]).free)}
    ours, theirs = flatten({"belief": config_to_dict(config)["belief"]}), world_of(config.init_from)
    ours["data.normalize"] = config.data.normalize
    for key in ours:
        if key not in may_differ and ours[key] != theirs.get(key):
            expected = f"{theirs.get(key)!r} as in init_from={config.init_from}"
            raise wrong(key, ours[key], expected, "leave it out to take it from there")
