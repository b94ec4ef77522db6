"""The two-level latent model of SLAC (Lee et al., NeurIPS 2020, arXiv 1907.00953): one window, one row at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.oracles.plain import WIDE, Adam, Learner, count, inverse_softplus, mlp, noise, normal_kl, normal_log_prob
from tests.oracles.rssm import as_image, conv, entropy

PLAIN_STD = 0.6931471805599453  # softplus(0)


class Gaussian(NamedTuple):
    mean: Tensor
    std: Tensor


class Filtered(NamedTuple):
    """One window, one path: what each row has."""

    feat: list[Tensor]
    entropy: list[Tensor]
    kl: list[Tensor]
    reward: list[Tensor]  # log-densities, of rows that follow another


class SLAC(Learner):
    """z1 and z2 of every row; the networks of z2 are those of prior and posterior."""

    def __init__(self, state: Mapping[str, Tensor], config: Any) -> None:
        super().__init__(state)
        self.c = config
        self.adams["model"] = Adam(self.w.values(), config.lr, config.grad_clip, config.adam_eps)

    # --- networks -----------------------------------------------------------------------------------------------------

    def gaussian(self, name: str, *inputs: Tensor) -> Gaussian:
        """Two layers of leaky ReLU; the standard deviation starts at ``init_std``, the reward's at softplus(0)."""
        mean, raw = mlp(self.w, f"{name}.net", torch.cat(inputs, -1), "leaky_relu").chunk(2, -1)
        start = PLAIN_STD if name == "reward_head" else self.c.init_std
        return Gaussian(mean, F.softplus(raw + inverse_softplus(start)) + 1e-5)

    def encode(self, obs: Mapping[str, Tensor]) -> Tensor:
        """(T, E) of one window: pixels in [0, 1] by five convolutions, vectors by an MLP."""
        found = []
        for key in sorted(obs, key=lambda key: obs[key].dtype != torch.uint8):
            x, name = obs[key], f"encoders.{key}"
            if x.dtype != torch.uint8:
                found.append(mlp(self.w, name, x.to(WIDE), "leaky_relu"))
                continue
            out, layers = (x.to(WIDE) / 255.0).movedim(-1, -3), count(self.w, f"{name}.convs.") // 2
            for i in range(layers - 1):
                weight, bias = conv(self.w, f"{name}.convs.{i}")
                out = F.leaky_relu(F.conv2d(out, weight, bias, stride=2, padding=weight.shape[-1] // 2), 0.2)
            out = F.leaky_relu(F.conv2d(out, *conv(self.w, f"{name}.convs.{layers - 1}")), 0.2)
            found.append(out.flatten(1))
        return torch.cat(found, -1)

    def decode(self, key: str, feat: Tensor) -> Tensor:
        """(T, F) -> the mean observations: (T, 3, 64, 64) in [0, 1], or (T, D)."""
        name = f"decoders.{key}"
        if f"{name}.convs.0.weight" not in self.w:
            return mlp(self.w, name, feat, "leaky_relu")
        x = F.leaky_relu(F.conv_transpose2d(feat[:, :, None, None], *conv(self.w, f"{name}.convs.0")), 0.2)
        for i in range(1, count(self.w, f"{name}.convs.") // 2):
            weight, bias = conv(self.w, f"{name}.convs.{i}")
            size = weight.shape[-1]
            x = F.conv_transpose2d(x, weight, bias, stride=2, padding=size // 2, output_padding=1)
            x = F.leaky_relu(x, 0.2)
        return x + as_image(self.w[f"{name}.background"]) if f"{name}.background" in self.w else x

    # --- filtering ----------------------------------------------------------------------------------------------------

    def filter(self, embed: Tensor, rows: Any, drawn: Tensor) -> Filtered:
        """One window: embed (T, E), drawn (T, Z1 + Z2)."""
        d, found, before = self.c.z1, Filtered([], [], [], []), None
        for t, f in enumerate(embed):
            action = rows.action[t].to(WIDE)
            if before is None or rows.is_first[t]:
                before = None
                prior, post = Gaussian(f.new_zeros(d), f.new_ones(d)), self.gaussian("z1_first", f)
            else:
                prior = self.gaussian("z1_prior", before[d:], action)
                post = self.gaussian("z1_posterior", f, before[d:], action)
            z1 = post.mean + post.std * drawn[t, :d]
            second = (
                self.gaussian("z2_first", z1) if before is None else self.gaussian("z2_later", z1, before[d:], action)
            )
            feat = torch.cat([z1, second.mean + second.std * drawn[t, d:]])
            if before is not None:
                reward = self.gaussian("reward_head", before, action, feat)
                found.reward.append(normal_log_prob(rows.reward[t, None].to(WIDE), *reward))
            found.kl.append(normal_kl(*post, *prior))
            found.entropy.append(entropy(post.std) + entropy(second.std))
            found.feat.append(feat)
            before = feat
        return found

    def filter_partly(self, rows: Any, seen: Mapping[str, Tensor], drawn: Tensor) -> tuple[Tensor, Tensor]:
        """One window of which only the entries ``seen`` are known: features (T, P, F) of P paths, embeddings (T, E).

        What is lost is what the decoder says at the prior means of the first path. Where all is lost, z1 keeps its
        prior. ``drawn`` is (T, P, F).
        """
        d, paths = self.c.z1, drawn.shape[1]
        found, embeds, before = [], [], drawn[0]
        for t, action in enumerate(rows.action.to(WIDE).unbind()):
            first = t == 0 or bool(rows.is_first[t])
            old, act = before[:, d:], action.expand(paths, -1)
            prior = (
                Gaussian(drawn.new_zeros(paths, d), drawn.new_ones(paths, d))
                if first
                else self.gaussian("z1_prior", old, act)
            )

            def second(z1: Tensor, first: bool = first, old: Tensor = old, act: Tensor = act) -> Gaussian:
                return self.gaussian("z2_first", z1) if first else self.gaussian("z2_later", z1, old, act)

            guess = torch.cat([prior.mean, second(prior.mean).mean], -1)[:1]
            obs = {
                key: torch.where(seen[key][t, None], x[t, None], self.picture(key, guess))
                for key, x in rows.obs.items()
            }
            embeds.append(self.encode(obs))
            f = embeds[-1].expand(paths, -1)
            post = self.gaussian("z1_first", f) if first else self.gaussian("z1_posterior", f, old, act)
            one = post if any(seen[key][t].any() for key in rows.obs) else prior
            z1 = one.mean + one.std * drawn[t, :, :d]
            z2 = second(z1)
            before = torch.cat([z1, z2.mean + z2.std * drawn[t, :, d:]], -1)
            found.append(before)
        return torch.stack(found), torch.cat(embeds)

    def picture(self, key: str, feat: Tensor) -> Tensor:
        """``decode`` as an observation: pixels (T, 64, 64, 3) uint8."""
        mean = self.decode(key, feat)
        return (mean * 255).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1) if mean.dim() == 4 else mean

    def context(self, embed: Tensor, rows: Any) -> Tensor:
        """Features of the last rows and the actions between them; the first frame of an episode is repeated."""
        found, start, h = [], 0, self.c.history
        for t in range(len(embed)):
            start = t if rows.is_first[t] else start
            times = range(t - h + 1, t + 1)
            features = [embed[max(k, start)] for k in times]
            actions = [rows.action[k].to(WIDE) * float(k > start) for k in times[1:]]
            if t >= h - 1:
                found.append(torch.cat([*features, *actions]))
        return torch.stack(found)

    def observe(self, rows: Any, particles: int, learn: bool = True) -> Any:
        """The belief of the rows that have a whole history; the first ``model_batch`` windows are learned from."""
        self.found = {}
        b, t = rows.reward.shape
        learned = min(self.c.model_batch or b, b) if learn else 0
        size = self.c.z1 + self.c.z2
        drawn = torch.cat([noise(t, learned, size), noise(t, b - learned, size)], 1)
        windows = [window(rows, n) for n in range(b)]
        embeds = [self.encode(one.obs) for one in windows]
        paths = [self.filter(embeds[n], windows[n], drawn[:, n]) for n in range(b)]
        known = self.c.history - 1
        with torch.no_grad():
            more = noise(t, particles, b, size) if particles else torch.zeros(t, 0, b, size)
            extra = [
                torch.stack([torch.stack(self.filter(embeds[n], windows[n], more[:, k, n]).feat) for n in range(b)])
                for k in range(particles)
            ]
            feat = torch.stack([torch.stack(path.feat) for path in paths])
            belief = SimpleNamespace(
                feat=feat[:, known:],
                particles=(torch.stack(extra) if extra else feat.new_zeros(0, *feat.shape))[:, :, known:],
                context=torch.stack([self.context(e, w) for e, w in zip(embeds, windows, strict=True)]),
                entropy=torch.stack([torch.stack(path.entropy) for path in paths])[:, known:],
            )
        if learn:
            each = [self.losses(windows[n], paths[n]) for n in range(learned)]
            losses = {name: torch.stack([terms[name] for terms in each]).mean() for name in each[0]}
            self.found |= {f"loss/{name}": loss.detach() for name, loss in losses.items()}
            self.found["opt/model/grad_norm"] = self.adams["model"].step(sum(losses.values()))
        return belief

    def imagine(self, feat: Tensor, actor: Callable[[Tensor], Tensor], horizon: int) -> tuple[Tensor, Tensor, Tensor]:
        """feat (H + 1, N, F), reward and probability to go on (H + 1, N), of the prior; the first reward is zero."""
        drawn, feats, rewards, d = noise(horizon, *feat.shape), [feat], [torch.zeros_like(feat[:, 0])], self.c.z1
        for t in range(horizon):
            before, action = feats[-1], actor(feats[-1])
            first = self.gaussian("z1_prior", before[:, d:], action)
            z1 = first.mean + first.std * drawn[t, :, :d]
            second = self.gaussian("z2_later", z1, before[:, d:], action)
            feats.append(torch.cat([z1, second.mean + second.std * drawn[t, :, d:]], -1))
            rewards.append(self.gaussian("reward_head", before, action, feats[-1]).mean[:, 0])
        dream, lives = torch.stack(feats), torch.ones_like(torch.stack(rewards))
        if count(self.w, "continue_head."):
            lives = torch.sigmoid(mlp(self.w, "continue_head", dream, "leaky_relu")[..., 0])
        return dream, torch.stack(rewards), lives

    def losses(self, rows: Any, path: Filtered) -> dict[str, Tensor]:
        """The negative bound of one window: sums over its rows, without the constants of the observations."""
        feat, found = torch.stack(path.feat), {}
        for key, obs in rows.obs.items():
            goal = (obs.to(WIDE) / 255.0).movedim(-1, -3) if obs.dtype == torch.uint8 else obs.to(WIDE)
            found[key] = (self.decode(key, feat) - goal).square().sum() / (2 * self.c.decoder_std**2)
        found["reward"] = -self.c.reward_scale * torch.stack(path.reward).sum()
        found["kl"] = torch.stack(path.kl).sum()
        if count(self.w, "continue_head."):
            logit = mlp(self.w, "continue_head", feat, "leaky_relu")[:, 0]
            lives = 1.0 - rows.is_terminal.to(WIDE)
            found["continue"] = -(lives * F.logsigmoid(logit) + (1 - lives) * F.logsigmoid(-logit)).sum()
        return found


def window(rows: Any, n: int) -> Any:
    """One window of a batch."""
    return SimpleNamespace(
        obs={key: value[n] for key, value in rows.obs.items()},
        action=rows.action[n],
        reward=rows.reward[n],
        is_first=rows.is_first[n],
        is_terminal=rows.is_terminal[n],
    )
