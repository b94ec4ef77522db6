"""The policy that a head builds where nobody chooses one."""

from __future__ import annotations

from dataclasses import dataclass


class Own:
    """``policy=own``: the head builds its usual policy, from its own settings."""

    @dataclass(frozen=True)
    class Config:
        pass
