"""Files that somebody else may have written or damaged: read within bounds, or refused by an error that names the file.

Nothing here blocks (a pipe is not a file), and nothing allocates more than the caller's bound.
"""

from __future__ import annotations

import json
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from worldrl.errors import UserError

MIB = 2**20
BLOCK = MIB  # bytes of a read
TEXT_BYTES = 16 * MIB  # of a JSON file, unless its reader knows better
LINE_BYTES = MIB


def open_file(path: Path) -> BinaryIO:
    """A regular file, open for reading. Folders, pipes, devices and dangling links are refused without waiting.

    Raises:
        UserError: there is no such file, or it cannot be opened.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UserError(str(path), "a folder, a pipe or a device", "a file")
    return os.fdopen(handle, "rb")


def is_file(path: Path) -> bool:
    """Whether this is a file; not for a name that is too long or a folder that may not be read."""
    try:
        return path.is_file()
    except OSError:
        return False


def unreadable(path: object, error: OSError) -> UserError:
    """The error for a file that cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        return UserError(str(path), "no such file")
    return UserError(f"cannot read {path}", error.strerror or str(error))


def damaged(path: object, found: str, expected: str = "", fix: str = "") -> UserError:
    """The error for a file that is damaged or was not written by this package."""
    return UserError(f"{path} is damaged", found, expected, fix)


def read_bytes(path: Path, most: int = TEXT_BYTES) -> bytes:
    """A file's content.

    Raises:
        UserError: as ``open_file``, or the file has more than ``most`` bytes.
    """
    with open_file(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            data = file.read(most + 1) if size <= most else b""
        except OSError as error:
            raise unreadable(path, error) from error
    if size > most or len(data) > most:
        raise damaged(path, f"{max(size, len(data)):,} bytes", f"{most:,} or fewer")
    return data


def read_text(path: Path, most: int = TEXT_BYTES) -> str:
    """A file's content as UTF-8; raises as ``read_bytes``."""
    try:
        return read_bytes(path, most).decode()
    except UnicodeDecodeError as error:
        raise damaged(path, "bytes that are not text", "UTF-8") from error


def read_json(path: Path, most: int = TEXT_BYTES) -> Any:
    """The value in a JSON file; raises as ``read_bytes``, and for text that is not JSON."""
    return parse_json(read_bytes(path, most), path)


def parse_json(data: bytes, where: object) -> Any:
    """The value of JSON text of any depth; an error names ``where``."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise damaged(where, "text that is not JSON", "JSON") from error


def lines(path: Path, stop: int | None = None) -> Iterator[bytes]:
    """The lines of a file with their newlines, or those of the first ``stop`` bytes.

    Raises:
        UserError: as ``open_file``, or a line has more than ``LINE_BYTES`` bytes.
    """
    left = float("inf") if stop is None else stop
    with open_file(path) as file:
        while left > 0:
            try:
                line = file.readline(int(min(left, LINE_BYTES)))
            except OSError as error:
                raise unreadable(path, error) from error
            if not line:
                return
            left -= len(line)
            if len(line) == LINE_BYTES and not line.endswith(b"\n"):
                raise damaged(path, f"a line of {LINE_BYTES:,} bytes or more", "shorter ones")
            yield line


def checksum(path: Path, stop: int | None = None) -> tuple[int, int]:
    """Bytes and CRC-32 of a file, or of its first ``stop`` bytes; raises as ``open_file``."""
    size, crc = 0, 0
    left = float("inf") if stop is None else stop
    with open_file(path) as file:
        try:
            while block := file.read(int(min(left, BLOCK))):
                crc, size, left = zlib.crc32(block, crc), size + len(block), left - len(block)
        except OSError as error:
            raise unreadable(path, error) from error
    return size, crc


def check_content(path: Path, size: int, crc: int) -> None:
    """Raise UserError unless the file has this size and this CRC-32; also as ``open_file``."""
    with open_file(path) as file:
        found = os.fstat(file.fileno()).st_size
    if found != size:
        raise damaged(path, f"{found:,} bytes", f"{size:,}")
    _, other = checksum(path, stop=size)
    if other != crc:
        raise damaged(path, f"content with checksum {other:08x}", f"{crc:08x}")


def stored_entries(archive: Path | BinaryIO, size: int) -> list[zipfile.ZipInfo]:
    """The entries of a zip archive of ``size`` bytes. Raises ValueError if they would take more memory than that."""
    with zipfile.ZipFile(archive) as opened:
        entries = opened.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("compressed entries")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("entries that overlap")
    return entries


def is_plain_name(name: object) -> bool:
    """Whether ``name`` is a file name without a path, so that it stays inside its folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")
