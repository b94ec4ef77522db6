"""The jobs of a sweep, launched by Hydra one after another, in a pool of processes, or on a cluster.

Hydra knows a job only by its number: each was composed and checked before.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol

from worldrl.commands.arguments import SWEEP_DIR, CommandLine, first_line
from worldrl.compose import RUNS
from worldrl.errors import UserError, exit_code, unknown, writing
from worldrl.training.signals import Stopped, heeding_signals

HYDRA_CONFIG = "worldrl_train"
HYDRA_SETTINGS: dict[str, Any] = {
    "output_subdir": None,  # the run folder holds our own config.yaml
    "sweep": {"dir": RUNS, "subdir": "."},  # multirun.yaml and a launcher's own files are there
    "job": {"name": "train", "chdir": False},
}
STOPPED = "stopped"
stopped_here = False  # whether a signal has stopped a job in this process of a pool: it begins no other


class Job(Protocol):
    """One run."""

    @property
    def run_dir(self) -> Path: ...

    def run(self, again: bool) -> None:
        """Train it, or continue it if it has begun."""
        ...


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
def _sharing() -> Iterator[list[int]]:
    """Leave it to the processes of a pool to stop: each saves its run, and then the launcher returns.

    Ctrl-C reaches all of them. It is ignored here, and by processes without a job, which inherit that. SIGTERM and
    SIGHUP may be for this process only, so they are passed on, as SIGTERM: a second one does no harm. Yields those.
    """
    passed: list[int] = []

    def pass_on(number: int) -> None:
        passed.append(number)
        for child in multiprocessing.active_children():
            with suppress(ProcessLookupError):
                os.kill(child.pid or 0, signal.SIGTERM)

    with heeding_signals(pass_on):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        yield passed


def _pool_size(launcher: Any, jobs: int) -> int:
    """How many processes joblib needs; 0 without a pool.

    None of them never gets a job: a signal would end it, and the pool with it.
    """
    if "joblib" not in launcher._target_ or launcher.backend not in (None, "loky"):
        return 0
    from joblib import effective_n_jobs

    return min(effective_n_jobs(launcher.n_jobs), jobs)


def launch(jobs: Sequence[Job], line: CommandLine) -> None:
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
        size = _pool_size(composed.hydra.launcher, len(jobs))
        sized = [f"hydra.launcher.n_jobs={size}"] if size else []  # one job needs no process of its own
        sharing: AbstractContextManager[list[int]] = _sharing() if size > 1 else nullcontext([])
        with sharing as passed:
            batches = launcher.multirun(HYDRA_CONFIG, _Jobs(jobs, size > 1), [*line.hydra, *sized, numbers])
    results = [job.return_value for batch in batches or [] for job in batch]
    failed = [result for result in results if result not in ("", STOPPED)]
    if STOPPED in results:
        print(f"stopped: {results.count(STOPPED)} of {len(jobs)} runs have not ended", file=sys.stderr)
        raise Stopped(128 + (passed[0] if passed else signal.SIGINT))
    if failed:
        raise UserError("sweep", f"that {len(failed)} of {len(jobs)} runs failed: {'; '.join(failed)}")
