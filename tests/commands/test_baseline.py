"""The baselines of Stable-Baselines3: same episodes, same frames, a folder that the report reads."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import worldrl
from tests.errors import refusing
from worldrl import train
from worldrl.acting.episodes import Endless, run_episodes
from worldrl.commands import baseline
from worldrl.envs.make import EnvConfig, make_env
from worldrl.envs.vector import WorkerError, make_envs
from worldrl.errors import UserError
from worldrl.report.__main__ import main as report
from worldrl.report.curves import read_runs


def command(*arguments: str, code: int = 0) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        assert baseline.main(arguments) == code


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short episodes' worth of PPO."""
    folder = tmp_path_factory.mktemp("sb3") / "run"
    settings = ("task=cartpole_balance", "frames=4000", "env.action_repeat=4", "eval.every=2000", "eval.episodes=1")
    command("ppo", *settings, "sb3.n_steps=128", "sb3.batch_size=64", f"dir={folder}")
    return folder


def records(folder: Path, key: str) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["frames"], line[key]) for line in lines if key in line]


def test_evaluates_on_time_and_counts_frames(run: Path) -> None:
    assert [frames for frames, _ in records(run, "eval/return")] == [0, 2000, 4000]
    assert [frames for frames, _ in records(run, "episode/return")] == [1000, 2000, 3000, 4000]
    assert (run / baseline.MODEL_FILE).is_file()


def test_it_goes_on_to_the_last_frame_where_episodes_end_within_a_repeat(tmp_path: Path) -> None:
    """334 actions of three frames are an episode of 1,000 frames."""
    settings = ("task=cartpole_balance", "frames=1002", "env.action_repeat=3", "eval.every=5000", "eval.episodes=1")
    command("ppo", *settings, "sb3.n_steps=64", "sb3.batch_size=64", f"dir={tmp_path / 'run'}")
    assert [frames for frames, _ in records(tmp_path / "run", "eval/return")] == [0, 1003]


def test_schedules_end_with_the_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs run over steps, of which 500 frames at a repeat of 4 have 125: the rate falls linearly to zero."""
    left: list[float] = []
    schedule = {"learning_rate": lambda remaining: left.append(remaining) or 1e-3}
    made = baseline._built
    monkeypatch.setattr(baseline, "_built", lambda make, name, env, args: made(make, name, env, {**args, **schedule}))
    settings = ("task=cartpole_balance", "frames=500", "env.action_repeat=4", "eval.every=0")
    command("ppo", *settings, "sb3.n_steps=25", "sb3.batch_size=25", f"dir={tmp_path / 'run'}")
    assert sorted({round(x, 6) for x in left}, reverse=True) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_the_report_shows_it_beside_our_own_agents(run: Path, tmp_path: Path) -> None:
    ours = {"agent": "sac", "task": "cartpole_balance", "env.obs": "state", "env.action_repeat": 4, "frames": 2000}
    quiet = {"eval.every": 1000, "eval.episodes": 1, "eval.video": False, "log.tensorboard": False}
    train({**ours, **quiet, "schedule.prefill": 3000}, tmp_path / "ours")
    runs, _ = read_runs([run, tmp_path / "ours"], "eval/return")
    assert {r.agent for r in runs} == {"sb3_ppo", "sac"}
    assert {r.task for r in runs} == {"cartpole_balance"}
    assert report([str(run), str(tmp_path / "ours"), "--out", str(tmp_path / "report")]) == 0


def test_choices_are_learned_from_and_evaluated_on_the_episodes_of_our_own_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every action that reaches the environments is a one-hot row; evaluation begins where ours does."""
    began, rows = [], []

    def watched(envs: Any, act: Any, episodes: int, first: int) -> Any:
        def acting(now: Any) -> Any:
            began.extend(now["state"][now["is_first"] > 0])
            rows.append(act(now))
            return rows[-1]

        return run_episodes(envs, acting, episodes, first)

    monkeypatch.setattr(baseline, "run_episodes", watched)
    settings = ("task=CartPole-v1", "seed=4", "frames=200", "eval.every=100", "eval.episodes=2")
    command("dqn", *settings, "sb3.learning_starts=50", "sb3.buffer_size=500", f"dir={tmp_path / 'run'}")
    assert [frames for frames, _ in records(tmp_path / "run", "eval/return")] == [0, 100, 200]
    assert np.array_equal(np.sort(np.concatenate(rows)), np.eye(2)[[1] * sum(map(len, rows))])
    ours = make_envs(EnvConfig(obs="state", action_repeat=1), "CartPole-v1", 4, training=False)
    np.testing.assert_array_equal(began[:6], [ours.reset(n)["state"][0] for n in range(6)])


def test_a_grid_is_learned_from(tmp_path: Path) -> None:
    pytest.importorskip("minatar", reason="the games need the extra minatar")
    settings = ("task=MinAtar/Breakout-v0", "frames=120", "eval.every=0", "sb3.learning_starts=50")
    command("dqn", *settings, "sb3.buffer_size=500", f"dir={tmp_path / 'run'}")
    assert records(tmp_path / "run", "episode/return")


def test_an_evaluation_without_an_end_is_skipped_and_a_failure_keeps_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[int] = []

    def play(*_: Any) -> Any:
        played.append(1)
        if len(played) == 2:
            raise Endless("cartpole_balance", "an episode without an end")
        if len(played) == 3:
            raise WorkerError("environment 0 is on fire", 0)
        return SimpleNamespace(returns=[1.0])

    monkeypatch.setattr(baseline, "run_episodes", play)
    settings = ("task=cartpole_balance", "frames=1200", "env.action_repeat=4", "eval.every=400", "eval.episodes=1")
    command("ppo", *settings, "sb3.n_steps=64", "sb3.batch_size=64", f"dir={tmp_path / 'run'}", code=2)
    assert [frames for frames, _ in records(tmp_path / "run", "eval/return")] == [0]
    assert (tmp_path / "run" / baseline.MODEL_FILE).is_file()


def test_it_cannot_be_loaded_as_one_of_our_own(run: Path) -> None:
    with refusing(expected="worldrl train"):
        worldrl.load(run)


def test_episodes_start_where_those_of_our_own_runs_start() -> None:
    _, config, _, _ = baseline.parse(["ppo", "task=cartpole_swingup", "seed=3"])
    env = baseline.Numbered(make_env(config.env, config.task), config.seed)
    ours = make_envs(config.env, config.task, config.seed)
    for episode in range(2):
        np.testing.assert_array_equal(env.reset()[0], ours.reset(episode)["state"][0])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "the first argument: found nothing, expected one of: ppo, ddpg"),
        (["pbo"], "unknown algorithm 'pbo'; did you mean: ppo"),
        (["ppo", "head.units=3"], "unknown key 'head.units'"),
        (["ppo", "env.obs=pixels"], "found env.obs=pixels and env.num_envs=1, expected the states of one"),
        (["ppo", "resume=x"], "resume: found a run that cannot be resumed"),
        (["ppo", "sb3.n_stepps=3"], "sb3.*: found settings that PPO refuses"),
        (["ppo", "sb3.env=CartPole-v1"], "sb3.*: found settings that PPO refuses"),
        (["ppo", "eval.video=true"], "unknown key 'eval.video'"),
        (["ppo", "log.every=100"], "unknown key 'log.every'"),
        (["ppo", "frames=-1"], "frames: found -1"),
        (["ppo", "sb3.seed=5"], "sb3.seed: found 5"),
        (["ppo", "seed=1,2"], "seed=1,2: found several runs, expected one"),
        (["sac", "task=CartPole-v1"], "baseline sac: found CartPole-v1, which has a choice of actions"),
        (["dqn", "task=Pendulum-v1"], "baseline dqn: found Pendulum-v1, which has a box of actions"),
        (["ppo", "-m"], "-m: found several runs, expected one"),
        (["ppo", "--cfg", "job"], "--cfg: found an option of worldrl train only"),
        (["ppo", "hydra.run.dir=x"], "hydra.run.dir=x: found an option of worldrl train only; dir= is the run folder"),
    ],
)
def test_wrong_use_ends_in_one_line(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(*arguments, *([f"dir={tmp_path / 'run'}"] if arguments else []), code=2)
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_argument_may_be_a_mapping_and_the_folder_no_file(tmp_path: Path) -> None:
    algorithm, config, _, arguments = baseline.parse(
        ["ppo", "task=cartpole_balance", "sb3.policy_kwargs={net_arch:[8,9]}"]
    )
    assert arguments == {"policy_kwargs": {"net_arch": [8, 9]}}
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught:
        baseline.train(algorithm, config, tmp_path / "file", arguments)
    assert (caught.value.where, caught.value.found) == (str(tmp_path / "file"), "a file")


def test_a_preset_of_the_environment_counts() -> None:
    config = baseline.parse(["dqn", "env=minatar", "task=MinAtar/Seaquest-v0"])[1]
    assert (config.task, config.env.obs, config.env.action_repeat) == ("MinAtar/Seaquest-v0", "state", 1)


def test_a_folder_may_be_a_number() -> None:
    assert baseline.parse(["ppo", "task=CartPole-v1", "dir=2024"])[2] == Path("2024")


def test_does_not_write_over_another_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "metrics.jsonl").read_bytes()
    command("ppo", "task=cartpole_balance", f"dir={run}", code=2)
    assert "expected a new or empty folder; choose another folder with dir=" in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_bytes() == before


def test_says_what_to_install_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    algorithm, config, _, arguments = baseline.parse(["ppo", "task=cartpole_balance"])
    with pytest.raises(UserError) as caught:
        baseline.train(algorithm, config, tmp_path, arguments)
    assert caught.value.fix == "pip install -e '.[sb3]'"


def test_a_number_for_action_noise_is_gaussian_noise_of_this_width(tmp_path: Path, monkeypatch) -> None:
    import stable_baselines3

    made = []

    class Watched(stable_baselines3.DDPG):
        def __init__(self, *args: Any, **options: Any) -> None:
            made.append(options["action_noise"])
            super().__init__(*args, **options)

    monkeypatch.setattr(stable_baselines3, "DDPG", Watched)
    settings = ("task=reacher_easy", "frames=200", "env.action_repeat=4", "eval.every=0")
    command("ddpg", *settings, "sb3.action_noise=0.1", "sb3.buffer_size=1000", f"dir={tmp_path / 'run'}")
    draws = np.stack([made[0]() for _ in range(4000)])
    assert draws.shape == (4000, 2)
    np.testing.assert_allclose(draws.std(0), 0.1, atol=0.01)
    np.testing.assert_allclose(draws.mean(0), 0.0, atol=0.01)
    command("ddpg", *settings, "sb3.action_noise=wide", f"dir={tmp_path / 'other'}", code=2)
    assert not (tmp_path / "other").exists()
