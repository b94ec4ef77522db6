"""Images as arrays (H, W, 3) uint8."""

from __future__ import annotations

import numpy as np

from worldrl.data.jpeg import opencv


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (H, W, 3) uint8 by area averaging."""
    if image.shape[:2] == (height, width):
        return image
    cv2 = opencv()
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
