"""What a trained critic knows about the data: figure 1 of MISA, with numbers.

The last hidden layer of the first critic, in pairs (s, a) of the run's own rows, is drawn in two dimensions by t-SNE
(van der Maaten and Hinton 2008). A regression measures how well it separates rewards: each pair's reward is predicted
by the mean reward of its nearest neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worldrl.agent import Agent
from worldrl.config import Config
from worldrl.data.replay import Replay
from worldrl.data.returns import RETURN_TO_GO
from worldrl.errors import UserError
from worldrl.heads.transitions import transitions
from worldrl.nn.mlp import TwinQ
from worldrl.runs.data import load_rows, read_run
from worldrl.runs.trained import load_agent
from worldrl.studies.plots import picture
from worldrl.types import Batch

Array = NDArray[np.float64]
PERPLEXITY, NEIGHBOURS = 30.0, 10
ITERATIONS, EXAGGERATED = 750, 200  # of gradient descent, and how many of them pull clusters together first


class Pairs(NamedTuple):
    """The critic's view of N pairs."""

    hidden: Array  # (N, units)
    reward: Array  # (N,)
    q: Array  # (N,)


class Embedding(NamedTuple):
    """A picture of N pairs and its numbers."""

    points: Array  # (N, 2)
    reward: Array  # (N,)
    r2: float  # of the reward, in the plane
    r2_hidden: float  # the same in the hidden layer
    q_low: float
    q_high: float


# --- what the critic sees ---------------------------------------------------------------------------------------------


def run_batch(agent: Agent, config: Config, run_dir: Path, pairs: int, seed: int = 1) -> Batch:
    """``pairs`` windows from a run's data, or from its saved rows.

    Raises:
        UserError: The data cannot be read or have changed, no rows were saved, or there is less than one window.
    """
    returns = RETURN_TO_GO in agent.spec.obs
    rows = load_rows(config.data, agent.spec, returns).columns if config.data.name else read_run(run_dir).columns
    n, length = len(rows["reward"]), config.replay.length
    if n < length:
        raise UserError(str(run_dir), f"{n} rows", f"{length} or more, as replay.length says")
    replay = Replay(agent.spec, n, seed=seed)
    replay.extend({name: column[:, None] for name, column in rows.items()})
    return replay.sample(pairs, length, agent.device)


@torch.no_grad()
def seen(agent: Agent, batch: Batch, critic: TwinQ) -> Pairs:
    """The last transition of every window, except those across a border."""
    batch = batch._replace(obs=agent.normalized(batch.obs))
    belief, _, _ = agent.model.observe(batch, 0, learn=False)
    tr = transitions(batch.drop_rows(agent.model.lost_rows), belief.feat[None])
    counts = tr.mask[:, -1] > 0
    feat, action = tr.feat[0, :, -1][counts], tr.action[:, -1][counts]
    hidden, q = last_hidden(critic, feat, action)
    return Pairs(*(x.double().cpu().numpy() for x in (hidden, tr.reward[:, -1][counts], q)))


def critic_of(agent: Agent, where: str) -> TwinQ:
    """The critics of a head whose last layer depends on state and action."""
    critic = dict(agent.head.named_children()).get("critic", nn.Identity())
    if not isinstance(critic, TwinQ):
        found = f"head {type(agent.head).__name__}, whose critic is {type(critic).__name__}"
        raise UserError(where, found, "a critic of vectors and actions in a box, as that of head=misa")
    return critic


def last_hidden(critic: TwinQ, feat: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """The first critic's last hidden layer (N, units), and its Q (N,)."""
    x, norms = torch.cat([feat, action], -1), [norm[:1] for norm in critic.norms]
    for layer, (weight, bias) in enumerate(zip(critic.weights[:-1], critic.biases[:-1], strict=True)):
        x = critic.hidden((x @ weight[0] + bias[0])[None], norms, layer)[0]
    return x, (x @ critic.weights[-1][0] + critic.biases[-1][0])[..., 0]


# --- numbers ----------------------------------------------------------------------------------------------------------


def different(pairs: Pairs) -> Pairs:
    """Each pair once, however often it was drawn: it would be its own nearest neighbour."""
    once = np.sort(np.unique(pairs.hidden, axis=0, return_index=True)[1])
    return Pairs(*(x[once] for x in pairs))


def embed(pairs: Pairs, iterations: int = ITERATIONS) -> Embedding:
    """The plane, and how well it predicts the reward."""
    points = tsne(pairs.hidden, iterations=iterations)
    in_plane, in_layer = (neighbour_r2(x, pairs.reward) for x in (points, pairs.hidden))
    return Embedding(points, pairs.reward, in_plane, in_layer, float(pairs.q.min()), float(pairs.q.max()))


def neighbour_r2(x: Array, y: Array, k: int = NEIGHBOURS) -> float:
    """R^2 of predicting y (N,) by the mean of the k nearest others in x (N, D); NaN where all y are the same."""
    from scipy.spatial import cKDTree

    near = cKDTree(x).query(x, k + 1)[1]
    others = near != np.arange(len(x))[:, None]
    others[others.all(1), -1] = False  # the point itself may be missing if many are at one place
    predicted = y[near[others].reshape(len(x), k)].mean(1)
    variance = np.square(y - y.mean()).sum()
    return float(1 - np.square(y - predicted).sum() / variance) if variance > 0 else float("nan")


def tsne(x: Array, perplexity: float = PERPLEXITY, iterations: int = ITERATIONS) -> Array:
    """(N, D) -> (N, 2), exact, from the first two principal components: no random number is drawn."""
    p = _affinities(_distances(_scaled(x)), min(perplexity, (len(x) - 1) / 3))
    y = 1e-4 * _scaled(principal(x))
    change, gain = np.zeros_like(y), np.ones_like(y)
    for i in range(iterations):
        early = i < EXAGGERATED
        gradient = _gradient(12.0 * p if early else p, y)
        gain = np.where(np.sign(gradient) == np.sign(change), 0.8 * gain, gain + 0.2).clip(0.01)
        change = (0.5 if early else 0.8) * change - max(len(x) / 48.0, 50.0) * gain * gradient
        y = y + change
        y = y - y.mean(0)
    return y


def principal(x: Array, n: int = 2) -> Array:
    """(N, D) -> (N, n): the first principal components, with signs that do not depend on the machine."""
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    y = u[:, :n] * s[:n]
    y = np.pad(y, ((0, 0), (0, n - y.shape[1])))
    return y * np.where(y[np.abs(y).argmax(0), np.arange(n)] < 0, -1.0, 1.0)


def _scaled(x: Array) -> Array:
    """Centred, with a mean square of one over all entries: t-SNE ignores units."""
    x = x - x.mean(0)
    return x / max(np.sqrt(np.square(x).mean()), np.finfo(float).tiny)


def _distances(x: Array) -> Array:
    """(N, D) -> squared distances (N, N)."""
    squares = np.square(x).sum(1)
    return np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0.0)


def _affinities(distances: Array, perplexity: float) -> Array:
    """Symmetric p_ij (N, N) with the sum one: each row a Gaussian of this perplexity, by bisection of its precision."""
    n = len(distances)
    np.fill_diagonal(distances, np.inf)
    low, high, precision = np.zeros(n), np.full(n, np.inf), np.ones(n)
    nearest = distances.min(1, keepdims=True)
    for _ in range(60):
        weight = np.exp(-precision[:, None] * (distances - nearest))
        total = weight.sum(1)
        mean = (weight * np.where(np.isinf(distances), 0.0, distances - nearest)).sum(1) / total
        wide = np.log(total) + precision * mean > np.log(perplexity)
        low, high = np.where(wide, precision, low), np.where(wide, high, precision)
        precision = np.where(np.isinf(high), 2 * precision, (low + np.minimum(high, 1e300)) / 2)
    conditional = weight / total[:, None]
    return np.maximum((conditional + conditional.T) / (2 * n), 1e-12)


def _gradient(p: Array, y: Array) -> Array:
    """Gradient of KL(p || q) in y, with q_ij proportional to 1 / (1 + |y_i - y_j|^2)."""
    near = 1.0 / (1.0 + _distances(y))
    np.fill_diagonal(near, 0.0)
    pull = (p - np.maximum(near / near.sum(), 1e-12)) * near
    return 4.0 * (pull.sum(1)[:, None] * y - pull @ y)


# --- the study --------------------------------------------------------------------------------------------------------


def draw(path: Path, labels: Sequence[str], embeddings: Sequence[Embedding]) -> None:
    """A panel per run, coloured by reward: red is high."""
    with picture(path, len(embeddings), 3.6, in_a_row=3) as axes:
        for ax, name, found in zip(axes, labels, embeddings, strict=True):
            low, high = np.quantile(found.reward, [0.02, 0.98])
            drawn = ax.scatter(*found.points.T, c=found.reward, s=4, cmap="coolwarm", vmin=low, vmax=high, linewidths=0)
            ax.set(xticks=[], yticks=[])
            told = f"R² {found.r2:.2f} (in the layer {found.r2_hidden:.2f})"
            ax.set_title(f"{fill(name, 48)}\n{told}\nQ from {found.q_low:.3g} to {found.q_high:.3g}", fontsize=8)
            ax.figure.colorbar(drawn, ax=ax, label="reward", shrink=0.8)


def run_embedding(run_dir: Path, pairs: int) -> Embedding:
    """The embedding of a run's last checkpoint, in the rows that it learned from."""
    agent, config = load_agent(run_dir)
    critic = critic_of(agent, str(run_dir))
    found = different(seen(agent, run_batch(agent, config, run_dir, pairs), critic))
    if len(found.reward) <= NEIGHBOURS:
        raise UserError(str(run_dir), f"{len(found.reward)} pairs that differ", f"more than {NEIGHBOURS}")
    return embed(found)


def run(options: Any, path: Path, labels: Sequence[str]) -> dict[str, Any]:
    """Print, draw and return the results for every run."""
    found: list[Embedding] = []
    for run_dir, label in zip(options.run_dirs, labels, strict=True):
        found.append(each := run_embedding(run_dir, options.pairs))
        print(f"{label}: R2 {each.r2:.3f} in the plane, {each.r2_hidden:.3f} in the layer, {len(each.reward)} pairs")
        print(f"  Q from {each.q_low:.4g} to {each.q_high:.4g}")
    draw(path, labels, found)
    numbers = ("r2", "r2_hidden", "q_low", "q_high")
    told = [
        {"label": label, **{x: getattr(each, x) for x in numbers}} for label, each in zip(labels, found, strict=True)
    ]
    return {"runs": dict(zip(map(str, options.run_dirs), told, strict=True))}
