"""Draws, environments, trainings and peers, on the smallest sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.commands.bench.test_updates import rows_of
from worldrl.commands.bench import cases, runs
from worldrl.commands.bench.measuring import Bench


def test_draws_come_from_a_full_replay(bench: Bench) -> None:
    state, pixels = rows_of(runs.replay, bench)
    assert (state["batch"], state["rows"]) == ("256x2", 2_000)
    assert (pixels["batch"], pixels["rows"]) == ("2x4", 2_000)


def test_files_are_read_whole(bench: Bench) -> None:
    rows = rows_of(runs.data, bench)
    assert [row["file"] for row in rows] == [".npz", ".hdf5"]
    assert all(row["rows"] == 2_500 + 3 for row in rows)  # three episodes, one of them short
    assert all(row["seconds"] > 0 for row in rows)


def test_environments_are_stepped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "ENVS", {"state": runs.ENVS["state"]})
    (row,) = rows_of(runs.env, bench)
    assert row["env"] == "cartpole_balance state"
    assert row["steps_per_s"] > 0


@pytest.mark.parametrize("name", runs.PEERS)
def test_peers_have_networks_of_the_same_size(name: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    monkeypatch.setattr(runs, "modes", lambda device: [cases.REFERENCE])
    monkeypatch.setattr(runs, "STEPS_PER_TURN", 1)
    made = []
    kind = getattr(sb3, name.upper())
    monkeypatch.setattr(sb3, name.upper(), lambda *args, **kwargs: made.append(kind(*args, **kwargs)) or made[-1])
    theirs, ours = next(runs.sb3(bench._replace(agents=[name]))).measure()
    agent = cases.make_agent(cases.make_case(name), cases.REFERENCE, bench.device)
    count = sum(p.numel() for p in made[0].policy.parameters())
    targets = sum(p.numel() for p in agent.head.parameters() if not p.requires_grad)
    assert targets > 0
    assert count == pytest.approx(sum(p.numel() for p in agent.head.parameters()), abs=2)
    assert theirs["times as fast"] == 1.0
    assert ours["times as fast"] > 0


@pytest.mark.slow
def test_trainings_run_end_to_end(bench: Bench) -> None:
    sac, smac = rows_of(runs.end_to_end, bench)
    assert sac["frames_per_s"] > 0
    assert smac["updates_per_s"] > 0


def test_the_paper_is_begun_for_some_minutes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"agent": "sac", "replay.batch": 4, "schedule.prefill": 20, "replay.capacity": 500, "eval.every": 0}
    monkeypatch.setattr(runs, "PAPER", small)
    monkeypatch.setattr(runs, "PAPER_MINUTES", 0.005)
    (row,) = rows_of(runs.paper, bench)
    assert row["updates"] > 1
    assert row["frames"] > 20
    assert row["updates_per_s"] > 0


def test_tests_run_where_they_are(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, in a tree with a test that fails; not without a GPU, and not without tests."""
    on_gpu = bench._replace(device=torch.device("cuda", 0))
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_fake_cuda.py").write_text(
        "import pytest\n\n@pytest.mark.cuda\ndef test_it():\n    assert 1 == 2\n", encoding="utf-8"
    )
    monkeypatch.setattr(runs.worldrl, "__file__", str(tmp_path / "worldrl" / "__init__.py"))
    (row,) = rows_of(runs.tests, on_gpu)
    assert not row["passed"]
    assert "1 failed" in row["said"]
    assert not rows_of(runs.tests, bench)
    monkeypatch.setattr(runs.worldrl, "__file__", str(tmp_path / "elsewhere" / "worldrl" / "__init__.py"))
    assert not rows_of(runs.tests, on_gpu)
