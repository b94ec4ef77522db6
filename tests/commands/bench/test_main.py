"""The command: what is asked for, saved, continued and printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from worldrl.commands.bench import __main__ as program
from worldrl.commands.bench.measuring import Bench, Job, Row
from worldrl.errors import UserError


class Toy:
    """Steps with two jobs each; ``fails`` names a job and what it raises."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.fails: dict[str, BaseException] = {}
        self.row: Row = {"ms": 0.5}

    def step(self, bench: Bench) -> Iterator[Job]:
        for name in ("first", "second"):
            yield Job(name, lambda name=name: self._measure(name))

    def _measure(self, name: str) -> list[Row]:
        if name in self.fails:
            raise self.fails[name]
        self.made.append(name)
        return [{"job": name, **self.row}]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    toy = Toy()
    monkeypatch.setattr(program, "STEPS", dict.fromkeys(program.STEPS, toy.step))
    return toy


def call(path: Path, *more: str) -> int:
    return program.main(["--only", "updates", "--device", "cpu", "--json", str(path), *more])


def figures(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())["updates"]


def test_a_killed_run_leaves_what_was_measured_and_the_next_one_continues(toy: Toy, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    toy.fails["second"] = KeyboardInterrupt()
    assert call(path) == 130
    assert figures(path) == {"first": [{"job": "first", "ms": 0.5}]}
    toy.fails.clear()
    toy.row = {"ms": 0.7}
    assert call(path) == 0
    assert toy.made == ["first", "second"]
    assert [rows[0]["ms"] for rows in figures(path).values()] == [0.5, 0.7]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("error", "code"), [(UserError("no OpenGL"), 0), (RuntimeError("out of memory"), 1)])
def test_what_fails_leaves_the_rest_and_is_tried_again(
    error: Exception, code: int, toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bench.json"
    toy.fails["first"] = error
    assert call(path) == code
    assert str(error) in capsys.readouterr().out
    assert "second" in figures(path)
    toy.fails.clear()
    assert call(path) == 0
    assert toy.made == ["second", "first"]


@pytest.mark.parametrize("bad", [{"agrees": False}, {"passed": False}])
def test_a_fast_path_that_differs_is_an_error(bad: Row, toy: Toy) -> None:
    toy.row = bad
    assert program.main(["--only", "updates", "--device", "cpu"]) == 1


def test_after_some_minutes_nothing_is_begun(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 59.0, 61.0, 0.0, 1.0])
    monkeypatch.setattr(program.time, "monotonic", lambda: next(now))
    path = tmp_path / "bench.json"
    assert call(path, "--minutes", "1") == 0
    assert toy.made == ["first"]
    assert "1 measurements are left" in capsys.readouterr().err
    assert call(path, "--minutes", "1") == 0
    assert toy.made == ["first", "second"]


@pytest.mark.parametrize("content", ["{}", '{"machine": {"device": "a GPU"}}', "[1]", "x", '{"updates": 3}'])
def test_another_file_is_refused_and_kept(
    content: str, toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bench.json"
    path.write_text(content)
    assert call(path) == 2
    assert "bench.json" in capsys.readouterr().err
    assert path.read_text() == content
    assert not toy.made


def test_the_gpu_has_a_plan(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything of it on a CPU, into its own file, and nothing twice."""
    monkeypatch.chdir(tmp_path)
    assert program.main(["--gpu", "--device", "cpu"]) == 0
    saved = json.loads((tmp_path / program.GPU_FILE).read_text())
    assert set(saved) == {"machine", *program.GPU}
    assert program.main(["--gpu", "--device", "cpu"]) == 0
    assert len(toy.made) == 2 * len(program.GPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_the_plan_is_for_a_gpu(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--gpu"]) == 2
    assert capsys.readouterr().err.startswith("--gpu: found no CUDA GPU")
    assert not toy.made


def test_the_gpu_meets_every_head_once() -> None:
    from worldrl.commands.bench.cases import make_case
    from worldrl.registry import HEADS

    heads = [make_case(name).config.head["name"] for name in program.GPU_AGENTS]
    assert sorted(heads) == sorted([*HEADS, "sac"])  # on states too


@pytest.mark.parametrize("text", ["16", "0x32", "16x1", "axb"])
def test_bad_shapes_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--batch", text]) == 2
    assert "expected BxT such as 16x32" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--repeats", "--threads"])
def test_numbers_are_positive(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main([option, "0"]) == 2
    assert "found '0', expected a whole number, 1 or more" in capsys.readouterr().err


def test_real_figures_are_printed_and_saved(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.json"
    only = ["--only", "acting", "replay", "--agents", "sac", "--batch", "2x4", "--repeats", "2", "--device", "cpu"]
    assert program.main([*only, "--json", str(path)]) == 0
    results = json.loads(path.read_text())
    assert results["acting"]["sac"][0]["ms"] > 0
    out = capsys.readouterr().out
    assert "| sac" in out
    assert "256x2" in out
