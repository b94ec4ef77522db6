from dataclasses import dataclass

import torch
from torch import nn

from worldrl.nn.build import network
from worldrl.nn.functional import normal_log_prob, tanh_log_det
from worldrl.types import NOISE, Draw, Policy


class SteadyNoise(Policy):
    @dataclass(frozen=True)
    class Config:
        std: float = 0.5  # at the start, before tanh

    def __init__(self, config, shape, actions, units, layers, activation):
        super().__init__()
        self.mean = network(shape, units, layers, actions.size, activation)
        self.log_std = nn.Parameter(torch.full((actions.size,), config.std).log())

    def noise(self, x, n=1, source=NOISE):  # what n draws in each state x (..., B, F) are made of
        return source.normal((n, *x.shape[:-1], len(self.log_std)), -2, x)  # the axis B is the last but one

    def sample(self, x, noise=None):  # (..., F) -> draws (n, ...)
        mean, noise = self.mean(x).float(), self.noise(x) if noise is None else noise
        raw = mean + self.log_std.exp() * noise
        return Draw(raw.tanh(), raw, self.density(raw, mean), 1 / len(noise))

    def density(self, raw, mean):  # log density of the action tanh(raw)
        return normal_log_prob(raw, mean, self.log_std.exp()) - tanh_log_det(raw).sum(-1)

    def log_prob(self, raw, x):
        return self.density(raw, self.mean(x).float())

    def mode(self, x):
        return self.mean(x).float().tanh()
