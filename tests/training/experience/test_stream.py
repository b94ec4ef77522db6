"""A stream without the learning; tests/training/test_loop.py has whole runs on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.envs.toy_envs import Strict
from tests.kills import flat
from tests.training.experience.toy_ticks import SETTINGS, attached, config, tick
from worldrl.config import config_from_dict
from worldrl.registry import tiny_settings
from worldrl.training.experience.stream import Stream


@pytest.fixture
def stream(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A stream of the settings that a test is parametrized with, before its first tick."""
    c = config(**request.param)
    with closing(attached(Stream(c), c)) as stream:
        stream.begin()
        yield stream


@pytest.mark.parametrize("stream", [{"env.action_repeat": 2}], indirect=True)
def test_frames_steps_and_episodes_are_counted(stream: Any) -> None:
    """An episode is five frames, which pay 1 to 5: three steps of the agent, and one tick for the next first row."""
    counted, ended = [], []
    for _ in range(9):
        stream.send()
        ended += stream.receive()
        counted.append(stream.counters())
    assert counted == [(2, 1), (4, 2), (5, 3), (5, 3), (7, 4), (9, 5), (10, 6), (10, 6), (12, 7)]
    assert ended == [{"episode/return": 15.0, "episode/length": 5}] * 2
    assert len(stream) == 10


@pytest.mark.parametrize(
    "stream",
    [{"schedule.prefill": 9, "schedule.updates_per_1000_frames": 300, "replay.length": 4}],
    indirect=True,
)
def test_updates_are_due_from_the_end_of_the_prefill_on(stream: Any) -> None:
    total = {}
    for _ in range(40):
        stream.send()
        total[stream.now] = sum(iter(stream.due, False)) + total.get(stream.now, 0)
        stream.receive()
    made = [sum(total[frame] for frame in range(last + 1)) for last in range(30)]
    assert made == [3 * max(0, last - 9) // 10 for last in range(30)]


def test_the_agent_acts_from_the_end_of_the_prefill_on_and_less_and_less_at_random() -> None:
    usual = {key: value for key, value in SETTINGS.items() if not key.startswith("head")}
    toy = {"task": "tests.envs.toy_envs:Choice", "head": "dqn", **tiny_settings("head", "dqn"), "schedule.prefill": 4}
    epsilon = {"schedule.epsilon.start": 1.0, "schedule.epsilon.end": 0.0, "schedule.epsilon.frames": 8}
    c = config_from_dict({**usual, **toy, **epsilon})
    with closing(attached(Stream(c), c)) as stream:
        stream.begin()
        act, seen = stream.agent.act, {}

        def watched(*arguments: Any, explore: bool, epsilon: float) -> Any:
            assert explore
            seen.setdefault(stream.now, epsilon)
            return act(*arguments, explore=explore, epsilon=epsilon)

        stream.agent.act = watched
        while stream.now < 10:
            tick(stream)
        assert seen == pytest.approx({4: 0.5, 5: 0.375, 6: 0.25, 7: 0.125, 8: 0.0, 9: 0.0})


@pytest.mark.parametrize("stream", [{"schedule.prefill": 0, "replay.length": 4}], indirect=True)
def test_without_prefill_learning_waits_for_a_window(stream: Any) -> None:
    ready = []
    for _ in range(5):
        ready.append(stream.ready())
        tick(stream)
    assert ready == [False] * 3 + [True] * 2


@pytest.mark.parametrize("stream", [{"schedule.prefill": 30, "replay.capacity": 20}], indirect=True)
def test_a_replay_that_is_smaller_than_the_prefill_is_enough(stream: Any) -> None:
    while stream.now < 30:
        assert not stream.ready()
        tick(stream)
    assert len(stream) == 20
    assert stream.ready()


@pytest.mark.parametrize(("frames", "told"), [(10, True), (11, False)])
def test_a_prefill_of_the_whole_run_is_told(frames: int, told: bool) -> None:
    c = replace(config(**{"schedule.prefill": 10}), frames=frames)
    with closing(attached(Stream(c), c)) as stream:
        stream.begin()
        assert any(f"frames={frames}" in note for note in stream.notes()) is told


def test_an_episode_that_ends_sooner_when_it_is_replayed_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    c = config(task="tests.envs.toy_envs:Strict")
    with closing(attached(Stream(c), c)) as one, closing(attached(Stream(c), c)) as two:
        one.begin()
        two.begin()
        for _ in range(4):
            tick(one)
        monkeypatch.setattr(Strict, "length", 2)
        two.restore(deepcopy(one.state()))
        assert "did not replay exactly" in capsys.readouterr().err
        assert (one.cut, two.cut) == (0, 1)
        ended = []
        for _ in range(4):
            two.send()
            ended += two.receive()
        assert ended == [{"episode/return": 3.0, "episode/length": 2}]


@pytest.mark.parametrize("frames", [5, 26], ids=["in the prefill", "after a cut"])
def test_a_restored_stream_goes_on_as_the_other_one(
    frames: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = {"task": "tests.envs.toy_envs:Diverges", "belief": "stack", "belief.frames": 3, "seed": 2}
    c = config(**toy, **{"schedule.prefill": 10, "schedule.updates_per_1000_frames": 700})
    one, two = (attached(Stream(c), c) for _ in range(2))
    try:
        for stream in (one, two):
            stream.begin()
        while one.now < frames or (frames > 10 and not one.rows["is_cut"].any()):
            tick(one)
        two.replay.load_chunks(tmp_path, one.replay.save_chunks(tmp_path))
        two.restore(deepcopy(one.state()))
        assert dict(flat(one.state())) == dict(flat(two.state()))
        assert capsys.readouterr().err == ""
        went = []
        for stream in (one, two):
            torch.manual_seed(1)
            went.append([])
            for _ in range(20):
                stream.send()
                updates = sum(iter(stream.due, False))
                went[-1].append((updates, stream.receive(), dict(flat(stream.state()))))
        assert went[0] == went[1]
        assert any(ended for _, ended, _ in went[0])
    finally:
        one.close()
        two.close()


@pytest.mark.parametrize("due", [0, 1, 5])
def test_a_stream_that_is_saved_within_a_tick_ends_that_tick(due: int, tmp_path: Path) -> None:
    """The same action again, the rows that it leads to, and only the updates that are left."""
    c = config(**{"schedule.prefill": 10, "schedule.updates_per_1000_frames": 5_000})
    one, two = (attached(Stream(c), c) for _ in range(2))
    try:
        for stream in (one, two):
            stream.begin()
        while one.now < 14:
            tick(one)
        one.send()
        assert all(one.due() for _ in range(due))
        saved = {**one.state(), "action": one.action.copy()}
        two.replay.load_chunks(tmp_path, one.replay.save_chunks(tmp_path))
        two.restore(saved)
        random = torch.get_rng_state()
        two.send()
        assert torch.equal(random, torch.get_rng_state())
        left = [sum(iter(stream.due, False)) for stream in (one, two)]
        assert left == [5 - due] * 2
        one.receive()
        two.receive()
        assert all(np.array_equal(one.rows[key], two.rows[key]) for key in one.rows)
        assert one.counters() == two.counters()
        assert one.state()["action"] is None
    finally:
        one.close()
        two.close()
