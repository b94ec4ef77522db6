"""Agents at their presets' sizes, and one update of each: its cost, and whether its forms agree."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from worldrl.agent import Agent
from worldrl.commands.bench.measuring import using
from worldrl.compose import compose
from worldrl.config import Config
from worldrl.data.settings import ReplayConfig
from worldrl.presets import preset_names
from worldrl.testing import random_batch, random_extra
from worldrl.training.speed import Update, make_update
from worldrl.types import Batch, EnvSpec, ObsSpec, box, choice

STATE_SPEC = EnvSpec("bench", {"state": ObsSpec((17,), "float32")}, box(6))
PIXEL_SPEC = EnvSpec("bench", {"pixels": ObsSpec((64, 64, 3), "uint8")}, box(6))
VARIANTS = {"value_sac": {"agent": "sac", "head": "value_sac"}}  # agents that are not presets
LARGE = ("smac", "latent_sac", "dreamer", "slac")  # what matters most is measured first
AGENTS = [*LARGE, *sorted({*preset_names("agent"), *VARIANTS} - set(LARGE))]
CHECKED_UPDATES = 2
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}  # on losses; relative, absolute below one

Losses = dict[str, float]


class Case(NamedTuple):
    """An agent at its preset's sizes, and its batch if its preset has one.

    ``cycle``: updates until the head's phases repeat; figures are means over them.
    """

    config: Config
    spec: EnvSpec
    batch: tuple[int, int] | None
    cycle: int


@functools.cache
def make_case(name: str, **settings: Any) -> Case:
    """The agent of a preset or of ``VARIANTS``, with other settings by their dotted keys."""
    config = compose({**VARIANTS.get(name, {"agent": name}), **settings})
    spec = STATE_SPEC if config.env.obs == "state" else PIXEL_SPEC
    if config.schedule.epsilon.start:  # its actions are choices
        spec = spec._replace(actions=choice(spec.action_dim))
    shape, usual = ((replay.batch, replay.length) for replay in (config.replay, ReplayConfig()))
    head = Agent(dataclasses.replace(config, device="cpu"), spec).head
    return Case(config, spec, None if shape == usual else shape, len({head.phase(n) for n in range(8)}))


class Mode(NamedTuple):
    """How the update runs, and in which precision."""

    speed: str
    precision: str

    def __str__(self) -> str:
        return f"{self.speed} {self.precision}"


REFERENCE = Mode("eager", "fp32")


def modes(device: torch.device) -> list[Mode]:
    """The forms on this device: first the reference, last the one that should be the fastest."""
    if device.type == "cuda":
        return [REFERENCE, Mode("eager", "bf16"), Mode("compile", "bf16"), Mode("capture", "bf16")]
    return [REFERENCE, Mode("compile", "fp32")]


def plain(device: torch.device) -> Mode:
    """The form for comparisons between agents, which needs no compiler."""
    return Mode("capture", "bf16") if device.type == "cuda" else REFERENCE


def make_agent(case: Case, mode: Mode, device: torch.device) -> Agent:
    """An agent with the same weights in every mode."""
    torch.manual_seed(0)
    config = dataclasses.replace(case.config, device=str(device), precision=mode.precision, speed=mode.speed)
    return Agent(config, case.spec)


def make_batch(spec: EnvSpec, batch: int, length: int, device: torch.device) -> Batch:
    """Random rows, the same on every device."""
    torch.manual_seed(1)
    return random_batch(spec, batch, length, device)


def repeated(agent: Agent, update: Update, batch: Batch, model_only: bool = False) -> Callable[[int], list[Any]]:
    """A function of n that makes n updates on this batch and returns their metrics."""
    torch.manual_seed(2)
    extra = random_extra(agent.head.needs, agent.spec, batch.reward.shape[1], agent.device, agent.model.lost_rows)
    return lambda n: [update(agent.next_phase(model_only), batch, extra) for _ in range(n)]


def cycle(case: Case, mode: Mode, batch: Batch, device: torch.device, model_only: bool = False) -> Callable[[], Any]:
    """A function that makes as many updates as the agent has phases, in this mode."""
    agent = make_agent(case, mode, device)
    return functools.partial(repeated(agent, make_update(agent, mode.speed), batch, model_only), case.cycle)


def first_losses(agent: Agent, update: Update, batch: Batch, n: int = CHECKED_UPDATES) -> list[Losses]:
    """The losses of the first updates, from a fixed seed."""
    records = repeated(agent, update, batch)(n)
    return [{name: float(x) for name, x in record.items() if name.startswith("loss/")} for record in records]


def largest_difference(losses: list[Losses], reference: list[Losses]) -> float:
    """The difference, relative, or absolute if the reference is below one; NaN counts as infinite."""
    found = [
        abs(value - expected[name]) / max(abs(expected[name]), 1.0)
        for record, expected in zip(losses, reference, strict=True)
        for name, value in record.items()
    ]
    return max(x if x == x else float("inf") for x in found)


def count_flops(case: Case, batch: Batch, device: torch.device, model_only: bool = False) -> int:
    """Arithmetic of the matrix products and convolutions of one eager update, as executed."""
    run = cycle(case, REFERENCE, batch, device, model_only)
    with using("torch"), FlopCounterMode(display=False) as counter:  # whose operators are known to the counter
        run()
    return int(counter.get_total_flops()) // case.cycle
