"""A sweep on a real SLURM cluster of one node, which is started and stopped here: submit, cancel, submit again."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from worldrl.runs.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[2]
FRAMES = 4_000
SWEEP = f"""
-m sweep=four hydra/launcher=submitit_slurm hydra.launcher.cpus_per_task=1 hydra.launcher.timeout_min=10
seed=1,2,3,4 agent=sac task=cartpole_balance frames={FRAMES} env.action_repeat=4 schedule.prefill=400
schedule.updates_per_1000_frames=60 head.units=16 replay.capacity=1000 eval.every=1000 eval.episodes=1
eval.video=false log.tensorboard=false checkpoint.minutes=0.001 threads=1
""".split()

CONF = """
ClusterName=test
SlurmctldHost={host}
SlurmUser=root
SlurmctldPort={port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# submitit asks sacct, which needs a database; scontrol knows as much of the last minutes.
SACCT = r"""#!/bin/sh
echo 'JobID|State|NodeList'
scontrol -o show job | sed -nE 's/^JobId=([0-9]+) .*/&/p' | awk '{
  for (i = 1; i <= NF; i++) { split($i, pair, "="); value[pair[1]] = pair[2] }
  id = ("ArrayJobId" in value) ? value["ArrayJobId"] "_" value["ArrayTaskId"] : value["JobId"]
  print id "|" value["JobState"] "|" value["NodeList"]; delete value }'
"""

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, ("slurmctld", "slurmd", "munged"))),
        reason="needs root and the Debian packages slurm-wlm and munge",
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None
        if importlib.util.find_spec("hydra_plugins")
        else True,
        reason="needs hydra-submitit-launcher",
    ),
]


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("", 0))
        return int(asked.getsockname()[1])


def wait_for(what: str, happened: Callable[[], object], limit: float = 120.0) -> None:
    end = time.monotonic() + limit
    while not happened():
        assert time.monotonic() < end, f"waited {limit:.0f} s for {what}"
        time.sleep(0.1)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment variables of a cluster of this machine, whose daemons end with the test."""
    folder = tmp_path / "cluster"
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir(parents=True)
    os.chmod(tmp_path, 0o755)
    host = socket.gethostname().split(".")[0]
    text = CONF.format(host=host, folder=folder, port=free_port(), node_port=free_port())
    (folder / "slurm.conf").write_text(text)
    (folder / "bin/sacct").write_text(SACCT)
    (folder / "bin/sacct").chmod(0o755)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    files = {"key": "key", "socket": "socket", "pid": "pid", "log": "log", "seed": "seed"}
    munge = [f"--{option}{'' if option == 'socket' else '-file'}={folder}/munge.{end}" for option, end in files.items()]
    daemons = [
        ["munged", "--foreground", "--force", *munge],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D", "-c"],
    ]
    started = []
    try:
        for command in daemons:
            with (folder / f"{command[0]}.out").open("w") as out:
                started.append(subprocess.Popen(command, env=env, stdout=out, stderr=out))
            if command[0] == "munged":
                wait_for("munged", (folder / "munge.socket").exists, 20)
        wait_for("the node", lambda: "idle" in asked(["sinfo", "-h", "-o", "%T"], env), 60)
        yield env
    finally:
        for daemon in reversed(started):
            daemon.terminate()
            daemon.wait(30)


def asked(command: list[str], env: dict[str, str]) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True).stdout


def launch(folder: Path, env: dict[str, str], name: str) -> subprocess.Popen:
    with (folder / name).open("w") as out:
        command = [sys.executable, str(ROOT / "train.py"), *SWEEP]
        return subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out)


def frames(folder: Path) -> dict[int, int]:
    """Frames of the last checkpoint by seed."""
    runs = (folder / "runs/four/cartpole_balance/sac").glob("*-*")
    return {int(run.name.split("-")[0]): Checkpoints(run).frames() or 0 for run in runs}


def said(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted((folder / "runs").rglob("*_log.out")))


def test_submitted_cancelled_and_submitted_again(tmp_path: Path, cluster: dict[str, str]) -> None:
    first = launch(tmp_path, cluster, "first.out")
    told = (tmp_path / "first.out").read_text
    try:
        wait_for(
            "the run of seed 4", lambda: FRAMES > frames(tmp_path).get(4, 0) > 500 or first.poll() is not None, 240
        )
        assert first.poll() is None, told()
        queue = asked(["squeue", "-h", "-r", "-o", "%i"], cluster).split()
        (job,) = (name for name in queue if name.endswith("_3"))
        subprocess.run(["scancel", job], env=cluster, check=True)
        wait_for("an empty queue", lambda: not asked(["squeue", "-h"], cluster).strip(), 240)
        first.wait(120)
    finally:
        first.kill()
        first.wait()
    before = frames(tmp_path)
    assert {seed: n for seed, n in before.items() if seed != 4} == {1: FRAMES, 2: FRAMES, 3: FRAMES}, told()
    assert 500 < before[4] < FRAMES
    second = launch(tmp_path, cluster, "second.out")
    assert second.wait(300) == 0, (tmp_path / "second.out").read_text() + said(tmp_path)
    assert frames(tmp_path) == {1: FRAMES, 2: FRAMES, 3: FRAMES, 4: FRAMES}
    assert said(tmp_path).count("finished before: ") == 3
    for path in tmp_path.glob("runs/four/*/*/*/metrics.jsonl"):
        records = map(json.loads, path.read_text().splitlines())
        evaluated = [record["frames"] for record in records if "eval/return" in record]
        assert evaluated == list(range(0, FRAMES + 1, 1_000))  # none is missing, none is there twice
