"""Reports of published curves: the same tables again, and one line for a file that is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.toy_runs import make_phases, make_run
from worldrl.__main__ import main
from worldrl.errors import UserError
from worldrl.report.published import read_published

HEAD = "task,agent,seed,repeat,commit,frames,value\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def tables(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in out.glob("*.csv") if path.name != "runs.csv"}


def test_a_report_of_its_own_curves_has_the_same_tables(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for task in ("walker_walk", "cheetah_run"):
        for seed in (1, 2, 3):
            for agent, gain in (("sac", 90), ("smac", 100)):
                make_run(runs / task / agent / str(seed), [0, gain, gain + seed], task=task, agent=agent, seed=seed)
    make_run(runs / "again", [0, 50, 60], task="walker_walk", agent="sac", seed=1)
    make_phases(runs / "both", [0, 5, 9], [10, 20], agent="bc", seed=4)
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["report", str(runs), "--out", str(first), "--normalise", "1000"]) == 0
    assert main(["report", str(first / "curves.csv"), "--out", str(second), "--normalise", "1000"]) == 0
    assert tables(first) == tables(second)


def test_runs_and_published_curves_are_compared(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [0, 5, 6], agent="sac", seed=1, **{"schedule.prefill": 0})
    other = write(tmp_path / "a.csv", HEAD + "walker_walk,theirs,1,0,,0,0\nwalker_walk,theirs,1,0,,2000,9\n")
    assert main(["report", str(run), str(other), "--html", "--out", str(tmp_path / "out")]) == 0
    assert "theirs" in (tmp_path / "out" / "pairs.csv").read_text()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", ""),
        (HEAD, ""),
        ("agent,seed,0,1000\nsac,1,5,6\n", ""),
        (HEAD.replace("commit", "quantity") + "t,sac,1,0,x,0,1\n", ""),
        (HEAD + "t,sac,1,0,,0,1\nt,sac,1,0,,1000\n", ", line 3: value"),
        (HEAD + "t,sac,one,0,,0,1\n", ", line 2: seed"),
        (HEAD + f"t,sac,{'1' * 5000},0,,0,1\n", ", line 2: seed"),
        (HEAD + "t,,1,0,,0,1\n", ", line 2: agent"),
        (HEAD + "t,sac,1,0,,0,nan\n", ", line 2: value"),
        (HEAD + "t,sac,1,0,,1e200,1\n", ", line 2: frames"),
        (HEAD + "t,sac,1,0,,,1\n", ", line 2"),
        (HEAD + "t,sac,1,0,,9,1\nt,sac,1,0,,3,1\n", ", line 3: frames"),
        (HEAD + f't,"{"a" * 200_000}",1,0,,0,1\n', ", line"),
        (HEAD + "t,sac,1,0,,0,1,more\n", ", line 2"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, where: str) -> None:
    path = write(tmp_path / "a.csv", text)
    with pytest.raises(UserError) as refused:
        read_published(path)
    assert refused.value.where.startswith(f"{path}{where}")
    assert "\n" not in str(refused.value)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError) as refused:
        read_published(path)
    assert str(path) in refused.value.where
