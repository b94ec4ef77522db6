"""Tiny inputs: slices of a replay, and a toy belief model for heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from worldrl.types import (
    Batch,
    Belief,
    BeliefModel,
    EnvSpec,
    Extra,
    Metrics,
    Needs,
    Obs,
    ObsSpec,
    Rollout,
    box,
    choice,
    hardened,
)

BATCH, ACTIONS, PARTICLES = 3, 2, 2
FEAT, CONTEXT = 6, 5  # of the toy belief: different, so a head that confuses them fails
KINDS = (box(ACTIONS), choice(ACTIONS))
VECTORS, PIXELS = {"state": ObsSpec((5,), "float32")}, {"pixels": ObsSpec((64, 64, 3), "uint8")}
SPECS = [EnvSpec("toy", obs, KINDS[0], terminates=True) for obs in (VECTORS, PIXELS, {**PIXELS, **VECTORS})]
CPU = torch.device("cpu")


def random_batch(spec: EnvSpec, windows: int, rows: int, device: torch.device = CPU) -> Batch:
    """A slice (windows, rows) from torch's generator, the same on every device. In window 0 an episode begins."""
    lead = (windows, rows)
    obs = {
        key: torch.randint(256, (*lead, *of.shape), dtype=torch.uint8)
        if of.dtype == "uint8"
        else torch.randn(*lead, *of.shape)
        for key, of in spec.obs.items()
    }
    action, reward = torch.rand(*lead, spec.action_dim) * 2 - 1, torch.randn(lead)
    action = action if spec.actions.kind == "box" else hardened(action)
    is_first, is_terminal, first = torch.zeros(lead), torch.zeros(lead), max(rows - 2, 0)
    is_first[0, first], action[0, first], reward[0, first] = 1.0, 0.0, 0.0
    is_terminal[0, :first][-1:] = 1.0
    shown = {key: value.to(device) for key, value in obs.items()}
    return Batch(shown, *(x.to(device) for x in (action, reward, is_first, is_terminal)))


def random_extra(needs: Needs, spec: EnvSpec, rows: int, device: torch.device = CPU, lost_rows: int = 0) -> Extra:
    """The batches for the head in addition to its slice (``Replay.sample_extra``)."""
    extra: Extra = {}
    if needs.td_batch:
        extra["td"] = random_batch(spec, needs.td_windows(rows - lost_rows), rows, device)
    if needs.recent_batch:
        of, length = (spec, rows) if needs.recent_obs else (spec._replace(obs={}), 1)
        extra["recent"] = random_batch(of, needs.recent_batch, length, device)
    return extra


def random_belief(*lead: int, particles: int) -> Belief:
    feat, context = torch.randn(*lead, FEAT), torch.randn(*lead, CONTEXT)
    return Belief(feat, torch.randn(particles, *lead, FEAT), context, torch.zeros(lead))


class ToyModel(BeliefModel):
    """A belief that can imagine and decode; its filter returns noise, and it has nothing to learn."""

    feat_dim, context_dim = FEAT, CONTEXT

    def __init__(self) -> None:
        super().__init__()
        self.dynamics, self.reward = nn.Linear(FEAT + ACTIONS, FEAT), nn.Linear(FEAT, 1)
        self.decoder = nn.Linear(FEAT, 5)

    def observe(self, batch: Batch, particles: int, learn: bool = True) -> tuple[Belief, Metrics, Metrics]:
        return random_belief(*batch.reward.shape, particles=particles), {}, {}

    def imagine(self, feat: Tensor, actor: Callable[[Tensor], Tensor], horizon: int) -> Rollout:
        feats, actions = [feat], []
        for _ in range(horizon):
            actions.append(actor(feats[-1]))
            feats.append(torch.tanh(self.dynamics(torch.cat([feats[-1], actions[-1]], -1))))
        dream = torch.stack(feats)
        return Rollout(dream, torch.stack(actions), self.reward(dream).squeeze(-1), dream.new_ones(dream.shape[:-1]))

    def decode(self, feat: Tensor) -> Obs:
        return {"state": self.decoder(feat)}
