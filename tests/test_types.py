"""Kinds of action: random ones, noise on them, averages; and the defaults that a part inherits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from worldrl.acting.noise import RowNoise
from worldrl.types import NOISE, Head, Needs, box, choice, hardened


def test_random_actions_of_a_box_are_those_of_the_prefill_as_it_always_was() -> None:
    found = box(3).random(np.random.default_rng([7, 0x414354]), 5)
    expected = np.random.default_rng([7, 0x414354]).uniform(-1.0, 1.0, (5, 3)).astype(np.float32)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32


def test_random_choices_are_uniform_one_hot_rows() -> None:
    found = choice(4).random(np.random.default_rng(0), 20_000)
    assert (found.dtype, set(np.unique(found))) == (np.float32, {0.0, 1.0})
    np.testing.assert_array_equal(found.sum(1), 1.0)
    np.testing.assert_allclose(found.mean(0), 0.25, atol=0.02)


def test_target_entropies() -> None:
    assert box(6).target_entropy == -6.0
    assert choice(6).target_entropy == pytest.approx(0.98 * math.log(6))


def test_noise_on_a_box_is_gaussian_and_clipped() -> None:
    torch.manual_seed(0)
    found = box(2).perturb(torch.full((20_000, 2), 0.9), 0.1)
    assert found.max() == 1.0
    torch.manual_seed(0)
    torch.testing.assert_close(found, (0.9 + 0.1 * torch.randn(20_000, 2)).clamp(-1, 1))


def test_noise_on_a_choice_replaces_it_with_a_random_one() -> None:
    torch.manual_seed(0)
    action = torch.eye(4)[1].expand(40_000, 4)
    found = choice(4).perturb(action, 0.2)
    assert torch.equal(found, hardened(found))
    torch.testing.assert_close(found.mean(0), torch.tensor([0.05, 0.85, 0.05, 0.05]), atol=0.01, rtol=0)
    assert torch.equal(choice(4).perturb(action, 0.0), action)
    prior = torch.tensor([0.1, 0.2, 0.7, 0.0])
    drawn = choice(4).perturb(action, 1.0, prior=prior).mean(0)
    torch.testing.assert_close(drawn, prior, atol=0.02, rtol=0)
    assert drawn[3] == 0


def test_noise_of_rows_is_their_own() -> None:
    def found(seeds: list[int]) -> torch.Tensor:
        noise = RowNoise([torch.Generator().manual_seed(seed) for seed in seeds])
        return choice(4).perturb(torch.eye(4)[[0, 1, 2]], 1.0, noise)

    assert torch.equal(found([1, 2, 3])[2], found([5, 6, 3])[2])


def test_averages() -> None:
    votes = torch.eye(3)[torch.tensor([[0, 1], [0, 2], [2, 2]])]  # (P, B, A)
    assert torch.equal(choice(3).average(votes), torch.eye(3)[[0, 2]])
    torch.testing.assert_close(box(3).average(votes), votes.mean(0))


def test_what_a_head_does_not_say_is_inherited() -> None:
    head = Head()
    assert (head.needs, head.phase(3), head.particles("update")) == (Needs(), "update", 0)
    assert (head.note, head.compiled, head.own_meaning, head.tiny) == ("", (), (), {})


def test_uniform_numbers_are_torchs() -> None:
    torch.manual_seed(0)
    found = NOISE.uniform((4,), 0, torch.zeros(()))
    torch.manual_seed(0)
    assert torch.equal(found, torch.rand(4))
