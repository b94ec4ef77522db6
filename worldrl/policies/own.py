"""The policy that a head builds if none is chosen."""

from __future__ import annotations

from dataclasses import dataclass

from worldrl.types import Policy


class Own(Policy):
    """``policy=own``: the head builds its usual policy, from its own settings."""

    @dataclass(frozen=True)
    class Config:
        pass
