"""The state of a run as a file; tests/runs/test_checkpoint.py has foreign and damaged ones."""

from __future__ import annotations

import numpy as np

from worldrl.runs.state import decode, encode


def test_encode_is_inverted_by_decode() -> None:
    value = {"a": (1, [np.zeros((0, 2))]), "b": {}}
    got = decode(encode(value))
    assert got["a"][0] == 1
    assert got["a"][1][0].shape == (0, 2)
    assert got["b"] == {}
