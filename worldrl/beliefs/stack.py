"""The last n observations are the state: vectors or the channels of images, concatenated.

With four greyscale screens of 84 x 84 it is the input of DQN in Mnih et al. 2015 (doi 10.1038/nature14236). An episode
begins with copies of its first observation.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from worldrl.errors import UserError
from worldrl.fields import Range
from worldrl.types import NOISE, Batch, Belief, BeliefModel, EnvSpec, Metrics, Noise, Obs, State


class Stack(BeliefModel):
    """feat = context = the last ``frames`` observations; for arrays (h, w, c) a grid (h, w, frames c).

    Bytes are scaled to [0, 1]. There is nothing to learn.
    """

    @dataclass(frozen=True)
    class Config:
        frames: Annotated[int, Range(1, 100)] = 4  # n

    config: Stack.Config
    origin: Tensor
    tiny: ClassVar[dict[str, Any]] = {"frames": 2}

    def __init__(self, config: Stack.Config, spec: EnvSpec) -> None:
        super().__init__()
        self.config = config
        if len(spec.obs) > 1:
            found = f"observations {', '.join(sorted(spec.obs))}"
            raise UserError("belief=stack", found, "one", "use env.obs=state or env.obs=pixels")
        ((self.key, obs),) = spec.obs.items()
        self.register_buffer("origin", torch.zeros(()), persistent=False)  # knows the device
        self.shape, self.bytes = obs.shape, obs.dtype == "uint8"
        self.lost_rows = config.frames - 1
        *sides, channels = obs.shape
        self.grid = (*sides, config.frames * channels) if sides else ()
        self.feat_dim = self.context_dim = config.frames * prod(obs.shape)

    def initial(self, batch: int, particles: int = 0) -> State:
        """State before any observation: the next row counts as first."""
        zeros = self.origin.new_zeros
        kind = torch.uint8 if self.bytes else torch.float32
        return {"frames": zeros(batch, self.config.frames, *self.shape, dtype=kind), "started": zeros(batch)}

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
        """Replace the oldest frame by the new one (B, ...)."""
        new = obs[self.key][:, None]
        starts = ((state["started"] == 0) | (is_first > 0)).reshape(-1, *[1] * new[0].dim())
        frames = torch.where(starts, new, torch.cat([state["frames"][:, 1:], new], 1))
        return {"frames": frames, "started": torch.ones_like(is_first)}, self._belief(frames, 0)

    def observe(self, batch: Batch, particles: int, learn: bool = True) -> tuple[Belief, Metrics, Metrics]:
        """(B, T, ...) -> the belief of the rows from ``lost_rows`` on; no loss and no metric."""
        n, rows = self.config.frames, batch.reward.shape[1]
        time = torch.arange(rows, device=batch.reward.device)
        began = torch.where(batch.is_first > 0, time, 0).cummax(1).values  # (B, T) the row where the episode begins
        back = time[n - 1 :, None] - torch.arange(n - 1, -1, -1, device=time.device)  # (T - n + 1, n)
        index = torch.maximum(back, began[:, n - 1 :, None])  # (B, T - n + 1, n)
        windows = torch.arange(len(index), device=time.device)[:, None, None]
        return self._belief(batch.obs[self.key][windows, index], particles), {}, {}

    def _belief(self, frames: Tensor, particles: int) -> Belief:
        """(..., n, h, w, c), or (..., n, D), oldest first."""
        axis = -1 - len(self.shape)
        shown = frames / 255.0 if self.bytes else frames
        feat = shown.movedim(axis, -2).flatten(-1 - len(self.shape))
        return Belief(feat, feat.expand(particles, *feat.shape), feat, feat.new_zeros(feat.shape[:-1]))
