"""How much memory is free: on a GPU, on this machine, and within the limits of this process's control groups."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from worldrl.errors import UserError

GIB = 2**30


def check_room(where: object, size: int, fix: str = "write fewer of its episodes into a new data set") -> None:
    """Raise UserError, which begins with ``where``, if ``size`` bytes are more than this machine has free."""
    free = available_bytes(torch.device("cpu"))
    if free is not None and size > free:
        memory = f"at most the {free / GIB:.2f} GiB that are available"
        raise UserError(str(where), f"data that need {size / GIB:,.2f} GiB to be read", memory, fix)


def available_bytes(device: torch.device) -> int | None:
    """Memory that can still be used, in bytes; ``None`` if the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = [value for value in (_meminfo(), _cgroup_room()) if value is not None]
    return min(found) if found else _sysconf()


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kib = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return kib[0] * 1024 if kib else None


def _cgroup_room(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """The least free memory under the limits of this process's control groups, version 2 or 1."""
    try:
        path = next(line[3:] for line in own.read_text().splitlines() if line.startswith("0::")).lstrip("/")
    except (OSError, StopIteration):
        path = ""
    groups = [root / path, *(root / parent for parent in Path(path).parents), root]
    pairs = [(group / "memory.max", group / "memory.current", group) for group in dict.fromkeys(groups)]
    first = root / "memory"
    pairs.append((first / "memory.limit_in_bytes", first / "memory.usage_in_bytes", first))
    rooms = []
    for limit_file, used_file, group in pairs:
        limit, used = _read_int(limit_file), _read_int(used_file)
        if limit is not None and used is not None:
            rooms.append(max(0, limit - used + _reclaimable(group)))
    return min(rooms) if rooms else None


def _reclaimable(group: Path) -> int:
    """The size of the file cache, which counts as used but can be freed."""
    try:
        lines = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def _sysconf() -> int | None:
    for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"):
        try:
            return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):  # not this system
            continue
    return None
