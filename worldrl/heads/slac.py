"""Stochastic latent actor-critic (Lee et al. 2020, arXiv 1907.00953).

SAC whose critic takes one draw of the state, and whose actor takes the context: the deterministic part of what is
known, so acting needs no inference. On its own belief the context is the last eight features and seven actions, on the
RSSM the recurrent state and the embedding. A published window of nine rows has one transition, the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from worldrl.fields import Layers, NotNegative, SomeLayers, Width
from worldrl.heads.sac import SAC


class SLAC(SAC):
    """The head of SLAC. Defaults are the sizes of the authors' program."""

    @dataclass(frozen=True)
    class Config(SAC.Config):
        units: Width = 256
        actor_layers: Layers = 2
        critic_layers: SomeLayers = 2
        activation: Literal["elu", "relu", "silu", "tanh"] = "relu"
        critic_init: Literal["orthogonal", "default"] = "default"
        policy_std: Literal["softplus", "log"] = "log"
        grad_clip: NotNegative = 0.0
        actor_input: Literal["feat", "context"] = "context"

    config: SLAC.Config
