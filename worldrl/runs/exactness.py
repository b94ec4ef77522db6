"""What an exact continuation needs in addition to a run's own state: torch's generators and the same machine."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping

import torch
from torch import Tensor

from worldrl.nn import products
from worldrl.nn.compiler import cpp_compiler

PACKAGES = ("torch", "numpy", "mujoco", "dm_control", "gymnasium")
PRODUCTS = "matrix products"  # in a fingerprint: a run resumes with the library that it began with


def rng_state(device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """The states of torch's default generators: the CPU's, and that of ``device`` if it is a GPU."""
    state = {"cpu": torch.get_rng_state()}
    if torch.device(device).type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: Mapping[str, Tensor], device: str | torch.device = "cpu") -> None:
    """Restore the result of ``rng_state``; a GPU's state is unchanged if there is none to restore."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def environment_fingerprint(gl: str = "", device: str | torch.device = "cpu", compiled: bool = False) -> dict[str, str]:
    """Everything outside the checkpoint that determines the last bits of a result.

    Args:
        gl: The renderer, as the rendering module names it.
        device: The agent's.
        compiled: Whether the C++ compiler has a part in it.
    """
    gpu = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "none"
    return {
        **{name: version_of(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu kernels": torch.backends.cpu.get_cpu_capability(),
        PRODUCTS: products.used(),
        "torch threads": str(torch.get_num_threads()),
        "gpu": gpu,
        "renderer": gl,
        **({"C++ compiler": cpp_compiler()} if compiled else {}),
    }


def compare_fingerprint(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """One line per difference; empty if the run can resume exactly."""
    names = [*old, *(name for name in new if name not in old)]
    return [
        f"exact continuation is not guaranteed: {name} {old.get(name, 'unknown')} -> {new.get(name, 'unknown')}"
        for name in names
        if old.get(name) != new.get(name)
    ]


def version_of(package: str) -> str:
    """The version of an installed package, or "none"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"
