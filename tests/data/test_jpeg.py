"""JPEG images, and what only pretends to be one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from worldrl.data.jpeg import decode, size_of

IMAGE = np.broadcast_to(np.linspace(0, 250, 40)[:, None, None], (40, 48, 3)).astype(np.uint8)
CODED = cv2.imencode(".jpg", IMAGE[..., ::-1])[1]


def test_an_image_is_unpacked_in_its_order_of_colours() -> None:
    assert size_of(CODED.tobytes()) == (40, 48)
    assert np.abs(decode(CODED, 40, 48).astype(int) - IMAGE).max() < 8
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    assert decode(cv2.imencode(".jpg", red[..., ::-1])[1], 32, 32)[16, 16].argmax() == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03",  # 65,535 x 65,535
        CODED.tobytes()[:20],
        cv2.imencode(".png", IMAGE)[1].tobytes(),
        CODED.tobytes().replace(b"\xff\xda", b"\x00\x00"),
    ],
    ids=["empty", "a beginning", "huge", "cut", "another format", "no numbers"],
)
def test_what_is_no_such_image_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="image"):
        decode(np.frombuffer(data, np.uint8), 40, 48)
