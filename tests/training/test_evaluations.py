"""Evaluations of a run: their own episodes and random numbers, and what a failure or a signal leaves."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.errors import refusing
from tests.kills import records
from tests.toy_runs import STATE_SAC
from tests.training.running import COUNTS, STATE, assert_same_run, make_trainer
from worldrl import train
from worldrl.acting import episodes
from worldrl.envs import WorkerError
from worldrl.envs.stream import EVAL
from worldrl.errors import UserError
from worldrl.runs.checkpoint import Checkpoints
from worldrl.runs.settings import load_config, save_config
from worldrl.training import evaluations
from worldrl.training.loop import Trainer, resume
from worldrl.training.signals import Stopped


def test_a_signal_interrupts_an_evaluation_which_is_due_when_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**STATE, "frames": 2_400}
    train(settings, tmp_path / "whole")
    trainer = make_trainer(settings, tmp_path / "stopped")
    save_config(trainer.config, tmp_path / "stopped")
    act, calls = trainer.agent.act, []

    def act_until_the_signal(*args: Any, **options: Any) -> Any:
        if trainer.experience.now >= 2_000 and options.get("perturb") is False:
            calls.append(options)
            if len(calls) == 3:
                trainer._on_signal(signal.SIGINT)
        return act(*args, **options)

    monkeypatch.setattr(trainer.agent, "act", act_until_the_signal)
    with pytest.raises(Stopped):
        trainer.run()
    trainer.close()
    assert len(calls) == 3
    assert not any(r["frames"] >= 2_000 and "eval/return" in r for r in records(tmp_path / "stopped"))
    resume(tmp_path / "stopped")
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_signal_in_the_first_evaluation_says_that_there_is_nothing_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(STATE, tmp_path / "run")
    monkeypatch.setattr(trainer, "begin", lambda begin=trainer.begin: (trainer._on_signal(signal.SIGINT), begin()))
    with pytest.raises(Stopped):
        trainer.run()
    trainer.close()
    assert "nothing to resume from; delete" in capsys.readouterr().out
    assert trainer.checkpoints.latest() is None


def test_an_episode_without_an_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episodes, "LONGEST", 300)
    trainer = make_trainer(STATE, tmp_path / "run")
    with refusing("cartpole_swingup", found="300 frames"):
        trainer.run()
    trainer.close()


def test_a_later_episode_without_an_end_costs_one_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer({**STATE_SAC, "task": COUNTS["task"], "eval.every": 4, "frames": 12}, tmp_path / "run")
    save_config(trainer.config, tmp_path / "run")
    trainer.begin()
    for limit in (1, 200_000):
        monkeypatch.setattr(episodes, "LONGEST", limit)
        for _ in range(5):
            trainer.tick()
    trainer.close()
    assert "without an end after 1 frames" in capsys.readouterr().out
    assert [r["frames"] for r in records(tmp_path / "run") if "eval/return" in r] == [0, 8]
    assert trainer.evaluations.count == 3


def test_a_film_that_cannot_be_written_does_not_end_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "videos").touch()  # in place of the folder
    toy = {"task": "tests.envs.toy_envs:Draws", "frames": 40, "eval.every": 20, "schedule.prefill": 100}
    train({**STATE_SAC, **toy, "eval.video": True}, run)
    told = capsys.readouterr().out
    assert f"cannot write to {run / 'videos'}" in told
    assert "done: 40 frames" in told


def test_a_film_that_cannot_be_made_does_not_end_a_resumed_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, toy = tmp_path / "run", {"task": "tests.envs.toy_envs:CannotDraw", "eval.every": 20, "schedule.prefill": 100}
    train({**STATE_SAC, **toy, "frames": 40}, run)
    resume(run, {"frames": 100, "eval.video": True})
    told = capsys.readouterr().out
    assert told.count("not filmed") == 1
    assert "done: 100 frames" in told


def test_an_evaluation_that_the_environment_cut_is_not_the_best(tmp_path: Path) -> None:
    """Where rewards are costs, an episode that fails early has the highest return."""
    trainer = make_trainer(STATE, tmp_path / "run")
    kept = trainer.evaluations
    trainer.agent.updates, kept.last, kept._cut = 1, -1.0, True
    assert not kept.improved()
    kept._cut = False
    assert kept.improved()
    trainer.close()


def test_an_evaluation_that_fails_again_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, settings = tmp_path / "run", {**STATE, "frames": 2_400, "eval.every": 1_000}
    train({**settings, "frames": 500}, run)
    play = evaluations.run_episodes

    def dies_at_1000(agent: Any, envs: Any, *rest: Any, **options: Any) -> Any:
        if rest[1] == 1:
            raise WorkerError("environment 0 is on fire", 0)
        return play(agent, envs, *rest, **options)

    monkeypatch.setattr(evaluations, "run_episodes", dies_at_1000)
    with pytest.raises(WorkerError, match=r"on fire.* resume="):
        resume(run, {"frames": 2_400})
    resume(run)
    assert "on fire; it failed there before, so this evaluation is skipped" in capsys.readouterr().out
    assert [r["frames"] for r in records(run) if "eval/return" in r] == [0, 2_000]


def test_a_worker_that_dies_in_the_first_evaluation_leaves_nothing_to_continue(tmp_path: Path, monkeypatch) -> None:
    trainer = make_trainer({**STATE, "env.num_envs": 2}, tmp_path / "run")

    def dies(*_: Any, **__: Any) -> None:
        raise WorkerError("environment 1 died", 1)

    monkeypatch.setattr(evaluations, "run_episodes", dies)
    try:
        with pytest.raises(WorkerError, match="environment 1 died"):
            trainer.run()
    finally:
        trainer.close()
    assert Checkpoints(tmp_path / "run").latest() is None


@pytest.mark.parametrize("num_envs", [1, 2])
def test_a_video_that_cannot_be_drawn_is_refused_without_a_folder(tmp_path: Path, num_envs: int) -> None:
    settings = {**STATE, "task": "tests.envs.toy_envs:Count", "eval.video": True, "env.num_envs": num_envs}
    with pytest.raises(UserError, match=r"eval\.video=false"):
        train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_evaluation_leaves_training_as_it_was(tmp_path: Path) -> None:
    """Runs with and without evaluation learn the same."""
    for name, every in (("with", 1_000), ("without", 0)):
        train({**STATE, "frames": 2_500, "eval.every": every}, tmp_path / name)
    logs = [[r for r in records(tmp_path / name) if "loss/critic" in r] for name in ("with", "without")]
    assert logs[0] == logs[1]
    assert logs[0]
    assert load_config(tmp_path / "with").eval.every == 1_000


def test_the_best_agent_is_the_first_of_the_highest_return(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent without an update is none; a resumed run knows the best return so far."""
    returns: list[float] = []
    played = lambda *_: SimpleNamespace(returns=[returns.pop(0)], cut=0, video=None)  # noqa: E731
    monkeypatch.setattr(evaluations, "run_episodes", played)
    trainer = make_trainer({**STATE_SAC, "task": COUNTS["task"], "eval.every": 100}, tmp_path / "run")
    save_config(trainer.config, tmp_path / "run")

    def best_after(trainer: Trainer, *found: float) -> int:
        returns.extend(found)
        for _ in found:
            trainer.tick()
            trainer.evaluate()
        path = trainer.checkpoints.best()
        return int(path.name.removeprefix("best-")) if path else 0

    returns.append(9.0)
    trainer.begin()
    assert best_after(trainer, 8.0) == 0
    trainer.agent.updates = 1
    assert best_after(trainer, 5.0) == 2
    assert best_after(trainer, 5.0, 4.0) == 2
    assert best_after(trainer, 7.0) == 5
    trainer.save()
    trainer.close()
    folder, saved = trainer.checkpoints.read()
    resumed = Trainer(load_config(tmp_path / "run"), tmp_path / "run", {**saved, "folder": folder})
    assert best_after(resumed, 6.0) == 5
    resumed.close()


def test_evaluations_have_episodes_and_random_numbers_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three episodes of two environments take two each, of which one is not played."""
    seen: list[tuple[int, float]] = []

    def played(envs: Any, act: Any, episodes: int, first: int, *_: Any) -> Any:
        seen.append((first, float(torch.rand(()))))
        return SimpleNamespace(returns=[1.0], cut=0, video=None)

    monkeypatch.setattr(evaluations, "run_episodes", played)
    trainer = make_trainer({**STATE_SAC, "task": COUNTS["task"], "eval.episodes": 3}, tmp_path / "run")
    trainer.evaluations._envs = SimpleNamespace(num_envs=2, close=lambda: None)  # type: ignore[assignment]
    try:
        before = torch.get_rng_state()
        for _ in range(3):
            trainer.evaluate()
        assert torch.equal(before, torch.get_rng_state())
        assert [first for first, _ in seen] == [0, 2, 4]
        assert len({number for _, number in seen}) == 3
        trainer.evaluations.count = 1
        trainer.evaluate()
        assert seen[3] == seen[1]
    finally:
        trainer.close()


def test_evaluations_play_new_episodes_of_their_own_stream(tmp_path: Path) -> None:
    trainer = make_trainer({**STATE, "eval.episodes": 2}, tmp_path / "run")
    trainer.evaluate()
    assert trainer.evaluations._envs._key == (trainer.config.seed, EVAL)
    assert trainer.evaluations._envs.state()["episode"].tolist() == [1]
    trainer.evaluate()
    assert trainer.evaluations._envs.state()["episode"].tolist() == [3]
    trainer.close()
