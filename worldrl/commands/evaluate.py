"""``worldrl eval``: evaluate one run folder in its own environment, over a grid of corruptions, or on recorded rows."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldrl.errors import UserError
from worldrl.runs.settings import load_config
from worldrl.terminal import Parser, add_allow, command, number, whole
from worldrl.trust import allow

PLAIN_ONLY = {"seed": "--seed", "json_path": "--json", "target_return": "--target-return"}
PLAY_ONLY = {"episodes": "--episodes", "video": "--video", "target_return": "--target-return"}
FIT_ONLY = {"updates": "--updates", "gamma": "--gamma"}
GRID_ONLY = {
    "levels": "--level",
    "seeds": "--seeds",
    "num_envs": "--envs",
    "groups": "--groups",
    "out": "--out",
    "known_dropout": "--known-dropout",
}


@command
def eval_main(argv: Sequence[str]) -> int:
    """All of ``worldrl eval``: evaluate one run folder. Returns the exit code."""
    options = vars(_eval_parser().parse_args(argv))
    allow(options.pop("allow"))
    load_config(options["run_dir"])
    if "data" in options:
        _evaluate_on_data(options)
    elif "corruptions" in options:
        _evaluate_grid(options)
    else:
        _evaluate(options)
    return 0


def _evaluate(options: dict[str, Any]) -> None:
    from worldrl.evaluation.evaluate import evaluate_run, told

    _refuse_options(options, GRID_ONLY, "--corruption with it, for a grid")
    _refuse_options(options, FIT_ONLY, "--fqe with it")
    if options.get("video") is True:
        raise UserError("--video", "no PATH", "the path of a file, such as episode.mp4")
    print(told(evaluate_run(**options)))


def _evaluate_on_data(options: dict[str, Any]) -> None:
    from worldrl.evaluation.fitted_q import Fit, evaluate_on_data, told_of_data

    refused = {**PLAY_ONLY, **GRID_ONLY, "corruptions": "--corruption"}
    _refuse_options(options, refused, "no --fqe with it, which plays no episodes")
    fit = Fit(**{name: options.pop(name) for name in FIT_ONLY if name in options})
    print(told_of_data(evaluate_on_data(fit=fit, **options)))


def _evaluate_grid(options: dict[str, Any]) -> None:
    from worldrl.evaluation.robustness import evaluate_grid

    _refuse_options(options, FIT_ONLY, "--fqe with it")
    _refuse_options(options, PLAIN_ONLY, "no --corruption with it: a grid takes --seeds, and --out for all files")
    if options.get("video", True) is not True:
        raise UserError("--video", "a PATH", "none with --corruption: videos go to --out, with the other files")
    evaluate_grid(**options)


def _refuse_options(options: Mapping[str, Any], refused: Mapping[str, str], expected: str) -> None:
    for name in options:
        if name in refused:
            raise UserError(refused[name], expected=expected)


def _eval_parser() -> argparse.ArgumentParser:
    """Options that are not given are not in the result, so the functions that take them have the defaults."""
    parser = Parser(
        prog="worldrl eval",
        description="Evaluate a trained agent over fresh seeded episodes, or with --corruption over a grid of noise.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("run_dir", type=Path, metavar="RUN_DIR", help="a folder that train.py wrote")
    add("--episodes", type=whole(), help="number of episodes, for each seed and cell of a grid (default 10)")
    add("--seed", type=whole(0), help="of the episodes, not of the run (default 1000)")
    add("--checkpoint", choices=("last", "best"), help="default last")
    add("--sample", action="store_true", dest="explore", help="sample the policy; without it, its mode")
    add("--target-return", type=number, metavar="R", help="the return to ask for (default env.target_return)")
    add("--video", nargs="?", type=Path, const=True, metavar="PATH", help="write the first episode here")
    add("--device", help="auto, cpu, cuda or cuda:N (default auto)")
    add("--json", type=Path, dest="json_path", metavar="PATH", help="write the numbers here")
    add_allow(parser)
    fitted = parser.add_argument_group("fitted Q evaluation", "On recorded rows, without an environment: docs/data.md")
    add = fitted.add_argument
    add("--fqe", nargs="?", type=Path, const=None, dest="data", metavar="PATH", help="its data (default the run's)")
    add("--updates", type=whole(2), metavar="N", help="updates of the critic (default 20000)")
    add("--gamma", type=_discount, metavar="X", help="discount (default 0.99)")
    grid = parser.add_argument_group("robustness grid", "Every kind at every level, and clean: docs/robustness.md")
    add = grid.add_argument
    add("--corruption", nargs="+", dest="corruptions", metavar="KIND", help="gaussian, missing, ... (see the page)")
    add("--level", nargs="+", type=float, dest="levels", metavar="X", help="levels, larger is worse; clean is included")
    add("--seeds", nargs="+", type=whole(0), metavar="N", help="of the episodes (default 1000)")
    add("--groups", nargs="+", metavar="NAME", help="corrupt these sensors only, such as velocity (default all)")
    add("--envs", type=whole(), dest="num_envs", metavar="N", help="environments side by side (default 8)")
    add("--known-dropout", action="store_true", help="tell the belief which readings are lost: it predicts them")
    add("--out", type=Path, metavar="DIR", help="for table, plot and videos (default RUN_DIR/robustness)")
    return parser


def _discount(text: str) -> float:
    value = number(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"found '{text}', expected a discount from 0 to 1")
    return value
