"""Files of rows: written once, never changed, named by their ticks and their checksum."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldrl.errors import UserError
from worldrl.files import check_content, checksum, damaged, is_plain_name, read_bytes, stored_entries

SLACK = 4096  # bytes of an archive in addition to each of its arrays


def write_chunk(folder: Path, first: int, last: int, arrays: Mapping[str, Any]) -> dict[str, Any]:
    temporary = folder / f"rows-{first:012d}.npz.tmp"
    try:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        size, crc = checksum(temporary)
        # The checksum in the name: a run that lost its replay never overwrites a file that a checkpoint names.
        name = f"rows-{first:012d}-{last:012d}-{crc:08x}.npz"
        temporary.replace(folder / name)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return {"name": name, "size": size, "crc32": crc, "first": first, "last": last}


def read_chunk(folder: Path, file: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """The arrays of a file that ``write_chunk`` described, which must have these ``shapes`` by name.

    Raises:
        UserError: The file is missing, damaged or a different one.
    """
    if not is_plain_name(file["name"]):
        raise UserError(f"the replay's list of files in {folder.parent}", repr(file["name"]), "a name in that folder")
    path = folder / file["name"]
    check_content(path, file["size"], file["crc32"])
    most = SLACK + sum(4 * math.prod(shape) + SLACK for shape in shapes.values())
    data = read_bytes(path, most)
    try:
        stored_entries(io.BytesIO(data), len(data))
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in shapes}
    except (ValueError, KeyError, OSError, EOFError, MemoryError, NotImplementedError, zipfile.BadZipFile) as error:
        raise damaged(path, f"{type(error).__name__}: {' '.join(str(error).split())}", "rows of a replay") from error
    for name, shape in shapes.items():
        if arrays[name].shape != shape or arrays[name].dtype.kind not in "fu":
            raise damaged(path, f"{name} {arrays[name].shape} {arrays[name].dtype}", f"{shape}")
    return arrays


def prune(folder: str | Path, manifest: Mapping[str, Any]) -> None:
    """Delete the chunk files in ``folder`` that ``manifest`` does not name; call this after saving that manifest."""
    keep = {file["name"] for file in manifest["files"]}
    for path in Path(folder).glob("rows-*.npz*"):
        if path.name not in keep:
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut; only POSIX systems can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
