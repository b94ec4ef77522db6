from __future__ import annotations

import builtins
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from worldrl.acting.video import Video, contact_sheet, save_video
from worldrl.errors import UserError


def clip(count: int = 12, height: int = 64, width: int = 64) -> np.ndarray:
    """Red grows from left to right, green with time, blue is absent."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[..., 0] = np.linspace(0, 255, width)
    frames[..., 1] = np.linspace(0, 200, count)[:, None, None]
    return frames


def read_back(path: Path) -> tuple[np.ndarray, float]:
    import av

    with av.open(str(path)) as film:
        (stream,) = film.streams.video
        return np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]), float(stream.average_rate)


def test_mp4_reads_back(tmp_path: Path) -> None:
    frames = clip()
    path = save_video(tmp_path / "deep/er/a.mp4", frames, fps=25)
    got, fps = read_back(path)
    assert fps == pytest.approx(25)
    assert got.shape == (12, 256, 256, 3)
    expected = frames.repeat(4, 1).repeat(4, 2).astype(float)
    assert np.abs(got - expected).mean(axis=(0, 1, 2)).max() < 4  # lossy, but the channels are in their places


def test_mp4_is_what_browsers_play(tmp_path: Path) -> None:
    import av

    path = save_video(tmp_path / "a.mp4", clip(), fps=12.5)
    with av.open(str(path)) as film:
        context = film.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.colorspace) == ("h264", "yuv420p", 1)
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")  # plays while it is loading


def test_a_long_film_is_never_in_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    save_video(tmp_path / "a.mp4", (frame for _ in range(20) for frame in clip(10, 256, 256)), fps=50)
    assert tracemalloc.get_traced_memory()[1] < 10e6  # it is 39 MB
    tracemalloc.stop()


def test_odd_sizes(tmp_path: Path) -> None:
    got, _ = read_back(save_video(tmp_path / "a.mp4", clip(3, 301, 299), fps=10))
    assert got.shape == (3, 300, 298, 3)
    assert read_back(save_video(tmp_path / "b.mp4", clip(3, 30, 300), fps=10))[0].shape == (3, 270, 2700, 3)


def test_captions_are_visible_and_leave_the_frames_alone(tmp_path: Path) -> None:
    frames = clip(4, 256, 256)
    before = frames.copy()
    plain, _ = read_back(save_video(tmp_path / "plain.mp4", frames, 10))
    text, _ = read_back(save_video(tmp_path / "text.mp4", frames, 10, [f"return {i}" for i in range(4)]))
    np.testing.assert_array_equal(frames, before)
    difference = np.abs(text.astype(int) - plain).max(axis=-1)
    assert difference[:, :24, :80].max() > 120
    assert difference[:, 32:].max() < 40
    assert difference[:, :, 120:].max() < 40
    with pytest.raises(ValueError, match="shorter"):
        save_video(tmp_path / "c.mp4", frames, 10, ["a"] * 3)


def test_a_long_caption_takes_another_line(tmp_path: Path) -> None:
    black = np.zeros((2, 64, 64, 3), np.uint8)
    got, _ = read_back(save_video(tmp_path / "a.mp4", black, 10, ["group_dropout@0.05  return 1000  frame 1000"] * 2))
    lit = got.max((0, 3)) > 128
    assert lit[24:40].any()
    assert not lit[:, -4:].any()


def test_gif(tmp_path: Path) -> None:
    frames = clip(12, 256, 256)
    with Image.open(save_video(tmp_path / "a.gif", frames, 20)) as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"]) == (12, (256, 256), 50)
        gif.seek(7)
        assert np.abs(np.asarray(gif.convert("RGB")).astype(int) - frames[7]).mean() < 6
    with Image.open(save_video(tmp_path / "b.gif", clip(), 20, [f"{i}" for i in range(12)])) as gif:
        assert (gif.n_frames, gif.size) == (12, (256, 256))


def test_contact_sheet() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (7, 5, 4, 3), dtype=np.uint8)
    sheet = contact_sheet(frames, columns=3)
    assert sheet.shape == (3 * 5 + 4 * 2, 3 * 4 + 4 * 2, 3)
    for i, frame in enumerate(frames):
        top, left = 2 + i // 3 * 7, 2 + i % 3 * 6
        np.testing.assert_array_equal(sheet[top : top + 5, left : left + 4], frame)
        sheet[top : top + 5, left : left + 4] = 255
    assert (sheet == 255).all()
    assert contact_sheet(frames, 100, border=0).shape == (5, 28, 3)


@pytest.mark.parametrize("picture", [clip()[0].astype(np.float32), clip(), clip()[0][..., :1], clip()[0][:0]])
def test_wrong_pictures(tmp_path: Path, picture: Any) -> None:
    with pytest.raises(UserError) as caught:
        Video(tmp_path / "a.mp4", 10).add(picture)
    assert caught.value.found == f"{picture.dtype} {picture.shape}"


def test_wrong_suffix() -> None:
    with pytest.raises(UserError) as caught:
        Video("a.avi", 10)
    assert caught.value.found == "'a.avi'"


def test_a_missing_encoder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def broken(name: str, *args: Any) -> Any:
        if name == "av":
            raise ImportError("libX11.so.6: cannot open shared object file")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(UserError) as caught:
        Video(tmp_path / "a.mp4", 10)
    assert "libX11.so.6" in str(caught.value)
    assert caught.value.fix
    save_video(tmp_path / "a.gif", clip(), 10)  # needs none
