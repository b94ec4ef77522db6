"""Checkpoints: the only module that opens checkpoint files.

::

    RUN_DIR/checkpoints/step-000120000/   state.pt  replay.json  COMPLETE.json
    RUN_DIR/checkpoints/best-000100000/   state.pt  COMPLETE.json
    RUN_DIR/replay/                       rows-<first>-<last>-<crc>.npz

A folder is a checkpoint only with its marker ``COMPLETE.json``, which is written last, lists every file with its size
and checksum, and ends with a checksum of itself. Everything is written to a ``.tmp-`` folder next to it and renamed at
the end, so a kill at any moment leaves the previous checkpoint. That one, and the replay files that only it needs, are
deleted after the rename.

``state.pt`` has nested dicts, lists and tuples of tensors, NumPy arrays and Python values. It is read with
``weights_only=True``, which runs no code from the file; NumPy arrays are stored as tagged tensors. A folder may come
from anybody: it is read within bounds, and what does not fit is a one-line error (``restoring``).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from worldrl.data.chunks import prune, sync_folder
from worldrl.data.replay import Replay
from worldrl.errors import UserError
from worldrl.files import (
    MIB,
    check_content,
    checksum,
    damaged,
    is_plain_name,
    parse_json,
    read_bytes,
    read_json,
    stored_entries,
    unreadable,
)
from worldrl.nn import products
from worldrl.nn.compiler import cpp_compiler
from worldrl.runs.folder import CHECKPOINTS, REPLAY
from worldrl.runs.structure import check_pickle

FORMAT = 2
MARKER = "COMPLETE.json"
STATE = "state.pt"
MANIFEST = "replay.json"
MOST_NODES = 1_000_000  # dicts, lists, tensors and values in a state
DEEPEST = 100  # of a state; Python's own limit is near 1000
PICKLE_BYTES = 64 * MIB  # of a state without its tensors
ARRAY = "__ndarray__"
PACKAGES = ("torch", "numpy", "mujoco", "dm_control", "gymnasium")
PRODUCTS = "matrix products"  # in a fingerprint: a run resumes with the library that it began with
BEST = "eval.py --checkpoint best, or a new run with init_from=RUN_DIR init_from_checkpoint=best"  # the ways to use it

T = TypeVar("T")


class CheckpointError(UserError):
    """A checkpoint could not be written; the previous one is intact."""


class Checkpoints:
    """The checkpoints of one run: the last one and the best one.

    The run may be training: a read that fails while a newer checkpoint takes the place of the old one is repeated.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self.run_dir = Path(run_dir)
        self.folder = self.run_dir / CHECKPOINTS
        self.replay_folder = self.run_dir / REPLAY

    def save(self, frames: int, state: Mapping[str, Any], replay: Replay | None = None, done: bool = False) -> Path:
        """Write a checkpoint, then delete the previous one and the replay files that only it needed.

        Args:
            frames: Frames so far; part of the folder's name.
            state: Nested dicts with string keys, lists and tuples of tensors, NumPy arrays and Python values.
            replay: Saved next to it, or ``None``.
            done: Whether the run has ended.

        Raises:
            CheckpointError: Writing failed, for instance because the disk is full. Nothing is lost.
            TypeError: ``state`` has a value of another type; the error names its place.
        """
        payload = encode(state)
        with self._reported():
            manifest = replay.save_chunks(self.replay_folder) if replay is not None else None
            path = self._write("step", frames, payload, manifest, {"done": done})
            self._keep("step", path)
            prune(self.replay_folder, manifest or {"files": []})
        return path

    def save_best(self, frames: int, score: float, state: Mapping[str, Any]) -> Path:
        """Write a checkpoint without a replay in place of the best one so far; raises as ``save``."""
        payload = encode(state)
        with self._reported():
            path = self._write("best", frames, payload, None, {"score": score})
            self._keep("best", path)
        return path

    def latest(self) -> Path | None:
        """The newest complete checkpoint."""
        return max(self._complete("step"), key=_order, default=None)

    def frames(self) -> int | None:
        """The progress of ``latest()``."""
        return int(marker["frames"]) if (marker := self._last_marker()) else None

    def reached(self, frames: int) -> bool:
        """Whether ``latest()`` is the end of a run of at least this many frames."""
        marker = self._last_marker()
        return bool(marker.get("done")) and int(marker["frames"]) >= frames

    def best(self) -> Path | None:
        """The complete checkpoint with the highest score."""
        return self.steadily(lambda: max(self._complete("best"), key=_score, default=None))

    def find(self, which: str = "last") -> Path:
        """``latest()``, or ``best()`` if ``which`` is ``"best"``.

        Raises:
            UserError: No run folder, no checkpoint in it, or only half-written ones (named).
        """
        if not self.run_dir.is_dir():
            raise UserError(str(self.run_dir), "no folder", "the folder of a run")
        if which == "best":
            return self._find_best()
        path = self.latest()
        if path is None:
            broken = sorted(path.name for path in self._all("step"))
            found = f"only half-written checkpoints ({', '.join(broken)})" if broken else "no checkpoint"
            best = self.best()
            way_out = f"{best.name} exists: {BEST}" if best else "start the run again"
            raise UserError(str(self.folder), found, "a complete one", way_out)
        return path

    def read(self, which: str = "last", device: str | torch.device = "cpu") -> tuple[Path, dict[str, Any]]:
        """``find(which)`` and its ``load``; raises as they do."""

        def found_and_loaded() -> tuple[Path, dict[str, Any]]:
            path = self.find(which)
            return path, self.load(path, device)

        return self.steadily(found_and_loaded)

    def steadily(self, look: Callable[[], T]) -> T:
        """The result of ``look``, which is called again if it failed while newer checkpoints replaced the old ones."""
        while True:
            seen = self._complete("step") + self._complete("best")
            try:
                return look()
            except UserError:
                if self._complete("step") + self._complete("best") == seen:
                    raise

    def _last_marker(self) -> dict[str, Any]:
        def marker() -> dict[str, Any]:
            path = self.latest()
            return {} if path is None else _marker(path)

        return self.steadily(marker)

    def _find_best(self) -> Path:
        path = self.best()
        if path is None:
            raise UserError(
                str(self.folder), "no best checkpoint: nothing was evaluated after an update", fix="use last"
            )
        return path

    def load(self, path: str | Path, device: str | torch.device = "cpu") -> dict[str, Any]:
        """The state in a checkpoint, after its marker, format, sizes and checksums have been verified.

        Tensors are loaded to ``device``; optimisers with a step counter on the host need ``"cpu"``, from where
        ``load_state_dict`` copies to the right place.

        Raises:
            UserError: Half-written, another format, or a missing or damaged file (named). Nothing is changed on disk.
        """
        path = Path(path)
        try:
            verify(path)
            return _read_state(path / STATE, device)
        except UserError as error:
            raise (error if error.fix else error.also(self._way_out(path))) from None

    def _way_out(self, path: Path) -> str:
        """The fix for a user whose checkpoint ``path`` cannot be read."""
        best, last = self._readable_best(), self.latest()
        if best == path and last:
            return f"{last.name} exists too: --checkpoint last"
        if best in (None, path):
            return "restore the file, or start the run again"
        return f"{best.name} exists too: {BEST}"

    def _readable_best(self) -> Path | None:
        with contextlib.suppress(UserError):
            return self.best()
        return None

    def load_replay(self, path: str | Path, replay: Replay) -> bool:
        """Fill ``replay`` from a checkpoint; False if it was saved without a replay.

        Raises:
            UserError: As ``load``, or as ``Replay.load_chunks``.
        """
        path = Path(path)
        if not any(entry["name"] == MANIFEST for entry in verify(path)["files"]):
            return False
        manifest = read_json(path / MANIFEST)
        with restoring(path / MANIFEST):
            replay.load_chunks(self.replay_folder, manifest)
        return True

    def rows(self, path: Path) -> int:
        """The number of replay rows that were saved with a checkpoint, or 0. Raises as ``load``."""
        file = path / MANIFEST
        if not any(entry["name"] == MANIFEST for entry in _marker(path)["files"]):
            return 0
        with restoring(file):
            manifest = read_json(file)
            return int(manifest["last"] - manifest["first"]) * int(manifest["num_envs"])

    def _write(
        self, kind: str, frames: int, payload: Any, manifest: dict[str, Any] | None, extra: dict[str, Any]
    ) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_stale()
        target = self._free_name(kind, frames)
        temporary = self.folder / f".tmp-{target.name}"
        temporary.mkdir()
        # Through memory: torch hides the system's reason when a write fails.
        data = io.BytesIO()
        torch.save(payload, data)
        with _opened(temporary / STATE) as file:
            file.write(data.getbuffer())
        if manifest is not None:
            _write(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        files = [_entry(path) for path in sorted(temporary.iterdir())]
        marker = {"format": FORMAT, "worldrl": _version("worldrl"), "frames": frames, "files": files, **extra}
        _write(temporary / MARKER, seal(marker))
        sync_folder(temporary)
        temporary.rename(target)
        sync_folder(self.folder)
        return target

    def _keep(self, kind: str, path: Path) -> None:
        for other in self._all(kind):
            if other != path:
                # Without its marker a half-deleted folder is not taken for a checkpoint.
                (other / MARKER).unlink(missing_ok=True)
                shutil.rmtree(other)

    def _remove_stale(self) -> None:
        for path in self.folder.glob(".tmp-*"):
            shutil.rmtree(path)

    def _free_name(self, kind: str, frames: int) -> Path:
        """A second checkpoint at the same frame gets a suffix: a folder cannot be replaced atomically."""
        name = f"{kind}-{frames:09d}"
        path, n = self.folder / name, 0
        while path.exists():
            n += 1
            path = self.folder / f"{name}-{n}"
        return path

    def _all(self, kind: str) -> list[Path]:
        if not self.folder.is_dir():
            return []
        pattern = re.compile(rf"{kind}-\d{{9,}}(-\d+)?")
        try:
            return sorted(path for path in self.folder.iterdir() if pattern.fullmatch(path.name))
        except OSError as error:
            raise unreadable(self.folder, error) from error

    def _complete(self, kind: str) -> list[Path]:
        while True:
            listed = self._all(kind)
            try:
                complete = [path for path in listed if (path / MARKER).is_file()]
            except OSError as error:  # a folder that may not be entered
                raise unreadable(error.filename, error) from error
            if complete or listed == self._all(kind):  # not if the only one was replaced since it was listed
                return complete

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """Turn a failure to write into one line, and leave no temporary folder behind."""
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(OSError):
                self._remove_stale()
            if isinstance(error, OSError):
                last = self.latest()
                rest = f"the last complete checkpoint {last} is intact" if last else "there is no earlier checkpoint"
                raise CheckpointError(f"the checkpoint could not be written ({error}); {rest}") from error
            raise


def verify(path: Path) -> dict[str, Any]:
    """Check a checkpoint folder against its marker, and return the marker.

    Raises:
        UserError: What is wrong, with the file's name.
    """
    if not path.is_dir():
        raise UserError(str(path), "no folder", "a checkpoint such as step-000120000")
    if not (path / MARKER).is_file():
        raise UserError(f"checkpoint {path} is half-written", f"no {MARKER}", fix="use another one")
    marker = _marker(path)
    for entry in marker["files"]:
        check_content(path / entry["name"], entry["size"], entry["crc32"])
    return marker


def seal(marker: Mapping[str, Any]) -> bytes:
    """A marker's file: JSON whose last entry is the checksum of the others."""
    crc = zlib.crc32(json.dumps(marker).encode())
    return json.dumps({**marker, "crc32": crc}, indent=1).encode()


@contextlib.contextmanager
def restoring(file: Path) -> Iterator[None]:
    """Turn any error of a block that loads the contents of ``file`` into one line that names the file."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise UserError(f"{file} does not fit", _words(error), "what this version of the code wrote") from error


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _read_state(file: Path, device: str | torch.device) -> dict[str, Any]:
    """The content of ``state.pt``, which is not trusted."""
    try:
        _check_archive(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about types of tensors that we never write
            state = torch.load(file, map_location=device, weights_only=True)
        _check_tree(state)
        state = decode(state)
    except Exception as error:  # torch does not document what a foreign file can raise
        raise damaged(file, _words(error), "a state that this version wrote") from error
    if not isinstance(state, dict):
        raise damaged(file, f"a {type(state).__name__}", "a state that this version wrote")
    return state


def _check_archive(file: Path) -> None:
    """Raise ValueError unless it is an archive in torch's format, whose structure ``encode`` can have produced."""
    for entry in stored_entries(file, file.stat().st_size):
        if entry.filename.endswith(".pkl"):
            if entry.file_size > PICKLE_BYTES:
                raise ValueError(f"a structure of more than {PICKLE_BYTES:,} bytes")
            with zipfile.ZipFile(file) as archive:
                check_pickle(archive.read(entry))


def _check_tree(state: Any) -> None:
    """Raise ValueError for a state that would grow when it is loaded: too many values, too deep, too large."""
    stack, nodes = [(state, 0)], 0
    while stack:
        value, depth = stack.pop()
        nodes += 1
        if nodes > MOST_NODES or depth > DEEPEST:
            raise ValueError(f"more than {MOST_NODES:,} values, or more than {DEEPEST} inside each other")
        if isinstance(value, Tensor) and (value.layout != torch.strided or value.is_meta or _is_expanded(value)):
            raise ValueError("a tensor without the memory that it claims")
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        stack += [(item, depth + 1) for item in inside]


def _is_expanded(value: Tensor) -> bool:
    return value.nbytes > value.untyped_storage().nbytes()


def encode(value: Any, place: str = "state") -> Any:
    """``value`` with NumPy arrays as tagged tensors and NumPy scalars as Python numbers.

    Raises:
        TypeError: A value that ``weights_only`` loading would refuse; the error names its place.
    """
    if isinstance(value, Tensor):
        value = value.detach()
        # A view would write its whole storage into the file; the storage of an expanded tensor is too small.
        return value.clone() if value.untyped_storage().nbytes() != value.nbytes else value
    if isinstance(value, np.ndarray):
        return {ARRAY: torch.from_numpy(value.copy())}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {_key(key, place): encode(item, f"{place}.{key}") for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(encode(item, f"{place}[{i}]") for i, item in enumerate(value))
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"{place} is a {type(value).__name__}: a checkpoint has only tensors, arrays and Python values")


def decode(value: Any) -> Any:
    """The inverse of ``encode``."""
    if isinstance(value, dict):
        if value.keys() == {ARRAY}:
            return value[ARRAY].cpu().numpy()
        return {key: decode(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(decode(item) for item in value)
    return value


def rng_state(device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """The states of torch's default generators: the CPU's, and that of ``device`` if it is a GPU."""
    state = {"cpu": torch.get_rng_state()}
    if torch.device(device).type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: Mapping[str, Tensor], device: str | torch.device = "cpu") -> None:
    """Restore the result of ``rng_state``; a GPU's state is unchanged if there is none to restore."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def environment_fingerprint(gl: str = "", device: str | torch.device = "cpu", compiled: bool = False) -> dict[str, str]:
    """Everything outside the checkpoint that determines the last bits of a result.

    Args:
        gl: The renderer, as the rendering module names it.
        device: The agent's.
        compiled: Whether the C++ compiler has a part in it.
    """
    gpu = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "none"
    return {
        **{name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu kernels": torch.backends.cpu.get_cpu_capability(),
        PRODUCTS: products.used(),
        "torch threads": str(torch.get_num_threads()),
        "gpu": gpu,
        "renderer": gl,
        **({"C++ compiler": cpp_compiler()} if compiled else {}),
    }


def compare_fingerprint(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """One line per difference; empty if the run can resume exactly."""
    names = [*old, *(name for name in new if name not in old)]
    return [
        f"exact continuation is not guaranteed: {name} {old.get(name, 'unknown')} -> {new.get(name, 'unknown')}"
        for name in names
        if old.get(name) != new.get(name)
    ]


def _marker(path: Path) -> dict[str, Any]:
    """The content of ``COMPLETE.json``, which must be exactly as it was written."""
    file = path / MARKER
    data = read_bytes(file, MIB)
    marker = parse_json(data, file)
    if not isinstance(marker, dict) or not {"format", "worldrl", "frames", "files"} <= marker.keys():
        raise damaged(file, "something else", "a checkpoint's marker")
    sealed = data == seal({key: value for key, value in marker.items() if key != "crc32"})
    if not sealed and ("crc32" in marker or marker["format"] == FORMAT):
        raise damaged(file, "content that does not match its checksum", "every byte as it was written")
    if marker["format"] != FORMAT:  # those of format 1 have no checksum
        version = str(marker["worldrl"])[:20]
        found = f"format {str(marker['format'])[:20]} (written by worldrl {version})"
        raise UserError(f"checkpoint {path}", found, f"format {FORMAT}", f"worldrl {version} reads it")
    _check_entries(file, marker)
    return marker


def _check_entries(file: Path, marker: Mapping[str, Any]) -> None:
    """Check the contents of a marker: an intact one may still be forged."""
    with restoring(file):
        good = [is_plain_name(e["name"]) and type(e["size"]) is type(e["crc32"]) is int for e in marker["files"]]
        if not all(good) or type(marker["frames"]) is not int or type(marker.get("score", 0.0)) not in (int, float):
            raise ValueError("entries of another kind")
        if not any(entry["name"] == STATE for entry in marker["files"]):
            raise ValueError(f"no {STATE}")


def _score(path: Path) -> float:
    return float(_marker(path).get("score", -math.inf))


def _order(path: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in path.name.split("-")[1:])


def _key(key: Any, place: str) -> str | int:
    if isinstance(key, str | int):  # optimisers count their parameters
        return key
    raise TypeError(f"{place} has a key of type {type(key).__name__}: only names and numbers are allowed")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _write(path: Path, data: bytes) -> None:
    with _opened(path) as file:
        file.write(data)


def _entry(path: Path) -> dict[str, Any]:
    size, crc = checksum(path)
    return {"name": path.name, "size": size, "crc32": crc}
