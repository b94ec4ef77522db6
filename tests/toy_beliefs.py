"""A belief that knows the rules of the environment ``Count``: what it predicts must come true to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from worldrl.types import NOISE, Batch, Belief, BeliefModel, EnvSpec, Metrics, Noise, Obs, Rollout, State


class CountBelief(BeliefModel):
    """feat = what ``Count`` observes: (step, last action, a number fixed by the seed)."""

    @dataclass(frozen=True)
    class Config:
        lr: float = 0.0
        grad_clip: float = 0.0

    feat_dim = context_dim = 3

    def __init__(self, config: CountBelief.Config, spec: EnvSpec) -> None:
        super().__init__()
        self.config = config

    def initial(self, batch: int, particles: int = 0) -> State:
        return {}

    def step(
        self,
        state: State,
        obs: Obs,
        prev_action: Tensor,
        is_first: Tensor,
        deterministic: bool = False,
        noise: Noise = NOISE,
    ) -> tuple[State, Belief]:
        return state, self._belief(obs)

    def observe(self, batch: Batch, particles: int) -> tuple[Belief, Metrics, Metrics]:
        return self._belief(batch.obs), {}, {}

    def imagine(self, feat: Tensor, actor: Callable[[Tensor], Tensor], horizon: int) -> Rollout:
        feats, actions = [feat], []
        for _ in range(horizon):
            step, _, mark = feats[-1].unbind(-1)
            actions.append(actor(feats[-1]))
            feats.append(torch.stack([step + 1, 2 * (actions[-1][:, 0] + 1), mark], -1))
        dream = torch.stack(feats)
        return Rollout(dream, torch.stack(actions), dream[..., 0], torch.ones(dream.shape[:-1]))

    def decode(self, feat: Tensor) -> Obs:
        return {"state": feat}

    def _belief(self, obs: Obs) -> Belief:
        feat = obs["state"]
        return Belief(feat, feat.expand(0, *feat.shape), feat, feat.new_zeros(feat.shape[:-1]))
