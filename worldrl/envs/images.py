"""Images as arrays (H, W, 3) uint8, and OpenCV, which is imported only where it is used."""

from __future__ import annotations

from typing import Any

import numpy as np

from worldrl.errors import cannot_import


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (H, W, 3) uint8 by area averaging."""
    if image.shape[:2] == (height, width):
        return image
    cv2 = opencv()
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def opencv() -> Any:
    """The module ``cv2``, or UserError with the packages to install."""
    try:
        import cv2
    except ImportError as error:
        libraries = "on Debian or Ubuntu, its libraries (apt-get install libgl1 libglib2.0-0)"
        fix = f"install opencv-python and, {libraries}, or opencv-python-headless in its place"
        raise cannot_import("OpenCV", error, fix) from error
    return cv2
