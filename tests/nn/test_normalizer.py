"""Observations in standard units, and back."""

from __future__ import annotations

import numpy as np
import torch

from tests.conftest import BOTH_SPEC
from worldrl.nn.normalizer import Normalizer


def test_vectors_get_standard_units_and_their_own_back_and_images_stay() -> None:
    rng = np.random.default_rng(0)
    state = (5.0 + 3.0 * rng.standard_normal((200, 5))).astype(np.float32)
    normalizer = Normalizer(BOTH_SPEC)
    normalizer.fit({"state": state})
    obs = {"pixels": torch.randint(0, 256, (200, 64, 64, 3), dtype=torch.uint8), "state": torch.from_numpy(state)}
    scaled = normalizer(obs)
    torch.testing.assert_close(scaled["state"].mean(0), torch.zeros(5), rtol=0.0, atol=1e-3)
    torch.testing.assert_close(scaled["state"].std(0, correction=0), torch.ones(5), rtol=0.0, atol=1e-3)
    back = normalizer.inverse(scaled)
    torch.testing.assert_close(back["state"], obs["state"])
    assert torch.equal(scaled["pixels"], obs["pixels"])
    assert torch.equal(back["pixels"], obs["pixels"])
