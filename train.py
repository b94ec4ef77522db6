"""Train an agent, as ``worldrl train`` does: ``python train.py agent=smac task=walker_walk seed=1``; see ``--help``."""

from __future__ import annotations

import sys

from worldrl.commands.train import train_main

if __name__ == "__main__":
    sys.exit(train_main(sys.argv[1:]))
