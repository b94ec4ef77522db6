"""Reading run folders and putting curves on one axis."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.report.toy_runs import make_phases, make_run, write_run
from worldrl.errors import UserError
from worldrl.report.curves import (
    Curve,
    align,
    find_runs,
    meeting,
    read_phases,
    read_run,
    read_runs,
    task_name,
    unlabelled_differences,
)


def curve(frames: list[float], values: list[float]) -> Curve:
    return Curve(np.array(frames, float), np.array(values, float))


def message(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- curves -----------------------------------------------------------------------------------------------------------


def test_a_curve_is_linear_between_its_points_and_level_beyond() -> None:
    assert curve([0, 10, 20], [0, 5, 1]).at(np.array([-5, 4, 10, 15, 99])).tolist() == [0, 2, 5, 3, 1]


def test_until_ends_where_it_should() -> None:
    whole = curve([0, 10, 20], [0, 5, 1])
    for end, frames, values in ((15, [0, 10, 15], [0, 5, 3]), (10, [0, 10], [0, 5]), (50, [0, 10, 20], [0, 5, 1])):
        part = whole.until(end)
        assert (part.frames.tolist(), part.values.tolist()) == (frames, values)


def test_smoothing_is_the_mean_of_the_last_frames() -> None:
    smooth = curve([0, 1, 2, 10, 11], [4, 2, 6, 8, 10]).smoothed(2)
    assert smooth.values.tolist() == [4, 3, 4, 8, 9]
    noisy = curve(list(range(50)), np.random.default_rng(0).normal(size=50).tolist())
    by_hand = [noisy.values[max(0, i - 6) : i + 1].mean() for i in range(50)]
    np.testing.assert_allclose(noisy.smoothed(7).values, by_hand)
    assert curve([0, 1, 2, 3], [1, 1e22, 1, 1]).smoothed(1).values.tolist() == [1, 1e22, 1, 1]  # it does not linger


def test_aligned_curves_share_the_points_of_all() -> None:
    frames, values = align([curve([0, 5, 9], [0, 5, 9]), curve([2, 6, 20], [4, 0, 14])])
    assert frames.tolist() == [2, 5, 6, 9]
    np.testing.assert_allclose(values, [[2, 5, 6, 9], [4, 1, 0, 3]])


def test_equal_axes_are_left_as_they_are() -> None:
    frames, values = align([curve([0, 5], [1, 2]), curve([0, 5], [3, 4])])
    assert (frames.tolist(), values.tolist()) == ([0, 5], [[1, 2], [3, 4]])


# --- finding ----------------------------------------------------------------------------------------------------------


def test_runs_are_found_at_any_depth_once_and_in_order(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a" / "deep" / "1", [1])
    second = make_run(tmp_path / "b", [1])
    (second / "replay" / "inner").mkdir(parents=True)
    (tmp_path / "c" / ".hydra").mkdir(parents=True)
    (tmp_path / "c" / ".hydra" / "config.yaml").write_text("job: 1")
    assert find_runs([tmp_path, second, tmp_path / "a"]) == [first, second]


def test_where_no_run_is_the_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    make_run(tmp_path / "run", [1])
    assert f"{tmp_path / 'empty'}: found no run in or below it" in message(find_runs, [tmp_path, tmp_path / "empty"])
    assert f"{tmp_path / 'none'}: found no folder" in message(find_runs, [tmp_path / "none"])


# --- reading ----------------------------------------------------------------------------------------------------------


def test_any_key_is_read_with_the_settings(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "x", [3, 4], agent="sac", seed=7, task="walker-walk"), "loss/kl")
    assert (run.task, run.agent, run.seed, run.end) == ("walker_walk", "sac", 7, 1000)
    assert run.curve.frames.tolist() == [0, 1000]
    assert run.curve.values.tolist() == [3, 3]
    assert run.label(["head.critic_lr", "head.num_particles"]) == "sac critic_lr=0.0003"


@pytest.mark.parametrize("name", ["Pendulum-v1", "point:Point", "my-mod:Env", "HalfCheetah-v10", "A-v1+4dominated"])
def test_gymnasium_names_keep_their_dashes(name: str) -> None:
    assert task_name(name) == name


def test_settings_of_an_unknown_agent_can_be_read(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "x", [3])
    (run_dir / "config.yaml").write_text("task: t_u\nagent: mine\nseed: 1\nhead: {name: 'gone:Head', lr: 0.1}\nnew: 3")
    run = read_run(run_dir, "eval/return")
    assert run.label(["head", "head.lr", "new"]) == "mine head=gone:Head lr=0.1 new=3"


def test_values_of_one_frame_are_averaged(tmp_path: Path) -> None:
    records = [{"frames": f, "episode/return": r} for f, r in ((10, 1.0), (10, 3.0), (20, 5.0))]
    run = read_run(write_run(tmp_path / "x", records), "episode/return")
    assert (run.curve.frames.tolist(), run.curve.values.tolist()) == ([10, 20], [2, 5])


def test_half_a_last_line_is_ignored_and_told(tmp_path: Path) -> None:
    path = make_run(tmp_path / "x", [1, 2]) / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"frames": 2000, "eval/ret')
    run = read_run(path.parent, "eval/return")
    assert run.curve.values.tolist() == [1, 2]
    assert f"{path}: ignored half a line" in run.notes[0]


def test_a_whole_last_line_without_its_end_counts(tmp_path: Path) -> None:
    path = make_run(tmp_path / "x", [1]) / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"frames": 2000, "eval/return": 2.0}')
    run = read_run(path.parent, "eval/return")
    assert (run.curve.values.tolist(), run.notes) == ([1, 2], ())


def test_values_that_were_not_finite_are_left_out_and_told(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "x", [1, None, 3, float("nan")]), "eval/return")
    assert run.curve.frames.tolist() == [0, 2000]
    assert "left out 2 values of eval/return" in run.notes[0]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"frames": 5', "line 3, is damaged"),
        (b"\xff\xfe", "line 3, is damaged"),
        (b"[1]", "line 3, is damaged: found a list"),
        (b'{"eval/return": 1.0}', "line 3: frames: found None, expected a number"),
        (b'{"frames": 9000, "eval/return": "high"}', "line 3: eval/return: found 'high', expected a number"),
        (b'{"frames": -5, "eval/return": 1.0}', "line 3: frames: found -5, expected 0 or more"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes, expected: str) -> None:
    path = make_run(tmp_path / "x", [1]) / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + line + b"\n" + b'{"frames": 9000, "eval/return": 1.0}\n')
    assert f"{path}, {expected}" in message(read_run, path.parent, "eval/return")


def test_foreign_settings_are_named(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "x", [1])
    (run_dir / "config.yaml").write_text("model: resnet\n")
    assert f"{run_dir / 'config.yaml'}: task: found None" in message(read_run, run_dir, "eval/return")


@pytest.mark.parametrize(
    ("key", "damaged"),
    [("updates", "'0'"), ("schedule.prefill", "50:00x"), ("agent", "a" * 5000), ("seed", "1" * 4000)],
)
def test_damaged_settings_are_named(tmp_path: Path, key: str, damaged: str) -> None:
    path = make_run(tmp_path / "x", [1]) / "config.yaml"
    name = key.rpartition(".")[2]
    path.write_text(re.sub(rf"\b{name}: \w+", f"{name}: {damaged}", path.read_text()))
    assert f"{path}: {key}" in message(read_run, path.parent, "eval/return")


def test_a_run_that_has_only_begun_is_left_out_and_told(tmp_path: Path) -> None:
    make_run(tmp_path / "old", [1, 2])
    make_run(tmp_path / "new", [])
    runs, notes = read_runs([tmp_path], "eval/return")
    assert [run.path.name for run in runs] == ["old"]
    assert notes == [f"left out {tmp_path / 'new'}: it has no eval/return"]


def test_a_run_with_two_phases_has_a_curve_of_each(tmp_path: Path) -> None:
    data, acting = read_phases(make_phases(tmp_path / "x", [0, 4, 6], [7, 9]), "eval/return")
    assert (data.phase, data.unit, data.curve.frames.tolist(), data.end) == ("data", "updates", [0, 100, 200], 200)
    assert data.curve.values.tolist() == [0, 4, 6]
    assert (acting.phase, acting.unit, acting.curve.frames.tolist(), acting.end) == (
        "acting",
        "frames",
        [1e3, 2e3],
        2e3,
    )
    assert acting.curve.values.tolist() == [7, 9]
    assert data.name != acting.name


def test_records_without_a_phase_are_of_acting(tmp_path: Path) -> None:
    assert [run.phase for run in read_phases(make_run(tmp_path / "x", [1]), "eval/return")] == ["acting"]
    assert [run.phase for run in read_phases(make_run(tmp_path / "y", []), "eval/return")] == ["acting"]


def test_data_without_an_environment_give_the_task_its_name(tmp_path: Path) -> None:
    run = read_run(make_phases(tmp_path / "x", [1], task="", frames=0, updates=9, **{"eval.every": 0}), "eval/score")
    assert (run.task, run.phase) == ("walks", "data")


def test_a_phase_without_the_metric_is_no_reason_for_a_note(tmp_path: Path) -> None:
    path = make_phases(tmp_path / "x", [1], [2]) / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"frames": 2000, "updates": 30, "phase": "acting", "episode/return": 5.0}\n{"frames": 20')
    runs, notes = read_runs([tmp_path], "episode/return")
    assert [(run.phase, run.curve.values.tolist()) for run in runs] == [("acting", [5])]
    assert len(notes) == 1  # of the half line
    assert "half a line" in notes[0]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ('{"frames": 0, "updates": 200, "phase": "asleep"}', "line 3: phase: found 'asleep', expected data or acting"),
        ('{"frames": 0, "updates": 100, "phase": ["data"]}', "line 3: phase: found ['data']"),
        ('{"frames": 0, "updates": null, "phase": "data", "eval/return": 1}', "line 3: updates: found None"),
        (
            '{"frames": 0, "updates": -1, "phase": "data", "eval/return": 1}',
            "line 3: updates: found -1, expected 100",
        ),
        ('{"frames": 0, "updates": 1e999, "phase": "data", "eval/return": 1}', "line 3: updates: found inf"),
    ],
)
def test_a_damaged_phase_is_named(tmp_path: Path, record: str, expected: str) -> None:
    path = make_phases(tmp_path / "x", [1, 2]) / "metrics.jsonl"
    path.write_text(f"{path.read_text()}{record}\n")
    assert expected in message(read_phases, path.parent, "eval/return")


def test_no_evaluation_at_all(tmp_path: Path) -> None:
    write_run(tmp_path / "x", [{"frames": 0, "loss/kl": 1.0}])
    assert f"{tmp_path / 'x'}: found no eval/return" in message(read_runs, [tmp_path], "eval/return")
    make_run(tmp_path / "y", [])
    assert "and 1 more: found no eval/return, expected a record with it" in message(
        read_runs, [tmp_path], "eval/return"
    )


def test_an_unknown_metric_brings_the_nearest(tmp_path: Path) -> None:
    make_run(tmp_path / "x", [1])
    assert "unknown metric 'loss/kll'; did you mean: loss/kl" in message(read_runs, [tmp_path], "loss/kll")


# --- comparing --------------------------------------------------------------------------------------------------------


def test_most_curves_meet_where_the_first_of_them_ends() -> None:
    early, whole, late = curve([0, 10], [1, 2]), curve([0, 50], [3, 4]), curve([20, 40], [5, 6])
    assert meeting([early]) == meeting([early, whole]) == meeting([early, early, whole, late]) == 10
    assert meeting([whole, late]) == meeting([early, whole, late]) == 40
    assert meeting([early, late]) == 40


def test_differences_that_matter(tmp_path: Path) -> None:
    settings = [{"seed": 1, "head.num_particles": 2, "frames": 5, "device": "cpu"}, {"seed": 2, "eval.episodes": 9}]
    runs = [read_run(make_run(tmp_path / str(i), [1], **s), "eval/return") for i, s in enumerate(settings)]
    assert unlabelled_differences(runs) == ["head.num_particles"]
    assert unlabelled_differences(runs[:1]) == []


def test_other_data_are_a_difference_and_more_updates_are_not(tmp_path: Path) -> None:
    settings = [{}, {"data.checksum": "other", "data.top": 0.5}, {"updates": 900}]
    runs = [read_run(make_phases(tmp_path / str(i), [1, 2], **s), "eval/return") for i, s in enumerate(settings)]
    assert unlabelled_differences(runs) == ["data.checksum", "data.top"]
    assert unlabelled_differences([runs[0], runs[2]]) == []
    assert runs[2].label(["updates", "data.top"]) == "smac updates=900 top=1.0"
