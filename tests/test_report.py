"""Learning curves from run folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from worldrl.config import config_from_dict, save_config
from worldrl.report import aggregate, main, read_run


def make_run(path: Path, seed: int, returns: list[float], **settings) -> Path:
    path.mkdir(parents=True)
    save_config(config_from_dict({"task": "walker_walk", "seed": seed, **settings}), path)
    records = [{"frames": 1000 * i, "eval/return": value} for i, value in enumerate(returns)] + [
        {"frames": 1, "loss/kl": 3.0}
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_interval_is_that_of_scipy() -> None:
    frames = np.arange(3.0)
    values = np.array([[1.0, 2, 3], [2, 4, 9], [3, 3, 3]])
    at, mean, half = aggregate([(frames, v) for v in values])
    np.testing.assert_array_equal(at, frames)
    low, high = stats.t.interval(0.95, 2, values.mean(0), stats.sem(values))
    np.testing.assert_allclose(mean - half, low)
    np.testing.assert_allclose(mean + half, high)


def test_only_frames_that_all_seeds_have_count() -> None:
    at, mean, half = aggregate(
        [(np.array([0.0, 5, 9]), np.array([1.0, 2, 3])), (np.array([5.0, 9]), np.array([4.0, 5]))]
    )
    assert at.tolist() == [5, 9]
    assert mean.tolist() == [3, 4]
    assert half.shape == (2,)


def test_picture_and_table(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runs = [make_run(tmp_path / str(seed), seed, [1.0, 5.0 * seed, 3.0]) for seed in (1, 2)]
    assert main([*map(str, runs), "--out", str(tmp_path / "curves.png"), "--random", "2"]) == 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "| walker_walk | smac | 2 | 2000 | 3.0 | 10.0 |" in capsys.readouterr().out


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    empty = make_run(tmp_path / "empty", 1, [])
    assert main([str(empty)]) == 2
    assert "holds no evaluation" in capsys.readouterr().err
    bad = make_run(tmp_path / "bad", 1, [1.0])
    (bad / "metrics.jsonl").write_text('{"frames": 0\n')
    assert main([str(bad)]) == 2
    assert "line 1: not a JSON record" in capsys.readouterr().err
    assert main([str(tmp_path / "none")]) == 2
    assert read_run(make_run(tmp_path / "good", 3, [1.0])).seed == 3
