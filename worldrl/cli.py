"""What ``train.py`` and ``eval.py`` do with their arguments.

Presets are composed here and not by Hydra's defaults list, for two reasons. A preset's settings for a part must vanish
when that part is swapped (``experiment=paper_smac head=sac`` has no use for ``head.estimator``), which a defaults list
cannot say; and every mistake must end in one line. Hydra parses the arguments and runs the jobs: sweeps and launchers
work as usual, and each job composes its settings from its own arguments, wherever it runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, OverrideType
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from worldrl.config import (
    MAY_CHANGE,
    Config,
    check_keys,
    check_same_belief,
    config_from_dict,
    config_to_dict,
    flatten,
    known_keys,
    load_config,
    may_change,
    read_yaml,
    save_config,
    to_yaml,
    with_world,
    world_of,
)
from worldrl.envs.families import canonical_name
from worldrl.errors import UserError, exit_code, unknown, unwritable
from worldrl.registry import DEFAULTS, PARTS, agent_label, canonical, known_parts, shared_fields
from worldrl.runs.folder import BEGUN, METRICS
from worldrl.terminal import Parser, command, whole

__all__ = ["compose", "config_to_dict", "eval_main", "load_config", "save_config", "train", "train_main"]

GROUPS = ("agent", "env", "experiment")  # keys whose value is the name of a preset
CHECKOUT = Path(__file__).resolve().parents[1]
RUNS = "runs"  # the folder of all run folders
PRIMARY = "worldrl_train"

Arguments = dict[str, Any]  # dotted keys, as on the command line


# --- composing --------------------------------------------------------------------------------------------------------


def compose(arguments: Mapping[str, Any], presets: Path) -> Config:
    """The settings of one run from its arguments and the presets that they name.

    Layers, each over the one before: dataclass defaults, ``train.yaml``, the ``env`` preset, the ``agent``, the
    ``experiment``, the arguments. Choices (agent, env, belief, head, policy) are made first: an argument beats an
    experiment, an experiment beats the agent it runs on, and an agent named in the arguments brings its own choices
    along. Where a preset's part is not the one chosen, its settings for that part (``head.*``) count as far as both
    inherit them.
    With ``init_from`` the task, the environment and the belief are those of that run, and only the arguments beat them.

    Raises:
        UserError: one line that names the nearest valid keys, presets, parts or values.
    """
    arguments = {key: value for key, value in arguments.items() if key != "sweep"}  # it names a folder
    base, experiment = _base(presets), _preset(presets, "experiment", arguments.get("experiment"))
    name = _first("agent", arguments, experiment, base)
    agent = _agent(presets, name)
    middle = (agent, experiment) if "agent" in arguments else (experiment, agent)
    order = (arguments, *middle, base)
    init_from = _first("init_from", *order, {"init_from": ""})
    world = world_of(init_from) if init_from else {}
    env = _preset(presets, "env", _first("env", *order))
    parts = {kind: canonical(kind, _first(kind, arguments, world, *order)) for kind in PARTS}
    meant = {**_agent(presets, experiment.get("agent")), **experiment}
    values: Arguments = {}
    for where, layer, intended in (
        ("configs/train.yaml: ", base, base),
        ("env preset: ", env, env),
        (f"agent '{name}': ", agent, agent),
        (f"experiment '{arguments.get('experiment')}': ", experiment, meant),
        ("init_from: ", world, world),
        ("env preset: ", env if "env" in arguments and world else {}, env),
        ("", arguments, {}),
    ):
        settings = _settings_for(layer, intended, parts)
        check_keys(settings, {*known_keys(parts), *GROUPS, "resume", "sweep"}, where)
        values.update(settings)
    label = agent_label(name, {kind: _first(kind, agent) for kind in PARTS}, **parts)
    config = config_from_dict({**values, **parts, "agent": label})
    if init_from:
        check_same_belief(config)
    return dataclasses.replace(config, task=canonical_name(config.task))


def _settings_for(layer: Mapping[str, Any], intended: Mapping[str, Any], parts: Mapping[str, str]) -> Arguments:
    """A layer's plain settings, without those that mean nothing to a part that was chosen instead."""
    settings = {key: value for key, value in layer.items() if key not in (*GROUPS, *PARTS)}
    for kind, chosen in parts.items():
        if kind not in intended or canonical(kind, intended[kind]) == chosen:
            continue
        shared = {f"{kind}.{name}" for name in shared_fields(kind, intended[kind], chosen)}
        settings = {k: v for k, v in settings.items() if k in shared or not k.startswith(f"{kind}.")}
    return settings


def _first(key: str, *layers: Mapping[str, Any]) -> str:
    for layer in layers:
        if key not in layer:
            continue
        if not isinstance(layer[key], str):
            raise UserError(f"{key}: found {layer[key]!r}, expected a name")
        return str(layer[key])
    raise UserError(f"no {key} is chosen; set {key}=")


def _base(presets: Path) -> Arguments:
    return {key: value for key, value in _read(presets / "train.yaml").items() if not key.startswith("hydra.")}


def _preset(presets: Path, group: str, name: Any) -> Arguments:
    """The settings of one preset; none for ``null``."""
    if name is None:
        return {}
    names = preset_names(presets, group)
    if name not in names:
        raise unknown(group, str(name), names)
    return _read(presets / group / f"{name}.yaml")


def _agent(presets: Path, name: Any) -> Arguments:
    """An agent's preset with the parts that it does not name; nothing for ``null``."""
    preset = _preset(presets, "agent", name)
    return {**DEFAULTS, **preset} if preset else preset


def preset_names(presets: Path, group: str) -> list[str]:
    """Names of the presets of ``agent``, ``env`` or ``experiment``."""
    return sorted(path.stem for path in (presets / group).glob("*.yaml"))


@functools.cache
def _read(path: Path) -> Arguments:
    """Cached for sweeps; callers must not write into it."""
    return flatten(read_yaml(path))


# --- reading arguments ------------------------------------------------------------------------------------------------


class CommandLine(NamedTuple):
    """``train.py``'s arguments, read and not yet judged."""

    ours: list[Override]
    hydra: list[str]
    multirun: bool = False
    show: bool = False
    help: bool = False


def read_command_line(argv: Sequence[str]) -> CommandLine:
    """Sort arguments into options, Hydra's own overrides and ours.

    Raises:
        UserError: an unknown option, something that is no ``key=value``, or a key given twice.
    """
    options = {"-m": "multirun", "--multirun": "multirun", "-h": "help", "--help": "help", "--cfg": "show"}
    flags: dict[str, bool] = {}
    ours: list[Override] = []
    own_to_hydra: list[str] = []
    for i, text in enumerate(argv):
        if text in options:
            flags[options[text]] = True
        elif i and argv[i - 1] == "--cfg":
            if text != "job":
                raise UserError(f"found '--cfg {text}', expected --cfg job")
        elif text.startswith("-"):
            raise UserError(f"unknown option '{text}'; expected {_and(options)}, or key=value such as task=walker_walk")
        elif text.startswith(("hydra.", "hydra/", "+hydra", "++hydra", "~hydra")):
            own_to_hydra.append(text)
        else:
            ours.append(_read_override(text))
    _refuse_twice(ours)
    return CommandLine(ours, own_to_hydra, **flags)


def _read_override(text: str) -> Override:
    if "=" not in text:
        raise UserError(f"found '{text}', expected key=value such as task=walker_walk; see --help")
    key, value = text.split("=", 1)
    if key.rstrip() != key or value.lstrip() != value:
        raise UserError(f"found '{text}', expected no blanks around =: {key.rstrip()}={value.lstrip()}")
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise UserError(f"cannot read '{text}': {_first_line(error)}; quote unusual values: 'key=\"value\"'") from error
    if override.type != OverrideType.CHANGE:
        raise UserError(f"found '{text}', expected {text.lstrip('+~')}: every setting exists, none is added or removed")
    if override.package is not None:
        raise UserError(f"found '{text}', expected a dotted key before '=', without '@'")
    return override


def _refuse_twice(overrides: Iterable[Override]) -> None:
    seen: set[str] = set()
    for override in overrides:
        key = override.key_or_group.removesuffix(".name")
        if key in seen:
            raise UserError(f"{key} is given twice; keep one of them")
        seen.add(key)


def expand(overrides: Sequence[Override]) -> Iterator[Arguments]:
    """The arguments of every job of a sweep; a single one without sweeps."""
    keys = [override.key_or_group for override in overrides]
    for values in itertools.product(*map(_values, overrides)):
        yield flatten(dict(zip(keys, values, strict=True)))


def _values(override: Override) -> list[Any]:
    if not override.is_sweep_override():
        return [override.value()]
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        return [sweep.start, sweep.end]  # a sweeper that searches draws between them
    try:
        return list(override.sweep_iterator())
    except (HydraException, AssertionError) as error:
        raise UserError(f"cannot sweep '{override.input_line}'; expected choices such as seed=1,2,3") from error


# --- running ----------------------------------------------------------------------------------------------------------


@command
def train_main(argv: Sequence[str], presets: Path = CHECKOUT / "configs") -> int:
    """All of ``train.py``: check every argument of every job, then let Hydra run the jobs.

    Args:
        argv: the arguments without the program's name.
        presets: the folder with ``train.yaml``, ``agent/``, ``env/`` and ``experiment/``.

    Returns:
        the exit code.
    """
    line = read_command_line(argv)
    if line.help:
        print(help_text(presets))
        return 0
    _refuse_unasked_sweep(line)
    jobs = list(expand(line.ours))
    settings = [check(arguments, presets, line.hydra) for arguments in jobs]
    sweeps = _sweeps(jobs, settings)
    if line.multirun or line.show:  # a single run finds out by itself
        from worldrl.agent import check_parts

        for config in settings:
            check_parts(config)
    if line.show:
        print("---\n".join(map(to_yaml, settings)), end="")
        return 0
    _store_primary(presets)
    _check_hydra(line.hydra)
    _launch(line)
    for name in sweeps:
        print(f"curves and tables: worldrl report {Path(RUNS, name)}")
    return 0


def check(arguments: Arguments, presets: Path, for_hydra: Sequence[str] = ()) -> Config:
    """The settings that a job with these arguments will run with."""
    placed = any(text.startswith(("hydra.run.dir=", "hydra.sweep.dir=", "hydra.sweep.subdir=")) for text in for_hydra)
    for key in ("resume", "sweep"):
        if key in arguments and placed:
            raise UserError(f"{key}= names the run folder already; leave out hydra.run.dir and hydra.sweep")
    return resumed(arguments) if "resume" in arguments else compose(arguments, presets)


def resumed(arguments: Mapping[str, Any]) -> Config:
    """The settings of ``resume=RUN_DIR`` with its changes. Raises UserError for a key that may not change."""
    run_dir = Path(_first("resume", arguments))
    changes = _changes(arguments)
    stored = load_config(run_dir)
    check_keys(changes, known_keys({kind: getattr(stored, kind)["name"] for kind in PARTS}) | set(GROUPS))
    for key in changes:
        if not may_change(key):
            raise UserError(
                f"{key} cannot change on resume (the run in {run_dir} has it); may change: {_and(MAY_CHANGE)}"
            )
    return load_config(run_dir, **changes)


def _changes(arguments: Mapping[str, Any]) -> Arguments:
    return {key: value for key, value in arguments.items() if key != "resume"}


def job(settings: DictConfig) -> None:
    """One job, as Hydra calls it here or in a launcher's process."""
    running = HydraConfig.get()
    try:
        (arguments,) = expand([_read_override(text.removeprefix("++")) for text in running.overrides.task])
        run_dir = Path(running.runtime.output_dir)
        if "resume" in arguments:
            resumed(arguments)
            _resume(Path(arguments["resume"]), _changes(arguments))
        elif "sweep" in arguments:
            train_or_go_on(compose(arguments, Path(settings.presets)), run_dir)
        else:
            train(compose(arguments, Path(settings.presets)), run_dir)
    except UserError as error:
        if running.mode == RunMode.MULTIRUN:
            raise  # the other jobs of the sweep go on
        raise SystemExit(exit_code(error)) from error


def train(config: Config | Mapping[str, Any], run_dir: Path | None = None) -> Path:
    """Train one agent, from Python as from the command line.

    Args:
        config: settings, or nested or dotted ones as ``config_from_dict`` takes them.
        run_dir: a new or empty folder; by default ``runs/<task>/<agent>/<seed>-<stamp>``.

    Returns:
        the run folder.

    Raises:
        UserError: wrong settings, or a folder that holds a run.
    """
    from worldrl.runs.checkpoint import Checkpoints
    from worldrl.training import loop

    config = config_from_dict(config_to_dict(config) if isinstance(config, Config) else with_world(config))
    run_dir = Path(RUNS) / run_name(config) if run_dir is None else Path(run_dir)
    if any((run_dir / name).exists() for name in BEGUN):
        if Checkpoints(run_dir).latest() is None:
            raise UserError(f"{run_dir} holds a run without a checkpoint; delete it if it has ended, or choose another")
        raise UserError(f"{run_dir} already holds a run; continue it with resume={run_dir}, or choose another folder")
    loop.train(config, run_dir)
    return run_dir


def _resume(run_dir: Path, changes: Arguments) -> None:
    from worldrl.training import loop

    loop.resume(run_dir, changes)


def train_or_go_on(config: Config, run_dir: Path) -> None:
    """One run of a named sweep: train it, resume it where it has begun, leave it alone where it has finished."""
    from worldrl.runs.checkpoint import Checkpoints
    from worldrl.runs.folder import sole_use

    checkpoints = Checkpoints(run_dir)
    if checkpoints.latest() is None:
        with sole_use(run_dir):
            if checkpoints.best() or _has_frames(run_dir):
                raise UserError(f"{run_dir} has begun but lost its last checkpoint; delete the folder to train it anew")
            shutil.rmtree(run_dir)  # killed before its first checkpoint: nothing to go on from
        train(config, run_dir)
    elif checkpoints.reached(config.frames):
        print(f"finished before: {run_dir}")
    else:
        _resume(run_dir, {key: value for key, value in flatten(config_to_dict(config)).items() if may_change(key)})


def _has_frames(run_dir: Path) -> bool:
    """Whether the metrics of a run go beyond its start."""
    from worldrl.runs.metrics import read_records

    path = run_dir / METRICS
    return path.exists() and any(record.get("frames", 0) > 0 for record in read_records(path)[0])


def run_name(config: Config, sweep: str = "") -> str:
    """``<task>/<agent>/<seed>-<stamp>``, a new one at every call; in a sweep a fixed one for the same settings.

    That is ``<sweep>/<task>/<agent>/<seed>-<digest>``, where the digest is of every setting that may not change on
    resume.
    """
    task = re.sub(r"[^\w.@+-]+", "_", config.task)
    place = f"{task}/{config.agent}/{config.seed}"
    if not sweep:
        return f"{place}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    fixed = {key: value for key, value in flatten(config_to_dict(config)).items() if not may_change(key)}
    digest = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()
    return f"{sweep}/{place}-{digest[:8]}"


def _sweeps(jobs: Sequence[Arguments], settings: Sequence[Config]) -> list[str]:
    """The names of the sweeps that these jobs belong to.

    Raises:
        UserError: a name that is no folder name, or two jobs that would share a run folder.
    """
    found: dict[str, str] = {}
    for arguments, config in zip(jobs, settings, strict=True):
        name = arguments.get("sweep")
        if name is None:
            continue
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name):
            raise UserError(f"sweep: found {name!r}, expected a folder name such as particles")
        folder = run_name(config, name)
        if folder in found:
            raise UserError(f"two runs of sweep={name} differ in nothing but {_and(MAY_CHANGE)}; choose one value each")
        found[folder] = name
    return sorted(set(found.values()))


# --- Hydra ------------------------------------------------------------------------------------------------------------


def _run_folder(root: str = "", *, _root_: DictConfig) -> str:
    """Resolver: the folder, under ``root``, of the job that ``_root_`` belongs to; absolute for a resumed run."""
    (arguments,) = expand([_read_override(text.removeprefix("++")) for text in _root_.hydra.overrides.task])
    if "resume" in arguments:
        return str(Path(arguments["resume"]).absolute())
    return str(Path(root) / run_name(compose(arguments, Path(_root_.presets)), arguments.get("sweep", "")))


# On import, because the processes of a launcher need it too.
OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)


def _store_primary(presets: Path) -> None:
    """Hand Hydra its settings. It sees our arguments as values that it passes on, so nothing else is in there."""
    quiet = [{"override hydra/hydra_logging": "none"}, {"override hydra/job_logging": "none"}, "_self_"]
    node = {"defaults": quiet, "presets": str(presets.absolute()), "hydra": read_yaml(presets / "train.yaml")["hydra"]}
    ConfigStore.instance().store(name=PRIMARY, node=node)


def _check_hydra(overrides: Sequence[str]) -> None:
    """Refuse, in one line, what Hydra would refuse of its own overrides."""
    try:
        with hydra.initialize(version_base="1.3", config_path=None):
            hydra.compose(PRIMARY, overrides=list(overrides), return_hydra_config=True)
    except MissingConfigException as error:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        hint = "; others are plugins: pip install hydra-joblib-launcher or hydra-submitit-launcher"
        found = unknown(group, name, error.options or [])
        raise UserError(f"{found}{hint if group == 'hydra/launcher' else ''}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{_first_line(error)} (an option of Hydra itself)") from error


def _launch(line: CommandLine) -> None:
    """Give the checked arguments to Hydra, each forced in as a value: ours are no keys of its own settings."""
    flags = ["--multirun"] if line.multirun else []
    arguments = [*flags, *line.hydra, *(f"++{override.input_line}" for override in line.ours)]
    with _as_command_line(arguments):
        try:
            hydra.main(version_base="1.3", config_path=None, config_name=PRIMARY)(job)()
        except HydraException as error:
            raise UserError(_first_line(error)) from error
        except OSError as error:
            if any(frame.name == job.__name__ for frame in traceback.extract_tb(error.__traceback__)):
                raise
            raise unwritable(error.filename, error) from error


@contextmanager
def _as_command_line(arguments: list[str]) -> Iterator[None]:
    """``hydra.main`` reads ``sys.argv``, and swallows exceptions unless the environment says otherwise."""
    argv, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = [argv[0], *arguments], "1"
    try:
        yield
    finally:
        sys.argv = argv
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full


def _refuse_unasked_sweep(line: CommandLine) -> None:
    for override in line.ours:
        if override.is_sweep_override() and not line.multirun:
            raise UserError(f"'{override.input_line}' is several values: add -m to run each of them")
        if override.is_sweep_override() and line.show:
            raise UserError(f"'{override.input_line}' is several values: --cfg shows one run")


# --- words ------------------------------------------------------------------------------------------------------------


def help_text(presets: Path) -> str:
    """What ``train.py --help`` prints."""
    return f"""\
Train an agent.   python train.py [-m] key=value ...

  agent=NAME         {_and(preset_names(presets, "agent"))}
  task=NAME          walker_walk, cartpole-swingup, Pendulum-v1, my_pkg.mod:MyEnv
  env=NAME           {_and(preset_names(presets, "env"))}
  experiment=NAME    {_and(preset_names(presets, "experiment"))}
  head=NAME          {_and(known_parts("head"))} or my_pkg.mod:MyHead, with head.FIELD=VALUE
  belief=NAME        {_and(known_parts("belief"))} or my_pkg.mod:MyBelief, with belief.FIELD=VALUE
  policy=NAME        {_and(known_parts("policy"))} or my_pkg.mod:MyPolicy, with policy.FIELD=VALUE
  seed=1  frames=1e6  device=auto  precision=auto  speed=eager|compile|capture
  env.num_envs=1  env.action_repeat=2  env.render.quality=full|fast
  replay.batch=50  replay.length=50  schedule.prefill=10000  eval.every=10000
  init_from=RUN_DIR  start with that run's trained belief model; schedule.model_every=0 freezes it
  resume=RUN_DIR     continue a run; may change: {_and(MAY_CHANGE)}
  hydra.run.dir=DIR  a run folder other than runs/<task>/<agent>/<seed>-<stamp>

  -m                 run every combination of comma-separated values; hydra/launcher=NAME says where
  sweep=NAME         into runs/NAME; the same command again skips what has finished and goes on with the rest
  --cfg job          print all settings of the run, and stop

  python train.py experiment=smoke
  python train.py agent=smac task=walker_walk seed=1
  python train.py agent=smac head=sac head.critic_lr=1e-3
  python train.py -m agent=smac,latent_sac seed=0,1,2 sweep=NAME"""


def _and(names: Iterable[str]) -> str:
    return ", ".join(names)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


# --- evaluating -------------------------------------------------------------------------------------------------------


PLAIN_ONLY = {"seed": "--seed", "json_path": "--json"}
GRID_ONLY = {"levels": "--level", "seeds": "--seeds", "num_envs": "--envs", "groups": "--groups", "out": "--out"}


@command
def eval_main(argv: Sequence[str]) -> int:
    """All of ``eval.py``: evaluate one run folder, plainly or over a grid of corruptions. Returns the exit code."""
    options = vars(_eval_parser().parse_args(argv))
    load_config(options["run_dir"])
    if "corruptions" in options:
        _evaluate_grid(options)
    else:
        _evaluate(options)
    return 0


def _evaluate(options: dict[str, Any]) -> None:
    from worldrl.evaluation.evaluate import evaluate_run, told

    _refuse_options(options, GRID_ONLY, "is for a grid of corruptions: name them with --corruption")
    if options.get("video") is True:
        raise UserError("--video needs the PATH of a file here, such as episode.mp4")
    print(told(evaluate_run(**options)))


def _evaluate_grid(options: dict[str, Any]) -> None:
    from worldrl.evaluation.robustness import evaluate_grid

    _refuse_options(options, PLAIN_ONLY, "does not go with --corruption: there are --seeds, and --out for all files")
    if options.get("video", True) is not True:
        raise UserError("--video takes no PATH with --corruption: videos go where the other files go, see --out")
    evaluate_grid(**options)


def _refuse_options(options: Mapping[str, Any], refused: Mapping[str, str], why: str) -> None:
    for name in options:
        if name in refused:
            raise UserError(f"{refused[name]} {why}")


def _eval_parser() -> argparse.ArgumentParser:
    """Options that are not given are not in the result: defaults are those of the functions that take them."""
    parser = Parser(
        prog="eval.py",
        description="Evaluate a trained agent over fresh seeded episodes, or with --corruption over a grid of noise.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("run_dir", type=Path, metavar="RUN_DIR", help="a folder that train.py wrote")
    add("--episodes", type=whole(), help="how many, for each seed and cell of a grid (default 10)")
    add("--seed", type=whole(0), help="of the episodes, not of the run (default 1000)")
    add("--checkpoint", choices=("last", "best"), help="default last")
    add("--sample", action="store_true", dest="explore", help="sample the policy; without it, its mode")
    add("--video", nargs="?", type=Path, const=True, metavar="PATH", help="write the first episode here")
    add("--device", help="auto, cpu, cuda or cuda:N (default auto)")
    add("--json", type=Path, dest="json_path", metavar="PATH", help="write the numbers here")
    grid = parser.add_argument_group("robustness grid", "Every kind at every level, and clean. docs/robustness.md")
    add = grid.add_argument
    add("--corruption", nargs="+", dest="corruptions", metavar="KIND", help="gaussian, missing, ... (see the page)")
    add("--level", nargs="+", type=float, dest="levels", metavar="X", help="levels, larger is worse; clean is included")
    add("--seeds", nargs="+", type=whole(0), metavar="N", help="of the episodes (default 1000)")
    add("--groups", nargs="+", metavar="NAME", help="corrupt these sensors only, such as velocity (default all)")
    add("--envs", type=whole(), dest="num_envs", metavar="N", help="environments side by side (default 8)")
    add("--out", type=Path, metavar="DIR", help="for table, plot and videos (default RUN_DIR/robustness)")
    return parser
