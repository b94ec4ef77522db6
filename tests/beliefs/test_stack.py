from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.oracles import mirl as oracle
from worldrl.agent import Agent
from worldrl.beliefs.stack import Stack
from worldrl.config import config_from_dict
from worldrl.errors import UserError
from worldrl.testing import check_belief
from worldrl.types import Batch, EnvSpec, ObsSpec, choice

SHAPES = {"vector": (3,), "grid": (4, 5, 2), "screen": (6, 7, 1)}


def spec(name: str) -> EnvSpec:
    kind = "uint8" if name == "screen" else "float32"
    return EnvSpec("toy", {"state": ObsSpec(SHAPES[name], kind)}, choice(2))


def rows(name: str, firsts: list[int], t: int = 7, b: int = 2) -> Batch:
    """Row t of window b shows the number 10 b + t everywhere; episodes of window 0 begin in the rows ``firsts``."""
    number = 10.0 * torch.arange(b)[:, None] + torch.arange(t)
    obs = number.reshape(b, t, *[1] * len(SHAPES[name])).expand(b, t, *SHAPES[name]).clone()
    is_first = torch.zeros(b, t)
    is_first[0, firsts] = 1.0
    obs = obs.byte() if name == "screen" else obs
    return Batch({"state": obs}, torch.zeros(b, t, 2), torch.zeros(b, t), is_first, torch.zeros(b, t))


def numbers(feat: torch.Tensor, name: str, n: int) -> np.ndarray:
    """What the frames of the features show, (..., n), oldest first; every entry of a frame shows the same."""
    *sides, channels = SHAPES[name]
    frames = feat.unflatten(-1, (*sides, n, channels)).movedim(-2, feat.dim() - 1)
    flat = frames.flatten(feat.dim())
    assert torch.equal(flat, flat[..., :1].expand_as(flat))
    return np.rint(flat[..., 0].numpy() * (255 if name == "screen" else 1))


@pytest.mark.parametrize("name", SHAPES)
def test_learning_sees_the_last_frames_of_the_episode(name: str) -> None:
    model = Stack(Stack.Config(frames=3), spec(name))
    found = numbers(model.observe(rows(name, [0, 4]), 2)[0].feat, name, 3)
    assert model.lost_rows == 2
    assert found[0].tolist() == [[0, 1, 2], [1, 2, 3], [4, 4, 4], [4, 4, 5], [4, 5, 6]]
    assert found[1].tolist() == [[10, 11, 12], [11, 12, 13], [12, 13, 14], [13, 14, 15], [14, 15, 16]]


def test_frames_are_the_oracles() -> None:
    batch = rows("grid", [0, 3, 4], t=12)
    batch.obs["state"].normal_()
    found = Stack(Stack.Config(frames=4), spec("grid")).observe(batch, 0)[0].feat.unflatten(-1, (4, 5, 8))
    for b in range(2):
        assert torch.equal(found[b], oracle.stacked(batch.obs["state"][b], batch.is_first[b], 4)[3:])


@pytest.mark.parametrize("name", SHAPES)
def test_acting_sees_what_learning_sees(name: str) -> None:
    model, batch = Stack(Stack.Config(frames=3), spec(name)), rows(name, [0, 4])
    state, seen = model.initial(2), []
    for t in range(7):
        state, belief = model.step(state, {"state": batch.obs["state"][:, t]}, torch.zeros(2, 2), batch.is_first[:, t])
        seen.append(belief.feat)
    assert torch.equal(torch.stack(seen, 1)[0, 2:], model.observe(batch, 0)[0].feat[0])
    assert numbers(torch.stack(seen, 1)[1], name, 3)[1].tolist() == [10, 10, 11]  # the first row that it ever saw


def test_the_screen_of_atari_is_a_grid_of_four_channels() -> None:
    model = Stack(Stack.Config(), EnvSpec("toy", {"state": ObsSpec((84, 84, 1), "uint8")}, choice(6)))
    assert model.sizes(choice(6)).feat == (84, 84, 4)
    agent = Agent(
        config_from_dict({"belief": "stack", "head": "mirl", "device": "cpu", "head.units": 8}),
        EnvSpec("toy", {"state": ObsSpec((84, 84, 1), "uint8")}, choice(6)),
    )
    assert agent.head.critic.torsos[0].outputs == 64 * 7 * 7  # Mnih et al. 2015
    screens = np.random.default_rng(0).integers(0, 256, (2, 84, 84, 1)).astype(np.uint8)
    now = {"state": screens, "action": np.zeros((2, 6), np.float32), "is_first": np.ones(2, np.float32)}
    state, action, belief = agent.act(agent.initial(2), now, explore=False)
    assert action.shape == (2, 6)
    assert 0.99 < belief.feat.max() <= 1.0
    assert state["frames"].dtype == torch.uint8


def test_it_is_a_belief() -> None:
    check_belief("stack", frames=3)


def test_one_observation_only() -> None:
    both = {"pixels": ObsSpec((64, 64, 3), "uint8"), "state": ObsSpec((3,), "float32")}
    with pytest.raises(UserError) as refused:
        Stack(Stack.Config(), EnvSpec("toy", both, choice(2)))
    assert "env.obs=state" in refused.value.fix
