"""A run folder is data: what it names is imported only where the person has named or allowed it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import worldrl
from tests.toy_runs import STATE_SAC, make_run
from worldrl import trust
from worldrl.commands.evaluate import eval_main
from worldrl.commands.look import main as look_main
from worldrl.commands.train import train_main
from worldrl.compose import compose
from worldrl.config import config_to_dict, flatten
from worldrl.errors import UserError
from worldrl.report.__main__ import main as report_main
from worldrl.runs.folder import resume_command
from worldrl.runs.settings import check_unchanged, load_config
from worldrl.studies.__main__ import main as studies_main
from worldrl.training.loop import resume

HEAD, BELIEF, POLICY = (f"tests.test_config:Toy{part}" for part in ("Head", "Belief", "Policy"))
NAMES = {"head": "evil:Class", "belief": "evil:Class", "policy": "evil.inside:Class", "task": "evil:make"}

Use = Callable[[Path], object]
USES: dict[str, Use] = {
    "eval": lambda run: eval_main([str(run)]),
    "grid": lambda run: eval_main([str(run), "--corruption", "missing", "--level", "0.1"]),
    "resume": lambda run: train_main([f"resume={run}"]),
    "resume more": lambda run: train_main([f"resume={run}", "frames=100"]),
    "init_from": lambda run: train_main([f"init_from={run}", "frames=100"]),
    "sweep": lambda run: train_main(["-m", f"init_from={run}", "seed=1,2"]),
    "look": lambda run: look_main([str(run)]),
    "entropy": lambda run: studies_main(["entropy", str(run)]),
    "training on": lambda run: studies_main(["entropy", str(run), "--until", "9", "--every", "9"]),
    "variance": lambda run: studies_main(["variance", str(run)]),
    "marginal": lambda run: studies_main(["marginal", str(run)]),
    "report": lambda run: 2 if report_main([str(run)]) == 0 else 0,  # reads it, and imports nothing
    "load": worldrl.load,
    "loop": resume,
}


@pytest.fixture(autouse=True)
def nobody_has_allowed_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "_allowed", {"tests"})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    trust.allow("tests")
    folder = make_run(tmp_path_factory.mktemp("runs") / "run", STATE_SAC)
    with (folder / "metrics.jsonl").open("a") as file:  # so that there is something to report
        file.write('{"frames": 1, "agent_steps": 1, "updates": 0, "phase": "acting", "eval/return": 1.0}\n')
    return folder


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that exists as soon as somebody imports the module ``evil`` of the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "__init__.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w').close()\n")
    (tmp_path / "evil" / "inside.py").touch()
    for name in ("evil", "evil.inside"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path / "marker"


def poisoned(run: Path, folder: Path, key: str) -> Path:
    """A copy of a run whose settings name a class that would be imported."""
    shutil.copytree(run, folder)
    settings = config_to_dict(load_config(folder))
    settings[key] = NAMES[key] if key == "task" else {"name": NAMES[key]}
    from omegaconf import OmegaConf

    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(settings)))
    return folder


def refusal(folder: Path, use: str) -> str:
    """What was found, or the exit code of a command."""
    try:
        return str(USES[use](folder))
    except UserError as error:
        return error.found


@pytest.mark.parametrize("key", NAMES)
@pytest.mark.parametrize("use", USES)
def test_a_poisoned_folder_is_not_run(run: Path, tmp_path: Path, marker: Path, key: str, use: str) -> None:
    folder = poisoned(run, tmp_path / "theirs", key)
    assert refusal(folder, use) in (f"{key}={NAMES[key]}, which is not part of worldrl", "2")
    assert not marker.exists()


@pytest.mark.parametrize("key", NAMES)
def test_nor_is_a_poisoned_checkpoint(run: Path, marker: Path, key: str) -> None:
    trained = config_to_dict(load_config(run))
    trained[key] = NAMES[key] if key == "task" else {"name": NAMES[key]}
    with pytest.raises(UserError, match="its checkpoint"):
        check_unchanged(run, trained)
    assert not marker.exists()


def test_what_is_allowed_is_imported(run: Path, tmp_path: Path, marker: Path) -> None:
    folder = poisoned(run, tmp_path / "theirs", "head")
    with pytest.raises(UserError, match=r"config\.yaml.*class in evil for head"):
        worldrl.load(folder, allow="evil")
    assert marker.exists()


@pytest.mark.parametrize("allowing", ["evil", "evil:Class", "other, evil"])
def test_allow_on_the_command_line(run: Path, tmp_path: Path, marker: Path, allowing: str) -> None:
    assert train_main([f"resume={poisoned(run, tmp_path / 'theirs', 'head')}", f"allow={allowing}"]) == 2
    assert marker.exists()


def test_allow_of_eval(run: Path, tmp_path: Path, marker: Path) -> None:
    assert eval_main([str(poisoned(run, tmp_path / "theirs", "policy")), "--allow", "evil.inside"]) == 2
    assert marker.exists()
    assert eval_main([str(run), "--allow", "evil", "--episodes", "1"]) == 0


@pytest.mark.parametrize("allowing", ["evi", "evil2", "evil.inside.Class", "evil:Other", ""])
def test_another_name_allows_nothing(run: Path, tmp_path: Path, marker: Path, allowing: str) -> None:
    with pytest.raises(UserError):
        worldrl.load(poisoned(run, tmp_path / "theirs", "head"), allow=allowing)
    assert not marker.exists()


@pytest.mark.parametrize("by", ["argument", "object", "preset"])
def test_what_the_person_names_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    from tests.test_config import ToyHead

    monkeypatch.setattr(trust, "_allowed", set())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "agent").mkdir(parents=True)
    (tmp_path / "configs" / "agent" / "mine.yaml").write_text(f"base: sac\nhead: {HEAD}\n")
    words = {"argument": {"agent": "sac", "head": HEAD}, "object": {"agent": "sac", "head": ToyHead}}
    config = compose(words.get(by, {"agent": "mine"}))
    assert config.head["name"] == HEAD
    trust.check_allowed("file", flatten(config_to_dict(config)))
    assert trust.allowed() == (HEAD,)


def test_the_printed_command_allows_what_the_run_needs(tmp_path: Path) -> None:
    config = compose({"agent": "sac", "head": HEAD, "task": "tests.envs.toy_envs:Rich"})
    assert resume_command(Path("a b"), config) == (
        "python -m worldrl train 'resume=a b' allow=tests.envs.toy_envs,tests.test_config"
    )
    assert "allow" not in resume_command(Path("a"), compose({"agent": "sac"}))
