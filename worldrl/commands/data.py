"""``worldrl data``: inspect a data set, record one, or write one in another layout."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from worldrl import __version__
from worldrl.acting.collect import Recorder, at_random, by_mode, collect, exploring
from worldrl.acting.episodes import random_return
from worldrl.acting.waypoints import SIGMA, follow, mean_return, with_new_goals
from worldrl.compose import compose
from worldrl.config import Config
from worldrl.data.bounds import OPTIONS, Kept, advice, are_few, beyond, differ, entries, per_entry, refuse_empty, told
from worldrl.data.episodes import Columns, Extent, Recorded, extent, to_unit, with_choices
from worldrl.data.formats import d4rl, minari
from worldrl.data.hdf5 import SUFFIXES
from worldrl.data.returns import RETURN_TO_GO
from worldrl.envs.make import EnvConfig
from worldrl.errors import UserError, check_writable, counted
from worldrl.origin import commit
from worldrl.report.plots import calm, check_picture, picture
from worldrl.runs.checkpoint import Checkpoints
from worldrl.runs.data import checksum, read_data
from worldrl.runs.exactness import environment_fingerprint, version_of
from worldrl.runs.settings import CONFIG_FILE, run_folder
from worldrl.runs.trained import CHECKPOINTS, check_playable, load_agent
from worldrl.terminal import Parser, add_allow, command, number, number_or_list, pasted, say, whole
from worldrl.trust import allow
from worldrl.types import Actions, box

SCRIPTED = RANDOM, WAYPOINTS = "random", "waypoints"
RANDOM_EPISODES = 100  # whose mean return scores 0
GAMES = ("ale-py", "gymnasium-robotics", "minatar")  # packages of tasks
FLAT = (".npz", *SUFFIXES)  # D4RL's layout
OTHER_FILES = (".csv", ".json", ".npy", ".parquet", ".pickle", ".pkl", ".pt", ".txt", ".zip")  # not layouts of data
JOIN, RUN = "--join", "--policy RUN_DIR"
MADE_WITH: Mapping[str, tuple[Any, tuple[str, ...]]] = {  # option -> its default, and what uses it
    "steps": (100_000, (*SCRIPTED, RUN)),
    "seed": (0, (*SCRIPTED, RUN)),
    "expert": (None, (*SCRIPTED, RUN)),
    "task": (None, SCRIPTED),
    "obs": ("state", SCRIPTED),
    "checkpoint": ("last", (RUN,)),
    "mode": (False, (WAYPOINTS, RUN)),
    "low": (None, (JOIN,)),
    "high": (None, (JOIN,)),
}
CONSTANT = 1e-6  # a column with a smaller deviation than that does not vary
UNLIKE = 1000.0  # deviations of observations that differ by a larger factor should be normalised
FAR = 100.0  # and so should those that differ from 1 by a larger factor than this


def make_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser(prog="worldrl data", description="Data sets: D4RL's layouts, Minari's, and replays of runs.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    info = commands.add_parser("info", help="what is in a data set, and what may be wrong with it")
    info.add_argument("path", type=Path, metavar="PATH")
    info.add_argument("--picture", type=Path, metavar="FILE.png", help="returns and lengths of its episodes")
    made = commands.add_parser("make", help="record a data set, or join several")
    made.add_argument("out", type=Path, metavar="OUT", help="a new folder (Minari), or a new .npz or .hdf5 file")
    made.add_argument("--policy", metavar="RUN_DIR", help=f"a trained run, '{RANDOM}', or '{WAYPOINTS}' in PointMaze")
    made.add_argument("--join", type=Path, nargs="+", metavar="PATH", help="data sets, one after another")
    made.add_argument("--steps", type=whole(), metavar="N", help="default 100000")
    made.add_argument("--seed", type=whole(0), metavar="N", help="seed of episodes and policy (default 0)")
    made.add_argument("--task", metavar="NAME", help="for a policy that is not a run; a run has its own")
    made.add_argument("--obs", choices=("state", "pixels", "both"), help="as --task (default state)")
    made.add_argument("--checkpoint", choices=CHECKPOINTS, help="of the run (default last)")
    made.add_argument("--mode", action="store_true", default=None, help="the policy's mode, without draws or noise")
    expert = f"scores 100, or '{WAYPOINTS}' for the waypoint policy's without noise; the random policy's mean scores 0"
    made.add_argument("--expert", type=_expert, metavar="RETURN", help=expert)
    converted = commands.add_parser("convert", help="write a data set, or a run's replay, in another layout")
    converted.add_argument("path", type=Path, metavar="PATH")
    converted.add_argument("out", type=Path, metavar="OUT", help="a new folder (Minari), or a new .npz or .hdf5 file")
    for each in (made, converted):
        low = "lower bound of the actions of a file: one number for all entries, or one for each (0,-1), as --high"
        each.add_argument("--low", type=number_or_list, metavar="X", help=low)
        each.add_argument("--high", type=number_or_list, metavar="X", help="a folder has them, a file has not")
    for each in (info, made, converted):
        add_allow(each)
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = make_parser().parse_args(argv)
    allow(options.allow)
    {"info": show, "make": make, "convert": convert}[options.command](options)
    return 0


# --- info -------------------------------------------------------------------------------------------------------------


def show(options: argparse.Namespace) -> None:
    """Print what a data set has, and every finding about it."""
    if options.picture:
        check_picture(options.picture)
    data = read_data(options.path)
    found = extent(data.columns)
    for name, value in facts(data, found).items():
        print(f"{name:<13} {value}")
    for finding in (*data.notes, *findings(data, found)):
        print(f"look at this  {finding}")
    if options.picture:
        draw(options.picture, options.path.name, found)
        say(f"picture: {options.picture}")


def facts(data: Recorded, found: Extent) -> dict[str, str]:
    """What a data set has, in words."""
    shapes = ", ".join(f"{key} {'x'.join(map(str, obs.shape))} {obs.dtype}" for key, obs in data.obs.items())
    reference = "unknown" if data.reference is None else "{:g} scores 0, {:g} scores 100".format(*data.reference)
    ended = int(found.terminal.sum())
    return {
        "task": data.task or "unknown",
        "observations": shapes,
        "actions": _actions(data),
        "episodes": f"{len(found.start):,}: {ended:,} terminated, {len(found.start) - ended:,} cut",
        "steps": f"{int(found.steps.sum()):,}",
        "lengths": _spread(found.steps),
        "returns": _spread(found.returns),
        "reference": reference,
        "checksum": checksum(data.columns),
    }


def _actions(data: Recorded) -> str:
    """``box 2 from -2 to 2``; without bounds, the range of what was recorded."""
    kind, actions = f"{data.actions.kind} {data.actions.size}", data.actions
    if actions.kind == "choice":
        return kind
    if actions.low:
        return f"{kind} from {told(actions.low, actions.high)}"
    taken = data.columns["action"][data.columns["is_first"] == 0]
    if not taken.size:
        return kind
    low, high = taken.min(0), taken.max(0)
    return f"{kind}, recorded from {told(low, high) if differ(low, high) else f'{low.min():g} to {high.max():g}'}"


def _spread(values: np.ndarray) -> str:
    numbers = (*np.quantile(values, [0.0, 0.5, 1.0]), values.mean())
    counts = values.dtype.kind == "i"
    low, middle, high, mean = (f"{x:,.0f}" if counts and x == int(x) else f"{x:,.1f}" for x in numbers)
    return f"{low} to {high}, median {middle}, mean {mean}"


def findings(data: Recorded, found: Extent) -> Iterator[str]:
    """What may be wrong with a data set."""
    columns = data.columns
    for key, values in columns.items():
        if values.dtype.kind == "f" and (bad := int((~np.isfinite(values)).sum())):
            first = int((~np.isfinite(values.reshape(len(values), -1))).any(1).argmax())
            yield f"{counted(bad, 'number')} of {key} not finite in float32, the first in {data.place(key, first)}"
    if data.actions.kind == "box":
        yield from _of_actions(data)
    for key, obs in data.obs.items():
        with np.errstate(invalid="ignore"):  # of entries that are not finite
            still = np.flatnonzero(_constant(columns[key])) if obs.dtype != "uint8" else np.empty(0)
        if still.size:
            some = ", ".join(map(str, still[:8])) + " ..." * (len(still) > 8)
            yield f"constant {key}: {counted(len(still), 'value')}, {some}"
        if obs.dtype != "uint8":
            yield from _of_scales(key, columns[key])
    if not columns["reward"].any():
        yield "every reward is 0"
    if len(found.start) == 1 and found.steps[0] > d4rl.ENDLESS and data.file_rows is None:
        yield f"one episode of {found.steps[0]:,} steps: are its time-outs missing?"
    if (short := int((found.steps < 1).sum())) > 0:
        yield f"{counted(short, 'episode')} without a step"


def _constant(values: np.ndarray) -> np.ndarray:
    """(D,) bool: which entries of vectors (rows, D) never change. In float32, rounding errors would hide them."""
    found: np.ndarray = values.std(0, dtype=np.float64) < CONSTANT
    return found


def _of_actions(data: Recorded) -> Iterator[str]:
    rows = np.flatnonzero(data.columns["is_first"] == 0)
    action = data.columns["action"][rows]
    if not np.isfinite(action).all() or not action.size:
        return
    low, high = np.full((2, data.actions.size), [[-1.0], [1.0]])
    if (outside := beyond(action, low, high).any(1)).any():
        n, first = int(outside.sum()), int(outside.argmax())
        at = f", the first in {data.place('action', int(rows[first]))}" if are_few(n, len(action)) else ""
        furthest = f"to {action.flat[np.abs(action).argmax()]:g}"
        yield f"{counted(n, 'action')} beyond [-1, 1] ({furthest}{at}): {advice(action, low, high)}"
    elif not data.unit:
        yield from _never_below_zero(action)
    if (still := _constant(action)).any():
        yield f"{entries(still)} of the actions: the same number in every step"


def _never_below_zero(action: np.ndarray) -> Iterator[str]:
    positive = (action.min(0) >= 0) & (action.max(0) > 0)
    if positive.all():
        yield "no action is below 0: if that is the lower bound, train with data.low=0"
    elif positive.any():
        low = ",".join(np.where(positive, "0", "-1"))
        yield f"{entries(positive)} of the actions: never below 0; if 0 is the lower bound, train with data.low=[{low}]"


def _of_scales(key: str, values: np.ndarray) -> Iterator[str]:
    """A remark on vectors that a network does not read well as they are."""
    with np.errstate(invalid="ignore"):  # of entries that are not finite
        scales = values.std(0, dtype=np.float64).ravel()
    varies = np.flatnonzero(scales >= CONSTANT)  # not those that are not finite
    if not varies.size:
        return
    small, large = (int(varies[pick(scales[varies])]) for pick in (np.argmin, np.argmax))
    if scales[large] <= UNLIKE * scales[small] and scales[small] >= 1 / FAR and scales[large] <= FAR:
        return
    span = f"{scales[small]:.2g} (value {small}) to {scales[large]:.2g} (value {large})"
    yield f"the standard deviations of {key} are {span}: data.normalize=true brings them near 1"


def draw(path: Path, name: str, found: Extent) -> None:
    """Histograms of returns and lengths."""
    with picture(path, 8.0, 3.0) as figure:
        for axes, values, label in zip(
            figure.subplots(1, 2), (found.returns, found.steps), ("return", "length (agent steps)"), strict=True
        ):
            finite = values[np.isfinite(values)]
            axes.hist(finite, bins=min(40, max(5, len(finite) // 4)), color="#0072B2")
            axes.set(xlabel=label, ylabel="episodes", title=name)
            axes.grid()
            calm(axes)


# --- make and convert -------------------------------------------------------------------------------------------------


class Source(NamedTuple):
    """Who acts, and where."""

    config: Config
    recorder: Recorder
    about: Mapping[str, Any]
    variant: str = ""  # of the task, for the recording


def make(options: argparse.Namespace) -> None:
    """Record a data set, or join several, and write it."""
    if bool(options.policy) == bool(options.join):
        raise UserError("worldrl data make", "both or neither of --policy and --join", "one of them")
    _settle(options)
    check_new(options.out)
    if options.expert is not None and options.out.suffix in FLAT:
        raise UserError(
            "--expert", f"{options.out.name}, which has no place for it", "a folder", "data.reference=[LOW,HIGH]"
        )
    if options.out.suffix in FLAT and options.obs == "both":
        raise UserError("--obs", f"both, and {options.out.name}, which has one kind of them", "a folder")
    if options.join:
        data = _bounded(joined(options.join), options)
        write(options.out, data, data.about)
        return
    source = _source(options)
    env, task, seed = source.config.env, source.config.task, options.seed
    reference = None if options.expert is None else _reference(options.expert, env, task, seed)
    columns, spec, cuts = collect(env, source.variant or task, seed, options.steps, source.recorder)
    if cuts:
        say(f"the environment cut {counted(len(cuts), 'episode')}; the last one: {cuts[-1]}")
    columns.pop(RETURN_TO_GO, None)  # what a policy was asked for is nothing that a sensor has seen
    data = Recorded(columns, spec.actions, task, reference, unit=True, action_repeat=env.action_repeat)
    games = {name: found for name in GAMES if (found := version_of(name)) != "none"}
    ours = {"worldrl": __version__, "commit": commit()}
    versions = {**ours, **environment_fingerprint(), **games}
    write(options.out, data, {**source.about, "seed": seed, "protocol": spec.protocol, "versions": versions})


def _settle(options: argparse.Namespace) -> None:
    """Set the defaults of options, and refuse options that would be ignored."""
    source = JOIN if options.join else options.policy if options.policy in SCRIPTED else RUN
    if source == RUN and not os.path.exists(run_folder(options.policy)):
        raise _no_policy(options.policy)
    for name, (usual, users) in MADE_WITH.items():
        if vars(options)[name] is None:
            setattr(options, name, usual)
        elif source not in users:
            use = f"--policy {source}" if source in SCRIPTED else source
            raise UserError(f"--{name}", f"{use}, which has no use for it", fix="leave it out")


def _expert(text: str) -> float | str:
    return text if text == WAYPOINTS else number(text)


def _reference(expert: float | str, env: EnvConfig, task: str, seed: int) -> tuple[float, float]:
    """The returns that score 0 and 100."""
    n = RANDOM_EPISODES
    high = mean_return(env, task, seed, n) if isinstance(expert, str) else expert
    say(f"{n} random episodes for the return that scores 0")
    return float(np.mean(random_return(env, task, seed, n))), high


def stored(data: Recorded) -> Recorded:
    """The return as it will be read: through the task's own units, in float32."""
    if data.actions.kind == "choice" or not data.actions.low:
        return data
    low, high = np.array(data.actions.low), np.array(data.actions.high)
    return to_unit("", data.in_own_units(), low, high)


def _source(options: argparse.Namespace) -> Source:
    if options.policy in SCRIPTED:
        return _scripted(options)
    run_dir = run_folder(options.policy)
    if not (run_dir / CONFIG_FILE).is_file():
        raise _no_policy(options.policy)
    agent, config = load_agent(run_dir, options.checkpoint, tell=say)
    check_playable(run_dir, config)
    name = f"{config.agent}, {options.checkpoint} of seed {config.seed}, {agent.updates} updates"
    recorder = by_mode(agent) if options.mode else exploring(agent, config.schedule.epsilon.end)
    weights = Checkpoints(run_dir).find(options.checkpoint).name
    about = {"algorithm_name": name, "policy_run": str(options.policy), "policy_checkpoint": weights}
    return Source(config, recorder, about)


def _no_policy(name: str) -> UserError:
    return UserError(f"--policy {name}", "no run", f"a folder of worldrl train, '{RANDOM}' or '{WAYPOINTS}'")


def _scripted(options: argparse.Namespace) -> Source:
    """A policy that was not trained."""
    if not options.task:
        raise UserError(f"--policy {options.policy}", "no task", "--task NAME")
    config = compose({"agent": "sac", "task": options.task, "env.obs": options.obs})
    if options.policy == RANDOM:
        return Source(config, at_random(options.seed), {"algorithm_name": RANDOM})
    sigma = 0.0 if options.mode else SIGMA
    name = f"waypoint controller, action noise {sigma}; a new goal whenever one is reached"
    return Source(
        config, follow(config.task, options.seed, sigma), {"algorithm_name": name}, with_new_goals(config.task)
    )


def joined(paths: Sequence[Path]) -> Recorded:
    """Data sets of one kind, one after another; the first one's task and reference.

    Raises:
        UserError: another task, action repeat, or other observations, actions or bounds than the first has.
    """
    parts = _with_equal_choices([read_data(path) for path in paths])
    first = parts[0]
    task = next((part.task for part in parts if part.task), "")
    for path, part in zip(paths, parts, strict=True):
        for what, found, expected in (
            ("task", part.task or task, task),
            ("action repeat", part.action_repeat, first.action_repeat),
            ("observations", part.obs, first.obs),
            ("actions", _told(part.actions), _told(first.actions)),
            ("actions in [-1, 1]", part.unit, first.unit),
        ):
            if found != expected:
                raise UserError(str(path), f"{what} {found}", f"{expected}, as {paths[0]} has")
    columns: Columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in first.columns}
    notes = tuple(f"{path}: {note}" for path, part in zip(paths, parts, strict=True) for note in part.notes)
    combined = [{"path": str(path), **part.about} for path, part in zip(paths, parts, strict=True)]
    return first._replace(columns=columns, task=task, notes=notes, file_rows=None, about={"combined": combined})


def _with_equal_choices(parts: Sequence[Recorded]) -> list[Recorded]:
    """Flat files know only the choices that were made: each gets as many as the largest has."""
    most = max(part.actions.size for part in parts)
    return [
        with_choices(part, most) if part.file_rows is not None and part.actions.kind == "choice" else part
        for part in parts
    ]


def _told(actions: Actions) -> str:
    bounds = f" from {[*actions.low]} to {[*actions.high]}" if actions.low else ""
    return f"{actions.kind} {actions.size}{bounds}" + (f" from {actions.first} on" if actions.first else "")


def convert(options: argparse.Namespace) -> None:
    """Read a data set and write it in another layout."""
    check_new(options.out)
    data = read_data(options.path)
    write(options.out, _bounded(data, options), {**data.about, "converted": options.path.name})


def _bounded(data: Recorded, options: argparse.Namespace) -> Recorded:
    """The data with the bounds of ``--low`` and ``--high``, which a flat file does not have."""
    given = [f"--{name}" for name in ("low", "high") if vars(options)[name] is not None]
    if not given:
        return data
    if data.unit or data.actions.low:
        raise UserError(given[0], "data whose bounds are known, or choices", fix="leave it out")
    if len(given) == 1:
        raise UserError(given[0], "one bound", "both --low and --high")
    size = data.actions.size
    low, high = per_entry("--low", options.low, size), per_entry("--high", options.high, size)
    refuse_empty("--low", low, "--high", high)
    try:
        return to_unit(options.out, data._replace(actions=box(size, low.tolist(), high.tolist())), low, high)
    except UserError as error:
        taken = data.columns["action"][data.columns["is_first"] == 0]
        raise error.also(advice(taken, low, high, Kept(True, True), OPTIONS)) from None


def check_new(out: Path) -> None:
    """Refuse a path that exists or cannot be written, before anything is recorded."""
    if os.path.lexists(out):
        raise UserError(str(out), "a file or folder", "a new one")
    if out.suffix in OTHER_FILES:
        raise UserError(str(out), f"the suffix {out.suffix}", f"a folder, or one of {', '.join(FLAT)}")
    check_writable(out)


def write(out: Path, data: Recorded, about: Mapping[str, Any]) -> None:
    """Write a data set in the layout of the file name, and print what it has.

    Remarks on how it was read are told here, because what is written does not show them.
    """
    if out.suffix in FLAT:
        d4rl.write(out, data)
    else:
        minari.write(out, data, {**about, "rows_checksum": checksum(stored(data).columns)})
    if out.suffix in FLAT and data.action_repeat > 1:
        say(f"{out.name} has no place for the action repeat: train with env.action_repeat={data.action_repeat}")
    for note in data.notes:
        say(note)
    found = extent(data.columns)
    size = f"{counted(int(found.steps.sum()), 'step')} of {counted(len(found.start), 'episode')}"
    print(f"{out}: {size}, returns {_spread(found.returns)}")
    print(f"look at it: {pasted('data', 'info', out)}")


if __name__ == "__main__":
    sys.exit(main())
