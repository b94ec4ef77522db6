"""Updates: every form of every agent, the cost of particles and imagination, and the growth of time with the sizes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from worldrl.commands.bench.cases import (
    TOLERANCE,
    Losses,
    Mode,
    count_flops,
    cycle,
    first_losses,
    largest_difference,
    make_agent,
    make_batch,
    make_case,
    modes,
    plain,
    repeated,
)
from worldrl.commands.bench.measuring import Bench, Job, Row, in_turns, milliseconds, threads, yardstick
from worldrl.training.speed import make_update
from worldrl.types import EnvSpec

PRECISION_UPDATES = 100
ACTED = (1, 8)  # environments
KINDS: dict[str, dict[str, Any]] = {  # of particles
    "history": {"belief.particles": "history"},
    "last_step": {"belief.particles": "last_step"},
    "history, in the critic too": {"belief.particles": "history", "head.critic_particles": True},
}
COSTS: dict[str, tuple[str, dict[str, Any], bool]] = {  # agent, settings, and whether only its model learns
    "model only": ("latent_sac", {}, True),
    "Dreamer": ("dreamer", {}, False),
    "SMAC, K=0": ("smac", {"head.num_particles": 0}, False),
    **{
        f"SMAC, K={k}, {kind}": ("smac", {"head.num_particles": k, **settings}, False)
        for k in (2, 8, 32)
        for kind, settings in KINDS.items()
    },
}
GROWING: dict[str, tuple[str, tuple[int, ...]]] = {  # of SMAC; B and T in quarters of the usual ones
    "K": ("head.num_particles", (4, 8, 16, 32)),
    "B": ("replay.batch", (1, 2, 4, 8)),
    "T": ("replay.length", (1, 2, 4, 8)),
    "depth": ("belief.depth", (8, 16, 32, 64)),
    "deter": ("belief.deter", (100, 200, 400, 800)),
}
GROWN_K = 8


def _shapes(bench: Bench, name: str) -> list[tuple[int, int]]:
    own = make_case(name).batch
    return [own] if own else list(bench.batches)


# --- every form, against the eager float32 update ---------------------------------------------------------------------


def updates(bench: Bench) -> Iterator[Job]:
    """Milliseconds, rate against a large matrix product, and the largest difference from the reference's losses."""
    for name in bench.agents:
        for b, t in _shapes(bench, name):
            for n in bench.threads:
                yield Job(f"{name} {b}x{t}, {n} threads", partial(_all_forms, bench, name, (b, t), n))


def _all_forms(bench: Bench, name: str, shape: tuple[int, int], n: int) -> list[Row]:
    with threads(n):
        case, device = make_case(name), bench.device
        data = make_batch(case.spec, *shape, device)
        flops, rows, reference = count_flops(case, data, device), list[Row](), list[Losses]()
        for mode in modes(device):
            torch.compiler.reset()  # otherwise earlier agents count against torch's limit of compilations
            agent = make_agent(case, mode, device)
            update = make_update(agent, mode.speed)
            losses = first_losses(agent, update, data)
            reference = reference or losses
            difference = largest_difference(losses, reference)
            run = partial(repeated(agent, update, data), case.cycle)
            ms = milliseconds(run, device, bench.repeats) / case.cycle
            library, peak = yardstick(device, mode.precision)
            rows.append(
                {
                    "agent": name,
                    "batch": f"{shape[0]}x{shape[1]}",
                    "threads": n,
                    "form": str(mode),
                    "ms": ms,
                    "GFLOP": flops / 1e9,
                    "GFLOP/s": flops / ms / 1e6,
                    "of the matmul": flops / ms / 1e6 / peak,
                    "matmul, GFLOP/s": peak,
                    "by": library,
                    "loss difference": difference,
                    "agrees": difference <= TOLERANCE[mode.precision],
                }
            )
        return rows


def precision(bench: Bench) -> Iterator[Job]:
    """The mean of each loss over many updates on one batch, in float32 and in bf16."""
    for name in bench.agents:
        yield Job(name, partial(_both_precisions, bench, name))


def _both_precisions(bench: Bench, name: str) -> list[Row]:
    case = make_case(name)
    data = make_batch(case.spec, *_shapes(bench, name)[0], bench.device)
    means = []
    for kind in ("fp32", "bf16"):
        agent = make_agent(case, Mode("eager", kind), bench.device)
        records = first_losses(agent, make_update(agent, "eager"), data, PRECISION_UPDATES)
        names = dict.fromkeys(key for record in records for key in record)
        means.append({key: float(np.mean([record[key] for record in records if key in record])) for key in names})
    fp32, bf16 = means
    return [
        {"agent": name, "updates": PRECISION_UPDATES, "loss": key, "fp32": fp32[key], "bf16": bf16[key]}
        | {"difference": largest_difference([{key: bf16[key]}], [fp32])}
        for key in fp32
    ]


# --- acting -----------------------------------------------------------------------------------------------------------


def acting(bench: Bench) -> Iterator[Job]:
    """Milliseconds from rows to actions on the host."""
    for name in bench.agents:
        yield Job(name, partial(_act, bench, name))


def _act(bench: Bench, name: str) -> list[Row]:
    case, rows = make_case(name), list[Row]()
    for speed in ("eager", *(["capture"] if bench.device.type == "cuda" else [])):
        agent = make_agent(case, Mode(speed, "fp32"), bench.device)
        make_update(agent, speed)
        for n in ACTED:
            act = partial(agent.act, agent.initial(n), random_rows(case.spec, n), explore=True)
            ms = milliseconds(act, torch.device("cpu"), 10 * bench.repeats)
            rows.append({"agent": name, "environments": n, "form": speed, "ms": ms})
    return rows


def random_rows(spec: EnvSpec, n: int) -> dict[str, np.ndarray]:
    """Rows as environments return them: observations, and the actions that led there."""
    data = make_batch(spec, 1, n, torch.device("cpu"))
    columns = {**data.obs, "action": data.action, "is_first": data.is_first}
    return {key: column[0].numpy() for key, column in columns.items()}


# --- the cost of heads, and its growth --------------------------------------------------------------------------------


def costs(bench: Bench) -> Iterator[Job]:
    """Time and arithmetic relative to Latent-SAC's, in turns with it: the model only, Dreamer, SMAC by particles."""
    for n in bench.threads:
        for what in COSTS:
            yield Job(f"{what}, {n} threads", partial(_against_latent_sac, bench, what, n))


def _against_latent_sac(bench: Bench, what: str, n: int) -> list[Row]:
    (name, settings, only), device, mode = COSTS[what], bench.device, plain(bench.device)
    case, base = make_case(name, **settings), make_case("latent_sac")
    data = make_batch(case.spec, *bench.batches[0], device)
    with threads(n):
        runs = {"it": cycle(case, mode, data, device, only), "base": cycle(base, mode, data, device)}
        ms, ratio = in_turns(runs, device, bench.repeats)  # all of these agents have one phase
    flops, usual = count_flops(case, data, device, only), count_flops(base, data, device)
    times = {"ms": ms["it"], "Latent-SAC, ms": ms["base"], "ratio of times": ratio["base"]}
    return [{"update": what, "threads": n, **times, "GFLOP": flops / 1e9, "ratio of GFLOP": flops / usual}]


def growth(bench: Bench) -> Iterator[Job]:
    """SMAC with one size at a time; the slope is that of a straight line through the logarithms."""
    for what in GROWING:
        yield Job(what, partial(_grow, bench, what))


def _grow(bench: Bench, what: str) -> list[Row]:
    rows = [_grown(bench, what, value) for value in GROWING[what][1]]
    x = np.log([row["value"] for row in rows])
    slope = {key: float(np.polyfit(x, np.log([row[key] for row in rows]), 1)[0]) for key in ("ms", "GFLOP")}
    return [*rows, {"size": what, "value": "slope", **slope}]


def _grown(bench: Bench, what: str, value: int) -> Row:
    (b, t), device, key = bench.batches[0], bench.device, GROWING[what][0]
    if what == "B":
        b = value = max(1, b * value // 4)
    elif what == "T":
        t = value = max(2, t * value // 4)
    sizes = {} if what in ("B", "T") else {key: value}
    case = make_case("smac", **{"head.num_particles": GROWN_K, **sizes})
    data = make_batch(case.spec, b, t, device)
    with threads(bench.threads[-1]):
        ms = milliseconds(cycle(case, plain(device), data, device), device, bench.repeats) / case.cycle
    return {"size": what, "value": value, "ms": ms, "GFLOP": count_flops(case, data, device) / 1e9}
