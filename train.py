"""Train an agent, as ``worldrl train`` does: ``python train.py agent=smac task=walker_walk seed=1``; see ``--help``."""

from __future__ import annotations

import sys

from worldrl.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
