"""Two-level stochastic latent model (Lee et al. 2020, arXiv 1907.00953), the belief of SLAC.

With f_t the features of o_t and a_t the action that led to o_t:

                 prior                                  posterior
    first row    z1_1 ~ N(0, I)                         z1_1 ~ q(z1_1 | f_1)
                 z2_1 ~ p(z2_1 | z1_1)                  the same
    later rows   z1_t ~ p(z1_t | z2_{t-1}, a_t)         z1_t ~ q(z1_t | f_t, z2_{t-1}, a_t)
                 z2_t ~ p(z2_t | z1_t, z2_{t-1}, a_t)   the same

    feat_t    = [z1_t, z2_t]
    context_t = the last eight features and the seven actions between them

The first row is that of an episode or of a slice. Prior and posterior share the networks of z2, so its KL is zero. A
context that reaches back beyond the start of its episode repeats the episode's first features, with zero actions. The
same happens while acting, so an actor on contexts sees no difference.

Only the first ``model_batch`` windows of a batch enter the loss; the others are filtered without gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldrl.fields import AnySamples, Layers, NotNegative, Positive, Range, Rate, Width
from worldrl.nn.conv import SameDecoder, SameEncoder, check_images, to_blocks, to_images, to_pixels
from worldrl.nn.functional import inverse_softplus, normal_entropy, normal_kl, normal_log_prob
from worldrl.nn.lost import impute, is_dark, tells
from worldrl.nn.mlp import MLP, ExactMLP, ScalarMLP, xavier
from worldrl.types import NOISE, Batch, Belief, BeliefModel, EnvSpec, Metrics, Noise, Obs, Rollout, State

MIN_STD = 1e-5
PLAIN_STD = math.log(2.0)  # softplus(0)


class Gaussian(NamedTuple):
    """A diagonal Gaussian; ``std`` is the output of softplus, float32."""

    mean: Tensor  # (..., D)
    std: Tensor  # (..., D)

    def sample(self, noise: Tensor) -> Tensor:
        return self.mean + self.std * noise

    def where(self, keep: Tensor, other: Gaussian) -> Gaussian:
        """This Gaussian where ``keep`` is true, else ``other``."""
        return Gaussian(*(torch.where(keep, a, b) for a, b in zip(self, other, strict=True)))


class GaussianMLP(nn.Module):
    """N(mean, std^2) of the concatenated inputs: two layers of leaky ReLU, std = softplus + 1e-5.

    An offset makes ``init_std`` the standard deviation where the network's output is zero. If ``exact``, the last layer
    is float32 even under autocast.
    """

    def __init__(self, inputs: int, units: int, outputs: int, init_std: float = PLAIN_STD, exact: bool = False) -> None:
        super().__init__()
        self.net = (ExactMLP if exact else MLP)(inputs, units, 2, 2 * outputs, "leaky_relu")
        self.offset = inverse_softplus(init_std)

    def forward(self, *inputs: Tensor) -> Gaussian:
        """(..., D_i) each; leading axes broadcast."""
        lead = torch.broadcast_shapes(*(x.shape[:-1] for x in inputs))
        stats = self.net(torch.cat([x.expand(*lead, -1) for x in inputs], -1))
        mean, raw = stats.float().chunk(2, -1)
        return Gaussian(mean, F.softplus(raw + self.offset) + MIN_STD)


class Path(NamedTuple):
    """One filtered path; leading axes (..., T)."""

    mean: Tensor  # (..., Z1) of q(z1_t | ...)
    std: Tensor  # (..., Z1)
    std2: Tensor  # (..., Z2) of p(z2_t | ...)
    z1: Tensor  # (..., Z1)
    z2: Tensor  # (..., Z2)

    def feat(self) -> Tensor:
        return torch.cat([self.z1, self.z2], -1)

    def entropy(self) -> Tensor:
        """Entropy of the two last draws, given the path so far."""
        return normal_entropy(self.std) + normal_entropy(self.std2)


class SLAC(BeliefModel):
    """The latent variable model of SLAC. Defaults are the sizes of the authors' program."""

    @dataclass(frozen=True)
    class Config:
        z1: Width = 32
        z2: Width = 256
        units: Width = 256  # of every Gaussian network
        depth: Width = 32  # CNN channels; features are 8 x depth
        background: bool = False  # learn a constant image in addition to the decoder; for small decoders
        vector_units: Width = 256  # width of encoders and decoders of state vectors
        vector_layers: Layers = 2
        init_std: Positive = PLAIN_STD  # initial, of the latents; small models and short runs want less noise
        decoder_std: Positive = 0.31622777  # sqrt(0.1); the published curves use the best of five per task
        reward_scale: NotNegative = 1.0  # weight of the reward's log-density
        history: Annotated[int, Range(1, 10_000)] = 8  # rows of features that an actor on the context reads
        model_batch: AnySamples = 32  # windows of a batch that the model learns from; 0: all
        continue_predictor: Literal["auto", "on", "off"] = "auto"  # auto: on if the task terminates
        lr: Rate = 1e-4
        grad_clip: NotNegative = 0.0
        adam_eps: Positive = 1e-8

    config: SLAC.Config
    imputes = True
    free = ("history",)
    tiny: ClassVar[dict[str, Any]] = {
        "z1": 3,
        "z2": 6,
        "units": 8,
        "depth": 2,
        "vector_units": 5,
        "history": 3,
    }

    def __init__(self, config: SLAC.Config, spec: EnvSpec) -> None:
        super().__init__()
        c, a = config, spec.action_dim
        self.config = config
        self.lost_rows = c.history - 1
        self.model_batch = c.model_batch or None  # model-only updates use only these windows of a batch
        self.action_dim, self.feat_dim = a, c.z1 + c.z2
        self.vector_keys = [key for key, obs in spec.obs.items() if obs.dtype == "float32"]
        self.pixel_keys = [key for key, obs in spec.obs.items() if obs.dtype == "uint8"]
        self.shapes = {key: obs.shape for key, obs in spec.obs.items()}
        check_images(spec)
        self._build_observation_nets(spec)
        self.context_dim = c.history * self.embed_dim + (c.history - 1) * a
        self.z1_prior = GaussianMLP(c.z2 + a, c.units, c.z1, c.init_std)
        self.z1_first = GaussianMLP(self.embed_dim, c.units, c.z1, c.init_std)
        self.z1_posterior = GaussianMLP(self.embed_dim + c.z2 + a, c.units, c.z1, c.init_std)
        self.z2_first = GaussianMLP(c.z1, c.units, c.z2, c.init_std)
        self.z2_later = GaussianMLP(c.z1 + c.z2 + a, c.units, c.z2, c.init_std)
        self.reward_head = GaussianMLP(2 * self.feat_dim + a, c.units, 1, exact=True)
        use_continue = c.continue_predictor == "on" or (c.continue_predictor == "auto" and spec.terminates)
        self.continue_head = ScalarMLP(self.feat_dim, c.units, 2, "leaky_relu") if use_continue else None
        self.apply(xavier)

    def _build_observation_nets(self, spec: EnvSpec) -> None:
        c = self.config
        self.encoders, self.decoders = nn.ModuleDict(), nn.ModuleDict()
        self.embed_dim = 0
        for key in self.pixel_keys:
            self.encoders[key] = SameEncoder(c.depth)
            self.decoders[key] = SameDecoder(self.feat_dim, c.depth, c.background)
            self.embed_dim += 8 * c.depth
        for key in self.vector_keys:
            size = math.prod(spec.obs[key].shape)
            self.encoders[key] = MLP(size, c.vector_units, c.vector_layers, c.vector_units, "leaky_relu")
            self.decoders[key] = ExactMLP(self.feat_dim, c.vector_units, c.vector_layers, size, "leaky_relu")
            self.embed_dim += c.vector_units

    # --- the contract -------------------------------------------------------------------------------------------------

    def initial(self, batch: int, particles: int = 0) -> State:
        """State before any observation: the next row counts as first. ``feat`` follows path 0 of ``1 + particles``."""
        c = self.config
        zeros = next(self.parameters()).new_zeros
        return {
            "z2": zeros(batch, 1 + particles, c.z2),
            "features": zeros(batch, c.history, self.embed_dim),
            "actions": zeros(batch, c.history - 1, self.action_dim),
            "started": zeros(batch),
        }

    @torch.no_grad()
    def step(
        self,
        state: State,
        obs: Obs,
        prev_action: Tensor,
        is_first: Tensor,
        deterministic: bool = False,
        noise: Noise = NOISE,
    ) -> tuple[State, Belief]:
        """Filter one row on every path. obs (B, ...), prev_action (B, A), is_first (B,).

        Lost entries of ``obs`` (``SEEN``) are imputed by the decoder's mean at the prior means of path 0. A row without
        any reading takes the prior in place of the posterior.
        """
        keep = (state["started"] * (1.0 - is_first))[:, None, None] > 0
        action, z2 = prev_action[:, None], state["z2"]
        dark = is_dark(obs)[:, None, None] if tells(obs) else None
        if dark is not None:
            obs = impute(obs, self.decode(self._predict(z2, action, keep)[:, 0]))
        embed = self._encode(obs, is_first.shape)  # (B, E)
        draws = noise.normal((*z2.shape[:-1], self.feat_dim), 0, embed)  # (B, 1 + K, F)
        if deterministic:
            draws[:, 0] = 0.0
        path = self._filter_step(z2, embed[:, None], action, keep, draws, dark)
        features = torch.cat([state["features"], embed[:, None]], 1)[:, 1:]
        features = torch.where(keep, features, embed[:, None])
        actions = torch.cat([state["actions"], prev_action[:, None]], 1)[:, 1:] * keep
        context = torch.cat([features.flatten(1), actions.flatten(1)], -1)
        feat = path.feat()
        belief = Belief(feat[:, 0], feat[:, 1:].transpose(0, 1), context, path.entropy()[:, 0])
        started = torch.ones_like(state["started"])
        return {"z2": path.z2, "features": features, "actions": actions, "started": started}, belief

    def observe(self, batch: Batch, particles: int, learn: bool = True) -> tuple[Belief, Metrics, Metrics]:
        """Filter (B, T) rows; the belief has the rows from ``lost_rows`` on; see ``BeliefModel.observe``."""
        n = (self.model_batch or len(batch.reward)) if learn else 0
        learnt, others = batch.windows(slice(n)), batch.windows(slice(n, None))
        losses: Metrics = {}
        metrics: Metrics = {}
        seen: list[tuple[Tensor, Path]] = []
        if learn:
            seen.append(self._see(learnt))
            losses, metrics = self._losses(learnt, seen[0][1])
        with torch.no_grad():
            if len(others.reward):
                seen.append(self._see(others))
            embed = torch.cat([embed for embed, _ in seen])
            path = Path(*(torch.cat(each) for each in zip(*(path for _, path in seen), strict=True)))
            draws = self._draw_particles(embed, batch, particles)
            context = contexts(embed, batch.action, batch.is_first, self.config.history)
        known = slice(self.lost_rows, None)
        belief = Belief(path.feat()[:, known], draws[:, :, known], context, path.entropy()[:, known])
        return belief, losses, metrics

    def _see(self, batch: Batch) -> tuple[Tensor, Path]:
        """Embedding (B, T, E) of the rows and their filtered path."""
        embed = self._encode(batch.obs, batch.reward.shape)
        return embed, self._filter(embed, batch)

    @torch.no_grad()
    def decode(self, feat: Tensor) -> Obs:
        """(..., F) -> mean observations: pixels (..., 64, 64, 3) uint8, vectors (..., D)."""
        lead = feat.shape[:-1]
        flat = feat.reshape(-1, self.feat_dim)
        obs: Obs = {key: to_pixels(self.decoders[key](flat).float() - 0.5, lead) for key in self.pixel_keys}
        obs.update(
            {key: self.decoders[key](flat).float().reshape(*lead, *self.shapes[key]) for key in self.vector_keys}
        )
        return obs

    @torch.no_grad()
    def surprise(self, batch: Batch) -> Tensor:
        """See ``Surprises``; uses one filtered path."""
        path = self._filter(self._encode(batch.obs, batch.reward.shape), batch)
        return self._kl(batch, path, later_rows(batch.is_first))

    def imagine(self, feat: Tensor, actor: Callable[[Tensor], Tensor], horizon: int) -> Rollout:
        """Dream ``horizon`` steps of the prior from every feat (N, F); see ``Imagines``.

        ``reward[0]`` is zero: a reward belongs to a step, and the step into the start is unknown.
        """
        noise = torch.randn(horizon, len(feat), self.feat_dim, device=feat.device)
        feats, actions = [feat], []
        for step_noise in noise.unbind():
            actions.append(actor(feats[-1]))
            feats.append(self._dream_step(feats[-1], actions[-1], step_noise))
        dream, action = torch.stack(feats), torch.stack(actions)
        reward = self.reward_head(dream[:-1], action, dream[1:]).mean.squeeze(-1)
        return Rollout(dream, action, F.pad(reward, (0, 0, 1, 0)), self._discount(dream))

    # --- encoding -----------------------------------------------------------------------------------------------------

    def _encode(self, obs: Obs, lead: tuple[int, ...]) -> Tensor:
        """Observations with ``lead`` axes -> (*lead, E) float32."""
        parts = [self.encoders[key](to_images(obs[key])) for key in self.pixel_keys]
        parts += [self.encoders[key](obs[key].reshape(-1, math.prod(self.shapes[key]))) for key in self.vector_keys]
        return torch.cat([part.float() for part in parts], -1).reshape(*lead, self.embed_dim)

    # --- filtering ----------------------------------------------------------------------------------------------------

    def _filter(self, embed: Tensor, batch: Batch, paths: tuple[int, ...] = ()) -> Path:
        """Run the filter over (B, T) rows, on ``paths`` independent copies if asked -> (*paths, B, T, .)."""
        b, t = batch.reward.shape
        noise = torch.randn(t, *paths, b, self.feat_dim, device=embed.device)
        z2 = embed.new_zeros(*paths, b, self.config.z2)
        rows = (x.transpose(0, 1).unbind() for x in (embed, batch.action, later_rows(batch.is_first)[..., None]))
        steps = []
        for inputs in zip(*rows, noise.unbind(), strict=True):
            steps.append(self._filter_step(z2, *inputs))
            z2 = steps[-1].z2
        return Path(*(torch.stack(parts, -2) for parts in zip(*steps, strict=True)))

    def _draw_particles(self, embed: Tensor, batch: Batch, k: int) -> Tensor:
        """K more draws of the state, (K, B, T, F): the filter is run again, so each is an independent path."""
        if k == 0:
            return embed.new_zeros(0, *batch.reward.shape, self.feat_dim)
        return self._filter(embed, batch, (k,)).feat()

    def _filter_step(
        self, z2: Tensor, embed: Tensor, action: Tensor, keep: Tensor, noise: Tensor, dark: Tensor | None = None
    ) -> Path:
        """One row of the posterior, given z2 of the previous row; leading axes broadcast; first rows do not ``keep``.

        In ``dark`` rows z1 follows its prior.
        """
        noise1, noise2 = noise.split([self.config.z1, self.config.z2], -1)
        with torch.autocast(z2.device.type, enabled=False):  # the recurrent state stays float32
            post = self.z1_posterior(embed, z2, action).where(keep, self.z1_first(embed))
            post = post if dark is None else self._prior(z2, action, keep).where(dark, post)
            z1 = post.sample(noise1)
            second = self.z2_later(z1, z2, action).where(keep, self.z2_first(z1))
        return Path(post.mean.expand_as(z1), post.std.expand_as(z1), second.std, z1, second.sample(noise2))

    def _prior(self, z2: Tensor, action: Tensor, keep: Tensor) -> Gaussian:
        """p(z1_t | z2_{t-1}, a_t), for first rows N(0, I)."""
        later = self.z1_prior(z2, action)
        return later.where(keep, Gaussian(torch.zeros_like(later.mean), torch.ones_like(later.std)))

    def _predict(self, z2: Tensor, action: Tensor, keep: Tensor) -> Tensor:
        """The predicted feature of a row before its observation, (..., F): the means of the prior."""
        z1 = self._prior(z2, action, keep).mean
        return torch.cat([z1, self.z2_later(z1, z2, action).where(keep, self.z2_first(z1)).mean], -1)

    def _dream_step(self, feat: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """One step of the prior; (N, F), (N, A), (N, F) -> (N, F)."""
        noise1, noise2 = noise.split([self.config.z1, self.config.z2], -1)
        z2 = feat[:, self.config.z1 :]
        with torch.autocast(feat.device.type, enabled=False):
            z1 = self.z1_prior(z2, action).sample(noise1)
            return torch.cat([z1, self.z2_later(z1, z2, action).sample(noise2)], -1)

    def _discount(self, feat: Tensor) -> Tensor:
        """(..., F) -> (...) probability that the episode continues after this state; one if nothing can end it."""
        if self.continue_head is None:
            return feat.new_ones(feat.shape[:-1])
        return torch.sigmoid(self.continue_head(feat))

    # --- learning -----------------------------------------------------------------------------------------------------

    def _losses(self, batch: Batch, path: Path) -> tuple[Metrics, Metrics]:
        """The negative ELBO, term by term: sums over the rows of a window, averaged over windows.

        The constants of the observations' densities (log std + 0.5 log 2 pi per value) are left out.
        """
        feat = path.feat()
        keep = later_rows(batch.is_first)  # (B, T)
        losses = {key: self._reconstruction(feat, key, batch.obs[key]) for key in (*self.pixel_keys, *self.vector_keys)}
        reward = self.reward_head(feat[:, :-1], batch.action[:, 1:], feat[:, 1:])
        log_prob = normal_log_prob(batch.reward[:, 1:, None], reward.mean, reward.std)
        losses["reward"] = -self.config.reward_scale * (log_prob * keep[:, 1:]).sum(1).mean()
        kl = self._kl(batch, path, keep)
        losses["kl"] = kl.sum(1).mean()
        if self.continue_head is not None:
            logit = self.continue_head(feat)
            error = F.binary_cross_entropy_with_logits(logit, 1.0 - batch.is_terminal, reduction="none")
            losses["continue"] = error.sum(1).mean()
        return losses, {"belief/kl": kl.mean().detach()}

    def _reconstruction(self, feat: Tensor, key: str, obs: Tensor) -> Tensor:
        """-log N(obs; decoded mean, decoder_std^2) summed over rows and values, averaged over windows."""
        target = to_blocks(obs).add_(0.5) if key in self.pixel_keys else obs.flatten(2).flatten(0, 1)
        error = self.decoders[key](feat.flatten(0, 1)).float() - target
        return error.square().sum() / (2.0 * self.config.decoder_std**2 * len(feat))

    def _kl(self, batch: Batch, path: Path, keep: Tensor) -> Tensor:
        """KL(q(z1_t | ...) || p(z1_t | ...)) (B, T), given the posterior's own z2_{t-1}; that of z2 is zero."""
        with torch.autocast(path.z2.device.type, enabled=False):  # as the posterior, or equal ones would differ
            prior = self.z1_prior(path.z2[:, :-1], batch.action[:, 1:])
        later = normal_kl(path.mean[:, 1:], path.std[:, 1:], *prior)
        first = normal_kl(path.mean, path.std, torch.zeros_like(path.mean), torch.ones_like(path.std))
        return torch.where(keep, F.pad(later, (1, 0)), first)


def later_rows(is_first: Tensor) -> Tensor:
    """(B, T) -> (B, T): whether a row has a predecessor in its window and its episode."""
    return F.pad(1.0 - is_first[:, 1:], (1, 0)) > 0


def contexts(embed: Tensor, action: Tensor, is_first: Tensor, history: int) -> Tensor:
    """The last ``history`` features and the actions between them, oldest first, for every row that has them.

    (B, T, E), (B, T, A), (B, T) -> (B, T - history + 1, history * E + (history - 1) * A). Everything before the first
    row of the episode is replaced by that row's features and by zero actions.
    """
    b, t = is_first.shape
    time = torch.arange(t, device=embed.device)
    start = (is_first * time).long().cummax(1).values[:, history - 1 :, None]  # (B, T', 1) where the episode began
    rows = time[history - 1 :, None] + torch.arange(1 - history, 1, device=embed.device)  # (T', history)
    windows = torch.arange(b, device=embed.device)[:, None, None]
    features = embed[windows, torch.maximum(rows, start)]  # (B, T', history, E)
    actions = action[:, rows[:, 1:]] * (rows[:, 1:] > start)[..., None]  # (B, T', history - 1, A)
    return torch.cat([features.flatten(2), actions.flatten(2)], -1)
