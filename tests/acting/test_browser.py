"""Videos in a headless Chromium: ``pytest -m browser``."""

from __future__ import annotations

import http.server
import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldrl.acting.video import save_video

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PAGE = """<video muted src="film.mp4"></video><canvas></canvas><script>
const video = document.querySelector("video"), canvas = document.querySelector("canvas");
const tell = found => fetch("found", {method: "POST", body: JSON.stringify(found)});
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

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")]


@pytest.fixture
def open_page(tmp_path: Path) -> Iterator[Any]:
    """``open_page(film)`` plays an MP4 in a page; returns what the page has to tell."""
    found: queue.Queue[dict[str, Any]] = queue.Queue()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def do_POST(self) -> None:
            found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None: ...

    def play(film: Path) -> dict[str, Any]:
        shutil.copy(film, tmp_path / "film.mp4")
        (tmp_path / "index.html").write_text(PAGE)
        place = f"http://127.0.0.1:{server.server_address[1]}/index.html"
        command = [CHROMIUM, *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={tmp_path / 'profile'}", place]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return found.get(timeout=60)
        finally:
            browser.terminate()
            browser.wait(timeout=10)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield play
        server.shutdown()


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
