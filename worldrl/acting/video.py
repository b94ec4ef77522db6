"""Videos and contact sheets of episodes: MP4, GIF and PNG.

OpenCV and Pillow are imported only where they are used, so that a missing system library never stops a training run.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldrl.envs.images import opencv
from worldrl.errors import UserError

Frames = NDArray[np.uint8]  # (T, H, W, 3) RGB
Picture = NDArray[np.uint8]  # (H, W, 3) RGB

CODEC = "mp4v"  # OpenCV's wheels come without an H.264 encoder
TEXT_HEIGHT = 256  # pixels from which overlays can be read


def save_video(path: str | Path, frames: Frames, fps: float, overlay: Sequence[str] | None = None) -> Path:
    """Write a video; the suffix says which: ``.mp4`` (MPEG-4 part 2) or ``.gif``.

    Args:
        path: Where to; folders are made.
        frames: (T, H, W, 3) uint8 RGB. Small frames are enlarged by a whole factor to at least 256 rows.
        fps: Frames per second.
        overlay: One line of text for each frame, or ``None``.

    Raises:
        UserError: Wrong frames or suffix, OpenCV cannot be loaded, or no encoder was found.
    """
    path = Path(path)
    _check(frames)
    if overlay is not None and len(overlay) != len(frames):
        raise UserError(f"overlay has {len(overlay)} lines for {len(frames)} frames; expected one for each")
    _check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(frames, overlay)
    if path.suffix == ".gif":
        path.write_bytes(gif_bytes(pictures, fps))
    else:
        _write_mp4(path, pictures, fps)
    return path


def check_video(path: Path) -> None:
    """Raise UserError for a suffix that ``save_video`` does not know, or if OpenCV, for the text, cannot be loaded."""
    _check_suffix(path)
    opencv()


def gif_bytes(pictures: Iterable[Picture], fps: float) -> bytes:
    """An endless GIF of ``pictures`` (H, W, 3) uint8 RGB; its clock ticks in hundredths of a second."""
    from PIL import Image

    images = [Image.fromarray(picture) for picture in pictures]
    data = io.BytesIO()
    duration = max(20, 10 * round(100 / fps))  # ms; browsers slow shorter ones down
    images[0].save(data, "GIF", save_all=True, append_images=images[1:], duration=duration, loop=0)
    return data.getvalue()


def strip(path: str | Path, frames: Frames, columns: int, border: int = 2) -> Path:
    """Write a PNG contact sheet of ``frames`` (T, H, W, 3) uint8 RGB, row by row, with white borders of some pixels."""
    from PIL import Image

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(contact_sheet(frames, columns, border)).save(path, "PNG")
    return path


def contact_sheet(frames: Frames, columns: int, border: int = 2) -> NDArray[np.uint8]:
    """``frames`` (T, H, W, 3) side by side, ``columns`` to a row, as one image (H', W', 3)."""
    _check(frames)
    count, height, width, _ = frames.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    cells = np.full((rows * columns, height + border, width + border, 3), 255, np.uint8)
    cells[:count, :height, :width] = frames
    sheet = cells.reshape(rows, columns, height + border, width + border, 3).swapaxes(1, 2)
    return sheet.reshape(rows * (height + border), columns * (width + border), 3)[: -border or None, : -border or None]


def _check_suffix(path: Path) -> None:
    if path.suffix not in (".mp4", ".gif"):
        raise UserError(f"'{path.name}': videos end in .mp4 or .gif")


def _check(frames: Frames) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0 or frames.dtype != np.uint8:
        raise UserError(f"frames are {frames.dtype} {frames.shape}; expected uint8 (T, H, W, 3) with T > 0")


def _pictures(frames: Frames, lines: Sequence[str] | None) -> Iterator[Picture]:
    """Every frame as large as text needs, with its line; one at a time, for a film may take most of the memory."""
    factor = -(-TEXT_HEIGHT // frames.shape[1])
    for i, frame in enumerate(frames):
        picture = frame.repeat(factor, axis=0).repeat(factor, axis=1)
        yield picture if lines is None else _with_text(picture, lines[i])


def _with_text(picture: Picture, line: str) -> Picture:
    cv2 = opencv()
    # White letters on a black rim of one pixel. A thicker stroke will not do: OpenCV sets its letters farther apart.
    rim = [(x, y, 0) for x in (-1, 0, 1) for y in (-1, 0, 1) if (x, y) != (0, 0)]
    for x, y, grey in (*rim, (0, 0, 255)):
        cv2.putText(picture, line, (6 + x, 16 + y), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (grey,) * 3, 1, cv2.LINE_AA)
    return picture


def _write_mp4(path: Path, pictures: Iterator[Picture], fps: float) -> None:
    cv2 = opencv()
    first = next(pictures)
    height, width = first.shape[0] // 2 * 2, first.shape[1] // 2 * 2  # the format wants even sizes
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*CODEC), fps, (width, height))
    if not writer.isOpened():
        raise UserError(f"OpenCV cannot write {path}: no {CODEC} encoder, or the folder refuses it; try a .gif")
    for picture in chain([first], pictures):
        writer.write(np.ascontiguousarray(picture[:height, :width, ::-1]))  # OpenCV wants BGR
    writer.release()
