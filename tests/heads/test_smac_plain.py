"""Whole updates of SMAC from images, beside a second implementation of them: plain layers, plain Adam, float64.

It shares with the package the weights at the start and the order in which noise is drawn, nothing else. Errors between
the parts (a gradient that reaches the wrong weight, an optimiser without some of them, a row off by one) show here.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence
from torch.nn import functional as F

from worldrl.agent import Agent
from worldrl.config import config_from_dict
from worldrl.training.speed import make_update
from worldrl.types import Batch, EnvSpec, ObsSpec

A, K, S, D, H = 3, 4, 6, 20, 18  # action, particles, stochastic and deterministic state, hidden units
DEPTH, UNITS, BURN_IN, MIN_STD = 8, 24, 2, 0.1
LR, GAMMA, TAU, KL_SCALE, REWARD_SCALE, HEAD_CLIP, MODEL_EVERY = 1e-3, 0.99, 0.02, 0.3, 10.0, 0.5, 2
EMBEDDING, FEAT = 32 * DEPTH, S + D
WIDE = torch.float64
UPDATES = 6

SETTINGS = {
    "device": "cpu",
    "belief.name": "rssm",
    "belief.stoch": S,
    "belief.deter": D,
    "belief.hidden": H,
    "belief.depth": DEPTH,
    "belief.reward_units": UNITS,
    "belief.burn_in": BURN_IN,
    "belief.min_std": MIN_STD,
    "belief.kl_scale": KL_SCALE,
    "belief.free_nats": 0.0,
    "belief.reward_scale": REWARD_SCALE,
    "belief.background": True,
    "belief.lr": LR,
    "head.name": "smac",
    "head.num_particles": K,
    "head.units": UNITS,
    "head.actor_layers": 2,
    "head.critic_layers": 2,
    "head.init_std": 1.0,
    "head.init_alpha": 0.1,
    "head.grad_clip": HEAD_CLIP,
    "head.gamma": GAMMA,
    "head.tau": TAU,
    "head.actor_lr": LR,
    "head.critic_lr": LR,
    "head.alpha_lr": LR,
    "schedule.model_every": MODEL_EVERY,
}


def rows(seed: int, b: int = 5, t: int = 9) -> Batch:
    """Random windows in which episodes begin in some rows, half of them after a terminal row."""
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (b, t, 64, 64, 3), generator=rng, dtype=torch.uint8)
    first = (torch.rand(b, t, generator=rng) < 0.15).float()
    terminal = torch.zeros(b, t)
    terminal[:, :-1] = first[:, 1:] * (torch.rand(b, t - 1, generator=rng) < 0.5)
    action = 2.0 * torch.rand(b, t, A, generator=rng) - 1.0
    reward = torch.randn(b, t, generator=rng)
    return Batch(
        {"pixels": pixels}, action * (1 - first)[..., None], reward * (1 - first), first, terminal * (1 - first)
    )


# --- the second implementation ----------------------------------------------------------------------------------------


class Dense(nn.Module):
    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for linear in self.linears[:-1]:
            x = F.elu(linear(x))
        return self.linears[-1](x)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        channels = (3, DEPTH, 2 * DEPTH, 4 * DEPTH, 8 * DEPTH)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 4, 2) for a, b in pairwise(channels))

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.relu(conv(x))
        return x.flatten(1)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(FEAT, EMBEDDING)
        channels, kernels = (EMBEDDING, 4 * DEPTH, 2 * DEPTH, DEPTH, 3), (5, 5, 6, 6)
        layers = zip(channels, channels[1:], kernels, strict=False)
        self.convs = nn.ModuleList(nn.ConvTranspose2d(a, b, k, 2) for a, b, k in layers)
        self.background = nn.Parameter(torch.zeros(12, 32, 32))

    def forward(self, feat: Tensor) -> Tensor:
        x = self.dense(feat)[:, :, None, None]
        for conv in self.convs[:-1]:
            x = F.relu(conv(x))
        background = self.background.reshape(2, 2, 3, 32, 32).permute(2, 3, 0, 4, 1).reshape(3, 64, 64)
        return self.convs[-1](x) + background


class World(nn.Module):
    """The RSSM; its weights have the names of the package's."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"pixels": Encoder()})
        self.decoders = nn.ModuleDict({"pixels": Decoder()})
        self.state_in, self.gru = nn.Linear(S + A, H), nn.GRUCell(H, D)
        self.prior_head = Dense(D, H, 2 * S)
        self.post_in, self.post_out = nn.Linear(D + EMBEDDING, H), nn.Linear(H, 2 * S)
        self.reward_head, self.continue_head = Dense(FEAT, UNITS, UNITS, 1), Dense(FEAT, UNITS, UNITS, 1)

    def filter(self, embedding: Tensor, batch: Batch, noise: Tensor) -> tuple[Normal, Tensor, Tensor]:
        """Posterior, draw and deterministic state of every row; ``embedding`` and ``noise`` are (B, T, .)."""
        filtered = []
        s, d = noise.new_zeros(len(noise), S), noise.new_zeros(len(noise), D)
        for t in range(noise.shape[1]):
            goes_on = 1.0 - batch.is_first[:, t, None].to(WIDE)
            joint = torch.cat([s * goes_on, batch.action[:, t].to(WIDE)], -1)
            d = self.gru(F.elu(self.state_in(joint)), d * goes_on)
            post = normal(self.post_out(F.elu(self.post_in(torch.cat([d, embedding[:, t]], -1)))))
            s = post.mean + post.stddev * noise[:, t]
            filtered.append((post.mean, post.stddev, s, d))
        mean, std, draws, memory = (torch.stack(values, 1) for values in zip(*filtered, strict=True))
        return Normal(mean, std), draws, memory


def normal(x: Tensor) -> Normal:
    mean, raw = x.chunk(2, -1)
    return Normal(mean, F.softplus(raw) + MIN_STD)


class Policy(nn.Module):
    """A tanh-Gaussian whose mean is within ±5."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Dense(FEAT, UNITS, UNITS, 2 * A)

    def forward(self, feat: Tensor) -> Independent:
        mean, raw = self.net(feat).chunk(2, -1)
        return Independent(Normal(5.0 * torch.tanh(mean / 5.0), F.softplus(raw + math.log(math.e - 1.0)) + 1e-4), 1)


def log_density(base: Independent, u: Tensor) -> Tensor:
    """Of the action tanh(u)."""
    return base.log_prob(u) - torch.log1p(-torch.tanh(u).square()).sum(-1)


def twin_q(critic: nn.ModuleList, feat: Tensor, action: Tensor) -> Tensor:
    """(2, ...)"""
    x = torch.cat([feat, action], -1)
    return torch.stack([q(x).squeeze(-1) for q in critic])


class Plain:
    """Model, critic, actor and temperature, each with its loss and its Adam."""

    def __init__(self, agent: Agent, particles: str, clip: float) -> None:
        self.particles, self.clip = particles, clip
        head: Any = agent.head
        self.world = World().to(WIDE)
        self.world.load_state_dict(agent.model.state_dict())
        self.policy = Policy().to(WIDE)
        self.policy.load_state_dict(head.policy.state_dict())
        self.critic, self.target = (read_critic(head.critic) for _ in range(2))
        self.log_alpha = nn.Parameter(head.log_alpha.detach().to(WIDE))
        parts = {
            "model": self.world.parameters(),
            "critic": self.critic.parameters(),
            "actor": self.policy.parameters(),
            "alpha": [self.log_alpha],
        }
        self.adam = {name: torch.optim.Adam(part, LR, foreach=False, fused=False) for name, part in parts.items()}

    def step(self, name: str, loss: Tensor, clip: float) -> dict[str, Tensor]:
        adam = self.adam[name]
        adam.zero_grad()
        loss.backward()
        parameters = adam.param_groups[0]["params"]
        norm = nn.utils.clip_grad_norm_(parameters, clip or math.inf, foreach=False)
        adam.step()
        return {f"opt/{name}/grad_norm": norm}

    def update(self, batch: Batch, model_learns: bool) -> dict[str, Tensor]:
        """What the package reports of the same update. Draws come in the package's order from torch's generator."""
        images = (batch.obs["pixels"].to(WIDE) / 255.0 - 0.5).permute(0, 1, 4, 2, 3)
        b, t = batch.reward.shape
        noise = torch.randn(t, b, S).to(WIDE).transpose(0, 1)
        embedding = self.world.encoders["pixels"](images.flatten(0, 1)).reshape(b, t, -1)
        posterior, s, d = self.world.filter(embedding, batch, noise)
        with torch.no_grad():
            particles = self.draw_particles(embedding, batch, posterior, d)
        feat = torch.cat([s, d], -1)
        found = self.model_update(batch, images, posterior, feat, d) if model_learns else {}
        return found | self.head_update(batch, feat.detach()[:, BURN_IN:], particles[:, :, BURN_IN:])

    def draw_particles(self, embedding: Tensor, batch: Batch, posterior: Normal, d: Tensor) -> Tensor:
        """(K, B, T, F): K further filtered paths, or K draws of each row's posterior on the path of ``d``."""
        b, t = batch.reward.shape
        if self.particles == "last_step":
            noise = torch.randn(K, b, t, S).to(WIDE)
            return torch.cat([posterior.mean + posterior.stddev * noise, d.expand(K, b, t, D)], -1)
        noise = torch.randn(t, K, b, S).to(WIDE)
        paths = [self.world.filter(embedding, batch, noise[:, k].transpose(0, 1))[1:] for k in range(K)]
        return torch.stack([torch.cat(path, -1) for path in paths])

    def model_update(self, batch: Batch, images: Tensor, post: Normal, feat: Tensor, d: Tensor) -> dict[str, Tensor]:
        world, reward = self.world, batch.reward.to(WIDE)
        pixels = world.decoders["pixels"](feat.flatten(0, 1)).unflatten(0, reward.shape)
        kl = kl_divergence(post, normal(world.prior_head(d))).sum(-1)
        goes_on = Bernoulli(logits=world.continue_head(feat).squeeze(-1)).log_prob(1.0 - batch.is_terminal.to(WIDE))
        losses = {
            "loss/pixels": 0.5 * (pixels - images).square().sum((-3, -2, -1)).mean(),
            "loss/reward": REWARD_SCALE * 0.5 * (world.reward_head(feat).squeeze(-1) - reward).square().mean(),
            "loss/kl": KL_SCALE * kl.mean(),
            "loss/continue": -goes_on.mean(),
        }
        return losses | self.step("model", torch.stack([*losses.values()]).sum(), self.clip)

    def head_update(self, batch: Batch, feat: Tensor, particles: Tensor) -> dict[str, Tensor]:
        action, reward, first, terminal = (
            x[:, BURN_IN:].to(WIDE) for x in (batch.action, batch.reward, batch.is_first, batch.is_terminal)
        )
        now, then, alpha = feat[:, :-1], feat[:, 1:], self.log_alpha.exp().detach()
        weight = 1.0 - first[:, 1:]  # a row that begins an episode follows nothing
        weight = weight / weight.sum()
        with torch.no_grad():
            base = self.policy(then)
            u = base.mean + base.base_dist.stddev * torch.randn(1, *then.shape[:2], A)[0].to(WIDE)
            value = twin_q(self.target, then, torch.tanh(u)).amin(0) - alpha * log_density(base, u)
            y = reward[:, 1:] + GAMMA * (1.0 - terminal[:, 1:]) * value
        loss = ((twin_q(self.critic, now, action[:, 1:]) - y).square() * weight).sum()
        found = {"loss/critic": loss, **self.step("critic", loss, HEAD_CLIP)}

        base = self.policy(now)
        u = base.mean + base.base_dist.stddev * torch.randn(*now.shape[:2], A).to(WIDE)
        states = [now, *particles[:, :, :-1]]
        log_pi = mean_in_logs([log_density(self.policy(x), u) for x in states])
        q = mean_in_logs([twin_q(self.critic, x, torch.tanh(u)).amin(0) for x in states])
        entropy = -(log_pi * weight).sum().detach()
        loss = ((alpha * log_pi - q) * weight).sum()
        found |= {"loss/actor": loss, "policy/entropy": entropy, **self.step("actor", loss, HEAD_CLIP)}
        self.step("alpha", self.log_alpha * (entropy + A), 0.0)
        with torch.no_grad():
            for old, new in zip(self.target.parameters(), self.critic.parameters(), strict=True):
                old.copy_((1.0 - TAU) * old + TAU * new)
        return found


def mean_in_logs(values: list[Tensor]) -> Tensor:
    return torch.logsumexp(torch.stack(values), 0) - math.log(len(values))


def read_critic(critic: Any) -> nn.ModuleList:
    """The package's twins, which lie in batched matrices, as two networks."""
    twins = nn.ModuleList(Dense(FEAT + A, UNITS, UNITS, 1) for _ in range(2)).to(WIDE)
    for j, net in enumerate(twins):
        for linear, weight, bias in zip(net.linears, critic.weights, critic.biases, strict=True):
            linear.weight.data, linear.bias.data = weight[j].detach().T.to(WIDE), bias[j, 0].detach().to(WIDE)
    return twins


# --- side by side -----------------------------------------------------------------------------------------------------


def assert_moved_alike(ours: nn.Module, theirs: nn.Module, start: nn.Module) -> None:
    """Each tensor has moved, and the two agree within 1 % of the way (root mean squares)."""
    for (name, new), plain, old in zip(ours.named_parameters(), theirs.parameters(), start.parameters(), strict=True):
        way, apart = (plain - old).norm().item(), (new - plain).norm().item()
        assert way > 0.0, name
        assert apart < 0.01 * way, (name, apart / way)


@pytest.mark.parametrize(("particles", "clip"), [("history", 0.0), ("last_step", 5.0)])
def test_whole_updates_of_smac_from_images_are_those_of_plain_layers(particles: str, clip: float) -> None:
    torch.manual_seed(0)
    config = config_from_dict({**SETTINGS, "belief.particles": particles, "belief.grad_clip": clip})
    agent = Agent(config, EnvSpec("toy", {"pixels": ObsSpec((64, 64, 3), "uint8")}, A, terminates=True))
    plain, start = Plain(agent, particles, clip), Plain(agent, particles, clip)
    update = make_update(agent, "eager")
    for n in range(UPDATES):
        batch = rows(n)
        torch.manual_seed(n)
        ours = update(agent.next_phase(), batch)
        torch.manual_seed(n)
        theirs = plain.update(batch, model_learns=n % MODEL_EVERY == 0)
        for name, value in theirs.items():
            assert ours[name].item() == pytest.approx(value.item(), rel=1e-3, abs=1e-4), (n, name)
    model: Any = agent.model
    head: Any = agent.head
    assert_moved_alike(model, plain.world, start.world)
    assert_moved_alike(head.policy, plain.policy, start.policy)
    assert_moved_alike(read_critic(head.critic), plain.critic, start.critic)
    assert_moved_alike(read_critic(head.target), plain.target, start.target)
    assert (head.log_alpha - plain.log_alpha).item() == pytest.approx(0.0, abs=1e-5)
