"""``.npz`` archives that a stranger may have written: arrays of numbers, of bounded size, without pickles."""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldrl.errors import UserError, new_file
from worldrl.files import damaged, open_file

HEADER_BYTES = 20_000  # of an array's name, type and shape; numpy writes a few hundred
REFUSED = (  # what a damaged or foreign archive raises
    ValueError,
    OSError,
    EOFError,
    KeyError,
    MemoryError,
    OverflowError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


def read_archive(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """The arrays with these names; ``read_shapes`` returns their sizes.

    Raises:
        UserError: not an archive, one of ``needed`` is missing, or an array without numbers.
    """
    open_file(path).close()
    try:
        with np.load(path, allow_pickle=False) as archive:
            entries = archive.zip.namelist()
            missing = [name for name in needed if f"{name}.npy" not in entries]
            if missing:
                there = ", ".join(archive) or "none"
                raise UserError(
                    str(path), f"the arrays {there}", f"'{missing[0]}' in addition", "rename one, or add it"
                )
            names = [*needed, *(name for name in optional if f"{name}.npy" in entries)]
            if twice := [name for name in names if name in entries or entries.count(f"{name}.npy") > 1]:
                raise damaged(path, f"two arrays '{twice[0]}'", "one")
            arrays = {name: archive[f"{name}.npy"] for name in names}
    except REFUSED as error:
        raise _no_archive(path, error) from error
    for name, values in arrays.items():
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
            raise damaged(f"{path}: '{name}'", f"values of type {getattr(values, 'dtype', 'bytes')}", "numbers")
    return arrays


def read_shapes(path: Path, names: Sequence[str]) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of the arrays that exist; only their headers are read.

    Raises:
        UserError: not an archive, or an array without a header.
    """
    open_file(path).close()
    try:
        with zipfile.ZipFile(path) as archive:
            there = [name for name in names if f"{name}.npy" in archive.namelist()]
            return {name: _header(archive, name) for name in there}
    except REFUSED as error:
        raise _no_archive(path, error) from error


def _no_archive(path: Path, error: Exception) -> UserError:
    if "allow_pickle" in str(error):
        return UserError(str(path), "an array of Python objects", "numbers", "save it with .astype(np.float32)")
    return damaged(path, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", "an .npz archive")


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with archive.open(f"{name}.npy") as file:
        start = file.read(HEADER_BYTES)
    head = io.BytesIO(start)
    version = np.lib.format.read_magic(head)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read(head)
    return shape, kind


def write_archive(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write the arrays, compressed, completely or not at all. Raises UserError if that fails."""
    with new_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
