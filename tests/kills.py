"""Kills of training runs, at random moments or inside a write, in children of a fork server, which start at once."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tests.training import toy_experiences
from worldrl import trust
from worldrl.config import config_from_dict
from worldrl.data.replay import Replay
from worldrl.errors import UserError
from worldrl.runs.checkpoint import Checkpoints
from worldrl.runs.transfer import decode_spec
from worldrl.training.loop import resume, train

LIMIT = 240.0  # s that one kind of run may take


class Struck(NamedTuple):
    """What was done to a run."""

    kills: int
    inside: int  # of a checkpoint write
    runs: int


def records(run: Path) -> list[dict[str, Any]]:
    """The log without what the wall clock decides."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith("time/")} for line in lines]


def work(run: str, settings: dict[str, Any], kind: str) -> None:
    """Begin or resume a run, in a process group of its own; what it prints goes into a file next to the folder."""
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # inherited as ignored where the tests run under nohup
    out = os.open(f"{run}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    torch.set_num_threads(1)
    trust.allow(["tests", "no.such"])
    make = getattr(toy_experiences, kind)
    try:
        if Checkpoints(run).latest() is None:
            if Path(run).exists():
                (Path(run) / "metrics.jsonl").unlink(missing_ok=True)  # killed before its first checkpoint
            train(config_from_dict(settings), Path(run), make)
        else:
            resume(Path(run), make=make)
    except UserError as error:  # a worker was killed: the run is saved, or has not been touched yet
        print(error, flush=True)
        os._exit(2)


def start(run: Path, settings: dict[str, Any], kind: str) -> BaseProcess:
    """A child that begins or resumes the run, with everything imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    child = context.Process(target=work, args=(str(run), settings, kind))
    child.start()
    return child


def writing(run: Path) -> bool:
    """Whether a checkpoint is being written, or was when the run was killed."""
    with contextlib.suppress(OSError):  # a folder that is renamed meanwhile
        return any((run / "checkpoints").glob(".tmp-*")) or any((run / "replay").glob("*.tmp"))
    return True


def workers_of(child: BaseProcess) -> list[int]:
    """The processes that step environments for a child."""
    found = []
    with contextlib.suppress(OSError):
        for number in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split():
            if b"spawn_main" in Path(f"/proc/{number}/cmdline").read_bytes():
                found.append(int(number))
    return found


def has_begun(child: BaseProcess, run: Path) -> bool:
    """Wait for the first checkpoint: a kill while it imports tells nothing. False if the child ended without one."""
    end = time.monotonic() + LIMIT
    while not any((run / "checkpoints").glob("step-*")):
        if child.exitcode is not None or time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def strike(child: BaseProcess, run: Path, rng: random.Random, inside: bool, seconds: float) -> bool:
    """Kill the child, or one of its workers, after up to so many seconds, or inside the next write.

    False if the child ended before that.
    """
    if not has_begun(child, run):
        return False
    until = time.monotonic() + rng.uniform(0.0, seconds)
    while time.monotonic() < until or (inside and not writing(run)):
        if child.exitcode is not None:
            return False
        time.sleep(0.0005 if inside else 0.01)
    victims = workers_of(child)
    victim = rng.choice(victims) if victims and not inside and rng.random() < 0.5 else child.pid
    assert victim is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    child.join(LIMIT)
    return child.exitcode not in (0, None)


def flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a checkpoint by its place, arrays as lists of their bytes."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{place}/{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from flat(item, f"{place}/{i}")
    elif hasattr(value, "shape"):
        array = np.ascontiguousarray(torch.as_tensor(value).numpy())
        yield place, (array.shape, str(array.dtype), array.tobytes())
    else:
        yield place, repr(value)


BESIDE = ("/metrics", "/config/checkpoint", "/fingerprint")  # lengths of times, how often it is saved, the machine


def everything(run: Path) -> dict[str, Any]:
    """All that a run left: the values of its last checkpoint, the rows of its replay, its log without times."""
    checkpoints = Checkpoints(run)
    path = checkpoints.find()
    state = checkpoints.load(path)
    found = {place: value for place, value in flat(state) if not place.startswith(BESIDE)}
    settings = state["config"]
    replay = Replay(decode_spec(state["spec"]), settings["replay"]["capacity"], settings["env"]["num_envs"])
    if checkpoints.load_replay(path, replay):
        ticks = len(replay) // replay.num_envs
        first = int(replay._first)
        for env in range(replay.num_envs):
            window = replay.window(np.array([first]), np.array([env]), ticks)
            found.update(flat({"replay": {str(env): {**window._asdict(), "first": first}}}))
    return {**found, "log": records(run)}


def differences(whole: Path, killed: Path) -> list[str]:
    one, other = everything(whole), everything(killed)
    return sorted(place for place in one.keys() | other.keys() if one.get(place) != other.get(place))


def kill_and_compare(folder: Path, kind: str, settings: dict[str, Any], kills: int, seed: str) -> Struck:
    """Kill runs until there were so many kills, and compare each with the uninterrupted run, value by value."""
    whole = folder / "whole"
    reference = start(whole, settings, kind)
    has_begun(reference, whole)
    seconds = -time.monotonic()
    reference.join(LIMIT)
    seconds += time.monotonic()
    assert reference.exitcode == 0, Path(f"{whole}.out").read_text()
    often = {**settings, "checkpoint.minutes": seconds / 10 / 60}
    rng, deadline, done = random.Random(seed), time.monotonic() + LIMIT, Struck(0, 0, 0)
    while done.kills < kills:
        done = _kill_until_it_ends(
            folder / f"killed-{done.runs + 1}", (often, kind), kills, rng, deadline, done, seconds / 2
        )
        assert differences(whole, folder / f"killed-{done.runs}") == []
    return done


def _kill_until_it_ends(
    run: Path,
    how: tuple[dict[str, Any], str],
    kills: int,
    rng: random.Random,
    deadline: float,
    done: Struck,
    seconds: float,
) -> Struck:
    struck, inside = done.kills, done.inside
    while time.monotonic() < deadline:
        child = start(run, *how)
        hit = struck < kills and strike(child, run, rng, 3 * inside <= struck, seconds)
        struck, inside = struck + hit, inside + (hit and writing(run))
        child.join(LIMIT)
        if child.exitcode == 0:
            return Struck(struck, inside, done.runs + 1)
        assert hit, Path(f"{run}.out").read_text()
        assert child.exitcode in (2, -signal.SIGKILL), Path(f"{run}.out").read_text()
    raise AssertionError(f"{struck} kills did not fit into {LIMIT:.0f} s")
