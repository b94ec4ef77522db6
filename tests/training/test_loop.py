"""The training loop as a user meets it: it goes on exactly, stops cleanly, and names what went wrong."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.errors import refusing
from tests.kills import flat, kill_and_compare, records
from tests.toy_runs import STATE_SAC
from tests.training.running import COUNTS, DATA, PIXELS, STATE, assert_same_run, make_trainer
from worldrl import train
from worldrl.envs import WorkerError
from worldrl.envs.workers import Failure
from worldrl.errors import UserError
from worldrl.heads.smac import SMAC
from worldrl.heads.transitions import transitions
from worldrl.runs.checkpoint import Checkpoints
from worldrl.runs.settings import load_config, save_config
from worldrl.runs.trained import load_agent
from worldrl.training import loop
from worldrl.training.experience.stream import Stream
from worldrl.training.loop import Trainer, resume
from worldrl.types import box


class OwnSMAC(SMAC):
    """A user's own head."""


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        pytest.param("stream", STATE, id="state", marks=pytest.mark.kills),
        pytest.param("stream", PIXELS, id="pixels"),
        pytest.param("data", DATA, id="data"),
        pytest.param("mixed", STATE, id="mixed", marks=pytest.mark.kills),
    ],
)
def test_killed_and_resumed_is_the_same_run(tmp_path: Path, kind: str, settings: dict[str, Any]) -> None:
    """kill -9 inside a checkpoint write; ``pytest -m kills`` does it sixty times, at random moments too."""
    kill_and_compare(tmp_path, kind, {**settings, "frames": 2 * settings["frames"] // 3}, kills=1, seed=kind)


def test_a_folder_that_another_process_trains_in_is_refused_and_left_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train({**STATE, "frames": 1_000}, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lock"}
    code = "import sys; from pathlib import Path; from worldrl.runs.folder import sole_use\n"
    code += "with sole_use(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", code, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with refusing("run", fix="wait"):
            resume(run, {"frames": 2_000})
        holder.kill()
    assert before == {path: path.read_bytes() for path in before}
    resume(run, {"frames": 1_500})
    assert (Checkpoints(run).frames() or 0) >= 1_500


def test_a_run_that_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with refusing("schedule.pretrain", found="5", expected="0"):
        train({"agent": "sac", "task": "cartpole_swingup", "env.obs": "state", "schedule.pretrain": 5}, run)
    assert not run.exists()


def test_two_n_is_n_and_n_more(tmp_path: Path) -> None:
    """Also where the first half ends between two logs: the means of its last, short window are logged at its end."""
    settings = {**STATE, "log.every": 700}
    train({**settings, "frames": 4_000}, tmp_path / "whole")
    train({**settings, "frames": 2_000}, tmp_path / "halves")
    assert [r["frames"] for r in records(tmp_path / "halves") if "loss/critic" in r] == [1_400, 2_000]
    resume(tmp_path / "halves", {"frames": 4_000})
    assert records(tmp_path / "whole") == records(tmp_path / "halves")


@pytest.mark.parametrize(
    "head",
    [
        {"head": "miracle", "head.marginal_actions": 100, "head.marginal_batch": 8, "head.marginal_samples": 3},
        {"head": "virel", "head.temperature": "residual", "head.residual_batch": 180},
    ],
    ids=["recent actions", "transitions"],
)
def test_what_is_drawn_beside_the_slice_goes_on_exactly(tmp_path: Path, head: dict[str, Any]) -> None:
    """At the first half's end, 250 rows, the second head already has its own transitions; it began without them."""
    own = {key: value for key, value in STATE.items() if not key.startswith("head")}
    settings = {**own, **head, "head.units": 16, "eval.every": 0, "log.every": 200}
    train({**settings, "frames": 2_800}, tmp_path / "whole")
    train({**settings, "frames": 2_000}, tmp_path / "halves")
    resume(tmp_path / "halves", {"frames": 2_800})
    assert records(tmp_path / "whole") == records(tmp_path / "halves")
    residual = [r["policy/residual"] for r in records(tmp_path / "whole") if "policy/residual" in r]
    assert not residual or (residual[0] == 1.0 and residual[-1] != 1.0)


def test_resumed_from_the_very_first_checkpoint_is_the_same_run(tmp_path: Path) -> None:
    train({**STATE, "frames": 2_500}, tmp_path / "whole")
    trainer = make_trainer({**STATE, "frames": 2_500}, tmp_path / "killed")
    save_config(trainer.config, tmp_path / "killed")
    trainer.begin()
    trainer.close()
    resume(tmp_path / "killed")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_a_run_that_is_refused_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, before = [], torch.get_num_threads()
    monkeypatch.setattr(Stream, "close", lambda self: closed.append(self))
    with refusing("replay.length"):
        make_trainer({**STATE, "belief.burn_in": 5, "threads": before + 1}, tmp_path / "run")
    assert len(closed) == 1
    assert torch.get_num_threads() == before


def test_acting_without_prefill(tmp_path: Path) -> None:
    trainer = make_trainer({**STATE, "schedule.prefill": 0}, tmp_path / "run")
    for _ in range(3):
        trainer.tick()
    trainer.close()


def test_two_identical_runs_are_identical(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train({**STATE, "frames": 2_000}, tmp_path / name)
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_a_run_writes_what_its_speed_became(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later resume does not choose again, whatever compilers there are then."""
    run = tmp_path / "run"
    train({**STATE, "frames": 1_500, "speed": "auto"}, run)
    assert load_config(run).speed == "eager"
    monkeypatch.setattr(loop, "form_of", lambda speed, agent, updates: speed if speed != "auto" else "compile")
    resume(run, {"frames": 2_000})
    assert load_config(run).speed == "eager"


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    for seed in (1, 2):
        train({**STATE, "frames": 1_500, "seed": seed}, tmp_path / str(seed))
    assert records(tmp_path / "1") != records(tmp_path / "2")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    train({**STATE, "frames": 1_199, "eval.every": 0}, run)
    assert Checkpoints(run).frames() == 1_200
    return run


def test_a_run_cannot_go_back(finished: Path) -> None:
    before = (finished / "config.yaml").read_text()
    with refusing("frames", found="500", expected="1200"):
        resume(finished, {"frames": 500})
    assert (finished / "config.yaml").read_text() == before


def test_a_run_that_ended_above_its_frames_can_be_resumed(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    resume(run)
    resume(run, {"frames": 1_199})
    assert Checkpoints(run).frames() == 1_200


def test_settings_changed_by_hand_are_named_and_harmless_ones_are_not(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("gamma: 0.99", "gamma: 0.5"))
    for use in (resume, load_agent):
        with pytest.raises(UserError) as caught:
            use(run)
        error = caught.value
        assert (error.where, error.found) == (str(run / "config.yaml"), "head.gamma=0.5")
        assert error.expected.startswith("head.gamma=0.99")
    (run / "config.yaml").write_text("")
    with refusing(found="an empty file"):
        load_agent(run)
    (run / "config.yaml").write_text(text.replace("threads: 1", "threads: 2").replace("device: cpu", "device: auto"))
    assert load_agent(run)[0].updates == load_agent(finished)[0].updates


def test_a_damaged_replay_can_be_left_behind_and_learning_waits_for_another(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    chunk = next((run / "replay").iterdir())
    chunk.write_bytes(chunk.read_bytes()[:100])
    with refusing(fix="checkpoint.replay=false"):
        resume(run, {"frames": 1_600})
    before = load_agent(run)[0].updates
    resume(run, {"frames": 1_600, "checkpoint.replay": False})
    assert Checkpoints(run).frames() == 1_600
    assert "the replay is empty: learning waits for 125 rows" in capsys.readouterr().out
    assert load_agent(run)[0].updates == before
    resume(run, {"frames": 3_200, "checkpoint.replay": True})
    assert load_agent(run)[0].updates > before


def test_a_replay_that_is_not_saved_any_more_is_used_once_more(finished: Path, tmp_path: Path) -> None:
    for name, saved in (("with", True), ("without", False)):
        shutil.copytree(finished, tmp_path / name)
        resume(tmp_path / name, {"frames": 1_600, "checkpoint.replay": saved})
    assert_same_run(tmp_path / "with", tmp_path / "without")
    assert not list((tmp_path / "without" / "replay").glob("*"))


def test_settings_are_written_before_any_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "Logger", killed)
    with pytest.raises(KeyboardInterrupt):
        train({**STATE_SAC, "frames": 40}, tmp_path / "run")
    assert load_config(tmp_path / "run").frames == 40


def test_another_environment_than_that_of_the_checkpoint_is_named(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    encode = loop.encode_spec
    monkeypatch.setattr(loop, "encode_spec", lambda spec: {**encode(spec), "actions": box(3)._asdict()})
    with refusing(f"resume={run}", found="box 3", expected="box 1"):
        resume(run, {"frames": 1_600})


@pytest.mark.parametrize("folder", ["/proc/none", __file__ + "/none"])
def test_a_folder_that_cannot_be_written_is_one_line(folder: str) -> None:
    with refusing(folder, fix="hydra.run.dir=DIR"):
        train(STATE, Path(folder))


def test_a_full_disk_stops_the_run_with_the_last_checkpoint_intact(tmp_path: Path, monkeypatch) -> None:
    trainer = make_trainer(STATE, tmp_path / "run")
    try:
        trainer.begin()
        for _ in range(30):
            trainer.tick()
        trainer.save()
        good = trainer.checkpoints.latest()

        def full(*args: Any, **kwargs: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(torch, "save", full)
        with pytest.raises(UserError, match="No space left on device"):
            trainer.run()
        assert trainer.checkpoints.latest() == good
        monkeypatch.undo()
        trainer.checkpoints.load(good)
    finally:
        trainer.close()


def test_a_dead_worker_is_named_and_the_run_can_go_on(tmp_path: Path) -> None:
    trainer = make_trainer({**STATE, "env.num_envs": 2}, tmp_path / "run")
    try:
        trainer.begin()
        for _ in range(20):
            trainer.tick()
        trainer.experience.envs._streams._envs.processes[1].kill()
        with pytest.raises(
            WorkerError, match=rf"environment 1 of cartpole_swingup.*continue with: .* resume={tmp_path}"
        ):
            trainer.run()
        frames = trainer.experience.now
    finally:
        trainer.close()
    assert Checkpoints(tmp_path / "run").load(Checkpoints(tmp_path / "run").find())["now"] == frames


def replay_rows(run: Path, settings: dict[str, Any]) -> list[torch.Tensor]:
    """Everything in the replay that a run has saved."""
    trainer = make_trainer(settings, run.with_suffix(".read"))
    replay, checkpoints = trainer.experience.replay, Checkpoints(run)
    checkpoints.load_replay(checkpoints.find(), replay)
    trainer.close()
    return [column[: len(replay)] for column in (replay._floats, *replay._bytes.values())]


class Killer:
    """Ends what steps an environment, at a chosen call of ``Stream.send`` or at a chosen update."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ticks = self.updates = -1
        send, learn = Stream.send, Trainer.learn

        def sending(stream: Stream) -> None:
            self.ticks -= 1
            if self.ticks == 0:
                self.kill(stream)
            send(stream)

        def learning(trainer: Trainer) -> None:
            learn(trainer)
            self.updates -= 1
            if self.updates == 0:
                self.kill(trainer.experience)

        monkeypatch.setattr(Stream, "send", sending)
        monkeypatch.setattr(Trainer, "learn", learning)

    def kill(self, stream: Any) -> None:
        streams = stream.envs._streams
        if stream.envs.num_envs > 1:
            streams._envs.processes[-1].kill()
            streams._envs.processes[-1].join()
            return

        def lost(timeout_s: float) -> Any:
            raise Failure(0, "lost its worker", lost=True)

        streams.receive = lost


@pytest.mark.parametrize("num_envs", [1, 2])
def test_a_run_whose_workers_die_now_and_then_is_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_envs: int
) -> None:
    """In random ticks and in random updates: the action is sent again, and no update is made twice or left out."""
    settings = {**COUNTS, "env.num_envs": num_envs}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(settings, whole)
    killer, rng, deaths = Killer(monkeypatch), random.Random(num_envs), 0
    while not Checkpoints(killed).reached(settings["frames"]):
        killer.ticks, killer.updates = (rng.randrange(3, 30), -1) if deaths % 2 else (-1, rng.randrange(3, 30))
        with suppress(WorkerError):
            resume(killed) if deaths else train(settings, killed)
        deaths += 1
    assert deaths > 4  # two or more of each kind
    assert_same_run(whole, killed)
    for a, b in zip(replay_rows(whole, settings), replay_rows(killed, settings), strict=True):
        assert torch.equal(a, b)


def test_a_step_that_kills_its_worker_again_is_passed_when_the_run_continues(tmp_path: Path) -> None:
    """Every printed "continue with" leads past the step that it names."""
    toy = {"task": "tests.envs.toy_envs:Dies", "frames": 40, "schedule.prefill": 100, "eval.every": 0}
    settings, run = {**STATE_SAC, **toy, "env.num_envs": 2, "seed": 3}, tmp_path / "run"
    frames: list[int] = []
    with pytest.raises(WorkerError, match="SIGKILL"):
        train(settings, run)
    while not Checkpoints(run).reached(40):
        frames.append(Checkpoints(run).frames() or 0)
        with suppress(WorkerError):
            resume(run)
    assert sorted(set(frames)) == frames
    assert [r["episode/cut"] for r in records(run) if "episode/cut" in r] == list(range(1, len(frames) + 1))


DIVERGES = {
    **STATE_SAC,
    "task": "tests.envs.toy_envs:Diverges",
    "frames": 160,
    "schedule.prefill": 40,
    "schedule.updates_per_1000_frames": 500,
    "replay.length": 2,
    "replay.capacity": 400,
    "eval.every": 40,
    "eval.episodes": 6,
    "log.every": 50,
}


@pytest.mark.parametrize(("num_envs", "stops"), [(1, (50, 90, 130)), (2, (90,))])
def test_a_simulator_that_diverges_now_and_then_is_trained_in_and_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], num_envs: int, stops: tuple[int, ...]
) -> None:
    """Its episodes are cut without an end, counted, and spoken of once; stopped and continued it is the same run."""
    settings = {**DIVERGES, "env.num_envs": num_envs}
    train(settings, tmp_path / "whole")
    told = capsys.readouterr().out
    assert told.count("(see episode/cut)") == 1
    log = records(tmp_path / "whole")
    cuts = [r["episode/cut"] for r in log if "episode/cut" in r]
    assert cuts == list(range(1, len(cuts) + 1))
    assert len(cuts) > 5
    assert all(r["episode/length"] == 5 for r in log if "episode/length" in r)
    evaluated = [r for r in log if "eval/return" in r]
    assert len(evaluated) == 5
    assert sum(r.get("eval/cut", 0) for r in evaluated) >= 4
    assert told.count("of 6 evaluation episodes were cut short") == sum("eval/cut" in r for r in evaluated)
    assert "mjWARN_BADQACC" in told
    trainer = make_trainer(settings, tmp_path / "rows")
    trainer.run()
    trainer.close()
    ticks = len(trainer.experience) // num_envs
    for env in range(num_envs):
        batch = trainer.experience.replay.window([0], [env], ticks)
        first = batch.is_first[0].bool()
        step = batch.obs["state"][0, :, 0]
        before = step[:-1][first[1:]]  # of a last row: the fifth step, or the second one of an episode that was cut
        assert set(before.tolist()) == {2.0, 5.0}
        assert not batch.is_terminal.any()
        assert torch.equal(first, step == 0)
    for frames in stops:
        run = tmp_path / f"half {frames}"
        train({**settings, "frames": frames}, run)
        resume(run, {"frames": settings["frames"]})
        assert records(run) == log


def test_an_environment_that_never_steps_ends_in_one_line(tmp_path: Path) -> None:
    for every in (0, 10):
        settings = {**DIVERGES, "task": "tests.envs.toy_envs:NeverSteps", "eval.every": every}
        with pytest.raises(WorkerError, match=r"environment 0 of .*NeverSteps .* no such robot.*; (start|continue)"):
            train(settings, tmp_path / f"run {every}")


def test_the_threads_of_a_run_are_its_own(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    trainer = make_trainer({**STATE, "threads": before + 1}, tmp_path / "run")
    assert torch.get_num_threads() == before + 1
    trainer.close()
    assert torch.get_num_threads() == before


def test_an_update_of_a_users_own_head_that_fails_names_its_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer({**STATE, "head": "tests.training.test_loop:OwnSMAC"}, tmp_path / "run")

    def fail(*_: Any) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(trainer, "update", fail)
    try:
        with pytest.raises(RuntimeError) as caught:
            trainer.run()
    finally:
        trainer.close()
    assert 'worldrl.testing.check_head("tests.training.test_loop:OwnSMAC")' in caught.value.__notes__[-1]


def test_resume_says_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run in"):
        resume(tmp_path)
    train({**STATE, "frames": 1_200}, tmp_path / "run")
    with refusing("run", expected="empty folder"):
        train(STATE, tmp_path / "run")
    state = Checkpoints(tmp_path / "run").find() / "state.pt"
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(bytes(data))
    with refusing("state.pt", found="checksum"):
        resume(tmp_path / "run")


def test_the_loop_explores_while_training_and_carries_its_state(tmp_path: Path, monkeypatch) -> None:
    trainer = make_trainer({**STATE, "frames": 2_500, "eval.episodes": 2}, tmp_path / "run")
    act, calls = trainer.agent.act, {True: [], False: []}

    def watched(state, rows, explore, *rest, perturb=True, **options):
        result = act(state, rows, explore, *rest, perturb=perturb, **options)
        calls[perturb].append((state, result[0], explore))
        return result

    monkeypatch.setattr(trainer.agent, "act", watched)
    trainer.run()
    trainer.close()
    assert all(explore for *_, explore in calls[True])
    assert not any(explore for *_, explore in calls[False])
    assert len(calls[True]) > 100
    broken = {k: sum(a[1]["deter"] is not b[0]["deter"] for a, b in pairwise(x)) for k, x in calls.items()}
    assert broken == {True: 0, False: 1}  # the two evaluations


def test_a_part_speaks_of_its_metrics_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = {"task": "tests.envs.toy_envs:Count", "frames": 60, "schedule.prefill": 10, "eval.every": 0}
    trainer = make_trainer({**STATE_SAC, **count, "replay.length": 2, "log.every": 20}, tmp_path / "run")
    seen: list[Any] = []

    def advice(means: Any) -> str:
        seen.append(means)
        return "scale the rewards down" if "loss/critic" in means else ""

    trainer.agent.head.advice = advice
    trainer.run()
    trainer.close()
    assert ["loss/critic" in means for means in seen].count(True) == 1  # of several logs
    assert capsys.readouterr().out.count("scale the rewards down") == 1


def test_what_is_stored_is_what_was_done(tmp_path: Path) -> None:
    """Count shows the action that led to a row, and gives the number of its step as observation and as reward."""
    count = {"task": "tests.envs.toy_envs:Count", "frames": 60, "schedule.prefill": 30, "eval.every": 0}
    trainer = make_trainer({**STATE_SAC, **count, "replay.length": 2, "replay.capacity": 100}, tmp_path / "run")
    trainer.run()
    trainer.close()
    n = len(trainer.experience.replay)
    batch = trainer.experience.replay.window(np.arange(n), np.zeros(n, int), 1)
    step, shown, _ = batch.obs["state"][:, 0].unbind(-1)
    assert step.tolist() == [float(t % 6) for t in range(n)]
    assert torch.equal(batch.reward[:, 0], step)
    assert torch.equal(batch.is_first[:, 0], (step == 0).float())
    torch.testing.assert_close(shown, torch.where(step == 0, 0.0, 2 * (batch.action[:, 0, 0] + 1)))
    assert not batch.action[step == 0].any()


@pytest.mark.parametrize(("task", "ends"), [("Count", False), ("Terminates", True)])
def test_a_time_limit_is_bootstrapped_and_a_terminal_row_is_not(task: str, ends: bool, tmp_path: Path) -> None:
    """From the environment's flag through the replay to the target of the last transition of an episode."""
    settings = {"task": f"tests.envs.toy_envs:{task}", "frames": 60, "schedule.prefill": 60, "eval.every": 0}
    trainer = make_trainer({**STATE_SAC, **settings, "replay.length": 2, "replay.capacity": 100}, tmp_path / "run")
    trainer.run()
    trainer.close()
    n = len(trainer.experience.replay) - 1
    batch = trainer.experience.replay.window(np.arange(n), np.zeros(n, int), 2)
    step = batch.obs["state"][:, 1, 0]
    head: Any = trainer.agent.head
    belief = trainer.agent.model.observe(batch, 0)[0]
    y = head.td_target(transitions(batch, belief.feat[None]), belief, torch.tensor(0.5))[0, :, 0]
    without_future = torch.isclose(y, batch.reward[:, 1], rtol=0, atol=1e-6)
    assert bool(((step == 5) == without_future).all()) is ends
    assert bool(without_future.any()) is ends


def test_a_resumed_trainer_has_everything_that_was_saved(tmp_path: Path) -> None:
    """Before its first tick, and in the middle of a warm-up, of a window of the log and of an episode."""
    toy = {**COUNTS, "schedule.prefill": 10, "schedule.pretrain": 4, "eval.every": 8, "log.every": 1_000}
    trainer = make_trainer(toy, tmp_path / "run")
    save_config(trainer.config, tmp_path / "run")
    trainer.begin()
    while trainer.experience.now < 13:
        trainer.tick()
    trainer.pretrained, trainer.evaluations._patient = 3, True  # as after a signal and a failed evaluation
    trainer.save()
    trainer.close()
    folder, saved = trainer.checkpoints.read()
    resumed = Trainer(load_config(tmp_path / "run"), tmp_path / "run", {**saved, "folder": folder})
    state = resumed.state_dict()
    resumed.close()
    assert dict(flat(state)) == dict(flat(saved))
    assert saved["evaluations"] == 2
    assert saved["clocks"]["eval"]["last"] > 0
    assert saved["meter"]["counts"]
    assert saved["returns"][0] > 0
