"""An agent of the package beside the oracles of its papers: the same rows, the same noise, the same steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.oracles.plain import WIDE, Point
from worldrl.nn.optim import Optimizer
from worldrl.types import SEEN, Batch, Belief, EnvSpec, Noise


class PlainAgent:
    """Oracles of a belief and of a head, updated in the package's order: the model, then the head.

    A head's oracle has ``update(rows, belief, n, beside)``, which returns what the package reports of update number
    ``n``, by the same names. ``beside`` has "world", the belief's oracle, and what the head asks for in addition to its
    slice: "recent" rows, and "td", a function that gives rows and their belief.
    """

    def __init__(self, model: Any, head: Any, lost_rows: int = 0) -> None:
        self.model, self.head, self.lost_rows = model, head, lost_rows

    def update(self, rows: Any, particles: int, n: int, learn: bool, beside: Any) -> dict[str, Tensor]:
        belief = self.model.observe(rows, particles, learn)
        seen = {**beside, "world": self.model}
        if "td" in seen:  # filtered by the belief as it is now
            seen["td"] = lambda: (beside["td"].drop_rows(self.lost_rows), self.model_belief(beside["td"]))
        return {**self.model.found} | self.head.update(rows.drop_rows(self.lost_rows), belief, n, seen)

    def model_belief(self, rows: Any) -> Any:
        found = self.model.found
        belief = self.model.observe(rows, 0, learn=False)
        self.model.found = found
        return belief


def plain_agent(agent: Any, head: Any, belief: Any = None) -> PlainAgent:
    """The oracles ``head`` and ``belief`` (None: a point) with the weights and the settings of an agent."""
    model = belief(agent.model.state_dict(), agent.model.config) if belief else Point()
    policy = getattr(getattr(agent.head, "policy", None), "config", None)
    size = agent.spec.action_dim
    return PlainAgent(model, head(agent.head.state_dict(), agent.head.config, size, policy), agent.model.lost_rows)


def random_rows(spec: EnvSpec, seed: int, b: int = 5, t: int = 6) -> Batch:
    """Random windows in which episodes begin in some rows, half of them after a terminal row."""
    rng = torch.Generator().manual_seed(seed)
    obs = {
        key: torch.randint(0, 256, (b, t, *o.shape), generator=rng, dtype=torch.uint8)
        if o.dtype == "uint8"
        else torch.randn(b, t, *o.shape, generator=rng)
        for key, o in spec.obs.items()
    }
    first = (torch.rand(b, t, generator=rng) < 0.15).float()
    last = torch.zeros(b, t)
    last[:, :-1] = first[:, 1:] * (torch.rand(b, t - 1, generator=rng) < 0.5)
    action = 2.0 * torch.rand(b, t, spec.action_dim, generator=rng) - 1.0
    if spec.actions.kind == "choice":
        action = (action == action.max(-1, keepdim=True).values).float()
    reward = torch.randn(b, t, generator=rng)
    return Batch(obs, action * (1 - first)[..., None], reward * (1 - first), first, last * (1 - first))


UNREPORTED = {"opt/alpha/grad_norm", "opt/multiplier/grad_norm"}  # by the package, of single numbers


def compare(agent: Any, plain: PlainAgent, batches: Sequence[Any], beside: Any = None, rel: float = 1e-3) -> None:
    """Every loss and gradient norm of every update, then how far every weight has moved.

    Weights may differ by 3 % of their way (root mean squares): Adam enlarges what float32 rounds off.
    """
    start = {name: value.detach().clone() for name, value in plain_weights(plain).items()}
    for n, batch in enumerate(batches):
        phase = agent.next_phase()
        particles = agent.head.particles(phase.partition("/")[0])
        torch.manual_seed(n)
        ours = agent.update(phase, batch, beside or {})
        agent.updates += 1
        torch.manual_seed(n)
        learn = "/" not in phase and bool(plain.model.w)
        theirs = plain.update(batch, particles, n, learn, beside or {})
        assert theirs
        for name, value in theirs.items():
            if name in ours:
                assert ours[name].item() == pytest.approx(value.item(), rel=rel, abs=1e-4), (n, name)
        missing = {name for name in ours if name.startswith(("loss/", "opt/"))} - {*theirs}
        assert not missing, missing
        assert {*theirs} - {*ours} <= UNREPORTED, {*theirs} - {*ours}
    assert_moved_alike(agent, plain, start)


def plain_weights(plain: PlainAgent) -> dict[str, Tensor]:
    parts: dict[str, Mapping[str, Tensor]] = {"model": plain.model.w, "head": plain.head.w}
    return {f"{part}.{name}": value for part, weights in parts.items() for name, value in weights.items()}


def assert_moved_alike(agent: Any, plain: PlainAgent, start: Mapping[str, Tensor]) -> None:
    """What the oracle moved the package moved alike, and what stayed stayed."""
    ours = {f"{part}.{name}": x for part in ("model", "head") for name, x in getattr(agent, part).state_dict().items()}
    for name, value in plain_weights(plain).items():
        way, apart = (value - start[name]).norm().item(), (ours[name] - value).norm().item()
        assert apart <= 0.03 * way + 1e-7 * (1 + value.norm().item()), (name, apart, way)
    moved = [name for name, value in plain_weights(plain).items() if not torch.equal(value.detach(), start[name])]
    assert len(moved) > len(start) / 2


def compare_models(model: Any, oracle: Any, spec: EnvSpec, particles: int) -> None:
    """Belief, loss terms and one step of a belief model against its oracle."""
    plain, batch = oracle(model.state_dict(), model.config), random_rows(spec, 1)
    c = model.config
    optimizer = Optimizer(model.parameters(), c.lr, c.grad_clip, c.adam_eps)
    torch.manual_seed(5)
    belief, losses, _ = model.observe(batch, particles)
    norm = optimizer.step(torch.stack(list(losses.values())).sum())
    torch.manual_seed(5)
    want = plain.observe(batch, particles)
    for name, value in belief._asdict().items():
        torch.testing.assert_close(value.to(WIDE), getattr(want, name), rtol=1e-4, atol=1e-5)
    found = {f"loss/{name}": loss for name, loss in losses.items()} | {"opt/model/grad_norm": norm}
    assert found.keys() == plain.found.keys()
    for name, value in plain.found.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-4), name
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value.to(WIDE), plain.w[name].detach(), rtol=1e-3, atol=0.05 * c.lr)


def random_masks(batch: Batch, seed: int) -> dict[str, Tensor]:
    """For every observation which entries are seen: of a third of the rows all, of a third some, of a third none."""
    rng = torch.Generator().manual_seed(seed)
    share = torch.randint(0, 3, batch.reward.shape, generator=rng) / 2
    return {
        key: torch.rand(x.shape, generator=rng) < share.reshape(*share.shape, *[1] * (x.dim() - 2))
        for key, x in batch.obs.items()
    }


def acted(model: Any, batch: Batch, masks: Mapping[str, Tensor], paths: int) -> tuple[Belief, list[Tensor]]:
    """The belief (B, T, ...) of a model that acts through the rows and is told what is lost, and what it drew."""
    recorder = Recorder()
    state, beliefs = model.initial(len(batch.reward), paths - 1), []
    for t in range(batch.reward.shape[1]):
        row = {**batch.obs, **{SEEN + key: mask for key, mask in masks.items()}}
        now = {key: x[:, t] for key, x in row.items()}
        state, belief = model.step(state, now, batch.action[:, t], batch.is_first[:, t], noise=recorder)
        beliefs.append(belief)
    feat, particles, context, entropy = zip(*beliefs, strict=True)
    known = Belief(torch.stack(feat, 1), torch.stack(particles, 2), torch.stack(context, 1), torch.stack(entropy, 1))
    return known, recorder.drawn


class Recorder(Noise):
    """Torch's default generator, with a list of what it has drawn."""

    def __init__(self) -> None:
        self.drawn: list[Tensor] = []

    def normal(self, shape: Sequence[int], rows: int, like: Tensor) -> Tensor:
        self.drawn.append(super().normal(shape, rows, like))
        return self.drawn[-1].clone()


def compare_dreams(model: Any, oracle: Any, horizon: int = 4) -> None:
    """A dream under one linear actor, and the gradient of its rewards in that actor."""
    start, weight = torch.randn(7, model.feat_dim), torch.randn(model.feat_dim, 2)
    ours, theirs = weight.requires_grad_(), weight.detach().to(WIDE).requires_grad_()
    torch.manual_seed(3)
    dream = model.imagine(start, lambda feat: torch.tanh(feat @ ours), horizon)
    torch.manual_seed(3)
    plain = oracle(model.state_dict(), model.config)
    feat, reward, goes_on = plain.imagine(start.to(WIDE), lambda feat: torch.tanh(feat @ theirs), horizon)
    for found, want in ((dream.feat, feat), (dream.reward, reward), (dream.discount, goes_on)):
        torch.testing.assert_close(found.to(WIDE), want, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(dream.action.to(WIDE), torch.tanh(feat[:-1] @ theirs), rtol=1e-3, atol=1e-4)
    (found,), (want,) = torch.autograd.grad(dream.reward.sum(), ours), torch.autograd.grad(reward.sum(), theirs)
    torch.testing.assert_close(found.to(WIDE), want, rtol=1e-2, atol=1e-3)
