"""What the documents tell users to paste: the commands compose, the examples work, the links lead somewhere."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest

from worldrl.commands.arguments import expand, read_command_line
from worldrl.commands.train import make_job
from worldrl.compose import compose
from worldrl.envs import make_envs
from worldrl.envs.make import EnvConfig
from worldrl.errors import UserError
from worldrl.registry import OWN_POLICY, known_parts, load_class

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

EXAMPLES = ["leaky_belief.py", "my_head.py", "point.py", "steady_noise.py", "tiny_head.py"]


def fenced(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def train_commands() -> Iterator[str]:
    """The arguments of every ``python train.py`` and ``worldrl train`` that starts a new run."""
    for document in DOCUMENTS:
        for block in fenced(document, "bash"):
            for arguments in re.findall(r"(?:python train\.py|worldrl train) (.*)", block.replace("\\\n", "")):
                if "RUN_DIR" not in arguments and "--help" not in arguments:
                    yield arguments


@pytest.fixture
def saved_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documents' own environment, heads, belief and policy, saved under the names that they give them."""
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/extending.md"))
    for name, code in re.findall(r"`(\w+\.py)`[^`]*(?:`[^`\n]+`[^`]*)*?```python\n(.*?)```", text, re.DOTALL):
        (tmp_path / name).write_text(code, encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == EXAMPLES
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("saved_examples")
@pytest.mark.parametrize("arguments", list(train_commands()))
def test_commands_compose(arguments: str) -> None:
    line = read_command_line(shlex.split(arguments, comments=True))
    assert [make_job(job, line) for job in expand(line.ours)]


def test_a_wrong_command_would_be_found() -> None:
    with pytest.raises(UserError, match=r"unknown key 'head\.particles'"):
        compose({"agent": "smac", "head.particles": 4})


@pytest.mark.usefixtures("saved_examples")
def test_the_environment_of_the_readme_runs() -> None:
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


def anchors(document: Path) -> list[str]:
    """What GitHub calls the headings of a document; one that comes again gets a number."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        before = sum(re.fullmatch(rf"{re.escape(name)}(-\d+)?", other) is not None for other in found)
        found.append(f"{name}-{before}" if before else name)
    return found
