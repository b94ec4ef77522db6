"""What the documents tell users to paste, run as it is written, except for its length."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_documents import ROOT, fenced, save_examples

pytestmark = pytest.mark.examples

SHORT = {
    "frames": "800",
    "schedule.prefill": "700",
    "schedule.pretrain": "0",
    "schedule.updates_per_1000_frames": "15",
    "eval.every": "400",
    "eval.episodes": "1",
    "eval.video": "false",
    "replay.batch": "4",
    "replay.capacity": "5000",
    "log.tensorboard": "false",
    "log.progress": "false",
    "threads": "1",
}
LONG = ("results.md",)  # its commands are experiments of minutes and hours
CHECKED = [ROOT / "README.md", *(path for path in sorted((ROOT / "docs").glob("*.md")) if path.name not in LONG)]


def commands() -> list[str]:
    """Every line of every block of shell commands, once, without its comment."""
    lines = [
        shlex.join(shlex.split(line, comments=True))
        for document in CHECKED
        for block in fenced(document, "bash")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return list(dict.fromkeys(filter(None, lines)))


def is_training(line: str) -> bool:
    single = re.match(r"(python train\.py|worldrl train) (?!.*(-m |--help|hydra/launcher))", line)
    return bool(single) and "RUN_DIR" not in line


TRAININGS = [line for line in commands() if is_training(line)]
MINUTES = r"--frames 500000|--until|studies marginal|runs/figure3"  # or ask for a longer run, or for another agent
WITH_A_RUN = [
    line for line in commands() if re.match(r"worldrl report|.*(RUN_DIR| demo )", line) and not re.search(MINUTES, line)
]
PIXELS, STATES = "runs/cartpole_balance/smac/1", "runs/walker_walk/smac_state/1"


def shortened(line: str) -> list[str]:
    """A training of a few updates."""
    words = [word for word in shlex.split(line)[2:] if word.partition("=")[0] not in ("frames", "schedule.prefill")]
    given = {word.partition("=")[0] for word in words}
    extra = {} if "--cfg" in words else SHORT
    return [sys.executable, "-m", "worldrl", "train", *words, *(f"{k}={v}" for k, v in extra.items() if k not in given)]


def run(command: list[str], folder: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    done = subprocess.run(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the documents' example files, and two short runs: from images, and from states."""
    made = tmp_path_factory.mktemp("examples")
    save_examples(made)
    for asked in (f"experiment=smoke hydra.run.dir={PIXELS}", f"agent=smac_state hydra.run.dir={STATES}"):
        run(shortened(f"worldrl train {asked}"), made)
    return made


@pytest.mark.parametrize("line", TRAININGS)
def test_a_training_of_the_documents_runs(line: str, folder: Path) -> None:
    run(shortened(line), folder)


@pytest.mark.parametrize("line", WITH_A_RUN)
def test_a_command_about_a_run_works(line: str, folder: Path) -> None:
    trained = STATES if re.search("--groups|studies|stuck", line) else PIXELS
    words = shlex.split(line.removeprefix("time ").replace("RUN_DIR...", trained).replace("RUN_DIR", trained))
    if "init_from=" in line:
        run(shortened(shlex.join(words)), folder)
        return
    words = ["eval", *words[2:]] if words[:2] == ["python", "eval.py"] else words[1:]
    words = ["train", *words[1:]] if words[0] == "train.py" else words
    short = re.sub(r"--episodes \d+", "--episodes 1", shlex.join(words)).replace("frames=2000000", "frames=2400")
    run([sys.executable, "-m", "worldrl", *shlex.split(short)], folder)


def test_the_training_from_python_runs(folder: Path) -> None:
    (code,) = (block for block in fenced(ROOT / "docs" / "training.md", "python") if "worldrl.train(" in block)
    (folder / "from_python.py").write_text(code.replace("20_000", "2_000"), encoding="utf-8")
    run([sys.executable, "from_python.py"], folder)
