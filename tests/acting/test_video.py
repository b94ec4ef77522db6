from __future__ import annotations

import builtins
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from worldrl.acting.video import contact_sheet, gif_bytes, save_video, strip
from worldrl.errors import UserError


def clip(count: int = 12, height: int = 64, width: int = 64) -> np.ndarray:
    """Red grows from left to right, green with time, blue is absent."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[..., 0] = np.linspace(0, 255, width)
    frames[..., 1] = np.linspace(0, 200, count)[:, None, None]
    return frames


def read_back(path: Path) -> tuple[np.ndarray, float]:
    import cv2

    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        found, frame = capture.read()
        if not found:
            return np.stack(frames)[..., ::-1], capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame)


def test_mp4_reads_back(tmp_path: Path) -> None:
    frames = clip()
    path = save_video(tmp_path / "deep/er/a.mp4", frames, fps=25)
    got, fps = read_back(path)
    assert fps == pytest.approx(25)
    assert got.shape == (12, 256, 256, 3)
    expected = frames.repeat(4, 1).repeat(4, 2).astype(float)
    assert np.abs(got - expected).mean(axis=(0, 1, 2)).max() < 12  # lossy, but the channels are in their places
    assert got[..., 0].mean() > got[..., 2].mean() + 80


def test_odd_sizes(tmp_path: Path) -> None:
    got, _ = read_back(save_video(tmp_path / "a.mp4", clip(3, 301, 299), fps=10))
    assert got.shape == (3, 300, 298, 3)


def test_overlay_is_visible_and_leaves_the_frames_alone(tmp_path: Path) -> None:
    frames = clip(4, 256, 256)
    before = frames.copy()
    plain, _ = read_back(save_video(tmp_path / "plain.mp4", frames, 10))
    text, _ = read_back(save_video(tmp_path / "text.mp4", frames, 10, [f"return {i}" for i in range(4)]))
    np.testing.assert_array_equal(frames, before)
    difference = np.abs(text.astype(int) - plain).max(axis=-1)
    assert difference[:, :24, :100].max() > 120
    assert difference[:, 60:].max() < 60
    with pytest.raises(UserError, match="3 lines for 4 frames"):
        save_video(tmp_path / "c.mp4", frames, 10, ["a"] * 3)


def test_gif(tmp_path: Path) -> None:
    frames = clip()
    with Image.open(io.BytesIO(gif_bytes(frames, 20))) as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"]) == (12, (64, 64), 50)
        gif.seek(7)
        assert np.abs(np.asarray(gif.convert("RGB")).astype(int) - frames[7]).mean() < 6
    with Image.open(save_video(tmp_path / "a.gif", frames, 20, ["x"] * 12)) as gif:
        assert (gif.n_frames, gif.size) == (12, (256, 256))


def test_contact_sheet(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (7, 5, 4, 3), dtype=np.uint8)
    with Image.open(strip(tmp_path / "x/a.png", frames, columns=3)) as image:
        sheet = np.asarray(image)
    assert sheet.shape == (3 * 5 + 2 * 2, 3 * 4 + 2 * 2, 3)
    for i, frame in enumerate(frames):
        top, left = i // 3 * 7, i % 3 * 6
        np.testing.assert_array_equal(sheet[top : top + 5, left : left + 4], frame)
    assert (sheet[5:7] == 255).all()
    assert (sheet[14:, 6:] == 255).all()
    assert contact_sheet(frames, 100, border=0).shape == (5, 28, 3)


@pytest.mark.parametrize(
    "frames", [clip().astype(np.float32), clip()[0], np.zeros((0, 4, 4, 3), np.uint8), clip()[..., :1]]
)
def test_wrong_frames(tmp_path: Path, frames: Any) -> None:
    with pytest.raises(UserError, match="expected uint8"):
        save_video(tmp_path / "a.mp4", frames, 10)


def test_wrong_suffix_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.mp4 or \.gif"):
        save_video(tmp_path / "a.avi", clip(), 10)


def test_missing_libgl_names_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def broken(name: str, *args: Any) -> Any:
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(UserError, match=r"libGL\.so\.1.*libgl1 libglib2\.0-0.*opencv-python-headless"):
        save_video(tmp_path / "a.mp4", clip(), 10)
    save_video(tmp_path / "a.gif", clip(), 10)  # needs no OpenCV
