"""``worldrl data``: what it makes is data that a run learns from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.formats.test_formats import DATA, arrays, npz
from tests.runs.test_data import COUNT, heater, trained
from worldrl.__main__ import main
from worldrl.commands import data
from worldrl.commands.data import joined
from worldrl.data.formats import d4rl, minari
from worldrl.errors import UserError
from worldrl.runs.data import checksum, read_data
from worldrl.types import box

MADE = ["data", "make", "--policy", "random", "--task", COUNT, "--steps", "37", "--allow", "tests"]


def test_a_second_call_makes_the_same_rows(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        assert main([*MADE[:2], str(tmp_path / name), *MADE[2:]]) == 0
        described = json.loads((tmp_path / name / "data" / minari.METADATA).read_text())
        found.append(described["rows_checksum"])
        assert (described["total_steps"], described["algorithm_name"], described["seed"]) == (37, "random", 0)
        assert {"worldrl", "commit", "mujoco"} <= described["versions"].keys()
    assert found[0] == found[1] == checksum(read_data(tmp_path / "a").columns)


def test_by_a_trained_run_with_references(tmp_path: Path) -> None:
    run = trained(tmp_path, task=COUNT, frames=20, **{"schedule.prefill": 10})
    arguments = ["--policy", str(run), "--steps", "12"]
    assert main(["data", "make", str(tmp_path / "a.npz"), *arguments]) == 0
    assert len(d4rl.read(tmp_path / "a.npz").steps().reward) == 12
    assert main(["data", "make", str(tmp_path / "a"), *arguments, "--expert", "9"]) == 0
    described = json.loads((tmp_path / "a" / "data" / minari.METADATA).read_text())
    assert (described["policy_run"], described["policy_checkpoint"]) == (str(run), "step-000000020")
    reference = minari.read(tmp_path / "a").reference
    assert reference is not None
    assert reference[1] == 9
    assert main(["data", "make", str(tmp_path / "b.npz"), *arguments, "--expert", "9"]) == 2


def test_who_recorded_a_set_is_passed_on(tmp_path: Path) -> None:
    minari.write(tmp_path / "a", DATA, {"algorithm_name": "SAC", "seed": 7, "rows_checksum": "old"})
    a, b, c = (str(tmp_path / name) for name in "abc")
    assert main(["data", "convert", a, b]) == 0
    assert main(["data", "make", c, "--join", a, b]) == 0
    told = read_data(tmp_path / "b").about
    assert told == {"algorithm_name": "SAC", "seed": 7, "converted": "a"}
    assert read_data(tmp_path / "c").about == {
        "combined": [{"path": a, "algorithm_name": "SAC", "seed": 7}, {"path": b, **told}]
    }


def test_joined_and_converted(tmp_path: Path) -> None:
    minari.write(tmp_path / "a", DATA)
    assert main(["data", "make", str(tmp_path / "b"), "--join", str(tmp_path / "a"), str(tmp_path / "a")]) == 0
    assert len(read_data(tmp_path / "b").columns["reward"]) == 2 * len(DATA.columns["reward"])
    assert main(["data", "convert", str(tmp_path / "a"), str(tmp_path / "a.hdf5")]) == 0
    found = read_data(tmp_path / "a.hdf5").columns
    np.testing.assert_allclose(found["action"], DATA.in_own_units().columns["action"], atol=1e-6)


def test_the_action_repeat_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    minari.write(tmp_path / "a", DATA._replace(action_repeat=4))
    for name, command in (("b", ["convert", "A", "B"]), ("c", ["make", "B", "--join", "A", "A"])):
        places = {"A": str(tmp_path / "a"), "B": str(tmp_path / name)}
        assert main(["data", *(places.get(word, word) for word in command)]) == 0
        assert minari.world(tmp_path / name)["env.action_repeat"] == 4
        described = json.loads((tmp_path / name / "data" / minari.METADATA).read_text())
        assert described["rows_checksum"] == checksum(read_data(tmp_path / name).columns)
    assert main(["data", "convert", str(tmp_path / "a"), str(tmp_path / "a.npz")]) == 0
    assert "env.action_repeat=4" in capsys.readouterr().err


def test_a_file_gets_its_bounds_on_the_way_into_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "a.npz", tmp_path / "b-v0"
    d4rl.write(path, DATA)
    for source in (["convert", str(path), str(out)], ["make", str(out), "--join", str(path)]):
        for wrong in ([], ["--low", "-3"], ["--low", "1", "--high", "1"], ["--low", "0", "--high", "1"]):
            assert main(["data", *source, *wrong]) == 2
            assert not out.exists()
        assert main(["data", *source, "--low", "-3", "--high", "1"]) == 0
        found = read_data(out)
        assert found.actions == DATA.actions
        np.testing.assert_allclose(found.columns["action"], DATA.columns["action"], atol=1e-6)
        assert main(["data", "convert", str(out), str(tmp_path / "c"), "--low", "-3", "--high", "1"]) == 2
        shutil.rmtree(out)
    assert len(capsys.readouterr().err.splitlines()) == 10


def test_bounds_may_be_one_for_each_entry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = heater(tmp_path / "a.npz"), tmp_path / "b-v0"
    for source in (["convert", str(path), str(out)], ["make", str(out), "--join", str(path)]):
        for wrong in ("0,0,0 3000,1", "0,0 2000,1", "0,1 3000,1", "[0] 3000"):
            low, high = wrong.split()
            assert main(["data", *source, "--low", low, "--high", high]) == 2
        assert "--low 0,0 --high 3000,1" in capsys.readouterr().err
        assert not out.exists()
        for low, expected in (("0,-1", (0.0, -1.0)), ("-1,0", (-1.0, 0.0)), ("[0,0]", (0.0, 0.0)), ("0", (0.0, 0.0))):
            assert main(["data", *source, "--low", low, "--high", "3000,1"]) == 0
            found = read_data(out)
            assert found.actions == box(2, expected, (3000.0, 1.0))
            own = found.in_own_units().columns
            np.testing.assert_allclose(own["action"][own["is_first"] == 0], np.load(path)["actions"], atol=1e-3)
            shutil.rmtree(out)


def test_files_of_choices_are_joined_with_the_largest(tmp_path: Path) -> None:
    few, many = ({**arrays(True), "actions": np.arange(15) % n} for n in (2, 3))
    npz(tmp_path / "a.npz", few)
    npz(tmp_path / "b.npz", many)
    minari.write(tmp_path / "c", d4rl.read(tmp_path / "b.npz"))
    found = joined([tmp_path / name for name in ("a.npz", "b.npz", "c")])
    numbers = found.columns["action"][found.columns["is_first"] == 0].argmax(-1)
    assert found.actions.size == 3
    assert numbers.tolist() == [*few["actions"], *many["actions"], *many["actions"]]


def test_a_task_is_taken_from_the_part_that_knows_it(tmp_path: Path) -> None:
    for name, task in (("a", ""), ("b", "Pendulum-v1"), ("c", "Other-v0")):
        minari.write(tmp_path / name, DATA._replace(task=task))
    assert joined([tmp_path / "a", tmp_path / "b"]).task == "Pendulum-v1"
    with pytest.raises(UserError, match="task"):
        joined([tmp_path / name for name in ("a", "b", "c")])


@pytest.mark.parametrize("out", ["{}/there.npz/x/b-v0", "{}/" + 300 * "n"])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    npz(tmp_path / "there.npz", arrays(True))
    monkeypatch.setattr(data, "collect", lambda *given: pytest.fail("was recorded"))
    assert main(["data", "make", out.format(tmp_path), *MADE[2:]]) == 2
    assert main(["data", "make", str(tmp_path / "a.npz"), *MADE[2:], "--obs", "both"]) == 2


@pytest.mark.parametrize(
    "other", [{"action_repeat": 2}, {"task": "Other-v0"}, {"actions": box(1, [-1.0], [1.0])}], ids=str
)
def test_data_of_another_kind_are_not_joined(tmp_path: Path, other: dict[str, Any]) -> None:
    minari.write(tmp_path / "a", DATA)
    minari.write(tmp_path / "b", DATA._replace(**other))
    assert main(["data", "make", str(tmp_path / "c"), "--join", str(tmp_path / "a"), str(tmp_path / "b")]) == 2


def test_info_finds_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = {**arrays(True), "actions": 3 * arrays()["actions"], "rewards": np.zeros(15)}
    bad["observations"] = bad["observations"].copy()
    bad["observations"][3, 0] = np.nan
    bad["observations"][:, 1] = 1.0
    bad["next_observations"] = np.ones_like(bad["next_observations"])
    path, picture = npz(tmp_path / "a.npz", bad), tmp_path / "a.png"
    assert main(["data", "info", str(path), "--picture", str(picture)]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("look at this")]
    for words in ("not finite", "beyond [-1, 1]", "every reward is 0", "constant state", "only next_observations"):
        assert any(words in line for line in told), words
    assert picture.stat().st_size > 1000


def test_constant_columns_of_many_rows_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In float32 the standard deviation of 1.3 over 5,000 rows is not zero."""
    n, rng = 5_000, np.random.default_rng(0)
    values = rng.normal(size=(n, 2)).astype(np.float32)
    actions = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    values[:, 1], actions[:, 0] = 1.3, 0.1
    ends = {"terminals": np.arange(n) % 100 == 99, "timeouts": np.zeros(n, bool)}
    path = npz(tmp_path / "a.npz", {"observations": values, "actions": actions, "rewards": np.ones(n), **ends})
    found = told(path, capsys)["look"]
    assert "constant state: 1 value, 1" in found
    assert "the same number in every step" in found


def test_what_was_lost_in_reading_is_told_after_writing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = npz(tmp_path / "a.npz", arrays())
    (note, *_) = read_data(path).notes
    for command in (["convert", path, tmp_path / "b.npz"], ["make", tmp_path / "c.npz", "--join", path]):
        assert main(["data", *map(str, command)]) == 0
        assert note in capsys.readouterr().err


def test_returns_that_are_not_finite_are_not_drawn(tmp_path: Path) -> None:
    nothing = {**arrays(True), "rewards": np.full(15, np.nan)}
    path, picture = npz(tmp_path / "a.npz", nothing), tmp_path / "a.png"
    assert main(["data", "info", str(path), "--picture", str(picture)]) == 0
    assert picture.stat().st_size > 1000


def told(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What ``info`` prints, by the first word of a line."""
    assert main(["data", "info", str(path)]) == 0
    found: dict[str, str] = {}
    for line in capsys.readouterr().out.splitlines():
        found[line.split()[0]] = found.get(line.split()[0], "") + line + "\n"
    return found


def test_info_has_the_range_of_every_entry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(heater(tmp_path / "a.npz"), capsys)
    assert all(number in found["actions"] for number in ("2985", "0.99"))
    assert "data.low=[0,0] data.high=[3000,1]" in found["look"]
    alike = np.random.default_rng(0).uniform(-1, 1, (15, 2))
    alike[:2] = [[1, 0.999], [-0.999, -1]]
    same = told(heater(tmp_path / "b.npz", actions=alike), capsys)
    assert same["actions"].endswith("recorded from -1 to 1\n")
    alike[:, 1] = abs(alike[:, 1])
    assert "data.low=[-1,0]" in told(heater(tmp_path / "c.npz", actions=alike), capsys)["look"]


def test_info_names_the_first_of_a_few_wrong_actions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = np.random.default_rng(0).uniform(-1, 1, (15, 2))
    wrong[4, 1] = 7
    assert "row 4 of actions" in told(heater(tmp_path / "a.npz", actions=wrong), capsys)["look"]
    assert "row 4 of actions" not in told(heater(tmp_path / "b.npz", actions=7 * wrong), capsys)["look"]


def test_info_has_whole_lengths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(npz(tmp_path / "a.npz", arrays(True)), capsys)["lengths"].split()[1:4] == ["1", "to", "5,"]


@pytest.mark.parametrize(
    ("scale", "needed"),
    [((1, 1), False), ((1, 30), False), ((0.1, 150), True), ((1, 300), True), ((0.001, 0.001), True)],
)
def test_info_knows_when_to_normalise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scale: tuple[float, float], needed: bool
) -> None:
    """An entry that does not vary has no scale."""
    values = {**arrays(True)}
    for name in ("observations", "next_observations"):
        values[name] = np.c_[values[name] * scale, np.zeros(15)]
    assert ("data.normalize" in told(npz(tmp_path / "a.npz", values), capsys)["look"]) is needed


def test_info_gives_no_advice_that_training_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bounds of a folder are known, so data.low is refused."""
    positive = {**DATA.columns, "action": np.abs(DATA.columns["action"])}
    minari.write(tmp_path / "a", DATA._replace(columns=positive))
    assert main(["data", "info", str(tmp_path / "a")]) == 0
    assert "data.low" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "ignored"),
    [
        (
            "--join THERE THERE",
            ["--steps 5", "--seed 1", "--task x", "--obs state", "--checkpoint last", "--mode", "--expert 3"],
        ),
        ("--policy random --task x", ["--checkpoint best", "--mode"]),
        ("--policy THERE", ["--task x", "--obs pixels"]),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(
    tmp_path: Path, source: str, ignored: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ignored:
        words = f"{source} {option}".replace("THERE", str(tmp_path)).split()
        assert main(["data", "make", str(tmp_path / "out"), *words]) == 2
        assert capsys.readouterr().err.startswith(f"{option.split()[0]}: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["make", "OUT"],
        ["make", "OUT", "--policy", "random"],
        ["make", "OUT", "--policy", "no/run"],
        ["make", "OUT", "--policy", "no/run", "--task", COUNT],
        ["convert", "THERE", "OUT.csv"],
        ["make", "OUT", "--policy", "random", "--join", "x"],
        ["make", "THERE", "--policy", "random", "--task", COUNT],
        ["make", "OUT", "--join", "THERE", "OTHER"],
        ["info", "nothing"],
        ["info", 300 * "n"],
        ["convert", "nothing", "OUT"],
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    other = {**arrays(True), "observations": np.zeros((15, 5)), "next_observations": np.zeros((15, 5))}
    places = {
        "OUT": tmp_path / "out",
        "THERE": npz(tmp_path / "there.npz", arrays(True)),
        "OTHER": npz(tmp_path / "other.npz", other),
    }
    assert main(["data", *(str(places.get(word, word)) for word in arguments), "--allow", "tests"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
