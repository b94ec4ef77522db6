"""The folder of a run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from worldrl.errors import UserError, writing


@contextmanager
def sole_use(run_dir: Path) -> Iterator[None]:
    """Keep other processes from training in a folder, which is made if need be; the lock ends with the process.

    Raises:
        UserError: another process trains in it, or nothing can be written there.
    """
    lock = run_dir / "lock"
    made = [folder for folder in run_dir.parents if not folder.exists()]
    with writing(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        lock.touch()
    try:
        with FileLock(lock, blocking=False):
            yield
    except Timeout:
        raise UserError(f"{run_dir} is in use by another training process; wait for it, or stop it") from None
    except UserError:
        if list(run_dir.iterdir()) in ([], [lock]):
            shutil.rmtree(run_dir)  # refused before anything was written
            for folder in made:
                with suppress(OSError):  # another run may have begun in it
                    folder.rmdir()
        raise
