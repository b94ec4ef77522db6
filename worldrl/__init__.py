"""Agents with a belief: world models and heads, for continuous and discrete actions, from images, states or data.

``worldrl.train(agent="sac", task="cheetah_run")`` trains an agent from Python as ``worldrl train`` does from a shell;
``worldrl.load(run_dir)`` returns the policy that a run has learned.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldrl.commands.train import train
    from worldrl.runs.trained import load

__version__ = "0.2.0.dev0"
__all__ = ["__version__", "load", "train"]

_HOME = {"load": "runs.trained", "train": "commands.train"}


def __getattr__(name: str) -> Any:
    # On first use: environments' worker processes import this package without PyTorch.
    if name in _HOME:
        return getattr(importlib.import_module(f"worldrl.{_HOME[name]}"), name)
    raise AttributeError(f"module 'worldrl' has no attribute '{name}'")
