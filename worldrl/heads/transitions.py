"""The transitions that heads learn from: pairs of neighbouring rows of a slice."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from worldrl.types import Batch


class Transition(NamedTuple):
    """All pairs of neighbouring rows of a slice; ``S`` = T - 1 pairs, ``P`` states per row (one draw, or particles)."""

    feat: Tensor  # (P, B, S, F)
    action: Tensor  # (B, S, A) the action that leads from feat to next_feat
    reward: Tensor  # (B, S) received on arriving in next_feat
    next_feat: Tensor  # (P, B, S, F)
    terminal: Tensor  # (B, S)
    mask: Tensor  # (B, S) 0 where the pair crosses an episode border


class ActorStates(NamedTuple):
    """What an actor's loss reads of a belief, for the S rows in which a transition starts."""

    inputs: Tensor  # (B, S, F or C) of the policy
    feat: Tensor  # (B, S, F)
    particles: Tensor  # (K, B, S, F)


class Steps(NamedTuple):
    """Transitions of up to n steps, for heads with n-step returns."""

    pairs: Transition  # reward: the discounted sum; next_feat and terminal: from the row where the steps end
    discount: Tensor  # (B, S) gamma to the power of the steps, for the value of next_feat


def n_steps(batch: Batch, feat: Tensor, n: int, gamma: float) -> Steps:
    """Transitions of ``n`` steps between the rows of ``feat`` (P, B, T, F), S = T - n; fewer where the episode ends.

        R_t = r_{t+1} + gamma r_{t+2} + ... + gamma^(k-1) r_{t+k},   k = min(n, steps to the episode's last row)

    Only the pair whose second row begins an episode (k = 0) is masked. A time limit ends the steps, and the last row's
    value is used; after a termination there is no value.
    """
    if n == 1:
        return Steps(transitions(batch, feat), torch.full_like(batch.reward[:, 1:], gamma))
    width = batch.reward.shape[1] - n  # S
    alive = torch.ones_like(batch.reward[:, :width])
    reward, discount, terminal = torch.zeros_like(alive), alive, torch.zeros_like(alive)
    end = torch.arange(width, device=alive.device).expand(alive.shape)  # (B, S) the row where the steps end
    for i in range(1, n + 1):
        row = slice(i, i + width)
        alive = alive * (1.0 - batch.is_first[:, row])
        reward = reward + discount * alive * batch.reward[:, row]
        terminal = terminal.where(alive == 0, batch.is_terminal[:, row])
        discount = discount.where(alive == 0, gamma * discount)
        end = end + alive.long()
    at = end[None, ..., None].expand(len(feat), -1, -1, feat.shape[-1])
    now = slice(1, 1 + width)
    mask = 1.0 - batch.is_first[:, now]
    pairs = Transition(feat[:, :, :width], batch.action[:, now], reward, feat.gather(2, at), terminal, mask)
    return Steps(pairs, discount)


def transitions(batch: Batch, feat: Tensor) -> Transition:
    """Pair the rows of ``feat`` (P, B, T, F): row t is left by ``action[t + 1]``."""
    return Transition(
        feat=feat[:, :, :-1],
        action=batch.action[:, 1:],
        reward=batch.reward[:, 1:],
        next_feat=feat[:, :, 1:],
        terminal=batch.is_terminal[:, 1:],
        mask=1.0 - batch.is_first[:, 1:],
    )


def acting(batch: Batch) -> Tensor:
    """(B, T): 0 in rows in which nobody acts, which are the last ones of episodes, otherwise 1.

    A window's last row is 0 only if it is terminal: it does not show whether a time limit ended the episode.
    """
    acts = 1.0 - batch.is_terminal
    acts[:, :-1] *= 1.0 - batch.is_first[:, 1:]
    return acts


def followed(batch: Batch, feat: Tensor) -> tuple[Transition, Tensor]:
    """``transitions`` without the last pair (``S`` = T - 2), and the action (B, S, A) that comes after each.

    After a terminal row that action does not matter. After an episode that a time limit ended it is unknown, and the
    pair is masked.
    """
    tr = transitions(batch, feat)
    unknown = batch.is_first[:, 2:] * (1.0 - batch.is_terminal[:, 1:-1])
    kept = Transition(
        feat=tr.feat[:, :, :-1],
        action=tr.action[:, :-1],
        reward=tr.reward[:, :-1],
        next_feat=tr.next_feat[:, :, :-1],
        terminal=tr.terminal[:, :-1],
        mask=tr.mask[:, :-1] * (1.0 - unknown),
    )
    return kept, batch.action[:, 2:]
