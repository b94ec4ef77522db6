"""A loss or a gradient that is not finite: it is reported with the rows of its batch."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from worldrl.agent import Agent
from worldrl.errors import Diverged
from worldrl.runs.folder import NON_FINITE
from worldrl.training.experience.base import Experience


def check_finite(agent: Agent, experience: Experience, run_dir: Path, checkpoint: Path | None) -> None:
    """Stop the run if an update was not finite; a file in ``run_dir`` names the rows of its batch.

    Args:
        checkpoint: The last one, which has finite weights.

    Raises:
        Diverged: It names the loss, the update, the file and the checkpoint.
    """
    found = agent.first_non_finite()
    if found is None:
        return
    name, update = found
    path = run_dir / NON_FINITE
    drawn = experience.drawn(agent.updates - update + 1)
    needs = agent.head.needs
    lost = [key for key, n in (("td", needs.td_batch), ("recent", needs.recent_batch)) if n]
    windows = {place: _jsonable(each._asdict()) for place, each in drawn.items()}
    report = {"loss": name, "update": update, "windows": windows, "draws_not_kept": lost}
    with contextlib.suppress(OSError):  # of a full disk: the loss matters more
        path.write_text(json.dumps(report) + "\n")
    others = f"; the other samples, {', '.join(lost)}, are not kept" if lost else ""
    told = f"training stopped; the rows of its batch are named in {path} (Replay.window rebuilds them{others})"
    raise Diverged(
        f"{name} was not finite at update {update}", fix=f"{told}; last good checkpoint: {checkpoint or 'none yet'}"
    )


def _jsonable(values: dict[str, Any]) -> dict[str, Any]:
    return {key: np.asarray(value).tolist() for key, value in values.items()}
