"""The batched critics against separate networks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from worldrl.nn.mlp import ChoiceQ, TwinQ


def separate(twin: TwinQ, j: int, x: Tensor) -> Tensor:
    for i, (w, b) in enumerate(zip(twin.weights, twin.biases, strict=True)):
        x = x @ w[j] + b[j, 0]
        if i < len(twin.weights) - 1:
            x = F.elu(x)
    return x[..., 0]


SHAPES = [
    ((4, 5), (4, 5)),
    ((3, 4, 5), (4, 5)),
    ((3, 1, 4, 5), (2, 4, 5)),
    ((2, 1, 4), (2, 4)),  # as many of either, and yet they broadcast
    ((1, 4), (1, 4)),
]


@pytest.mark.parametrize(("feat_shape", "action_shape"), SHAPES)
def test_twins_are_independent_networks_with_broadcasting(feat_shape: tuple, action_shape: tuple) -> None:
    twin = TwinQ(6, 2, units=8, layers=2)
    feat, action = torch.randn(*feat_shape, 6), torch.randn(*action_shape, 2)
    lead = torch.broadcast_shapes(feat_shape, action_shape)
    q = twin(feat, action)
    x = torch.cat([feat.expand(*lead, 6), action.expand(*lead, 2)], -1)
    assert q.shape == (2, *lead)
    for j in range(2):
        torch.testing.assert_close(q[j], separate(twin, j, x))


def test_orthogonal_initialisation_is_per_critic() -> None:
    twin = TwinQ(6, 2, units=8, layers=2, init="orthogonal")
    for j in range(2):
        torch.testing.assert_close(twin.weights[0][j].T @ twin.weights[0][j], torch.eye(8))
        assert twin.biases[0][j].abs().sum() == 0
    assert not torch.equal(twin.weights[0][0], twin.weights[0][1])


def test_frozen_critics_are_constants() -> None:
    critic = TwinQ(5, 2, units=8, layers=2)
    for feat in (torch.randn(6, 5), torch.randn(3, 6, 5)):
        action = torch.randn(6, 2, requires_grad=True)
        q, frozen = critic(feat, action), critic(feat, action, frozen=True)
        assert torch.equal(q, frozen)
        of_q, of_frozen = (torch.autograd.grad(x.sum(), action)[0] for x in (q, frozen))
        assert torch.equal(of_q, of_frozen)
        critic(feat, action, frozen=True).sum().backward()
        assert all(p.grad is None for p in critic.parameters())


def test_critics_take_no_rows() -> None:
    assert TwinQ(3, 2, 8, 2)(torch.zeros(0, 3), torch.zeros(0, 2)).shape == (2, 0)
    assert ChoiceQ(3, 2, 8, 2).values(torch.zeros(0, 3)).shape == (2, 0, 2)
