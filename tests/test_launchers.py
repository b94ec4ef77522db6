"""A sweep in processes side by side: it is killed, and the same command continues it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests import kills
from worldrl.commands.train import train_main
from worldrl.runs.checkpoint import Checkpoints
from worldrl.training.signals import Stopped

FRAMES = 600
SWEEP = f"""
-m sweep=two hydra/launcher=joblib hydra.launcher.n_jobs=2 seed=1,2 agent=sac task=tests.envs.toy_envs:Count
allow=tests frames={FRAMES} env.action_repeat=1 schedule.prefill=100 schedule.updates_per_1000_frames=1000
head.units=16 replay.capacity=1000 replay.batch=16 eval.every=200 eval.episodes=1 eval.video=false
log.tensorboard=false checkpoint.minutes=0.001 threads=1
""".split()


def sweep(folder: Path, out: Path, changes: tuple[str, ...]) -> None:
    """The command in a process group of its own."""
    os.setsid()
    os.chdir(folder)
    file = os.open(out, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    changed = {text.partition("=")[0] for text in changes}
    try:
        code = train_main([*(text for text in SWEEP if text.partition("=")[0] not in changed), *changes])
    except Stopped as stopped:
        code = int(stopped.code or 0)
    os._exit(code)  # joblib's idle workers would be waited for


def start(folder: Path, out: Path, *changes: str) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([kills.__name__])
    child = context.Process(target=sweep, args=(folder, out, changes))
    child.start()
    return child


def frames(folder: Path) -> list[int]:
    """Frames of the last checkpoint of every run of the sweep."""
    return [Checkpoints(run).frames() or 0 for run in sorted((folder / "runs/two").glob("*/sac/*-*"))]


def logged(folder: Path) -> list[int]:
    """The last frames in the metrics of every run of the sweep."""
    paths = folder.glob("runs/two/*/sac/*-*/metrics.jsonl")
    return [json.loads(lines[-1])["frames"] for path in paths if (lines := path.read_text().splitlines())]


@pytest.mark.kills
@pytest.mark.parametrize(
    ("number", "everybody"), [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGTERM, False)]
)
def test_a_signal_saves_every_run_of_a_sweep(number: signal.Signals, everybody: bool, tmp_path: Path) -> None:
    """``everybody``: the whole process group, as Ctrl-C in a terminal; otherwise only the command itself."""
    child = start(tmp_path, tmp_path / "out", "hydra.launcher.n_jobs=3", "frames=1_000_000", "checkpoint.minutes=60")
    limit = time.monotonic() + 180
    while len(found := logged(tmp_path)) < 2 or min(found) < 200:
        assert child.exitcode is None, (tmp_path / "out").read_text()
        assert time.monotonic() < limit
        time.sleep(0.05)
    assert child.pid is not None
    os.killpg(child.pid, number) if everybody else os.kill(child.pid, number)
    child.join(60)
    told = (tmp_path / "out").read_text()
    assert child.exitcode == 128 + number, told
    assert told.count("resume=") == 2, told
    assert min(frames(tmp_path)) >= 200
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # idle workers


@pytest.mark.kills
def test_joblib_runs_side_by_side_and_continues_after_a_kill(tmp_path: Path) -> None:
    first = start(tmp_path, tmp_path / "first.out")
    limit = time.monotonic() + 180
    while len(found := frames(tmp_path)) < 2 or min(found) < 120:
        assert first.exitcode is None, (tmp_path / "first.out").read_text()
        assert time.monotonic() < limit
        time.sleep(0.02)
    assert first.pid is not None
    os.killpg(first.pid, signal.SIGKILL)
    first.join()
    assert min(frames(tmp_path)) < FRAMES
    second = start(tmp_path, tmp_path / "second.out")
    second.join(180)
    assert second.pid is not None
    with suppress(ProcessLookupError):
        os.killpg(second.pid, signal.SIGTERM)  # the idle workers
    told = (tmp_path / "second.out").read_text()
    assert second.exitcode == 0, told
    assert frames(tmp_path) == [FRAMES, FRAMES]
    assert told.splitlines()[-1] == "curves and tables: python -m worldrl report runs/two"
    for path in tmp_path.glob("runs/two/*/*/*/metrics.jsonl"):
        records = map(json.loads, path.read_text().splitlines())
        evaluated = [r["frames"] for r in records if "eval/return" in r]
        assert evaluated == [0, 200, 400, 600]  # none is missing, none is there twice
