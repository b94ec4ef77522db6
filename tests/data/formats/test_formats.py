"""Data sets in files: written and read, of both layouts, and whatever a stranger may have put there."""

from __future__ import annotations

import json
import os
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.data.test_episodes import flat, made
from worldrl.data.episodes import Episode, Recorded, rows_of_episodes
from worldrl.data.formats import d4rl, format_of, minari
from worldrl.errors import UserError
from worldrl.types import box, choice

LOW, HIGH = (-3.0,), (1.0,)
DATA = Recorded(rows_of_episodes(made()), box(1, LOW, HIGH), "Pendulum-v1", (-1000.0, -100.0), unit=True)


def arrays(with_next: bool = False) -> dict[str, np.ndarray]:
    steps = flat(made(), with_next)
    found = {"observations": steps.obs["state"], "actions": steps.action, "rewards": steps.reward}
    found |= {"terminals": steps.terminal, "timeouts": steps.timeout}
    return found if steps.next_obs is None else {**found, "next_observations": steps.next_obs["state"]}


def hdf5(path: Path, values: dict[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in values.items():
            file[name] = value
    return path


def npz(path: Path, values: dict[str, np.ndarray]) -> Path:
    np.savez(path, **values)  # type: ignore[arg-type]
    return path


def same(one: Recorded, other: Recorded) -> None:
    assert one.columns.keys() == other.columns.keys()
    for name, values in one.columns.items():
        np.testing.assert_allclose(values, other.columns[name], atol=1e-6, err_msg=name)


# --- D4RL -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".hdf5"])
def test_d4rl_written_and_read(tmp_path: Path, suffix: str) -> None:
    """Actions are in the task's own units, whose bounds the file does not know."""
    path = tmp_path / f"mine{suffix}"
    d4rl.write(path, DATA)
    assert format_of(path) is d4rl
    same(d4rl.read(path), DATA.in_own_units())
    assert d4rl.world(path) == {"env.obs": "state", "env.action_repeat": 1}


def test_both_kinds_of_file_hold_the_same(tmp_path: Path) -> None:
    for with_next in (False, True):
        one, other = hdf5(tmp_path / "a.hdf5", arrays(with_next)), npz(tmp_path / "a.npz", arrays(with_next))
        same(d4rl.read(one), d4rl.read(other))


def test_steps_that_lead_nowhere_are_told(tmp_path: Path) -> None:
    found = d4rl.read(npz(tmp_path / "a.npz", arrays()))
    assert any("3 steps" in note for note in found.notes)
    silent = {**arrays(True), "timeouts": np.zeros(15, bool)}
    assert any("2 episodes" in note for note in d4rl.read(npz(tmp_path / "b.npz", silent)).notes)


def test_next_observations_that_show_the_next_episode_are_not_used(tmp_path: Path) -> None:
    """Some recorders write the row that follows, which at the end of an episode is the next one's first."""
    without = arrays()
    moved = np.roll(without["observations"], -1, axis=0)
    found = d4rl.read(npz(tmp_path / "moved.npz", {**without, "next_observations": moved}))
    plain = d4rl.read(npz(tmp_path / "plain.npz", without))
    same(found, plain)
    assert len(found.notes) == len(plain.notes) + 1
    assert d4rl.read(npz(tmp_path / "right.npz", arrays(True))).notes == ()


def test_numbers_beyond_float32_are_found_without_a_warning(tmp_path: Path) -> None:
    file = npz(tmp_path / "a.npz", {**arrays(True), "observations": np.full((15, 2), 1e300)})
    assert not np.isfinite(d4rl.read(file).columns["state"]).all()


def recorded(shape: tuple[int, ...], dtype: type) -> Recorded:
    """Two episodes of what a run on a grid or on stacked screens has seen, as vectors."""
    rng = np.random.default_rng(0)
    seen = [rng.integers(0, 2, (6, *shape)).astype(dtype) for _ in range(2)]
    episodes = [Episode({"state": obs}, np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1]], np.ones(5), True) for obs in seen]
    return Recorded(rows_of_episodes(episodes), choice(3), unit=True)


@pytest.mark.parametrize(("shape", "dtype"), [((10, 10, 4), np.float32), ((84, 84, 1), np.uint8)])
def test_grids_and_screens_keep_their_form(tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    """What ``worldrl data`` records of a run on MinAtar, or on a stack of Atari's screens, that run can learn from."""
    data = recorded(shape, dtype)
    minari.write(tmp_path / "a", data)
    found = minari.read(tmp_path / "a")
    assert found.obs == data.obs
    assert minari.world(tmp_path / "a")["env.obs"] == "state"
    same(found, data)


def test_a_grid_of_floats_in_a_flat_file_is_no_image(tmp_path: Path) -> None:
    data = recorded((10, 10, 4), np.float32)
    d4rl.write(tmp_path / "a.hdf5", data)
    assert d4rl.read(tmp_path / "a.hdf5").obs == data.obs
    assert d4rl.world(tmp_path / "a.hdf5")["env.obs"] == "state"


def test_following_rows_that_show_no_end_are_told(tmp_path: Path) -> None:
    """If time-outs are missing, moved observations look like one long episode, which a continuing task may have."""
    n = d4rl.ENDLESS + 2
    seen = np.random.default_rng(0).random((n, 2))
    flat = {"observations": seen, "next_observations": np.roll(seen, -1, 0), "actions": np.zeros((n, 1))}
    flat |= {"rewards": np.zeros(n), "terminals": np.zeros(n)}
    assert any("time-outs missing" in note for note in d4rl.read(npz(tmp_path / "a.npz", flat)).notes)


def test_whole_numbers_are_choices(tmp_path: Path) -> None:
    number = np.arange(15) % 3
    found = d4rl.read(npz(tmp_path / "a.npz", {**arrays(True), "actions": number}))
    assert found.actions == choice(3)
    led = found.columns["is_first"] == 0
    assert found.columns["action"][led].argmax(-1).tolist() == number.tolist()
    d4rl.write(tmp_path / "b.npz", found)
    same(d4rl.read(tmp_path / "b.npz"), found)


def test_references_of_d4rl_go_by_the_name_of_the_file(tmp_path: Path) -> None:
    for name, reference in {  # the returns that score 0 and 100, from D4RL's table
        "hopper-medium-v2": (-20.272305, 3234.3),
        "hopper_medium_replay-v2": (-20.272305, 3234.3),
        "halfcheetah-expert-v2": (-280.178953, 12135.0),
        "walker2d-random-v0": (1.629008, 4592.3),
        "ant-medium-v2": (-325.6, 3879.7),
        "pen-human-v1": (96.262799, 3076.8331),
        "hammer-cloned-v1": (-274.856578, 12794.1348),
        "door-expert-v1": (-56.512833, 2880.5693),
        "relocate-human-v0": (-6.425911, 4233.8778),
        "maze2d-umaze-v1": (23.85, 161.86),
        "kitchen-mixed-v0": (0.0, 4.0),
        "antmaze-umaze-diverse-v2": (0.0, 1.0),
    }.items():
        assert d4rl.read(npz(tmp_path / f"{name}.npz", arrays())).reference == reference
    for name in (
        "mine",
        "hopper-v5",
        "hopper-medium-v5",
        "hopper-medium-v2-mine",
        "maze2d-large-v1",
        "my-hopper-medium-v2",
    ):
        assert d4rl.read(npz(tmp_path / f"{name}.npz", arrays())).reference is None


def test_the_shape_of_an_array_is_read_without_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = {**arrays(True), "observations": np.zeros((15, 64, 64, 3), np.uint8)}
    path = npz(tmp_path / "a.npz", large)
    with monkeypatch.context() as patch:
        patch.setattr(np, "load", None)
        assert d4rl.world(path)["env.obs"] == "pixels"
    with pytest.raises(UserError):
        d4rl.world(npz(tmp_path / "b.npz", {"rewards": np.zeros(3)}))


def test_a_long_header_takes_no_memory(tmp_path: Path) -> None:
    """A few kilobytes that unfold to a header of 50 MB, which numpy would read whole."""
    path = npz(tmp_path / "a.npz", arrays())
    header = b"\x93NUMPY\x02\x00" + (50_000_000).to_bytes(4, "little") + b" " * 50_000_000
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("observations.npy", header)
    del header
    tracemalloc.start()
    with pytest.raises(UserError):
        d4rl.read(path)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def _without_rewards(path: Path) -> h5py.File:
    """A file that is sound except for its rewards; sound ones are in it under another name, and in a second file."""
    hdf5(path.with_suffix(".other"), arrays())
    file = h5py.File(path, "w")
    for name, value in arrays().items():
        file["sound" if name == "rewards" else name] = value
    return file


def _external(path: Path) -> None:
    with _without_rewards(path) as file:
        file["rewards"] = h5py.ExternalLink(str(path.with_suffix(".other")), "rewards")


def _soft(path: Path) -> None:
    with _without_rewards(path) as file:
        file["rewards"] = h5py.SoftLink("/sound")


def _objects(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name, value in arrays().items():
            file[name] = value if name != "rewards" else np.array(["x"] * 15, dtype=h5py.string_dtype())


def _elsewhere(path: Path) -> None:
    path.with_suffix(".raw").write_bytes(bytes(60))
    with _without_rewards(path) as file:
        file.create_dataset("rewards", (15,), "f4", external=[(str(path.with_suffix(".raw")), 0, 60)])


def _virtual(path: Path) -> None:
    layout = h5py.VirtualLayout((15,), "f8")
    layout[:] = h5py.VirtualSource(str(path.with_suffix(".other")), "rewards", (15,))
    with _without_rewards(path) as file:
        file.create_virtual_dataset("rewards", layout)


def _filtered(path: Path) -> None:
    with _without_rewards(path) as file:
        file.create_dataset("rewards", data=np.arange(15, dtype="i4"), scaleoffset=3)


@pytest.mark.parametrize(
    ("write", "found"),
    [(_external, "a link"), (_soft, "a link"), (_elsewhere, "an array in another file"),
     (_virtual, "an array in another file"), (_filtered, "filter 6")],
)  # fmt: skip
def test_nothing_outside_of_a_file_is_read(tmp_path: Path, write: Callable[[Path], None], found: str) -> None:
    write(tmp_path / "data")
    with pytest.raises(UserError) as refused:
        d4rl.read(tmp_path / "data")
    assert refused.value.found == found
    with h5py.File(tmp_path / "data") as file:
        assert file["rewards"].shape == (15,)  # h5py itself follows it


def _cut(path: Path) -> None:
    hdf5(path, {**arrays(), "observations": np.random.default_rng(0).random((15, 500))})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _missing(path: Path) -> None:
    hdf5(path, {name: value for name, value in arrays().items() if name != "terminals"})


def _short(path: Path) -> None:
    hdf5(path, {**arrays(), "actions": np.zeros((14, 1))})


def _pickled(path: Path) -> None:
    npz(path, {**arrays(), "rewards": np.array([object()] * 15, dtype=object)})


def _no_arrays(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "b")


def _broken(path: Path) -> None:
    np.savez_compressed(path, **arrays())  # type: ignore[arg-type]
    data = bytearray(path.with_suffix(".npz").read_bytes())
    data[200:260] = bytes(60)
    path.with_suffix(".npz").write_bytes(data)


def _floating_images(path: Path) -> None:
    npz(path, {**arrays(), "observations": np.zeros((15, 64, 64, 3))})


def _many_choices(path: Path) -> None:
    npz(path, {**arrays(), "actions": np.arange(15) * 10_000_000})


def _no_numbers(path: Path) -> None:
    npz(path, {**arrays(), "actions": np.zeros((15, 0))})


def _endless(path: Path) -> None:
    n = d4rl.ENDLESS + 2
    npz(
        path,
        {
            "observations": np.zeros((n, 2)),
            "actions": np.zeros((n, 1)),
            "rewards": np.zeros(n),
            "terminals": np.zeros(n),
        },
    )


def _half(path: Path) -> None:
    file = npz(path.with_suffix(".npz"), arrays())
    file.write_bytes(file.read_bytes()[:500])


def _negative_choice(path: Path) -> None:
    npz(path, {**arrays(), "actions": np.append(-1, np.zeros(14, np.int64))})


def _strings(path: Path) -> None:
    npz(path.with_suffix(".npz"), {**arrays(True), "rewards": np.array(["1"] * 15)})


def _hidden(path: Path) -> None:
    """An entry without its suffix, which numpy would read but whose size nobody has looked at."""
    file = npz(path.with_suffix(".npz"), arrays(True))
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(path.with_suffix(".new"), "w") as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
        other.writestr("observations", archive.read("observations.npy"))
    path.with_suffix(".new").replace(file)


def _overflowing(path: Path) -> None:
    npz(path.with_suffix(".npz"), arrays(True))
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (" + str(2**70).encode() + b", 0), }"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(path.with_suffix(".npz"), "w") as archive:
        archive.writestr("observations.npy", data)
        for name in ("actions", "rewards", "terminals"):
            archive.writestr(f"{name}.npy", data)


@pytest.mark.parametrize(
    "write",
    [
        _strings,
        _hidden,
        _overflowing,
        _objects,
        _cut,
        _missing,
        _short,
        _pickled,
        _no_arrays,
        _endless,
        _half,
        _negative_choice,
        _broken,
        _floating_images,
        _many_choices,
        _no_numbers,
    ],
)
def test_what_is_no_data_set_is_one_line(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "data"
    write(path)
    path = path if path.exists() else path.with_suffix(".npz")
    with pytest.raises(UserError) as refused:
        format_of(path).read(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [np.nan, 0.5, -1.0])
def test_an_end_is_yes_or_no(tmp_path: Path, value: float) -> None:
    terminals = np.zeros(15)
    terminals[[4, 9, 14]] = 1, value, 1
    npz(tmp_path / "data", {**arrays(), "terminals": terminals})
    path = tmp_path / "data.npz"
    with pytest.raises(UserError) as refused:
        format_of(path).read(path)
    assert refused.value.found == f"{value} in row 9"


# --- Minari -----------------------------------------------------------------------------------------------------------


def test_minari_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "mine-v0"
    minari.write(path, DATA, {"algorithm_name": "test", "action_repeat": 2})
    assert format_of(path) is minari
    found = minari.read(path)
    same(found, DATA)
    assert (found.actions, found.task, found.reference, found.unit) == (DATA.actions, DATA.task, DATA.reference, True)
    assert minari.world(path) == {"env.obs": "state", "env.action_repeat": 2, "task": "Pendulum-v1"}
    assert minari.claims(path / "data")
    with pytest.raises(UserError):
        minari.write(path, DATA)


def test_minari_reads_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("minari")
    monkeypatch.setenv(minari.ROOT, str(tmp_path))
    minari.write(tmp_path / "mine-v0", DATA)
    found = library.load_dataset("mine-v0")
    assert (found.total_episodes, found.total_steps) == (5, 15)
    assert minari.stored_at("mine-v0") == tmp_path / "mine-v0"
    for theirs, ours in zip(found.iterate_episodes(), made(), strict=True):
        np.testing.assert_array_equal(theirs.observations, ours.obs["state"])
        np.testing.assert_allclose(theirs.actions, -3.0 + 2.0 * (ours.action + 1.0), atol=1e-6)
        assert bool(theirs.terminations[-1]) == ours.terminal != bool(theirs.truncations[-1])


@pytest.mark.filterwarnings("ignore::UserWarning")  # what it would like to be told
@pytest.mark.parametrize("plain", [True, False], ids=["of one length", "of many lengths"])
def test_images_that_minari_codes_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: bool) -> None:
    library = pytest.importorskip("minari")
    spaces = pytest.importorskip("gymnasium").spaces
    monkeypatch.setenv(minari.ROOT, str(tmp_path))
    rng, ramp = np.random.default_rng(0), np.linspace(0, 200, 64)
    images = np.broadcast_to((ramp[:, None, None] + ramp[:3] * 9)[None], (4, 64, 64, 3)).astype(np.uint8).copy()
    if not plain:
        images[1:, :32] = rng.integers(0, 255, (3, 32, 64, 3))
    buffer = library.data_collector.EpisodeBuffer(
        observations=images,
        actions=np.zeros((3, 1), np.float32),
        rewards=[1.0, 2.0, 3.0],
        terminations=[False] * 3,
        truncations=[False, False, True],
    )
    space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    about = {"observation_space": space, "action_space": spaces.Box(-1, 1, (1,)), "algorithm_name": "x"}
    written = library.create_dataset_from_buffers("coded-v0", [buffer], **about)
    with h5py.File(tmp_path / "coded-v0" / "data" / minari.FILE) as opened:
        stored = opened["episode_0/observations"]
        assert (stored.dtype.kind == "O") is not plain
    found = minari.read(tmp_path / "coded-v0")
    assert found.notes == (minari.LOSSY,)
    assert minari.world(tmp_path / "coded-v0")["env.obs"] == "pixels"
    theirs = next(written.iterate_episodes()).observations
    assert np.abs(found.columns["pixels"].astype(int) - theirs).max() <= 2  # two decoders of one file
    library.create_dataset_from_buffers("kept-v0", [buffer], jpeg_encoding=False, **about)
    np.testing.assert_array_equal(minari.read(tmp_path / "kept-v0").columns["pixels"], images)


@pytest.mark.filterwarnings("ignore::UserWarning")  # what it would like to be told
def test_what_minari_writes_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Observations by name, a choice of actions, episodes of its own collector's buffers."""
    library = pytest.importorskip("minari")
    gymnasium = pytest.importorskip("gymnasium")
    monkeypatch.setenv(minari.ROOT, str(tmp_path))
    spaces = gymnasium.spaces
    space = spaces.Dict({"b": spaces.Box(-9, 9, (2,)), "a": spaces.Box(-9, 9, (1,))})
    buffers = []
    for number in range(3):
        seen = {"a": np.full((4, 1), number, np.float32), "b": np.full((4, 2), -number, np.float32)}
        end = np.array([False, False, True])
        buffers.append(
            library.data_collector.EpisodeBuffer(
                observations=seen,
                actions=np.array([0, 1, 2]),
                rewards=[1.0, 2.0, 3.0],
                terminations=end.tolist(),
                truncations=(~end & end).tolist(),
            )
        )
    library.create_dataset_from_buffers(
        "theirs-v0", buffers, observation_space=space, action_space=spaces.Discrete(3), algorithm_name="x"
    )
    found = minari.read(tmp_path / "theirs-v0")
    assert found.actions == choice(3)
    assert found.columns["state"].shape == (12, 3)
    assert found.columns["state"][5].tolist() == [1.0, -1.0, -1.0]
    assert found.columns["is_terminal"].reshape(3, 4)[:, -1].tolist() == [1.0] * 3


@pytest.mark.parametrize(
    "rows", [np.zeros((9, 70), np.uint8), np.zeros((4, 4_000_000), np.uint8)], ids=["too many", "too long"]
)
def test_coded_images_are_counted_and_measured_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: np.ndarray
) -> None:
    monkeypatch.setattr(minari, "decode", lambda *given: pytest.fail("was decoded"))
    minari.write(tmp_path / "a", DATA)
    image = json.dumps({"type": "Box", "dtype": "uint8", "shape": [8, 8, 3], "low": 0, "high": 255})
    file = tmp_path / "a" / "data" / minari.METADATA
    file.write_text(json.dumps({**json.loads(file.read_text()), "observation_space": image}))
    with h5py.File(tmp_path / "a" / "data" / minari.FILE, "a") as opened:
        for episode in opened.values():
            del episode["observations"]
            episode.create_dataset("observations", data=rows, compression="gzip")
    with pytest.raises(UserError, match="shape"):
        minari.read(tmp_path / "a")


def test_choices_keep_the_numbers_of_their_task(tmp_path: Path) -> None:
    action = np.eye(3, dtype=np.float32)[np.arange(len(DATA.columns["reward"])) % 3]
    action *= 1.0 - DATA.columns["is_first"][:, None]
    data = DATA._replace(columns={**DATA.columns, "action": action}, actions=choice(3, first=5), unit=True)
    minari.write(tmp_path / "a", data)
    same(minari.read(tmp_path / "a"), data)
    with h5py.File(tmp_path / "a" / "data" / minari.FILE) as stored:
        assert {*np.concatenate([episode["actions"][:] for episode in stored.values()])} == {5, 6, 7}


def test_many_short_episodes_take_little_space(tmp_path: Path) -> None:
    minari.write(tmp_path / "a", DATA._replace(columns=rows_of_episodes(made((20,) * 100, (True,) * 100))))
    assert (tmp_path / "a" / "data" / minari.FILE).stat().st_size < 100 * 5_000


def test_episodes_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    many = made((1,) * 12, (True,) * 12)
    data = DATA._replace(columns=rows_of_episodes(many))
    minari.write(tmp_path / "a", data)
    same(minari.read(tmp_path / "a"), data)


@pytest.mark.parametrize(
    "changes",
    [
        {"observation_space": json.dumps({"type": "Box", "shape": [9], "dtype": "float32"})},
        {"action_space": json.dumps({"type": "Discrete", "start": 2**40, "n": 3})},
        {"ref_min_score": 10**400},
    ],
    ids=["shape", "start", "score"],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(UserError):
        minari.read(described(tmp_path / "a", **changes))


def test_bounds_are_not_invented(tmp_path: Path) -> None:
    d4rl.write(tmp_path / "a.npz", DATA)
    with pytest.raises(UserError, match="bounds"):
        minari.write(tmp_path / "b", d4rl.read(tmp_path / "a.npz"))
    assert not (tmp_path / "b").exists()


def test_a_column_of_whole_numbers_is_a_choice_too(tmp_path: Path) -> None:
    found = d4rl.read(npz(tmp_path / "a.npz", {**arrays(True), "actions": (np.arange(15) % 3)[:, None]}))
    assert found.actions == choice(3)


def test_room_is_asked_for_floats_and_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a file holds in one byte takes four, and a choice of n takes n floats."""
    asked: list[int] = []
    monkeypatch.setattr(d4rl, "check_room", lambda path, size: asked.append(size))
    small = {**arrays(True), "actions": np.append(np.zeros(14, int), 5000)}
    small |= {name: small[name].astype(np.uint8) for name in ("observations", "next_observations")}
    d4rl.read(npz(tmp_path / "a.npz", small))
    assert asked[0] >= 2 * 4 * 2 * small["observations"].size
    assert asked[1] >= 2 * 4 * 15 * 5001


@pytest.mark.parametrize("name", ["a", "a.npz", "a.hdf5"])
def test_nothing_is_left_of_a_set_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def full(*given: object, **named: object) -> None:
        raise RuntimeError("Can't decrement id ref count (no space left on device)")

    monkeypatch.setattr(h5py.Group, "create_dataset", full)
    monkeypatch.setattr(np, "savez_compressed", lambda *given, **named: os.write(-1, b""))
    with pytest.raises(UserError):
        (minari if name == "a" else d4rl).write(tmp_path / name, DATA)
    assert not list(tmp_path.iterdir())


def described(path: Path, **changes: object) -> Path:
    minari.write(path, DATA)
    file = path / "data" / minari.METADATA
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return path


def test_only_an_id_of_the_description_is_used(tmp_path: Path) -> None:
    evil = json.dumps({"id": "os:system", "entry_point": "os:system", "kwargs": {"command": "touch x"}})
    assert minari.read(described(tmp_path / "a", env_spec=evil)).task == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"action_space": "{}"},
        {"action_space": "["},
        {"observation_space": 3},
        {"action_space": '{"type": "Text"}'},
        {"observation_space": '{"type": "Dict", "subspaces": {}}'},
        {"action_space": '{"type": "Box", "shape": [1], "low": [9], "high": [-9]}'},
        {"action_repeat": 0},
        {"action_repeat": [4]},
    ],
)
def test_a_description_that_says_nothing_is_one_line(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(UserError):
        minari.read(described(tmp_path / "a", **changes))


@pytest.mark.parametrize(
    "changes", [{"observation_space": '{"type": "Dict"}'}, {"action_space": '{"type": "Box", "shape": [1]}'}]
)
def test_a_description_that_lacks_something_is_one_line(tmp_path: Path, changes: dict[str, object]) -> None:
    path = described(tmp_path / "a", **changes)
    with pytest.raises(UserError) as refused:
        minari.read(path)
    assert minari.METADATA in refused.value.where


def test_an_end_before_the_last_step_is_refused(tmp_path: Path) -> None:
    minari.write(tmp_path / "a", DATA)
    with h5py.File(tmp_path / "a" / "data" / minari.FILE, "a") as file:
        file["episode_0/terminations"][0] = True
    with pytest.raises(UserError) as refused:
        minari.read(tmp_path / "a")
    assert "episode_0" in refused.value.where


def test_a_shape_that_is_too_large_allocates_nothing(tmp_path: Path) -> None:
    huge = json.dumps({"type": "Box", "shape": [10**12], "low": 0.0, "high": 1.0})
    with pytest.raises(UserError) as refused:
        minari.read(described(tmp_path / "a", action_space=huge))
    assert refused.value.found == "1,000,000,000,000 numbers"
    for name, found in (("observations", "GiB"), ("actions", "shape (1000000000000, 2)")):
        minari.write(tmp_path / name, DATA)
        with h5py.File(tmp_path / name / "data" / minari.FILE, "a") as file:
            del file[f"episode_1/{name}"]  # 16 TB of zeros take no room in a file
            file.create_dataset(f"episode_1/{name}", (10**12, 2), "f8", chunks=(10**6, 2))
        with pytest.raises(UserError) as refused:
            minari.read(tmp_path / name)
        assert found in refused.value.found


def test_actions_beyond_the_bounds_of_a_description_are_told_where_these_are(tmp_path: Path) -> None:
    narrow = json.dumps({"type": "Box", "shape": [1], "low": [-0.1], "high": [0.1]})
    with pytest.raises(UserError) as refused:
        minari.read(described(tmp_path / "a", action_space=narrow))
    assert "of action, episode 0" in refused.value.found
    assert "action_space" in refused.value.fix


def test_an_id_is_told_where_minari_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(minari.ROOT, "/somewhere")
    with pytest.raises(UserError) as refused:
        format_of(Path("mujoco/hopper/medium-v0"))
    assert os.fspath(Path("/somewhere/mujoco/hopper/medium-v0")) in refused.value.fix


def test_a_path_is_no_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(minari.ROOT, "/somewhere")
    with pytest.raises(UserError) as refused:
        format_of(tmp_path / "medium-v0")
    assert "/somewhere" not in refused.value.fix


def test_the_agent_of_the_package_is_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        format_of(Path("demo"))
    assert "data make" in refused.value.fix
