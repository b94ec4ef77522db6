from __future__ import annotations

import os
import resource
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from worldrl import files
from worldrl.errors import UserError


def test_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": [1]}\nrest')
    assert files.read_bytes(path) == b'{"a": [1]}\nrest'
    assert files.read_text(path, most=15) == '{"a": [1]}\nrest'
    assert list(files.lines(path)) == [b'{"a": [1]}\n', b"rest"]
    assert list(files.lines(path, stop=13)) == [b'{"a": [1]}\n', b"re"]
    assert files.checksum(path) == (15, zlib.crc32(b'{"a": [1]}\nrest'))
    assert files.checksum(path, stop=4) == (4, zlib.crc32(b'{"a"'))
    path.write_bytes(b'{"a": [1]}')
    assert files.read_json(path) == {"a": [1]}


def fifo(path: Path) -> None:
    os.mkfifo(path)


NO_FILES = {
    "missing": lambda path: None,
    "folder": Path.mkdir,
    "pipe": fifo,
    "dangling link": lambda path: path.symlink_to(path.with_name("nowhere")),
    "link to itself": lambda path: path.symlink_to(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "empty folder's link": lambda path: path.symlink_to(path.parent),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    NO_FILES[kind](path)
    for read in (files.read_bytes, files.read_json, files.checksum, lambda p: list(files.lines(p))):
        with pytest.raises(UserError) as caught:
            read(path)
        assert str(path) in caught.value.where
        assert caught.value.found


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 200_000, b'{"a":' * 50_000, b"\xff\xfe", b"9" * 10_000, b"\0" * 100, b"nul"]
)
def test_what_is_no_json_is_damage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        files.read_json(path)
    assert caught.value.where == f"{path} is damaged"


def test_sizes_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * 11)
    with pytest.raises(UserError) as caught:
        files.read_bytes(path, most=10)
    assert (caught.value.found, caught.value.expected) == ("11 bytes", "10 or fewer")
    with path.open("wb") as file:
        file.truncate(2**40)  # a hole
    with pytest.raises(UserError):
        files.read_bytes(path)
    with pytest.raises(UserError):
        next(files.lines(path))


ENDLESS = """
import resource, sys
from pathlib import Path
from worldrl import files
from worldrl.errors import UserError
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
try:
    files.read_bytes(Path("/proc/self/pagemap"), most=2**20)  # says 0 bytes, and has a lot
except UserError as error:
    print(error)
"""


def test_a_file_that_lies_about_its_size_is_bounded_too() -> None:
    assert resource  # POSIX only
    out = subprocess.run([sys.executable, "-c", ENDLESS], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert "1,048,576 or fewer" in out.stdout


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/a", "a\0b", "a\\b", 3, None, ["a"]])
def test_names_that_lead_elsewhere(name: object) -> None:
    assert not files.is_plain_name(name)
    assert files.is_plain_name("state.pt")
