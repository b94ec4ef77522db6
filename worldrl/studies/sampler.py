"""How much of eq. 15's shift do samplers recover, and how often are their steps accepted?

In the policy's noise e, with u = mu + sigma e before tanh, and a value Q = w . u, p_s is exactly N(sigma w, I), so a
sampler must move the mean of the noise by sigma w, whose length is the tilt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldrl.estimators.hamiltonian import Chain, chain_noise, run_chains, usual_step
from worldrl.nn.functional import tanh_log_det
from worldrl.report.plots import COLOURS, MARKERS, PALE
from worldrl.studies.plots import picture

TILTS = (0.5, 1.0, 2.0, 4.0)
SIZES = (1, 2, 3, 6, 12, 24, 48)  # numbers in an action
STD, CHAINS = 0.37, 4_000
ACTIONS, TILT = 6, 1.0  # fixed while the other is varied
STEPS = 5


def slope(tilt: float, size: int) -> Tensor:
    """sigma w (A,): equal in all directions."""
    return torch.full((size,), tilt / size**0.5)


def whitened(shift: Tensor, step: float | None = None) -> Chain:
    """One chain of five steps in the noise, from a draw of the policy."""
    start = torch.randn(CHAINS, 1, len(shift))
    density = lambda e: (e * shift).sum(-1) - 0.5 * e.square().sum(-1)  # noqa: E731
    return run_chains(density, start, step or usual_step(len(shift)), chain_noise(start, STEPS))


def in_actions(shift: Tensor) -> Chain:
    """As released: in the space of actions, with tanh's Jacobian, 55 steps of length one from the data's action.

    Here that action is a draw of the policy. The result is in terms of the noise.
    """
    start = torch.tanh(STD * torch.randn(CHAINS, 1, len(shift)))

    def density(action: Tensor) -> Tensor:
        u = action.atanh()  # beyond one it is NaN, and the step is rejected
        e = u / STD
        return (e * shift).sum(-1) - 0.5 * e.square().sum(-1) - tanh_log_det(u).sum(-1)

    chain = run_chains(density, start, 1.0, chain_noise(start, 55))
    return chain._replace(state=chain.state.atanh() / STD)


def weighted(shift: Tensor, k: int) -> Tensor:
    """Self-normalised importance sampling: the mean noise (CHAINS, 1, A) of k draws, weighted by softmax Q."""
    e = torch.randn(k, CHAINS, 1, len(shift))
    weight = (e * shift).sum(-1, keepdim=True).softmax(0)
    return (weight * e).sum(0)


SAMPLERS: dict[str, Callable[[Tensor], Tensor]] = {
    "whitened HMC, 5 steps": lambda shift: whitened(shift).state,
    "SNIS, k = 50": lambda shift: weighted(shift, 50),
    "SNIS, k = 10": lambda shift: weighted(shift, 10),
    "SNIS, k = 5": lambda shift: weighted(shift, 5),
    "HMC in actions, 55 steps": lambda shift: in_actions(shift).state,
}

CHAIN_KINDS: dict[str, Callable[[Tensor], Chain]] = {
    "whitened, step min(1, (6 / A)^(1/4))": whitened,
    "whitened, step 1": lambda shift: whitened(shift, 1.0),
    "in actions, step 1": in_actions,
}


def recovered(noise: Tensor, shift: Tensor) -> float:
    """The mean noise along the shift, as a share of it."""
    return float((noise.flatten(0, -2).mean(0) @ shift) / shift.square().sum())


def study(seed: int = 1) -> tuple[dict[str, dict[float, float]], dict[str, dict[int, float]]]:
    """Recovered share by sampler and tilt, and mean acceptance by kind of chain and number of actions."""
    torch.manual_seed(seed)
    shares = {
        name: {tilt: recovered(sampler(slope(tilt, ACTIONS)), slope(tilt, ACTIONS)) for tilt in TILTS}
        for name, sampler in SAMPLERS.items()
    }
    accepted = {
        name: {size: float(chain(slope(TILT, size)).acceptance.mean()) for size in SIZES}
        for name, chain in CHAIN_KINDS.items()
    }
    return shares, accepted


def draw(path: Path, shares: Mapping[str, Mapping[float, float]], accepted: Mapping[str, Mapping[int, float]]) -> None:
    """Draw both tables side by side."""
    with picture(path, 2, 4.4) as (left, right):
        for i, (name, by_tilt) in enumerate(shares.items()):
            left.plot(list(by_tilt), list(by_tilt.values()), marker=MARKERS[i], color=COLOURS[i], label=name)
        for i, (name, by_size) in enumerate(accepted.items()):
            right.plot(list(by_size), list(by_size.values()), marker=MARKERS[i], color=COLOURS[i], label=name)
        for ax in (left, right):
            ax.set_xscale("log", base=2)
            ax.legend(
                frameon=False,
                fontsize="small",
                loc="upper center",
                bbox_to_anchor=(0.5, -0.3),
                ncols=2 if ax is left else 1,
            )
        left.axhline(1.0, color=PALE, linewidth=0.9, linestyle=":")
        left.set(xlabel="tilt |sigma dQ/du|", ylabel="share of the shift", title=f"{ACTIONS} numbers in an action")
        right.set(xlabel="numbers in an action", ylabel="acceptance", title=f"tilt {TILT:g}")
        left.set_xticks(TILTS, [f"{x:g}" for x in TILTS])
        right.set_xticks(SIZES, [str(x) for x in SIZES])


def run(options: Any, path: Path) -> dict[str, Any]:
    """Print, draw and return both tables."""
    shares, accepted = study()
    for title, table in (("share of the shift, by tilt", shares), ("acceptance, by numbers in an action", accepted)):
        print(title)
        for name, values in table.items():
            print(f"  {name:37s}" + "  ".join(f"{key:g}: {value:.3f}" for key, value in values.items()))
    draw(path, shares, accepted)
    return {"share": shares, "acceptance": accepted}
