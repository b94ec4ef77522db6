"""Rows that exist already: learning from data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from worldrl.agent import Agent
from worldrl.config import Config
from worldrl.data.memory import GIB, available_bytes
from worldrl.data.replay import Replay, Windows, choose_replay_device, nbytes
from worldrl.errors import UserError, counted
from worldrl.runs.data import Rows
from worldrl.training.experience.base import check_rows, drawn_windows
from worldrl.types import Batch, EnvSpec, Extra, Needs

OF_DATA = 0x44415441  # a part of the seed of draws from data: where there are two replays, they differ


class DataSet:
    """Existing rows: one stream of episodes, read-only, and never saved into a run folder.

    Time is updates: a tick is one. Pretraining takes no time, as in a ``Stream``.

    Args:
        config: Seed, windows and device of the rows, and the length of the phase.
        rows: What is learned from.
        spec: The agent's spec; by default that of the data.

    Raises:
        UserError: More rows than memory.
    """

    phase, unit = "data", "updates"

    def __init__(self, config: Config, rows: Rows, spec: EnvSpec | None = None) -> None:
        known = replace(config.data, checksum=rows.checksum, reference=rows.reference)
        self.config = replace(config, data=known)
        self.spec, self.length = spec or rows.spec, config.updates
        self.now = 0
        self.owed: int | None = None  # updates of the tick in progress, None between two ticks
        self.rewards, self.episodes, self.told_of = rows.rewards, rows.episodes, rows.notes
        self._columns = rows.columns

    @property
    def position(self) -> int:
        return self.now

    def advance(self) -> bool:
        return False

    @property
    def saved_replay(self) -> Replay | None:
        return None

    def counters(self) -> tuple[int, int]:
        return 0, 0

    def __len__(self) -> int:
        return len(self.replay)

    def attach(self, agent: Agent) -> None:
        """Take the agent, whose normaliser takes the data's mean and deviation; a saved one is loaded after that."""
        rows, length = len(self._columns["reward"]), self.config.replay.length
        if rows < length:
            raise UserError(f"replay.length={length}", f"{rows} rows of data", "a window that fits into them")
        check_rows("the data", rows, "", agent)
        self.agent = agent
        if agent.normalizer is not None:
            agent.normalizer.fit(self._columns)
        place = choose_replay_device(self.spec, rows, agent.device, self.config.replay.device)
        _check_room(self.config, self.spec, rows, place)
        self.replay = Replay(self.spec, rows, device=place, seed=[self.config.seed, OF_DATA])
        self.replay.extend({name: column[:, None] for name, column in self._columns.items()})
        self._columns = {}

    def begin(self) -> None:
        pass

    def notes(self) -> list[str]:
        n = self.length
        for_long = f"{n:,} updates" if n else "no updates before acting"
        held = (
            f"data: {len(self):,} rows of {counted(self.episodes, 'episode')} from {self.config.data.name}; {for_long}"
        )
        return [held, *self.told_of]

    def ready(self) -> bool:
        return True

    def send(self) -> None:
        if self.owed is None:
            self.owed = 1

    def due(self) -> bool:
        due, self.owed = bool(self.owed), 0
        return due

    def receive(self) -> list[dict[str, float]]:
        self.now, self.owed = self.now + 1, None
        return []

    def news(self) -> list[str]:
        return []

    def sample(self, batch: int, length: int, needs: Needs) -> tuple[Batch, Extra]:
        """As ``Stream.sample``; no rows are new, so a head's newest rows are drawn from all of them."""
        agent, needs = self.agent, needs._replace(recent_actions=len(self))
        slice_ = self.replay.sample(batch, length, agent.device)
        return slice_, self.replay.sample_extra(needs, length, agent.model.lost_rows, agent.device)

    def drawn(self, back: int) -> dict[str, Windows]:
        return drawn_windows("data", self.replay, back)

    def state(self) -> dict[str, Any]:
        return {"now": self.now, "owed": self.owed, "draws": self.replay.draws}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.now, self.owed = state["now"], state["owed"]
        self.replay.draws = state["draws"]

    def renderer(self) -> str:
        return "none"

    def close(self) -> None:
        pass


def _check_room(config: Config, spec: EnvSpec, rows: int, place: torch.device) -> None:
    """Refuse data that do not fit into the memory of their device."""
    needed, free = nbytes(spec, rows), available_bytes(place)
    if free is None or needed <= free:
        return
    found = f"{rows:,} rows, which need {needed / GIB:.2f} GiB in addition to the file's contents"
    expected = f"at most the {free / GIB:.2f} GiB that are available on {place}"
    fewer = f"data.top={0.9 * config.data.top * free / needed:.2g} keeps only its best episodes"
    fix = "set replay.device=cpu" if place.type == "cuda" else f"write a smaller data set; {fewer}"
    raise UserError(f"data={config.data.name}", found, expected, fix)
