"""Sixty kills at random moments, a third of them inside a checkpoint write: every resumed run is the uninterrupted one.

Children of a fork server have everything imported when they start, so that a kill costs a second or two.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training import toy_experiences
from tests.training.test_loop import DATA, PIXELS, SMALL, STATE, records
from worldrl.config import config_from_dict
from worldrl.data.replay import Replay
from worldrl.errors import UserError
from worldrl.runs.checkpoint import Checkpoints
from worldrl.runs.transfer import decode_spec
from worldrl.training.loop import resume, train

pytestmark = pytest.mark.kills

KILLS = 5  # of each kind of run
LIMIT = 240.0  # s that one kind may take


def under(head: dict[str, Any], settings: dict[str, Any] = STATE) -> dict[str, Any]:
    """The settings with another head, and without a belief where it is not said."""
    rest = {key: value for key, value in settings.items() if not key.startswith(("head", "belief"))}
    return {**rest, "belief": "identity", "head.units": 16, **head}


RSSM = {key: value for key, value in SMALL.items() if key.startswith("belief")}
SLAC = {"belief": "slac", "belief.z1": 3, "belief.z2": 6, "belief.units": 8, "belief.depth": 2, "belief.history": 3}
WORKERS = {"env.num_envs": 2}  # each in a process

KINDS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> how rows come, settings
    "smac": ("stream", STATE),
    "sac": ("stream", under({"head": "sac"})),
    "td3": ("stream", under({"head": "td3", "schedule.action_noise": 0.1})),
    "miracle": ("stream", under({"head": "miracle", "head.marginal_batch": 8, "head.marginal_samples": 3})),
    "virel": ("stream", under({"head": "virel", "head.temperature": "residual", "head.residual_batch": 180})),
    "pixels": ("stream", PIXELS),
    "slac from pixels": ("stream", under({**SLAC, "head": "slac"}, {**PIXELS, "env.obs": "pixels"})),
    "dreamer, pretrained": ("stream", {**under({**RSSM, "head": "dreamer"}), "schedule.pretrain": 20}),
    "workers": ("stream", {**STATE, **WORKERS}),
    "workers with pixels": ("stream", {**PIXELS, **WORKERS}),
    "data": ("data", DATA),
    "mixed": ("mixed", STATE),
}


def work(run: str, settings: dict[str, Any], kind: str) -> None:
    """Begin or resume a run; what it prints goes into a file beside the folder."""
    out = os.open(f"{run}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    torch.set_num_threads(1)
    make = getattr(toy_experiences, kind)
    try:
        if Checkpoints(run).latest() is None:
            if Path(run).exists():
                (Path(run) / "metrics.jsonl").unlink(missing_ok=True)  # killed before its first checkpoint
            train(config_from_dict(settings), Path(run), make)
        else:
            resume(Path(run), make=make)
    except UserError as error:  # a dead worker: the run is saved
        print(error, flush=True)
        os._exit(2)


@pytest.fixture(scope="module")
def start() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])

    def begin(run: Path, settings: dict[str, Any], kind: str) -> BaseProcess:
        child = context.Process(target=work, args=(str(run), settings, kind))
        child.start()
        return child

    return begin


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


def strike(child: BaseProcess, run: Path, rng: random.Random, inside: bool) -> bool:
    """Kill the child, or one of its workers, at a random moment or inside a write; False if it ended before that."""
    begun = time.monotonic()
    while not any((run / "checkpoints").glob("step-*")):  # importing is no moment worth a kill
        if child.exitcode is not None or time.monotonic() - begun > LIMIT:
            return False
        time.sleep(0.005)
    until = time.monotonic() + rng.uniform(0.0, 1.5)
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


@pytest.mark.parametrize("name", KINDS)
def test_killed_at_random_moments_it_is_the_same_run(
    tmp_path: Path, name: str, start: Any, capsys: pytest.CaptureFixture
) -> None:
    kind, settings = KINDS[name]
    often = {**settings, "checkpoint.minutes": 0.004}
    whole = tmp_path / "whole"
    reference = start(whole, often, kind)
    reference.join(LIMIT)
    assert reference.exitcode == 0, Path(f"{whole}.out").read_text()
    rng, kills, inside, runs, deadline = random.Random(name), 0, 0, 0, time.monotonic() + LIMIT
    while kills < KILLS:
        runs += 1
        killed = tmp_path / f"killed-{runs}"
        while time.monotonic() < deadline:
            child = start(killed, often, kind)
            if kills < KILLS:
                struck = strike(child, killed, rng, inside=3 * inside <= kills)
                kills, inside = kills + struck, inside + (struck and writing(killed))
            child.join(LIMIT)
            if child.exitcode == 0:
                break
            told = Path(f"{killed}.out").read_text()
            assert child.exitcode in (2, -signal.SIGKILL), told
        assert child.exitcode == 0, f"{kills} kills of {name} did not fit into {LIMIT:.0f} s"
        assert differences(whole, killed) == []
    assert 3 * inside >= KILLS
    with capsys.disabled():
        print(f"\n{name}: {kills} kills, {inside} inside a checkpoint write, {runs} runs, all exact")
