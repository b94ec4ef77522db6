"""Files of rows: written once, never changed, named by their ticks and their checksum."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldrl.errors import UserError


def write_chunk(folder: Path, first: int, last: int, arrays: Mapping[str, Any]) -> dict[str, Any]:
    temporary = folder / f"rows-{first:012d}.npz.tmp"
    try:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        crc, size = file_crc(temporary), temporary.stat().st_size
        # The checksum in the name: a run that lost its replay never overwrites a file that a checkpoint names.
        name = f"rows-{first:012d}-{last:012d}-{crc:08x}.npz"
        temporary.replace(folder / name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return {"name": name, "size": size, "crc32": crc, "first": first, "last": last}


def read_chunk(folder: Path, file: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    path = folder / file["name"]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"replay file {path} cannot be read: {error.strerror}") from error
    if len(data) != file["size"] or zlib.crc32(data) != file["crc32"]:
        raise UserError(f"replay file {path} is damaged: {len(data)} bytes do not match the checkpoint's checksum")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return dict(archive)
    except (ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"replay file {path} cannot be understood: {error}") from error


def prune(folder: str | Path, manifest: Mapping[str, Any]) -> None:
    """Delete the chunk files in ``folder`` that ``manifest`` does not name; call it once that manifest is safe."""
    keep = {file["name"] for file in manifest["files"]}
    for path in Path(folder).glob("rows-*.npz*"):
        if path.name not in keep:
            path.unlink(missing_ok=True)


def file_crc(path: Path) -> int:
    """CRC-32 of a file's content."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            crc = zlib.crc32(block, crc)
    return crc


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut; only POSIX systems can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
