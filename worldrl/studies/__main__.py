"""``worldrl studies STUDY``: a picture, and its numbers as JSON.

STUDY is ``bandit``, ``entropy [RUN_DIR...]``, ``variance [RUN_DIR]``, ``marginal RUN_DIR``, ``counterexample``,
``bounds``, ``sampler``, ``embedding RUN_DIR...``, ``grid``, ``theory``, ``tables``, ``dimensions`` or
``useless RUN_DIR...``.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from worldrl.errors import Diverged, UserError, check_out, new_file
from worldrl.policies.latent import LatentGaussian
from worldrl.studies import (
    action_prior,
    bandit,
    bounds,
    during_training,
    embedding,
    entropy,
    grid,
    plots,
    point_mass,
    sampler,
    tables,
    useless,
    variance,
)
from worldrl.studies.pools import run_actions, run_latents, run_pools
from worldrl.studies.theory import table
from worldrl.tabular.counterexample import threshold, wrong_action
from worldrl.terminal import Parser, add_allow, command, number, positive, to_json, whole
from worldrl.trust import allow

LATENT = "latent"
PARTICLES = (1, 2, 4, 8, 16, 32)


def _discount(text: str) -> float:
    if (gamma := positive(text)) > 1:
        raise argparse.ArgumentTypeError(f"found '{text}', expected a number above 0 and at most 1")
    return gamma


def _beta(text: str) -> float:
    if (beta := positive(text)) < grid.SMALLEST:
        raise argparse.ArgumentTypeError(
            f"found '{text}', expected {grid.SMALLEST} or more: others need too many rounds"
        )
    return beta


def _dimension(text: str) -> int:
    if not text.isdecimal() or int(text) not in point_mass.TASKS:
        raise argparse.ArgumentTypeError(f"found '{text}', expected one of {', '.join(map(str, point_mass.TASKS))}")
    return int(text)


def make_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = Parser(prog="worldrl studies", description="Small studies of estimators and policies.")
    studies = parser.add_subparsers(dest="study", required=True, parser_class=Parser)
    modes = studies.add_parser("bandit", help="which policies find all four best actions?")
    modes.add_argument("--policy", nargs="+", default=bandit.policies(), metavar="NAME", help="default: all")
    modes.add_argument("--seeds", type=whole(), default=10, metavar="N", help="default 10")
    entropies = studies.add_parser("entropy", help="estimates of the marginal entropy and its true value")
    entropies.add_argument("run_dirs", nargs="*", type=Path, metavar="RUN_DIR", help="default: train on the bandit")
    entropies.add_argument("--states", type=whole(), default=16, metavar="N", help="states of an episode (default 16)")
    entropies.add_argument(
        "--pool", type=whole(), metavar="N", help="latents for the truth (1e5, of a world model 2000)"
    )
    entropies.add_argument("--until", type=whole(), metavar="FRAMES", help="train the runs further, and measure them")
    entropies.add_argument("--every", type=whole(), default=2_500, metavar="FRAMES", help="with --until (default 2500)")
    noises = studies.add_parser("variance", help="noise of the entropy estimate and of its gradient")
    noises.add_argument("run_dir", nargs="?", type=Path, metavar="RUN_DIR", help="default: train on the bandit")
    noises.add_argument("--repeats", type=whole(2), default=100, metavar="N", help="gradients (default 100)")
    for each in (modes, entropies, noises):
        each.add_argument(
            "--steps", type=whole(), default=1500, metavar="N", help="updates on the bandit (default 1500)"
        )
    learned = studies.add_parser("marginal", help="MIRACLE's marginal policy compared with the agent's actions")
    learned.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    learned.add_argument("--actions", type=whole(), default=5_000, metavar="N", help="of the agent (default 5000)")
    wrong = studies.add_parser("counterexample", help="how often is maximum entropy, or VIREL, wrong?")
    wrong.add_argument("--k", type=whole(2), nargs="+", default=[10, 100], help="worthless actions (default 10 100)")
    wrong.add_argument("--gamma", type=_discount, default=0.99, help="discount (default 0.99)")
    order = studies.add_parser("bounds", help="theorem 4.1 of MISA on random finite processes")
    order.add_argument("--processes", type=whole(), default=2_000, metavar="N", help="default 2000")
    chains = studies.add_parser("sampler", help="how well MISA's samplers follow Q")
    layers = studies.add_parser("embedding", help="does a critic's last layer tell rewards apart?")
    layers.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR")
    layers.add_argument(
        "--pairs", type=whole(50), default=2_000, metavar="N", help="of state and action (default 2000)"
    )
    cells = studies.add_parser("grid", help="MIRACLE's figure 1: soft and mutual-information values of a grid world")
    cells.add_argument("--beta", type=_beta, nargs="+", default=list(grid.BETAS), help="inverse temperatures")
    cells.add_argument("--goal", type=number, default=9.0, help="reward of the step onto the goal, 9 or 8 (default 9)")
    claims = studies.add_parser("theory", help="what is printed in three papers, and what holds")
    claims.add_argument("--problems", type=whole(), default=20, metavar="N", help="random problems (default 20)")
    deep = studies.add_parser("tables", help="deep agents and exact tables, on a grid world and the counterexample")
    deep.add_argument("--size", type=int, choices=list(tables.GRIDS), default=16, help="cells on a side (default 16)")
    deep.add_argument("--beta", type=positive, default=1.0, help="inverse temperature on the grid (default 1)")
    deep.add_argument("--seeds", type=whole(), default=3, metavar="N", help="default 3")
    deep.add_argument(
        "--frames", type=whole(tables.LEAST), default=6_000, metavar="N", help="on the grid (default 6000)"
    )
    points = studies.add_parser("dimensions", help="regret of SAC and VIREL on a point mass of 1 to 64 dimensions")
    points.add_argument("--dims", type=_dimension, nargs="+", default=list(point_mass.TASKS), help="of 1 4 16 64 (all)")
    points.add_argument("--seeds", type=whole(), default=5, metavar="N", help="default 5")
    points.add_argument("--frames", type=whole(502), default=5_000, metavar="N", help="of each run (default 5000)")
    wasted = studies.add_parser("useless", help="frames to a good return, by the number of useless actions")
    wasted.add_argument(
        "run_dirs", nargs="+", type=Path, metavar="RUN_DIR", help="run folders, or folders with runs at any depth"
    )
    for each in (modes, entropies, noises, learned, wrong, order, chains, layers, cells, claims, deep, points, wasted):
        each.add_argument("--out", type=Path, default=Path("studies"), metavar="FOLDER", help="default studies")
    for each in (entropies, noises, learned, layers):
        add_allow(each)
    return parser


def run_bandit(options: argparse.Namespace, picture: Path) -> dict[str, Any]:
    """Train each policy on the bandit with seeds 1..N and count the modes that it found."""
    samples, found = {}, {}
    if choices := [name for name in options.policy if not bandit.takes_box(name)]:
        raise UserError("--policy", f"{choices[0]}, a policy of choices", f"any of {', '.join(bandit.policies())}")
    for name in options.policy:
        policies = [bandit.trained(name, seed, options.steps) for seed in range(1, options.seeds + 1)]
        each = [bandit.actions(policy, 4000) for policy in policies]
        samples[name], found[name] = each[0], [bandit.modes_found(action) for action in each]
        print(f"{name:8s} modes found, by seed: {' '.join(map(str, found[name]))}")
    plots.draw_bandit(picture, samples, found)
    return {"modes_found": found}


def run_entropy(options: argparse.Namespace, picture: Path) -> dict[str, Any]:
    """Estimates along the training on the bandit, or in the states of trained agents."""
    if options.until and not options.run_dirs:
        raise UserError("--until", "no RUN_DIR", "one or more, which are trained further")
    if not options.run_dirs:
        curves = {name: training_curve(name, options.steps) for name in entropy.COMPARED}
        for name, curve in curves.items():
            print(f"{name:8s} last estimate {curve['estimate'][-1]:.4g}, truth {curve['truth'][-1]:.4g}")
        plots.draw_training(picture, curves)
        return {"training": curves}
    if options.until:
        return along_training(options, picture)
    runs = {
        str(run): entropy.study(run_pools(run, options.states, options.pool), PARTICLES) for run in options.run_dirs
    }
    for name, (truth, estimates) in runs.items():
        print(f"{name}: truth {truth.lower:.4g} to {truth.upper:.4g} nats")
        for estimator, values in estimates.items():
            print(f"  {estimator:8s}" + "  ".join(f"K={k}: {value:.4g}" for k, value in values.items()))
    plots.draw_estimates(picture, runs)
    return {run: {"truth": truth._asdict(), "estimates": estimates} for run, (truth, estimates) in runs.items()}


def along_training(options: argparse.Namespace, picture: Path) -> dict[str, Any]:
    """Train each run further and measure its agent on the way; files are written after every measurement."""
    look = during_training.Look(options.until, options.every, options.states, options.pool, PARTICLES[-1])
    runs = during_training.known_runs(_numbers(options), {key: str(vars(options)[key]) for key in ("states", "pool")})
    names = {Path(name).resolve(): name for name in runs}  # one run has one name, however its folder is spelled
    for run, label in during_training.labels(options.run_dirs).items():
        name = names.setdefault(run.resolve(), str(run))
        runs[name] = {"label": label, "points": runs[name]["points"] if name in runs else [], "diverged": None}
    for run in options.run_dirs:
        found = runs[names[run.resolve()]]
        try:
            for point in look.extend(run, found["points"]):
                plots.draw_along(picture, runs)
                write_numbers(options, {"runs": runs})
                values = {key: value for key, value in point.items() if key != "frames"}
                print(f"{found['label']}, {point['frames']:,.0f} frames: {_named(values)}")
        except Diverged as error:
            found["diverged"] = str(error)
            write_numbers(options, {"runs": runs})
            print(f"{found['label']}: diverged, its curve ends here: {error}")
    plots.draw_along(picture, runs)
    return {"runs": runs}


def training_curve(estimator: str, steps: int) -> dict[str, list[float]]:
    """A latent-variable policy that maximises this estimate of its entropy on the bandit, with its true entropy."""
    torch.manual_seed(1)
    every = max(1, steps // 30)
    policy = cast("LatentGaussian", bandit.make_policy(LATENT, estimator=estimator, num_particles=32))
    curve: dict[str, list[float]] = {"step": [], "estimate": [], "truth": []}
    for step, value in enumerate(bandit.train(policy, steps), start=1):
        if step % every == 0:
            truth, _ = entropy.study([entropy.latent_pool(policy, bandit.state(1)[0], 10_000)], [1], n=128)
            for key, x in (("step", float(step)), ("estimate", value), ("truth", truth.lower)):
                curve[key].append(x)
    return curve


def run_variance(options: argparse.Namespace, picture: Path) -> dict[str, Any]:
    """The noise of each estimator for a latent-variable policy: a run's, or one that was trained on the bandit."""
    if options.run_dir:
        policy, x = run_latents(options.run_dir, 64)
        torch.manual_seed(1)
    else:
        policy, x = cast("LatentGaussian", bandit.trained(LATENT, 1, options.steps)), bandit.state(64)
    noises = {
        name: {k: variance.noise(policy, x, name, k, options.repeats) for k in PARTICLES} for name in variance.COMPARED
    }
    for name, values in noises.items():
        for k, (value, std, gradient, error, draws) in values.items():
            told = f"{gradient:.3f} ± " + ("?" if math.isnan(error) else f"{error:.3f}")
            noise = f"not resolved by {options.repeats} repeats" if math.isnan(gradient) else told
            print(f"{name:10s} K={k:<3d} draws={draws:<3d} entropy {value:.3f}  std {std:.3f}  gradient {noise}")
    plots.draw_noise(picture, noises)
    return {name: {k: noise._asdict() for k, noise in values.items()} for name, values in noises.items()}


def run_marginal(options: argparse.Namespace, picture: Path) -> dict[str, Any]:
    """How well MIRACLE's marginal policy describes the agent's actions."""
    policy, action = run_actions(options.run_dir, options.actions)
    torch.manual_seed(1)
    fit = action_prior.fit(policy, action)
    print(f"mean log-density of {len(action)} actions, nats: " + _named(fit._asdict()))
    with torch.no_grad():
        plots.draw_marginal(picture, action.cpu(), policy.sample(len(action)).cpu())
    return {"fit": fit._asdict()}


def run_counterexample(options: argparse.Namespace, picture: Path) -> dict[str, Any]:
    """The probability of the wrong action at each temperature: maximum entropy in two ways, and VIREL."""
    temperatures = [0.05 * 1.1**i for i in range(50)]
    curves = {k: wrong_action(k, options.gamma, temperatures) for k in options.k}
    for k, curve in curves.items():
        limit = threshold(k, options.gamma)
        print(f"k={k}: the mode of maximum entropy is wrong above temperature {limit:.4f}; p(wrong action):")
        for i in range(0, len(temperatures), 7):
            print(
                f"  temperature {temperatures[i]:<8.3g}" + _named({name: p[i] for name, p in curve._asdict().items()})
            )
    plots.draw_counterexample(picture, temperatures, curves, options.gamma)
    wrong = {str(k): {"threshold": threshold(k, options.gamma), **curve._asdict()} for k, curve in curves.items()}
    return {"temperatures": temperatures, "wrong_action": wrong}


def run_embedding(options: argparse.Namespace, picture: Path) -> dict[str, Any]:
    """The critics of trained agents on the rows that they learned from."""
    labels = during_training.labels(options.run_dirs)
    return embedding.run(options, picture, [labels[run] for run in options.run_dirs])


def run_grid(options: argparse.Namespace, picture: Path) -> dict[str, Any]:
    """Mean values at each inverse temperature: converged, and stopped where the paper stops."""
    found, ends = grid.study(options.goal, options.beta)
    print("limits: " + _named(ends._asdict()))
    for i, beta in enumerate(options.beta):
        values = {name: row[i] for name, row in found._asdict().items() if name != "prior"}
        print(f"beta {beta:<6g} " + _named(values) + "  prior " + " ".join(f"{x:.3f}" for x in found.prior[i]))
    grid.draw(picture, options.beta, found, ends)
    return {"limits": ends._asdict(), "means": found._asdict()}


def run_theory(options: argparse.Namespace, picture: Path) -> dict[str, Any]:
    """One line per statement: its verdict, the largest errors of the printed form and of what holds, and both forms."""
    found = table.results(options.problems)
    for result in found:
        print(table.line(result))
    print(table.summary(found))
    table.draw(picture, found)
    return {"statements": [table.record(result) for result in found]}


def run_tables(options: argparse.Namespace, picture: Path) -> dict[str, Any]:
    """Train every agent, with a line at the end of each training; the files are updated after each agent."""
    found: list[tables.Point] = []
    for agent in tables.study(options.size, options.beta, options.seeds, options.frames):
        found.extend(agent)
        task, name, seed, frames, distances = found[-1]
        print(f"{task}, {name}, seed {seed}, {frames:,} frames: " + _named(distances), flush=True)
        tables.draw(picture, found)
        tables.write_csv(picture.with_suffix(".csv"), found)
    return {"points": [point._asdict() for point in found]}


def run_dimensions(options: argparse.Namespace, picture: Path) -> dict[str, Any]:
    """Train every agent on every point mass; the numbers are updated after each run."""
    found = point_mass.known_regrets(_numbers(options), options.frames)
    made = {"with": point_mass.settings(), "regret": found}
    for agent, dimensions, seed in point_mass.regrets(options.dims, options.seeds, options.frames, found):
        print(f"{agent}, {dimensions} dimensions, seed {seed}: regret {found[agent][dimensions][-1]:.3f}", flush=True)
        write_numbers(options, made)
    point_mass.draw(picture, point_mass.chosen(found, options.dims, options.seeds))
    return made


def _named(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


def _picture(options: argparse.Namespace) -> Path:
    """A study that trains runs further has files of its own, because its numbers cannot be made again."""
    return options.out / f"{options.study}{'_training' * bool(getattr(options, 'until', None))}.png"


def _numbers(options: argparse.Namespace) -> Path:
    return _picture(options).with_suffix(".json")


def write_numbers(options: argparse.Namespace, result: Mapping[str, Any]) -> None:
    """Write the results of a study, with its settings and the machine, in place of an existing file."""
    settings = {key: [*map(str, x)] if isinstance(x, list) else str(x) for key, x in vars(options).items()}
    machine = {"machine": platform.machine(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    path = _numbers(options)
    with new_file(path, "choose another folder with --out") as partial:
        partial.write_text(to_json({"settings": settings, "on": machine, **result}))


STUDIES = {
    "bandit": run_bandit,
    "entropy": run_entropy,
    "variance": run_variance,
    "marginal": run_marginal,
    "counterexample": run_counterexample,
    "bounds": bounds.run,
    "sampler": sampler.run,
    "embedding": run_embedding,
    "grid": run_grid,
    "theory": run_theory,
    "tables": run_tables,
    "dimensions": run_dimensions,
    "useless": useless.run,
}


@command
def main(argv: Sequence[str] | None = None) -> int:
    """All of ``worldrl studies``. Returns the exit code."""
    options = make_parser().parse_args(argv)
    allow(getattr(options, "allow", ()))
    check_out(options.out)
    picture = _picture(options)
    write_numbers(options, STUDIES[options.study](options, picture))
    written = (picture, *(picture.with_name(picture.stem + end) for end in (".csv", "_runs.csv")), _numbers(options))
    print("written: " + ", ".join(str(file) for file in written if file.exists()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
