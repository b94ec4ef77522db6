"""``metrics.jsonl``: written, with TensorBoard events of the same keys, checked on resume, and read.

Every record has frames, agent steps, updates and the phase: ``acting``, whose time is frames, or ``data``: updates.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldrl.errors import UserError, writing
from worldrl.files import checksum, damaged, lines, parse_json
from worldrl.runs.folder import METRICS

COUNTERS = {"frames", "agent_steps", "updates", "phase"}  # in every record


class Logger:
    """Writes ``metrics.jsonl`` and, optionally, TensorBoard events into a run folder.

    Args:
        run_dir: The run's folder; created if it is missing.
        tensorboard: Also write TensorBoard events.
        resume: ``position()`` from a checkpoint: later records are cut off. ``None`` starts a new file.
        resume_frames: Frames at that checkpoint: TensorBoard hides later events.

    Raises:
        UserError: A new run in a folder that has metrics already; on resume, metrics that are missing or changed.
    """

    def __init__(
        self,
        run_dir: str | Path,
        tensorboard: bool = True,
        resume: Mapping[str, int] | None = None,
        resume_frames: int = 0,
    ) -> None:
        folder = Path(run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS
        check_place(folder, resume)
        size, self._crc = (0, 0) if resume is None else (resume["bytes"], resume["crc32"])
        with writing(path):
            self._file = path.open("ab")
            self._file.truncate(size)
        self._file.seek(0, 2)
        self._writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # takes long to import

            purge = None if resume is None else resume_frames + 1
            self._writer = SummaryWriter(str(folder), purge_step=purge)

    def write(
        self,
        frames: int,
        agent_steps: int,
        updates: int,
        metrics: Mapping[str, float],
        tensorboard: bool = True,
        now: int | None = None,
        phase: str = "acting",
    ) -> None:
        """Write one record and flush it; NaN and infinities become ``null``.

        ``now`` is TensorBoard's x axis, if it is not the frames.

        Raises:
            UserError: writing failed, for instance because the disk is full.
        """
        record: dict[str, float | str | None] = {"frames": frames, "agent_steps": agent_steps, "updates": updates}
        record["phase"] = phase
        for key, value in metrics.items():
            number = float(value)
            record[key] = number if math.isfinite(number) else None
            if self._writer is not None and tensorboard:
                self._writer.add_scalar(key, number, frames if now is None else now)
        with writing(self._file.name, "the last checkpoint is intact: make room and resume the run"):
            line = json.dumps(record, allow_nan=False).encode() + b"\n"
            self._file.write(line)
            self.flush()
            self._crc = zlib.crc32(line, self._crc)

    def position(self) -> dict[str, int]:
        """Bytes written so far, flushed to disk, and their CRC-32, for the checkpoint."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return {"bytes": self._file.tell(), "crc32": self._crc}

    def flush(self) -> None:
        self._file.flush()
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what a full disk refused before
            self._file.close()
        if self._writer is not None:
            self._writer.close()


RESTORE = (
    "put it back as it was: the run cannot resume without it; its checkpoints are intact, and worldrl eval plays them"
)


def check_place(run_dir: Path, resume: Mapping[str, int] | None) -> None:
    """Refuse a folder with metrics for a new run, and other metrics than the checkpoint's for a resumed one."""
    path = run_dir / METRICS
    if resume is not None:
        _check_metrics(path, resume)
    elif path.exists() and path.stat().st_size:
        raise UserError(str(path), "the metrics of another run", fix=f"choose a new folder, or resume={run_dir}")


def _check_metrics(path: Path, position: Mapping[str, int]) -> None:
    """Check that the file begins with exactly what was written before the checkpoint."""
    size, crc = position["bytes"], position["crc32"]
    if not size and not path.exists():
        return
    try:
        found = checksum(path, stop=size)
    except UserError as error:
        raise error.also(RESTORE) from error
    if found[0] < size:
        raise damaged(path, f"{found[0]:,} bytes", f"the {size:,} of the checkpoint", RESTORE)
    if found[1] != crc:
        raise damaged(path, "other content", f"the {size:,} bytes that were written before the checkpoint", RESTORE)


# --- reading ----------------------------------------------------------------------------------------------------------

Record = dict[str, Any]


def read_records(path: Path) -> tuple[list[Record], bool]:
    """One record per line of ``metrics.jsonl`` (empty for a blank line), and whether half a last line was ignored.

    Raises:
        UserError: a line that is not a record (the error names it), or a file that cannot be read.
    """
    records: list[Record] = []
    for number, line in enumerate(lines(path), 1):
        try:
            records.append(_record(f"{path}, line {number},", line))
        except UserError:
            if not line.endswith(b"\n"):
                return records, True
            raise
    return records, False


def _record(where: str, line: bytes) -> Record:
    record = parse_json(line, where) if line.strip() else {}
    if not isinstance(record, dict):
        raise damaged(where, f"a {type(record).__name__}", 'a record such as {"frames": 0}')
    return record
