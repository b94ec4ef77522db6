from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from tests.errors import refusing
from worldrl.envs import VectorEnv, WorkerError, episode_seed, make_envs
from worldrl.envs.corruption import CorruptionConfig
from worldrl.envs.make import EnvConfig, make_task
from worldrl.envs.rendering import RenderConfig
from worldrl.envs.stream import TRAIN, RowStream
from worldrl.envs.vector import HOPELESS
from worldrl.errors import UserError

STATE = EnvConfig(obs="state", action_repeat=1)
NOISY_PIXELS = EnvConfig(
    obs="both", render=RenderConfig(quality="fast"), corruption=CorruptionConfig(0.05, missing=0.05, flicker=0.1)
)
Rows = dict[str, np.ndarray]


@contextmanager
def envs(config: EnvConfig, task: str, n: int = 1, **kwargs: bool) -> Iterator[VectorEnv]:
    made = make_envs(config, task, seed=5, num_envs=n, **kwargs)
    try:
        yield made
    finally:
        made.close()


def actions_for(env: VectorEnv, t: int) -> np.ndarray:
    rng = np.random.default_rng(t)
    return rng.uniform(-0.9, 0.9, (4, env.spec.action_dim))[: env.num_envs].astype(np.float32)


def play(env: VectorEnv, start: int, stop: int) -> list[Rows]:
    return [env.step(actions_for(env, t)) for t in range(start, stop)]


def assert_same(a: Rows, b: Rows) -> None:
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)
        assert a[key].dtype == b[key].dtype


def test_rows_are_aligned_in_time() -> None:
    """The reward of Count names the step that it arrives at, and the observation shows the action that led there."""
    with envs(STATE, "toy_envs:Count") as env:
        rows = [env.reset(), *play(env, 1, 14)]
        steps = [0, 1, 2, 3, 4, 5] * 2 + [0, 1]
        for t, (row, step) in enumerate(zip(rows, steps, strict=True)):
            assert row["state"][0, 0] == row["reward"][0] == step
            assert row["is_first"][0] == (step == 0)
            assert row["is_last"][0] == (step == 5)
            assert row["is_terminal"][0] == 0
            assert row["frames"][0] == (step > 0)
            led_here = 0 if step == 0 else 2 * (actions_for(env, t)[0, 0] + 1)
            assert row["state"][0, 1] == pytest.approx(led_here, abs=1e-6)


def test_termination_is_a_terminal_row() -> None:
    with envs(STATE, "toy_envs:Terminates") as env:
        rows = [env.reset(), *play(env, 1, 7)]
    assert [r["is_terminal"][0] for r in rows] == [0, 0, 0, 0, 0, 1, 0]
    assert [r["is_last"][0] for r in rows] == [0, 0, 0, 0, 0, 1, 0]


def test_frames_and_rewards_under_action_repeat() -> None:
    with envs(EnvConfig(obs="state", action_repeat=2), "toy_envs:Count") as env:
        rows = [env.reset(), *play(env, 1, 5)]
    assert [int(r["frames"][0]) for r in rows] == [0, 2, 2, 1, 0]
    assert [float(r["reward"][0]) for r in rows] == [0, 3, 7, 5, 0]


def test_episode_seeds_are_distinct_and_documented() -> None:
    keys = [(s, k, i, e) for s in range(3) for k in range(3) for i in range(3) for e in range(3)]
    assert len({episode_seed(*key) for key in keys}) == len(keys)
    assert episode_seed(1, 0, 2, 3) == np.random.SeedSequence([1, 0, 2, 3]).generate_state(1)[0]


def test_training_and_evaluation_see_other_episodes() -> None:
    with envs(STATE, "toy_envs:Count") as train, envs(STATE, "toy_envs:Count", training=False) as evaluation:
        a, b = train.reset(), evaluation.reset()
        assert a["state"][0, 2] != b["state"][0, 2]
        assert train.reset(episode=3)["state"][0, 2] != a["state"][0, 2]
        assert_same(train.reset(), a)


def test_corruption_applies_where_told() -> None:
    config = EnvConfig(obs="state", corruption=CorruptionConfig(gaussian=1.0, apply="eval"))
    for training, expected in ((True, True), (False, False)):
        with envs(config, "toy_envs:Count", training=training) as env:
            assert (env.reset()["state"][0, 0] == 0) == expected


def test_restore_is_exact_with_pixels_and_corruption() -> None:
    with envs(NOISY_PIXELS, "finger_spin") as env, envs(NOISY_PIXELS, "finger_spin") as other:
        env.reset()
        here = play(env, 0, 6)[-1]
        state = env.state()
        after = play(env, 6, 9)
        assert_same(other.restore(state), here)
        for a, b in zip(play(other, 6, 9), after, strict=True):
            assert_same(a, b)


@pytest.mark.parametrize("played", [0, 4, 5, 6, 8])
def test_restore_anywhere_in_an_episode(played: int) -> None:
    with envs(STATE, "toy_envs:Count") as env, envs(STATE, "toy_envs:Count") as other:
        here = [env.reset(), *play(env, 0, played)][-1]
        assert_same(other.restore(env.state()), here)
        assert other.state()["episode"] == env.state()["episode"]
        for a, b in zip(play(other, 9, 15), play(env, 9, 15), strict=True):
            assert_same(a, b)


def test_rows_may_be_kept() -> None:
    with envs(NOISY_PIXELS, "reacher_easy") as env:
        first = env.reset()
        copy = {k: v.copy() for k, v in first.items()}
        play(env, 0, 2)
        assert_same(first, copy)


def test_workers_give_the_rows_of_this_process_and_restore_exactly() -> None:
    with envs(NOISY_PIXELS, "cartpole_swingup", 2) as env, envs(NOISY_PIXELS, "cartpole_swingup") as alone:
        rows, single = [env.reset(), *play(env, 0, 5)], [alone.reset(), *play(alone, 0, 5)]
        for many, one in zip(rows, single, strict=True):
            assert_same({k: v[:1] for k, v in many.items()}, one)
        assert (rows[0]["pixels"][0] != rows[0]["pixels"][1]).any()
        assert env.render(60, 80).shape == (60, 80, 3)
        state = env.state()
        after = play(env, 5, 7)
        assert_same(env.restore(state), rows[-1])
        for a, b in zip(play(env, 5, 7), after, strict=True):
            assert_same(a, b)


def test_streams_drift_apart_without_disturbing_each_other() -> None:
    """One environment ends an episode while the other goes on: restored to other places, they stay independent."""
    with envs(STATE, "toy_envs:Count", 2) as env:
        env.reset()
        state = env.state() | {"actions": [np.zeros((4, 1), np.float32), np.zeros((1, 1), np.float32)]}
        rows = [env.restore(state), *play(env, 0, 3)]
    assert [list(r["state"][:, 0]) for r in rows] == [[4, 1], [5, 2], [0, 3], [1, 4]]


def fail(env: VectorEnv) -> None:
    env.reset()
    play(env, 0, 6)  # into the second episode
    env.step(np.array([[0.0], [1.0]], np.float32)[-env.num_envs :])


def test_a_killed_worker_is_named() -> None:
    with envs(STATE, "toy_envs:Dies", 2) as env:
        with pytest.raises(WorkerError, match=r"environment 1 of toy_envs:Dies .*SIGKILL") as caught:
            fail(env)
        assert f"episode 1, episode seed {episode_seed(5, 0, 1, 1)}" in str(caught.value)
        assert caught.value.index == 1
        assert list(env.state()["episode"]) == [1, 1]
        with pytest.raises(UserError, match="lost a worker"):
            env.step(np.zeros((2, 1), np.float32))


def test_a_hanging_worker_is_named_in_time_and_closed() -> None:
    start = time.monotonic()
    with envs(EnvConfig(obs="state", action_repeat=1, timeout_s=1.0), "toy_envs:Hangs", 2) as env:
        with pytest.raises(WorkerError, match=r"environment 1 of toy_envs:Hangs .*no reply within 1 s"):
            fail(env)
        closing = time.monotonic()
    assert time.monotonic() - closing < 6
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("n", [1, 2])
def test_an_episode_that_fails_twice_is_cut_there_and_the_others_go_on(n: int) -> None:
    """The bad action comes in the second episode; the twin of the other environment knows nothing of it."""
    bad = np.array([[0.3], [1.0]], np.float32)[-n:]
    with envs(STATE, "toy_envs:Raises", n) as env, envs(STATE, "toy_envs:Raises") as twin:
        env.reset()
        twin.reset()
        play(env, 0, 7)
        play(twin, 0, 7)
        state = env.state()
        rows = env.step(bad)
        other = twin.step(bad[:1] if n == 2 else np.zeros((1, 1), np.float32))
        cut = n - 1
        assert [rows[key][cut] for key in ("is_first", "is_cut", "reward", "frames", "is_terminal")] == [1, 1, 0, 0, 0]
        assert rows["state"][cut][0] == rows["action"][cut] == 0
        if n == 2:
            assert_same({key: x[:1] for key, x in rows.items()}, other)
        (words,) = env.cuts
        assert words.startswith(f"environment {cut} of toy_envs:Raises (episode 1, episode seed")
        assert "failed: ValueError: the robot is 100% broken (" in words
        assert env.state()["episode"][cut] == 2
        assert [len(actions) for actions in env.state()["actions"]] == ([0] if n == 1 else [2, 0])
        after = env.step(actions_for(env, 9))
        assert not after["is_cut"].any()
        with envs(STATE, "toy_envs:Raises", n) as resumed:
            resumed.restore(state)
            assert_same(resumed.step(bad), rows)
            assert_same(resumed.step(actions_for(env, 9)), after)


def test_an_environment_that_does_not_replay_is_cut_and_not_continued_elsewhere() -> None:
    with envs(STATE, "toy_envs:Loose", 2) as env:
        env.reset()
        play(env, 0, 2)
        rows = env.step(np.array([[0.3], [1.0]], np.float32))
        assert rows["is_first"].tolist() == rows["is_cut"].tolist() == [1, 1]
        assert len(env.cuts) == 2
        assert "did not replay exactly" in env.cuts[0]
        assert env.state()["episode"].tolist() == [1, 1]


def test_an_environment_that_fails_once_is_not_continued_in_another_episode() -> None:
    with envs(STATE, "toy_envs:LooseOnce") as env:
        env.reset()
        play(env, 0, 2)
        rows = env.step(np.array([[1.0]], np.float32))
        assert rows["is_first"].tolist() == rows["is_cut"].tolist() == [1]
        assert "did not replay exactly" in env.cuts[0]


def test_what_fails_once_is_as_if_it_had_not() -> None:
    with envs(STATE, "toy_envs:RaisesOnce") as env, envs(STATE, "toy_envs:Count") as sound:
        env.reset()
        sound.reset()
        for action in (0.1, 1.0, -0.4):
            actions = np.array([[action]], np.float32)
            assert_same(env.step(actions), sound.step(actions))
        assert env.cuts == []
        assert env.state()["episode"] == 0


@pytest.mark.parametrize("n", [1, 2])
def test_an_environment_that_fails_at_every_first_step_ends_in_one_line(n: int) -> None:
    with envs(STATE, "toy_envs:NeverSteps", n) as env:
        env.reset()
        play(env, 0, HOPELESS)
        assert len(env.cuts) == HOPELESS * n
        words = rf"environment 0 of .*\(episode {HOPELESS}, .*failed: AttributeError: no such robot"
        with pytest.raises(WorkerError, match=words):
            play(env, 3, 4)


def test_an_episode_that_cannot_begin_is_left_out() -> None:
    with envs(STATE, "toy_envs:Count") as sound:
        marks = [float(sound.reset(episode=e)["state"][0, 2]) for e in range(40)]
    begin = [e for e, mark in enumerate(marks) if mark >= 1 / 2]
    with envs(STATE, "toy_envs:SometimesStarts") as env:
        rows = [env.reset(), *play(env, 0, 36)]
        firsts = [float(row["state"][0, 2]) for row in rows if row["is_first"][0]]
        assert firsts == [marks[e] for e in begin[: len(firsts)]]
        assert len(firsts) == 7
        skipped = [e for e in range(begin[6]) if e not in begin]
        assert [int(words.split("(episode ")[1].split(",")[0]) for words in env.cuts] == skipped
        assert skipped
        assert not any(row["is_cut"][0] for row in rows)


@pytest.mark.parametrize("n", [1, 2])
def test_a_broken_promise_ends_in_one_line_and_is_passed_by_a_run_that_continues(n: int) -> None:
    with envs(STATE, "toy_envs:WrongShape", n) as env:
        env.reset()
        with pytest.raises(WorkerError, match=r"environment 0 .*failed: toy_envs:WrongShape, step 2 .* shape \(2,\)"):
            play(env, 0, 2)
        assert list(map(len, env.state()["actions"])) == [1] * n
        state = env.state()
    with envs(STATE, "toy_envs:WrongShape", n) as env:
        env.restore(state)
        assert env.step(actions_for(env, 1))["is_cut"].all()


def test_values_that_are_not_finite_are_cut_as_a_simulator_that_diverges() -> None:
    with envs(STATE, "toy_envs:NotANumber") as env:
        env.reset()
        assert [row["is_cut"][0] for row in play(env, 0, 4)] == [0, 1, 0, 1]
        assert "step 2 of the episode: observation: found nan" in env.cuts[0]


def test_a_step_that_kills_its_worker_is_passed_by_a_run_that_continues() -> None:
    with envs(STATE, "toy_envs:Dies", 2) as env:
        with pytest.raises(WorkerError, match="SIGKILL"):
            fail(env)
        state = env.state()
    bad = np.array([[0.0], [1.0]], np.float32)
    with envs(STATE, "toy_envs:Dies", 2) as env, envs(STATE, "toy_envs:Count") as alone:
        alone.restore({"episode": state["episode"][:1], "actions": state["actions"][:1]})
        env.restore(state)
        rows = env.step(bad)
        assert rows["is_cut"].tolist() == [0, 1]
        assert_same({key: x[:1] for key, x in rows.items()}, alone.step(bad[:1]))
        env.patient = False
        env.step(np.zeros((2, 1), np.float32))
        with pytest.raises(WorkerError, match="SIGKILL"):
            env.step(bad)


def test_a_worker_that_somebody_killed_is_replaced_where_the_run_continues() -> None:
    slow = np.array([[0.0], [1.0]], np.float32)
    with envs(STATE, "toy_envs:IsSlow", 2) as env, envs(STATE, "toy_envs:Count", 2) as sound:
        for both in (env, sound):
            both.reset()
            play(both, 0, 2)
        env.patient = True
        env.send(slow)
        env._streams._envs.processes[1].kill()
        assert_same(env.receive(), sound.step(slow))
        assert env.cuts == []


def test_bad_calls() -> None:
    with envs(STATE, "toy_envs:Count") as env:
        with pytest.raises(RuntimeError, match="call reset"):
            env.step(np.zeros((1, 1), np.float32))
        env.reset()
        with pytest.raises(ValueError, match=r"actions have shape \(2, 1\), expected \(1, 1\)"):
            env.step(np.zeros((2, 1), np.float32))
        with refusing("env.num_envs", found="1", expected="3"):
            env.restore({"episode": np.zeros(3, int), "actions": [np.zeros((0, 1))] * 3})
    with refusing("env.num_envs", found="0", expected="1"):
        make_envs(STATE, "toy_envs:Count", 0, num_envs=0)
    with refusing("seed", found="-1", expected="0"):
        make_envs(STATE, "toy_envs:Count", -1)
    with refusing("task 'walkr_walk'", fix="walker_walk"):
        make_envs(STATE, "walkr_walk", 0)


def test_the_spec_says_what_an_agent_needs() -> None:
    with envs(NOISY_PIXELS, "cup_catch") as env:
        spec = env.spec
    assert spec.task == "ball_in_cup_catch"
    assert spec.obs == {"pixels": ((64, 64, 3), "uint8"), "state": ((8,), "float32")}
    assert (spec.action_dim, spec.action_repeat, spec.terminates, spec.max_frames) == (2, 2, False, 1000)
    assert spec.groups == {"state": {"position": (0, 4), "velocity": (4, 8)}}


def test_a_stream_of_a_task_that_does_not_draw_never_draws() -> None:
    task = make_task(EnvConfig(obs="pixels", action_repeat=1), "toy_envs:Draws", draws=False)
    stream = RowStream(task, 1, TRAIN, 0)
    rows = [stream.reset()[0], stream.step(np.zeros(1, np.float32))[0]]
    assert not any(row["pixels"].any() for row in rows)
    assert task._env.drawn == 0  # type: ignore[attr-defined]
