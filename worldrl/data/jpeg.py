"""JPEG images that a stranger may have encoded, and OpenCV, which is imported only where it is used."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldrl.errors import cannot_import

BEGINS = b"\xff\xd8\xff"
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of the segment that has the size of the image


def decode(data: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The colour image (height, width, 3) in these bytes (L,), RGB.

    Raises:
        ValueError: not a JPEG, a damaged one, or one of another size, which is then not decoded.
    """
    found = size_of(data.tobytes())
    if found != (height, width):
        raise ValueError(f"an image of {found[0]} x {found[1]}, not {height} x {width}")
    cv2 = opencv()
    image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError("a damaged JPEG image")
    return np.asarray(image[..., ::-1], np.uint8)  # OpenCV has BGR


def size_of(data: bytes) -> tuple[int, int]:
    """Height and width in the header. Raises ValueError if there is none."""
    at = len(BEGINS) - 1
    while data.startswith(BEGINS) and at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in FRAMES:
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise ValueError("bytes that are not a JPEG image")


def opencv() -> Any:
    """The module ``cv2``, or UserError with the packages to install."""
    try:
        import cv2
    except ImportError as error:
        libraries = "on Debian or Ubuntu, its libraries (apt-get install libgl1 libglib2.0-0)"
        fix = f"install opencv-python and, {libraries}, or opencv-python-headless in its place"
        raise cannot_import("OpenCV", error, fix) from error
    return cv2
