"""Data first, and then an environment: batches have rows of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from worldrl.agent import Agent
from worldrl.config import Config
from worldrl.data.replay import Windows, upload
from worldrl.errors import UserError
from worldrl.runs.data import Rows, load_rows
from worldrl.training.experience.dataset import DataSet
from worldrl.training.experience.stream import Stream
from worldrl.types import Batch, Extra, Needs


class Mixed(Stream):
    """Data first, for ``config.updates``, and then a stream that the agent acts in; its batches have windows of both.

    Args:
        config: As for a ``Stream``, which supplies the episodes and the newest rows. ``data.share`` of the windows and
            transitions comes from the data.
        rows: The data, by default those that the settings name.
    """

    while_acting = " while acting"

    def __init__(self, config: Config, rows: Rows | None = None) -> None:
        super().__init__(config)
        try:
            rows = rows or load_rows(config.data, self.spec)
        except UserError:
            self.close()
            raise
        self.data = DataSet(config, rows, self.spec)
        self.config, self.rewards = self.data.config, rows.rewards
        self.has_acted = not config.updates  # or is about to

    @property
    def phase(self) -> str:
        return super().phase if self.has_acted else self.data.phase

    @property
    def unit(self) -> str:
        return super().unit if self.has_acted else self.data.unit

    @property
    def length(self) -> int:
        return super().length if self.has_acted else self.data.length

    @property
    def now(self) -> int:
        return super().now if self.has_acted else self.data.now

    @property
    def position(self) -> int:
        return self.data.now + self.frames

    def advance(self) -> bool:
        """From the data to the environment."""
        begins = not self.has_acted
        self.has_acted = True
        return begins

    def __len__(self) -> int:
        return super().__len__() + len(self.data)

    def attach(self, agent: Agent) -> None:
        self.data.attach(agent)
        super().attach(agent)

    def notes(self) -> list[str]:
        return [*self.data.notes(), *super().notes()]

    def ready(self) -> bool:
        return super().ready() if self.has_acted else self.data.ready()

    def send(self) -> None:
        super().send() if self.has_acted else self.data.send()

    def _choose_action(self) -> np.ndarray:
        """The agent acts from the first frame on, if it has learned."""
        return self._act() if self.data.now else super()._choose_action()

    def due(self) -> bool:
        return super().due() if self.has_acted else self.data.due()

    def receive(self) -> list[dict[str, float]]:
        return super().receive() if self.has_acted else self.data.receive()

    def sample(self, batch: int, length: int, needs: Needs) -> tuple[Batch, Extra]:
        if not self.has_acted:
            return self.data.sample(batch, length, needs)
        share = self.config.data.share
        n, td = round(share * batch), round(share * needs.td_batch)
        wanted = [needs._replace(td_batch=td, recent_batch=0), needs._replace(td_batch=needs.td_batch - td)]
        old, old_extra = self.data.sample(n, length, wanted[0])
        new, extra = super().sample(batch - n, length, wanted[1])
        found = [part.pop("td") for part in (old_extra, extra) if "td" in part]
        if found and len(found) == sum(part.td_batch > 0 for part in wanted):  # neither has too few rows yet
            extra["td"] = _in_turns(*found)
        return _in_turns(old, new), extra

    def drawn(self, back: int) -> dict[str, Windows]:
        return {**super().drawn(back), **self.data.drawn(back)}

    def state(self) -> dict[str, Any]:
        return {**super().state(), "data": self.data.state(), "has_acted": self.has_acted}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.data.restore(state["data"])
        self.has_acted = state["has_acted"]
        if self.has_acted and self.data.now != self.config.updates:
            expected = f"{self.data.now}, which the run had before it acted"
            raise UserError("updates", str(self.config.updates), expected)
        super().restore(state)


def _in_turns(*parts: Batch) -> Batch:
    """The windows of all parts, evenly spread: a model may learn only from the first windows of a batch."""
    if len(parts) == 1:
        return parts[0]
    places = np.concatenate([(np.arange(n) + 0.5) / n for n in (len(part.reward) for part in parts) if n])
    order = upload(torch.from_numpy(np.argsort(places, kind="stable")), parts[0].reward.device)
    obs = {key: torch.cat([part.obs[key] for part in parts])[order] for key in parts[0].obs}
    return Batch(obs, *(torch.cat(columns)[order] for columns in zip(*(part[1:] for part in parts), strict=True)))
