from dataclasses import dataclass

import torch

from worldrl.heads.transitions import transitions
from worldrl.nn.build import critic, network
from worldrl.nn.functional import masked_mean
from worldrl.nn.optim import Optimizer
from worldrl.types import NOISE, Head, Needs


class TinyHead(Head):
    @dataclass(frozen=True)
    class Config:
        units: int = 64
        lr: float = 1e-3

    def __init__(self, config, sizes):
        super().__init__()
        self.config, self.needs = config, Needs(action_noise=True)
        self.actor = network(sizes.feat, config.units, 2, sizes.actions.size)
        self.critic = critic(sizes.feat, sizes.actions, config.units, 2, n=1)
        parts = {"actor": self.actor, "critic": self.critic}
        self.optimizers = {name: Optimizer(part.parameters(), config.lr) for name, part in parts.items()}

    @torch.no_grad()
    def act(self, belief, explore, noise=NOISE):
        return self.actor(belief.feat).tanh()  # schedule.action_noise explores

    def update(self, phase, batch, belief, model, extra=None):
        tr = transitions(batch, belief.feat[None])  # pairs of rows, with a leading axis of one
        with torch.no_grad():
            q = self.critic(tr.next_feat, self.actor(tr.next_feat).tanh())
            y = tr.reward + 0.99 * (1 - tr.terminal) * q
        critic_loss = masked_mean((self.critic(tr.feat, tr.action[None]) - y).square(), tr.mask)
        self.optimizers["critic"].step(critic_loss)
        actor_loss = -masked_mean(self.critic(tr.feat, self.actor(tr.feat).tanh(), frozen=True), tr.mask)
        self.optimizers["actor"].step(actor_loss)
        return {"loss/critic": critic_loss.detach(), "loss/actor": actor_loss.detach()}
