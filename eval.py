"""Evaluate a run: ``python eval.py RUN_DIR --episodes 10``, which is ``worldrl eval ...``; see ``--help``."""

from __future__ import annotations

import sys

from worldrl.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
