from dataclasses import dataclass

import torch
from torch import nn

from worldrl.errors import UserError
from worldrl.nn.mlp import MLP
from worldrl.types import NOISE, Belief, BeliefModel


class LeakyBelief(BeliefModel):
    @dataclass(frozen=True)
    class Config:
        size: int = 16
        keep: float = 0.8  # of the memory at each step
        lr: float = 1e-3
        grad_clip: float = 100.0
        adam_eps: float = 1e-8

    def __init__(self, config, spec):
        super().__init__()
        if list(spec.obs) != ["state"]:
            raise UserError(f"LeakyBelief: found observations {sorted(spec.obs)}, expected env.obs=state")
        self.config, self.feat_dim, self.context_dim = config, config.size, config.size
        self.encoder = MLP(spec.obs["state"].shape[0] + spec.action_dim, 64, 2, config.size, "elu")
        self.reward = nn.Linear(config.size, 1)

    def initial(self, batch, particles=0):
        return {"memory": self.reward.weight.new_zeros(batch, self.config.size)}

    def filter(self, memory, state, action, is_first):
        old = self.config.keep * memory * (1 - is_first)[:, None]
        return old + (1 - self.config.keep) * self.encoder(torch.cat([state, action], -1))

    def belief(self, memory, particles):  # a point: all particles are the same
        memory = memory.detach()
        return Belief(memory, memory.expand(particles, *memory.shape), memory, memory.new_zeros(memory.shape[:-1]))

    def step(self, state, obs, prev_action, is_first, deterministic=False, noise=NOISE):
        memory = self.filter(state["memory"], obs["state"], prev_action, is_first)
        return {"memory": memory}, self.belief(memory, 0)

    def observe(self, batch, particles, learn=True):
        memory, rows = self.initial(len(batch.reward))["memory"], []
        for t in range(batch.reward.shape[1]):
            memory = self.filter(memory, batch.obs["state"][:, t], batch.action[:, t], batch.is_first[:, t])
            rows.append(memory)
        memory = torch.stack(rows, 1)  # (B, T, F)
        losses = {"reward": (self.reward(memory)[..., 0] - batch.reward).square().mean()} if learn else {}
        return self.belief(memory, particles), losses, {}
