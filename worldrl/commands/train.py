"""``worldrl train``: every job is composed and checked once, here; Hydra launches the jobs of a sweep."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from worldrl.commands.arguments import RUN_DIR, SWEEP_DIR, CommandLine, expand, first_line, read_command_line
from worldrl.compose import RUNS, compose, resumed, run_name
from worldrl.config import (
    CONFIG_FILE,
    MAY_CHANGE,
    Config,
    config_from_dict,
    config_to_dict,
    flatten,
    may_change,
    to_yaml,
)
from worldrl.errors import OTHER_RUN_DIR, UserError, exit_code, unknown, writing, wrong
from worldrl.presets import Arguments, own_folder, preset_names
from worldrl.registry import known_parts
from worldrl.runs.checkpoint import Checkpoints
from worldrl.runs.folder import BEGUN, LOCK, METRICS, resume_command, sole_use
from worldrl.terminal import command, pasted
from worldrl.training.signals import Stopped, heeding_signals
from worldrl.trust import allow, allowed

HYDRA_CONFIG = "worldrl_train"
HYDRA_SETTINGS: dict[str, Any] = {
    "output_subdir": None,  # the run folder holds our own config.yaml
    "sweep": {"dir": RUNS, "subdir": "."},  # multirun.yaml and a launcher's own files are there
    "job": {"name": "train", "chdir": False},
}


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
    sweeps = _check_together(arguments, jobs)
    if line.multirun or line.show:  # a single run checks that itself
        from worldrl.agent import check_parts

        for job in jobs:
            check_parts(job.config)
    if line.show:
        print("---\n".join(to_yaml(job.config) for job in jobs), end="")
        return 0
    if line.multirun:
        _launch(jobs, line)
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
    if files and not (run_dir / CONFIG_FILE).is_file():
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


# --- Hydra ------------------------------------------------------------------------------------------------------------


STOPPED = "stopped"
stopped_here = False  # whether a signal has stopped a job in this process of a pool: it begins no other


class _Jobs:
    """The function that Hydra's launchers call, here or in another process, with the number of a job.

    ``pooled``: in processes of a pool, which dies with the first exception, and whose signals are ours (``_sharing``).
    """

    def __init__(self, jobs: Sequence[Job], pooled: bool) -> None:
        self.jobs, self.path, self.pooled = list(jobs), list(sys.path), pooled

    def __call__(self, settings: Any) -> str:
        """Run one job; returns its error, if any, so that the other jobs still run."""
        sys.path.extend(folder for folder in self.path if folder not in sys.path)  # where a user's own classes are
        job = self.jobs[settings.job]
        try:
            if self.pooled:
                return self._in_pool(job)
            job.run(again=True)
        except UserError as error:
            exit_code(error)
            return f"{job.run_dir}: {error}"
        except Exception as error:
            print(f"{job.run_dir} failed:", file=sys.stderr)
            traceback.print_exc()
            return f"{job.run_dir}: {type(error).__name__}: {error}"
        return ""

    def _in_pool(self, job: Job) -> str:
        global stopped_here
        if stopped_here:
            return STOPPED
        try:
            with heeding_signals(_stop):
                job.run(again=True)
        except (Stopped, KeyboardInterrupt):
            stopped_here = True
            return STOPPED
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # without a job: the pool would die with this process
        return ""


def _stop(number: int) -> None:
    """The answer to a signal before and after training, which has an answer of its own."""
    raise Stopped(128 + number)


@contextmanager
def _sharing() -> Iterator[None]:
    """Leave it to the processes of a pool to stop: each saves its run, and then the launcher returns.

    Ctrl-C reaches all of them. It is ignored here, and by processes without a job, which inherit that. SIGTERM and
    SIGHUP may be for this process only, so they are passed on, as Ctrl-C.
    """

    def pass_on(number: int) -> None:
        for child in multiprocessing.active_children():
            with suppress(ProcessLookupError):
                os.kill(child.pid or 0, signal.SIGINT)

    with heeding_signals(pass_on):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        yield


def _pool_size(n_jobs: int, jobs: int) -> int:
    """As many processes as ``n_jobs`` means, but none that never gets a job: a signal would end it, and the pool."""
    from joblib import effective_n_jobs

    return min(effective_n_jobs(n_jobs), jobs)


def _launch(jobs: Sequence[Job], line: CommandLine) -> None:
    """Let Hydra launch the jobs, which it knows only by number.

    Raises:
        UserError: an option that Hydra does not have, a folder that cannot be written, or runs that failed.
    """
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf.errors import OmegaConfBaseException

    folder = line.sweep_dir or Path(RUNS)
    quiet = [{"override hydra/hydra_logging": "none"}, {"override hydra/job_logging": "none"}, "_self_"]
    settings = {**HYDRA_SETTINGS, "sweep": {**HYDRA_SETTINGS["sweep"], "dir": str(folder)}}
    ConfigStore.instance().store(name=HYDRA_CONFIG, node={"defaults": quiet, "job": 0, "hydra": settings})
    numbers = f"job={','.join(map(str, range(len(jobs))))}"
    with hydra.initialize(version_base="1.3", config_path=None):
        try:
            composed = hydra.compose(HYDRA_CONFIG, overrides=list(line.hydra), return_hydra_config=True)
        except MissingConfigException as error:
            group, _, name = (error.missing_cfg_file or "").rpartition("/")
            hint = "others are plugins: pip install hydra-joblib-launcher or hydra-submitit-launcher"
            told = unknown(group, name, error.options or [])
            raise (told.also(hint) if group == "hydra/launcher" else told) from error
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError("options of Hydra itself", first_line(error)) from error
        with writing(folder, f"choose another folder with {SWEEP_DIR}=DIR"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "multirun.yaml").open("ab").close()
        launcher = GlobalHydra.instance().hydra
        assert launcher is not None
        pooled = "joblib" in str(composed.hydra.launcher._target_)
        size = [f"hydra.launcher.n_jobs={_pool_size(composed.hydra.launcher.n_jobs, len(jobs))}"] if pooled else []
        with _sharing() if pooled else nullcontext():
            batches = launcher.multirun(HYDRA_CONFIG, _Jobs(jobs, pooled), [*line.hydra, *size, numbers])
    results = [job.return_value for batch in batches or [] for job in batch]
    failed = [result for result in results if result not in ("", STOPPED)]
    if STOPPED in results:
        print(f"stopped: {results.count(STOPPED)} of {len(jobs)} runs have not ended", file=sys.stderr)
        raise Stopped(128 + signal.SIGINT)
    if failed:
        raise UserError("sweep", f"that {len(failed)} of {len(jobs)} runs failed: {'; '.join(failed)}")


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
