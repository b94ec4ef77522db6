"""World-model agents for continuous control.

``worldrl.train(config)`` trains an agent from Python as ``train.py`` does from the command line.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "train"]


def __getattr__(name: str) -> Any:
    if name == "train":  # on first use: environments' worker processes import this package without PyTorch
        from worldrl.cli import train

        return train
    raise AttributeError(f"module 'worldrl' has no attribute '{name}'")
