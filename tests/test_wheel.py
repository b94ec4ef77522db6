"""A wheel has the presets inside: ``agent=sac`` means the same in an empty folder as in a clone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from worldrl.commands.arguments import expand, read_command_line
from worldrl.compose import compose
from worldrl.config import to_yaml

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's files, as an installation would place them."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # building leaves files behind
    for name in ("worldrl", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", str(folder), str(source)]
    subprocess.run([sys.executable, "-m", *build], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
@pytest.mark.parametrize("line", ["agent=sac", "experiment=paper_table1_missing agent=latent_sac"])
def test_a_wheel_in_an_empty_folder_composes_what_a_clone_composes(installed: Path, tmp_path: Path, line: str) -> None:
    arguments = ["-m", "worldrl", "train", "--cfg", "job", *line.split()]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    (here,) = expand(read_command_line(line.split()).ours)
    assert done.stdout == to_yaml(compose(here)), done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_wheel_has_every_preset_and_no_more(installed: Path) -> None:
    inside = {path.relative_to(installed / "worldrl/configs") for path in (installed / "worldrl/configs").rglob("*.*")}
    assert inside == {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
