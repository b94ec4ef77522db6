"""The robustness grid on a toy: its cells, and files that hold what was played."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.errors import refusing
from tests.evaluation.toy_grids import TASK, Breaks, BreaksOften, Wider
from worldrl.commands.evaluate import eval_main
from worldrl.envs.corruption import CorruptionConfig, Noise
from worldrl.errors import UserError
from worldrl.evaluation import playing, robustness
from worldrl.evaluation.evaluate import load_agent
from worldrl.evaluation.playing import cell_noise
from worldrl.evaluation.robustness import evaluate_grid, grid_cells, worst_cells
from worldrl.report.grids import CLEAN, Cell
from worldrl.runs.settings import load_config


def test_cells_are_clean_once_and_every_kind_at_every_level() -> None:
    with pytest.raises(UserError):  # two levels with one name
        grid_cells(["gaussian"], [0.1, 0.10000001])
    cells = grid_cells(["gaussian", "missing", "gaussian"], [0.2, 0.0, 0.1, 0.2])
    assert [str(cell) for cell in cells] == ["clean@0", "gaussian@0.2", "gaussian@0.1", "missing@0.2", "missing@0.1"]
    assert [str(cell) for cell in worst_cells(cells)] == ["gaussian@0.2", "missing@0.2"]


def read_csv(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "robustness.csv").read_text().splitlines()))


def test_files_hold_what_was_played(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for old in ("missing@0.5", "clean@0", "mine"):
        (tmp_path / f"{old}.mp4").touch()
    line = f"{run_dir} --corruption gaussian bursts --level 0.1 0.4 --seeds 1 2 --episodes 3 --envs 4 --out {tmp_path}"
    assert eval_main(line.split()) == 0
    out = capsys.readouterr().out
    result = json.loads((tmp_path / "robustness.json").read_text())
    assert [(c["corruption"], c["level"]) for c in result["cells"]] == [
        ("clean", 0), ("gaussian", 0.1), ("gaussian", 0.4), ("bursts", 0.1), ("bursts", 0.4)
    ]  # fmt: skip
    assert result["trained_with"] == {"gaussian": 0.1}
    assert "trained with gaussian 0.1 (switched off here" in out
    rows = read_csv(tmp_path)
    assert len(rows) == 5 * 2 * 3
    for cell in result["cells"]:
        returns = [float(r["return"]) for r in rows if (r["corruption"], float(r["level"])) == tuple(cell.values())[:2]]
        assert cell["returns"] == returns
        assert cell["return"] == pytest.approx(np.mean(returns))
        low, high = stats.t.interval(0.95, 5, np.mean(returns), stats.sem(returns))
        assert 2 * cell["interval"] == pytest.approx(high - low)
        assert result["metrics"][f"robust/{cell['corruption']}@{cell['level']:g}/return"] == cell["return"]
        assert f"{cell['return']:.1f}" in out
    assert result["frames"] == sum(int(r["frames"]) for r in rows)
    assert not result["known_dropout"]
    assert {r["known_dropout"] for r in rows} == {"0"}
    assert (tmp_path / "robustness.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.glob("*.mp4")] == ["mine.mp4"]  # those of an earlier grid are gone


def test_one_episode_has_no_interval(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluate_grid(run_dir, ["missing"], [0.1], episodes=1, out=tmp_path, device="cpu")
    assert [(cell["interval"], cell["return_std"]) for cell in result["cells"]] == [(None, None)] * 2
    assert json.loads((tmp_path / "robustness.json").read_text())["cells"] == result["cells"]


def test_the_files_say_that_dropout_was_known(state_run: Path, tmp_path: Path) -> None:
    grid = evaluate_grid(state_run, ["flicker"], [0.5], [1], 2, known_dropout=True, out=tmp_path, device="cpu")
    assert grid["known_dropout"]
    assert {row["known_dropout"] for row in read_csv(tmp_path)} == {"1"}


def test_groups_reach_the_noise(state_run: Path, tmp_path: Path) -> None:
    """Losing nothing but the sensors that were never named is no loss."""
    returns = {}
    for groups in ((), ("speed",), ("speed", "place")):
        grid = evaluate_grid(state_run, ["missing"], [1.0], [1], 3, groups=groups, out=tmp_path, device="cpu")
        returns[groups] = grid["cells"][1]["returns"]
    assert returns[()] == returns["speed", "place"] != returns[("speed",)]


@pytest.mark.parametrize("kind", ["both", "state"])
def test_videos_of_the_worst_levels(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    import av

    run = request.getfixturevalue("run_dir" if kind == "both" else "state_run")
    evaluate_grid(run, ["missing", "flicker"], [0.1, 0.5], episodes=2, out=tmp_path, device="cpu", video=True)
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["flicker@0.5.mp4", "missing@0.5.mp4"]
    with av.open(str(tmp_path / "missing@0.5.mp4")) as video:
        shapes = [picture.to_ndarray(format="rgb24").shape for picture in video.decode(video=0)]
    assert set(shapes) == {(256, 260, 3) if kind == "both" else (256, 520, 3)}
    rows = read_csv(tmp_path)
    steps = next(
        int(r["frames"]) for r in rows if (r["corruption"], r["level"], r["episode"]) == ("missing", "0.5", "0")
    )
    assert len(shapes) == steps + 1


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--corruption gausian --level 0.1", "unknown corruption 'gausian'; did you mean: gaussian"),
        (
            "--corruption missing --level 1.5",
            "--level for missing: found 1.5, expected a share of the values in [0, 1]",
        ),
        ("--corruption missing --level nan", "--level for missing: found nan"),
        ("--corruption missing --level -0.1", "--level for missing: found -0.1"),
        ("--corruption missing --level x", "invalid float value"),
        ("--corruption missing", "--level: found none above 0"),
        ("--corruption missing --level 0", "--level: found none above 0"),
        ("--corruption blur --level 1", "corruption blur: found state, expected images"),
        ("--corruption missing --level 0.1 --groups sped", "unknown sensor group 'sped'; did you mean: speed"),
        ("--corruption missing --level 0.1 --episodes 0", "--episodes: found '0', expected a whole number, 1 or more"),
        ("--corruption missing --level 0.1 --envs 0", "--envs: found '0', expected a whole number, 1 or more"),
        ("--corruption missing --level 0.1 --seeds 1 1", "--seeds: found 1 1, expected each number once"),
        ("--corruption missing --level 0.1 --seed 1", "--seed: expected no --corruption with it"),
        ("--corruption missing --level 0.1 --json x", "--json: expected no --corruption with it"),
        ("--corruption missing --level 0.1 --video x", "--video: found a PATH, expected none with --corruption"),
        ("--corruption missing --level 0.1 --checkpoint best", "no best checkpoint"),
        ("--corruption missing --level 0.1 --out /proc/nowhere", "cannot write to /proc/nowhere"),
        ("--level 0.1", "--level: expected --corruption with it"),
        ("--groups speed", "--groups: expected --corruption with it"),
        ("--video", "--video: found no PATH, expected the path of a file"),
    ],
)
def test_mistakes_are_told_in_one_line(
    options: str, words: str, state_run: Path, refused: Callable[[str], str]
) -> None:
    assert words in refused(f"{state_run} {options}")


def test_a_file_is_no_folder_to_write_into(state_run: Path, tmp_path: Path, refused: Callable[[str], str]) -> None:
    (tmp_path / "file").touch()
    for out in ("file", "file/inside"):
        said = refused(f"{state_run} --corruption missing --level 0.1 --out {tmp_path / out}")
        assert f"cannot write to {tmp_path / out}" in said


def test_a_run_without_a_finished_checkpoint(state_run: Path, tmp_path: Path, refused: Callable[[str], str]) -> None:
    (tmp_path / "config.yaml").write_text((state_run / "config.yaml").read_text())
    assert "found no checkpoint" in refused(f"{tmp_path} --corruption missing --level 0.1")


def other_task(run: Path, folder: Path, task: type) -> Path:
    """The run's folder, as if its task had changed since."""
    text = (run / "config.yaml").read_text()
    assert TASK in text
    (folder / "config.yaml").write_text(text.replace(TASK, f"{task.__module__}:{task.__name__}"))
    (folder / "checkpoints").symlink_to(run / "checkpoints")
    return folder


@pytest.mark.parametrize("options", ["", "--corruption missing --level 0.1"])
def test_an_environment_that_has_changed(
    options: str, state_run: Path, tmp_path: Path, refused: Callable[[str], str]
) -> None:
    said = refused(f"{other_task(state_run, tmp_path, Wider)} {options}")
    assert "found state (5,) float32, actions box of 2, expected state (4,) float32, actions box of 2" in said


def test_an_environment_that_breaks(state_run: Path, tmp_path: Path, refused: Callable[[str], str]) -> None:
    said = refused(f"{other_task(state_run, tmp_path, Breaks)} --corruption missing --level 0.1")
    assert "ValueError: the robot is broken" in said
    assert "the first step of every episode failed" in said


def test_an_episode_that_diverges_is_cut(state_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It counts up to there, as in an evaluation, and nothing else is lost."""
    command = other_task(state_run, tmp_path, BreaksOften)
    assert eval_main(f"{command} --corruption missing --level 0.1 --episodes 6 --out {tmp_path / 'grid'}".split()) == 0
    cells = json.loads((tmp_path / "grid" / "robustness.json").read_text())["cells"]
    assert [cell["cut"] for cell in cells] == [cells[0]["cut"]] * 2
    assert 0 < cells[0]["cut"] < 6
    assert min(cells[0]["frames"]) == 2 < max(cells[0]["frames"])
    assert f"cut {2 * cells[0]['cut']} episodes" in capsys.readouterr().out


def test_the_runs_own_settings_are_left_alone(run_dir: Path) -> None:
    assert load_config(run_dir).env.corruption.gaussian == 0.1
    assert isinstance(cell_noise(CLEAN, CorruptionConfig(), load_agent(run_dir)[0].spec), Noise)
    with refusing("sensor group"):
        cell_noise(Cell("missing", 0.1), CorruptionConfig(groups=("nose",)), load_agent(run_dir)[0].spec)


def test_bursts_are_as_long_as_in_training(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, config = load_agent(run_dir)
    trained_so = replace(config, env=replace(config.env, corruption=CorruptionConfig(burst_length=20)))
    monkeypatch.setattr(robustness, "load_agent", lambda *_: (agent, trained_so))
    made, real = [], playing.cell_noise
    monkeypatch.setattr(playing, "cell_noise", lambda *args: made.append(real(*args)) or made[-1])
    robustness.evaluate_grid(run_dir, ["bursts"], [0.3], episodes=1, num_envs=1, out=run_dir / "longer")
    assert {noise._burst_length for noise in made} == {20}
