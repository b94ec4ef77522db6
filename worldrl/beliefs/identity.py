"""The point belief: the observation is the state. Every head on it is the ordinary state-based agent."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from worldrl.errors import UserError
from worldrl.types import NOISE, Batch, Belief, BeliefModel, EnvSpec, Metrics, Noise, Obs, State


class Identity(BeliefModel):
    """feat = context = the observed vectors, concatenated in the order of the environment's description.

    A small grid (h, w, c) is a vector too; if it is the only observation, networks know its shape.
    """

    @dataclass(frozen=True)
    class Config:
        pass

    def __init__(self, config: Identity.Config, spec: EnvSpec) -> None:
        super().__init__()
        self.config = config
        self.keys = [key for key, obs in spec.obs.items() if obs.dtype == "float32"]
        if not self.keys or len(self.keys) < len(spec.obs):
            screen = "use belief=stack, or env.obs=pixels with belief=rssm"
            fix = screen if "pixels" not in spec.obs else "use env.obs=state, belief=rssm, or belief=stack"
            found = ", ".join(f"{key} of {obs.dtype}" for key, obs in sorted(spec.obs.items()))
            raise UserError("belief=identity", f"observations {found}", "vectors of float32 only", fix)
        shapes = self.shapes = [spec.obs[key].shape for key in self.keys]
        self.feat_dim = self.context_dim = sum(map(prod, shapes))
        self.grid = shapes[0] if len(shapes) == 1 and len(shapes[0]) == 3 else ()

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
        vectors = [obs[key].flatten(-len(shape)) for key, shape in zip(self.keys, self.shapes, strict=True)]
        feat = vectors[0] if len(vectors) == 1 else torch.cat(vectors, -1)
        return Belief(feat, feat.expand(particles, *feat.shape), feat, feat.new_zeros(feat.shape[:-1]))
