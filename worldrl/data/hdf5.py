"""HDF5 files that a stranger may have written: arrays of numbers are read, everything else is refused.

An HDF5 file can point to other files (external links, external or virtual storage) and can require a decompression
plug-in, which is code. All of that is refused.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from worldrl.errors import UserError, new_file
from worldrl.files import damaged, open_file

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SUFFIXES = (".hdf5", ".h5")
FILTERS = {1, 2, 3, 32_000}  # gzip, shuffle, checksum, lzf: those that h5py has itself
MOST = 1_000_000  # entries of a group


def write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write flat arrays, compressed, completely or not at all. Raises UserError if that fails."""
    with new_file(path) as partial, writing_hdf5(), h5py.File(partial, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values, compression="gzip")


@contextlib.contextmanager
def writing_hdf5() -> Iterator[None]:
    """Turn the error of HDF5 that closes a file on a full disk into an ``OSError``."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(errno.EIO, f"HDF5 cannot write: {error}") from error


def is_hdf5(path: Path) -> bool:
    """Whether a file begins like an HDF5 file."""
    if not path.is_file():
        return False
    with open_file(path) as file:
        return file.read(len(SIGNATURE)) == SIGNATURE


@contextlib.contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file, open for reading; an error inside the block is one line that names it."""
    open_file(path).close()
    try:
        with h5py.File(path, "r") as file:
            yield file
    except UserError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise damaged(path, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", "an HDF5 file") from error


def group(parent: h5py.Group, name: str) -> h5py.Group:
    """A group inside a group. Raises UserError if it is missing, a link or anything else."""
    found = _own(parent, name)
    if not isinstance(found, h5py.Group):
        raise damaged(_place(parent, name), "an array", "a group")
    if len(found) > MOST:
        raise damaged(_place(parent, name), f"{len(found):,} entries", f"{MOST:,} or fewer")
    return found


def shape(parent: h5py.Group, name: str) -> tuple[int, ...]:
    """The shape of an array that ``array`` would read."""
    return tuple(_dataset(parent, name).shape)


def kind(parent: h5py.Group, name: str) -> np.dtype[Any]:
    """The type of the numbers that ``array`` would read."""
    return np.dtype(_dataset(parent, name).dtype)


def array(parent: h5py.Group, name: str, most: int) -> NDArray[Any]:
    """An array of numbers inside a group, of a bounded size that fits into memory.

    Raises:
        UserError: it is missing, not an array of numbers, stored in another file, needs a plug-in, or is larger.
    """
    found = _dataset(parent, name)
    if _size(found) > most:
        raise damaged(_place(parent, name), f"shape {found.shape}", "as many rows as the other arrays have")
    return np.asarray(found[()])


def stored_shape(parent: h5py.Group, name: str) -> tuple[int, ...]:
    """The shape of an array of numbers, or of rows of bytes."""
    return tuple(_dataset(parent, name, of_bytes=True).shape)


def byte_rows(parent: h5py.Group, name: str, rows: int, most: int) -> Iterator[NDArray[np.uint8]]:
    """Rows of bytes, of one length (N, L) or of N lengths, one by one. Raises UserError as ``array``.

    Args:
        parent: the group.
        name: the array in it.
        rows: how many there must be.
        most: the largest L; rows of different lengths are never larger than the file.
    """
    found = _dataset(parent, name, of_bytes=True)
    if found.dtype.kind != "O" and (found.ndim, found.dtype) != (2, np.uint8):
        raise damaged(_place(parent, name), f"{found.dtype} of shape {found.shape}", "rows of bytes")
    if len(found) != rows or math.prod(found.shape[1:]) > most:
        raise damaged(_place(parent, name), f"shape {found.shape}", f"({rows}, at most {most:,})")
    for i in range(len(found)):
        yield np.asarray(found[i], np.uint8)


def parsed(value: Any) -> Any:
    """The value of a text attribute with JSON, or None."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(value) if isinstance(value, bytes | str) else None
    return None


def _size(found: h5py.Dataset) -> int:
    return int(found.size) * found.dtype.itemsize


def _dataset(parent: h5py.Group, name: str, of_bytes: bool = False) -> h5py.Dataset:
    found = _own(parent, name)
    if not isinstance(found, h5py.Dataset):
        raise damaged(_place(parent, name), "a group", "an array")
    if found.dtype.kind not in "biuf" and not (of_bytes and h5py.check_vlen_dtype(found.dtype) == np.uint8):
        raise damaged(_place(parent, name), f"values of type {found.dtype}", "numbers")
    if found.is_virtual or found.external:
        raise damaged(_place(parent, name), "an array in another file", "one in this file")
    plist = found.id.get_create_plist()
    filters = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
    if filters - FILTERS:
        raise damaged(_place(parent, name), f"filter {min(filters - FILTERS)}", "gzip, lzf or none", "write it again")
    return found


def _own(parent: h5py.Group, name: str) -> Any:
    link = parent.get(name, getlink=True)
    if link is None:
        raise damaged(parent.file.filename, f"no '{_path(parent, name)}'", "one")
    if not isinstance(link, h5py.HardLink):
        raise damaged(_place(parent, name), "a link", "the array itself")
    return parent[name]


def _place(parent: h5py.Group, name: str) -> str:
    return f"{parent.file.filename}: '{_path(parent, name)}'"


def _path(parent: h5py.Group, name: str) -> str:
    return f"{parent.name}/{name}".strip("/").replace("//", "/")
