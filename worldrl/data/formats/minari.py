"""Minari's layout: a folder with ``data/main_data.hdf5`` and ``data/metadata.json``, one group per episode.

A group has ``observations`` (T + 1, ...), ``actions`` (T, ...), ``rewards``, ``terminations`` and ``truncations``
(T,). Observations may be nested groups of named arrays; they are concatenated as the environment's would be. Of the
environment's description only a registered id is used. Images are arrays (T + 1, H, W, 3), or one JPEG image each, as
Minari writes them without ``jpeg_encoding=False``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
from numpy.typing import NDArray

from worldrl.data import hdf5
from worldrl.data.episodes import Episode, Recorded, one_hot, rows_of_episodes, to_unit
from worldrl.data.jpeg import decode
from worldrl.data.memory import check_room
from worldrl.errors import UserError, writing
from worldrl.files import damaged, read_json
from worldrl.types import Actions, box, choice

SPELLING = "a folder of Minari"
WRITTEN_FOR = "0.5.4"  # the version of Minari for which files are written
FILE, METADATA = "main_data.hdf5", "metadata.json"
OURS = ("pixels", "state")  # names of observations that are not changed
ROOT = "MINARI_DATASETS_PATH"  # the variable that names Minari's folder
IMAGE = 3  # axes of an image
MOST_NUMBERS = 10_000  # of an action
MOST_START = 2**31  # of the number of the first choice
DESCRIBED = (  # entries of a description that follow from the rows and the environment
    *("dataset_id", "minari_version", "data_format", "jpeg_encoding", "total_episodes", "total_steps", "rows_checksum"),
    *("observation_space", "action_space", "observation", "task", "action_repeat", "env_spec", "dataset_size"),
    *("ref_min_score", "ref_max_score"),
)
JPEG_HEADER = 65_536  # bytes that a JPEG image may have in addition to those of its pixels
COPIES = 2  # the episodes, and the columns that are made of them
LOSSY = "its images are JPEG-coded, which loses detail; Minari's create_dataset avoids that with jpeg_encoding=False"


def claims(path: Path) -> bool:
    return (_folder(path) / FILE).is_file()


def stored_at(name: str) -> Path:
    """The folder in which Minari stores the data set of this id."""
    return Path(os.environ.get(ROOT, Path.home() / ".minari" / "datasets")) / name


@contextlib.contextmanager
def _describing(path: Path) -> Iterator[None]:
    """Turn the error of a bad description into one line that names the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise damaged(_folder(path) / METADATA, found, "what Minari writes") from error


def world(path: Path) -> dict[str, Any]:
    with _describing(path):
        return _world(path, _metadata(path))


def _world(path: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    space = _space(path, metadata, "observation_space")
    names = [name for name, _ in _spaces(space)]
    images = (_is_image(space) and _only_name(metadata) != "state") or "pixels" in names
    obs = "both" if images and len(names) > 1 else "pixels" if images else "state"
    settings = {"env.obs": obs, "env.action_repeat": _action_repeat(metadata)}
    task = _task(metadata)
    return {**settings, "task": task} if task else settings


def read(path: Path) -> Recorded:
    metadata, file = _metadata(path), _folder(path) / FILE
    space = _space(path, metadata, "observation_space")
    with _describing(path):
        if not list(_spaces(space)):
            raise ValueError("no observation")
        actions = _actions(path, _space(path, metadata, "action_space"))
        repeat, reference = _action_repeat(metadata), _reference(metadata)
    with hdf5.opened(file) as opened:
        groups = _groups(opened)
        room = COPIES * sum(_bytes(group, space, actions) for group in groups)
        check_room(file, room)
        notes = (LOSSY,) * any(_is_coded(groups[0], name, inner) for name, inner in _spaces(space))
        name = _only_name(metadata)
        columns = rows_of_episodes(_episode(group, space, actions, room, name) for group in groups)
    about = {name: value for name, value in metadata.items() if name not in DESCRIBED}
    data = Recorded(columns, actions, _task(metadata), reference, notes=notes, action_repeat=repeat, about=about)
    if actions.kind == "choice":
        return data._replace(unit=True)
    low, high = np.array(actions.low), np.array(actions.high)
    return to_unit(path, data, low, high, f"correct the action_space in {_folder(path) / METADATA}")


# --- metadata ---------------------------------------------------------------------------------------------------------


def _folder(path: Path) -> Path:
    return path / "data" if (path / "data").is_dir() else path


def _metadata(path: Path) -> dict[str, Any]:
    file = _folder(path) / METADATA
    found = read_json(file)
    if not isinstance(found, dict):
        raise damaged(file, f"a {type(found).__name__}", "a description")
    return found


def _task(metadata: Mapping[str, Any]) -> str:
    """The name of the environment, or nothing: the rest of the description is not used."""
    described = hdf5.parsed(metadata.get("env_spec"))
    name = described.get("id") if isinstance(described, dict) else metadata.get("task")
    return name if isinstance(name, str) and ":" not in name else ""


def _only_name(metadata: Mapping[str, Any]) -> str:
    """The name of a single observation, which worldrl writes: a screen of 84 x 84 is a ``state``, not an image."""
    name = metadata.get("observation")
    return name if name in OURS else ""


def _action_repeat(metadata: Mapping[str, Any]) -> int:
    """How many frames an action lasts; worldrl writes this entry."""
    found = int(metadata.get("action_repeat", 1))
    if found < 1:
        raise ValueError(f"action_repeat {found}")
    return found


def _reference(metadata: Mapping[str, Any]) -> tuple[float, float] | None:
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    ends = [float(end) for end in (low, high) if isinstance(end, int | float) and math.isfinite(end)]
    return (ends[0], ends[1]) if len(ends) == 2 and ends[0] != ends[1] else None


def _space(path: Path, metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = hdf5.parsed(metadata.get(name))
    if not isinstance(found, dict) or "type" not in found:
        raise damaged(_folder(path) / METADATA, f"{name} {str(metadata.get(name))[:60]!r}", "a space in JSON")
    return found


def _spaces(space: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The boxes of an observation by their names, in order; nested ones are ``a/b``."""
    if space["type"] != "Dict":
        yield name, space
        return
    for key, inner in space["subspaces"].items():
        yield from _spaces(inner, f"{name}/{key}".strip("/"))


def _is_image(space: Mapping[str, Any]) -> bool:
    return space["type"] == "Box" and space.get("dtype") == "uint8" and len(space.get("shape", ())) == IMAGE


def _actions(path: Path, space: Mapping[str, Any]) -> Actions:
    if space["type"] == "Discrete" and abs(start := int(space.get("start", 0))) < MOST_START:
        return choice(int(space["n"]), start)
    if space["type"] == "Box" and len(space["shape"]) == 1:
        size = int(space["shape"][0])
        if not 0 < size <= MOST_NUMBERS:
            raise UserError(f"actions of {path}", f"{size:,} numbers", f"1 to {MOST_NUMBERS:,}")
        ends = [np.broadcast_to(np.asarray(space[end], np.float64), (size,)) for end in ("low", "high")]
        if np.isfinite(ends).all() and (ends[0] < ends[1]).all():
            return box(size, *(end.tolist() for end in ends))
        found = f"Box from {np.min(ends[0]):g} to {np.max(ends[1]):g}"
        raise UserError(
            f"actions of {path}", found, "finite bounds, low < high", f"correct them in {_folder(path) / METADATA}"
        )
    found = f"{space['type']} {space.get('shape', '')}".strip()
    raise UserError(f"actions of {path}", found, "a Box (A,) with low < high, or Discrete")


# --- episodes ---------------------------------------------------------------------------------------------------------


def _groups(file: h5py.File) -> list[h5py.Group]:
    names = sorted((name for name in file if name.startswith("episode_")), key=lambda name: int(name[8:]))
    if not names:
        raise damaged(file.filename, "no episode", "groups episode_0, episode_1 and so on")
    return [hdf5.group(file, name) for name in names]


def _bytes(group: h5py.Group, space: Mapping[str, Any], actions: Actions) -> int:
    """The size of an episode's rows, from the shapes of its arrays."""
    rows = math.prod(hdf5.shape(group, "rewards")) + 1
    return 4 * rows * (actions.size + 3) + sum(_bytes_seen(group, name, rows, inner) for name, inner in _spaces(space))


def _bytes_seen(group: h5py.Group, name: str, rows: int, space: Mapping[str, Any]) -> int:
    if _is_coded(group, name, space):
        return rows * math.prod(space["shape"])
    shape = hdf5.shape(*_inside(group, name))
    return math.prod(shape) * (1 if len(shape) == 1 + IMAGE else 4)


def _episode(group: h5py.Group, space: Mapping[str, Any], actions: Actions, most: int, only: str) -> Episode:
    reward, action, terminal = (hdf5.array(group, name, most) for name in ("rewards", "actions", "terminations"))
    obs = _observation(group, space, reward.size + 1, most)
    if only and len(obs) == 1:
        obs = dict(zip([only], obs.values(), strict=True))
    where = f"{group.file.filename}: {group.name}"
    if actions.kind == "choice":
        action = one_hot(where, action.ravel(), actions.size, actions.first)
    lengths = {len(reward), len(action), len(terminal), *(len(values) - 1 for values in obs.values())}
    if len(lengths) != 1 or action.shape[1:] != (actions.size,):
        found = f"{len(reward)} rewards, actions {action.shape}, {len(next(iter(obs.values())))} observations"
        raise damaged(where, found, f"T rewards, actions (T, {actions.size}), T + 1 observations")
    if terminal[:-1].any():
        early = f"a termination in step {int(terminal.argmax())} of {len(terminal)}"
        raise damaged(where, early, "one in the last step only, counted from 0")
    return Episode(obs, action, reward, bool(len(terminal) and terminal[-1]))


def _observation(group: h5py.Group, space: Mapping[str, Any], rows: int, most: int) -> dict[str, NDArray[Any]]:
    """Observations by the names that agents use: those already called so, an image, or all vectors in one."""
    parts = {name: _seen(group, name, inner, rows, most) for name, inner in _spaces(space)}
    if set(parts) <= {*OURS}:
        return parts
    if _is_image(space):
        return {"pixels": parts[""]}
    if [*parts] == [""] and parts[""].ndim == 1 + IMAGE:  # a grid, whose shape networks use
        return {"state": parts[""]}
    return {"state": np.concatenate([values.reshape(len(values), -1) for values in parts.values()], axis=1)}


# --- writing ----------------------------------------------------------------------------------------------------------


def write(path: Path, data: Recorded, about: Mapping[str, Any] | None = None) -> None:
    """Write a data set as a folder that Minari loads, completely or not at all; images are not encoded.

    Args:
        path: A new folder.
        data: Actions in [-1, 1] are written in the task's own units, if these are known.
        about: Further entries of its description, such as ``algorithm_name``.

    Raises:
        UserError: The folder exists already, the bounds of the actions are not known, or writing fails.
    """
    if path.exists():
        raise UserError(str(path), "a folder or file", "a new folder")
    if data.actions.kind == "box" and not (data.unit or data.actions.low):
        raise UserError(str(path), "actions of unknown bounds", "bounds, which this layout has", "add --low and --high")
    partial = path.with_name(f".{path.name}.partial")
    with writing(path, "choose another folder"), contextlib.ExitStack() as failed:
        shutil.rmtree(partial, ignore_errors=True)
        failed.callback(shutil.rmtree, partial, ignore_errors=True)
        (partial / "data").mkdir(parents=True)
        with hdf5.writing_hdf5(), _new_file(partial / "data" / FILE) as file:
            steps = [
                _write_episode(file, number, each, data.actions)
                for number, each in enumerate(data.in_own_units().episodes())
            ]
        described = {**_description(path, data, steps), **(about or {})}
        (partial / "data" / METADATA).write_text(json.dumps(described, indent=1), encoding="utf-8")
        partial.rename(path)
        failed.pop_all()


def _new_file(path: Path) -> h5py.File:
    """An empty file in the form of HDF5 1.10 (2016), which takes a third of the space for many short episodes."""
    return h5py.File(path, "w", libver=("v110", "v110"), track_order=True)


def _write_episode(file: h5py.File, number: int, episode: Episode, actions: Actions) -> int:
    """Add one episode; returns its number of steps."""
    group, n = file.create_group(f"episode_{number}"), len(episode.reward)
    group.attrs.update({"id": number, "total_steps": n})
    ended = np.zeros((2, n), bool)
    ended[0 if episode.terminal else 1, -1:] = True
    action = episode.action.argmax(-1) + actions.first if actions.kind == "choice" else episode.action
    arrays = {"actions": action, "rewards": episode.reward, "terminations": ended[0], "truncations": ended[1]}
    observed = {f"observations/{key}" if len(episode.obs) > 1 else "observations": x for key, x in episode.obs.items()}
    for name, values in {**arrays, **observed}.items():
        group.create_dataset(name, data=values, chunks=True, compression="gzip", shuffle=True)
    return n


def _description(path: Path, data: Recorded, steps: Sequence[int]) -> dict[str, Any]:
    """``metadata.json``."""
    name = path.name if re.fullmatch(r"[\w.-]+-v\d+", path.name) else f"{path.name}-v0"
    obs = {key: _box(spec.shape, spec.dtype) for key, spec in data.obs.items()}
    whole = next(iter(obs.values())) if len(obs) == 1 else {"type": "Dict", "subspaces": dict(sorted(obs.items()))}
    found: dict[str, Any] = {
        "dataset_id": name,
        "minari_version": WRITTEN_FOR,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "total_episodes": len(steps),
        "total_steps": sum(steps),
        "observation_space": json.dumps(whole),
        "action_space": json.dumps(_action_space(data.actions)),
        "task": data.task,
        "action_repeat": data.action_repeat,
        **({"observation": next(iter(obs))} if len(obs) == 1 else {}),
    }
    if data.reference is not None:
        found |= {"ref_min_score": data.reference[0], "ref_max_score": data.reference[1]}
    if data.task in gymnasium.registry:
        with contextlib.suppress(ValueError):  # a class or function as its entry point has no JSON
            found["env_spec"] = gymnasium.spec(data.task).to_json()
    return found


def _box(shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    low, high = (0, 255) if dtype == "uint8" else (-np.inf, np.inf)
    ends = {"low": np.full(shape, low).tolist(), "high": np.full(shape, high).tolist()}
    return {"type": "Box", "dtype": dtype, "shape": list(shape), **ends}


def _action_space(actions: Actions) -> dict[str, Any]:
    if actions.kind == "choice":
        return {"type": "Discrete", "dtype": "int64", "start": actions.first, "n": actions.size}
    low, high = actions.low or (-1.0,) * actions.size, actions.high or (1.0,) * actions.size
    return {"type": "Box", "dtype": "float32", "shape": [actions.size], "low": list(low), "high": list(high)}


# --- helpers ----------------------------------------------------------------------------------------------------------


def _inside(group: h5py.Group, name: str) -> tuple[h5py.Group, str]:
    """The group of an observation, and its name there."""
    *outer, last = ["observations", *filter(None, name.split("/"))]
    for each in outer:
        group = hdf5.group(group, each)
    return group, last


def _is_coded(group: h5py.Group, name: str, space: Mapping[str, Any]) -> bool:
    """Whether images are stored as JPEG files, not as an array."""
    return _is_image(space) and len(hdf5.stored_shape(*_inside(group, name))) < 1 + IMAGE


def _seen(group: h5py.Group, name: str, space: Mapping[str, Any], rows: int, most: int) -> NDArray[Any]:
    where = _inside(group, name)
    if not _is_coded(group, name, space):
        values = hdf5.array(*where, most)
        found, expected = values.shape[1:], tuple(space.get("shape", ()))
        if space["type"] == "Box" and found != expected:
            episode = f"{group.file.filename}: {group.name}"
            raise damaged(episode, f"observations {name} (T + 1, {str(found)[1:]}", f"(T + 1, {str(expected)[1:]}")
        return values
    height, width, _ = space["shape"]
    largest = math.prod(space["shape"]) + JPEG_HEADER
    return np.stack([decode(each, height, width) for each in hdf5.byte_rows(*where, rows, largest)])
