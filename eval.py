"""Evaluate a run: ``python eval.py RUN_DIR --episodes 10``, which is ``worldrl eval ...``; see ``--help``."""

from __future__ import annotations

import sys

from worldrl.commands.evaluate import eval_main

if __name__ == "__main__":
    sys.exit(eval_main(sys.argv[1:]))
