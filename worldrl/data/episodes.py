"""Data sets as rows of the contract: an episode of ``T`` steps is ``T + 1`` rows of one stream.

Files have steps (``action[i]`` is taken in ``obs[i]``), the contract has arrivals (``worldrl.types``). Learning from a
step requires its next observation: a time limit ends an episode but is not a termination, and the observation after it
may or may not be in the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldrl.errors import UserError
from worldrl.types import Actions, EnvSpec, ObsSpec, choice

Array = NDArray[Any]
Columns = dict[str, Array]  # observation keys, action, reward, is_first, is_terminal; rows first

BLOCK = 65_536  # rows that are compared at a time
MOST_CHOICES = 10_000
FLAT = {"action": "actions", "reward": "rewards", "is_terminal": "terminals"}  # columns under their names in flat files
SLACK = 1e-3  # an action beyond its bounds by less than this is clipped, as a rounding error


class Recorded(NamedTuple):
    """A data set in memory; if ``unit`` is true, its actions are in [-1, 1] as in the contract."""

    columns: Columns  # (rows, ...)
    actions: Actions
    task: str = ""  # the environment that it comes from, if known
    reference: tuple[float, float] | None = None  # returns that score 0 and 1
    unit: bool = False
    notes: tuple[str, ...] = ()  # remarks on how it was read
    file_rows: Array | None = None  # (rows,) for a flat file: its row that has this observation or leads to it
    action_repeat: int = 1  # frames of an action
    about: Mapping[str, Any] = MappingProxyType({})  # who recorded it, with what: entries of a description

    @property
    def obs(self) -> dict[str, ObsSpec]:
        names = (name for name in self.columns if name not in ("action", "reward", "is_first", "is_terminal"))
        return {name: ObsSpec(self.columns[name].shape[1:], str(self.columns[name].dtype)) for name in names}

    def episodes(self) -> Iterator[Episode]:
        """The episodes, one by one, as they were recorded."""
        c, found = self.columns, extent(self.columns)
        for start, steps, terminal in zip(found.start, found.steps, found.terminal, strict=True):
            rows, arrivals = slice(start, start + steps + 1), slice(start + 1, start + steps + 1)
            obs = {key: c[key][rows] for key in self.obs}
            yield Episode(obs, c["action"][arrivals], c["reward"][arrivals], bool(terminal))

    def steps(self) -> Steps:
        """The data as transitions, each with its next observation."""
        first = self.columns["is_first"] > 0
        arrivals = np.flatnonzero(~first)
        ends = np.append(first[1:], True)[arrivals]
        terminal = self.columns["is_terminal"][arrivals] > 0
        return Steps(
            {key: self.columns[key][arrivals - 1] for key in self.obs},
            self.columns["action"][arrivals],
            self.columns["reward"][arrivals],
            terminal,
            ends & ~terminal,
            {key: self.columns[key][arrivals] for key in self.obs},
        )

    def place(self, name: str, row: int) -> str:
        """The place in the file of a number in a row of a column; rows and episodes are counted from 0."""
        seen = name in self.obs  # everything else is in the row of the step that led to this one
        if self.file_rows is not None:
            number = self.file_rows[row if seen else row - 1]
            led = seen and row > 0 and self.file_rows[row - 1] == number
            return f"row {number} of {'next_observations' if led else FLAT.get(name, 'observations')}"
        start = extent(self.columns).start
        episode = int(np.searchsorted(start, row, "right")) - 1
        return f"row {row - start[episode] - (not seen)} of {name}, episode {episode}"

    def in_own_units(self) -> Recorded:
        """The data with actions in the task's own units, if these are known."""
        if not self.unit or self.actions.kind == "choice" or not self.actions.low:
            return self
        low, high = np.array(self.actions.low), np.array(self.actions.high)
        return self._replace(columns=from_unit(self.columns, low, high), unit=False)

    def spec(self) -> EnvSpec:
        """The spec for an agent if there is no environment."""
        ends = bool(self.columns["is_terminal"].any())
        return EnvSpec(self.task, self.obs, self.actions, self.action_repeat, terminates=ends)


class Steps(NamedTuple):
    """A sequence of transitions, as in flat files."""

    obs: Mapping[str, Array]  # (N, ...)
    action: Array  # (N, A) taken in obs
    reward: Array  # (N,)
    terminal: Array  # (N,) bool
    timeout: Array  # (N,) bool: the episode ends here, but not by termination
    next_obs: Mapping[str, Array] | None = None  # (N, ...)


class Episode(NamedTuple):
    """One episode of ``T`` steps."""

    obs: Mapping[str, Array]  # (T + 1, ...)
    action: Array  # (T, A)
    reward: Array  # (T,)
    terminal: bool


class Layout(NamedTuple):
    """The rows for the steps of a flat file.

    Without next observations, the last step of an episode that does not terminate is left out, because its next
    observation is unknown. The row after a terminating step repeats its observation, whose value is never used.
    """

    begins_at: Array  # (N,) the row in which a step is taken
    kept: Array  # (N,) bool: whether it has a row to lead to
    last: Array  # (E,) the last step of each episode
    final: Array  # (E' <= E,) those of them that are kept

    @property
    def file_rows(self) -> Array:
        """(rows,) the step that has a row's observation, or the last step, which leads to it."""
        times = np.ones(len(self.begins_at), np.int64)
        times[self.final] += 1
        return np.repeat(np.arange(len(times)), times)


@np.errstate(over="ignore")
def is_shifted(steps: Steps) -> bool:
    """Whether ``next_obs`` is ``obs`` moved by one row, at marked ends too, where it shows the next episode."""
    ends = np.flatnonzero((steps.terminal | steps.timeout)[:-1])
    changes = any((values[ends] != values[ends + 1]).any() for values in steps.obs.values())
    if steps.next_obs is None or not changes:
        return False
    for key, following in steps.next_obs.items():  # few rows, which decide it for most files
        kind = _stored(steps.obs[key])
        if (following[ends].astype(kind) != steps.obs[key][ends + 1].astype(kind)).any():
            return False
    return not _borders(steps)[:-1].any()


def lay_out(steps: Steps) -> Layout:
    """The rows that the steps of a flat file take."""
    ends = steps.terminal | steps.timeout | _borders(steps)
    last = np.flatnonzero(ends)
    known = steps.terminal[last] | (steps.next_obs is not None)  # (E,) whether that step has a row to lead to
    episode: Array = np.cumsum(ends) - ends  # (N,) of each step
    begins_at = np.arange(len(ends)) + (np.cumsum(known) - known)[episode]
    return Layout(begins_at, ~ends | known[episode], last, last[known])


@np.errstate(over="ignore")  # of float64 beyond float32: an infinite number is named when the rows are checked
def rows_of_steps(steps: Steps, layout: Layout | None = None) -> Columns:
    """The rows of a flat file, laid out as ``lay_out`` says."""
    begins_at, kept, last, final = layout or lay_out(steps)
    arrivals = begins_at[kept] + 1
    rows = len(begins_at) + len(final)
    following = steps.obs if steps.next_obs is None else steps.next_obs
    columns: Columns = {}
    for key, values in steps.obs.items():
        columns[key] = np.empty((rows, *values.shape[1:]), _stored(values))
        columns[key][begins_at] = values
        columns[key][begins_at[final] + 1] = following[key][final]
    columns["action"] = np.zeros((rows, *steps.action.shape[1:]), np.float32)
    columns["action"][arrivals] = steps.action[kept]
    columns["reward"] = np.zeros(rows, np.float32)
    columns["reward"][arrivals] = steps.reward[kept]
    columns["is_first"] = np.zeros(rows, np.float32)
    columns["is_first"][begins_at[np.append(0, last[:-1] + 1)]] = 1.0
    columns["is_terminal"] = np.zeros(rows, np.float32)
    columns["is_terminal"][begins_at[np.flatnonzero(steps.terminal)] + 1] = 1.0
    return columns


@np.errstate(over="ignore")
def _borders(steps: Steps) -> Array:
    """(N,) bool: steps that the next one does not continue, even if not marked in the file; the last is one of them."""
    found = np.zeros(len(steps.reward), bool)
    found[-1] = True
    for key, following in (steps.next_obs or {}).items():
        kind = _stored(steps.obs[key])  # one file may have them in two precisions
        for start in range(0, len(found) - 1, BLOCK):
            stop = min(start + BLOCK, len(found) - 1)
            differs = following[start:stop].astype(kind) != steps.obs[key][start + 1 : stop + 1].astype(kind)
            found[start:stop] |= differs.reshape(stop - start, -1).any(1)
    return found


def rows_of_episodes(episodes: Iterable[Episode]) -> Columns:
    """The rows of episodes that have all their observations."""
    parts: dict[str, list[Array]] = {}
    for episode in episodes:
        for name, values in _rows_of_one(episode).items():
            parts.setdefault(name, []).append(values)
    return {name: np.concatenate(parts.pop(name)) for name in [*parts]}  # each part is freed as soon as possible


@np.errstate(over="ignore")
def _rows_of_one(episode: Episode) -> Columns:
    rows = len(episode.reward) + 1
    action, reward, first, terminal = (
        np.zeros((rows, *tail), np.float32) for tail in (episode.action.shape[1:], (), (), ())
    )
    action[1:], reward[1:], first[0], terminal[-1] = episode.action, episode.reward, 1.0, episode.terminal
    obs = {key: values.astype(_stored(values), copy=False) for key, values in episode.obs.items()}
    return {**obs, "action": action, "reward": reward, "is_first": first, "is_terminal": terminal}


def _stored(values: Array) -> np.dtype[Any]:
    """Images remain bytes, everything else becomes float."""
    return np.dtype(np.uint8 if values.dtype == np.uint8 and values.ndim == 4 else np.float32)


# --- episodes of rows -------------------------------------------------------------------------------------------------


class Extent(NamedTuple):
    """The places of a stream's episodes, and their results."""

    start: NDArray[np.int64]  # (E,) first row
    steps: NDArray[np.int64]  # (E,)
    returns: NDArray[np.float64]  # (E,) undiscounted
    terminal: NDArray[np.bool_]  # (E,)


def extent(columns: Mapping[str, Array]) -> Extent:
    """The episodes of a stream of rows that begins with a first row."""
    start = np.flatnonzero(columns["is_first"])
    stop = np.append(start[1:], len(columns["reward"]))
    returns = np.add.reduceat(columns["reward"].astype(np.float64), start)
    return Extent(start, stop - start - 1, returns, columns["is_terminal"][stop - 1] > 0)


def best(columns: Columns, share: float) -> Columns:
    """The episodes with the highest returns: this share of them, at least one, in their old order."""
    if share >= 1.0:
        return columns
    found = extent(columns)
    whole = found.steps > 0
    n = max(1, round(share * int(whole.sum())))
    kept = np.zeros(len(found.start), bool)
    kept[np.argsort(np.where(whole, -found.returns, np.inf), kind="stable")[:n]] = True
    rows = np.repeat(kept, found.steps + 1)
    return {name: values[rows] for name, values in columns.items()}


# --- actions ----------------------------------------------------------------------------------------------------------


def to_unit(where: object, data: Recorded, low: Array, high: Array, fix: str = "") -> Recorded:
    """The data with actions from [low, high] mapped to [-1, 1].

    Raises:
        UserError: An action beyond its bounds: where it is in the file, and the ``fix``.
    """
    action = data.columns["action"].astype(np.float64)
    unit = 2.0 * (action - low) / (high - low) - 1.0
    unit[data.columns["is_first"] > 0] = 0.0  # no action led there
    beyond = np.abs(unit) > 1.0 + SLACK
    if beyond.any():
        row, entry = np.argwhere(beyond)[0].tolist()
        found = f"{action[row, entry]:g} in {data.place('action', row)}, entry {entry}"
        raise UserError(f"actions of {where}", found, f"{low[entry]:g} to {high[entry]:g}", fix)
    scaled = {**data.columns, "action": np.clip(unit, -1.0, 1.0).astype(np.float32)}
    return data._replace(columns=scaled, unit=True)


def from_unit(columns: Columns, low: Array, high: Array) -> Columns:
    """The inverse of ``to_unit``; rows without an action keep their zeros."""
    led = (1.0 - columns["is_first"])[:, None]
    action = (low + (columns["action"].astype(np.float64) + 1.0) / 2.0 * (high - low)) * led
    return {**columns, "action": action.astype(np.float32)}


def one_hot(where: object, action: Array, size: int, first: int = 0) -> Array:
    """(N, size) float32, the one-hot rows of choices (N,) from ``first`` on. Raises UserError for another number."""
    if action.dtype.kind not in "iu":
        raise UserError(f"actions of {where}", f"{action.dtype} for a choice", "whole numbers, of an integer type")
    if size > MOST_CHOICES:
        raise UserError(f"actions of {where}", f"{size:,} choices", f"{MOST_CHOICES:,} or fewer")
    if len(action) and not (action.min() >= first and action.max() < first + size):
        worst = action.min() if action.min() < first else action.max()
        expected = f"{first} to {first + size - 1}" if size > 0 else f"{first} or more"
        raise UserError(f"actions of {where}", str(worst), expected)
    rows = np.zeros((len(action), size), np.float32)
    rows[np.arange(len(action)), action.astype(np.int64) - first] = 1.0
    return rows


def with_choices(data: Recorded, size: int) -> Recorded:
    """The data with actions of ``size`` choices, at least as many as it has."""
    more = size - data.actions.size
    padded = np.pad(data.columns["action"], ((0, 0), (0, more)))
    return data._replace(columns={**data.columns, "action": padded}, actions=choice(size)) if more else data


def check_finite(where: object, data: Recorded) -> None:
    """Raise UserError for the first number that is not finite."""
    for name, values in data.columns.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row, *entry = np.argwhere(~np.isfinite(values))[0].tolist()
            at = f", entry {entry[0]}" if entry else ""
            found = f"{values[(row, *entry)]} in {data.place(name, row)}{at}"
            raise UserError(str(where), found, "finite numbers of float32", "leave out the episode that has it")
