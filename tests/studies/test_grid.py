"""``worldrl studies grid``: the numbers that are drawn are those of the solvers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worldrl.studies import grid
from worldrl.studies.__main__ import main


def test_the_command_draws_the_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grid", "--beta", "0.3", "100", "--out", str(tmp_path)]) == 0
    numbers = json.loads((tmp_path / "grid.json").read_text())
    means = numbers["means"]
    assert means["soft"] == pytest.approx([-9.374, -4.670], abs=1e-3)
    assert means["mutual"] == pytest.approx([-6.164, -4.602], abs=1e-3)
    assert means["soft_stopped"] == pytest.approx([-9.341, -4.670], abs=1e-3)
    assert means["mutual_stopped"] == pytest.approx([-6.174, -4.602], abs=1e-3)
    assert means["mutual_cold"] == pytest.approx([-6.447, -4.602], abs=1e-3)
    assert means["prior"][0] == pytest.approx([0.5, 0, 0, 0.5, 0], abs=1e-3)
    assert list(numbers["limits"].values()) == pytest.approx([-4.5878, -9.8171, -6.5902], abs=1e-4)
    assert (tmp_path / "grid.png").stat().st_size > 10_000
    assert "beta 0.3" in capsys.readouterr().out


def test_the_other_reading_of_the_goal_step() -> None:
    _, ends = grid.study(8.0, [100.0])
    assert list(ends) == pytest.approx([-4.8727, -9.8267, -6.7697], abs=1e-4)


def test_bad_options_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["grid", "--beta", "0"], ["grid", "--goal", "x"], ["theory", "--problems", "0"]):
        assert main([*arguments, "--out", str(tmp_path)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
