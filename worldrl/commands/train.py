"""``worldrl train``: every job is composed and checked once, here; Hydra launches the jobs of a sweep."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from worldrl.commands.arguments import RUN_DIR, SWEEP_DIR, CommandLine, expand, read_command_line
from worldrl.commands.launch import launch
from worldrl.compose import RUNS, compose, resumed, run_name
from worldrl.config import MAY_CHANGE, Config, config_from_dict, config_to_dict, flatten, may_change, to_yaml
from worldrl.errors import OTHER_RUN_DIR, UserError, wrong
from worldrl.presets import Arguments, own_folder, preset_for, preset_names
from worldrl.registry import known_parts
from worldrl.runs.checkpoint import Checkpoints
from worldrl.runs.folder import BEGUN, LOCK, METRICS, resume_command, sole_use
from worldrl.runs.settings import CONFIG_FILE
from worldrl.terminal import command, pasted
from worldrl.trust import allow, allowed


class Job(NamedTuple):
    """One run: its composed settings and its folder, so that another process has nothing left to compose."""

    config: Config
    run_dir: Path
    resume: bool = False
    changes: Mapping[str, Any] = {}  # of a resumed run, dotted
    allowed: tuple[str, ...] = ()  # by the user who typed the command

    def run(self, again: bool = False) -> None:
        """Train or resume; ``again``: if the folder has this run already, resume it."""
        from worldrl.training import loop

        allow(self.allowed)
        if self.resume:
            loop.resume(self.run_dir, dict(self.changes))
        elif again:
            train_or_continue(self.config, self.run_dir)
        else:
            train_anew(self.config, self.run_dir)


@command
def train_main(argv: Sequence[str]) -> int:
    """All of ``worldrl train`` and ``train.py``: check every argument of every job, then run the jobs.

    Args:
        argv: the arguments without the program's name.

    Returns:
        the exit code.
    """
    line = read_command_line(argv)
    arguments = [{}] if line.help else list(expand(line.ours))
    if line.help:
        print(help_text())
        return 0
    _refuse_unasked_sweep(line)
    jobs = [make_job(each, line) for each in arguments]
    _tell_of_presets(arguments)
    sweeps = _check_together(arguments, jobs)
    if line.multirun or line.show:  # a single run checks that itself
        from worldrl.agent import check_parts

        for job in jobs:
            check_parts(job.config)
    if line.show:
        print("---\n".join(to_yaml(job.config) for job in jobs), end="")
        return 0
    if line.multirun:
        launch(jobs, line)
    else:
        jobs[0].run(again="sweep" in arguments[0])
    for name in sweeps:
        print(f"curves and tables: {pasted('report', Path(RUNS, name))}")
    return 0


def make_job(arguments: Arguments, line: CommandLine) -> Job:
    """Compose one job of a command line. Raises UserError for invalid arguments."""
    placed = [key for key, place in ((RUN_DIR, line.run_dir), (SWEEP_DIR, line.sweep_dir)) if place]
    for key in ("resume", "sweep"):
        if key in arguments and placed:
            raise UserError(placed[0], f"{key}=, which names the run folder already", fix=f"leave out {placed[0]}")
    if "resume" in arguments:
        run_dir = Path(arguments["resume"])
        changes = {key: value for key, value in arguments.items() if key not in ("resume", "presets")}
        config = resumed(run_dir, changes)
        changes.pop("allow", None)
        return Job(config, run_dir, True, changes, allowed())
    config = compose(arguments)
    sweep = arguments.get("sweep", "")
    if sweep != "" and (not isinstance(sweep, str) or not re.fullmatch(r"\w[\w.+-]*", sweep)):
        raise wrong("sweep", sweep, "a folder name such as particles")
    folder = line.run_dir or Path(line.sweep_dir or RUNS, run_name(config, sweep))
    return Job(config, folder.absolute(), allowed=allowed())


def train(
    settings: Config | Mapping[str, Any] | None = None, run_dir: str | Path | None = None, **arguments: Any
) -> Path:
    """Train one agent, from Python as from the command line: ``train(agent="sac", task="cheetah_run", seed=2)``.

    Args:
        settings: arguments as on the command line, dotted or nested, with the presets that they name
            (``{"experiment": "quickstart", "head.units": 64}``); or finished ones, a ``Config``.
        run_dir: a new or empty folder; by default ``runs/<task>/<agent>/<seed>-<stamp>``.
        arguments: further settings, which override ``settings``.

    Returns:
        the run folder.

    Raises:
        UserError: invalid settings, or a folder that has a run.
    """
    given = arguments if isinstance(settings, Config) else {**(settings or {}), **arguments}
    for key, use in (("resume", "worldrl train resume=RUN_DIR"), ("sweep", "worldrl train -m sweep=NAME")):
        if key in given:
            raise UserError(key, "an argument of the command line only", fix=f"use {use}")
    if isinstance(settings, Config):
        config = config_from_dict({**flatten(config_to_dict(settings)), **flatten(arguments)})
    else:
        config = compose({**flatten(settings or {}), **flatten(arguments)})
    run_dir = Path(RUNS) / run_name(config) if run_dir is None else Path(run_dir).expanduser()
    train_anew(config, run_dir)
    return run_dir


def train_anew(config: Config, run_dir: Path) -> None:
    """Train in a new or empty folder. Raises UserError if there is a run in it."""
    from worldrl.training import loop

    if any((run_dir / name).exists() for name in BEGUN):
        new = "a new or empty folder"
        if Checkpoints(run_dir).latest() is None:
            if not (run_dir / METRICS).exists():
                raise UserError(str(run_dir), f"a {CONFIG_FILE}", new, OTHER_RUN_DIR)
            raise UserError(str(run_dir), "a run without a checkpoint", new, "delete it if it has ended")
        raise UserError(str(run_dir), "a run", new, f"continue it with {resume_command(run_dir, config)}")
    loop.train(config, run_dir)


def train_or_continue(config: Config, run_dir: Path) -> None:
    """One run of a sweep: train it, resume it if it has begun, and skip it if it has finished."""
    from worldrl.training import loop

    checkpoints = Checkpoints(run_dir)
    if checkpoints.latest() is None:
        with sole_use(run_dir):
            if checkpoints.best() or _has_learned(run_dir):
                raise UserError(str(run_dir), "a run that lost its last checkpoint", fix="delete it to train it again")
            _clear(run_dir)  # killed before its first checkpoint: there is nothing to resume
        train_anew(config, run_dir)
    elif checkpoints.reached(config.length):
        print(f"finished before: {run_dir}")
    else:
        changes = {key: value for key, value in flatten(config_to_dict(config)).items() if may_change(key)}
        loop.resume(run_dir, changes)


def _clear(run_dir: Path) -> None:
    """Delete a run that has only begun, its settings last. Raises UserError for a folder that has none: not a run."""
    files = [path for path in run_dir.iterdir() if path.name != LOCK]
    begun = [path for path in files if path.name != f".{CONFIG_FILE}.partial"]
    if begun and not (run_dir / CONFIG_FILE).is_file():
        raise UserError(str(run_dir), f"files without {CONFIG_FILE}", "a run, or a new or empty folder")
    for path in sorted(files, key=lambda path: path.name == CONFIG_FILE):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _has_learned(run_dir: Path) -> bool:
    """Whether a run has metrics from after its start."""
    from worldrl.runs.metrics import read_records

    path = run_dir / METRICS
    records = read_records(path)[0] if path.exists() else []
    return any(record.get(counter, 0) > 0 for record in records for counter in ("frames", "updates"))


def _check_together(arguments: Sequence[Arguments], jobs: Sequence[Job]) -> list[str]:
    """The names of the sweeps of these jobs. Raises UserError for two jobs that share a run folder."""
    seen: set[Path] = set()
    for given, job in zip(arguments, jobs, strict=True):
        if job.run_dir in seen and "sweep" in given:
            if job.config == jobs[[other.run_dir for other in jobs].index(job.run_dir)].config:
                raise UserError(f"sweep={given['sweep']}", "the same run twice", "each value once")
            found = f"two runs that differ only in {', '.join(MAY_CHANGE)}"
            raise UserError(f"sweep={given['sweep']}", found, "one value for each of these")
        if job.run_dir in seen:
            raise UserError(str(job.run_dir), "several runs", "a folder for each run")
        seen.add(job.run_dir)
    return sorted({str(given["sweep"]) for given in arguments if "sweep" in given})


def _tell_of_presets(arguments: Sequence[Arguments]) -> None:
    """Name the experiments that were made for the chosen agents."""
    chosen = dict.fromkeys((each.get("experiment"), each.get("agent"), each.get("presets")) for each in arguments)
    for experiment, agent, own in chosen:
        if name := preset_for(experiment, agent, own_folder(own)):
            print(
                f"experiment={experiment} was made for other agents; agent={agent} has experiment={name}",
                file=sys.stderr,
            )


def _refuse_unasked_sweep(line: CommandLine) -> None:
    for argument in line.ours:
        if argument.several and not line.multirun:
            raise UserError(argument.text, "several values", "one", "add -m to run each of them")
        if argument.several and line.show:
            raise UserError(argument.text, "several values", "one: --cfg shows one run")
    if line.hydra and not line.multirun:
        raise UserError(line.hydra[0], "a single run", "the jobs of a sweep", "add -m, or leave it out")
    if line.run_dir and line.multirun:
        raise UserError(RUN_DIR, "the jobs of a sweep", "a single run", f"set {SWEEP_DIR}=DIR, or leave out -m")
    if line.sweep_dir and not line.multirun:
        raise UserError(SWEEP_DIR, "a single run", "the jobs of a sweep", f"add -m, or set {RUN_DIR}=DIR")


# --- words ------------------------------------------------------------------------------------------------------------


def help_text() -> str:
    """What ``worldrl train --help`` prints."""
    own = own_folder()

    def listed(names: Sequence[str]) -> str:
        return ", ".join(names)

    return f"""\
Train an agent.   worldrl train [-m] key=value ...

  agent=NAME         {listed(preset_names("agent", own))}
  task=NAME          walker_walk, cartpole-swingup, Pendulum-v1, my_pkg.mod:MyEnv
  env=NAME           {listed(preset_names("env", own))}
  experiment=NAME    {listed(preset_names("experiment", own))}
  head=NAME          {listed(known_parts("head"))} or my_pkg.mod:MyHead, with head.FIELD=VALUE
  belief=NAME        {listed(known_parts("belief"))} or my_pkg.mod:MyBelief, with belief.FIELD=VALUE
  policy=NAME        {listed(known_parts("policy"))} or my_pkg.mod:MyPolicy, with policy.FIELD=VALUE
  seed=1  frames=1e6  device=auto  precision=auto  speed=eager|auto|compile|capture
  env.num_envs=1  env.action_repeat=2  env.render.quality=full|fast
  replay.batch=50  replay.length=50  schedule.prefill=10000  eval.every=10000
  presets=DIR        your own presets, in DIR/agent, DIR/env and DIR/experiment (default ./configs)
  init_from=RUN_DIR  start with that run's trained belief model; schedule.model_every=0 freezes it
  resume=RUN_DIR     resume a run; may change: {listed(MAY_CHANGE)}
  allow=MODULE,...   let a run folder use code that is not part of worldrl; classes in your own arguments are allowed
  hydra.run.dir=DIR  a run folder other than runs/<task>/<agent>/<seed>-<stamp>

  -m                 run every combination of comma-separated values; hydra/launcher=NAME chooses where
  sweep=NAME         write to runs/NAME; the same command again skips finished runs and resumes the others
  --cfg job          print all settings of the run, and stop

  worldrl train experiment=smoke
  worldrl train agent=smac task=walker_walk seed=1
  worldrl train agent=smac head=sac head.critic_lr=1e-3
  worldrl train -m agent=smac,latent_sac seed=0,1,2 sweep=NAME"""
