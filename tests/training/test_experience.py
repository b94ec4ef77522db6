"""The three kinds of experience, without the learning; tests/training/test_loop.py has whole runs on them."""

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

from tests.kills import flat
from tests.toy_runs import STATE_SAC
from tests.training import toy_experiences
from worldrl.agent import Agent
from worldrl.config import Config, config_from_dict
from worldrl.errors import UserError
from worldrl.registry import tiny_settings
from worldrl.runs.data import Rewards, Rows
from worldrl.training import experience as module
from worldrl.training.experience import DataSet, Experience, Mixed, Stream
from worldrl.types import Batch, EnvSpec, Needs, ObsSpec, box

SPEC = EnvSpec("data", {"state": ObsSpec((3,), "float32")}, box(1))
SETTINGS = {**STATE_SAC, "task": "tests.envs.toy_envs:Count", "replay.capacity": 300, "schedule.prefill": 10}


def config(**changes: Any) -> Config:
    return config_from_dict({**SETTINGS, **changes})


def columns(rows: int, episode: int = 6) -> dict[str, np.ndarray]:
    """The reward is minus the row's number, which no environment gives."""
    rng = np.random.default_rng(rows)
    return {
        "state": rng.standard_normal((rows, 3)).astype(np.float32),
        "action": rng.uniform(-1, 1, (rows, 1)).astype(np.float32),
        "reward": -np.arange(rows, dtype=np.float32),
        "is_first": (np.arange(rows) % episode == 0).astype(np.float32),
        "is_terminal": np.zeros(rows, np.float32),
    }


def found(columns: dict[str, np.ndarray]) -> Rows:
    return toy_experiences.rows(columns, SPEC)


def attached(experience: Experience, c: Config) -> Any:
    torch.manual_seed(0)
    experience.attach(Agent(c, experience.spec))
    return experience


def tick(experience: Experience) -> int:
    """One tick of the loop; how many updates it had."""
    experience.send()
    updates = 0
    while experience.due():
        updates += 1
    experience.receive()
    return updates


def test_a_data_set_gives_its_own_rows_and_its_time_is_updates() -> None:
    c, rows = config(), columns(40)
    data = attached(DataSet(replace(c, updates=5), found(rows)), c)
    data.begin()
    assert (data.unit, data.now, data.length, len(data), data.saved_replay) == ("updates", 0, 5, 40, None)
    batch, extra = data.sample(8, 4, Needs())
    assert extra == {}
    for window in range(8):
        first = int(-batch.reward[window, 0])
        for name in ("reward", "action", "is_first", "is_terminal"):
            np.testing.assert_array_equal(getattr(batch, name)[window].numpy(), rows[name][first : first + 4])
        np.testing.assert_array_equal(batch.obs["state"][window].numpy(), rows["state"][first : first + 4])
    assert [tick(data) for _ in range(5)] == [1] * 5
    assert data.now == 5
    assert data.counters() == (0, 0)


def test_recent_rows_of_a_data_set_are_drawn_from_all_of_it() -> None:
    c = config()
    data = attached(DataSet(c, found(columns(40))), c)
    _, extra = data.sample(2, 4, Needs(recent_batch=500, recent_actions=3))
    assert set(extra["recent"].reward.ravel().tolist()) == set((-np.arange(40.0)).tolist())


def test_a_restored_data_set_draws_what_the_other_one_draws() -> None:
    c = config()
    one, two = (attached(DataSet(replace(c, updates=9), found(columns(40))), c) for _ in range(2))
    one.sample(8, 4, Needs())
    tick(one)
    two.restore(one.state())
    assert two.now == 1
    assert torch.equal(one.sample(8, 4, Needs())[0].reward, two.sample(8, 4, Needs())[0].reward)
    one.send()
    assert one.due()
    two.restore(one.state())  # whose tick ends without another update
    assert tick(two) == 0
    assert (two.now, tick(two), two.now) == (2, 1, 3)


def test_data_that_hold_no_window_are_refused() -> None:
    c = config(**{"replay.length": 8})
    assert attached(DataSet(c, found(columns(8))), c).sample(2, 8, Needs())[0].reward.shape == (2, 8)
    with pytest.raises(UserError) as refused:
        attached(DataSet(c, found(columns(7))), c)
    assert (refused.value.where, refused.value.found) == ("replay.length=8", "7 rows of data")


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


def test_a_stream_is_closed_if_its_data_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    def refused(*_: Any) -> Rows:
        raise UserError("data", "none", "some")

    monkeypatch.setattr(module, "load_rows", refused)
    monkeypatch.setattr(Stream, "close", lambda stream: closed.append(stream))
    with pytest.raises(UserError):
        Mixed(config(data="toy"))
    assert len(closed) == 1


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_batches_of_both_have_the_share_evenly_spread(share: float) -> None:
    c = config(**{"data": "toy", "data.share": share})
    mixed = attached(Mixed(c, found(columns(40))), c)
    mixed.begin()
    try:
        while not mixed.ready():
            tick(mixed)
        needs = Needs(td_batch=8, recent_batch=16, recent_actions=5)
        batch, extra = mixed.sample(16, 3, needs)
        for windows in (batch, extra["td"]):
            from_data = (windows.reward < 0).any(1).float()
            assert from_data.mean() == share
            for half in from_data.chunk(2):  # also of those that a model learns from
                assert half.mean() == pytest.approx(share, abs=0.5 / len(half))
        assert not (extra["recent"].reward < 0).any()
        assert mixed.now == mixed.counters()[0] > 0
        places = {"replay": mixed.replay, "data": mixed.data.replay}
        again = torch.cat([places[name].window(*windows).reward for name, windows in mixed.drawn(1).items()])
        assert torch.equal(again.sum(1).sort()[0], batch.reward.sum(1).sort()[0])  # all windows of the slice
        assert mixed.drawn(2) == {}
    finally:
        mixed.close()


def test_both_replays_of_a_mixture_draw_on_their_own() -> None:
    """Of as many rows in each; and transitions beside the slice are left out until both have enough."""
    c = config(**{"data": "toy", "data.share": 0.5, "schedule.prefill": 0})
    with closing(attached(Mixed(c, found(columns(40))), c)) as mixed:
        mixed.begin()
        while len(mixed.replay) < 40:
            tick(mixed)
        assert len(mixed) == 80
        _, extra = mixed.sample(32, 3, Needs(td_batch=60))
        assert extra["td"].reward.shape == (30, 3)
        starts = [mixed.drawn(1)[place].starts.tolist() for place in ("replay", "data")]
        assert starts[0] != starts[1]
        assert "td" not in mixed.sample(32, 3, Needs(td_batch=79))[1]  # forty of the data's forty rows


def test_a_mixture_without_data_draws_what_the_stream_draws() -> None:
    c = config(**{"data": "toy", "data.share": 0.0})
    batches: list[Batch] = []
    for made in (Stream(c), Mixed(c, found(columns(40)))):
        experience = attached(made, c)
        experience.begin()
        for _ in range(30):
            tick(experience)
        batches.append(experience.sample(8, 4, Needs())[0])
        experience.close()
    assert all(torch.equal(a, b) for a, b in zip(batches[0][1:], batches[1][1:], strict=True))


def test_from_data_to_environment() -> None:
    """Two phases, each with its own time; the agent acts from the first frame on, and rewards are transformed alike."""
    c = replace(config(**{"schedule.prefill": 5, "schedule.updates_per_1000_frames": 1000}), updates=3, frames=20)
    mixed = attached(Mixed(c, found(columns(40))._replace(rewards=Rewards(2.0, -1.0))), c)
    mixed.begin()
    try:
        assert (mixed.phase, mixed.unit, mixed.length) == ("data", "updates", 3)
        assert [tick(mixed) for _ in range(3)] == [1] * 3
        assert (mixed.now, mixed.position, mixed.counters()) == (3, 3, (0, 0))
        assert mixed.advance()
        assert (mixed.phase, mixed.unit, mixed.length, mixed.now) == ("acting", "frames", 20, 0)
        random = mixed.random.bit_generator.state
        ticks = [tick(mixed) for _ in range(12)]
        assert mixed.random.bit_generator.state == random  # nothing was chosen at random
        assert sum(ticks) > 0
        assert (mixed.now, mixed.position) == (mixed.counters()[0], 3 + mixed.counters()[0])
        assert mixed.now > 0
        stored = mixed.replay.columns()
        step, first = stored["state"][:, 0, 0], stored["is_first"][:, 0]  # the task's own reward is its step
        np.testing.assert_allclose(stored["reward"][:, 0], (2.0 * step - 1.0) * (1.0 - first))
        assert (first == 0).sum() > 5
        assert not mixed.advance()
    finally:
        mixed.close()


@pytest.mark.parametrize("phase", ["data", "acting"])
def test_both_phases_are_restored(phase: str, tmp_path: Path) -> None:
    c = replace(config(**{"schedule.prefill": 5}), updates=4, frames=30)
    one, two = (attached(Mixed(c, found(columns(40))), c) for _ in range(2))
    try:
        for mixed in (one, two):
            mixed.begin()
        for _ in range(2 if phase == "data" else 4):
            tick(one)
        if phase == "acting":
            one.advance()
            for _ in range(9):
                tick(one)
        two.replay.load_chunks(tmp_path, one.replay.save_chunks(tmp_path))
        two.restore(one.state())
        assert (two.phase, two.now, two.position) == (phase, one.now, one.position)
        draws = [mixed.sample(6, 3, Needs())[0].reward for mixed in (one, two)]
        assert torch.equal(*draws)
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
