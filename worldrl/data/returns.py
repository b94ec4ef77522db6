"""Returns-to-go as an observation, for policies that can be asked for a return.

This file does not import torch, because the workers of environments need the column's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

RETURN_TO_GO = "return_to_go"  # the observation's key


def with_return_to_go(columns: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The columns of a stream of rows and one more, (rows, 1) float32: the sum of the episode's future rewards.

    Row t has r_{t+1} + ... + r_T, undiscounted, and the last row of an episode has 0, whether it terminates or is cut.
    """
    total = np.cumsum(columns["reward"], dtype=np.float64)
    start = np.flatnonzero(columns["is_first"])
    stop = np.append(start[1:], len(total))
    to_go = np.repeat(total[stop - 1], stop - start) - total
    return {**columns, RETURN_TO_GO: to_go[:, None].astype(np.float32)}
