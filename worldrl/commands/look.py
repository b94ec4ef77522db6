"""What does a trained agent believe: ``worldrl look RUN_DIR``.

Four studies of a run's belief model, each with a picture and a JSON file: what it predicts, whether it notices bad
observations, how much of the simulator's state can be decoded from it, and what acting on all of it is worth.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from worldrl.acting.recording import Condition, Recorder, conditions
from worldrl.acting.video import check_video
from worldrl.agent import Agent
from worldrl.errors import UserError, check_out
from worldrl.runs.trained import CHECKPOINTS, check_playable, load_agent
from worldrl.studies.beliefs import doubt, many_paths, prediction, probe
from worldrl.terminal import Parser, add_allow, command, say, to_json, whole
from worldrl.trust import allow

Results = dict[str, Any]


class Settings(NamedTuple):
    """The settings of the command."""

    episodes: int
    rows: int
    seed: int
    context: int
    horizon: int
    particles: int
    out: Path


class Subject(NamedTuple):
    """The agent to study, and the settings."""

    agent: Agent
    recorder: Recorder
    by_kind: Mapping[str, Sequence[Condition]]
    settings: Settings


# --- the studies: each writes its pictures and returns its figures and a line that sums them up -----------------------


def study_prediction(subject: Subject) -> tuple[Results, str]:
    s = subject.settings
    if any(obs.dtype == "uint8" for obs in subject.agent.spec.obs.values()):
        check_video(s.out / "x.mp4")
    windows = prediction.cut_windows(subject.recorder.played(), s.context + s.horizon, count=50)
    found = prediction.predict(subject.agent, windows, s.context, s.seed)
    errors = prediction.errors(found, s.context)
    images = [key for key, obs in subject.agent.spec.obs.items() if obs.dtype == "uint8"]
    results: Results = {"context": s.context, "windows": len(windows.action), "errors": errors, "images": images}
    prediction.save_pictures(found, s.context, s.out)
    prediction.draw(results, s.out / "prediction.png")
    last = {key: (by_guess["open_loop"][-1], by_guess["mean"][-1]) for key, by_guess in errors.items()}
    said = [f"{key}: RMS error {x:.3f} after {s.horizon} rows, of the mean {y:.3f}" for key, (x, y) in last.items()]
    return results, ", ".join(said)


def study_noise(subject: Subject) -> tuple[Results, str]:
    results: Results = {"records": doubt.measure(subject.recorder, subject.by_kind)}
    doubt.draw(results, subject.settings.out / "noise.png")
    return results, _at_worst(results["records"], lambda r: f"change of entropy {r['entropy_change']:+.2f} nats")


def study_probe(subject: Subject) -> tuple[Results, str]:
    episodes = subject.settings.episodes
    results: Results = {"episodes": episodes, "records": probe.measure(subject.recorder, subject.by_kind)}
    probe.draw(results, subject.settings.out / "probe.png")
    (subject.settings.out / "probe.md").write_text(probe.table(results))
    return results, _at_worst(
        results["records"],
        lambda r: f"R squared {probe.told(r['trained_median'])}, untrained {probe.told(r['untrained_median'])}",
    ) + probe.doubt(episodes)


def study_marginal(subject: Subject) -> tuple[Results, str]:
    s = subject.settings
    records = many_paths.measure(subject.agent, subject.by_kind, s.episodes, s.seed, s.particles)
    results: Results = {"particles": s.particles, "records": records}
    many_paths.draw(results, s.out / "marginal.png")
    return results, _at_worst(records, lambda r: f"change of return {r['gain']:+.1f}{_interval(r['gain_interval'])}")


STUDIES: dict[str, Callable[[Subject], tuple[Results, str]]] = {
    "prediction": study_prediction,
    "noise": study_noise,
    "probe": study_probe,
    "marginal": study_marginal,
}


def _interval(half: float) -> str:
    return ", no interval of one episode" if math.isnan(half) else f" +- {half:.1f} (95 %)"


def _at_worst(records: Sequence[Results], say: Callable[[Results], str]) -> str:
    """A summary of the highest level of each kind."""
    worst = {record["kind"]: record for record in records}  # levels rise, so the highest one remains
    return "; ".join(f"{kind}@{record['level']:g}: {say(record)}" for kind, record in worst.items())


# --- the command ------------------------------------------------------------------------------------------------------


def run_studies(subject: Subject, names: Sequence[str], console: Console) -> list[str]:
    """Run studies one after the other; returns the names of those that agent or task do not allow.

    Raises:
        UserError: the error of a study, if it is the only one.
    """
    skipped = []
    for name in names:
        start = time.perf_counter()
        try:
            with console.status(f"{name} ..."):
                results, line = STUDIES[name](subject)
        except UserError as error:
            if len(names) == 1:
                raise
            skipped.append(name)
            console.print(f"{name}: skipped: {error}")
            continue
        path = subject.settings.out / f"{name}.json"
        path.write_text(to_json(results))
        console.print(f"{name}: {line} ({time.perf_counter() - start:.0f} s)")
    return skipped


def make_subject(options: argparse.Namespace) -> Subject:
    """Load the run and check the options.

    Raises:
        UserError: a bad run folder or corruption.
    """
    agent, config = load_agent(options.run_dir, options.checkpoint, options.device, say)
    check_playable(options.run_dir, config)
    by_kind = conditions(config, options.corruption, options.level, options.burst_length)
    values = {name: getattr(options, name) for name in Settings._fields}
    settings = Settings(**{**values, "out": options.out or options.run_dir / "inside"})
    check_out(settings.out)
    recorder = Recorder(agent, config, settings.seed, settings.episodes, settings.rows)
    return Subject(agent, recorder, by_kind, settings)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command."""
    parser = Parser(prog="worldrl look", description=(__doc__ or "").split("\n\n")[1])
    add = parser.add_argument
    add("run_dir", type=Path, metavar="RUN_DIR", help="a folder that train.py wrote")
    add("--study", choices=[*STUDIES, "all"], default="all", help="default all")
    add("--out", type=Path, metavar="DIR", help="output folder (default RUN_DIR/inside)")
    add("--corruption", nargs="+", default=["gaussian", "missing"], metavar="NAME", help="default gaussian missing")
    add("--level", nargs="+", type=float, default=[0.05, 0.2], help="levels in addition to 0 (default 0.05 0.2)")
    add(
        "--burst-length",
        type=whole(),
        metavar="ROWS",
        help="of bursts (default: the run's own, 10 if unset)",
    )
    add("--episodes", type=whole(), default=6, help="how many (default 6)")
    add("--rows", type=whole(0), default=0, help="cut recorded episodes after this many rows (default 0: whole)")
    add("--seed", type=whole(0), default=1000, help="of the episodes, not of the run (default 1000)")
    add("--context", type=whole(), default=5, help="observed rows before a prediction (default 5)")
    add("--horizon", type=whole(), default=45, help="predicted rows (default 45)")
    add("--particles", type=whole(), default=8, help="additional paths in the marginal study (default 8)")
    add("--checkpoint", choices=CHECKPOINTS, default="last", help="default last")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    add_allow(parser)
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parse_args(argv)
    allow(options.allow)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    subject = make_subject(options)
    names = list(STUDIES) if options.study == "all" else [options.study]
    if len(run_studies(subject, names, console)) == len(names):
        raise UserError("no study of this run was possible", fix="see above")
    console.print(f"in {subject.settings.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
