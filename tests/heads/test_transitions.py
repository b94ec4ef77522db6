"""Returns of n steps compared with a walk over the rows, one start at a time."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import STATE_SPEC
from tests.oracles.side_by_side import random_rows
from worldrl.heads.transitions import n_steps, transitions

GAMMA = 0.9


def test_one_step_is_a_pair_of_rows() -> None:
    batch = random_rows(STATE_SPEC, 0)
    feat = batch.obs["state"][None]
    steps = n_steps(batch, feat, 1, GAMMA)
    assert all(map(torch.equal, steps.pairs, transitions(batch, feat)))
    assert (steps.discount == torch.tensor(GAMMA)).all()


@pytest.mark.parametrize("n", [2, 3, 5])
def test_n_steps_end_with_the_episode(n: int) -> None:
    batch = random_rows(STATE_SPEC, 1, b=40, t=9)
    feat = torch.stack([batch.obs["state"], -batch.obs["state"]])
    pairs, discount = n_steps(batch, feat, n, GAMMA)
    assert pairs.reward.shape == (40, 9 - n)
    lengths = []
    for b in range(40):
        for t in range(9 - n):
            k = 0
            while k < n and not batch.is_first[b, t + k + 1]:
                k += 1
            lengths.append(k)
            assert pairs.mask[b, t] == (k > 0)
            if k == 0:
                continue
            reward = sum(GAMMA**i * batch.reward[b, t + 1 + i] for i in range(k))
            torch.testing.assert_close(pairs.reward[b, t], reward)
            assert float(discount[b, t]) == pytest.approx(GAMMA**k)
            assert pairs.terminal[b, t] == batch.is_terminal[b, t + k]
            assert torch.equal(pairs.next_feat[:, b, t], feat[:, b, t + k])
            assert torch.equal(pairs.feat[:, b, t], feat[:, b, t])
            assert torch.equal(pairs.action[b, t], batch.action[b, t + 1])
    assert set(lengths) == set(range(n + 1))
