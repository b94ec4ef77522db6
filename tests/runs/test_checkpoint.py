from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.errors import refusing
from worldrl.data.replay import Replay
from worldrl.errors import UserError
from worldrl.runs.checkpoint import MARKER, CheckpointError, Checkpoints, seal
from worldrl.runs.exactness import rng_state, set_rng_state
from worldrl.types import EnvSpec, ObsSpec, box

SPEC = EnvSpec("toy", {"state": ObsSpec((3,), "float32")}, box(1))


def rows(tick: int) -> dict[str, np.ndarray]:
    zero = np.zeros(1, np.float32)
    return {
        "state": np.full((1, 3), tick, np.float32),
        "action": np.zeros((1, 1), np.float32),
        "reward": np.full(1, tick, np.float32),
        "is_first": zero,
        "is_terminal": zero,
    }


def filled(ticks: int, capacity: int = 40) -> Replay:
    replay = Replay(SPEC, capacity)
    for tick in range(ticks):
        replay.add(rows(tick))
    return replay


def listing(run_dir: Path) -> list[str]:
    return sorted(str(path.relative_to(run_dir)) for path in run_dir.rglob("*"))


def test_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    state: dict[str, Any] = {
        "weights": {"w": torch.randn(3, 4), "half": torch.randn(2).bfloat16(), "count": torch.tensor(7)},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"betas": (0.9, 0.999), "lr": 1e-3}]},
        "arrays": {"a": rng.normal(size=(2, 3)), "u32": np.arange(3, dtype=np.uint32), "flag": np.array([True])},
        "scalars": [1, 2.5, True, None, "text", np.float32(0.1), np.int64(5)],
        "numpy_rng": rng.bit_generator.state,
        "torch_rng": rng_state(),
    }
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(1234, state)
    assert path.name == "step-000001234"
    assert checkpoints.latest() == checkpoints.find() == path
    got = checkpoints.load(path)
    assert got.keys() == state.keys()
    for name, value in state["weights"].items():
        assert got["weights"][name].dtype == value.dtype
        assert torch.equal(got["weights"][name], value)
    assert got["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]
    assert got["optimizer"]["state"][0]["step"] == 1.0
    for name, array in state["arrays"].items():
        assert got["arrays"][name].dtype == array.dtype
        np.testing.assert_array_equal(got["arrays"][name], array)
    assert got["scalars"] == [1, 2.5, True, None, "text", float(np.float32(0.1)), 5]
    other = np.random.default_rng(0)
    other.bit_generator.state = got["numpy_rng"]
    assert other.normal() == rng.normal()
    expected = torch.randn(5)
    set_rng_state(got["torch_rng"])
    assert torch.equal(torch.randn(5), expected)


def test_an_optimizer_continues_exactly(tmp_path: Path) -> None:
    def step(weight: torch.Tensor, adam: torch.optim.Optimizer) -> None:
        weight.grad = torch.randn_like(weight)
        adam.step()

    weight = torch.zeros(5, requires_grad=True)
    adam = torch.optim.Adam([weight], lr=0.1)
    step(weight, adam)
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(0, {"weight": weight, "adam": adam.state_dict(), "rng": rng_state()})
    step(weight, adam)

    state = checkpoints.load(path)
    other = state["weight"].clone().requires_grad_()
    twin = torch.optim.Adam([other], lr=0.5)
    twin.load_state_dict(state["adam"])
    set_rng_state(state["rng"])
    step(other, twin)
    assert torch.equal(other, weight)


def test_a_view_does_not_drag_its_storage_along(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).save(0, {"view": torch.zeros(1_000_000)[:10]})
    assert (path / "state.pt").stat().st_size < 10_000


@pytest.mark.parametrize(
    ("value", "place"),
    [({"a": [1, {2, 3}]}, r"state\.a\[1\] is a set"), ({"a": {(1, 2): 3}}, r"state\.a has a key of type tuple")],
)
def test_what_cannot_be_read_back_is_not_written(tmp_path: Path, value: Any, place: str) -> None:
    with pytest.raises(TypeError, match=place):
        Checkpoints(tmp_path).save(0, value)
    assert listing(tmp_path) == []


def test_only_the_last_is_kept_and_replay_files_go_after_it(tmp_path: Path) -> None:
    checkpoints, replay = Checkpoints(tmp_path), Replay(SPEC, 40)
    for save in range(5):
        for tick in range(15):
            replay.add(rows(15 * save + tick))
        path = checkpoints.save(30 * (save + 1), {"n": save}, replay)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000150"]
    named = {file["name"] for file in json.loads((path / "replay.json").read_text())["files"]}
    assert {path.name for path in (tmp_path / "replay").iterdir()} == named
    other = Replay(SPEC, 40)
    assert checkpoints.load_replay(path, other)
    assert torch.equal(other.sample(30, 3).reward, replay.sample(30, 3).reward)
    assert checkpoints.load(path) == {"n": 4}


def test_without_replay(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(1, {})
    replay = Replay(SPEC, 40)
    assert not checkpoints.load_replay(path, replay)
    assert len(replay) == 0


def test_two_at_the_same_frame(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for n in range(12):
        path = checkpoints.save(5, {"n": n})
        assert checkpoints.latest() == path
        assert checkpoints.load(path)["n"] == n
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_a_name_that_has_become_free_is_not_older_than_the_others(tmp_path: Path) -> None:
    """A kill after the third save leaves the second and the third."""
    checkpoints = Checkpoints(tmp_path)
    for n in range(2):
        checkpoints.save(5, {"n": n})
    assert checkpoints._free_name("step", 5).name == "step-000000005-2"
    assert checkpoints._free_name("step", 50).name == "step-000000050"


def test_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.best() is None
    checkpoints.save(5, {"n": 0})
    checkpoints.save_best(10, 3.5, {"n": 1})
    path = checkpoints.save_best(7, 4.5, {"n": 2})  # after a resume from an earlier frame
    checkpoints.save(20, {"n": 3})
    assert checkpoints.best() == path
    assert checkpoints.load(path) == {"n": 2}
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["best-000000007", "step-000000020"]


# --- damage -----------------------------------------------------------------------------------------------------------


def test_nothing_to_find(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        Checkpoints(tmp_path / "nowhere").find()
    assert (caught.value.where, caught.value.found) == (str(tmp_path / "nowhere"), "no folder")
    assert Checkpoints(tmp_path).latest() is None
    with pytest.raises(UserError) as caught:
        Checkpoints(tmp_path).find()
    assert (caught.value.found, caught.value.fix) == ("no checkpoint", "start the run again")
    with refusing(found="no folder"):
        Checkpoints(tmp_path).load(tmp_path / "checkpoints/step-000000001")
    assert listing(tmp_path) == []


def test_a_checkpoint_without_a_replay_leaves_no_rows_behind(tmp_path: Path) -> None:
    checkpoints, replay = Checkpoints(tmp_path), filled(3)
    checkpoints.save(10, {"n": 1}, replay)
    assert listing(tmp_path / "replay")
    checkpoints.save(20, {"n": 2})
    assert not listing(tmp_path / "replay")


def test_half_written(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(10, {"n": 1})
    half = path.with_name("step-000000020")
    half.mkdir()
    (half / "state.pt").write_bytes((path / "state.pt").read_bytes())
    assert checkpoints.latest() == path
    with pytest.raises(UserError, match="step-000000020 is half-written"):
        checkpoints.load(half)
    (path / "COMPLETE.json").unlink()
    with pytest.raises(UserError, match=r"half-written checkpoints \(step-000000010, step-000000020\)"):
        checkpoints.find()


def edit_marker(path: Path, **changes: Any) -> None:
    """Another marker, whole in itself."""
    marker = json.loads((path / MARKER).read_text())
    marker.pop("crc32")
    (path / MARKER).write_bytes(seal({**marker, **changes}))


def refusal(checkpoints: Checkpoints, path: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        checkpoints.load(path)
    return caught.value


def test_another_format(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(10, {"n": 1})
    edit_marker(path, format=99, worldrl="7.0")
    error = refusal(checkpoints, path)
    assert (error.found, error.expected) == ("format 99 (written by worldrl 7.0)", "format 2")
    assert error.fix == "worldrl 7.0 reads it"
    marker = {
        "format": 1,
        "worldrl": "0.1.0",
        "frames": 10,
        "files": [],
    }  # as that version wrote it, without a checksum
    (path / MARKER).write_text(json.dumps(marker, indent=1))
    assert refusal(checkpoints, path).found == "format 1 (written by worldrl 0.1.0)"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000])
def test_damaged_marker(tmp_path: Path, content: bytes) -> None:
    path = Checkpoints(tmp_path).save(10, {"n": 1})
    (path / MARKER).write_bytes(content)
    assert refusal(Checkpoints(tmp_path), path).where == f"{path / MARKER} is damaged"


def test_every_byte_of_the_marker_counts(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(10, {"n": 1})
    good = (path / MARKER).read_bytes()
    for position in range(len(good)):
        for flip in (1, 16):
            (path / MARKER).write_bytes(good[:position] + bytes([good[position] ^ flip]) + good[position + 1 :])
            assert str(path / MARKER) in refusal(checkpoints, path).where
    for other in (good + b" ", good[:-1], good.replace(b"\n", b""), good.replace(b" ", b"  ", 1)):
        (path / MARKER).write_bytes(other)
        assert str(path / MARKER) in refusal(checkpoints, path).where


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {}},
        {"files": [3]},
        {"files": []},
        {"files": [{"name": "../../x", "size": 1, "crc32": 1}]},
        {"files": [{"name": "state.pt", "size": "1", "crc32": 1}]},
        {"files": [{"name": "state.pt"}]},
        {"frames": "10"},
        {"frames": None},
        {"score": []},
    ],
)
def test_an_invented_marker(tmp_path: Path, changes: dict[str, Any]) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(10, {"n": 1})
    edit_marker(path, **changes)
    assert refusal(checkpoints, path).where.startswith(str(path / MARKER))


def replace_state(path: Path, data: bytes) -> None:
    """Another ``state.pt`` under a marker that says so: nothing is damaged, and everything is foreign."""
    (path / "state.pt").write_bytes(data)
    edit_marker(path, files=[{"name": "state.pt", "size": len(data), "crc32": zlib.crc32(data)}])


def saved(value: Any, **options: Any) -> bytes:
    data = io.BytesIO()
    torch.save(value, data, **options)
    return data.getvalue()


def compressed(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return out.getvalue()


def laughs(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] * 10
    return value


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


class Touch:
    """Would make a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def structured(pickled: bytes) -> bytes:
    """A state with this structure."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved({"n": 1}))) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, pickled if entry.filename.endswith("data.pkl") else old.read(entry))
    return out.getvalue()


BYTES = b"c__builtin__\nbytearray\n"  # torch lets it be called
ZEROS = b"\x80\x02}X\x01\x00\x00\x00a" + BYTES + b"J\xff\xff\xff\x7f\x85Rs."  # {"a": bytearray(2**31 - 1)}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize(
    "make",
    [
        lambda folder: b"",
        lambda folder: b"PK",
        lambda folder: b"garbage" * 100,
        lambda folder: pickle.dumps({"a": 1}),
        lambda folder: saved({"a": 1}, _use_new_zipfile_serialization=False),
        lambda folder: compressed(saved({"w": torch.zeros(10_000)})),
        lambda folder: saved([1]),
        lambda folder: saved({"a": laughs(12)}),
        lambda folder: saved({"a": nested(200)}),
        lambda folder: saved({"a": torch.zeros(1).expand(2**50)}),
        lambda folder: saved({"a": torch.zeros(2**50, device="meta")}),
        lambda folder: saved({"a": torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (2**50,))}),
        lambda folder: saved({"a": Touch(folder / "touched")}),
        lambda folder: saved({"a": 1})[:-50],
        lambda folder: structured(ZEROS),
    ],
)
def test_a_foreign_state(tmp_path: Path, make: Callable[[Path], bytes]) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(10, {"n": 1})
    replace_state(path, make(tmp_path))
    tracemalloc.start()
    assert refusal(checkpoints, path).where == f"{path / 'state.pt'} is damaged"
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()
    assert not (tmp_path / "touched").exists()


def test_an_expanded_tensor_is_saved_whole(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(10, {"w": torch.ones(1).expand(5)})
    assert checkpoints.load(path)["w"].tolist() == [1.0] * 5


@pytest.mark.parametrize("name", ["state.pt", "replay.json"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(10, {"w": torch.zeros(100)}, filled(5))
    good = (path / name).read_bytes()
    for position in (0, len(good) // 2, len(good) - 1):
        bad = bytearray(good)
        bad[position] ^= 1
        (path / name).write_bytes(bad)
        for load in (checkpoints.load, lambda p: checkpoints.load_replay(p, Replay(SPEC, 40))):
            with pytest.raises(UserError) as caught:
                load(path)
            assert caught.value.where == f"{path / name} is damaged"
        assert (path / name).read_bytes() == bad  # an error changes nothing
    (path / name).write_bytes(good[:-1])
    assert refusal(checkpoints, path).found.startswith(f"{len(good) - 1:,} bytes")
    (path / name).unlink()
    error = refusal(checkpoints, path)
    assert (error.where, error.found) == (str(path / name), "no such file")


def test_beside_a_damaged_checkpoint_the_best_one_is_pointed_to(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save_best(10, 3.5, {"n": 1})
    last = checkpoints.save(20, {"n": 2})
    (last / "state.pt").write_bytes(b"x")
    error = refusal(checkpoints, last)
    assert error.found.startswith("1 bytes")
    assert error.fix.startswith("best-000000010 exists too: eval.py --checkpoint")
    (last / "COMPLETE.json").unlink()
    with refusing(found="half-written", fix="eval.py --checkpoint"):
        checkpoints.find()


def test_damaged_replay_file_is_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(10, {}, filled(5))
    (file,) = (tmp_path / "replay").iterdir()
    data = bytearray(file.read_bytes())
    data[-30] ^= 4
    file.write_bytes(data)
    with pytest.raises(UserError, match=file.name):
        checkpoints.load_replay(path, Replay(SPEC, 40))


# --- failures while saving --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["file", "rename", "replay"])
def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    checkpoints, replay = Checkpoints(tmp_path), filled(5)
    path = checkpoints.save(10, {"n": 1}, replay)
    before = listing(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    replay.add(rows(5))
    with monkeypatch.context() as patch:
        target: tuple[Any, str] = {
            "file": (os, "fsync"),
            "rename": (Path, "rename"),
            "replay": (np, "savez"),
        }[where]
        patch.setattr(*target, full)
        with pytest.raises(CheckpointError, match=r"No space left on device.*step-000000010 is intact"):
            checkpoints.save(20, {"n": 2}, replay)
    assert [name for name in listing(tmp_path) if not name.startswith("replay/")] == [
        name for name in before if not name.startswith("replay/")
    ]
    assert checkpoints.latest() == path
    assert checkpoints.load(path) == {"n": 1}
    checkpoints.load_replay(path, Replay(SPEC, 40))
    later = checkpoints.save(20, {"n": 2}, replay)  # there is room again
    other = Replay(SPEC, 40)
    checkpoints.load_replay(later, other)
    assert len(other) == 6
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_the_first_checkpoint_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="there is no earlier checkpoint"):
        Checkpoints(tmp_path).save(20, {"n": 2})
    assert listing(tmp_path) == ["checkpoints"]


LIMITED = """
import resource, signal, sys, torch
from worldrl.runs.checkpoint import CheckpointError, Checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(10, {"w": torch.zeros(100)})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoints.save(20, {"w": torch.zeros(1_000_000)})
except CheckpointError as error:
    print(error)
"""


def test_a_real_refusal_of_the_system(tmp_path: Path) -> None:
    assert resource  # POSIX only
    out = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "File too large" in out.stdout
    assert "step-000000010 is intact" in out.stdout
    assert listing(tmp_path / "checkpoints")[0] == "step-000000010"
    assert Checkpoints(tmp_path).load(Checkpoints(tmp_path).find())["w"].shape == (100,)


def test_stale_folders_go_with_the_next_save_but_not_by_looking(tmp_path: Path) -> None:
    stale = tmp_path / "checkpoints/.tmp-step-000000005"
    stale.mkdir(parents=True)
    (stale / "state.pt").write_bytes(b"half")
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    assert stale.exists()
    checkpoints.save(5, {})
    assert not stale.exists()


def nothing() -> None:
    pass


def save_forever(run_dir: str) -> None:
    checkpoints = Checkpoints(run_dir)
    replay = Replay(SPEC, 2000, seed=1)
    last = checkpoints.latest()
    n = 0
    if last is not None:
        n = checkpoints.load(last)["n"]
        checkpoints.load_replay(last, replay)
    while True:
        n += 1
        for tick in range(100 * (n - 1), 100 * n):
            replay.add(rows(tick))
        checkpoints.save(n, {"n": n, "w": torch.full((200_000,), float(n))}, replay)
        checkpoints.save_best(n, float(n), {"n": n})


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX")
def test_a_kill_at_any_moment_leaves_a_complete_checkpoint(tmp_path: Path) -> None:
    # Children of a fork server have torch loaded when they start, so that many kills fit.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    warm_up = context.Process(target=nothing)
    warm_up.start()
    warm_up.join()
    rng = random.Random(0)
    checkpoints, reached, interrupted, best_score = Checkpoints(tmp_path), 0, 0, 0.0
    patience = 1.0  # grows where the machine is too busy for a child to get anywhere
    for _ in range(20):
        child = context.Process(target=save_forever, args=(str(tmp_path),))
        child.start()
        time.sleep(patience * rng.uniform(0.03, 0.2))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL
        interrupted += bool(list((tmp_path / "checkpoints").glob(".tmp-*")))
        path = checkpoints.latest()
        if path is None:
            assert reached == 0
            patience *= 1.3
            continue
        state, replay = checkpoints.load(path), Replay(SPEC, 2000)
        assert checkpoints.load_replay(path, replay)
        n = state["n"]
        assert n >= reached
        patience *= 1.3 if n == reached else 1.0
        assert (state["w"] == n).all()
        assert len(replay) == min(2000, 100 * n)
        batch = replay.window(np.array([100 * n - 50]), np.array([0]), 50)
        assert batch.reward[0].tolist() == list(range(100 * n - 50, 100 * n))
        best = checkpoints.best()
        if best is not None:
            best_n = checkpoints.load(best)["n"]
            assert best_score <= best_n <= n
            best_score = best_n
        reached = n
    assert reached > 5
    assert best_score > 5
    assert interrupted > 1  # some kills did hit a save


def test_a_reader_follows_a_run_that_replaces_its_checkpoints(tmp_path: Path) -> None:
    checkpoints, writer = Checkpoints(tmp_path), Checkpoints(tmp_path)
    writer.save(1, {"n": 1})
    writer.save_best(1, 1.0, {"n": 1})

    def write() -> None:
        for n in range(2, 150):
            writer.save(n, {"n": n, "w": torch.full((10_000,), float(n))})
            writer.save_best(n, float(n), {"n": n})

    seen = [1]
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not writing.done():
            assert (frames := checkpoints.frames()) is not None
            path, state = checkpoints.read()
            assert path.name == f"step-{state['n']:09d}"
            assert checkpoints.read("best")[1]["n"] >= seen[-1] - 1
            assert seen[-1] <= frames <= state["n"]
            seen.append(state["n"])
        writing.result()
    assert len(set(seen)) > 10


@pytest.mark.parametrize("gone", ["state.pt", MARKER])
def test_a_damaged_checkpoint_is_not_read_again_and_again(tmp_path: Path, gone: str) -> None:
    path = Checkpoints(tmp_path).save(1, {"n": 1})
    (path / gone).unlink()
    with pytest.raises(UserError):
        Checkpoints(tmp_path).read()


# --- fingerprint ------------------------------------------------------------------------------------------------------


@pytest.mark.cuda
def test_on_the_gpu(tmp_path: Path) -> None:
    state = rng_state("cuda")
    expected = torch.randn(4, device="cuda")
    checkpoints = Checkpoints(tmp_path)
    path = checkpoints.save(1, {"rng": state, "w": expected})
    for device in ("cpu", "cuda"):
        got = checkpoints.load(path, device)
        assert got["w"].device.type == device
        set_rng_state(got["rng"], "cuda")
        assert torch.equal(torch.randn(4, device="cuda"), expected)
