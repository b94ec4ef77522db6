"""Where rows come from: environments that the agent acts in, existing rows, or both.

An experience owns its rows, their sampling and the time of the run: every clock (evaluation, log, schedule, end) reads
``now``, which counts environment frames in a ``Stream`` and updates in a ``DataSet``. A run that learns from data and
then acts is ``Mixed`` and has two phases, each with its own time. One tick of the loop is::

    experience.send()             # a Stream acts; a DataSet has nothing to do
    while experience.due():       # workers step meanwhile
        update(*experience.sample(...))
    experience.receive()

The state between ``send`` and ``receive`` includes the action under way and the updates still owed: a run that is saved
there, because of a signal or a dead worker, sends the same action again and makes only the remaining updates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from worldrl.agent import Agent
from worldrl.config import Config
from worldrl.data.replay import Replay, Windows
from worldrl.errors import UserError
from worldrl.types import Batch, EnvSpec, Extra, Needs


class Experience(Protocol):
    """What a run learns from. ``attach`` is called first, then ``begin`` or, in a resumed run, ``restore``."""

    config: Config
    spec: EnvSpec
    replay: Replay  # the rows of this run

    @property
    def phase(self) -> str:
        """``"data"`` or ``"acting"``."""
        ...

    @property
    def unit(self) -> str:
        """The unit of ``now`` and ``length``: ``"frames"`` or ``"updates"``."""
        ...

    @property
    def length(self) -> int:
        """The phase ends when ``now`` reaches it."""
        ...

    @property
    def now(self) -> int: ...

    @property
    def position(self) -> int:
        """The progress of the run, over all its phases."""
        ...

    def advance(self) -> bool:
        """Begin the next phase, if there is one."""
        ...

    @property
    def saved_replay(self) -> Replay | None:
        """The rows that exist only in this run and are saved with it; None if there are none."""
        ...

    def counters(self) -> tuple[int, int]:
        """Environment frames and agent steps so far, for every record of the log."""
        ...

    def __len__(self) -> int:
        """The number of rows that can be drawn."""
        ...

    def attach(self, agent: Agent) -> None:
        """Take the agent that acts here and learns from these rows, and allocate memory for them."""
        ...

    def begin(self) -> None:
        """Start a new run."""
        ...

    def notes(self) -> list[str]:
        """Lines to print when training begins or resumes."""
        ...

    def ready(self) -> bool:
        """Whether there is enough to learn from."""
        ...

    def send(self) -> None:
        """Start a tick."""
        ...

    def due(self) -> bool:
        """Whether one more update is due in this tick; if so, it counts as made."""
        ...

    def receive(self) -> list[dict[str, float]]:
        """End the tick; returns the records to log, one for every episode that ended."""
        ...

    def news(self) -> list[str]:
        """Lines to print after a tick."""
        ...

    def sample(self, batch: int, length: int, needs: Needs) -> tuple[Batch, Extra]:
        """Draw a slice of ``batch`` windows of ``length`` rows, and what a head needs in addition to it."""
        ...

    def drawn(self, back: int) -> dict[str, Windows]:
        """The windows of the slice of ``back`` updates ago (1: the last), by where they lie: "replay", "data".

        Windows that are overwritten are left out.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Everything that the next ticks depend on, except the rows and the agent."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None: ...

    def renderer(self) -> str:
        """The renderer of the images that the agent sees, which determines their last bits."""
        ...

    def close(self) -> None: ...


def drawn_windows(name: str, replay: Replay, back: int) -> dict[str, Windows]:
    """The windows of a replay that are not overwritten, if there are any."""
    found = replay.kept(replay.recent[-back]) if 0 < back <= len(replay.recent) else None
    return {} if found is None or not len(found.starts) else {name: found}


def check_rows(place: str, rows: int, setting: str, agent: Agent) -> None:
    """Refuse fewer rows than the head draws transitions in addition to its slice: it would wait forever."""
    drawn = agent.head.needs.td_batch
    if 0 < rows <= drawn:  # a replay itself refuses to have none
        expected = f"more than {drawn}: the head draws that many transitions in addition to its slice"
        raise UserError(place, f"{rows} rows{setting}", expected)
