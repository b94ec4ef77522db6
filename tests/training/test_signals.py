"""Signals stop a run after the step in progress, with a command that continues it."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kills import records
from tests.training.running import STATE, assert_same_run, begun, make_trainer, output
from worldrl import train
from worldrl.runs.checkpoint import Checkpoints
from worldrl.runs.settings import save_config
from worldrl.runs.trained import load_agent
from worldrl.training import loop
from worldrl.training.loop import Trainer, resume
from worldrl.training.signals import Stopped


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_writes_a_checkpoint_and_prints_the_resume_command(tmp_path: Path, number: int, code: int) -> None:
    run = tmp_path / "run"
    child = begun(run, {**STATE, "frames": 1_000_000})
    time.sleep(0.3)
    assert child.pid is not None
    os.kill(child.pid, number)
    child.join(60)
    assert child.exitcode == code, output(run)
    assert f"resume={run}" in output(run)
    assert Checkpoints(run).load(Checkpoints(run).find())["now"] > 0


def test_a_signal_to_the_whole_group_stops_a_run_with_workers_as_well(tmp_path: Path) -> None:
    """As a scheduler or a service manager sends it."""
    run = tmp_path / "run"
    child = begun(run, {**STATE, "frames": 1_000_000, "env.num_envs": 2, "eval.every": 0})
    time.sleep(0.3)
    assert child.pid is not None
    os.killpg(child.pid, signal.SIGTERM)
    child.join(60)
    assert child.exitcode == 143, output(run)
    assert f"resume={run}" in output(run)
    assert "worker" not in output(run)


def test_a_signal_interrupts_pretraining_which_then_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PRETRAIN_LOG", 2)
    settings = {**STATE, "frames": 1_600, "schedule.pretrain": 6, "eval.every": 0}
    train(settings, tmp_path / "whole")
    trainer = make_trainer(settings, tmp_path / "stopped")
    save_config(trainer.config, tmp_path / "stopped")
    learn = trainer.learn

    def learn_until_the_signal() -> None:
        learn()
        if trainer.pretrained == 3:
            trainer._on_signal(signal.SIGTERM)

    monkeypatch.setattr(trainer, "learn", learn_until_the_signal)
    with pytest.raises(Stopped):
        trainer.run()
    trainer.close()
    assert (trainer.pretrained, trainer.experience.now) == (3, 1_000)
    resume(tmp_path / "stopped")
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    warm_up = [record for record in records(tmp_path / "whole") if "loss/kl" in record][:3]
    assert [record["updates"] for record in warm_up] == [2, 4, 6]
    assert not any("loss/critic" in record for record in warm_up)


def test_a_second_interrupt_names_what_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer({**STATE, "eval.every": 0}, tmp_path / "run")

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "tick", interrupted)
    with pytest.raises(Stopped) as stopped:
        loop._run(trainer)
    assert stopped.value.code == 130
    assert f"step-000000000: python -m worldrl train resume={tmp_path / 'run'}" in capsys.readouterr().out


def test_a_signal_is_heeded_between_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick with sixteen updates, stopped in the middle, is finished when the run continues."""
    settings = {**STATE, "frames": 1_100, "eval.every": 0, "schedule.updates_per_1000_frames": 2_000}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(settings, whole)
    learn = Trainer.learn

    def learn_until_the_signal(trainer: Trainer) -> None:
        learn(trainer)
        if trainer.agent.updates in (5, 130, 131):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "learn", learn_until_the_signal)
    for updates in (5, 130, 131):
        with pytest.raises(Stopped):
            resume(stopped) if stopped.exists() else train(settings, stopped)
        assert load_agent(stopped)[0].updates == updates
    resume(stopped)
    assert_same_run(whole, stopped)


def test_a_run_in_another_thread(tmp_path: Path) -> None:
    """Python gives signals only to the main thread."""
    settings = {**STATE, "frames": 400, "schedule.prefill": 200, "eval.every": 0}
    with ThreadPoolExecutor(1) as pool:
        pool.submit(train, settings, tmp_path / "run").result()
    assert Checkpoints(tmp_path / "run").reached(400)
