"""The replay against a plain list of rows."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from tests.errors import refusing
from worldrl.data import chunks
from worldrl.data import replay as module
from worldrl.data.chunks import prune
from worldrl.data.replay import Replay, choose_replay_device, nbytes
from worldrl.errors import UserError
from worldrl.types import Batch, EnvSpec, Needs, ObsSpec, box

SPEC = EnvSpec("toy", {"pixels": ObsSpec((4, 4, 3), "uint8"), "state": ObsSpec((5,), "float32")}, box(2))
COLUMNS = ("pixels", "state", "action", "reward", "is_first", "is_terminal")


def make_rows(tick: int, num_envs: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([tick, num_envs])
    return {
        "pixels": rng.integers(0, 256, (num_envs, 4, 4, 3), dtype=np.uint8),
        "state": rng.standard_normal((num_envs, 5)).astype(np.float32),
        "action": rng.uniform(-1, 1, (num_envs, 2)).astype(np.float32),
        "reward": np.arange(num_envs, dtype=np.float32) + 100 * tick,
        "is_first": (rng.random(num_envs) < 0.1).astype(np.float32),
        "is_terminal": (rng.random(num_envs) < 0.1).astype(np.float32),
        "is_last": np.zeros(num_envs, np.float32),
        "frames": np.full(num_envs, 2),
    }


def fill(replay: Replay, start: int, stop: int) -> None:
    for tick in range(start, stop):
        replay.add(make_rows(tick, replay.num_envs))


def plain(history: list[dict[str, np.ndarray]], starts: Any, envs: Any, length: int, name: str) -> np.ndarray:
    return np.stack(
        [np.stack([history[s + t][name][e] for t in range(length)]) for s, e in zip(starts, envs, strict=True)]
    )


def column(batch: Batch, name: str) -> np.ndarray:
    return (batch.obs[name] if name in batch.obs else getattr(batch, name)).numpy()


def assert_same(a: Batch, b: Batch) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(column(a, name), column(b, name))


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("ticks", [7, 20, 53])  # before, at and after wrap-around
def test_windows_are_the_rows_that_were_added(num_envs: int, ticks: int) -> None:
    replay = Replay(SPEC, 20 * num_envs, num_envs)
    history = [make_rows(tick, num_envs) for tick in range(ticks)]
    for rows in history:
        replay.add(rows)
    assert len(replay) == min(ticks, 20) * num_envs
    batch = replay.sample(64, 6)
    starts, envs, length = replay.recent[-1]
    assert length == 6
    assert starts.min() >= max(0, ticks - 20)
    assert starts.max() + 6 <= ticks
    for name in COLUMNS:
        got = column(batch, name)
        assert got.dtype == (np.uint8 if name == "pixels" else np.float32)
        np.testing.assert_array_equal(got, plain(history, starts, envs, 6, name))
    assert_same(replay.window(starts, envs, 6), batch)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("parts", [[9], [1, 0, 8, 30], [45, 2], [20, 20], [7, 13, 61]])
def test_many_ticks_at_once_are_the_rows_and_slots_of_single_ones(
    num_envs: int, parts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also beyond the ring's end, more than once around it, and where a piece has to be cut."""
    monkeypatch.setattr(module, "CHUNK_BYTES", 900)
    single, many = (Replay(SPEC, 20 * num_envs, num_envs, seed=3) for _ in range(2))
    at = 0
    for ticks in parts:
        rows = [make_rows(tick, num_envs) for tick in range(at, at + ticks)]
        for one in rows:
            single.add(one)
        names = make_rows(0, num_envs)
        many.extend({k: np.stack([one[k] for one in rows]) if rows else v[None][:0] for k, v in names.items()})
        at += ticks
    assert_equal_replays(single, many)
    held = slice(min(at, 20) * num_envs)
    assert torch.equal(single._floats[held], many._floats[held])
    assert torch.equal(single._bytes["pixels"][held], many._bytes["pixels"][held])


def test_a_long_stretch_that_does_not_fit_is_refused_whole() -> None:
    replay = Replay(SPEC, 10, num_envs=2)
    rows = [make_rows(tick, 2) for tick in range(4)]
    good = {name: np.stack([one[name] for one in rows]) for name in rows[0]}
    for name, bad in (("state", good["state"][:3]), ("reward", good["reward"].T), ("reward", good["reward"][:, :1])):
        with pytest.raises(ValueError, match=r"reshape|expected \(T, 2\)"):
            replay.extend({**good, name: bad})
    with pytest.raises(TypeError, match="uint8"):
        replay.extend({**good, "pixels": good["pixels"].astype(np.int16)})
    assert len(replay) == 0
    replay.extend(good)
    assert len(replay) == 8


def test_a_head_without_needs_changes_no_draw() -> None:
    plain, asked = (Replay(SPEC, 60, num_envs=3, seed=4) for _ in range(2))
    for replay in (plain, asked):
        fill(replay, 0, 20)
    assert asked.sample_extra(Needs(particles=8), 6) == {}
    assert_same(plain.sample(9, 6), asked.sample(9, 6))


@pytest.mark.parametrize("ticks", [9, 30])  # before and after wrap-around
def test_recent_rows_are_the_newest_and_bring_no_observations(ticks: int) -> None:
    replay = Replay(SPEC, 60, num_envs=3)
    history = [make_rows(tick, 3) for tick in range(ticks)]
    for rows in history:
        replay.add(rows)
    batch = replay.sample_extra(Needs(recent_batch=400, recent_actions=10), 6)["recent"]
    assert batch.obs == {}
    assert batch.action.shape == (400, 1, 2)
    tick, env = np.divmod(batch.reward[:, 0].numpy().astype(int), 100)
    assert set(tick) == set(range(ticks - 4, ticks))  # ten rows are four ticks of three, rounded up
    assert set(env) == {0, 1, 2}
    for name in ("action", "is_first", "is_terminal"):
        expected = np.stack([history[t][name][e] for t, e in zip(tick, env, strict=True)])
        np.testing.assert_array_equal(getattr(batch, name)[:, 0].numpy(), expected)
    everything = replay.sample_extra(Needs(recent_batch=400, recent_actions=10_000), 6)["recent"]
    assert everything.reward.min() // 100 == max(0, ticks - 20)


@pytest.mark.parametrize("ticks", [9, 30])
def test_recent_windows_are_the_newest_and_whole(ticks: int) -> None:
    replay = Replay(SPEC, 60, num_envs=3)
    history = [make_rows(tick, 3) for tick in range(ticks)]
    for rows in history:
        replay.add(rows)
    batch = replay.sample_extra(Needs(recent_batch=200, recent_actions=20, recent_obs=True), 6)["recent"]
    assert batch.reward.shape == (200, 6)
    first, env = np.divmod(batch.reward[:, 0].numpy().astype(int), 100)
    assert set(first) == {ticks - 7, ticks - 6}  # twenty rows are seven ticks of three, which hold two windows of six
    for key in SPEC.obs:
        expected = np.stack([[history[t + i][key][e] for i in range(6)] for t, e in zip(first, env, strict=True)])
        np.testing.assert_array_equal(batch.obs[key].numpy(), expected)
    one = replay.sample_extra(Needs(recent_batch=9, recent_actions=1, recent_obs=True), 6)["recent"]
    assert set(one.reward[:, 0].numpy().astype(int) // 100) == {ticks - 6}  # fewer rows than a window: the newest one


def test_transitions_beside_the_slice_wait_until_there_are_enough() -> None:
    replay, needs = Replay(SPEC, 100), Needs(td_batch=40)
    fill(replay, 0, 40)
    assert replay.sample_extra(needs, 6) == {}
    fill(replay, 40, 41)
    assert replay.sample_extra(needs, 6)["td"].reward.shape == (8, 6)
    assert replay.sample_extra(needs, 2)["td"].reward.shape == (40, 2)
    assert replay.sample_extra(needs, 6, lost_rows=2)["td"].reward.shape == (14, 6)
    assert not replay.recent, "draws beside the slice are no batches of updates"


def test_extra_draws_go_on_where_a_saved_replay_stopped(tmp_path: Path) -> None:
    needs = Needs(td_batch=20, recent_batch=16, recent_actions=30)
    replay, other = Replay(SPEC, 60, num_envs=3, seed=4), Replay(SPEC, 60, num_envs=3)
    fill(replay, 0, 30)
    replay.sample_extra(needs, 6)
    other.load_chunks(tmp_path, replay.save_chunks(tmp_path))
    for _ in range(3):
        assert_same(replay.sample(5, 6), other.sample(5, 6))
        one, two = (r.sample_extra(needs, 6) for r in (replay, other))
        assert_same(one["td"], two["td"])
        assert torch.equal(one["recent"].action, two["recent"].action)


@pytest.mark.parametrize("ticks", [16, 40])
def test_starts_and_environments_are_uniform(ticks: int) -> None:
    replay = Replay(SPEC, 16 * 3, num_envs=3, seed=5)
    fill(replay, 0, ticks)
    counts = np.zeros((13, 3))
    for _ in range(40):
        replay.sample(500, 4)
        starts, envs, _ = replay.recent[-1]
        np.add.at(counts, (starts - (ticks - 16), envs), 1)
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3  # 13 starts x 3 environments, all possible


def test_ready_and_too_short() -> None:
    replay = Replay(SPEC, 20)
    fill(replay, 0, 4)
    assert replay.ready(4)
    assert not replay.ready(5)
    with pytest.raises(ValueError, match="holds 4"):
        replay.sample(1, 5)


def test_overwritten_and_unwritten_windows_are_refused() -> None:
    replay = Replay(SPEC, 10)
    fill(replay, 0, 15)
    replay.window([5, 10], [0, 0], 5)
    for start in (4, 11):
        with pytest.raises(ValueError, match="holds 5 to 14"):
            replay.window([start], [0], 5)
    with pytest.raises(ValueError, match="the replay has 1"):
        replay.window([5], [1], 5)


def test_bad_rows_are_refused() -> None:
    replay = Replay(SPEC, 10, num_envs=2)
    good = make_rows(0, 2)
    with pytest.raises(TypeError, match="uint8"):
        replay.add({**good, "pixels": good["pixels"].astype(np.float32)})
    with pytest.raises(ValueError, match="reshape"):
        replay.add({**good, "reward": np.float32(1.0)})
    with pytest.raises(KeyError):
        replay.add({key: value for key, value in good.items() if key != "action"})
    assert len(replay) == 0


def test_read_only_and_float64_rows_are_taken() -> None:
    replay = Replay(SPEC, 10, num_envs=2)
    rows = make_rows(0, 2)
    rows["reward"] = rows["reward"].astype(np.float64)
    for value in rows.values():
        value.flags.writeable = False
    replay.add(rows)
    assert replay.sample(1, 1).reward.dtype == torch.float32


def test_draws_follow_the_seed() -> None:
    a, b, c = (Replay(SPEC, 50, seed=seed) for seed in (1, 1, 2))
    for replay in (a, b, c):
        fill(replay, 0, 50)
    assert_same(a.sample(32, 3), b.sample(32, 3))
    c.sample(32, 3)
    assert (a.recent[-1].starts != c.recent[-1].starts).any()


# --- saving -----------------------------------------------------------------------------------------------------------


def saved(replay: Replay, folder: Path) -> dict[str, Any]:
    """A manifest as it comes back from a file."""
    return json.loads(json.dumps(replay.save_chunks(folder)))


def assert_equal_replays(a: Replay, b: Replay) -> None:
    assert len(a) == len(b)
    assert_same(a.sample(40, 5), b.sample(40, 5))
    np.testing.assert_array_equal(a.recent[-1].starts, b.recent[-1].starts)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("stops", [[9], [9, 12, 12, 20], [15, 35], [15, 22, 90, 95]])
def test_save_and_load(tmp_path: Path, num_envs: int, stops: list[int]) -> None:
    replay = Replay(SPEC, 20 * num_envs, num_envs, seed=1)
    at = 0
    for stop in stops:
        fill(replay, at, stop)
        at = stop
        replay.sample(8, 3)
        manifest = saved(replay, tmp_path)
        prune(tmp_path, manifest)
    other = Replay(SPEC, 20 * num_envs, num_envs, seed=2)
    other.load_chunks(tmp_path, manifest)
    assert_equal_replays(replay, other)
    for both in (replay, other):
        fill(both, at, at + 13)
    assert_equal_replays(replay, other)
    np.testing.assert_array_equal(other._floats, replay._floats)  # the same slots, not only the same rows

    manifest = saved(other, tmp_path)  # goes on where the other one stopped
    prune(tmp_path, manifest)
    third = Replay(SPEC, 20 * num_envs, num_envs)
    third.load_chunks(tmp_path, manifest)
    assert_equal_replays(other, third)


def test_small_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 300)  # three rows to a file
    replay, other = Replay(SPEC, 20, seed=1), Replay(SPEC, 20)
    fill(replay, 0, 33)
    manifest = saved(replay, tmp_path)
    assert len(manifest["files"]) > 6
    other.load_chunks(tmp_path, manifest)
    assert_equal_replays(replay, other)


def test_only_new_ticks_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(chunks, "checksum", lambda path, of=chunks.checksum: (read.append(path), of(path))[1])
    replay = Replay(SPEC, 1000)
    fill(replay, 0, 500)
    first = saved(replay, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(read) == 1
    fill(replay, 500, 510)
    second = saved(replay, tmp_path)
    assert len(read) == 2  # no checksum of an old file
    assert second["files"][0] == first["files"][0]
    new = {path.name: path for path in tmp_path.iterdir() if path.name not in before}
    assert len(new) == 1
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name in before} == before
    (path,) = new.values()
    with np.load(path) as arrays:
        assert {name: len(arrays[name]) for name in arrays} == dict.fromkeys(COLUMNS, 10)
        np.testing.assert_array_equal(arrays["state"][3], make_rows(503, 1)["state"])
    assert len(saved(replay, tmp_path)["files"]) == 2  # nothing new


def test_old_chunks_go_only_when_pruned(tmp_path: Path) -> None:
    replay = Replay(SPEC, 10, seed=3)
    fill(replay, 0, 10)
    old = saved(replay, tmp_path)
    twin = Replay(SPEC, 10)
    twin.load_chunks(tmp_path, old)
    fill(replay, 10, 25)
    new = saved(replay, tmp_path)
    Replay(SPEC, 10).load_chunks(tmp_path, old)  # the older checkpoint is still whole
    prune(tmp_path, new)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(file["name"] for file in new["files"])
    with pytest.raises(UserError, match=old["files"][0]["name"]):
        Replay(SPEC, 10).load_chunks(tmp_path, old)
    fresh = Replay(SPEC, 10)
    fresh.load_chunks(tmp_path, new)
    assert_equal_replays(replay, fresh)


def test_leftovers_of_a_crash_are_ignored_and_removed(tmp_path: Path) -> None:
    replay = Replay(SPEC, 50, seed=3)
    fill(replay, 0, 10)
    manifest = saved(replay, tmp_path)
    fill(replay, 10, 20)
    saved(replay, tmp_path)  # the crash came before the checkpoint that would have named these files
    (tmp_path / "rows-000000000020.npz.tmp").write_bytes(b"half")

    resumed = Replay(SPEC, 50)
    resumed.load_chunks(tmp_path, manifest)
    assert len(resumed) == 10
    for tick in range(10, 20):
        resumed.add(make_rows(tick + 1000, 1))  # another future
    new = saved(resumed, tmp_path)
    prune(tmp_path, new)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(file["name"] for file in new["files"])
    other = Replay(SPEC, 50)
    other.load_chunks(tmp_path, new)
    assert_equal_replays(resumed, other)


def test_a_fresh_replay_does_not_overwrite_named_files(tmp_path: Path) -> None:
    replay = Replay(SPEC, 50, seed=3)
    fill(replay, 0, 10)
    manifest = saved(replay, tmp_path)
    fresh = Replay(SPEC, 50)
    for tick in range(10):
        fresh.add(make_rows(tick + 1000, 1))
    saved(fresh, tmp_path)
    other = Replay(SPEC, 50)
    other.load_chunks(tmp_path, manifest)
    assert_equal_replays(replay, other)


def test_another_folder_gets_everything(tmp_path: Path) -> None:
    replay = Replay(SPEC, 50)
    fill(replay, 0, 10)
    saved(replay, tmp_path / "a")
    fill(replay, 10, 15)
    manifest = saved(replay, tmp_path / "b")
    other = Replay(SPEC, 50)
    other.load_chunks(tmp_path / "b", manifest)
    assert_equal_replays(replay, other)


@pytest.mark.parametrize("position", [0, 200, -1])
def test_one_wrong_byte_is_found(tmp_path: Path, position: int) -> None:
    replay = Replay(SPEC, 50)
    fill(replay, 0, 10)
    saved(replay, tmp_path)
    fill(replay, 10, 20)
    manifest = saved(replay, tmp_path)
    path = tmp_path / manifest["files"][1]["name"]
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    other = Replay(SPEC, 50)
    with pytest.raises(UserError, match=path.name):
        other.load_chunks(tmp_path, manifest)
    assert len(other) == 0
    path.write_bytes(data[:-5])
    with pytest.raises(UserError, match=path.name):
        other.load_chunks(tmp_path, manifest)


def test_a_gap_in_the_manifest_is_found(tmp_path: Path) -> None:
    replay = Replay(SPEC, 50)
    for stop in (10, 20, 30):
        fill(replay, stop - 10, stop)
        manifest = saved(replay, tmp_path)
    del manifest["files"][1]
    with pytest.raises(UserError, match="tick 10"):
        Replay(SPEC, 50).load_chunks(tmp_path, manifest)


def test_a_smaller_capacity_keeps_the_newest_rows(tmp_path: Path) -> None:
    replay = Replay(SPEC, 20)
    fill(replay, 0, 33)
    manifest = saved(replay, tmp_path)
    small = Replay(SPEC, 8)
    small.load_chunks(tmp_path, manifest)
    assert len(small) == 8
    assert_same(small.window([25], [0], 8), replay.window([25], [0], 8))


def test_rows_of_other_environments_are_refused(tmp_path: Path) -> None:
    replay = Replay(SPEC, 20)
    fill(replay, 0, 5)
    manifest = saved(replay, tmp_path)
    with pytest.raises(UserError, match="layout"):
        Replay(SPEC._replace(actions=box(3)), 20).load_chunks(tmp_path, manifest)
    with pytest.raises(UserError, match="num_envs"):
        Replay(SPEC, 20, num_envs=2).load_chunks(tmp_path, manifest)


def test_a_failed_write_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = Replay(SPEC, 20, seed=4)
    fill(replay, 0, 5)
    saved(replay, tmp_path)
    fill(replay, 5, 26)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(OSError, match="No space"):
            replay.save_chunks(tmp_path)
    assert not list(tmp_path.glob("*.tmp"))
    other = Replay(SPEC, 20)
    other.load_chunks(tmp_path, saved(replay, tmp_path))
    assert_equal_replays(replay, other)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_nbytes_is_what_is_allocated() -> None:
    assert nbytes(SPEC, 1) == 4 * 4 * 3 + 4 * (5 + 2 + 1 + 1 + 1)
    replay = Replay(SPEC, 99, num_envs=3)
    assert nbytes(SPEC, 99) == sum(x.nbytes for x in [replay._floats, *replay._bytes.values()])


def test_too_big_is_refused_before_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "empty", lambda *_, **__: pytest.fail("allocated"))
    with refusing(found="GiB", fix="replay.capacity"):
        Replay(SPEC, 10**15)
    monkeypatch.setattr(module, "available_bytes", lambda _: nbytes(SPEC, 1000))
    with refusing(fix="900"):
        Replay(SPEC, 1001)


def test_fewer_rows_than_environments_are_refused() -> None:
    with refusing("replay.capacity", found="7"):
        Replay(SPEC, 7, num_envs=4)


def test_choose_replay_device(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"cuda": 3 * nbytes(SPEC, 100), "cpu": 2**40}
    monkeypatch.setattr(module, "available_bytes", lambda device: free[device.type])
    said: list[str] = []
    assert choose_replay_device(SPEC, 100, "cpu", say=said.append).type == "cpu"
    assert choose_replay_device(SPEC, 100, "cuda:1", say=said.append) == torch.device("cuda:1")
    assert choose_replay_device(SPEC, 100, "cuda", "cpu", said.append).type == "cpu"
    free["cuda"] = 2 * nbytes(SPEC, 100)
    assert choose_replay_device(SPEC, 100, "cuda", say=said.append).type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError) as refused:
        choose_replay_device(SPEC, 100, "cpu", "cuda", said.append)
    assert refused.value.where == "replay.device=cuda"
    assert len(said) == 4
    assert "100 rows of 88 bytes" in said[0]


@pytest.mark.cuda
@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_on_the_gpu(tmp_path: Path, place: str) -> None:
    gpu = torch.device("cuda")
    reference, replay = Replay(SPEC, 60, 3, "cpu", seed=1), Replay(SPEC, 60, 3, place, seed=1)
    for both in (reference, replay):
        fill(both, 0, 33)
    got = replay.sample(16, 4, to=gpu)
    assert all(x.is_cuda for x in (*got.obs.values(), *got[1:]))
    on_host = Batch({key: x.cpu() for key, x in got.obs.items()}, *(x.cpu() for x in got[1:]))
    assert_same(on_host, reference.sample(16, 4))
    manifest = saved(replay, tmp_path)
    other = Replay(SPEC, 60, 3)
    other.load_chunks(tmp_path, manifest)
    assert_equal_replays(reference, other)


def bomb(shape: tuple[int, ...]) -> bytes:
    """An archive whose arrays are zeros of this shape."""
    data = io.BytesIO()
    np.savez_compressed(data, **{name: np.zeros(shape, np.float32) for name in ("state", "action", "reward")})
    return data.getvalue()


def claims(shape: tuple[int, ...]) -> bytes:
    """An archive whose one array claims a shape that it does not have."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        archive.writestr("state.npy", b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.encode())
    return data.getvalue()


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"",
        lambda: b"PK\x03\x04 no more",
        lambda: bomb((10, 2, 3)),
        lambda: bomb((10_000_000,)),
        lambda: claims((2**40,)),
        lambda: claims((-1,)),
    ],
)
def test_a_foreign_file_of_rows(tmp_path: Path, make: Callable[[], bytes]) -> None:
    replay = Replay(SPEC, 50)
    fill(replay, 0, 10)
    manifest = saved(replay, tmp_path)
    data = make()
    file = manifest["files"][0]
    (tmp_path / file["name"]).write_bytes(data)
    file.update(size=len(data), crc32=zlib.crc32(data))  # the manifest is as foreign as the file
    with pytest.raises(UserError) as caught:
        Replay(SPEC, 50).load_chunks(tmp_path, manifest)
    assert caught.value.where == f"{tmp_path / file['name']} is damaged"


def test_a_manifest_leads_nowhere_else(tmp_path: Path) -> None:
    replay = Replay(SPEC, 50)
    fill(replay, 0, 10)
    manifest = saved(replay, tmp_path / "replay")
    manifest["files"][0]["name"] = "../elsewhere.npz"
    with pytest.raises(UserError) as caught:
        Replay(SPEC, 50).load_chunks(tmp_path / "replay", manifest)
    assert caught.value.found == "'../elsewhere.npz'"
