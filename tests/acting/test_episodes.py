"""The one player, on a stage whose rows are known."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from worldrl.acting import episodes
from worldrl.acting.episodes import Interrupted, film_speed, play, random_return, run_episodes
from worldrl.envs.make import EnvConfig
from worldrl.errors import UserError
from worldrl.types import EnvSpec, ObsSpec, box

SPEC = EnvSpec("toy", {"state": ObsSpec((1,), "float32")}, box(2), action_repeat=2, max_frames=100)


class Toy:
    """Environment i has episodes of i + 1 steps, reward 1 for each; what it was sent is in ``sent``."""

    def __init__(self, n: int) -> None:
        self.num_envs, self.spec = n, SPEC
        self.sent: list[np.ndarray] = []

    def reset(self, episode: int = 0) -> dict[str, np.ndarray]:
        self.time = np.zeros(self.num_envs, int)
        return self.rows()

    def step(self, actions: np.ndarray) -> dict[str, np.ndarray]:
        self.sent.append(actions)
        self.time = np.where(self.time == np.arange(1, self.num_envs + 1), 0, self.time + 1)
        return self.rows()

    def rows(self) -> dict[str, np.ndarray]:
        moved = self.time > 0
        return {
            "state": self.time[:, None].astype(np.float32),
            "reward": moved.astype(np.float32),
            "frames": 2 * moved,
            "is_first": 1.0 - moved,
            "is_last": (self.time == np.arange(1, self.num_envs + 1)).astype(np.float32),
        }

    def render(self, height: int, width: int) -> np.ndarray:
        return np.full((64, 64, 3), 100, np.uint8)


def one(rows: dict[str, np.ndarray]) -> np.ndarray:
    return np.ones((len(rows["reward"]), 2), np.float32)


def test_ticks_count_and_rows_have_the_action_that_led_there() -> None:
    ticks = list(islice(play(Toy(2), one), 6))
    assert [tick.returns.tolist() for tick in ticks] == [[0, 0], [1, 1], [0, 2], [1, 0], [0, 1], [1, 2]]
    assert [tick.frames.tolist() for tick in ticks[:3]] == [[0, 0], [2, 2], [0, 4]]
    assert [tick.ended for tick in ticks] == [[], [0], [1], [0], [], [0, 1]]
    assert [tick.rows["action"][:, 0].tolist() for tick in ticks[:4]] == [[0, 0], [1, 1], [0, 1], [1, 0]]
    assert ticks[2].caption(1) == "return 2  frame 4"


def test_episodes_are_spread_over_the_environments() -> None:
    played = run_episodes(Toy(2), one, 3)
    assert (played.returns, played.lengths, played.video) == ([1.0, 1.0, 2.0], [2, 2, 4], None)


def test_whoever_stops_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Toy(1)
    with pytest.raises(Interrupted):
        run_episodes(toy, one, 5, stop=lambda: len(toy.sent) == 3)
    assert len(toy.sent) == 3
    monkeypatch.setattr(episodes, "LONGEST", 3)
    with pytest.raises(UserError) as caught:
        run_episodes(Toy(3), one, 3)
    assert "without an end" in str(caught.value)


def test_the_film_is_of_the_first_episode(tmp_path: Path) -> None:
    played = run_episodes(Toy(1), one, 2, video=tmp_path / "x/a.mp4")
    assert played.video is not None
    assert not (tmp_path / "x").exists()
    with av.open(str(played.video.save())) as film:
        assert len(list(film.decode(video=0))) == 2


@pytest.mark.parametrize(
    ("limit", "repeat", "fps"), [(1000, 2, 50), (1000, 1, 60), (0, 4, 25), (40, 2, 10), (10_000, 1, 15)]
)
def test_an_episode_of_the_limit_takes_ten_seconds(limit: int, repeat: int, fps: float) -> None:
    assert film_speed(SPEC._replace(max_frames=limit, action_repeat=repeat)) == fps


def test_random_returns_are_seeded() -> None:
    def returns(seed: int, **settings: Any) -> list[float]:
        return random_return(EnvConfig(obs="state", **settings), "cartpole_balance", seed, 2)

    assert returns(1, action_repeat=8) == returns(1, action_repeat=8)
    assert not set(returns(1, action_repeat=8)) & set(returns(2, action_repeat=8))


def test_an_environment_that_never_works_has_no_random_return() -> None:
    with pytest.raises(UserError, match="no such robot"):
        random_return(EnvConfig(obs="state", action_repeat=1), "tests.envs.toy_envs:NeverSteps", 1, 12)


def test_an_episode_that_cannot_begin_has_no_random_return() -> None:
    """Every other one cannot: those that follow are played in their place."""
    found = random_return(EnvConfig(obs="state", action_repeat=1), "tests.envs.toy_envs:SometimesStarts", 1, 12)
    assert found == [15.0] * 12


def test_random_actions_do_not_know_what_the_environment_draws() -> None:
    """The sum of 250 independent products of mean 0 and deviation 2/3 is within 4.5 of its own deviations."""
    found = random_return(EnvConfig(obs="state", action_repeat=1), "tests.envs.toy_envs:Bets", 0, 5)
    assert abs(sum(found)) < 4.5 * (2 / 3) * 250**0.5
