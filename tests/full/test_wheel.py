"""What somebody gets who installs the wheel and works in an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from worldrl.compose import compose
from worldrl.config import to_yaml

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["head.units=16", "frames=800", "eval.video=false", "device=cpu", "threads=1"]
FROM_PYTHON = """
import worldrl
run = worldrl.train(
    agent="sac", task="cartpole_balance", frames=800, run_dir="from_python",
    **{"env.action_repeat": 8, "schedule.prefill": 400, "eval.every": 0, "head.units": 16, "device": "cpu"},
)
print(worldrl.load(run).spec.task)
"""

pytestmark = pytest.mark.wheel


def run(command: list[str], folder: Path) -> str:
    """What a command prints in a folder, without this checkout on the path."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of a fresh environment with the wheel, which borrows what it depends on from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # building leaves files behind
    tracked = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], ROOT).split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip"]
    run([*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)], folder)
    venv.create(folder / "env", with_pip=False)
    (packages,) = (folder / "env/lib").glob("*/site-packages")
    (wheel,) = folder.glob("*.whl")
    run([*pip, "install", "-q", "--no-deps", "--no-index", "--target", str(packages), str(wheel)], folder)
    (packages / "borrowed.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("-packages")))
    # The script that pip put beside the packages starts this interpreter; a user's is the environment's own.
    script = folder / "env/bin/worldrl"
    script.write_text(f"#!{folder / 'env/bin/python'}\n" + (packages / "bin/worldrl").read_text().split("\n", 1)[1])
    script.chmod(0o755)
    return folder / "env/bin"


@pytest.fixture(scope="module")
def trained(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which nothing was but a run, ``run``."""
    empty = tmp_path_factory.mktemp("empty")
    run([str(installed / "worldrl"), "train", "experiment=smoke", "hydra.run.dir=run", *SMALL], empty)
    return empty


def test_the_wheel_is_what_is_imported(installed: Path, tmp_path: Path) -> None:
    found = run([str(installed / "python"), "-c", "import worldrl; print(worldrl.__file__)"], tmp_path)
    assert Path(found.strip()).is_relative_to(installed.parent)


def test_train_eval_and_report(installed: Path, trained: Path) -> None:
    worldrl = str(installed / "worldrl")
    assert "return" in run([worldrl, "eval", "run", "--episodes", "1"], trained)
    assert "eval/return" in run([worldrl, "report", "run", "--html"], trained)
    assert {"report.md", "report.html"} <= {path.name for path in (trained / "report").iterdir()}


def test_the_demo_is_inside(installed: Path, tmp_path: Path) -> None:
    assert "return" in run([str(installed / "worldrl"), "eval", "demo", "--episodes", "1"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_train_from_python(installed: Path, tmp_path: Path) -> None:
    assert run([str(installed / "python"), "-c", FROM_PYTHON], tmp_path).endswith("cartpole_balance\n")


@pytest.mark.parametrize("line", ["agent=sac", "experiment=paper_table1_missing agent=latent_sac"])
def test_a_preset_means_what_it_means_in_a_clone(installed: Path, tmp_path: Path, line: str) -> None:
    here = dict(word.split("=") for word in line.split())
    there = run([str(installed / "worldrl"), "train", "--cfg", "job", *line.split()], tmp_path)
    assert there == to_yaml(compose(here))
    assert not list(tmp_path.iterdir())
