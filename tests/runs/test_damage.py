"""Any file of a run folder may be damaged, missing, foreign, or no file at all: every command then says one line."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.toy_runs import STATE_SAC
from worldrl.config import config_from_dict
from worldrl.errors import UserError, one_line
from worldrl.evaluation.evaluate import evaluate_run
from worldrl.report.__main__ import main as report
from worldrl.runs.folder import METRICS
from worldrl.runs.settings import save_config
from worldrl.runs.trained import load
from worldrl.training.loop import resume, train

SETTINGS = {
    **STATE_SAC,
    "frames": 40,
    "schedule.prefill": 10,
    "schedule.updates_per_1000_frames": 200,
    "eval.every": 20,
    "eval.episodes": 1,
    "log.every": 10,
    "threads": 1,
}
GIB = 2**30


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, the state of which was saved at its end."""
    run = tmp_path_factory.mktemp("damage") / "run"
    train(config_from_dict(SETTINGS), run)
    return run


def files_of(run: Path) -> list[str]:
    """Names of the files that something reads; the one of the lock is empty and read by nobody."""
    found = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
    return [name for name in found if name != "lock"]


def written(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def changed(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(change(path.read_bytes())) and None


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        path.unlink()
        make(path)

    return act


def flipped(seed: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        at = random.Random(seed).randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << seed % 8)]) + data[at + 1 :]

    return change


def hole(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**42)


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 300_000_000)


LAUGHS = b"a: &a [1]\n" + b"".join(
    b"%c: &%c [%s]\n" % (n + 1, n + 1, b",".join([b"*%c" % n] * 30)) for n in range(ord("a"), ord("m"))
)

DAMAGE: dict[str, Callable[[Path], None]] = {
    **{f"bit {seed}": changed(flipped(seed)) for seed in range(16)},
    **{f"cut to {n}/7": changed(lambda data, n=n: data[: len(data) * n // 7]) for n in range(7)},
    "one byte less": changed(lambda data: data[:-1]),
    "one byte more": changed(lambda data: data + b"\n"),
    "garbage": written(random.Random(1).randbytes(5_000)),
    "zeros": changed(lambda data: bytes(len(data))),
    "text": written(b"Lorem ipsum dolor sit amet\n" * 50),
    "a list": written(b"[1, 2, 3]\n"),
    "an empty object": written(b"{}\n"),
    "a number": written(b"7\n"),
    "a deep list": written(b"[" * 200_000),
    "a deep object": written(b'{"a":' * 100_000),
    "aliases": written(LAUGHS),
    "numbers without end": written(b'{"frames": ' + b"9" * 1_000_000 + b"}\n"),
    "a pickle": written(b"cos\nsystem\n(S'touch pwned'\ntR."),
    "huge": hole,
    "a zip bomb": zip_bomb,
    "missing": Path.unlink,
    "a folder": replaced(Path.mkdir),
    "a link to nothing": replaced(lambda path: path.symlink_to("nowhere")),
    "a link to itself": replaced(lambda path: path.symlink_to(path.name)),
    "a link to a device": replaced(lambda path: path.symlink_to("/dev/zero")),
    "a pipe": replaced(os.mkfifo),
}
SAMPLE = (
    "bit 3",
    "cut to 3/7",
    "cut to 0/7",
    "garbage",
    "a deep list",
    "aliases",
    "huge",
    "missing",
    "a folder",
    "a pipe",
)


@contextmanager
def bounded(seconds: int = 60, memory: int = 3 * GIB) -> Iterator[None]:
    """Fail where something waits for a pipe, and where it allocates without a bound."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

    def too_long(number: int, frame: object) -> None:
        raise AssertionError(f"waited {seconds} s")

    old = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, before[1]))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
        resource.setrlimit(resource.RLIMIT_AS, before)


def report_of(run: Path) -> None:
    if report([str(run), "--out", str(run.parent / "report")]) != 0:
        raise UserError("told", run.name)


READERS: dict[str, Callable[[Path], object]] = {
    "load last": load,
    "load best": lambda run: load(run, "best"),
    "eval": lambda run: evaluate_run(run, episodes=1),
    "resume": lambda run: resume(run, {"frames": 60}),
    "report": report_of,
}


def hurt(whole: Path, folder: Path, name: str, damage: str) -> Path:
    """A copy of the run with one damaged file."""
    run = folder / "run"
    if run.exists():
        shutil.rmtree(run)
    shutil.copytree(whole, run)
    DAMAGE[damage](run / name)
    return run


def line_of(read: Callable[[Path], object], run: Path) -> str:
    """What a reader says of a run that it refuses; nothing where it does its work."""
    try:
        with bounded():
            read(run)
    except UserError as error:
        return one_line(error)
    return ""


def check(whole: Path, folder: Path, name: str, damage: str, capsys: pytest.CaptureFixture) -> int:
    """Every reader either does its work or says one line; how many of them said one. What is wrong is never new."""
    told = 0
    for reader, read in READERS.items():
        run = hurt(whole, folder, name, damage)
        line = line_of(read, run)
        told += bool(line)
        assert len(line) < 1_600, (reader, line)
        printed = capsys.readouterr().err
        assert "Traceback" not in printed, (reader, printed)
        assert not (run / "pwned").exists()
    return told


NEEDED = (METRICS, "config.yaml", "state.pt", "replay.json", "COMPLETE.json", ".npz")  # without them a reader must stop
HARMLESS = ("one byte more",)  # a blank line after the checkpoint's part of the metrics, or after the settings


def must_tell(name: str, damage: str) -> bool:
    """Whether some reader has to notice. A flipped bit of the settings may be another good setting that may change."""
    loose = name == "config.yaml" and (damage.startswith(("bit", "cut to", "one byte")))
    return name.endswith(NEEDED) and not loose and not (name == METRICS and damage in HARMLESS)


@pytest.mark.parametrize("damage", SAMPLE)
def test_a_damaged_file_is_one_line(whole: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture) -> None:
    names = [name for name in files_of(whole) if name.endswith(NEEDED)]
    rng = random.Random(damage)
    for name in rng.sample(names, 1):
        assert check(whole, tmp_path, name, damage, capsys) or not must_tell(name, damage), (name, damage)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_any_damage_to_any_file_is_one_line(
    whole: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture
) -> None:
    for name in files_of(whole):
        assert check(whole, tmp_path, name, damage, capsys) or not must_tell(name, damage), (name, damage)


def test_settings_of_somebody_else(whole: Path, tmp_path: Path) -> None:
    """A whole settings file of another run: the checkpoint knows better."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    save_config(config_from_dict({**SETTINGS, "head.units": 12}), run)
    with pytest.raises(UserError, match=r"head\.units=12"):
        load(run)
