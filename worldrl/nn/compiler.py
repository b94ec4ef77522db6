"""torch's compiler, imported on demand: the import takes more than a second, and in some processes it is too late."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

from worldrl.errors import UserError

COMPILER, ITS_LLVM = "torch._dynamo", "triton"  # worldrl's own rendering loads the latter before it renders


def load_compiler(wanted_by: str) -> None:
    """Import it.

    Raises:
        UserError: software OpenGL has rendered in this process; its LLVM and the compiler's would crash it.
    """
    if ITS_LLVM not in sys.modules and _has_llvm():
        found = "a process in which software OpenGL has rendered"
        raise UserError(wanted_by, found, f"{ITS_LLVM} to be loaded before", f"begin with: import {ITS_LLVM}")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # "No CUDA runtime is found" is no news
    importlib.import_module(COMPILER)


@functools.cache
def cpp_compiler() -> str:
    """The C++ compiler that compiles for a CPU, with its version (``g++ (Debian 12.2.0) 12.2.0``); else empty."""
    path = shutil.which(os.environ.get("CXX", "c++"))
    if path is None:
        return ""
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.partition("\n")[0].strip()


def _has_llvm() -> bool:
    maps = Path("/proc/self/maps")
    return maps.is_file() and "libLLVM" in maps.read_text(encoding="utf-8", errors="replace")
