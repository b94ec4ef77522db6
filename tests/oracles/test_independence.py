"""An oracle that used the package would agree with it whatever it does."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ORACLES = sorted(
    path for path in HERE.glob("*.py") if not path.name.startswith("test_") and path.stem != "side_by_side"
)


@pytest.mark.parametrize("path", ORACLES, ids=lambda path: path.name)
def test_oracles_import_nothing_of_the_package(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any(name.split(".")[0] == "worldrl" or name.startswith("tests.oracles.side") for name in names)
