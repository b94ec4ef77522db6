"""The pictures of the studies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from worldrl.estimators.marginal import ESTIMATORS
from worldrl.report.plots import COLOURS, INK, MARKERS, PALE, PANEL, STYLE, calm, number_of, write_out
from worldrl.studies.bandit import CENTRES, NEAR
from worldrl.studies.entropy import COMPARED, Truth
from worldrl.studies.variance import Noise
from worldrl.tabular.counterexample import Wrong, threshold


@contextmanager
def picture(path: Path, panels: int, width: float = PANEL[0], in_a_row: int | None = None) -> Iterator[Any]:
    """Axes, (panels,), in rows of at most ``in_a_row``, which are saved to ``path`` at the end."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns = min(panels, in_a_row or panels)
    rows = -(-panels // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(width * columns, (PANEL[1] + 0.4) * rows), layout="constrained", dpi=200)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for unused in axes[panels:]:
            unused.remove()
        yield axes[:panels]
        write_out(figure)
        figure.savefig(path)


def draw_bandit(path: Path, samples: Mapping[str, Tensor], found: Mapping[str, Sequence[int]]) -> None:
    """Per policy the actions (N, 2) of its first seed; the title says how many of the four modes each seed found."""
    from matplotlib.patches import Circle

    with picture(path, len(samples), 2.6) as axes:
        for i, (ax, (name, action)) in enumerate(zip(axes, samples.items(), strict=True)):
            ax.plot(*np.asarray(action).T, ".", markersize=1.5, color=COLOURS[i % len(COLOURS)], alpha=0.4)
            for centre in CENTRES:
                ax.add_patch(Circle(centre, NEAR, fill=False, color=INK, linewidth=0.6))
            ax.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xlabel="action 1", ylabel="action 2" if i == 0 else "")
            seeds = number_of("seed", {len(found[name])})
            ax.set_title(f"{name}\n{np.mean(found[name]):.1f} of 4 modes ({seeds})", fontsize=9)


def draw_estimates(
    path: Path, runs: Mapping[str, tuple[Truth, Mapping[str, Mapping[int, float]]]], limit: float = 3.0
) -> None:
    """Per run the estimates against K, with a line for the truth; far estimates (naive) on a logarithmic scale."""
    with picture(path, len(runs), 4.0) as axes:
        for ax, (name, (truth, estimates)) in zip(axes, runs.items(), strict=True):
            for estimator, values in estimates.items():
                ax.plot(*_points(values), **_look(estimator), markersize=4, label=estimator)
            ax.axhspan(truth.lower, truth.upper, color=INK, alpha=0.2, linewidth=0)
            ax.axhline(truth.lower, color=INK, linewidth=0.9, linestyle="--", label="truth")
            ax.set(title=name, xlabel="particles K", ylabel="entropy (nats)")
            ax.set_xscale("log", base=2)
            top = abs(truth.upper) + limit
            if any(abs(v) > 3 * top for values in estimates.values() for v in values.values()):
                ax.set_yscale("symlog", linthresh=top)
            else:
                calm(ax)
            ax.legend(frameon=False, fontsize="small")


def draw_training(path: Path, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Per estimator, its estimate of the entropy while the policy maximises it (solid), and the true value (dashed)."""
    with picture(path, 1, 6.4) as (ax,):
        for name, curve in curves.items():
            colour = _look(name)["color"]
            ax.plot(curve["step"], curve["estimate"], color=colour, linewidth=1.4, label=name)
            ax.plot(curve["step"], curve["truth"], color=colour, linewidth=1.0, linestyle="--")
        ax.set_yscale("symlog", linthresh=10)
        ax.set(xlabel="updates", ylabel="entropy (nats)", title="estimate (solid) and truth (dashed)")
        ax.legend(frameon=False, fontsize="small", title="trained with", loc="center left", bbox_to_anchor=(1.0, 0.5))


def draw_along(path: Path, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Per run, the estimates of its agent's entropy as it learns, and the bounds of the true value."""
    with picture(path, len(runs), 4.0) as axes:
        for ax, run in zip(axes, runs.values(), strict=True):
            frames, lower, upper = ([point[key] for point in run["points"]] for key in ("frames", "lower", "upper"))
            for name in COMPARED:
                values = [point[name] for point in run["points"]]
                ax.plot(frames, values, **_look(name), markersize=3, label=name)
            ax.fill_between(frames, lower, upper, color=INK, alpha=0.2, linewidth=0)
            ax.plot(frames, lower, color=INK, linestyle="--", label="truth, at least")
            if any(abs(point[name]) > 30 for point in run["points"] for name in COMPARED):
                ax.set_yscale("symlog", linthresh=10)
                ax.yaxis.get_major_locator().set_params(numticks=8)
            else:
                calm(ax)
            ax.set(xlabel="frames", ylabel="entropy (nats)")
            ax.set_title(run["label"] + (": diverged" if run["diverged"] else ""), fontsize=9)
            ax.legend(frameon=False, fontsize="small")


def draw_marginal(path: Path, taken: Tensor, drawn: Tensor) -> None:
    """Per dimension of the actions (N, A) the agent's (filled) and those of its marginal policy (line)."""
    bins = np.linspace(-1, 1, 41)
    with picture(path, taken.shape[-1], 2.6) as axes:
        for i, ax in enumerate(axes):
            ax.hist(taken[:, i].numpy(), bins, density=True, color=COLOURS[0], alpha=0.35, label="taken")
            ax.hist(drawn[:, i].numpy(), bins, density=True, color=COLOURS[1], histtype="step", label="marginal policy")
            ax.set(xlabel=f"action {i + 1}", ylabel="density" if i == 0 else "")
        axes[0].legend(frameon=False, fontsize="small")


def draw_counterexample(path: Path, temperatures: Sequence[float], curves: Mapping[int, Wrong], gamma: float) -> None:
    """Per number k of worthless actions the probability of the wrong action, against the temperature."""
    with picture(path, len(curves), 4.0) as axes:
        for ax, (k, curve) in zip(axes, curves.items(), strict=True):
            ax.plot(temperatures, curve.closed_form, color=COLOURS[1], label="maximum entropy, closed form")
            points = temperatures[::5], curve.soft_values[::5]
            ax.plot(*points, "o", color=COLOURS[1], markersize=4, label="the same, soft value iteration")
            ax.plot(temperatures, curve.virel, color=COLOURS[0], label="VIREL")
            ax.axhline(0.5, color=PALE, linewidth=0.9, linestyle=":")
            ax.axvline(threshold(k, gamma), color=PALE, linewidth=0.9, linestyle="--")
            ax.set_xscale("log")
            ax.set(title=f"k = {k}", xlabel="temperature", ylabel="p(wrong action)", ylim=(0, 1))
        axes[0].legend(frameon=False, fontsize="small")


def draw_noise(path: Path, noises: Mapping[str, Mapping[int, Noise]]) -> None:
    """Mean and spread of the estimates and the relative spread of their gradients where resolved, against K."""
    titles = {
        "entropy": "mean estimate (nats)",
        "std": "std of one estimate (nats)",
        "gradient": "noise / signal of the gradient",
    }
    with picture(path, len(titles)) as axes:
        for ax, (field, title) in zip(axes, titles.items(), strict=True):
            for estimator, values in noises.items():
                points = {k: getattr(noise, field) for k, noise in values.items()}
                ax.plot(*_points(points), **_look(estimator), markersize=4, label=estimator)
                if field == "gradient":
                    errors = [1.96 * noise.error for noise in values.values()]
                    ax.errorbar(
                        *_points(points), errors, color=_look(estimator)["color"], linewidth=0.9, linestyle="none"
                    )
            if field != "gradient":
                calm(ax)
            ax.set(title=title, xlabel="particles K")
            ax.set_xscale("log", base=2)
        if not all(np.isnan(noise.gradient) for values in noises.values() for noise in values.values()):
            axes[-1].set_yscale("log")
        axes[0].legend(frameon=False, fontsize="small")


def _look(estimator: str) -> dict[str, str]:
    """An estimator looks the same in every picture."""
    place = list(ESTIMATORS).index(estimator)
    return {"color": COLOURS[place], "marker": MARKERS[place]}


def _points(values: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return list(values), list(values.values())
