"""Networks from shapes: a grid gets a convolution of its own, a choice a critic that gives all its actions at once."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from tests.conftest import STATE_SPEC
from worldrl.agent import Agent
from worldrl.config import config_from_dict
from worldrl.nn.build import GridNet, GridQ, Torso, critic, network
from worldrl.nn.mlp import MLP, ChoiceQ, TwinQ
from worldrl.registry import tiny_settings
from worldrl.types import Batch, ObsSpec, box, choice

GRID = (5, 4, 3)


def test_a_vector_gets_the_plain_networks() -> None:
    assert type(network((7,), 8, 1, 2)) is MLP
    assert type(critic((7,), box(2), 8, 1)) is TwinQ
    assert type(critic((7,), choice(2), 8, 1)) is ChoiceQ


def test_the_torso_of_a_screen_is_that_of_dqn() -> None:
    torso, images = Torso((84, 84, 4)), torch.randn(3, 84, 84, 4)
    x = images.permute(0, 3, 1, 2)
    for conv, stride in zip(torso.convs, (4, 2, 1), strict=True):
        x = F.conv2d(x, conv.weight, conv.bias, stride).relu()
    assert x.shape == (3, 64, 7, 7)
    torch.testing.assert_close(torso(images.flatten(-3)), x.flatten(1))
    assert torso.outputs == 3136


def test_a_torso_is_the_convolution_of_the_unfolded_grid() -> None:
    torso, images = Torso(GRID), torch.randn(2, 6, *GRID)
    expected = F.conv2d(
        images.flatten(0, 1).permute(0, 3, 1, 2), torso.convs[0].weight, torso.convs[0].bias, padding=1
    ).relu()
    torch.testing.assert_close(torso(images.flatten(-3)), expected.flatten(1).unflatten(0, (2, 6)))


@pytest.mark.parametrize("actions", [box(2), choice(3)])
@pytest.mark.parametrize("shape", [(60,), GRID])
def test_a_frozen_critic_has_the_gradient_of_its_inputs_only(shape: tuple[int, ...], actions) -> None:
    net = critic(shape, actions, 8, 2, n=2)
    feat, action = torch.randn(6, 60, requires_grad=True), torch.randn(4, 6, actions.size)
    assert net(feat, action).shape == (2, 4, 6)
    torch.testing.assert_close(net(feat, action, frozen=True), net(feat, action))
    grads = torch.autograd.grad(net(feat, action, frozen=True).sum(), [feat, *net.parameters()], allow_unused=True)
    assert grads[0] is not None
    assert all(grad is None for grad in grads[1:])


def test_critics_of_a_choice_are_independent_networks() -> None:
    net, feat = critic((7,), choice(3), 8, 2, "tanh", n=2), torch.randn(4, 7)
    for j in range(2):
        x = feat
        for weight, bias in zip(net.weights[:-1], net.biases[:-1], strict=True):
            x = torch.tanh(x @ weight[j] + bias[j])
        expected = x @ net.weights[-1][j] + net.biases[-1][j]
        torch.testing.assert_close(net.values(feat)[j], expected)
        for a in range(3):
            torch.testing.assert_close(net(feat, torch.eye(3)[a].expand(4, 3))[j], expected[:, a])


def test_a_copy_has_its_own_convolution() -> None:
    net = critic(GRID, choice(3), 8, 1)
    other = deepcopy(net)
    with torch.no_grad():
        other.torsos[0].convs[0].weight.zero_()
    assert net.torsos[0].convs[0].weight.abs().sum() > 0


@pytest.mark.parametrize("actions", [box(2), choice(3)])
@pytest.mark.parametrize(
    ("head", "policy"),
    [("sac", "own"), ("virel", "own"), ("smac", "own"), ("sac", "flow"), ("sac", "latent"), ("td3", "own")],
)
def test_heads_on_a_small_grid_have_convolutions_that_learn(head: str, policy: str, actions) -> None:
    if actions.kind == "choice" and (policy != "own" or head == "td3"):
        pytest.skip("refused")
    spec = STATE_SPEC._replace(obs={"state": ObsSpec(GRID, "float32")}, actions=actions)
    settings = {**tiny_settings("head", head), **tiny_settings("policy", policy)}
    agent = Agent(
        config_from_dict({"belief": "identity", "head": head, "policy": policy, "device": "cpu", **settings}), spec
    )
    convs = [m for m in agent.head.modules() if isinstance(m, Torso)]
    assert len(convs) >= 4  # of the actor, of twin critics and of their targets
    before = {name: p.clone() for name, p in agent.head.named_parameters() if "conv" in name and "target" not in name}
    zeros = torch.zeros(4, 3)
    action = torch.eye(3)[torch.randint(3, (4, 3))] if actions.kind == "choice" else torch.rand(4, 3, 2)
    batch = Batch({"state": torch.randn(4, 3, *GRID)}, action, torch.randn(4, 3), zeros, zeros)
    for phase in sorted({agent.head.phase(n) for n in range(4)}):
        agent.update(phase, batch, {"td": batch})
    after = dict(agent.head.named_parameters())
    assert all(not torch.equal(after[name], value) for name, value in before.items())
    rows = {"state": torch.randn(4, *GRID).numpy(), "action": action[:, 0].numpy(), "is_first": torch.ones(4).numpy()}
    assert agent.act(agent.initial(4), rows, explore=True)[1].shape == (4, actions.size)


def test_types_of_grid_networks() -> None:
    assert isinstance(network(GRID, 8, 1, 2), GridNet)
    assert isinstance(critic(GRID, box(2), 8, 1), GridQ)
