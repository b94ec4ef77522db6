"""The rules of docs/architecture.md, read from the source: imports, and what only one module may do."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from worldrl.presets import preset_names
from worldrl.registry import ALIASES, PARTS

ROOT = Path(__file__).resolve().parents[1] / "worldrl"

ORDER = (  # the rooms, lowest first: a module imports from its own room and from lower ones, without exception
    "errors",
    "files",
    "origin",
    "fields",
    "statistics",
    "terminal",
    "types",
    "nn",
    "estimators",
    "policies",
    "beliefs",
    "heads",
    "tabular",
    "registry",
    "data",
    "envs",
    "trust",
    "config",
    "presets",
    "agent",
    "size",
    "runs",
    "compose",
    "acting",
    "testing",
    "training",
    "report",
    "evaluation",
    "studies",
    "commands",
    "__init__",
    "__main__",
)
PURE = ("beliefs", "heads", "policies", "estimators")
SYNCHRONISES = {"item", "tolist", "numpy", "cpu", "cuda"}
FILES = {("torch", "save"), ("torch", "load"), ("np", "save"), ("np", "savez"), ("np", "load")}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


MODULES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))}


PACKAGES = {name.rpartition(".")[0] for name in MODULES}


def part_of(module: str) -> str:
    """``worldrl.heads.sac`` -> ``heads``."""
    return module.split(".")[1]


def imports(tree: ast.AST) -> set[str]:
    """Modules of this package that are imported anywhere in the tree, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            assert node.level == 0, "relative import"
            found.update(f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base for a in node.names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name.startswith("worldrl.")}


def texts(tree: ast.AST) -> Iterator[str]:
    """String constants that are not docstrings."""
    skipped = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.value


def compared_texts(tree: ast.AST) -> Iterator[str]:
    """String constants that something is compared with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            yield from texts(node)


def attributes(tree: ast.AST) -> set[str]:
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def file_calls(tree: ast.AST) -> set[tuple[str, str]]:
    pairs = {
        (n.value.id, n.attr) for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
    }
    return pairs & FILES


def pure_modules() -> list[str]:
    return [module for module in MODULES if part_of(module) in PURE]


def test_the_reader_sees_what_it_should() -> None:
    tree = ast.parse("""
def f():
    'MUJOCO_GL'
    from worldrl.envs import rendering, make_envs
    g('cuda' == x)
""")
    assert imports(tree) == {"worldrl.envs.rendering", "worldrl.envs"}
    assert list(texts(tree)) == list(compared_texts(tree)) == ["cuda"]
    assert file_calls(ast.parse("torch.save(x); y.load()")) == {("torch", "save")}
    assert "worldrl.heads.smac" in pure_modules()


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downward(module: str) -> None:
    part = part_of(module)
    assert part in ORDER, f"give {part} a place in ORDER and in docs/architecture.md"
    here = ORDER.index(part)
    assert not {name for name in imports(MODULES[module]) if name != module and ORDER.index(part_of(name)) > here}


@pytest.mark.parametrize("module", MODULES)
def test_of_the_package_itself_only_version_and_place_are_used(module: str) -> None:
    """``from worldrl import train`` would be an import from the highest room."""
    nodes = list(ast.walk(MODULES[module]))
    named = {a.name for n in nodes if isinstance(n, ast.ImportFrom) and n.module == "worldrl" for a in n.names}
    named = {name for name in named if f"worldrl.{name}" not in MODULES and f"worldrl.{name}" not in PACKAGES}
    read = {n.attr for n in nodes if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == "worldrl"}
    assert named | read <= {"__version__", "__file__"}


def test_the_documents_name_every_room_in_order() -> None:
    text = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == [room for room in ORDER if not room.startswith("__")]


def test_no_module_imports_itself_through_others() -> None:
    list(TopologicalSorter({module: imports(tree) for module, tree in MODULES.items()}).static_order())


def test_every_import_names_a_module() -> None:
    assert not {name for tree in MODULES.values() for name in imports(tree)} - set(MODULES)


def test_few_modules_read_and_write_the_formats_of_torch_and_numpy() -> None:
    found = {module for module, tree in MODULES.items() if file_calls(tree)}
    assert found == {"worldrl.runs.state", "worldrl.data.chunks", "worldrl.data.archives"}
    assert file_calls(MODULES["worldrl.data.chunks"]) == {("np", "savez"), ("np", "load")}
    assert file_calls(MODULES["worldrl.data.archives"]) == {("np", "load")}


def test_one_module_touches_the_opengl_variable() -> None:
    found = {module for module, tree in MODULES.items() if any("MUJOCO_GL" in text for text in texts(tree))}
    assert found == {"worldrl.envs.rendering"}


@pytest.mark.parametrize("module", pure_modules())
def test_learning_code_neither_synchronises_nor_names_a_device(module: str) -> None:
    assert not attributes(MODULES[module]) & SYNCHRONISES
    assert not [text for text in texts(MODULES[module]) if text == "cpu" or text.startswith("cuda")]


def test_only_the_registry_knows_algorithms_by_name() -> None:
    names = {*preset_names("agent"), *(name for table in (*PARTS.values(), *ALIASES.values()) for name in table)}
    found = {module for module, tree in MODULES.items() if names & set(compared_texts(tree))}
    assert found <= {"worldrl.registry"}
