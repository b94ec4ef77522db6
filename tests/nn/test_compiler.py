"""The compiler is imported when it is wanted, and not where that would end the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from worldrl.errors import UserError
from worldrl.nn import compiler


def test_a_process_that_has_drawn_is_refused_and_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_has_llvm", lambda: True)
    monkeypatch.setattr(compiler, "ITS_LLVM", "no.such.module")
    with pytest.raises(UserError) as refused:
        compiler.load_compiler("export")
    assert refused.value.where == "export"
    assert refused.value.fix.endswith("import no.such.module")


def test_nothing_that_trains_plays_or_reads_settings_imports_the_compiler() -> None:
    names = "commands.train", "commands.evaluate", "report.__main__", "runs.trained", "training.loop"
    imports = "; ".join(f"import worldrl.{name}" for name in names)
    code = f"import sys; {imports}; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
