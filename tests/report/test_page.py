"""The report as one page: what it holds, that it runs nobody's code, and that a browser shows it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.browser import CHROMIUM, TELL, visit
from tests.report.toy_runs import make_phases, make_run
from worldrl.acting.video import save_video
from worldrl.errors import UserError
from worldrl.report import films
from worldrl.report.__main__ import main, make_parser, report

EVIL = "<script>alert('x')&"
WATCH = (
    f"""<link rel="icon" href="data:,"><iframe src="report.html" width="1200" height="900"></iframe><script>{TELL}"""
    """
const frame = document.querySelector("iframe");
frame.onload = () => {
  const document = frame.contentDocument, video = document.querySelector("video");
  video.onerror = () => tell({error: video.error.message});
  video.onended = () => tell({size: [video.videoWidth, video.videoHeight], seconds: video.currentTime,
    curve: document.querySelector("#task-1 svg").getBoundingClientRect().width});
  video.loop = false;
  video.play();
};
</script>"""
)


class Reader(HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def rename(run_dir: Path, **settings: str) -> Path:
    """Settings that ``worldrl train`` would refuse; the report reads what is there."""
    path = run_dir / "config.yaml"
    text = path.read_text()
    for key, value in ((key, json.dumps(value)) for key, value in settings.items()):
        text = re.sub(rf"(?m)^{key}: .*$", lambda found, line=(key, value): ": ".join(line), text)
    path.write_text(text)
    return run_dir


def film(path: Path, frames: int = 12) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_video(path, np.zeros((frames, 64, 64, 3), np.uint8), fps=12)


def grid(path: Path, agent: str, task: str = "walker_walk") -> None:
    cells = [{"corruption": c, "level": x, "return": 3 - x} for c, x in (("clean", 0.0), ("gaussian", 1.0))]
    path.mkdir(parents=True)
    (path / "robustness.json").write_text(
        json.dumps({"task": task, "agent": agent, "trained_with": {}, "cells": cells})
    )


def make_page(folder: Path, *options: str) -> str:
    report(make_parser().parse_args([str(folder / "runs"), "--html", "--out", str(folder / "out"), *options]))
    return (folder / "out" / "report.html").read_text()


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs whose names, tasks and settings are HTML, with videos, a grid and a run that is left out."""
    folder = tmp_path_factory.mktemp("strange")
    for seed in (1, 2, 3):
        run = make_run(folder / "runs" / f"{EVIL}{seed}", [0, 10.0 * seed, 20.0 * seed, 25.0], every=9000, seed=seed)
        rename(run, agent=EVIL, task='"><img src=x onerror=alert(1)>$\\frac$', device=EVIL, init_from=f"{EVIL}{seed}")
        film(run / "videos" / "eval-000009000.mp4")
        film(run / "videos" / "eval-000018000.mp4", frames=20)
    make_run(folder / "runs" / "<i>empty", [])
    grid(folder / "runs" / f"{EVIL}1" / "robustness", EVIL, EVIL)
    film(folder / "runs" / f"{EVIL}1" / "robustness" / f"{EVIL}@1.mp4")
    return folder


@pytest.fixture(scope="module")
def strange_page(strange: Path) -> str:
    return make_page(strange)


def test_what_run_folders_say_is_text(strange_page: str) -> None:
    read = Reader(strange_page)
    assert not read.tags & {"script", "img", "iframe", "object", "i", "form"}
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    assert EVIL in read.texts
    assert any(text.startswith('"><img src=x onerror=alert(1)>$\\frac$') for text in read.texts)


def test_nothing_comes_from_elsewhere(strange_page: str) -> None:
    read = Reader(strange_page)
    links = [value for name, value in read.attributes if name in ("src", "href", "xlink:href", "poster", "action")]
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"@import|url\((?!#)", strange_page)
    names = [value for name, value in read.attributes if name == "id" and not value.startswith(("m", "p"))]
    assert len(set(names)) == len(names)  # those of matplotlib's paths are of what they hold
    targets = {value[1:] for name, value in read.attributes if name == "href" and value.startswith("#")}
    assert targets <= {value for name, value in read.attributes if name == "id"}


def test_every_run_has_its_curve(strange_page: str) -> None:
    curve = strange_page.split('id="task-1"')[1].split("</svg>")[0]
    seeds = set(re.findall(r'<path d="([^"]*)"[^>]*stroke-opacity: 0\.3', curve))
    assert len(seeds) == 3


def test_what_differs_and_what_was_left_out_is_said(strange_page: str) -> None:
    texts = Reader(strange_page).texts
    assert "init_from" in texts
    assert ", ".join(f"{EVIL}{seed}" for seed in (1, 2, 3)) in texts
    assert "device" not in texts  # which says where a run ran
    assert any(text.startswith("left out") and "<i>empty" in text for text in texts)


def test_the_last_video_of_each_run_and_those_of_grids_are_inside(strange: Path, strange_page: str) -> None:
    inside = [base64.b64decode(data) for data in re.findall(r'src="data:video/mp4;base64,([^"]*)"', strange_page)]
    last = (strange / "runs" / f"{EVIL}1" / "videos" / "eval-000018000.mp4").read_bytes()
    assert inside.count(last) == 3
    assert len(inside) == 4
    assert f"robustness, {EVIL}@1" in Reader(strange_page).texts


def test_many_videos_lie_beside_the_page(strange: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(films, "EMBEDDED", 1000)
    (tmp_path / "runs").symlink_to(strange / "runs")
    sources = re.findall(r'<video[^>]* src="([^"]*)"', make_page(tmp_path))
    assert sources == [f"report-videos/00{i}.mp4" for i in (1, 2, 3, 4)]
    assert all((tmp_path / "out" / source).read_bytes()[4:8] == b"ftyp" for source in sources)
    monkeypatch.undo()
    assert "data:video" in make_page(tmp_path)
    assert not (tmp_path / "out" / "report-videos").exists()


def test_videos_and_grids_that_are_something_else_are_left_out_with_a_note(tmp_path: Path) -> None:
    secret = film(tmp_path / "secret.mp4")
    for seed in (1, 2):
        run = make_run(tmp_path / "runs" / str(seed), [0, 10.0, 20.0], every=9000, seed=seed)
        (run / "videos").mkdir()
    (tmp_path / "runs/1/videos/eval-1.mp4").symlink_to(secret)
    (tmp_path / "runs/2/videos/eval-1.mp4").write_text("<html>")
    (tmp_path / "runs/2/robustness.json").write_text("[]")
    found = make_page(tmp_path)
    assert "<video" not in found
    assert all(f"left out {tmp_path}/runs/{seed}/videos/eval-1.mp4" in found for seed in (1, 2))
    assert "left out all robustness grids" in found


def test_a_report_without_a_page_takes_the_old_one_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(films, "EMBEDDED", 0)
    make_run(tmp_path / "runs" / "a", [0, 10.0, 20.0], every=9000)
    film(tmp_path / "runs" / "a" / "videos" / "eval-1.mp4")
    first = make_page(tmp_path)
    assert make_page(tmp_path) == first
    assert (tmp_path / "out" / "report-videos").is_dir()
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out" / "report.html").exists()
    assert not (tmp_path / "out" / "report-videos").exists()


def test_the_page_has_every_row_baseline_and_estimate(tmp_path: Path) -> None:
    """As the tables and notes of the command have them."""
    for task in ("walker_walk", "cheetah_run"):
        for seed in (1, 2, 3):
            name = f"{task}{seed}"
            make_run(tmp_path / "runs" / name, [0, 10.0 * seed, 20.0 * seed], every=9000, task=task, seed=seed)
    grid(tmp_path / "runs" / "walker_walk1" / "robustness", "smac")
    grid(tmp_path / "runs" / "walker_walk2" / "robustness", "smac")
    text = make_page(tmp_path, "--baseline", "published=33", "--normalise", "100")
    assert text.count("published 33") == 2  # a line in each panel
    tables = re.findall(r"<table.*?</table>", text, re.DOTALL)
    noise = next(table for table in tables if "gaussian" in table)
    assert noise.count("<tr") == 1 + 2
    assert ">3.0" in noise
    assert ">2.0" in noise
    everything = text[text.index("over the tasks that all agents have") :]
    assert re.search(r"\b0\.4\b", everything)  # the middle of 20, 40 and 60 of 100


def test_a_column_of_numbers_with_gaps_is_aligned(tmp_path: Path) -> None:
    make_phases(tmp_path / "runs" / "a", [0.0, 1.0], [2.0])
    row = re.findall(r"<tr>.*?</tr>", make_page(tmp_path).partition("<tbody>")[2])[0]
    cells = dict(zip(("task", "agent", "seeds", "frames", "updates"), re.findall("<td.*?>", row), strict=False))
    assert {title for title, cell in cells.items() if "number" in cell} == {"seeds", "frames", "updates"}


def test_a_page_is_not_of_grids_only(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        make_page(tmp_path, "--robustness")
    assert caught.value.where == "--html"


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("embedded", [films.EMBEDDED, 0])
def test_a_browser_shows_the_page_and_plays_its_video(
    strange: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded: int
) -> None:
    monkeypatch.setattr(films, "EMBEDDED", embedded)
    (tmp_path / "runs").symlink_to(strange / "runs")
    make_page(tmp_path)
    (tmp_path / "out" / "index.html").write_text(WATCH)
    told, console = visit(tmp_path / "out", "index.html")
    assert not console
    assert told["size"] == [256, 256]
    assert told["seconds"] == pytest.approx(20 / 12, abs=0.1)
    assert told["curve"] > 200
