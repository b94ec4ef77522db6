"""Returns-to-go as an observation: what a policy that is asked for a return has learned from.

This file imports no torch: the workers of environments read the column's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

RETURN_TO_GO = "return_to_go"  # the observation's key


def with_return_to_go(columns: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Columns of a stream of rows with one more, (rows, 1) float32: the rewards still to come in the episode.

    Row t has r_{t+1} + ... + r_T, undiscounted, and the last row of an episode has 0, whether it terminates or is cut.
    """
    total = np.cumsum(columns["reward"], dtype=np.float64)
    start = np.flatnonzero(columns["is_first"])
    stop = np.append(start[1:], len(total))
    to_go = np.repeat(total[stop - 1], stop - start) - total
    return {**columns, RETURN_TO_GO: to_go[:, None].astype(np.float32)}
