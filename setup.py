"""The build step that pyproject.toml cannot say: a wheel has the presets of ``configs/`` inside the package."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithPresets(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # an editable install reads the clone's own files
            shutil.copytree("configs", Path(self.build_lib, "worldrl", "configs"), dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithPresets})
