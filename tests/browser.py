"""A headless Chromium that visits a page and hears what the page has to tell."""

from __future__ import annotations

import http.server
import json
import queue
import shutil
import subprocess
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import Any

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
    "--enable-logging=stderr",
)
TELL = 'const tell = found => fetch("found", {method: "POST", body: JSON.stringify(found)});'  # of a page's script


def visit(folder: Path, page: str, seconds: float = 60) -> tuple[dict[str, Any], list[str]]:
    """Open a page of ``folder`` that calls ``TELL`` once; returns what it told, and the lines of the console."""
    found: queue.Queue[dict[str, Any]] = queue.Queue()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_POST(self) -> None:
            found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None: ...

    handler = partial(Handler, directory=str(folder))
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        tempfile.TemporaryFile("w+") as log,
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_address[1]}/{page}"
        command = [str(CHROMIUM), *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={profile}", place]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        try:
            told = found.get(timeout=seconds)
        finally:
            browser.terminate()
            browser.wait(timeout=10)
            server.shutdown()
        log.seek(0)
        return told, [line for line in log if ":CONSOLE" in line]
