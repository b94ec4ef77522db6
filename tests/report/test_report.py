"""The report end to end: from run folders to a picture and tables, and its one-line errors."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.report.toy_runs import make_phases, make_run, write_run
from worldrl.origin import commit
from worldrl.report.__main__ import main
from worldrl.report.curves import LARGEST
from worldrl.report.folder import MARK


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two agents, two tasks, three seeds, 0 to 4000 frames; smac is 10 above sac, and best at 3000."""
    for task in ("walker_walk", "cheetah-run"):
        for agent, level in (("smac", 110.0), ("sac", 100.0)):
            for seed in (1, 2, 3):
                returns = [0, level, level + seed, level + 5 * seed, level + 2 * seed]
                make_run(tmp_path / "runs" / task / agent / str(seed), returns, task=task, agent=agent, seed=seed)
    return tmp_path / "runs"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def run_report(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def fails(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


# --- the whole --------------------------------------------------------------------------------------------------------


def test_a_multirun_folder_becomes_a_picture_and_tables(runs: Path, capsys: pytest.CaptureFixture) -> None:
    out = runs.parent / "new" / "report"
    text = run_report(capsys, runs, "--out", out, "--normalise", 1000, "--random", 30, "--baseline", "Dreamer=700")
    written = ["agents.csv", "aggregate.csv", "curves.csv", "curves.png", "pairs.csv", "report.md", "runs.csv"]
    assert sorted(path.name for path in out.iterdir()) == written
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert text.startswith((out / "report.md").read_text().removesuffix(f"{MARK}\n"))
    assert text.count("\n- ") == 1

    first = rows(out / "agents.csv")[1]
    assert [first[key] for key in ("task", "agent", "seeds", "frames")] == ["cheetah_run", "smac", "3", "4000.0"]
    assert [float(first[key]) for key in ("last", "last_std", "iqm", "best", "best_std")] == [114, 2, 114, 120, 5]

    assert [float(row["iqm"]) for row in rows(out / "aggregate.csv")] == pytest.approx([0.104, 0.114])
    pairs = rows(out / "pairs.csv")
    assert [(row["task"], row["agent"], row["other"]) for row in pairs] == [
        (task, "sac", "smac") for task in ("cheetah_run", "walker_walk", "all tasks")
    ]
    assert {(row["probability"], row["pairs"]) for row in pairs} == {("0.0", "same seed")}

    table = rows(out / "runs.csv")
    assert len(table) == 12
    assert table[0]["run"] == str(runs / "cheetah-run" / "sac" / "1")
    last = [float(row["last"]) for row in table if row["agent"] == "smac" and row["task"] == "walker_walk"]
    np.testing.assert_allclose(float(first["last"]), stats.trim_mean(last, 0.25))

    values = [row for row in rows(out / "curves.csv") if row["agent"] == "smac" and row["task"] == "walker_walk"]
    assert [float(row["value"]) for row in values if row["frames"] == "4000.0"] == last
    assert {row["commit"] for row in values} == {commit()}


def test_a_picture_takes_its_tables_with_it(runs: Path, capsys: pytest.CaptureFixture) -> None:
    text = run_report(capsys, runs / "walker_walk" / "smac", "--out", runs.parent / "fig.svg")
    names = sorted(path.name for path in runs.parent.iterdir() if path.is_file())
    assert names == ["fig-agents.csv", "fig-curves.csv", "fig-report.md", "fig-runs.csv", "fig.svg"]
    assert "| walker_walk | smac  | 3     | 4,000  | 114.0 ± 2.0      |" in text


def test_tables_of_an_earlier_report_do_not_stay(runs: Path, capsys: pytest.CaptureFixture) -> None:
    out = runs.parent / "out"
    run_report(capsys, runs, "--out", out)
    (out / "mine.csv").write_text("")
    run_report(capsys, runs / "walker_walk" / "smac", "--out", out)
    assert sorted(path.name for path in out.glob("*.csv")) == ["agents.csv", "curves.csv", "mine.csv", "runs.csv"]


@pytest.mark.parametrize("name", ["report.md", "report.html", "pairs.csv", "report-videos/001.mp4", "curves.png"])
def test_a_file_that_no_report_wrote_stays(runs: Path, name: str, capsys: pytest.CaptureFixture) -> None:
    out = runs.parent / "out"
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text("mine")
    assert str(out / name.partition("/")[0]) in fails(capsys, runs, "--out", out)
    assert (out / name).read_text() == "mine"
    assert len(list(out.iterdir())) == 1


def test_a_picture_that_no_report_wrote_stays(runs: Path, capsys: pytest.CaptureFixture) -> None:
    mine = runs.parent / "fig.svg"
    mine.write_text("mine")
    assert str(mine) in fails(capsys, runs, "--out", mine)
    assert mine.read_text() == "mine"
    mine.unlink()
    for _ in range(2):
        run_report(capsys, runs, "--out", mine)
    assert "<svg" in mine.read_text()


def test_the_same_runs_give_the_same_report(runs: Path, capsys: pytest.CaptureFixture) -> None:
    first = run_report(capsys, runs, "--out", runs.parent / "x")
    assert run_report(capsys, runs, runs / "walker_walk", "--out", runs.parent / "x") == first


# --- phases -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def phases(tmp_path: Path) -> Path:
    """Two agents and three seeds, on data and then acting; "b" is 10 above "a"."""
    for agent, level in (("a", 0.0), ("b", 10.0)):
        for seed in (1, 2, 3):
            data, acting = [level, level + 10, level + 20 + seed], [level + 5 * seed, level + 100 + seed]
            make_phases(tmp_path / "phases" / f"{agent}{seed}", data, acting, agent=agent, seed=seed)
    return tmp_path / "phases"


def test_each_phase_has_rows_and_a_time_of_its_own(phases: Path, capsys: pytest.CaptureFixture) -> None:
    text = run_report(capsys, phases, "--out", phases.parent / "out", "--normalise", 100, "--random", "walker-walk=3")
    assert text.count("\n- ") == 2
    table = [[row[key] for key in ("task", "agent", "frames", "updates", "last", "best")] for row in agents(phases)]
    assert table == [
        ["walker_walk (data)", "a", "", "200.0", "22.0", "22.0"],
        ["walker_walk (data)", "b", "", "200.0", "32.0", "32.0"],
        ["walker_walk (acting)", "a", "2000.0", "", "102.0", "102.0"],
        ["walker_walk (acting)", "b", "2000.0", "", "112.0", "112.0"],
    ]
    pairs = [(row["task"], row["probability"]) for row in rows(phases.parent / "out/pairs.csv")]
    assert pairs == [("walker_walk (data)", "0.0"), ("walker_walk (acting)", "0.0")]
    assert not (phases.parent / "out/aggregate.csv").exists()  # it is one task
    assert len(rows(phases.parent / "out/runs.csv")) == 12


def test_values_over_all_tasks_are_of_the_last_phase(phases: Path, capsys: pytest.CaptureFixture) -> None:
    for agent, level in (("a", 50.0), ("b", 60.0)):
        for seed in (1, 2, 3):
            acting = [level, level + seed]
            make_phases(phases / f"f{agent}{seed}", [0, 1, 2], acting, task="finger_spin", agent=agent, seed=seed)
    text = run_report(capsys, phases, "--out", phases.parent / "out", "--normalise", 100, "--html")
    aggregate = rows(phases.parent / "out/aggregate.csv")
    assert [(row["tasks"], row["runs"]) for row in aggregate] == [("2", "6"), ("2", "6")]
    assert float(aggregate[0]["iqm"]) == pytest.approx(stats.trim_mean([0.51, 0.52, 0.53, 1.01, 1.02, 1.03], 0.25))
    assert text.count("\n- ") == 2
    assert "12 runs on 2 tasks" in (phases.parent / "out/report.html").read_text()
    make_run(phases / "other", [0, 1], task="cheetah_run")  # from here on no task has all agents
    text = run_report(capsys, phases, "--out", phases.parent / "out")
    assert text.count("\n- ") == 2
    assert "cheetah_run" in agents(phases)[-1]["task"]  # so that phases stay side by side


def agents(runs: Path) -> list[dict[str, str]]:
    return rows(runs.parent / "out" / "agents.csv")


def test_a_score_is_a_metric(phases: Path, capsys: pytest.CaptureFixture) -> None:
    run_report(capsys, phases, "--out", phases.parent / "out", "--metric", "eval/score")
    assert [float(row["last"]) for row in agents(phases)] == pytest.approx([2.2, 3.2, 10.2, 11.2])


def test_frames_and_updates_are_of_their_phases(phases: Path, capsys: pytest.CaptureFixture) -> None:
    short = make_phases(phases / "short", [0, 1], agent="a", seed=4)
    text = run_report(capsys, phases, "--out", phases.parent / "out")
    assert f"walker_walk (data) is compared at 100 updates, where {short} ends; others reach 200 (--updates" in text
    text = run_report(capsys, phases, "--out", phases.parent / "out", "--updates", 150, "--frames", 1000)
    assert f"left out {short} (data): it spans 0 to 100 updates" in text
    assert [float(row["last"]) for row in agents(phases)] == [16, 26, 10, 20]
    assert "--frames: found 1,000, expected runs whose time is frames" in fails(capsys, short, "--frames", 1000)
    assert "--updates: found 900, expected" in fails(capsys, phases, "--updates", 900)


def test_runs_that_only_act_meet_those_that_had_data(phases: Path, capsys: pytest.CaptureFixture) -> None:
    for seed in (1, 2, 3):
        make_run(phases / f"c{seed}", [0, 1, 2], agent="sac", seed=seed)
    text = run_report(capsys, phases, "--out", phases.parent / "out")
    assert "left out" in text  # it is still in its prefill; what comes after data is not
    assert {row["agent"] for row in agents(phases)} == {"a", "b"}
    for seed in (1, 2, 3):
        make_run(phases / f"d{seed}", [0, 1, 2], seed=seed, **{"schedule.prefill": 0})
    run_report(capsys, phases, "--out", phases.parent / "out")
    assert [row["agent"] for row in agents(phases)] == ["a", "b", "a", "b", "smac"]


def test_acting_after_other_numbers_of_updates_is_told(phases: Path, capsys: pytest.CaptureFixture) -> None:
    make_phases(phases / "more", [0, 1, 2, 3], [4, 5], agent="a", seed=4)
    text = run_report(capsys, phases, "--out", phases.parent / "out")
    assert "a on walker_walk (acting): its runs act after 200 and 300 updates on data; separate them with" in text
    text = run_report(capsys, phases, "--out", phases.parent / "out", "--label", "updates")
    assert "separate them" not in text
    assert [row["agent"] for row in agents(phases)][:3] == ["a updates=200", "a updates=300", "b updates=200"]


# --- runs that do not overlap -----------------------------------------------------------------------------------------


def late(path: Path, agent: str, seed: int = 1, **settings: Any) -> Path:
    """A run that has ended only long after those of ``runs``."""
    points = [{"frames": frames, "eval/return": 70.0 + seed} for frames in (5000, 6000)]
    return write_run(path, points, agent=agent, seed=seed, **settings)


def test_agents_that_never_meet_are_not_compared_with_each_other(runs: Path, capsys: pytest.CaptureFixture) -> None:
    for task in ("walker_walk", "cheetah_run"):
        for seed in (1, 2, 3):
            late(runs / f"late-{task}-{seed}", "td3", seed, task=task)
    text = run_report(capsys, runs, "--out", runs.parent / "out", "--html", "--normalise", 100)
    times = {(row["agent"], float(row["frames"])) for row in agents(runs)}
    assert times == {("sac", 4000), ("smac", 4000), ("td3", 6000)}
    assert {(row["agent"], row["other"]) for row in rows(runs.parent / "out/pairs.csv")} == {("sac", "smac")}
    assert not (runs.parent / "out/aggregate.csv").exists()
    assert [text.count(f"\n- {agent} on ") for agent in ("sac", "smac", "td3")] == [0, 0, 2]
    for agent in ("ddpg", "miracle"):
        late(runs / agent, agent, task="walker_walk")
    run_report(capsys, runs, "--out", runs.parent / "out")  # now most meet at the end, and the others where they end
    pairs = {frozenset((row["agent"], row["other"])) for row in rows(runs.parent / "out/pairs.csv")}
    assert pairs == set(map(frozenset, [("sac", "smac"), ("ddpg", "miracle"), ("ddpg", "td3"), ("miracle", "td3")]))


def test_an_agent_that_meets_others_on_one_task_is_compared_there(runs: Path, capsys: pytest.CaptureFixture) -> None:
    late(runs / "late", "td3")
    make_run(runs / "run", [0, 1.0, 2.0, 3.0, 4.0], agent="td3", task="cheetah-run")
    run_report(capsys, runs, "--out", runs.parent / "out")
    pairs = [(row["task"], row["agent"]) for row in rows(runs.parent / "out/pairs.csv") if row["other"] == "td3"]
    assert pairs == [("cheetah_run", "sac"), ("cheetah_run", "smac")]


@pytest.mark.parametrize("options", [[], ["--frames", "5500"]])
def test_a_seed_that_never_meets_the_others_is_left_out(
    runs: Path, options: list[str], capsys: pytest.CaptureFixture
) -> None:
    for seed in (4, 5, 6, 7):
        late(runs / f"walker_walk/sac/{seed}", "sac", seed)
    text = run_report(capsys, runs / "walker_walk/sac", "--out", runs.parent / "out", "--html", *options)
    assert [(row["seeds"], float(row["last"])) for row in agents(runs)] == [("4", 75.5)]
    assert [text.count(f"left out {runs / 'walker_walk/sac'}/{seed}:") for seed in range(1, 8)] == [1, 1, 1, 0, 0, 0, 0]


# --- options ----------------------------------------------------------------------------------------------------------


def test_frames_compare_there_and_leave_out_shorter_runs(runs: Path, capsys: pytest.CaptureFixture) -> None:
    short = make_run(runs / "walker_walk" / "smac" / "4", [0, 500], seed=4)
    text = run_report(capsys, runs, "--out", runs.parent, "--frames", 3000)
    assert f"left out {short}: it spans 0 to 1,000 frames" in text
    assert {(row["frames"], row["seeds"]) for row in rows(runs.parent / "agents.csv")} == {("3000.0", "3")}
    assert rows(runs.parent / "agents.csv")[0]["last"] == "110.0"
    text = run_report(capsys, runs, "--out", runs.parent)
    assert f"walker_walk is compared at 1,000 frames, where {short} ends; others reach 4,000" in text


def test_frames_before_every_run_are_refused_with_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    told = fails(capsys, late(tmp_path / "run", "sac"), "--frames", 100)
    assert "5,000" in told
    assert "6,000" in told


def test_a_run_reaches_as_far_as_its_last_record(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Its last evaluation may be earlier."""
    for seed, end in ((1, 1900), (2, 1000)):
        returns = [{"frames": 0, "eval/return": 1.0}, {"frames": 1000, "eval/return": 2.0}]
        write_run(tmp_path / "runs" / str(seed), [*returns, {"frames": end, "loss/kl": 3.0}], seed=seed)
    text = run_report(capsys, tmp_path / "runs", "--out", tmp_path / "out", "--frames", 1800)
    assert f"left out {tmp_path / 'runs/2'}" in text
    assert [row["seeds"] for row in rows(tmp_path / "out/agents.csv")] == ["1"]


def test_between_two_evaluations_is_between_their_returns(runs: Path, capsys: pytest.CaptureFixture) -> None:
    run_report(capsys, runs / "walker_walk" / "sac" / "1", "--out", runs.parent, "--frames", 500)
    assert rows(runs.parent / "agents.csv")[0]["last"] == "50.0"


def test_another_metric_smoothed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    records = [{"frames": 10 * i, "episode/return": float(i)} for i in range(10)]
    write_run(tmp_path / "run", records)
    text = run_report(capsys, tmp_path, "--metric", "episode/return", "--smooth", 40, "--out", tmp_path)
    assert text.startswith("# episode/return\n")
    assert rows(tmp_path / "agents.csv")[0]["last"] == "7.5"  # mean of 6, 7, 8, 9


def test_means_of_the_last_episodes_and_the_best_of_them(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    returns = [9, 9, 1, 5, 6, 4, 2]
    write_run(tmp_path / "run", [{"frames": 10 * i, "episode/return": float(x)} for i, x in enumerate(returns)])
    write_run(tmp_path / "short", [{"frames": 0, "episode/return": 5.0}])
    text = run_report(capsys, tmp_path, "--metric", "episode/return", "--last", 3, "--out", tmp_path)
    assert f"left out {tmp_path / 'short'}: " in text
    row = rows(tmp_path / "agents.csv")[0]
    assert float(row["last"]) == pytest.approx((6 + 4 + 2) / 3)
    assert float(row["best"]) == pytest.approx((9 + 9 + 1) / 3)  # not that of two nines alone
    assert row["frames"] == "60.0"


def test_the_last_episodes_of_several_environments_that_end_together(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    returns = [1, 2, 3, 4, 5, 6, 7, 8]
    write_run(tmp_path / "run", [{"frames": 100 * (i // 4), "episode/return": float(x)} for i, x in enumerate(returns)])
    run_report(capsys, tmp_path, "--metric", "episode/return", "--last", 6, "--out", tmp_path)
    (row,) = rows(tmp_path / "agents.csv")
    assert (float(row["last"]), row["frames"]) == (pytest.approx(np.mean(returns[2:])), "100.0")
    run_report(capsys, tmp_path, "--metric", "episode/return", "--out", tmp_path)
    assert [float(point["value"]) for point in rows(tmp_path / "curves.csv")] == [2.5, 6.5]


def test_a_label_tells_settings_apart(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for k in (2, 16):
        make_run(tmp_path / f"k{k}", [k], **{"head.num_particles": k})
        make_run(tmp_path / f"t{k}", [k], task="finger_spin", **{"head.num_particles": k})
    make_run(tmp_path / "sac", [1], agent="sac")
    text = run_report(capsys, tmp_path, "--out", tmp_path)
    assert "smac on finger_spin, walker_walk: its runs differ in head.num_particles; separate them with" in text
    text = run_report(capsys, tmp_path, "--out", tmp_path, "--label", "head.num_particles")
    assert "differ" not in text
    agents = [row["agent"] for row in rows(tmp_path / "agents.csv") if row["task"] == "walker_walk"]
    assert agents == ["sac", "smac num_particles=2", "smac num_particles=16"]


def test_agents_are_in_the_order_of_their_numbers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for digits in ("10", "9", "1" * 99):
        file = make_run(tmp_path / digits, [1]) / "config.yaml"
        file.write_text(file.read_text().replace("agent: smac", f"agent: a{digits}"))
    run_report(capsys, tmp_path, "--out", tmp_path)
    assert [row["agent"] for row in rows(tmp_path / "agents.csv")] == ["a9", "a10", f"a{'1' * 99}"]


def test_a_seed_that_ran_twice_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in "ab":
        make_run(tmp_path / name, [1], seed=5)
    assert "smac on walker_walk: several runs of seed 5" in run_report(capsys, tmp_path, "--out", tmp_path)


def test_curves_end_where_they_are_compared(
    runs: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("worldrl.report.__main__.draw", lambda path, panels, *rest: drawn.append(panels))
    run_report(capsys, runs, "--out", runs.parent, "--frames", 2500)
    ends = {float(c.frames[-1]) for panel in drawn[0].values() for curves in panel.values() for c in curves}
    assert ends == {2500.0}


def test_agents_that_learned_from_different_data_are_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("medium", "expert"):
        run = make_phases(tmp_path / name, [0, 1.0, 2.0])
        file = run / "config.yaml"
        text = file.read_text().replace("d/walks.npz", f"/d/{name}.npz")
        text = text.replace("checksum: c", f"checksum: {name}")
        file.write_text(text.replace("agent: smac", f"agent: {name}"))
    text = run_report(capsys, tmp_path, "--out", tmp_path)
    assert "learned from different data: /d/expert.npz, /d/medium.npz" in text


@pytest.mark.parametrize("huge", [1.7e308, -1e200, 10**400, None])
@pytest.mark.parametrize("options", [["--html"], ["--smooth", "5000"], ["--last", "2"]])
def test_what_is_too_large_for_statistics_is_left_out(
    tmp_path: Path, huge: float | None, options: list[str], capsys: pytest.CaptureFixture
) -> None:
    for seed in (1, 2):
        make_run(tmp_path / "runs" / str(seed), [0, 10.0, huge, 10.0], every=9000, seed=seed)
    text = run_report(capsys, tmp_path / "runs", "--out", tmp_path / "out", *options)
    assert [row["last"] for row in rows(tmp_path / "out/agents.csv")] == ["10.0"]
    assert text.count("left out 1 value of eval/return") == 2


def test_the_largest_numbers_have_statistics(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for agent, share in (("sac", 0.5), ("smac", 1.0)):
        for seed in (1, 2, 3):
            returns = [0, LARGEST * share, -LARGEST * share / seed]
            make_run(tmp_path / "runs" / f"{agent}{seed}", returns, every=9000, agent=agent, seed=seed)
    text = run_report(capsys, tmp_path / "runs", "--out", tmp_path / "out", "--html")
    assert max(len(line) for line in text.splitlines() if line.startswith("|")) < 200
    assert {float(row["best"]) for row in rows(tmp_path / "out/agents.csv")} == {LARGEST / 2, LARGEST}


def test_frames_that_no_run_has_and_curves_without_a_value(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for record, where in (
        ({"frames": 1.7e308, "eval/return": 1.0}, "frames"),
        ({"frames": 1, "eval/return": None}, ""),
    ):
        folder = write_run(tmp_path / f"run{where}", [record])
        assert where in fails(capsys, folder)


def test_a_folder_of_any_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_run(Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff")), [0, 1.0])
    assert "walker_walk" in run_report(capsys, tmp_path, "--out", tmp_path)


def test_normalisers_and_lines_may_belong_to_a_task(runs: Path, capsys: pytest.CaptureFixture) -> None:
    units = ["--normalise", "walker-walk=100", "--normalise", "200"]
    lines = ["--random", "walker-walk=-3", "--random", "cheetah_run=1", "--baseline", "walker_walk:Dreamer=900"]
    run_report(capsys, runs, "--out", runs.parent, *units, *lines)
    sac, smac = rows(runs.parent / "aggregate.csv")
    assert float(sac["iqm"]) == pytest.approx(stats.trim_mean([1.02, 1.04, 1.06, 0.51, 0.52, 0.53], 0.25))
    assert float(smac["iqm"]) == pytest.approx(stats.trim_mean([1.12, 1.14, 1.16, 0.56, 0.57, 0.58], 0.25))


def test_what_is_missing_for_an_aggregate_is_told(runs: Path, capsys: pytest.CaptureFixture) -> None:
    assert "no aggregate over tasks: set the return that counts as 1" in run_report(capsys, runs, "--out", runs.parent)
    text = run_report(capsys, runs / "walker_walk", "--out", runs.parent, "--normalise", 1000)
    assert "no aggregate over tasks: all agents share 1" in text
    assert "--normalise: found no value for cheetah_run" in fails(capsys, runs, "--normalise", "walker_walk=1")


# --- wrong use --------------------------------------------------------------------------------------------------------


def test_errors_are_one_line(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    cases = {
        (tmp_path / "none",): "found no folder",
        (runs, tmp_path / "empty"): f"{tmp_path / 'empty'}: found no run in or below it",
        (): "the following arguments are required: RUN_DIR; see --help",
        (runs, "--frames", "-5"): "--frames: found '-5', expected a number above 0",
        (runs, "--frames", "nan"): "--frames: found 'nan', expected a number",
        (runs, "--frames", "1e9"): "--frames: found 1,000,000,000, expected",
        (runs, "--smooth", "much"): "--smooth: found 'much'",
        (runs, "--last", "0"): "--last: found '0', expected a whole number, 1 or more",
        (runs, "--last", "2", "--smooth", "2"): "not allowed with argument",
        (runs, "--last", "99"): "--last: found 99, expected at most 5, the values of eval/return",
        (runs, "--metric", "eval/retrun"): "unknown metric 'eval/retrun'; did you mean: eval/return",
        (runs, "--label", "head.particles"): "unknown setting 'head.particles'; did you mean: head.num_particles",
        (runs, "--random", "walk=5"): "unknown task 'walk'; did you mean: walker_walk?",
        (runs, "--random", "x"): "--random: found 'x', expected a number",
        (runs, "--baseline", "5"): "--baseline: found '5', expected NAME=VALUE",
        (runs, "--normalise", "0"): "--normalise: found '0', expected a number above 0",
        (runs, "--normalise", "hopper=1"): "unknown task 'hopper'",
        (runs, "--out", tmp_path / "file"): f"cannot write to {tmp_path / 'file'}",
        (runs, "--out", tmp_path / "file" / "x.png"): "--out takes a folder, or a picture",
    }
    for arguments, expected in cases.items():
        assert expected in fails(capsys, *arguments)


def test_damage_and_gaps_are_one_line(runs: Path, capsys: pytest.CaptureFixture) -> None:
    bad = runs / "walker_walk" / "sac" / "2" / "metrics.jsonl"
    good = bad.read_text()
    bad.write_text("\n" + good.replace("}", "", 1))
    assert f"{bad}, line 2, is damaged" in fails(capsys, runs)
    bad.write_text('{"frames": 1e999, "eval/return": 1.0}\n')
    assert f"{bad}, line 1: frames: found inf, expected a number" in fails(capsys, runs)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Names that would clear a terminal, set its title, reverse a line, or begin a line of their own."""
    for seed in (1, 2):
        run = make_run(tmp_path / f"runs/\x1b[2J\n- forged {seed}", [0, 1.0, 2.0], every=9000, seed=seed)
        file = run / "config.yaml"
        text = file.read_text().replace("agent: smac", r'agent: "\e[31msmac\n- forged|\u202e"')
        text = text.replace("task: walker_walk", r'task: "\e]0;walk\a\L"').replace(
            "device: auto", rf'device: "\e{seed}"'
        )
        file.write_text(re.sub(r"commit \S+", "commit \u202eabc", text))
        cells = [{"corruption": kind, "level": level, "return": 1.0} for kind, level in (("clean", 0), ("\x1bc", 1))]
        grid = {"task": "\x1b[2J", "agent": "\x1b\n- forged", "trained_with": {}, "cells": cells}
        (run / "robustness.json").write_text(json.dumps(grid))
        (run / "videos").mkdir()
        (run / "videos" / "\x9b31m.mp4").write_text("")
    make_run(tmp_path / "runs" / "\x1b[5mempty", [])
    return tmp_path / "runs"


@pytest.mark.parametrize("options", [["--html"], ["--robustness"], ["--label", "device"]])
def test_no_control_character_of_a_run_folder_gets_out(
    hostile: Path, options: list[str], capsys: pytest.CaptureFixture
) -> None:
    out = hostile.parent / "out"
    texts = [run_report(capsys, hostile, "--out", out, *options)]
    texts += [file.read_text() for file in out.iterdir() if file.suffix in (".md", ".csv", ".html")]
    assert len(texts) > 2
    for text in texts:
        assert not [c for c in text if not c.isprintable() and c != "\n"]
        assert "\n- forged" not in text


def test_no_control_character_gets_into_an_error(hostile: Path, capsys: pytest.CaptureFixture) -> None:
    (file,) = hostile.glob("*1/metrics.jsonl")
    file.write_text('{"frames": 0, "eval/retour\\u001b[31m": 1.0}\nnonsense\n')
    assert fails(capsys, hostile).rstrip("\n").isprintable()
    file.write_text(file.read_text().replace("nonsense\n", ""))
    assert fails(capsys, file.parent).rstrip("\n").isprintable()


@pytest.mark.parametrize("options", [[], ["--frames", "12000"], ["--smooth", "9000"]])
def test_best_is_never_below_last(tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture) -> None:
    make_run(tmp_path / "runs/long", [0, 100, 900], every=10_000, agent="sac", seed=1)  # at 15,000: between its values
    make_run(tmp_path / "runs/short", [0, 50, 60, 50], every=5_000, agent="td3", seed=1)
    run_report(capsys, tmp_path / "runs", "--out", tmp_path / "out", *options)
    table = rows(tmp_path / "out/runs.csv")
    assert all(float(row["best"]) >= float(row["last"]) for row in table)
    if not options:
        found = [[float(row[key]) for key in ("frames", "last", "best")] for row in table]
        assert found == [[15_000, 500, 500], [15_000, 50, 60]]


def test_a_run_that_was_stopped_before_it_learnt_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_run(tmp_path / "runs/1", [0, 100, 200], every=10_000, agent="sac", seed=1)
    make_run(tmp_path / "runs/2", [3], agent="sac", seed=2)
    text = run_report(capsys, tmp_path / "runs", "--out", tmp_path / "out")
    assert [row["frames"] for row in rows(tmp_path / "out/agents.csv")] == ["20000.0"]
    assert f"left out {tmp_path / 'runs/2'}: " in text
    assert "no interval" in text
    run_report(capsys, tmp_path / "runs/2", "--out", tmp_path / "out")  # there is nothing else
    assert [row["frames"] for row in rows(tmp_path / "out/agents.csv")] == ["0.0"]
