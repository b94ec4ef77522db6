"""What the documents tell users to paste: the commands compose, the examples work, the links lead somewhere."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from functools import cache
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest

from tests.data.formats.test_formats import arrays, npz
from tests.errors import refusing
from worldrl.__main__ import COMMANDS, main
from worldrl.commands.arguments import PATHS, expand, read_command_line
from worldrl.commands.train import make_job
from worldrl.compose import NOT_SETTINGS, compose
from worldrl.config import Config, known_keys
from worldrl.envs import make_envs
from worldrl.envs.make import EnvConfig
from worldrl.presets import GROUPS, preset_names
from worldrl.registry import OWN_POLICY, known_parts, load_class
from worldrl.runs.trained import TrainedPolicy
from worldrl.studies.__main__ import STUDIES
from worldrl.types import Belief, BeliefModel

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

EXAMPLES = ROOT / "docs" / "examples"


def fenced(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def train_commands() -> Iterator[str]:
    """The arguments of every ``python train.py`` and ``worldrl train`` that starts a new run."""
    for document in DOCUMENTS:
        for block in fenced(document, "bash"):
            for arguments in re.findall(r"(?:python train\.py|worldrl train) (.*)", block.replace("\\\n", "")):
                if "RUN_DIR" not in arguments and "--help" not in arguments:
                    yield arguments


def save_examples(folder: Path) -> None:
    """The documents' own environment, heads, belief and policy, under the names that they give them."""
    shutil.copytree(EXAMPLES, folder, dirs_exist_ok=True)


@pytest.fixture
def saved_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_examples(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("saved_examples")
@pytest.mark.parametrize("arguments", list(train_commands()))
def test_commands_compose(arguments: str, tmp_path: Path) -> None:
    if "data=" in arguments:
        arguments = re.sub(r"data=\S+", f"data={npz(tmp_path / 'mine.npz', arrays(True))} task=Pendulum-v1", arguments)
    line = read_command_line(shlex.split(arguments, comments=True))
    assert [make_job(job, line) for job in expand(line.ours)]


def test_a_wrong_command_would_be_found() -> None:
    with refusing("key 'head.particles'"):
        compose({"agent": "smac", "head.particles": 4})


@pytest.mark.usefixtures("saved_examples")
def test_the_environment_of_the_documents_runs() -> None:
    envs = make_envs(EnvConfig(obs="state", action_repeat=1), "point:Point", seed=1)
    envs.reset()
    rows = [envs.step(np.zeros((1, 2), np.float32)) for _ in range(50)]
    assert [row["is_last"][0] for row in rows] == [0.0] * 49 + [1.0]
    assert all(row["is_terminal"][0] == 0 for row in rows)


@pytest.mark.usefixtures("saved_examples")
def test_the_parts_of_the_documents_pass_the_checks() -> None:
    (code,) = (block for block in fenced(ROOT / "docs" / "extending.md", "python") if "check_head(" in block)
    exec(code, {})


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"(?<!!)\[[^]]+\]\((?!http)([^)]+)\)", document.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        linked = document.parent / path if path else document
        assert linked.is_file(), target
        assert not anchor or anchor in anchors(linked), target


def test_the_navigation_of_the_site_has_every_page_once() -> None:
    listed = re.findall(
        r"^ +- (?:[^:#\n]+: )?([\w/]+\.md)", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE
    )
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]
    assert sorted(listed) == sorted([*pages, "changelog.md", "contributing.md"])


def test_every_example_is_shown_by_a_page() -> None:
    line = re.compile(r"^\[`([\w.]+)`\]\(examples/\1\)$", re.MULTILINE)
    shown = {name for document in DOCUMENTS for name in line.findall(document.read_text(encoding="utf-8"))}
    assert shown == {path.name for path in EXAMPLES.glob("*.py")}


# --- names in backticks -----------------------------------------------------------------------------------------------

KINDS = ("belief", "head", "policy")
NAMES = {**{kind: known_parts(kind) for kind in KINDS}, **{group: preset_names(group) for group in GROUPS}}
OBJECTS = {"belief": (Belief, BeliefModel), "policy": (TrainedPolicy,)}  # what Python examples call by these names
OTHERS = {*GROUPS, *NOT_SETTINGS, *PATHS, "dir", "key"}  # arguments that are not settings; dir= of worldrl baseline


@cache
def settings() -> set[str]:
    """Every setting of a run, whatever its parts are, and the groups that hold some."""
    keys = {key for kind in KINDS for name in known_parts(kind) for key in known_keys({kind: name})}
    return keys | {key.rpartition(".")[0] for key in keys}


def in_package(name: str) -> bool:
    """Whether ``worldrl.x.y`` is a module or something in one."""
    words = name.split(".")
    for end in range(len(words), 0, -1):
        try:
            found = importlib.import_module(".".join(words[:end]))
        except ModuleNotFoundError:
            continue
        for word in words[end:]:
            if not hasattr(found, word):
                return False
            found = getattr(found, word)
        return True
    return False


def runs(module: str) -> bool:
    """Whether ``python -m module`` is a command."""
    path = ROOT / module.replace(".", "/")
    file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    return file.is_file() and "__main__" in file.read_text(encoding="utf-8")


def is_setting(key: str, value: str) -> bool:
    """Whether ``key=value`` is an argument, and a part or preset in it exists; a keyword of Python is neither."""
    if value in ("True", "False") or value.startswith('"'):
        return True
    known = key in settings() or key in OTHERS or key.startswith(("hydra.", "sb3."))
    own = not value or value.isupper() or ":" in value or value in ("wide", "mine")
    return known and (key not in NAMES or own or set(value.split(",")) <= set(NAMES[key]))


def is_member(group: str, name: str) -> bool:
    """Whether ``group.name`` is a setting, or what an example in Python calls by this name."""
    here = (cls for cls in OBJECTS.get(group, ()) if hasattr(cls, name) or (group == "policy" and name == "spec"))
    return f"{group}.{name}" in settings() or any(here)


def unknown_names(text: str) -> list[str]:
    """Names in backticks, and commands in blocks, that nothing has: files, modules, commands, arguments, settings."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    found: list[str] = []
    for span in [*spans, *blocks]:
        for path in (match[0] for match in PATH.finditer(span)):
            exists = (ROOT / path).exists() or (ROOT / "worldrl" / path).exists()
            found += [] if exists or path in OWN_FILES else [path]
        modules = re.findall(r"python -m (worldrl[\w.]*)", span)
        found += [f"python -m {module}" for module in modules if not runs(module)]
        commands = re.findall(r"(?<!-m )\bworldrl ([a-z]\w*)", span)
        found += [f"worldrl {name}" for name in commands if name not in COMMANDS]
    for span in spans:
        found += [name for name in re.findall(r"(?<!-m )\bworldrl(?:\.\w+)+", span) if not in_package(name)]
        if "(" in span:
            continue
        found += [f"{key}={value}" for key, value in ARGUMENT.findall(span) if not is_setting(key, value)]
        found += [".".join(pair) for pair in MEMBER.findall(span) if not is_member(*pair)]
    return found


PATH = re.compile(r"(?<![\w/.-])(?:(?:\w+/)+\w+\.(?:py|yaml)\b|(?:worldrl|tests|configs|docs)/(?:\w+/)*)")
OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]*")
OWN_FILES = {"configs/agent/wide.yaml", "configs/experiment/mine.yaml"}  # examples of a user's own presets
ARGUMENT = re.compile(r"(?<!\S)([a-z][a-z_]*\d*(?:\.[a-z_]\w*)*)=(\S*)")
MEMBER = re.compile(rf"(?<![\w./])({'|'.join(item.name for item in fields(Config))})\.(?!py\b)([a-z]\w*)")


def today(document: Path) -> str:
    """The document, or of the changelog what is not released: sections of a version have the names of their time."""
    return document.read_text(encoding="utf-8").partition("\n## [0.1.0]")[0]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_in_backticks_exist(document: Path) -> None:
    assert not unknown_names(today(document))


def commands_in(text: str) -> Iterator[tuple[str, set[str]]]:
    """The name and the options of each command of ours, in backticks and in blocks."""
    joined = text.replace("\\\n", " ")
    for name, rest in re.findall(r"(?:\bworldrl |python (?=(?:train|eval)\.py))([a-z]+)([^`\n#|]*)", joined):
        if name in COMMANDS:
            yield name, set(OPTION.findall(rest))


@pytest.mark.parametrize("command", COMMANDS)
def test_options_of_commands_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for below in {"studies": STUDIES, "data": ("info", "make", "convert")}.get(command, [None]):
        with suppress(SystemExit):
            main([command, *filter(None, [below]), "--help"])
    known = {*OPTION.findall(capsys.readouterr().out.translate(str.maketrans("[],", "   "))), "--help"}
    named = [options for document in DOCUMENTS for name, options in commands_in(today(document)) if name == command]
    assert named
    assert set().union(*named) <= known


def test_names_that_are_gone_would_be_found() -> None:
    gone = ["worldrl/gone/", "heads/gone.py", "worldrl.report.gone", "python -m worldrl.sb3", "worldrl inside"]
    gone += ["head=gone", "gone=1", "head.gone", "schedule.gone=1"]
    text = "\n".join(f"`{name}`" for name in gone)
    assert set(unknown_names(text)) >= set(gone)
    assert unknown_names("```bash\nworldrl gone RUN_DIR\n```\n") == ["worldrl gone"]
    assert list(commands_in("`worldrl look RUN_DIR --gone 3`, `python eval.py \\\n --gone`")) == [
        ("look", {"--gone"}),
        ("eval", {"--gone"}),
    ]


# --- one page per algorithm -------------------------------------------------------------------------------------------

ALGORITHMS = ROOT / "docs" / "algorithms"
PAGES = sorted(ALGORITHMS.glob("*.md"))
PARTS = [(kind, name) for kind in ("belief", "head", "policy") for name in known_parts(kind) if name != OWN_POLICY]
CODE = re.compile(r"\[`([\w.]+)`\]\((\S+\.py)\)")


def names_in(source: Path) -> set[str]:
    """Functions, classes, and what classes define: ``polyak``, ``SAC``, ``SAC.update``."""
    found: set[str] = set()
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        name = getattr(node, "name", "")
        found.add(name)
        found.update(f"{name}.{inner.name}" for inner in getattr(node, "body", ()) if hasattr(inner, "name"))
    return found


def equations(page: Path) -> list[dict[str, str]]:
    """The rows of the page's equation table, by column."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith("| equation |")), len(lines))
    table = [line.strip("| ").split(" | ") for line in takewhile(lambda line: line.startswith("|"), lines[start:])]
    header = ["equation", "what it says", "code", "oracle", "test"]
    assert not table or table[0] == header
    return [dict(zip(header, (cell.strip() for cell in row), strict=False)) for row in table[2:]]


@pytest.mark.parametrize("part", PARTS, ids="=".join)
def test_every_part_has_a_page_that_leads_from_its_equations_to_code_oracles_and_tests(part: tuple[str, str]) -> None:
    rows = equations(ALGORITHMS / f"{part[1]}.md")
    assert rows
    for row in rows:
        assert "](../../worldrl/" in row["code"], row
    assert any("](../../tests/oracles/" in row.get("oracle", "") and "](../../tests/" in row["test"] for row in rows)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_what_a_page_names_exists(page: Path) -> None:
    """Functions, oracles, tests and settings."""
    text = page.read_text(encoding="utf-8")
    for name, target in CODE.findall(text):
        assert name in names_in(page.parent / target), (name, target)
    settings = {f"{kind}.{f.name}" for kind, name in PARTS for f in fields(load_class(kind, name).Config)}
    named = set(re.findall(r"(?<![\w./])((?:head|belief|policy)\.[a-z]\w*)", text))
    assert named <= settings, named - settings


MATH = re.compile(r"\$\$.+?\$\$|(?<![`\w])\$[^$`\n]+(?:\n[^$`\n]+)?\$", re.DOTALL)
TAKEN = re.compile(r"\\[^a-zA-Z\s]|\^\*|\]\(|<\w|^\s*[-+=]", re.MULTILINE)  # escapes, emphasis, links, tags, lists


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_markdown_takes_nothing_from_math(document: Path) -> None:
    """GitHub reads Markdown first: of ``\\,`` it leaves the comma, and a line that begins with a plus is a list."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not [math for math in MATH.findall(text) if TAKEN.search(math)]


def test_what_markdown_takes_would_be_found() -> None:
    wrong = [r"$a\,b$", r"$\{a\}$", "$x^*$", "$[a](b)$", "$$a\n+ b$$"]
    assert all(TAKEN.search(MATH.findall(f"so {math} is")[0]) for math in wrong)
    assert not TAKEN.search(MATH.findall(r"so $x^\ast - \Vert y \Vert$ is")[0])


def anchors(document: Path) -> list[str]:
    """What GitHub calls the headings of a document; one that comes again gets a number."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        before = sum(re.fullmatch(rf"{re.escape(name)}(-\d+)?", other) is not None for other in found)
        found.append(f"{name}-{before}" if before else name)
    return found
