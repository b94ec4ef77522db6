"""Actions in the task's own units. This imports only NumPy, so a trained agent can use it anywhere."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def rescale(action: Array, low: Array, high: Array) -> Array:
    """Map actions in [-1, 1] to [low, high], in float64; values outside are clipped."""
    unit = (np.clip(np.asarray(action, np.float64), -1.0, 1.0) + 1.0) / 2.0
    with np.errstate(over="ignore"):
        span = high - low
    mapped = low + unit * span if np.isfinite(span).all() else low * (1.0 - unit) + high * unit
    return np.clip(mapped, low, high)  # the sum may be rounded beyond the bounds
