"""Noise of rows: what a row draws is its generator's, whatever the other rows are and wherever their axis is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worldrl.acting.noise import RowNoise
from worldrl.types import Noise

LIKE = torch.zeros(())


def draws(seeds: list[int]) -> list[Tensor]:
    """Of the rows with these seeds, in turns; the rows lead."""
    noise = RowNoise([torch.Generator().manual_seed(seed) for seed in seeds])
    return [
        noise.normal((3, 2, 3), 0, LIKE),
        noise.normal((2, 3, 4), -2, LIKE).transpose(0, 1),
        noise.uniform((3, 3, 3), -1, LIKE).movedim(-1, 0),
        noise.uniform((3,), 0, LIKE),
    ]


def test_a_row_draws_the_same_whatever_the_others_are() -> None:
    for x, y in zip(draws([1, 2, 3]), draws([3, 5, 1]), strict=True):
        torch.testing.assert_close(x[[0, 2]], y[[2, 0]], rtol=0, atol=0)
        assert (x[1] != y[1]).all()


def test_a_row_draws_what_its_generator_gives() -> None:
    generator = torch.Generator().manual_seed(7)
    expected = [torch.randn(2, 3, generator=generator), torch.randn(2, 4, generator=generator)]
    for found, row in zip(draws([1, 7, 3])[:2], expected, strict=True):
        assert torch.equal(found[1], row)


def test_another_number_of_rows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise of shape \(4, 2\) has 4 rows, expected 1"):
        RowNoise([torch.Generator()]).normal((4, 2), 0, LIKE)


def test_without_generators_of_rows_it_is_torchs_own() -> None:
    torch.manual_seed(0)
    found = [Noise().normal((4, 3), 0, LIKE), Noise().uniform((5,), 0, LIKE)]
    torch.manual_seed(0)
    torch.testing.assert_close(found, [torch.randn(4, 3), torch.rand(5)], rtol=0, atol=0)
