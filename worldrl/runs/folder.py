"""The folder of a run: every file name in it, and who may write there. (``config.yaml`` is named in ``config``.)"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from worldrl.config import Config
from worldrl.errors import OTHER_RUN_DIR, UserError, unwritable, writing
from worldrl.registry import PARTS
from worldrl.runs.settings import CONFIG_FILE
from worldrl.terminal import pasted
from worldrl.trust import outside, words


def resume_command(run_dir: Path, config: Config) -> str:
    """The command that resumes a run with these settings, ready to be pasted; it allows the classes that they name."""
    allowing = words(outside({"task": config.task, **{kind: getattr(config, kind)["name"] for kind in PARTS}}).values())
    return pasted("train", f"resume={run_dir}", *filter(None, [allowing]))


METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
REPLAY = "replay"
VIDEOS = "videos"
NON_FINITE = "non_finite.json"
GRID = "robustness.json"  # in the folder of a robustness grid
LOCK = "lock"
REMEDY = f"make it writable, or {OTHER_RUN_DIR}"
BEGUN = (CONFIG_FILE, METRICS, CHECKPOINTS)  # any of them means that a run has begun in a folder


@contextmanager
def sole_use(run_dir: Path) -> Iterator[None]:
    """Keep other processes from training in a folder, creating it if necessary; the lock ends with the process.

    Raises:
        UserError: another process trains in it, or it is not writable.
    """
    lock = run_dir / LOCK
    made = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
    with writing(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        _refuse_links(run_dir)
        _refuse_read_only(run_dir)
    held = FileLock(lock, blocking=False)
    try:
        held.acquire()
    except Timeout:
        raise UserError(f"{run_dir} is in use by another training process", fix="wait for it, or stop it") from None
    except OSError as error:
        raise unwritable(lock, error, REMEDY) from error
    try:
        yield
    except UserError:
        with suppress(OSError):  # another run may have begun in it
            if list(run_dir.iterdir()) == [lock]:
                lock.unlink()  # refused before anything was written
            for folder in made:
                folder.rmdir()
        raise
    finally:
        held.release()


def _refuse_read_only(run_dir: Path) -> None:
    """Refuse folders of the run that are not writable, before training and not at its first checkpoint."""
    for path in (run_dir, *(run_dir / name for name in (CHECKPOINTS, REPLAY, VIDEOS, LOCK, METRICS))):
        if path.exists() and not os.access(path, os.W_OK | os.X_OK * path.is_dir()):
            raise unwritable(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)), REMEDY)


def _refuse_links(run_dir: Path) -> None:
    """Refuse links in a folder from somebody else: we would overwrite or delete their targets."""
    for folder, folders, files in os.walk(run_dir):
        for path in (Path(folder, name) for name in (*folders, *files)):
            if path.is_symlink():
                raise UserError(str(path), "a link", "a file or folder of the run itself", "replace it by its target")
