"""The rows of ``data=PATH``, as a run learns from them: read, scaled, selected and checked.

A path is a data set in one of the formats of ``data/formats``, or a run folder, whose replay is used.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldrl.data.bounds import Kept, advice, arguments, beyond, containing, per_entry, refuse_empty, squashed, told
from worldrl.data.episodes import Columns, Recorded, best, check_finite, extent, to_unit, with_choices
from worldrl.data.formats import format_of
from worldrl.data.memory import check_room
from worldrl.data.replay import Replay, nbytes
from worldrl.data.returns import with_return_to_go
from worldrl.data.settings import DataConfig
from worldrl.errors import UserError, counted
from worldrl.files import is_file
from worldrl.runs.checkpoint import MANIFEST, STATE, Checkpoints
from worldrl.runs.settings import CONFIG_FILE, load_config, run_folder
from worldrl.runs.state import restoring
from worldrl.runs.transfer import decode_spec
from worldrl.types import Actions, EnvSpec, box


class Rewards(NamedTuple):
    """A run learns from ``scale`` r + ``shift`` in place of the rewards r of the data and the environment."""

    scale: float = 1.0
    shift: float = 0.0

    def __call__(self, reward: NDArray[Any], is_first: NDArray[Any]) -> NDArray[Any]:
        """(rows,) float32; the first row of an episode has no reward."""
        if self == (1.0, 0.0):
            return reward
        return ((self.scale * reward + self.shift) * (1.0 - is_first)).astype(np.float32)


class Rows(NamedTuple):
    """The data that a run learns from."""

    columns: Columns  # as in the contract, with actions in [-1, 1]
    spec: EnvSpec  # of the data only
    rewards: Rewards  # their transformation
    reference: tuple[float, float] | None
    checksum: str
    episodes: int
    notes: tuple[str, ...] = ()  # remarks on how they were read


def load_rows(config: DataConfig, env: EnvSpec | None = None, returns: bool = False) -> Rows:
    """Read the data of a run.

    Args:
        config: Which data, and how to transform them.
        env: The environment's spec, if there is one: the data must match it.
        returns: Whether the return to go, in the file's rewards, is one more observation.

    Raises:
        UserError: No data set, a damaged one, one that does not fit, or rows that do not match ``config.checksum``.
    """
    path = Path(config.name)
    found = read_data(path)
    check_finite(path, found)
    if returns:
        found = found._replace(columns=with_return_to_go(found.columns))
    if env is not None:
        found = _with_choices(path, found, env)
        _check_kind(path, found.spec(), env)
        found = _with_repeat(found, env)
    found = _in_unit(path, config, found, env)
    if not extent(found.columns).steps.any():
        raise UserError(f"data={path}", "no step whose next observation is known", "one")
    columns = best(found.columns, config.top)
    rewards = _rewards(config.reward, columns)
    columns = {**columns, "reward": rewards(columns["reward"], columns["is_first"])}
    crc = checksum(columns)
    if config.checksum not in ("", crc):
        rows = f"other rows (checksum {crc} after data.top and data.reward)"
        fix = "put the old data back, or start a new run"
        raise UserError(f"data={path}", rows, f"those from before ({config.checksum})", fix)
    episodes = len(extent(columns).start)
    return Rows(columns, found.spec(), rewards, config.reference or found.reference, crc, episodes, found.notes)


def read_data(path: Path) -> Recorded:
    """A whole data set or a run's whole replay. Raises UserError for anything else."""
    folder = run_folder(path)
    return read_run(folder) if is_file(folder / CONFIG_FILE) else format_of(path).read(path)


def read_run(run_dir: Path) -> Recorded:
    """The replay of a run, one environment after another; an episode whose start was overwritten begins later.

    Raises:
        UserError: no complete checkpoint, or one without a replay.
    """
    config = load_config(run_dir)
    if config.data.name and config.data.reward != "as_is":
        found = f"data.reward={config.data.reward}: its replay holds transformed rewards"
        raise UserError(f"data={run_dir}", found, "a run with data.reward=as_is")
    checkpoints = Checkpoints(run_dir)
    if config.data.name and not config.frames:
        fix = f"use those: {config.data.name}"
        raise UserError(f"data={run_dir}", "no replay: the run learned from other rows only", "a run that acted", fix)
    replay, spec = checkpoints.steadily(lambda: _saved_replay(run_dir, checkpoints, config.env.num_envs))
    about = {"algorithm_name": f"replay of {config.agent}", "policy_run": str(run_dir), "seed": config.seed}
    return Recorded(
        _one_stream(replay.columns()),
        spec.actions,
        config.task,
        unit=True,
        action_repeat=spec.action_repeat,
        about={**about, "protocol": spec.protocol},
    )


def _saved_replay(run_dir: Path, checkpoints: Checkpoints, n: int) -> tuple[Replay, EnvSpec]:
    """The replay in a run's last checkpoint, of ``n`` environments."""
    folder, state = checkpoints.read()
    with restoring(folder / STATE):
        spec = decode_spec(state["spec"])
    fewer = "record episodes with it: worldrl data make --policy, with fewer --steps than its replay has rows"
    copies = 2 if n == 1 else 3  # the replay, and its rows one environment after another
    check_room(run_dir, copies * nbytes(spec, checkpoints.rows(folder)), fewer)
    replay = Replay(spec, max(2 * n, checkpoints.rows(folder)), n)
    if not checkpoints.load_replay(folder, replay) or not len(replay):
        raise UserError(str(run_dir), f"no replay in {folder.name}", f"one with {MANIFEST}", "checkpoint.replay=true")
    return replay, spec


def _one_stream(columns: Mapping[str, NDArray[Any]]) -> Columns:
    """(T, N, ...) -> (N T, ...): the rows of each environment begin an episode."""
    first = columns["is_first"].copy()
    first[0] = 1.0
    action = columns["action"] * (1.0 - first)[..., None]
    reward = columns["reward"] * (1.0 - first)
    whole = {**columns, "is_first": first, "action": action, "reward": reward}
    return {name: np.swapaxes(values, 0, 1).reshape(-1, *values.shape[2:]) for name, values in whole.items()}


def _with_choices(path: Path, found: Recorded, env: EnvSpec) -> Recorded:
    """Use the task's number of choices, because the file has only those that were made."""
    more = env.actions.size - found.actions.size
    if found.file_rows is None or not more or {found.actions.kind, env.actions.kind} != {"choice"}:
        return found
    if more < 0:
        row = int(found.columns["action"][:, env.actions.size :].any(1).argmax())
        number = found.columns["action"][row].argmax()
        at, expected = found.place("action", row), f"0 to {env.actions.size - 1}, as {env.task} has"
        raise UserError(f"actions of {path}", f"{number} in {at}", expected, "choose another task or data set")
    return with_choices(found, env.actions.size)


def _with_repeat(found: Recorded, env: EnvSpec) -> Recorded:
    """The data, with a remark if an action lasts longer or shorter in the task; a flat file does not say."""
    if found.file_rows is not None or found.action_repeat == env.action_repeat:
        return found
    note = f"its actions last {counted(found.action_repeat, 'frame')}, those of the task {env.action_repeat}"
    return found._replace(notes=(*found.notes, f"{note} (env.action_repeat)"))


def _in_unit(path: Path, config: DataConfig, found: Recorded, env: EnvSpec | None) -> Recorded:
    """The data with actions in [-1, 1]; bounds that are not in the file come from the settings or the task."""
    if found.unit or found.actions.kind == "choice":
        _refuse_bounds(path, config, found)
        return _with_note(found, found.actions, env)
    known = env.actions if env is not None and env.actions.low else None
    size = found.actions.size
    low = per_entry("data.low", (known.low if known else -1.0) if config.low is None else config.low, size)
    high = per_entry("data.high", (known.high if known else 1.0) if config.high is None else config.high, size)
    refuse_empty("data.low", low, "data.high", high)
    kept = Kept(known is not None or config.low is not None, known is not None or config.high is not None)
    taken = found.columns["action"][found.columns["is_first"] == 0]
    if config.low is None and (low < 0).all() and taken.size and taken.min() >= 0 and taken.max() > 0:
        raise _never_below_zero(path, taken, low, high, kept)
    if known is None:
        found = found._replace(actions=box(size, low.tolist(), high.tolist()))
    else:
        found = _with_note(found, box(size, low.tolist(), high.tolist()), env)
    one_for_all = isinstance(config.low, float) or isinstance(config.high, float)
    if one_for_all and taken.size and (note := squashed(taken, low, high)):
        found = found._replace(notes=(*found.notes, note))
    try:
        return to_unit(path, found, low, high)
    except UserError as error:
        raise error.also(advice(taken, low, high, kept)) from None


def _never_below_zero(path: Path, taken: NDArray[Any], low: NDArray[Any], high: NDArray[Any], kept: Kept) -> UserError:
    """The error for actions that may begin at 0, where nobody said what their lower bound is."""
    kept = kept._replace(low=False)
    if beyond(taken, low, high).any():
        cure = advice(taken, low, high, kept)
    else:
        those = arguments(*containing(taken, low, high, kept))
        cure = f"{those} if those are their bounds, {arguments(low, high)} if these are"
    if taken.shape[1] == 1 and (taken == taken.round()).all():
        cure += "; if they are choices, save them with .astype(int)"
    return UserError(f"actions of {path}", f"none below 0 (to {taken.max():g})", told(low, high), cure)


def _with_note(found: Recorded, given: Actions, env: EnvSpec | None) -> Recorded:
    """The data, with a remark if the task has actions of other bounds."""
    if env is None or not env.actions.low or not given.low:
        return found
    if (given.low, given.high) == (env.actions.low, env.actions.high):
        return found
    to = told(env.actions.low, env.actions.high)
    note = f"its actions, {told(given.low, given.high)}, are mapped to those of the task, {to}"
    return found._replace(notes=(*found.notes, note))


def _refuse_bounds(path: Path, config: DataConfig, found: Recorded) -> None:
    """Refuse bounds that would be ignored."""
    for key, value in (("data.low", config.low), ("data.high", config.high)):
        if value is not None:
            why = "which are choices" if found.actions.kind == "choice" else "whose bounds are known"
            text = str([*value]) if isinstance(value, tuple) else f"{value:g}"
            raise UserError(key, f"{text} for the actions of {path}, {why}", fix="leave it out")


def _rewards(name: str, columns: Columns) -> Rewards:
    """The transformation of this name: for antmaze, IQL's for MuJoCo, MISA's for kitchen and adroit."""
    if name == "minus_1":
        return Rewards(1.0, -1.0)
    if name == "antmaze":  # 4 (r - 1/2)
        return Rewards(4.0, -2.0)
    given = columns["reward"][columns["is_first"] == 0].astype(np.float64)
    if name == "min_max":  # 2 ((r - min) / (max - min) - 1/2)
        spread = np.ptp(given) or 1.0
        return Rewards(float(2.0 / spread), float(-2.0 * given.min() / spread - 1.0))
    if name == "range_1000":  # returns that differ by 1000
        found = extent(columns)
        returns = found.returns[found.steps > 0]
        if not np.ptp(returns):
            same = f"{name} for {counted(len(returns), 'episode')} with a return of {returns[0]:g}"
            raise UserError("data.reward", same, "returns that differ", "choose another transformation")
        return Rewards(float(1000.0 / np.ptp(returns)))
    return Rewards()


def _check_kind(path: Path, data: EnvSpec, env: EnvSpec) -> None:
    """Refuse data whose observations or actions differ from those of the environment."""
    for what, found, expected in (
        ("observations", _shapes(data), _shapes(env)),
        ("actions", f"{data.actions.kind} {data.actions.size}", f"{env.actions.kind} {env.actions.size}"),
    ):
        if found != expected:
            fix = "choose another task, env.obs or data set"
            if data.actions.kind != env.actions.kind and what == "actions":
                form = "(N,) of an integer type" if env.actions.kind == "choice" else "(N, A) of floats"
                fix = f"in a file, actions of a {env.actions.kind} are {form}; or choose another task"
            raise UserError(f"data={path}", f"{what} {found}", f"{expected}, as {env.task or 'the agent'} has", fix)


def _shapes(spec: EnvSpec) -> str:
    return ", ".join(f"{key} {'x'.join(map(str, obs.shape))}" for key, obs in sorted(spec.obs.items()))


def checksum(columns: Mapping[str, NDArray[Any]]) -> str:
    """The checksum of all rows, as eight hexadecimal digits."""
    crc = 0
    for name in sorted(columns):
        crc = zlib.crc32(np.ascontiguousarray(columns[name]).data, crc)
    return f"{crc:08x}"
