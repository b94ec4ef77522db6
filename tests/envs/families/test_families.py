from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from worldrl.envs import EnvConfig, families, make_envs
from worldrl.envs.families import canonical_name, family_of
from worldrl.errors import UserError

TOY = """
import gymnasium
import numpy as np

from worldrl.envs.spaces import TaskEnv, observation_space, unit_box

SPELLING = "toy.NUMBER (toy.3)"


def claims(task):
    return task.startswith("toy.")


def canonical_name(task):
    return task.replace(" ", "")


class Toy(TaskEnv):
    groups, terminates, max_frames = {"clock": (0, 1)}, True, 9

    def __init__(self, task, obs, action_repeat, render, draws):
        self.task, self.length = task, int(task.removeprefix("toy."))
        self.observation_space, self.action_space = observation_space(obs, 1), unit_box(2)

    def reset(self, *, seed=None, options=None):
        self.now = 0
        return {"state": np.zeros(1, np.float32)}, {"frames": 0}

    def step(self, action):
        self.now += 1
        return {"state": np.full(1, self.now, np.float32)}, 1.0, self.now == self.length, False, {"frames": 1}


make = Toy
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    yield
    sys.modules.pop("worldrl.envs.families.toy", None)


@pytest.mark.parametrize(
    ("task", "home"),
    [
        ("walker_walk", "dmc"),
        ("walker-walk", "dmc"),
        ("Pendulum-v1", "gym"),
        ("a_b-v1", "gym"),
        ("pkg.mod:Class", "gym"),
        ("ALE/Pong-v5", "atari"),
        ("MinAtar/Breakout-v1", "minatar"),
        ("PointMaze_UMaze-v3", "robotics"),
        ("CartPole-v1+16dominated", "useless"),
        ("grid8corner", "grid"),
        ("grid8+4duplicates", "useless"),
    ],
)
def test_a_name_belongs_to_one_family(task: str, home: str) -> None:
    assert [family.__name__ for family in families.families() if family.claims(task)] == [  # type: ignore[attr-defined]
        f"worldrl.envs.families.{home}"
    ]


@pytest.mark.parametrize("task", ["walker", "", "walker walk", "../walker_walk", "a:b:c"])
def test_a_name_that_nobody_claims(task: str) -> None:
    with pytest.raises(UserError) as caught:
        canonical_name(task)
    assert (caught.value.where, caught.value.found) == ("task", repr(task))
    assert all(family.SPELLING in caught.value.expected for family in families.families())


@pytest.mark.usefixtures("toy")
def test_a_new_family_is_one_file() -> None:
    assert canonical_name("toy. 3") == "toy.3"
    assert canonical_name("cup_catch") == "ball_in_cup_catch"
    envs = make_envs(EnvConfig(obs="state", action_repeat=1), "toy.3", seed=1)
    assert (envs.spec.task, envs.spec.max_frames, envs.spec.groups) == ("toy.3", 9, {"state": {"clock": (0, 1)}})
    rows = [envs.reset(), *(envs.step(np.zeros((1, 2), np.float32)) for _ in range(4))]
    assert [float(row["state"][0, 0]) for row in rows] == [0, 1, 2, 3, 0]
    assert [float(row["is_terminal"][0]) for row in rows] == [0, 0, 0, 1, 0]
    with pytest.raises(UserError) as caught:
        family_of("toy")
    assert "toy.NUMBER (toy.3)" in caught.value.expected
