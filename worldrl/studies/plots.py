"""The pictures of the studies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from worldrl.evaluation.plots import COLOURS, INK, MARKERS, PANEL, STYLE
from worldrl.studies.bandit import CENTRES, NEAR
from worldrl.studies.entropy import Truth
from worldrl.studies.variance import Noise


@contextmanager
def picture(path: Path, panels: int, width: float = PANEL[0]) -> Iterator[Any]:
    """A row of axes, (panels,), that is written to ``path`` at the end."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(width * panels, PANEL[1] + 0.4), layout="constrained", dpi=200)
        yield figure.subplots(1, panels, squeeze=False)[0]
        figure.savefig(path)


def draw_bandit(path: Path, samples: Mapping[str, Tensor], found: Mapping[str, Sequence[int]]) -> None:
    """Per policy the actions (N, 2) of its first seed; the title says how many of the four modes each seed found."""
    from matplotlib.patches import Circle

    with picture(path, len(samples), 2.6) as axes:
        for i, (ax, (name, action)) in enumerate(zip(axes, samples.items(), strict=True)):
            ax.plot(*np.asarray(action).T, ".", markersize=1.5, color=COLOURS[i % len(COLOURS)], alpha=0.4)
            for centre in CENTRES:
                ax.add_patch(Circle(centre, NEAR, fill=False, color=INK, linewidth=0.6))
            ax.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal")
            ax.set_title(f"{name}\n{np.mean(found[name]):.1f} of 4 modes ({len(found[name])} seeds)", fontsize=9)


def draw_estimates(
    path: Path, runs: Mapping[str, tuple[Truth, Mapping[str, Mapping[int, float]]]], limit: float = 3.0
) -> None:
    """Per run the estimates against K, with a line for the truth; far estimates (naive) on a logarithmic scale."""
    with picture(path, len(runs), 4.0) as axes:
        for ax, (name, (truth, estimates)) in zip(axes, runs.items(), strict=True):
            for i, (estimator, values) in enumerate(estimates.items()):
                ax.plot(*_points(values), color=COLOURS[i], marker=MARKERS[i], markersize=4, label=estimator)
            ax.axhspan(truth.lower, truth.upper, color=INK, alpha=0.2, linewidth=0)
            ax.axhline(truth.lower, color=INK, linewidth=0.9, linestyle="--", label="truth")
            ax.set(title=name, xlabel="particles K", ylabel="entropy (nats)")
            ax.set_xscale("log", base=2)
            top = abs(truth.upper) + limit
            if any(abs(v) > 3 * top for values in estimates.values() for v in values.values()):
                ax.set_yscale("symlog", linthresh=top)
            ax.legend(frameon=False, fontsize="small")


def draw_training(path: Path, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Per estimator, what it says of the entropy while the policy maximises it (full line), and the truth (dashed)."""
    with picture(path, 1, 6.4) as (ax,):
        for i, (name, curve) in enumerate(curves.items()):
            ax.plot(curve["step"], curve["estimate"], color=COLOURS[i], linewidth=1.4, label=name)
            ax.plot(curve["step"], curve["truth"], color=COLOURS[i], linewidth=1.0, linestyle="--")
        ax.set_yscale("symlog", linthresh=10)
        ax.set(xlabel="updates", ylabel="entropy (nats)", title="estimate (full) and truth (dashed)")
        ax.legend(frameon=False, fontsize="small", title="trained with")


def draw_noise(path: Path, noises: Mapping[str, Mapping[int, Noise]]) -> None:
    """Mean and spread of the estimates and the relative spread of their gradients where resolved, against K."""
    titles = {
        "entropy": "mean estimate (nats)",
        "std": "std of one estimate (nats)",
        "gradient": "noise / signal of the gradient",
    }
    with picture(path, len(titles)) as axes:
        for ax, (field, title) in zip(axes, titles.items(), strict=True):
            for i, (estimator, values) in enumerate(noises.items()):
                points = {k: getattr(noise, field) for k, noise in values.items()}
                ax.plot(*_points(points), color=COLOURS[i], marker=MARKERS[i], markersize=4, label=estimator)
            ax.set(title=title, xlabel="particles K")
            ax.set_xscale("log", base=2)
        if not all(np.isnan(noise.gradient) for values in noises.values() for noise in values.values()):
            axes[-1].set_yscale("log")
        axes[0].legend(frameon=False, fontsize="small")


def _points(values: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return list(values), list(values.values())
