"""The replay's settings are read where torch is not needed."""

from __future__ import annotations

import subprocess
import sys

from worldrl.config import Config
from worldrl.data.settings import ReplayConfig


def test_a_run_has_the_settings_of_its_replay() -> None:
    assert Config().replay == ReplayConfig()


def test_settings_are_read_without_torch() -> None:
    code = "import sys, worldrl.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
