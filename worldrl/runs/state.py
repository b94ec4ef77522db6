"""The state of a run as the content of a file; the only module that reads and writes torch's format.

A state has nested dicts, lists and tuples of tensors, NumPy arrays and Python values. It is read with
``weights_only=True``, which runs no code from the file; NumPy arrays are stored as tagged tensors. A file may come from
anybody: it is read within bounds, and what does not fit is a one-line error (``restoring``).
"""

from __future__ import annotations

import contextlib
import io
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldrl.errors import UserError
from worldrl.files import MIB, damaged, stored_entries
from worldrl.runs.structure import check_pickle

MOST_NODES = 1_000_000  # dicts, lists, tensors and values in a state
DEEPEST = 100  # of a state; Python's own limit is near 1000
PICKLE_BYTES = 64 * MIB  # of a state without its tensors
ARRAY = "__ndarray__"


def packed(state: Any) -> memoryview:
    """The content of a file with an encoded ``state``. It is not written by torch, which hides why a write fails."""
    data = io.BytesIO()
    torch.save(state, data)
    return data.getbuffer()


def read_state(file: Path, device: str | torch.device) -> dict[str, Any]:
    """The state in a file that is not trusted, decoded; its tensors are on ``device``."""
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


def _key(key: Any, place: str) -> str | int:
    if isinstance(key, str | int):  # optimisers count their parameters
        return key
    raise TypeError(f"{place} has a key of type {type(key).__name__}: only names and numbers are allowed")


@contextlib.contextmanager
def restoring(file: Path) -> Iterator[None]:
    """Turn any error of a block that loads the contents of ``file`` into one line that names the file."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise UserError(f"{file} does not fit", _words(error), "what this version of the code wrote") from error


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
