"""Recurrent state-space model (Hafner et al. 2019, 2020), the belief of SMAC, Latent-SAC and Dreamer.

    deter_t = GRU(deter_{t-1}, [stoch_{t-1}, a_t])           a_t is the action that led to o_t
    prior      p(stoch_t | deter_t)
    posterior  q(stoch_t | deter_t, o_t)
    feat_t  = [stoch_t, deter_t]

Trained on the evidence lower bound of SMAC eq. 22. The recurrence is under one per cent of the arithmetic but strictly
sequential, so everything that does not depend on the state is hoisted out of the loop: the encoder, the projections of
embedding and action into their first layers, the noise, and (after the loop) the prior.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from worldrl.fields import AnySamples, Layers, NotNegative, Positive, Rate, Width
from worldrl.nn.conv import ImageDecoder, ImageEncoder, check_images, to_blocks, to_pixels
from worldrl.nn.functional import elu_, normal_entropy, normal_kl
from worldrl.nn.lost import impute, is_dark, tells
from worldrl.nn.mlp import MLP, ExactMLP, ScalarMLP, xavier
from worldrl.nn.products import gru, layer, linear
from worldrl.types import NOISE, Batch, Belief, BeliefModel, EnvSpec, Metrics, Noise, Obs, Rollout, State


class Posterior(NamedTuple):
    """One filtered path; leading axes (..., T)."""

    mean: Tensor  # (..., S)
    std: Tensor  # (..., S)
    stoch: Tensor  # (..., S)
    deter: Tensor  # (..., D)

    def feat(self) -> Tensor:
        return torch.cat([self.stoch, self.deter], -1)


class RSSM(BeliefModel):
    """The world model. Defaults are the sizes of the SMAC release; ``reward_units=400`` gives Dreamer's."""

    @dataclass(frozen=True)
    class Config:
        stoch: Width = 30
        deter: Width = 200
        hidden: Width = 200
        depth: Width = 32  # CNN channels
        background: bool = False  # learn a constant image in addition to the decoder; for small decoders
        init: Literal["default", "xavier"] = "default"  # xavier: with zero bias, on all layers except the GRU
        reward_units: Width = 300
        reward_scale: NotNegative = 1.0  # weight of the reward's loss; 10 in PlaNet
        vector_units: Width = 200  # width of encoders and decoders of state vectors
        vector_layers: Layers = 2
        min_std: Positive = 0.1
        free_nats: NotNegative = 3.0
        free_nats_per_element: bool = False  # False: clip after averaging over (B, T); True: clip each KL, then average
        kl_scale: NotNegative = 1.0
        continue_predictor: Literal["auto", "on", "off"] = "auto"  # auto: on if the task terminates
        burn_in: AnySamples = 0  # leading rows of a slice that only warm up the state: the head does not get them
        particles: Literal["history", "last_step"] = "history"  # re-run the filter, or only redraw the last state
        lr: Rate = 6e-4
        grad_clip: NotNegative = 100.0
        adam_eps: Positive = 1e-8

    config: RSSM.Config
    imputes = True
    free = ("burn_in", "particles")
    tiny: ClassVar[dict[str, Any]] = {
        "stoch": 4,
        "deter": 8,
        "hidden": 8,
        "depth": 2,
        "reward_units": 8,
        "vector_units": 8,
    }

    def __init__(self, config: RSSM.Config, spec: EnvSpec) -> None:
        super().__init__()
        c = self.config = config
        self.lost_rows = c.burn_in
        self.feat_dim = c.stoch + c.deter
        self.vector_keys = [key for key, obs in spec.obs.items() if obs.dtype == "float32"]
        self.pixel_keys = [key for key, obs in spec.obs.items() if obs.dtype == "uint8"]
        self.shapes = {key: obs.shape for key, obs in spec.obs.items()}
        check_images(spec)
        self._build_observation_nets(spec)
        self.context_dim = c.deter + self.embed_dim
        self.state_in = nn.Linear(c.stoch + spec.action_dim, c.hidden)
        self.gru = nn.GRUCell(c.hidden, c.deter)
        self.prior_head = MLP(c.deter, c.hidden, 1, 2 * c.stoch)
        self.post_in = nn.Linear(c.deter + self.embed_dim, c.hidden)
        self.post_out = nn.Linear(c.hidden, 2 * c.stoch)
        self.reward_head = ScalarMLP(self.feat_dim, c.reward_units, 2)
        use_continue = c.continue_predictor == "on" or (c.continue_predictor == "auto" and spec.terminates)
        self.continue_head = ScalarMLP(self.feat_dim, c.reward_units, 2) if use_continue else None
        if c.init == "xavier":
            self.apply(xavier)

    def _build_observation_nets(self, spec: EnvSpec) -> None:
        c = self.config
        self.encoders, self.decoders = nn.ModuleDict(), nn.ModuleDict()
        self.embed_dim = 0
        for key in self.pixel_keys:
            self.encoders[key] = ImageEncoder(c.depth)
            self.decoders[key] = ImageDecoder(self.feat_dim, c.depth, c.background)
            self.embed_dim += 32 * c.depth
        for key in self.vector_keys:
            size = math.prod(spec.obs[key].shape)
            self.encoders[key] = MLP(size, c.vector_units, c.vector_layers, c.vector_units)
            self.decoders[key] = ExactMLP(self.feat_dim, c.vector_units, c.vector_layers, size)
            self.embed_dim += c.vector_units

    # --- the contract -------------------------------------------------------------------------------------------------

    def initial(self, batch: int, particles: int = 0) -> State:
        """All-zero state of ``1 + particles`` parallel paths; ``feat`` follows path 0."""
        zeros = next(self.parameters()).new_zeros
        return {
            "stoch": zeros(batch, 1 + particles, self.config.stoch),
            "deter": zeros(batch, 1 + particles, self.config.deter),
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

        Lost entries of ``obs`` (``SEEN``) are imputed by the decoder's mean at the prior mean of path 0. A row without
        any reading takes the prior in place of the posterior.
        """
        draws = noise.normal(state["stoch"].shape, 0, state["stoch"])  # (B, 1 + K, S)
        if deterministic:
            draws[:, 0] = 0.0
        keep = (1.0 - is_first)[:, None, None]
        with torch.autocast(draws.device.type, enabled=False):
            deter = self._memory(state["stoch"], state["deter"], self._action_part(prev_action[:, None]), keep)
            embed, mean, std = self._see_partly(deter, obs) if tells(obs) else self._see(deter, obs)
        post = Posterior(mean, std, mean + std * draws, deter)
        feat = post.feat()
        context = torch.cat([post.deter[:, 0], embed], -1)
        belief = Belief(feat[:, 0], feat[:, 1:].transpose(0, 1), context, normal_entropy(post.std[:, 0]))
        return {"stoch": post.stoch, "deter": post.deter}, belief

    def observe(self, batch: Batch, particles: int, learn: bool = True) -> tuple[Belief, Metrics, Metrics]:
        """Filter (B, T) rows from an all-zero state; see ``BeliefModel.observe``."""
        targets = self._targets(batch.obs)
        embed = self._encode(targets).unflatten(0, batch.reward.shape)  # (B, T, E)
        post = self._filter(embed, batch)
        feat = post.feat()
        losses, metrics = self._losses(batch, targets, post, feat) if learn else ({}, {})
        with torch.no_grad():
            draws = self._draw_particles(embed, batch, post, particles)
            context = torch.cat([post.deter, embed], -1)
        known = slice(self.config.burn_in, None)
        entropy = normal_entropy(post.std.detach())
        belief = Belief(feat.detach()[:, known], draws[:, :, known], context[:, known], entropy[:, known])
        return belief, losses, metrics

    @torch.no_grad()
    def decode(self, feat: Tensor) -> Obs:
        """(..., F) -> mean observations: pixels (..., 64, 64, 3) uint8, vectors (..., D)."""
        lead = feat.shape[:-1]
        flat = feat.reshape(-1, self.feat_dim)
        obs: Obs = {key: to_pixels(self.decoders[key](flat), lead) for key in self.pixel_keys}
        obs.update(
            {key: self.decoders[key](flat).float().reshape(*lead, *self.shapes[key]) for key in self.vector_keys}
        )
        return obs

    @torch.no_grad()
    def surprise(self, batch: Batch) -> Tensor:
        """See ``Surprises``; uses one filtered path from an all-zero state."""
        embed = self._encode(self._targets(batch.obs)).unflatten(0, batch.reward.shape)
        return self._kl(self._filter(embed, batch))

    def imagine(self, feat: Tensor, actor: Callable[[Tensor], Tensor], horizon: int) -> Rollout:
        """Dream ``horizon`` steps of the prior from every feat (N, F); see ``Imagines``.

        Only the transition depends on the actor: noise is drawn before, rewards and ends are predicted afterwards.
        """
        noise = torch.randn(horizon, len(feat), self.config.stoch, device=feat.device)
        feats, actions = [feat], []
        for step_noise in noise.unbind():
            actions.append(actor(feats[-1]))
            feats.append(self._dream_step(feats[-1], actions[-1], step_noise))
        dream = torch.stack(feats)  # (H + 1, N, F)
        reward = self.reward_head(dream)
        return Rollout(dream, torch.stack(actions), reward, self._discount(dream))

    # --- encoding -----------------------------------------------------------------------------------------------------

    def _targets(self, obs: Obs) -> Obs:
        """The observations to encode and to decode: pixels as (N, 12, 32, 32) blocks, vectors as (N, D)."""
        targets: Obs = {key: to_blocks(obs[key]) for key in self.pixel_keys}
        targets.update({key: obs[key].reshape(-1, math.prod(self.shapes[key])) for key in self.vector_keys})
        return targets

    def _encode(self, targets: Obs) -> Tensor:
        """-> (N, E) float32"""
        return torch.cat([self.encoders[key](target).float() for key, target in targets.items()], -1)

    # --- filtering ----------------------------------------------------------------------------------------------------

    def _action_part(self, action: Tensor) -> Tensor:
        """The action's contribution to the first layer before the GRU, (..., hidden)."""
        return linear(action, self.state_in.weight[:, self.config.stoch :], self.state_in.bias).float()

    def _embed_part(self, embed: Tensor) -> Tensor:
        """The observation's contribution to the first layer of the posterior, (..., hidden)."""
        return linear(embed, self.post_in.weight[:, self.config.deter :], self.post_in.bias).float()

    def _memory(self, stoch: Tensor, deter: Tensor, action_part: Tensor, keep: Tensor) -> Tensor:
        """deter_t; leading axes broadcast; ``keep`` is 0 on first rows."""
        x = F.elu(linear(stoch * keep, self.state_in.weight[:, : self.config.stoch]) + action_part)
        return gru(self.gru, x, deter * keep)

    def _posterior(self, deter: Tensor, embed_part: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(stoch_t | deter_t, o_t); leading axes broadcast."""
        h = F.elu(linear(deter, self.post_in.weight[:, : self.config.deter]) + embed_part)
        return self._gaussian(layer(self.post_out, h))

    def _see(self, deter: Tensor, obs: Obs) -> tuple[Tensor, Tensor, Tensor]:
        """Embedding (B, E) of a row, and the posterior's mean and standard deviation on every path (B, 1 + K, S)."""
        embed = self._encode(self._targets(obs))
        return embed, *self._posterior(deter, self._embed_part(embed[:, None]))

    def _see_partly(self, deter: Tensor, obs: Obs) -> tuple[Tensor, Tensor, Tensor]:
        """``_see`` for a row with masks of what is lost."""
        prior = self._gaussian(self.prior_head(deter))
        predicted = self.decode(torch.cat([prior[0], deter], -1)[:, 0])
        embed, *posterior = self._see(deter, impute(obs, predicted))
        dark = is_dark(obs)[:, None, None]
        mean, std = (torch.where(dark, *both) for both in zip(prior, posterior, strict=True))
        return embed, mean, std

    def _gaussian(self, stats: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = stats.float().chunk(2, -1)
        return mean, F.softplus(raw) + self.config.min_std

    def _filter(self, embed: Tensor, batch: Batch, paths: tuple[int, ...] = ()) -> Posterior:
        """Run the filter over (B, T) rows, on ``paths`` independent copies if asked -> (*paths, B, T, .)."""
        b, t = batch.reward.shape
        noise = torch.randn(t, *paths, b, self.config.stoch, device=embed.device)
        action_part = self._action_part(batch.action.transpose(0, 1))  # (T, B, hidden)
        embed_part = self._embed_part(embed.transpose(0, 1))  # (T, B, hidden)
        keep = (1.0 - batch.is_first).T[..., None]  # (T, B, 1)
        stoch = embed.new_zeros(*paths, b, self.config.stoch)
        deter = embed.new_zeros(*paths, b, self.config.deter)
        steps = []
        rows = (x.unbind() for x in (action_part, embed_part, keep, noise))
        with torch.autocast(embed.device.type, enabled=False):  # the recurrent state stays float32
            for action_t, embed_t, keep_t, noise_t in zip(*rows, strict=True):
                deter = self._memory(stoch, deter, action_t, keep_t)
                mean, std = self._posterior(deter, embed_t)
                stoch = mean + std * noise_t
                steps.append(Posterior(mean, std, stoch, deter))
        return Posterior(*(torch.stack(parts, -2) for parts in zip(*steps, strict=True)))

    def _draw_particles(self, embed: Tensor, batch: Batch, post: Posterior, k: int) -> Tensor:
        """K more draws of the state, (K, B, T, F).

        ``history`` re-runs the filter, so each particle is an independent path and the marginal is over the whole
        history (SMAC eq. 7); ``last_step`` keeps the path and only redraws the last stochastic state.
        """
        if k == 0:
            return post.stoch.new_zeros(0, *post.stoch.shape[:-1], self.feat_dim)
        if self.config.particles == "history":
            return self._filter(embed, batch, (k,)).feat()
        stoch = post.mean + post.std * torch.randn(k, *post.mean.shape, device=post.mean.device)
        return torch.cat([stoch, post.deter.expand(k, *post.deter.shape)], -1)

    # --- imagining ----------------------------------------------------------------------------------------------------

    def _dream_step(self, feat: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """One step of p(stoch_t | deter_t); (N, F), (N, A), (N, S) -> (N, F)."""
        stoch, deter = feat.split([self.config.stoch, self.config.deter], -1)
        with torch.autocast(feat.device.type, enabled=False):  # the recurrent state stays float32
            deter = gru(self.gru, elu_(layer(self.state_in, torch.cat([stoch, action], -1))), deter)
            mean, std = self._gaussian(self.prior_head(deter))
        return torch.cat([mean + std * noise, deter], -1)

    def _discount(self, feat: Tensor) -> Tensor:
        """(..., F) -> (...) probability that the episode continues after this state; one if nothing can end it."""
        if self.continue_head is None:
            return feat.new_ones(feat.shape[:-1])
        return torch.sigmoid(self.continue_head(feat))

    # --- learning -----------------------------------------------------------------------------------------------------

    def _losses(self, batch: Batch, targets: Obs, post: Posterior, feat: Tensor) -> tuple[Metrics, Metrics]:
        """The negative ELBO, eq. 22, term by term. Constants (0.5 log 2 pi per value) are left out."""
        c = self.config
        flat = rearrange(feat, "b t f -> (b t) f")
        losses = {key: self._reconstruction(flat, key, targets[key]) for key in (*self.pixel_keys, *self.vector_keys)}
        reward = self.reward_head(feat)
        losses["reward"] = c.reward_scale * 0.5 * (reward - batch.reward).square().mean()
        kl = self._kl(post)
        losses["kl"] = c.kl_scale * self._free_nats(kl)
        if self.continue_head is not None:
            logit = self.continue_head(feat)
            losses["continue"] = F.binary_cross_entropy_with_logits(logit, 1.0 - batch.is_terminal)
        return losses, {"belief/kl": kl.mean().detach()}

    def _kl(self, post: Posterior) -> Tensor:
        """KL(posterior || prior) (..., T)."""
        with torch.autocast(post.deter.device.type, enabled=False):  # as the posterior, or equal ones would differ
            return normal_kl(post.mean, post.std, *self._gaussian(self.prior_head(post.deter)))

    def _reconstruction(self, flat: Tensor, key: str, target: Tensor) -> Tensor:
        """-log N(target; decoded mean, 1) summed over the observation, averaged over rows."""
        error = self.decoders[key](flat).float() - target
        return 0.5 * error.square().sum() / len(flat)

    def _free_nats(self, kl: Tensor) -> Tensor:
        """Below ``free_nats`` the KL has no gradient: clipped on average (TF2 Dreamer, SMAC) or per element (TF1)."""
        if self.config.free_nats_per_element:
            return kl.clamp(min=self.config.free_nats).mean()
        return kl.mean().clamp(min=self.config.free_nats)
