"""The point belief: what is seen is the state. Every head on it is the ordinary state-based agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from worldrl.errors import UserError
from worldrl.types import NOISE, Batch, Belief, EnvSpec, Metrics, Noise, Obs, State


class Identity(nn.Module):
    """feat = context = the observed vectors, concatenated in the order of the environment's description."""

    @dataclass(frozen=True)
    class Config:
        pass

    lost_rows: ClassVar[int] = 0

    def __init__(self, config: Identity.Config, spec: EnvSpec) -> None:
        super().__init__()
        self.config = config
        self.keys = [key for key, obs in spec.obs.items() if obs.dtype == "float32"]
        if not self.keys or len(self.keys) < len(spec.obs):
            raise UserError(
                f"belief=identity takes the observation for the state, which needs state vectors; found "
                f"{sorted(spec.obs)}; use env.obs=state, or belief=rssm for pixels"
            )
        self.feat_dim = self.context_dim = sum(spec.obs[key].shape[0] for key in self.keys)

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
        return state, self._belief(obs, 0)

    def observe(self, batch: Batch, particles: int, learn: bool = True) -> tuple[Belief, Metrics, Metrics]:
        """(B, T, ...) -> the belief; no loss and no metric."""
        return self._belief(batch.obs, particles), {}, {}

    def _belief(self, obs: Obs, particles: int) -> Belief:
        vectors = [obs[key] for key in self.keys]
        feat = vectors[0] if len(vectors) == 1 else torch.cat(vectors, -1)
        return Belief(feat, feat.expand(particles, *feat.shape), feat, feat.new_zeros(feat.shape[:-1]))
