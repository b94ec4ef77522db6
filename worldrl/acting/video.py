"""Videos and contact sheets of episodes: MP4, GIF and PNG.

An MP4 has H.264 in the form that every browser, Jupyter and VS Code can play: 4:2:0 at even sizes, its index in front.
PyAV, Pillow and torchvision are imported only where they are used, so a missing library never stops a training run
without videos.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable
from fractions import Fraction
from itertools import repeat
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from worldrl.errors import UserError, cannot_import, new_file, writing

Frames = NDArray[np.uint8]  # (T, H, W, 3) RGB
Picture = NDArray[np.uint8]  # (H, W, 3) RGB

OTHER_PLACE = "make room, or choose another place"
READABLE = 256  # rows and columns from which captions are readable
FONT, LETTER, EDGE = 14, 8, 6  # size of the captions, about the width of a letter, place of the first: pixels
BT709, LIMITED = 1, 1  # FFmpeg's numbers of the colour space and range of video; players guess them if they are missing


class Video:
    """A film that is encoded picture by picture; ``save`` writes it. In memory is the encoded film, or all of a GIF.

    Args:
        path: The file; its suffix is the format: ``.mp4`` (H.264) or ``.gif`` (larger, with 256 colours per picture).
        fps: Pictures per second.

    Raises:
        UserError: Another suffix, or no encoder.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path = Path(path)
        check_video(self.path)
        self._film: _Film = _Gif(fps) if self.path.suffix == ".gif" else _Mp4(fps)

    def add(self, picture: Picture, caption: str = "") -> None:
        """Add a picture, all of one size; a small one is enlarged by a whole factor until its caption is readable.

        Raises:
            UserError: Anything except (H, W, 3) uint8.
        """
        _check(picture, "(H, W, 3)")
        factor = max(1, -(-READABLE // min(picture.shape[:2])))
        large = picture.repeat(factor, axis=0).repeat(factor, axis=1)
        self._film.add(_with_text(large, caption) if caption else large)

    def save(self) -> Path:
        """Write the film once, after its last picture; missing folders are created.

        Raises:
            UserError: It cannot be written; nothing is left of it, and a film of this name stays as it was.
        """
        with writing(self.path.parent, OTHER_PLACE):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(self.path, OTHER_PLACE) as partial:
            self._film.save(partial)
        return self.path


def save_video(
    path: str | Path, pictures: Iterable[Picture], fps: float, captions: Iterable[str] | None = None
) -> Path:
    """Write a whole ``Video``, optionally with a line of text for each picture."""
    video = Video(path, fps)
    lines = zip(pictures, repeat("")) if captions is None else zip(pictures, captions, strict=True)
    for picture, caption in lines:
        video.add(picture, caption)
    return video.save()


def check_video(path: Path) -> None:
    """Raise UserError for an unsupported suffix, or if the encoder cannot be loaded."""
    if path.suffix not in (".mp4", ".gif"):
        raise UserError("a video's name", found=f"'{path.name}'", expected="one that ends in .mp4 or .gif")
    if path.suffix == ".mp4":
        _encoder()


def contact_sheet(frames: Frames, columns: int, border: int = 2) -> Picture:
    """``frames`` (T, H, W, 3) side by side, ``columns`` per row, as one picture (H', W', 3) with white borders."""
    import torch
    from torchvision.utils import make_grid

    _check(frames, "(T, H, W, 3)")
    grid = make_grid(torch.from_numpy(frames).permute(0, 3, 1, 2), columns, border, pad_value=255)
    return np.ascontiguousarray(grid.permute(1, 2, 0).numpy())


def _check(pixels: NDArray[Any], form: str) -> None:
    if pixels.ndim != form.count(",") + 1 or pixels.shape[-1] != 3 or pixels.size == 0 or pixels.dtype != np.uint8:
        raise UserError("pictures of a video", found=f"{pixels.dtype} {pixels.shape}", expected=f"uint8 {form}")


def _with_text(picture: Picture, text: str) -> Picture:
    """White letters with a black outline at the top, in as many lines as the width requires."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(picture)
    lines = textwrap.wrap(text, (picture.shape[1] - 2 * EDGE) // LETTER)
    font = ImageFont.load_default(FONT)
    ImageDraw.Draw(image).text(
        (EDGE, EDGE), "\n".join(lines), "white", font, stroke_width=1, stroke_fill="black", spacing=2
    )
    return np.asarray(image)


# --- encoders ---------------------------------------------------------------------------------------------------------


class _Film(Protocol):
    def add(self, picture: Picture) -> None: ...

    def save(self, path: Path) -> None: ...


class _Mp4:
    """H.264 by libx264, first into memory: the index, which must be in front, is known only at the end."""

    def __init__(self, fps: float) -> None:
        self._av = _encoder()
        self._memory = io.BytesIO()
        self._file = self._av.open(self._memory, "w", format="mp4")
        self._stream = self._file.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED

    def add(self, picture: Picture) -> None:
        height, width = (size // 2 * 2 for size in picture.shape[:2])  # colours have half the resolution
        if not self._stream.codec_context.is_open:
            self._stream.height, self._stream.width = height, width
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
        colours = {"dst_colorspace": BT709, "dst_color_range": LIMITED}
        self._file.mux(self._stream.encode(frame.reformat(format="yuv420p", **colours)))

    def save(self, path: Path) -> None:
        self._file.mux(self._stream.encode())
        self._file.close()
        self._memory.seek(0)
        with (
            self._av.open(self._memory) as film,
            self._av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as file,
        ):
            stream = file.add_stream_from_template(film.streams.video[0])
            for packet in film.demux():
                if packet.dts is not None:  # the last one is empty
                    packet.stream = stream
                    file.mux(packet)


class _Gif:
    """An endless GIF by Pillow; its clock ticks in hundredths of a second."""

    def __init__(self, fps: float) -> None:
        self._duration = max(20, 10 * round(100 / fps))  # ms; browsers slow shorter ones down
        self._images: list[Any] = []

    def add(self, picture: Picture) -> None:
        from PIL import Image

        self._images.append(Image.fromarray(picture).quantize(method=Image.Quantize.FASTOCTREE))

    def save(self, path: Path) -> None:
        first, *others = self._images
        first.save(path, "GIF", save_all=True, append_images=others, duration=self._duration, loop=0)


def _encoder() -> Any:
    """The module ``av``, or UserError if it cannot be loaded."""
    try:
        import av
    except ImportError as error:
        raise cannot_import("PyAV, which encodes videos,", error, "pip install av, or write a .gif") from error
    return av
