"""Videos in a headless Chromium: ``pytest -m browser``."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser import CHROMIUM, TELL, visit
from worldrl.acting.video import save_video

PAGE = (
    f"""<link rel="icon" href="data:,"><video muted src="film.mp4"></video><canvas></canvas><script>{TELL}"""
    """
const video = document.querySelector("video"), canvas = document.querySelector("canvas");
const draw = () => {
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0);
  return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
};
let first;
video.onerror = () => tell({error: video.error.message});
video.onloadeddata = () => { first = draw(); video.play(); };
video.onended = () => tell({
  size: [video.videoHeight, video.videoWidth], seconds: video.duration, first: first, last: draw(),
});
</script>"""
)

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")]


@pytest.fixture
def open_page(tmp_path: Path) -> Callable[[Path], dict[str, Any]]:
    """``open_page(film)`` plays an MP4 in a page; returns what the page has to tell."""

    def play(film: Path) -> dict[str, Any]:
        shutil.copy(film, tmp_path / "film.mp4")
        (tmp_path / "index.html").write_text(PAGE)
        return visit(tmp_path, "index.html")[0]

    return play


def test_a_browser_plays_the_film_in_its_colours(tmp_path: Path, open_page: Any) -> None:
    pictures = np.zeros((15, 64, 64, 3), np.uint8)
    pictures[:, :, :32, 0] = 200  # red on the left
    pictures[:, :, 32:, 2] = np.linspace(50, 250, 15, dtype=np.uint8)[:, None, None]  # blue grows on the right
    found = open_page(save_video(tmp_path / "a.mp4", pictures, fps=15))
    assert "error" not in found
    assert found["size"] == [256, 256]
    assert found["seconds"] == pytest.approx(1.0, abs=0.05)
    first, last = (np.reshape(found[name], (256, 256, 4))[..., :3] for name in ("first", "last"))
    for seen, blue, near in ((first, 50, 6), (last, 250, 20)):  # the end may be told a picture early
        np.testing.assert_allclose(seen[128, 50], [200, 0, 0], atol=6)
        np.testing.assert_allclose(seen[128, 200], [0, 0, blue], atol=near)


def test_a_browser_shows_readable_captions(tmp_path: Path, open_page: Any) -> None:
    pictures = np.full((8, 64, 64, 3), 120, np.uint8)
    found = open_page(save_video(tmp_path / "a.mp4", pictures, fps=8, captions=[f"return {i}" for i in range(8)]))
    last = np.reshape(found["last"], (256, 256, 4))[..., :3].astype(int)
    assert last[:24].max() > 220  # letters
    assert last[:24].min() < 40  # their rim
    assert np.abs(last[40:] - 120).max() < 8
