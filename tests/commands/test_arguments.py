"""Arguments: a path is a path, and only a path is."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from worldrl.commands.arguments import RUN_DIR, expand, read_argument, read_command_line
from worldrl.compose import compose
from worldrl.errors import UserError
from worldrl.runs.folder import resume_command

ODD = ["my run", "lr=1e-3", "a,b", "läuf", "x'y", "${now}", "[a]", "(1)", '"', "a\\b", "#1", "-m"]


@pytest.mark.parametrize("key", ["resume", "init_from", "presets", RUN_DIR])
@pytest.mark.parametrize("name", ODD)
def test_a_path_is_taken_as_it_is(key: str, name: str) -> None:
    assert read_argument(f"{key}={name}").values == (name,)


@pytest.mark.parametrize("name", ODD)
def test_the_printed_command_can_be_pasted(name: str) -> None:
    python, m, package, train, *arguments = shlex.split(resume_command(Path(name), compose({"agent": "sac"})))
    assert (python, m, package, train) == ("python", "-m", "worldrl", "train")
    (read,) = expand(read_command_line(arguments).ours)
    assert read == {"resume": name}


def test_quotes_of_hydra_and_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert read_command_line(['hydra.run.dir="a b"']).run_dir == Path("a b")
    assert read_argument("resume='läuf, \\'2'").values == ("läuf, '2",)
    assert read_argument("resume=~/runs/a").values == (str(tmp_path / "runs/a"),)
    Path('"it"').mkdir()
    assert read_argument('resume="it"').values == ('"it"',)


@pytest.mark.parametrize("text", ["resume=", "hydra.run.dir=", "presets= ", 'hydra.run.dir=""'])
def test_a_folder_has_a_name(text: str) -> None:
    with pytest.raises(UserError) as refused:
        read_argument(text)
    assert refused.value.where == text.partition("=")[0]


def test_a_path_does_not_sweep_and_a_value_does() -> None:
    line = read_command_line(["-m", "init_from=a,b", "seed=1,2", "env.obs='a,b'"])
    assert list(expand(line.ours)) == [{"init_from": "a,b", "seed": n, "env.obs": "a,b"} for n in (1, 2)]
