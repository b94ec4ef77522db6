"""The replay: rows of all environments in one ring buffer, drawn as windows of consecutive rows.

A row is what was known on arrival at a time step: the observation, the action that LED there, the reward received on
arriving (``worldrl.types``). Every tick delivers one row per environment, including resets, so environment ``e`` is one
unbroken stream, windows may cross episode borders, and ``is_first`` marks where they do.

Ticks are counted from 0 for the whole run; tick ``t`` is in slot ``t % ticks`` of the ring. Saving writes only the
ticks that are not in a chunk file yet, so its cost does not grow with the buffer.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldrl.data.chunks import read_chunk, sync_folder, write_chunk
from worldrl.data.memory import GIB, available_bytes
from worldrl.errors import UserError, wrong
from worldrl.files import damaged
from worldrl.nn.precision import choose_device
from worldrl.types import Batch, EnvSpec, Extra, Needs

CHUNK_BYTES = 2**28  # bounds the memory for reading a chunk
RECENT = 1000  # draws that can be rebuilt
GPU_HEADROOM = 2.5  # the agent, its activations and the captured graphs need room next to the replay

Columns = Mapping[str, NDArray[Any]]  # observation keys, action, reward, is_first and is_terminal, rows first


class Windows(NamedTuple):
    """Where the windows of one batch began."""

    starts: NDArray[np.int64]  # (B,) absolute tick of the first row
    envs: NDArray[np.int64]  # (B,)
    length: int


class Replay:
    """A ring of ``capacity // num_envs`` ticks x ``num_envs`` rows.

    Args:
        spec: Names, shapes and types of the observations, and the size of an action.
        capacity: Rows over all environments.
        num_envs: Rows per tick.
        device: Where the rows are stored.
        seed: Of the draws; the state of the generator is saved with the rows.

    Raises:
        UserError: It does not fit into the free memory (nothing has been allocated then).
    """

    def __init__(
        self,
        spec: EnvSpec,
        capacity: int,
        num_envs: int = 1,
        device: str | torch.device = "cpu",
        seed: int | list[int] = 0,
    ) -> None:
        self.spec = spec
        self.num_envs = num_envs
        self.ticks = capacity // num_envs
        self.device = torch.device(device)
        if self.ticks < 2:
            raise wrong("replay.capacity", capacity, f"two rows or more for each of {num_envs} environments")
        _refuse_if_too_big(spec, self.ticks * num_envs, self.device)

        rows = self.ticks * num_envs
        self._shapes = _float_shapes(spec)
        self._widths = [math.prod(shape) for shape in self._shapes.values()]
        # One matrix for all float columns: a draw is one gather and one transfer, whatever the number of keys.
        # torch.empty commits no memory before it is written.
        self._floats = torch.empty(rows, sum(self._widths), device=self.device)
        self._bytes = {
            key: torch.empty(rows, math.prod(shape), dtype=torch.uint8, device=self.device)
            for key, shape in _byte_shapes(spec).items()
        }

        self._first = self._next = 0  # the ticks held are first <= tick < next
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self.recent: deque[Windows] = deque(maxlen=RECENT)

        self._folder: Path | None = None
        self._files: list[dict[str, Any]] = []
        self._saved = 0  # every held tick below this is in a file

    def __len__(self) -> int:
        """The number of rows held, over all environments."""
        return (self._next - self._first) * self.num_envs

    @property
    def draws(self) -> Any:
        """The state of the generator of the draws; it is also saved with the rows."""
        return self._rng.bit_generator.state

    @draws.setter
    def draws(self, state: Any) -> None:
        self._rng.bit_generator.state = state

    def ready(self, length: int) -> bool:
        """Whether a window of ``length`` rows can be drawn."""
        return self._next - self._first >= length

    def add(self, rows: Columns) -> None:
        """Store one tick: arrays ``(N, ...)`` by name; other names than those of the replay are ignored.

        Raises:
            KeyError, ValueError, TypeError: A column is missing, has another size, or pixels are not uint8.
        """
        self._append(rows, 1)

    def extend(self, rows: Columns) -> None:
        """Store ``T`` ticks at once: arrays ``(T, N, ...)`` by name. The result is the same as with ``add``.

        Raises:
            KeyError, ValueError, TypeError: As ``add``; nothing has been stored then.
        """
        shape = np.shape(rows["reward"])
        if len(shape) != 2 or shape[1] != self.num_envs:
            raise ValueError(f"'reward' has shape {shape}, expected (T, {self.num_envs})")
        self._append(rows, shape[0])

    def sample(self, batch: int, length: int, to: torch.device | None = None) -> Batch:
        """Draw ``batch`` windows of ``length`` rows, uniform over all windows held.

        Args:
            batch: ``B``.
            length: ``T``.
            to: Device of the result, by default the replay's own. From CPU to CUDA the copy is pinned and asynchronous.

        Raises:
            ValueError: Fewer than ``length`` ticks are held.
        """
        windows = self._draw(batch, length, self._first)
        self.recent.append(windows)
        return self._gather(windows, to)

    def sample_extra(self, needs: Needs, length: int, lost_rows: int = 0, to: torch.device | None = None) -> Extra:
        """Draw what a head needs in addition to its slice, by the same generator; empty for a head without such needs.

        Args:
            needs: ``td_batch`` is the number of transitions in ``"td"``, rounded up to whole windows; left out until
                the replay has more rows than that. ``recent_batch`` is the number of rows (N, 1) in ``"recent"``, drawn
                from the ``recent_actions`` newest ones, without observations; with ``recent_obs`` they are whole
                windows with observations.
            length: ``T`` of the windows.
            lost_rows: leading rows of a window that the belief does not serve.
            to: Device of the result, as in ``sample``.
        """
        extra: Extra = {}
        if 0 < needs.td_batch < len(self):
            windows = self._draw(needs.td_windows(length - lost_rows), length, self._first)
            extra["td"] = self._gather(windows, to)
        if needs.recent_batch:
            rows = length if needs.recent_obs else 1
            newest = self._next - max(rows, -(-needs.recent_actions // self.num_envs))
            windows = self._draw(needs.recent_batch, rows, max(self._first, newest))
            extra["recent"] = self._gather(windows, to, obs=needs.recent_obs)
        return extra

    def kept(self, windows: Windows) -> Windows:
        """Those of these windows that are not overwritten."""
        kept = windows.starts >= self._first
        return windows._replace(starts=windows.starts[kept], envs=windows.envs[kept])

    def window(
        self, starts: NDArray[np.int64], envs: NDArray[np.int64], length: int, to: torch.device | None = None
    ) -> Batch:
        """Rebuild the windows that start at the absolute ticks ``starts`` (B,) of the environments ``envs`` (B,).

        Raises:
            ValueError: Some row has been overwritten, or has not been written yet.
        """
        starts, envs = np.asarray(starts, np.int64), np.asarray(envs, np.int64)
        if starts.min() < self._first or starts.max() + length > self._next:
            raise ValueError(
                f"windows cover the ticks {starts.min()} to {starts.max() + length - 1}; "
                f"the replay holds {self._first} to {self._next - 1}"
            )
        if envs.min() < 0 or envs.max() >= self.num_envs:
            raise ValueError(f"environments {envs.min()} to {envs.max()}; the replay has {self.num_envs}")
        return self._gather(Windows(starts, envs, length), to)

    def columns(self) -> dict[str, NDArray[Any]]:
        """All rows held, oldest first: arrays (T, N, ...) by name, on the CPU."""
        pieces = [self._arrays(start, stop) for start, stop in self._pieces(self._first, self._next)]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def save_chunks(self, folder: str | Path) -> dict[str, Any]:
        """Write the ticks added since the last call as new, immutable files.

        Returns:
            A manifest for ``load_chunks``: the files with sizes and checksums, positions and the generator's state;
            JSON-serialisable.

        Raises:
            OSError: From the file system; earlier files are untouched, and the call can be repeated.
        """
        folder = Path(folder).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if folder != self._folder:
            self._folder, self._files, self._saved = folder, [], 0
        self._files = [file for file in self._files if file["last"] > self._first]
        for start, stop in self._pieces(max(self._saved, self._first), self._next):
            self._files.append(write_chunk(folder, start, stop, self._arrays(start, stop)))
            self._saved = stop
        sync_folder(folder)
        return {
            "files": [dict(file) for file in self._files],
            "first": self._first,
            "last": self._next,
            "ticks": self.ticks,
            "num_envs": self.num_envs,
            "layout": _layout(self.spec),
            "rng": self.draws,
        }

    def load_chunks(self, folder: str | Path, manifest: Mapping[str, Any]) -> None:
        """Restore what ``save_chunks`` wrote: the same rows in the same slots and the same future draws.

        A smaller capacity than the saved one keeps the newest rows. After an error the replay is empty.

        Raises:
            UserError: A file is missing or damaged (the error names it), or the rows are from other environments.
        """
        _check_fits(self, manifest)
        folder = Path(folder).resolve()
        first, last = max(manifest["first"], manifest["last"] - self.ticks), manifest["last"]
        self._first = self._next = 0
        covered = first
        for file in manifest["files"]:
            if file["last"] <= covered:
                continue
            if file["first"] > covered:
                break
            ticks = file["last"] - file["first"]
            flat = self._flat(read_chunk(folder, file, self._chunk_shapes(ticks)), ticks)
            self._put_rows(flat, file["first"], covered, file["last"])
            covered = file["last"]
        if covered < last:
            raise damaged(folder, f"no file with the replay's tick {covered}", "one")
        self._first, self._next, self._saved = first, last, last
        self._folder, self._files = folder, [dict(file) for file in manifest["files"]]
        self.draws = manifest["rng"]

    def _chunk_shapes(self, ticks: int) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays in a file of this many ticks."""
        shapes = {**self._shapes, **{name: self.spec.obs[name].shape for name in self._bytes}}
        return {name: (ticks, self.num_envs, *shape) for name, shape in shapes.items()}

    def _draw(self, batch: int, length: int, first: int) -> Windows:
        """Windows of the ticks from ``first`` on, uniform over all of them."""
        windows = self._next - first - length + 1
        if windows < 1:
            raise ValueError(f"a window of {length} rows needs {length} ticks, the replay holds {windows + length - 1}")
        offsets, envs = np.divmod(self._rng.integers(windows * self.num_envs, size=batch), self.num_envs)
        return Windows(first + offsets, envs, length)

    def _append(self, rows: Columns, ticks: int) -> None:
        start, stop = self._next, self._next + ticks
        self._put_rows(self._flat(rows, ticks), start, max(start, stop - self.ticks), stop)
        self._next = stop
        self._first = max(self._first, stop - self.ticks)

    def _flat(self, rows: Columns, ticks: int) -> dict[str, NDArray[Any]]:
        """The columns that are kept, each (rows, width)."""
        n = ticks * self.num_envs
        flat = {name: rows[name].reshape(n, width) for name, width in zip(self._shapes, self._widths, strict=True)}
        for name, stored in self._bytes.items():
            if rows[name].dtype != np.uint8:
                raise TypeError(f"'{name}' must be uint8, got {rows[name].dtype}")
            flat[name] = rows[name].reshape(n, stored.shape[1])
        return flat

    def _put_rows(self, flat: Columns, origin: int, start: int, stop: int) -> None:
        """Put the ticks ``start <= tick < stop`` of columns that begin at tick ``origin`` into their slots."""
        for low, high in self._pieces(start, stop):
            source = slice((low - origin) * self.num_envs, (high - origin) * self.num_envs)
            slot = low % self.ticks * self.num_envs
            target = slice(slot, slot + (high - low) * self.num_envs)
            floats = [flat[name][source] for name in self._shapes]
            self._put(self._floats[target], np.concatenate(floats, axis=1, dtype=np.float32, casting="same_kind"))
            for name, stored in self._bytes.items():
                # torch.from_numpy needs contiguous memory that is not read-only.
                self._put(stored[target], np.require(flat[name][source], requirements=("C", "W")))

    def _put(self, target: Tensor, source: NDArray[Any]) -> None:
        target.copy_(upload(torch.from_numpy(source), self.device), non_blocking=True)

    def _gather(self, windows: Windows, to: torch.device | None, obs: bool = True) -> Batch:
        ticks = windows.starts[:, None] + np.arange(windows.length)
        flat = (ticks % self.ticks * self.num_envs + windows.envs[:, None]).ravel()
        index = upload(torch.from_numpy(flat), self.device)
        lead = (len(windows.starts), windows.length)
        columns = _select(self._floats, index, to).view(*lead, sum(self._widths)).split(self._widths, dim=-1)
        rows = {
            name: column.view(*lead, *shape)
            for (name, shape), column in zip(self._shapes.items(), columns, strict=True)
        }
        for name, stored in self._bytes.items() if obs else ():
            rows[name] = _select(stored, index, to).view(*lead, *self.spec.obs[name].shape)
        keys = self.spec.obs if obs else ()
        return Batch({key: rows[key] for key in keys}, *(rows[name] for name in Batch._fields[1:]))

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Cut a range of ticks where the ring wraps and where a file would get too big."""
        most = max(1, CHUNK_BYTES // (row_bytes(self.spec) * self.num_envs))
        while start < stop:
            end = min(stop, start + most, (start // self.ticks + 1) * self.ticks)
            yield start, end
            start = end

    def _arrays(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """The columns of a piece, each (ticks, N, ...); views if the replay is on the CPU."""
        low = start % self.ticks * self.num_envs
        rows = slice(low, low + (stop - start) * self.num_envs)
        lead = (stop - start, self.num_envs)
        columns = self._floats[rows].cpu().split(self._widths, dim=-1)
        arrays = {
            name: column.numpy().reshape(*lead, *shape)
            for (name, shape), column in zip(self._shapes.items(), columns, strict=True)
        }
        for name, stored in self._bytes.items():
            arrays[name] = stored[rows].cpu().numpy().reshape(*lead, *self.spec.obs[name].shape)
        return arrays


def row_bytes(spec: EnvSpec) -> int:
    """Bytes of one row."""
    floats = sum(math.prod(shape) for shape in _float_shapes(spec).values())
    return 4 * floats + sum(math.prod(shape) for shape in _byte_shapes(spec).values())


def nbytes(spec: EnvSpec, capacity: int) -> int:
    """Bytes of a replay of ``capacity`` rows."""
    return capacity * row_bytes(spec)


def choose_replay_device(
    spec: EnvSpec,
    capacity: int,
    agent_device: str | torch.device,
    setting: str = "auto",
    say: Callable[[str], None] = print,
) -> torch.device:
    """The device for the replay; prints one line with its size and place through ``say``.

    ``auto`` is the agent's GPU when ``GPU_HEADROOM`` times the replay is free there, else the CPU.
    """
    agent = torch.device(agent_device)
    size = nbytes(spec, capacity)
    device = torch.device("cpu") if setting == "auto" else choose_device(setting, "replay.device")
    if setting == "auto" and agent.type == "cuda" and size * GPU_HEADROOM < (available_bytes(agent) or 0):
        device = agent
    free = available_bytes(device)
    room = "" if free is None else f" ({free / GIB:.2f} GiB available)"
    say(f"replay: {capacity:,} rows of {row_bytes(spec):,} bytes = {size / GIB:.2f} GiB on {device}{room}")
    return device


def _byte_shapes(spec: EnvSpec) -> dict[str, tuple[int, ...]]:
    return {key: obs.shape for key, obs in spec.obs.items() if obs.dtype == "uint8"}


def _float_shapes(spec: EnvSpec) -> dict[str, tuple[int, ...]]:
    vectors = {key: obs.shape for key, obs in spec.obs.items() if obs.dtype != "uint8"}
    return {**vectors, "action": (spec.action_dim,), "reward": (), "is_first": (), "is_terminal": ()}


def _layout(spec: EnvSpec) -> dict[str, Any]:
    return {
        "obs": {key: [obs.dtype, *obs.shape] for key, obs in sorted(spec.obs.items())},
        "action": spec.action_dim,
    }


def _check_fits(replay: Replay, manifest: Mapping[str, Any]) -> None:
    expected = {"layout": _layout(replay.spec), "num_envs": replay.num_envs}
    for name, value in expected.items():
        if manifest[name] != value:
            raise UserError(f"{name} of the replay", str(value), f"{manifest[name]}, which was saved", "use that")


def upload(x: Tensor, device: torch.device) -> Tensor:
    """A copy on the device; one from pageable memory would wait for everything that is queued on a GPU."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x


def _select(stored: Tensor, index: Tensor, to: torch.device | None) -> Tensor:
    if to is None or to == stored.device:
        return stored.index_select(0, index)
    if to.type != "cuda" or stored.is_cuda:
        return stored.index_select(0, index).to(to)
    pinned = torch.empty(len(index), stored.shape[1], dtype=stored.dtype, pin_memory=True)
    return torch.index_select(stored, 0, index, out=pinned).to(to, non_blocking=True)


def _refuse_if_too_big(spec: EnvSpec, rows: int, device: torch.device) -> None:
    needed, free = nbytes(spec, rows), available_bytes(device)
    if free is not None and needed > free:
        fits = int(0.9 * free / row_bytes(spec))
        found = f"{rows:,} rows, which need {needed / GIB:.2f} GiB"
        expected = f"at most the {free / GIB:.2f} GiB that are available on {device}"
        raise UserError("replay.capacity", found, expected, f"lower replay.capacity to {fits} or less")
