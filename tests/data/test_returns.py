"""Returns-to-go against a plain loop."""

from __future__ import annotations

import numpy as np

from tests.data.test_episodes import made
from worldrl.data.episodes import rows_of_episodes
from worldrl.data.returns import RETURN_TO_GO, with_return_to_go


def test_every_row_has_the_rewards_that_follow_it_in_its_episode() -> None:
    episodes = made()
    expected = [float(sum(e.reward[t:])) for e in episodes for t in range(len(e.reward) + 1)]
    found = with_return_to_go(rows_of_episodes(episodes))[RETURN_TO_GO]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-6)
