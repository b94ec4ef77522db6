"""Does the world model know what comes next? Open-loop predictions compared with later observations.

Windows of ``context + horizon`` rows are cut from recorded episodes. The belief filters the context from an all-zero
state, as at the start of a training slice, and is then rolled forward with only the recorded actions. It is compared
with the reconstruction by a belief that continues to observe, and with two guesses that ignore the actions: the last
observation of the context, and the mean observation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from worldrl.acting.episodes import own_randomness
from worldrl.acting.recording import Episode
from worldrl.acting.video import contact_sheet, save_video
from worldrl.agent import Agent, require
from worldrl.errors import UserError
from worldrl.report.plots import picture
from worldrl.types import Decodes, Imagines

Arrays = dict[str, np.ndarray]

SHOWN = 6  # windows in the video
STRIP = 12  # columns of the strip
FPS = 10


class Windows(NamedTuple):
    """N windows of L consecutive rows."""

    obs: Arrays  # (N, L, ...)
    action: np.ndarray  # (N, L, A) that led here


class Prediction(NamedTuple):
    """N windows of L rows by observation key, (N, L, ...) each; ``predicted`` is filtered within the context."""

    truth: Arrays
    reconstructed: Arrays
    predicted: Arrays


def cut_windows(episodes: Sequence[Episode], length: int, count: int) -> Windows:
    """At most ``count`` windows, spread evenly over the episodes' rows.

    Raises:
        UserError: no episode is that long.
    """
    starts = [(e, t) for e in episodes for t in range(len(e.reward) - length + 1)]
    if not starts:
        longest = max(len(e.reward) for e in episodes)
        raise UserError("context + horizon", f"{length} rows", f"at most {longest}, the longest episode")
    chosen = [starts[i] for i in np.unique(np.linspace(0, len(starts) - 1, count).astype(int))]
    obs = {key: np.stack([e.obs[key][t : t + length] for e, t in chosen]) for key in episodes[0].obs}
    return Windows(obs, np.stack([e.action[t : t + length] for e, t in chosen]))


@torch.no_grad()
def predict(agent: Agent, windows: Windows, context: int, seed: int) -> Prediction:
    """Filter ``context`` rows, then predict the others from their actions; one draw of the model's noise.

    Raises:
        UserError: the belief cannot decode or imagine.
    """
    model: Any = agent.model
    require(model, Decodes, "decode")
    require(model, Imagines, "imagine")
    obs = {key: torch.from_numpy(value).to(agent.device) for key, value in windows.obs.items()}
    action = torch.from_numpy(windows.action).to(agent.device)
    n, length = action.shape[:2]
    with own_randomness(seed):
        state, feats = model.initial(n), []
        for t in range(length):
            row = agent.normalized({key: value[:, t] for key, value in obs.items()})
            state, belief = model.step(state, row, action[:, t], action.new_zeros(n))
            feats.append(belief.feat)
        known = iter(action[:, context:].unbind(1))
        dream = model.imagine(feats[context - 1], lambda feat: next(known), length - context).feat[1:]
    filtered = torch.stack(feats, 1)  # (N, L, F)
    predicted = torch.cat([filtered[:, :context], dream.transpose(0, 1)], 1)
    decoded = ({k: v.cpu().numpy() for k, v in agent.decode(feat).items()} for feat in (filtered, predicted))
    return Prediction(windows.obs, *decoded)


def errors(found: Prediction, context: int) -> dict[str, dict[str, list[float]]]:
    """Root mean square error by observation key and by method, for 1, 2, ... rows ahead.

    Images in units where 255 is 1; vectors in standard deviations of each entry over the windows.
    """
    results = {}
    for key, truth in found.truth.items():
        guesses = {
            "open_loop": found.predicted[key],
            "reconstruction": found.reconstructed[key],
            "last_seen": truth[:, context - 1 : context],
            "mean": truth.mean((0, 1), keepdims=True),
        }
        scale = _scale(truth)
        results[key] = {name: _error(truth, guess, scale)[context:].tolist() for name, guess in guesses.items()}
    return results


def _scale(truth: np.ndarray) -> np.ndarray:
    if truth.dtype == np.uint8:
        return np.array(255.0)
    deviation = truth.std((0, 1))
    return np.where(deviation > 0, deviation, 1.0)


def _error(truth: np.ndarray, guess: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(N, L, ...) and what broadcasts to it -> (L,)"""
    square = np.square((truth.astype(np.float64) - guess) / scale)
    return np.sqrt(square.mean(tuple(range(2, square.ndim)))).mean(0)


def save_pictures(found: Prediction, context: int, out: Path) -> list[Path]:
    """For each image key a video of some windows and a strip of the first: truth, reconstruction, prediction."""
    paths = []
    for key in (key for key, value in found.truth.items() if value.dtype == np.uint8):
        rows = [part[key] for part in found]  # 3 x (N, L, H, W, 3)
        length = rows[0].shape[1]
        shown = min(SHOWN, len(rows[0]))
        frames = (contact_sheet(np.concatenate([row[:shown, t] for row in rows]), shown) for t in range(length))
        captions = [f"{_name(t, context)}; rows: {', '.join(found._fields)}" for t in range(length)]
        paths.append(save_video(out / f"prediction_{key}.mp4", frames, FPS, captions))
        times = np.unique(np.linspace(0, length - 1, STRIP).astype(int))
        shown_rows = {name: row[0, times] for name, row in zip(found._fields, rows, strict=True)}
        paths.append(_save_strip(out / f"prediction_{key}.png", shown_rows, [_name(t, context) for t in times]))
    return paths


def _name(t: int, context: int) -> str:
    return "seen" if t < context else f"{t + 1 - context} ahead"


def _save_strip(path: Path, rows: Mapping[str, np.ndarray], columns: Sequence[str]) -> Path:
    """A row of pictures (T, H, W, 3) per name, a column per name."""
    with picture(path, 0.8 * len(columns) + 1.2, 0.8 * len(rows) + 0.4) as figure:
        grid = figure.subplots(len(rows), len(columns), squeeze=False)
        for line, (name, frames) in zip(grid, rows.items(), strict=True):
            for axes, frame in zip(line, frames, strict=True):
                axes.imshow(frame)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            line[0].set_ylabel(name, rotation="horizontal", ha="right", va="center")
        for axes, name in zip(grid[0], columns, strict=True):
            axes.set_title(name, fontsize="small")
    return path


def draw(results: dict[str, Any], path: Path) -> None:
    """Error against the number of rows ahead, one panel per observation key."""
    curves = results["errors"]
    with picture(path, 5.0 * len(curves), 3.6) as figure:
        for axes, (key, by_guess) in zip(
            figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
        ):
            for name, values in by_guess.items():
                axes.plot(range(1, len(values) + 1), values, label=name.replace("_", " "))
            unit = "255 is 1" if key in results["images"] else "standard deviations"
            axes.set(xlabel=f"rows (agent steps) after {results['context']} seen", ylabel=f"RMS error ({unit})")
            axes.set(title=key, ylim=(0, None))
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.legend()
            axes.grid()
