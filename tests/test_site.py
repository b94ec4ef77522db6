"""The site in a browser: every page of the documents, wide and narrow."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.browser import CHROMIUM, TELL, visit

ROOT = Path(__file__).parent.parent
WIDTHS = (1280, 400)
LOOK = (
    f"""<link rel="icon" href="data:,"><script>{TELL}"""
    """
const look = (page, width) => new Promise(done => {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 900; frame.src = page;
  frame.onload = async () => {
    const document = frame.contentDocument, images = [...document.images], root = document.documentElement;
    await Promise.all(images.map(image => image.decode().catch(() => null)));
    const hosts = frame.contentWindow.performance.getEntriesByType("resource").map(entry => new URL(entry.name).host);
    done({page, width, title: document.title, wide: root.scrollWidth - root.clientWidth,
      broken: images.filter(image => !image.naturalWidth).map(image => image.src),
      elsewhere: hosts.filter(host => host && host !== location.host)});
    frame.remove();
  };
  document.body.append(frame);
});
onload = async () => {
  const found = [];
  for (const width of WIDTHS) for (const page of PAGES) found.push(await look(page, width));
  tell({found});
};
</script><body></body>"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "--strict", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=True)
    return folder


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="no mkdocs: pip install -e '.[docs]'")
def test_every_page_shows_its_images_and_fits_the_screen(site: Path) -> None:
    documents = [*site.glob("*.html"), *site.glob("algorithms/*.html"), *site.glob("api/*.html")]
    pages = sorted(str(path.relative_to(site)) for path in documents)
    script = LOOK.replace("WIDTHS", json.dumps(WIDTHS)).replace("PAGES", json.dumps(pages))
    (site / "look.html").write_text(script)
    told, console = visit(site, "look.html", seconds=300)
    found: list[dict[str, Any]] = told["found"]
    assert len(found) == len(WIDTHS) * len(pages) > 80
    assert not [each for each in found if each["wide"] > 0 or each["broken"] or each["elsewhere"] or not each["title"]]
    assert console == []
