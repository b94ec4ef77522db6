"""Rows that mark their lost entries."""

from __future__ import annotations

import torch

from worldrl.nn.lost import impute, is_dark
from worldrl.types import SEEN


def test_lost_entries_are_imputed_and_a_key_without_a_mask_is_all_there() -> None:
    obs = {"a": torch.ones(2, 2), "b": torch.ones(2, 3), SEEN + "a": torch.tensor([[True, False], [False, False]])}
    found = impute(obs, {"a": torch.zeros(2, 2), "b": torch.zeros(2, 3)})
    assert found["a"].tolist() == [[1, 0], [0, 0]]
    assert torch.equal(found["b"], obs["b"])
    assert is_dark(obs).tolist() == [False, False]


def test_a_row_without_a_single_reading_is_dark() -> None:
    seen = torch.tensor([[True, False], [False, False]])
    assert is_dark({"a": torch.ones(2, 2), SEEN + "a": seen}).tolist() == [False, True]
    assert is_dark({"a": torch.ones(2, 2), "b": torch.ones(2, 2), SEEN + "a": seen, SEEN + "b": ~seen}).tolist() == [
        False,
        False,
    ]
