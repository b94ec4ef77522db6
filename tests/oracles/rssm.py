"""The recurrent state-space model (Hafner et al. 2019, 2020) and its evidence lower bound, SMAC eq. 22."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.oracles.plain import WIDE, Adam, Learner, Weights, count, linear, mlp, noise, normal_kl


def images(pixels: Tensor) -> Tensor:
    """(..., 64, 64, 3) uint8 -> (..., 3, 64, 64) in [-0.5, 0.5]."""
    return (pixels.to(WIDE) / 255.0 - 0.5).movedim(-1, -3)


def as_image(blocks: Tensor) -> Tensor:
    """The learned background (12, 32, 32), stored as 2 x 2 blocks -> (3, 64, 64)."""
    return blocks.reshape(2, 2, 3, 32, 32).permute(2, 3, 0, 4, 1).reshape(3, 64, 64)


def entropy(std: Tensor) -> Tensor:
    return (std.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


class RSSM(Learner):
    """deter = GRU(deter, [stoch, action]); prior p(stoch | deter), posterior q(stoch | deter, o); feat = both."""

    def __init__(self, state: Mapping[str, Tensor], config: Any) -> None:
        super().__init__(state)
        self.c = config
        self.adams["model"] = Adam(self.w.values(), config.lr, config.grad_clip, config.adam_eps)

    # --- networks -----------------------------------------------------------------------------------------------------

    def encode(self, obs: Mapping[str, Tensor]) -> Tensor:
        """(B, T, E): pixels by four convolutions of stride 2, vectors by an MLP."""
        found = []
        for key in sorted(obs, key=lambda key: obs[key].dtype != torch.uint8):
            x, name = obs[key], f"encoders.{key}"
            if x.dtype != torch.uint8:
                found.append(mlp(self.w, name, x.to(WIDE), "elu"))
                continue
            out = images(x).flatten(0, 1)
            for i in range(count(self.w, f"{name}.convs.") // 2):
                out = F.relu(F.conv2d(out, *conv(self.w, f"{name}.convs.{i}"), stride=2))
            found.append(out.flatten(1).unflatten(0, x.shape[:2]))
        return torch.cat(found, -1)

    def decode(self, key: str, feat: Tensor) -> Tensor:
        """The mean observation: (B, T, 3, 64, 64), or (B, T, D)."""
        name = f"decoders.{key}"
        if f"{name}.dense.weight" not in self.w:
            return mlp(self.w, name, feat, "elu")
        x, layers = linear(self.w, f"{name}.dense", feat.flatten(0, 1))[:, :, None, None], 4
        for i in range(layers):
            x = F.conv_transpose2d(x, *conv(self.w, f"{name}.convs.{i}"), stride=2)
            x = F.relu(x) if i < layers - 1 else x
        if f"{name}.background" in self.w:
            x = x + as_image(self.w[f"{name}.background"])
        return x.unflatten(0, feat.shape[:2])

    def gaussian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = x.chunk(2, -1)
        return mean, F.softplus(raw) + self.c.min_std

    def memory(self, stoch: Tensor, deter: Tensor, action: Tensor) -> Tensor:
        """The GRU, by its equations."""
        x = F.elu(linear(self.w, "state_in", torch.cat([stoch, action], -1)))
        w = self.w
        from_x = (x @ w["gru.weight_ih"].T + w["gru.bias_ih"]).chunk(3, -1)
        from_h = (deter @ w["gru.weight_hh"].T + w["gru.bias_hh"]).chunk(3, -1)
        reset, keep = torch.sigmoid(from_x[0] + from_h[0]), torch.sigmoid(from_x[1] + from_h[1])
        return (1 - keep) * torch.tanh(from_x[2] + reset * from_h[2]) + keep * deter

    def prior(self, deter: Tensor) -> tuple[Tensor, Tensor]:
        return self.gaussian(mlp(self.w, "prior_head", deter, "elu"))

    def goes_on(self, feat: Tensor) -> Tensor | None:
        """Logit that the episode does not end here, where the model has such a network."""
        return mlp(self.w, "continue_head", feat, "elu")[..., 0] if count(self.w, "continue_head.") else None

    # --- filtering ----------------------------------------------------------------------------------------------------

    def filter(self, embed: Tensor, rows: Any, drawn: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Posterior mean and std, draw, deterministic state of every row; ``drawn`` is (B, T, S)."""
        found = []
        stoch, deter = drawn.new_zeros(len(drawn), self.c.stoch), drawn.new_zeros(len(drawn), self.c.deter)
        for t in range(drawn.shape[1]):
            same = 1.0 - rows.is_first[:, t, None].to(WIDE)
            deter = self.memory(stoch * same, deter * same, rows.action[:, t].to(WIDE))
            hidden = F.elu(linear(self.w, "post_in", torch.cat([deter, embed[:, t]], -1)))
            mean, std = self.gaussian(linear(self.w, "post_out", hidden))
            stoch = mean + std * drawn[:, t]
            found.append((mean, std, stoch, deter))
        mean, std, stoch, deter = (torch.stack(parts, 1) for parts in zip(*found, strict=True))
        return mean, std, stoch, deter

    def filter_partly(self, rows: Any, seen: Mapping[str, Tensor], drawn: Tensor) -> Tensor:
        """Features (B, T, P, F) of P paths where only the entries ``seen`` are known; ``drawn`` is (B, T, P, S).

        What is lost is what the decoder says at the prior mean of the first path. Where all is lost, the prior stays.
        """
        b, steps, paths, _ = drawn.shape
        found, stoch, deter = [], drawn.new_zeros(b, paths, self.c.stoch), drawn.new_zeros(b, paths, self.c.deter)
        for t in range(steps):
            same, action = 1.0 - rows.is_first[:, t, None, None].to(WIDE), rows.action[:, t, None].to(WIDE)
            deter = self.memory(stoch * same, deter * same, action.expand(b, paths, -1))
            mean, std = self.prior(deter)
            guess = torch.cat([mean, deter], -1)[:, :1]
            known = {key: seen[key][:, t, None] for key in rows.obs}
            obs = {key: torch.where(known[key], x[:, t, None], self.picture(key, guess)) for key, x in rows.obs.items()}
            embed = self.encode(obs).expand(b, paths, -1)
            hidden = F.elu(linear(self.w, "post_in", torch.cat([deter, embed], -1)))
            post = self.gaussian(linear(self.w, "post_out", hidden))
            for i in range(b):
                if any(mask[i].any() for mask in known.values()):
                    mean, std = (
                        torch.cat([x[:i], y[i : i + 1], x[i + 1 :]]) for x, y in zip((mean, std), post, strict=True)
                    )
            stoch = mean + std * drawn[:, t]
            found.append(torch.cat([stoch, deter], -1))
        return torch.stack(found, 1)

    def picture(self, key: str, feat: Tensor) -> Tensor:
        """``decode`` as an observation: pixels (B, T, 64, 64, 3) uint8."""
        mean = self.decode(key, feat)
        return ((mean + 0.5) * 255).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1) if mean.dim() == 5 else mean

    def observe(self, rows: Any, particles: int, learn: bool = True) -> Any:
        """The belief, without the rows of the burn-in; learns if asked, and reports it in ``found``."""
        self.found = {}
        b, t = rows.reward.shape
        drawn = noise(t, b, self.c.stoch).transpose(0, 1)
        embed = self.encode(rows.obs)
        mean, std, stoch, deter = self.filter(embed, rows, drawn)
        feat = torch.cat([stoch, deter], -1)
        with torch.no_grad():
            more = self.draw_particles(embed, rows, mean, std, deter, particles)
            context = torch.cat([deter, embed], -1)
        known = slice(self.c.burn_in, None)
        belief = SimpleNamespace(
            feat=feat.detach()[:, known],
            particles=more[:, :, known],
            context=context[:, known],
            entropy=entropy(std.detach())[:, known],
        )
        if learn:
            losses = self.losses(rows, feat, mean, std, deter)
            self.found |= {f"loss/{name}": loss.detach() for name, loss in losses.items()}
            self.found["opt/model/grad_norm"] = self.adams["model"].step(sum(losses.values()))
        return belief

    def draw_particles(self, embed: Tensor, rows: Any, mean: Tensor, std: Tensor, deter: Tensor, k: int) -> Tensor:
        """Eq. 7: K further filtered paths; or K draws of each row's last state on the path that is there."""
        b, t = rows.reward.shape
        if k == 0:
            return embed.new_zeros(0, b, t, self.c.stoch + self.c.deter)
        if self.c.particles == "last_step":
            stoch = mean + std * noise(k, b, t, self.c.stoch)
            return torch.cat([stoch, deter.expand(k, *deter.shape)], -1)
        drawn = noise(t, k, b, self.c.stoch)
        paths = [self.filter(embed, rows, drawn[:, i].transpose(0, 1))[2:] for i in range(k)]
        return torch.stack([torch.cat(path, -1) for path in paths])

    # --- the bound ----------------------------------------------------------------------------------------------------

    def losses(self, rows: Any, feat: Tensor, mean: Tensor, std: Tensor, deter: Tensor) -> dict[str, Tensor]:
        """Eq. 22, negated, without the constants of the densities."""
        found, reward = {}, rows.reward.to(WIDE)
        for key, obs in rows.obs.items():
            goal = images(obs) if obs.dtype == torch.uint8 else obs.to(WIDE)
            found[key] = 0.5 * (self.decode(key, feat) - goal).square().flatten(2).sum(-1).mean()
        predicted = mlp(self.w, "reward_head", feat, "elu")[..., 0]
        found["reward"] = self.c.reward_scale * 0.5 * (predicted - reward).square().mean()
        kl, least = normal_kl(mean, std, *self.prior(deter)), self.c.free_nats
        each = self.c.free_nats_per_element
        found["kl"] = self.c.kl_scale * (kl.clamp(min=least).mean() if each else kl.mean().clamp(min=least))
        logit = self.goes_on(feat)
        if logit is not None:
            lives = 1.0 - rows.is_terminal.to(WIDE)
            found["continue"] = -(lives * F.logsigmoid(logit) + (1 - lives) * F.logsigmoid(-logit)).mean()
        return found

    # --- dreaming -----------------------------------------------------------------------------------------------------

    def imagine(self, feat: Tensor, actor: Callable[[Tensor], Tensor], horizon: int) -> tuple[Tensor, Tensor, Tensor]:
        """feat (H + 1, N, F), reward and probability to go on (H + 1, N), of the prior under an actor."""
        drawn, feats = noise(horizon, len(feat), self.c.stoch), [feat]
        for t in range(horizon):
            stoch, deter = feats[-1][:, : self.c.stoch], feats[-1][:, self.c.stoch :]
            deter = self.memory(stoch, deter, actor(feats[-1]))
            mean, std = self.prior(deter)
            feats.append(torch.cat([mean + std * drawn[t], deter], -1))
        dream = torch.stack(feats)
        logit = self.goes_on(dream)
        lives = torch.ones_like(dream[..., 0]) if logit is None else torch.sigmoid(logit)
        return dream, mlp(self.w, "reward_head", dream, "elu")[..., 0], lives


def conv(w: Weights, name: str) -> tuple[Tensor, Tensor]:
    return w[f"{name}.weight"], w[f"{name}.bias"]
