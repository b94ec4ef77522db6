"""A learned density of actions, without states: the marginal policy of MIRACLE (arXiv 1909.05950, section 4, app. F).

In a box, pi(a) = E_{u ~ N(0, I)} pi(a | u), where pi(a | u) is a tanh-Gaussian whose mean and log-variance come from a
network. It is estimated by log-mean-exp over N draws of u: a lower bound on log pi(a) in expectation. For a choice,
pi(a) is one probability for each action, and exact.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldrl.nn.functional import log_mean_exp, normal_kl, normal_log_prob, standard_log_prob, tanh_log_det
from worldrl.nn.mlp import MLP

Fit = Literal["likelihood", "single", "vae"]
LARGEST = 1.0 - 2.0**-24  # the float32 next to one; one itself has no finite pre-tanh value


class MarginalPolicy(nn.Module):
    """pi(a) and three ways to fit it to actions.

    - ``fit="likelihood"``: the likelihood of the mixture, log mean_n pi(a | u_n). It fits any number of modes.
    - ``fit="single"``: E log pi(a | u), the paper's text read literally. Since u is drawn independently of a, its best
      fit is one Gaussian for all u.
    - ``fit="vae"``: the evidence lower bound with a recognition model q(u | a), a second network of the same sizes;
      densities are then importance-weighted, log mean_n pi(a | u_n) N(u_n) / q(u_n | a) with u_n ~ q(u | a).

    Args:
        action_dim: A, of actions and of u.
        units: of the hidden layers.
        layers: hidden layers.
        samples: N.
        fit: how ``loss`` fits it.
        log_var: smooth bounds of the log-variances before tanh.
        shared: use one set of N draws for all actions of a call, not one for each: less arithmetic, more noise.
    """

    def __init__(
        self,
        action_dim: int,
        units: int,
        layers: int,
        samples: int,
        fit: Fit = "likelihood",
        log_var: tuple[float, float] = (-10.0, 0.5),
        shared: bool = False,
    ) -> None:
        super().__init__()
        self.decoder = MLP(action_dim, units, layers, 2 * action_dim, "relu")
        self.encoder = MLP(action_dim, units, layers, 2 * action_dim, "relu") if fit == "vae" else None
        self.action_dim = action_dim
        self.samples = samples
        self.fit = fit
        self.log_var = log_var
        self.shared = shared

    def sample(self, n: int) -> Tensor:
        """``n`` actions (n, A) in [-1, 1]."""
        u = torch.randn(n, self.action_dim, device=next(self.parameters()).device)
        mean, std = self._stats(self.decoder, u)
        return torch.tanh(mean + std * torch.randn_like(mean))

    def log_prob(self, pre_tanh: Tensor) -> Tensor:
        """Estimate of log pi(a) at a = tanh(pre_tanh), (..., A) -> (...); its only gradient is that of ``pre_tanh``.

        Components and importance weights are constants in it, so that the gradient is the mean of the components'
        gradients under the posterior of u.
        """
        with torch.no_grad():
            mean, std, log_weight = self._components(pre_tanh)
        return log_mean_exp(normal_log_prob(pre_tanh, mean, std) + log_weight) - tanh_log_det(pre_tanh).sum(-1)

    def loss(self, action: Tensor) -> Tensor:
        """What ``fit`` minimises for each action in [-1, 1], (..., A) -> (...), as a density of the action."""
        pre_tanh = torch.atanh(action.clamp(-LARGEST, LARGEST))
        return tanh_log_det(pre_tanh).sum(-1) - self._bound(pre_tanh)

    def _bound(self, pre_tanh: Tensor) -> Tensor:
        """The objective of ``fit`` as a density of the pre-tanh value, (...)."""
        if self.encoder is not None:
            center, width = self._stats(self.encoder, torch.tanh(pre_tanh))
            u = center + width * torch.randn_like(width)
            likelihood = normal_log_prob(pre_tanh, *self._stats(self.decoder, u))
            return likelihood - normal_kl(center, width, torch.zeros_like(center), torch.ones_like(width))
        mean, std, _ = self._components(pre_tanh)
        log_probs = normal_log_prob(pre_tanh, mean, std)  # (N, ...)
        return log_mean_exp(log_probs) if self.fit == "likelihood" else log_probs.mean(0)

    def _components(self, pre_tanh: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
        """Mean and std (N, ..., A) of fresh components, and their log weights (N, ...)."""
        lead = [1] * (pre_tanh.dim() - 1) if self.shared else pre_tanh.shape[:-1]
        noise = torch.randn(self.samples, *lead, self.action_dim, device=pre_tanh.device)
        if self.encoder is None:
            return *self._stats(self.decoder, noise), 0.0
        center, width = self._stats(self.encoder, torch.tanh(pre_tanh))
        u = center + width * noise
        log_weight = standard_log_prob(u) - normal_log_prob(u, center, width)
        return *self._stats(self.decoder, u), log_weight

    def _stats(self, net: MLP, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std, float32."""
        mean, raw = net(x).float().chunk(2, -1)
        return mean, torch.exp(0.5 * bounded(raw, *self.log_var))


class MarginalChoice(nn.Module):
    """pi(a) for a choice of A actions; like ``MarginalPolicy``, but with one-hot rows in place of ``pre_tanh``."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(size))

    def sample(self, n: int) -> Tensor:
        """``n`` one-hot rows (n, A)."""
        return F.one_hot(torch.multinomial(self.logits.softmax(-1), n, True), len(self.logits)).float()

    def log_prob(self, raw: Tensor) -> Tensor:
        """log pi(a), (..., A) -> (...), a constant."""
        return (raw * self.logits.detach().log_softmax(-1)).sum(-1)

    def loss(self, action: Tensor) -> Tensor:
        """-log pi(a), (..., A) -> (...)."""
        return -(action * self.logits.log_softmax(-1)).sum(-1)


def bounded(x: Tensor, low: float, high: float) -> Tensor:
    """``x`` with smooth bounds, by softplus from above and then from below (Chua et al. 2018)."""
    x = high - F.softplus(high - x)
    return low + F.softplus(x - low)
