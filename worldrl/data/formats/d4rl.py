"""D4RL's layout: flat arrays of steps, in an HDF5 file or in an ``.npz`` archive.

``observations`` (N, ...), ``actions`` (N, A) or (N,) of whole numbers, ``rewards`` (N,), ``terminals`` (N,),
``timeouts`` (N,) and ``next_observations`` (N, ...). The last two may be missing. Actions of a box are in [-1, 1],
unless ``data.low`` and ``data.high``, or the environment, say otherwise. The number of choices is that of the
environment, or else the largest number in the file plus one.
"""

from __future__ import annotations

import math
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldrl.data import hdf5
from worldrl.data.archives import read_archive, read_shapes, write_archive
from worldrl.data.episodes import (
    MOST_CHOICES,
    Columns,
    Recorded,
    Steps,
    extent,
    is_shifted,
    lay_out,
    one_hot,
    rows_of_steps,
)
from worldrl.data.memory import check_room
from worldrl.errors import UserError, counted
from worldrl.types import Actions, box, choice, fits_grid

SPELLING = "an HDF5 file or .npz archive with D4RL's arrays"
NEEDED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations")
COPIES = 2  # the arrays, and the rows that are made of them
ENDLESS = 10_000  # steps: the time-outs of a longer episode must be missing
IMAGE = 3  # axes of an observation that is an image
FLOAT = 4  # bytes
SHIFTED = "next_observations are observations moved by one row, at ends of episodes too: they are not used"

GYM = r"(random|medium|expert|medium-replay|medium-expert|full-replay)-v[0-2]"
HAND = r"(human|cloned|expert)-v[01]"
# Returns of a random and of an expert policy, D4RL's own (gym's v2 physics), by the names of its data sets.
REFERENCES = {
    f"halfcheetah-{GYM}": (-280.178953, 12135.0),
    f"hopper-{GYM}": (-20.272305, 3234.3),
    f"walker2d-{GYM}": (1.629008, 4592.3),
    f"ant-{GYM}": (-325.6, 3879.7),
    f"pen-{HAND}": (96.262799, 3076.8331),
    f"hammer-{HAND}": (-274.856578, 12794.1348),
    f"door-{HAND}": (-56.512833, 2880.5693),
    f"relocate-{HAND}": (-6.425911, 4233.8778),
    r"maze2d-umaze-v1": (23.85, 161.86),
    r"kitchen-(complete|partial|mixed)-v0": (0.0, 4.0),
    r"antmaze-(umaze|umaze-diverse|(medium|large)-(play|diverse))-v[0-2]": (0.0, 1.0),
}

Arrays = dict[str, NDArray[Any]]


def claims(path: Path) -> bool:
    return path.is_file() and (hdf5.is_hdf5(path) or zipfile.is_zipfile(path) or path.suffix == ".npz")


def world(path: Path) -> dict[str, Any]:
    """The file names no environment; observations are vectors or images, one per frame."""
    shape, kind = _seen(path)
    with_images = len(shape) == 1 + IMAGE and not _is_grid(shape, kind)
    return {"env.obs": "pixels" if with_images else "state", "env.action_repeat": 1}


def read(path: Path) -> Recorded:
    arrays = _arrays(path)
    seen = arrays["observations"]
    key = "pixels" if seen.ndim == 1 + IMAGE and not _is_grid(seen.shape, seen.dtype) else "state"
    _check_shapes(path, arrays)
    action, actions = _actions(path, arrays["actions"])
    n = len(arrays["rewards"])
    steps = Steps(
        {key: arrays["observations"]},
        action,
        arrays["rewards"].reshape(n),
        _flags(path, "terminals", arrays["terminals"]),
        _flags(path, "timeouts", arrays["timeouts"]) if "timeouts" in arrays else np.zeros(n, bool),
        {key: arrays["next_observations"]} if "next_observations" in arrays else None,
    )
    shifted = is_shifted(steps)
    if shifted:
        steps = steps._replace(next_obs=None)
    _check_ends(path, steps, "timeouts" in arrays)
    layout = lay_out(steps)
    columns = rows_of_steps(steps, layout)
    notes = (SHIFTED,) * shifted + _notes(steps, columns)
    unit = actions.kind == "choice"
    return Recorded(columns, actions, "", _reference(path), unit, notes, layout.file_rows)


def write(path: Path, data: Recorded) -> None:
    """Write an ``.npz`` archive, or HDF5 for its suffixes; actions are in the task's own units if these are known.

    The layout has no place for a description.

    Raises:
        UserError: More than one kind of observation, for which the layout has no place.
    """
    steps = data.in_own_units().steps()
    if len(steps.obs) != 1 or steps.next_obs is None:
        raise UserError(
            str(path), f"observations {', '.join(steps.obs)}", "one kind of them", "write a folder of Minari"
        )
    (obs,), (following,) = steps.obs.values(), steps.next_obs.values()
    action = steps.action.argmax(-1) if data.actions.kind == "choice" else steps.action
    arrays = {"observations": obs, "actions": action, "rewards": steps.reward, "terminals": steps.terminal}
    arrays |= {"timeouts": steps.timeout, "next_observations": following}
    if path.suffix in hdf5.SUFFIXES:
        hdf5.write(path, arrays)
    else:
        write_archive(path, arrays)


def _reference(path: Path) -> tuple[float, float] | None:
    """D4RL's returns for a file with the name of one of its data sets, ``hopper-medium-v2`` or ``hopper_medium-v2``."""
    name = path.stem.replace("_", "-")
    return next((pair for form, pair in REFERENCES.items() if re.fullmatch(form, name)), None)


def _notes(steps: Steps, columns: Columns) -> tuple[str, ...]:
    """Remarks on missing information about episodes, and its consequences."""
    found = extent(columns)
    told = int((steps.terminal | steps.timeout).sum())
    left_out = len(steps.reward) - int(found.steps.sum())
    notes = []
    if (silent := len(found.start) - told - int(not (steps.terminal | steps.timeout)[-1])) > 0:
        notes.append(f"{counted(silent, 'episode')} with an end that only next_observations show")
    if steps.next_obs is None and not steps.timeout.any():
        notes.append(
            "no time-outs and no next observations: after a cut, the next episode seems to continue the same one"
        )
    if steps.next_obs is not None and (longest := int(found.steps.max())) > ENDLESS:
        notes.append(f"an episode of {longest:,} steps: are its time-outs missing?")
    if left_out:
        notes.append(f"left out {counted(left_out, 'step')} without a next observation")
    return tuple(notes)


def _arrays(path: Path) -> Arrays:
    if not hdf5.is_hdf5(path):
        found = read_shapes(path, (*NEEDED, *OPTIONAL)).values()
        check_room(path, COPIES * sum(_room(shape, kind) for shape, kind in found))
        return read_archive(path, NEEDED, OPTIONAL)
    with hdf5.opened(path) as file:
        names = [*NEEDED, *(name for name in OPTIONAL if name in file)]
        room = COPIES * sum(_room(hdf5.shape(file, name), hdf5.kind(file, name)) for name in names)
        check_room(path, room)
        return {name: hdf5.array(file, name, room) for name in names}


def _is_grid(shape: tuple[int, ...], kind: np.dtype[Any]) -> bool:
    """Whether observations (N, H, W, C) are grids of floats, as of a board."""
    return fits_grid(shape[1:]) and kind.kind == "f"


def _room(shape: tuple[int, ...], kind: np.dtype[Any]) -> int:
    """Bytes of an array as it is stored or as floats, whatever is more; images remain bytes."""
    image = len(shape) == 1 + IMAGE and kind == np.uint8
    return math.prod(shape) * (1 if image else max(kind.itemsize, FLOAT))


def _seen(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of the observations."""
    if not hdf5.is_hdf5(path):
        found = read_shapes(path, ("observations",))
        if not found:
            raise UserError(str(path), "no 'observations'", f"the arrays {', '.join(NEEDED)}")
        return found["observations"]
    with hdf5.opened(path) as file:
        return hdf5.shape(file, "observations"), hdf5.kind(file, "observations")


def _check_shapes(path: Path, arrays: Arrays) -> None:
    n = len(arrays["observations"]) if arrays["observations"].ndim else 0
    for name, values in arrays.items():
        if len(np.shape(values)) == 0 or len(values) != n or values.size == 0:
            raise UserError(f"{path}: '{name}'", f"shape {values.shape}", f"({n or 'N'}, ...) as the observations")
    for name in ("rewards", "terminals", "timeouts"):
        if name in arrays and arrays[name].size != n:
            raise UserError(f"{path}: '{name}'", f"shape {arrays[name].shape}", f"({n},)")
    following = arrays.get("next_observations")
    if following is not None and following.shape != arrays["observations"].shape:
        expected = f"{arrays['observations'].shape}, as the observations have"
        raise UserError(f"{path}: 'next_observations'", f"shape {following.shape}", expected)
    seen = arrays["observations"]
    if seen.ndim == 1 + IMAGE and seen.dtype != np.uint8 and not _is_grid(seen.shape, seen.dtype):
        raise UserError(f"{path}: 'observations'", f"images of {arrays['observations'].dtype}", "uint8 from 0 to 255")
    if arrays["observations"].ndim not in (2, 1 + IMAGE):
        raise UserError(f"{path}: 'observations'", f"shape {arrays['observations'].shape}", "vectors (N, D) or images")


def _actions(path: Path, values: NDArray[Any]) -> tuple[NDArray[Any], Actions]:
    if values.dtype.kind in "iu" and values.size == len(values):
        size = int(values.max()) + 1
        if values.min() < 0:
            raise UserError(f"actions of {path}", f"the choice {values.min()}", "numbers from 0 on")
        if size <= MOST_CHOICES:
            check_room(path, COPIES * FLOAT * len(values) * size)
        return one_hot(path, values.ravel(), size), choice(size)
    if values.ndim != 2:
        n = len(values)
        expected = f"({n}, A), or ({n},) of an integer type for a choice"
        raise UserError(f"{path}: 'actions'", f"shape {values.shape} of {values.dtype}", expected)
    return values, box(values.shape[1])


def _flags(path: Path, name: str, values: NDArray[Any]) -> NDArray[np.bool_]:
    """(N,) of a column of yes and no, as booleans or numbers."""
    flat = values.ravel()
    wrong = np.flatnonzero((flat != 0) & (flat != 1))
    if wrong.size:
        raise UserError(f"{path}: '{name}'", f"{flat[wrong[0]]} in row {wrong[0]:,}", "0 or 1")
    return flat == 1


def _check_ends(path: Path, steps: Steps, told: bool) -> None:
    """Refuse a file whose episodes have no ends: the row after a time-out would count as its next observation."""
    ends = np.flatnonzero(steps.terminal | steps.timeout)
    longest = int(np.diff(np.concatenate([[-1], ends, [len(steps.reward) - 1]])).max(initial=0))
    if steps.next_obs is None and longest > ENDLESS:
        found = f"an episode of {longest:,} steps" + ("" if told else ", and no 'timeouts'")
        cure = "add 'timeouts' (True at the last step before a time limit), or the true next_observations"
        raise UserError(str(path), found, f"at most {ENDLESS:,} steps", cure)
