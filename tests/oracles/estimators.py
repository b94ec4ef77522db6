"""SMAC (arXiv 2210.00999), section 3.2: estimates of log pi(a | h) from log pi(a | s_0) .. log pi(a | s_K).

The action was drawn from s_0; the others are independent of it. Each function takes (K + 1, ...) and returns (...).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tests.oracles.plain import mean_in_logs

DECAY = 2.0**-1.5  # P(N >= l) = DECAY^l


def naive(logs: Tensor) -> Tensor:
    """Eq. 9: the mean logarithm."""
    return logs[1:].mean(0) if len(logs) > 1 else logs[0]


def iwae(logs: Tensor) -> Tensor:
    """The importance-weighted form of eq. 9."""
    return mean_in_logs(logs[1:]) if len(logs) > 1 else logs[0]


def nested(logs: Tensor) -> Tensor:
    """Eq. 11: the logarithm of the mean density over all K + 1."""
    return mean_in_logs(logs)


def together(s0: Tensor, draws: Tensor) -> Tensor:
    return nested(torch.cat([s0[None], draws]))


def mlmc(logs: Tensor) -> Tensor:
    """Eq. 12 as released: the levels share one set of draws, and level 0 averages over all of them."""
    s0, rest = logs[0], logs[1:]
    if len(rest) == 0:
        return s0
    level_0 = torch.stack([together(s0, one[None]) for one in rest]).mean(0)
    total, n = level_0, 2
    while n <= len(rest):
        first = level_0 if n == 2 else together(s0, rest[: n // 2])
        second = together(s0, rest[n // 2 : n])
        total = total + together(s0, rest[:n]) - (first + second) / 2
        n *= 2
    return total


def levels(logs: Tensor) -> list[Tensor]:
    """The antithetic differences of eq. 12, each level with 2^l draws of its own."""
    s0, rest, found, n = logs[0], logs[1:], [], 1
    while len(rest):
        draws, rest = rest[:n], rest[n:]
        coarse = (together(s0, draws[: n // 2]) + together(s0, draws[n // 2 :])) / 2 if n > 1 else 0.0
        found.append(together(s0, draws) - coarse)
        n *= 2
    return found


def mlmc_fresh(logs: Tensor) -> Tensor:
    """Eq. 12 as printed."""
    return torch.stack(levels(logs)).sum(0) if len(logs) > 1 else logs[0]


def roulette(logs: Tensor) -> Tensor:
    """Appendix B.3: each level counts with one over the probability that it is reached."""
    if len(logs) == 1:
        return logs[0]
    return torch.stack([difference / DECAY**level for level, difference in enumerate(levels(logs))]).sum(0)


ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {
    f.__name__: f for f in (naive, iwae, nested, mlmc, mlmc_fresh, roulette)
}


def draws(name: str, k: int) -> int:
    """Independent draws that an estimator takes at K = k."""
    return 2 * k - 1 if name == "mlmc_fresh" and k else k


def marginal_q(q: Tensor, aggregate: str = "lse", twins_first: bool = True) -> Tensor:
    """Eq. 14 for critics on particles, (n, P, ...) -> (...): log mean exp of Q, with the smaller twin first or last."""
    reduce = {"lse": mean_in_logs, "mean": lambda x: x.mean(0), "min": lambda x: x.min(0).values}[aggregate]
    if twins_first:
        return reduce(q.min(0).values)
    return torch.stack([reduce(one) for one in q]).min(0).values
