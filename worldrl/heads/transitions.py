"""What heads learn from: pairs of neighbouring rows of a slice."""

from __future__ import annotations

from typing import NamedTuple

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
    """What an actor's loss reads of a belief, for the S rows that a transition starts from."""

    inputs: Tensor  # (B, S, F or C) of the policy
    feat: Tensor  # (B, S, F)
    particles: Tensor  # (K, B, S, F)


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


def followed(batch: Batch, feat: Tensor) -> tuple[Transition, Tensor]:
    """``transitions`` without the last pair (``S`` = T - 2), and the action (B, S, A) that comes after each.

    After a terminal row that action does not matter. After an episode that a time limit ended nobody knows it, and the
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
