"""Checkpoints: complete folders that hold the state of a run.

::

    RUN_DIR/checkpoints/step-000120000/   state.pt  replay.json  COMPLETE.json
    RUN_DIR/checkpoints/best-000100000/   state.pt  COMPLETE.json
    RUN_DIR/replay/                       rows-<first>-<last>-<crc>.npz

A folder is a checkpoint only with its marker ``COMPLETE.json``, which is written last, lists every file with its size
and checksum, and ends with a checksum of itself. Everything is written to a ``.tmp-`` folder next to it and renamed at
the end, so a kill at any moment leaves the previous checkpoint. That one, and the replay files that only it needs, are
deleted after the rename.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

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
    unreadable,
)
from worldrl.runs.exactness import version_of
from worldrl.runs.folder import CHECKPOINTS, REPLAY
from worldrl.runs.state import encode, packed, read_state, restoring

FORMAT = 2
MARKER = "COMPLETE.json"
STATE = "state.pt"
MANIFEST = "replay.json"
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
            return read_state(path / STATE, device)
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
        _write(temporary / STATE, packed(payload))
        if manifest is not None:
            _write(temporary / MANIFEST, json.dumps(manifest, indent=1).encode())
        files = [_entry(path) for path in sorted(temporary.iterdir())]
        marker = {"format": FORMAT, "worldrl": version_of("worldrl"), "frames": frames, "files": files, **extra}
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
        taken = [path.name.removeprefix(name)[1:] for path in self._all(kind) if path.name.startswith(name)]
        return self.folder / (f"{name}-{max(int(n or 0) for n in taken) + 1}" if taken else name)

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


def _write(path: Path, data: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _entry(path: Path) -> dict[str, Any]:
    size, crc = checksum(path)
    return {"name": path.name, "size": size, "crc32": crc}
