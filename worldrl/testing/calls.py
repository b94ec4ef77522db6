"""Calls of the user's code: what goes wrong in it is told in one line, and it must not wait for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from worldrl.errors import UserError, place_of

Make = Callable[..., Any]  # a new part, with the weights of a seed


def ensure(right: bool, where: str, found: str, expected: str = "", fix: str = "") -> None:
    if not right:
        raise UserError(where, found, expected, fix)


def ensure_type(where: str, value: Any, kind: type) -> None:
    ensure(isinstance(value, kind), where, f"an object of type {type(value).__name__}", kind.__qualname__)


def maker(name: str, cls: type[Any], *args: Any) -> Make:
    def make(seed: int = 0) -> Any:
        with doing(f"{name}: __init__"):
            torch.manual_seed(seed)
            return cls(*args)

    return make


def refusal(make: Make) -> UserError | None:
    """The error by which a part refuses what it is made for, if it does; what fails for another reason is raised."""
    try:
        make()
    except UserError as error:
        if error.__cause__ is not None:
            raise
        return error
    return None


@contextmanager
def doing(where: str) -> Iterator[None]:
    """Turn any other exception of the user's code into one line, with its place."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason, place = " ".join(f"{type(error).__name__}: {error}".split()), place_of(error)
        raise UserError(where, f"{reason} ({place})" if place else reason) from error


def call(where: str, method: Callable[..., Any], *args: Any, seed: int = 2) -> Any:
    """The result of the user's code with the noise of a fixed seed; the code must not wait for a GPU."""
    torch.manual_seed(seed)
    with doing(where), _NoSync(where):
        return method(*args)


class _NoSync(TorchFunctionMode):
    """Refuses what would make the host wait for a GPU: values that Python reads, and shapes that depend on values."""

    READS = (
        *("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__complex__", "__index__"),
        *("__array__", "__contains__", "__format__", "equal"),
    )
    COUNTS = (
        *("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "allclose", "is_nonzero"),
        *("bincount", "histc"),
    )

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        waits = name in self.READS or name in self.COUNTS or _waits(name, args, kwargs)
        ensure(not waits, self.where, f"values read on the host ({name})", "tensors that stay on the device")
        masked = "an index whose size is read on the host: a boolean mask, or a slice that ends at a tensor"
        ensure(not _by_mask(name, args), self.where, masked, "weights")
        return func(*args, **kwargs)


def _waits(name: str, args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether this is a function that counts, such as ``torch.where(x)``, or ``x.to("cpu")``."""
    if name in ("tensor", "as_tensor"):
        return isinstance(args[0], list | tuple) and any(isinstance(x, Tensor) for x in args[0])
    if name == "one_hot":
        return len(args) < 2 and "num_classes" not in kwargs
    if name == "repeat_interleave":
        counts = kwargs.get("repeats", args[1] if len(args) > 1 else args[0])
        return isinstance(counts, Tensor) and kwargs.get("output_size") is None
    if name == "to":
        return "cpu" in [x for x in (*args[1:2], kwargs.get("device")) if isinstance(x, str)]
    return name == "where" and len(args) + len(kwargs) == 1


def _by_mask(name: str, args: Any) -> bool:
    """Whether this is ``x[mask]`` or ``x[: n]``, or assigns values there; one value for a mask needs no count."""
    writes_many = name == "__setitem__" and isinstance(args[2], Tensor) and args[2].dim() > 0
    if not writes_many and name != "__getitem__":
        return False
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    ends = [end for part in index if isinstance(part, slice) for end in (part.start, part.stop, part.step)]
    if any(isinstance(end, Tensor) for end in ends):
        return True
    return any(isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8) for part in index)
