"""What the documents tell users to paste, run as it is written, except for its length."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
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
FROM_DATA = {"updates": "20", "replay.batch": "4", "log.progress": "false", "threads": "1"}
WITH_A_TASK = {**FROM_DATA, "eval.every": "10", "eval.episodes": "1", "eval.video": "false"}
FILES = {  # of D4RL's layout: numbers of an observation and of an action
    "antmaze-umaze-v2.hdf5": (29, 8),
    "pen-human-v1.hdf5": (45, 24),
    "DATA.npz": (11, 3),
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
OF_DATA, OF_RETURNS, OF_CHOICES = "runs/pendulum/td3_bc/1", "runs/pendulum/bc/1", "runs/grid/dqn/1"
SUITED = {  # what a command asks for -> a run of that kind; the others read images
    "--groups|studies (entropy|variance)|stuck": STATES,
    "--fqe held-out|studies embedding": OF_DATA,
    "--target-return": OF_RETURNS,
    "studies useless": OF_CHOICES,
}


def shortened(line: str) -> list[str]:
    """A training of a few updates."""
    lengths = ("frames", "schedule.prefill", "updates")
    words = [word for word in shlex.split(line)[2:] if word.partition("=")[0] not in lengths]
    given = {word.partition("=")[0] for word in words}
    blind = any(f"data={name}" in words for name in FILES)  # the file names no environment
    extra = {} if "--cfg" in words else FROM_DATA if blind else WITH_A_TASK if "data" in given else SHORT
    return [sys.executable, "-m", "worldrl", "train", *words, *(f"{k}={v}" for k, v in extra.items() if k not in given)]


def run(command: list[str], folder: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    done = subprocess.run(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the documents' example files, data sets, and short runs of several kinds."""
    made = tmp_path_factory.mktemp("examples")
    save_examples(made)
    (made / "docs").symlink_to(ROOT / "docs")  # the data of the repository
    (recorded,) = (line for line in commands() if line.startswith("worldrl data make pendulum-v0"))
    run([sys.executable, "-m", "worldrl", *shlex.split(recorded.replace("20_000", "1_000"))[1:]], made)
    shutil.copytree(made / "pendulum-v0", made / "held-out-v0")
    for name, sizes in FILES.items():
        save_d4rl(made / name, *sizes)
    for asked in (
        f"experiment=smoke hydra.run.dir={PIXELS}",
        f"agent=smac_state hydra.run.dir={STATES}",
        f"agent=td3_bc data=pendulum-v0 hydra.run.dir={OF_DATA}",
        f"agent=bc data=pendulum-v0 data.normalize=true env.target_return=-150 hydra.run.dir={OF_RETURNS}",
        f"experiment=useless hydra.run.dir={OF_CHOICES}",
    ):
        run(shortened(f"worldrl train {asked}"), made)
    shutil.copytree(made / PIXELS, made / "runs" / "mine" / PIXELS)  # in place of a sweep
    (made / "theirs").mkdir()
    shutil.copy(ROOT / "docs" / "curves" / "acrobot.csv", made / "theirs" / "curves.csv")
    return made


def save_d4rl(path: Path, values: int, actions: int, n: int = 600) -> None:
    """A file of D4RL's layout with random rows."""
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.normal(size=(n, values)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (n, actions)).astype(np.float32),
        "rewards": rng.integers(0, 2, n).astype(np.float32),
        "terminals": np.zeros(n, bool),
        "timeouts": np.arange(n) % 100 == 99,
    }
    if path.suffix == ".npz":
        np.savez(path, **arrays)
        return
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


@pytest.mark.parametrize("line", TRAININGS)
def test_a_training_of_the_documents_runs(line: str, folder: Path) -> None:
    run(shortened(line), folder)


@pytest.mark.parametrize("line", WITH_A_RUN)
def test_a_command_about_a_run_works(line: str, folder: Path) -> None:
    trained = next((run_dir for pattern, run_dir in SUITED.items() if re.search(pattern, line)), PIXELS)
    words = shlex.split(line.removeprefix("time ").replace("RUN_DIR...", trained).replace("RUN_DIR", trained))
    if re.search("init_from=|worldrl train ", line):
        run(shortened(shlex.join(words)), folder)
        return
    words = ["eval", *words[2:]] if words[:2] == ["python", "eval.py"] else words[1:]
    words = ["train", *words[1:]] if words[0] == "train.py" else words
    short = re.sub(r"frames=(120_000|12_000)", "frames=2400", shlex.join(words))
    for option, least in {"episodes": 1, "steps": 300, "updates": 20}.items():
        short = re.sub(rf"--{option} [\d_]+", f"--{option} {least}", short)
    run([sys.executable, "-m", "worldrl", *shlex.split(short)], folder)


def test_the_training_from_python_runs(folder: Path) -> None:
    (code,) = (block for block in fenced(ROOT / "docs" / "training.md", "python") if "worldrl.train(" in block)
    (folder / "from_python.py").write_text(code.replace("20_000", "2_000"), encoding="utf-8")
    run([sys.executable, "from_python.py"], folder)
