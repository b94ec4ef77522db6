"""What the oracles share: float64 networks that read the package's weights by name, textbook Adam, means and densities.

An oracle is one paper, written a second time: plain formulas, no tricks, float64. It imports nothing of the package. It
shares with it the names of the weights, the names of the settings and the order in which noise is drawn, so that both
can make the same updates. ``tests/oracles/side_by_side.py`` compares them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

WIDE = torch.float64
Weights = dict[str, Tensor]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": F.elu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


def weights_of(state: Mapping[str, Tensor]) -> Weights:
    """A ``state_dict`` in float64, ready to learn."""
    found = {name: value.detach().to(WIDE).clone() for name, value in state.items() if value.is_floating_point()}
    return {name: value.requires_grad_() for name, value in found.items()}


def noise(*shape: int) -> Tensor:
    """Standard normal, drawn in float32 as the package draws it."""
    return torch.randn(*shape).to(WIDE)


# --- networks ---------------------------------------------------------------------------------------------------------


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def mlp(w: Weights, name: str, x: Tensor, activation: str) -> Tensor:
    """Hidden layers with an activation, then a linear one."""
    layers = count(w, f"{name}.linears.") // 2
    for i in range(layers):
        x = linear(w, f"{name}.linears.{i}", x)
        x = ACTIVATIONS[activation](x) if i < layers - 1 else x
    return x


def critics(w: Weights, name: str, feat: Tensor, action: Tensor, activation: str) -> Tensor:
    """Q_j(s, a), one network after the other: (..., F), (..., A) -> (n, ...)."""
    layers, found = count(w, f"{name}.weights."), []
    lead = torch.broadcast_shapes(feat.shape[:-1], action.shape[:-1])
    both = torch.cat([feat.expand(*lead, -1), action.expand(*lead, -1)], -1)
    for j in range(len(w[f"{name}.weights.0"])):
        x = both
        for i in range(layers):
            x = x @ w[f"{name}.weights.{i}"][j] + w[f"{name}.biases.{i}"][j, 0]
            x = ACTIVATIONS[activation](x) if i < layers - 1 else x
        found.append(x[..., 0])
    return torch.stack(found)


def count(w: Weights, prefix: str) -> int:
    return sum(name.startswith(prefix) for name in w)


# --- densities --------------------------------------------------------------------------------------------------------


def normal_log_prob(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Summed over the last axis."""
    return torch.distributions.Normal(mean, std, validate_args=False).log_prob(x).sum(-1)


def normal_kl(mean: Tensor, std: Tensor, mean2: Tensor, std2: Tensor) -> Tensor:
    one, two = torch.distributions.Normal(mean, std), torch.distributions.Normal(mean2, std2)
    return torch.distributions.kl_divergence(one, two).sum(-1)


def tanh_log_det(u: Tensor) -> Tensor:
    """log (1 - tanh(u)^2) = log 4 - 2 |u| - 2 log (1 + exp(-2 |u|)), summed over the last axis."""
    return (math.log(4.0) - 2.0 * u.abs() - 2.0 * torch.log1p(torch.exp(-2.0 * u.abs()))).sum(-1)


def mean_in_logs(x: Tensor) -> Tensor:
    """log of the mean of exp, over the first axis."""
    return torch.logsumexp(x, 0) - math.log(len(x))


def inverse_softplus(y: float) -> float:
    return math.log(math.exp(y) - 1.0)


# --- learning ---------------------------------------------------------------------------------------------------------


class Pairs(NamedTuple):
    """Neighbouring rows, as transitions; ``weight`` sums to one, and is zero where an episode begins."""

    feat: Tensor  # (B, S, F)
    next_feat: Tensor
    context: Tensor  # (B, S, C)
    next_context: Tensor
    particles: Tensor  # (K, B, S, F)
    next_particles: Tensor
    action: Tensor  # (B, S, A)
    reward: Tensor  # (B, S)
    terminal: Tensor
    weight: Tensor

    def mean(self, x: Tensor) -> Tensor:
        """Over the transitions that count, and over leading axes."""
        return (x * self.weight).sum() / (x.numel() / self.weight.numel())


def pairs(rows: Any, belief: Any) -> Pairs:
    """Of a batch and the belief in its rows."""
    feat, context, particles = (x.detach().to(WIDE) for x in (belief.feat, belief.context, belief.particles))
    counts = 1.0 - rows.is_first[:, 1:].to(WIDE)
    return Pairs(
        feat[:, :-1],
        feat[:, 1:],
        context[:, :-1],
        context[:, 1:],
        particles[:, :, :-1],
        particles[:, :, 1:],
        rows.action[:, 1:].to(WIDE),
        rows.reward[:, 1:].to(WIDE),
        rows.is_terminal[:, 1:].to(WIDE),
        counts / counts.sum().clamp(min=1.0),
    )


class Adam:
    """Kingma and Ba 2015, algorithm 1, after the gradient is clipped to a norm (0: not at all)."""

    def __init__(self, params: Iterable[Tensor], lr: float, clip: float = 0.0, eps: float = 1e-8) -> None:
        self.params, self.lr, self.clip, self.eps, self.t = list(params), lr, clip, eps, 0
        self.first, self.second = ([torch.zeros_like(p) for p in self.params] for _ in range(2))

    def step(self, loss: Tensor, keep: bool = False) -> Tensor:
        """One step down the loss; returns the norm of the gradient before clipping. ``keep`` leaves the graph."""
        grads = torch.autograd.grad(loss, self.params, retain_graph=keep)
        norm = torch.sqrt(sum(g.square().sum() for g in grads))
        scale = min(1.0, self.clip / (float(norm) + 1e-6)) if self.clip else 1.0
        self.t += 1
        with torch.no_grad():
            for p, g, m, v in zip(self.params, grads, self.first, self.second, strict=True):
                m.copy_(0.9 * m + 0.1 * scale * g)
                v.copy_(0.999 * v + 0.001 * (scale * g).square())
                unbiased = m / (1 - 0.9**self.t)
                p -= self.lr * unbiased / ((v / (1 - 0.999**self.t)).sqrt() + self.eps)
        return norm


def follow(w: Weights, old: str, new: str, tau: float) -> None:
    """old <- (1 - tau) old + tau new, for all weights below the two names."""
    with torch.no_grad():
        for name in [name for name in w if name.startswith(f"{old}.")]:
            w[name].copy_((1 - tau) * w[name] + tau * w[new + name.removeprefix(old)])


class Learner:
    """Weights in parts, each with its Adam, and what an update reports."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.w = weights_of(state)
        self.adams: dict[str, Adam] = {}
        self.found: dict[str, Tensor] = {}

    def part(self, name: str, prefix: str, lr: float, clip: float = 0.0, eps: float = 1e-8) -> None:
        """The weights below ``prefix`` learn by an Adam called ``name``."""
        named = [value for key, value in self.w.items() if key == prefix or key.startswith(f"{prefix}.")]
        self.adams[name] = Adam(named, lr, clip, eps)

    def learn(self, name: str, loss: Tensor, keep: bool = False) -> None:
        """One step of a part; loss and norm are reported under the package's names."""
        self.found[f"opt/{name}/grad_norm"] = self.adams[name].step(loss, keep)
        self.found[f"loss/{name}"] = loss.detach()


class Point:
    """The belief of agents on states: what is seen is the state."""

    w: Mapping[str, Tensor] = {}
    found: Mapping[str, Tensor] = {}

    def observe(self, rows: Any, particles: int, learn: bool = True) -> Any:
        feat = torch.cat([x.to(WIDE) for x in rows.obs.values()], -1)
        more = feat.expand(particles, *feat.shape)
        return SimpleNamespace(feat=feat, particles=more, context=feat, entropy=torch.zeros_like(feat[..., 0]))
