"""Theorem 4.1 of MISA on finite processes: I >= MISA >= DV >= f for every policy and energy, and the gaps.

The three gaps have closed forms, with E = E_p(s) Z(s) and pi* = pi exp(T) / Z:

    I - MISA = E_p(s) KL(p(. | s) || pi*),   MISA - DV = KL(p || p Z / E),   DV - f = E / e - 1 - log(E / e)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from worldrl.estimators.mutual_information import NORMALISERS, Bounds, bounds, log_partition
from worldrl.report.plots import COLOURS, INK, PALE
from worldrl.studies.plots import picture


class Process(NamedTuple):
    """A finite p(s, a), a policy and an energy, float64."""

    joint: Tensor  # (S, A)
    policy: Tensor  # (S, A)
    energy: Tensor  # (S, A)


KNOWN = Process(
    torch.tensor([[0.45, 0.05], [0.1, 0.4]], dtype=torch.float64),
    torch.full((2, 2), 0.5, dtype=torch.float64),
    torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64),
)


class Claim(NamedTuple):
    """An inequality on many processes, nats."""

    least: float  # the least difference of left and right side
    mean: float
    broken: int  # the number of processes in which it is negative
    error: float | None  # largest distance from the closed form, if there is one


def random_process(rng: torch.Generator, states: int, actions: int) -> Process:
    """p(s, a) and pi uniform over all such, T normal with standard deviation two."""
    draws = torch.rand(2, states, actions, generator=rng, dtype=torch.float64).log().neg()
    energy = 2.0 * torch.randn(states, actions, generator=rng, dtype=torch.float64)
    return Process(draws[0] / draws[0].sum(), draws[1] / draws[1].sum(1, keepdim=True), energy)


def closed_forms(process: Process) -> tuple[Tensor, Tensor, Tensor]:
    """The three gaps, 0-d."""
    joint, policy, energy = process
    p, log_z = joint.sum(1), log_partition(energy, policy.log(), dim=1)
    improved = policy.log() + energy - log_z[:, None]
    log_mean = (p.log() + log_z).logsumexp(0)
    first = (joint * ((joint / p[:, None]).log() - improved)).sum()
    return first, (p * (log_mean - log_z)).sum(), (log_mean - 1).exp() - log_mean


def claims(n: int, states: int = 4, actions: int = 3, seed: int = 1) -> dict[str, Claim]:
    """The theorem's inequalities on ``n`` random processes; and BA <= f, which holds only for the best energies."""
    rng = torch.Generator().manual_seed(seed)
    processes = [random_process(rng, states, actions) for _ in range(n)]
    found = [bounds(*process) for process in processes]
    forms = torch.stack([torch.stack(closed_forms(process)) for process in processes])
    table = torch.tensor([[float(x) for x in each] for each in found], dtype=torch.float64)
    i, misa, dv, f, ba = table.unbind(1)
    return {
        "I >= MISA": _claim(i - misa, forms[:, 0]),
        "MISA >= DV": _claim(misa - dv, forms[:, 1]),
        "DV >= f": _claim(dv - f, forms[:, 2]),
        "f >= BA": _claim(f - ba),
    }


def _claim(gap: Tensor, form: Tensor | None = None) -> Claim:
    error = None if form is None else float((gap - form).abs().max())
    return Claim(float(gap.min()), float(gap.mean()), int((gap < 0).sum()), error)


def best_energy(process: Process) -> Tensor:
    """T* + 1 = log p(a | s) / pi(a | s) + 1, which makes all three bounds tight; a constant matters only to f."""
    joint, policy, _ = process
    return (joint / joint.sum(1, keepdim=True) / policy).log() + 1.0


def curves(process: Process) -> dict[str, tuple[Tensor, list[Bounds]]]:
    """The bounds near the best energy: with multiples of T*, and with an offset in one of the states."""
    best, offset = best_energy(process) - 1.0, torch.zeros_like(process.energy)
    offset[0] = 1.0
    scales, shifts = torch.linspace(0.0, 2.0, 81).double(), torch.linspace(-2.0, 2.0, 81).double()
    return {
        "x T* + 1": (scales, [bounds(*process[:2], x * best + 1.0) for x in scales]),
        "T* + 1, and x in one state": (shifts, [bounds(*process[:2], best + 1.0 + x * offset) for x in shifts]),
    }


def draw(path: Path, process: Process) -> None:
    """Both curves, a panel each."""
    names = {"information": "I(S; A)", "misa": "MISA", "dv": "DV", "f": "f", "ba": "BA"}
    found = curves(process)
    with picture(path, len(found), 3.8) as axes:
        for ax, (energy, (x, values)) in zip(axes, found.items(), strict=True):
            for i, (name, label) in enumerate(names.items()):
                style, colour = ("-", COLOURS[i - 1]) if name in NORMALISERS else ("--", INK if i == 0 else PALE)
                ax.plot(x, [float(getattr(each, name)) for each in values], style, color=colour, label=label)
            ax.set(xlabel="x", title=f"energy {energy}")
        axes[0].set_ylabel("nats")
        axes[-1].legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))


def run(options: Any, path: Path) -> dict[str, Any]:
    """The table of ``claims``, and the known case."""
    found, known = claims(options.processes), {name: float(x) for name, x in bounds(*KNOWN)._asdict().items()}
    print(f"{options.processes} random processes of 4 states and 3 actions, nats:")
    for name, claim in found.items():
        told = "" if claim.error is None else f", at most {claim.error:.1e} from its closed form"
        print(f"  {name:11s} broken {claim.broken} times, least {claim.least:.3g}, mean {claim.mean:.3g}{told}")
    print("known case: " + "  ".join(f"{name} {value:.6f}" for name, value in known.items()))
    draw(path, KNOWN)
    return {"claims": {name: claim._asdict() for name, claim in found.items()}, "known": known}
