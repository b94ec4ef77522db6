"""A sweep in processes side by side: it is killed, and the same command goes on with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from worldrl.runs.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[1]
FRAMES = 3_000
SWEEP = f"""
-m sweep=two hydra/launcher=joblib hydra.launcher.n_jobs=2 seed=1,2 agent=sac task=cartpole_balance frames={FRAMES}
env.action_repeat=4 schedule.prefill=400 schedule.updates_per_1000_frames=60 head.units=16 replay.capacity=1000
eval.every=1000 eval.episodes=1 eval.video=false log.tensorboard=false checkpoint.minutes=0.001 threads=1
""".split()


def start(folder: Path, out: Path) -> subprocess.Popen:
    """The command in a process group of its own."""
    command = [sys.executable, str(ROOT / "train.py"), *SWEEP]
    with out.open("w") as file:
        return subprocess.Popen(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


def frames(folder: Path) -> list[int]:
    """Frames of the last checkpoint of every run of the sweep."""
    runs = sorted((folder / "runs/two/cartpole_balance/sac").glob("*-*"))
    return [Checkpoints(run).frames() or 0 for run in runs]


def test_joblib_runs_side_by_side_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    first = start(tmp_path, tmp_path / "first.out")
    limit = time.monotonic() + 180
    while len(found := frames(tmp_path)) < 2 or min(found) < 500:
        assert first.poll() is None, (tmp_path / "first.out").read_text()
        assert time.monotonic() < limit
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert min(frames(tmp_path)) < FRAMES
    second = start(tmp_path, tmp_path / "second.out")
    told = (tmp_path / "second.out").read_text
    assert second.wait(180) == 0, told()
    assert frames(tmp_path) == [FRAMES, FRAMES]
    assert told().splitlines()[-1] == "curves and tables: python -m worldrl report runs/two"
    for path in tmp_path.glob("runs/two/*/*/*/metrics.jsonl"):
        records = map(json.loads, path.read_text().splitlines())
        evaluated = [r["frames"] for r in records if "eval/return" in r]
        assert evaluated == [0, 1_000, 2_000, 3_000]  # none is missing, none is there twice
