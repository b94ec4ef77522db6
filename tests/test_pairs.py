"""Every head on every belief: the table of docs/architecture.md says what happens, and each agent's settings agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PIXEL_SPEC, STATE_SPEC
from worldrl.agent import Agent
from worldrl.cli import compose
from worldrl.errors import UserError
from worldrl.registry import AGENTS, BELIEFS, HEADS
from worldrl.training import loop

ROOT = Path(__file__).resolve().parents[1]
PRESETS = ROOT / "configs"
PAIRS = [(belief, head) for head in HEADS for belief in BELIEFS]
TINY: dict[str, dict[str, Any]] = {
    "identity": {},
    "rssm": {"belief.deter": 8, "belief.hidden": 8, "belief.depth": 2, "belief.reward_units": 8},
    "slac": {"belief.z2": 8, "belief.units": 8, "belief.depth": 2},
}


def table() -> dict[tuple[str, str], str]:
    """(belief, head) -> what docs/architecture.md says of the pair."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    beliefs = re.findall(r"`belief=(\w+)`", next(line for line in text.splitlines() if line.startswith("| head |")))
    rows = re.findall(r"^\| `head=(\w+)` \|(.*)\|$", text, re.MULTILINE)
    return {(b, head): cell.strip() for head, row in rows for b, cell in zip(beliefs, row.split("|"), strict=True)}


def test_the_table_has_every_pair_and_every_agent() -> None:
    cells = table()
    assert set(cells) == set(PAIRS)
    named = {re.sub(r".*`agent=(\w+)`", r"\1", cell): pair for pair, cell in cells.items() if "`agent=" in cell}
    assert named == {agent: (parts["belief"], parts["head"]) for agent, parts in AGENTS.items()}


@pytest.mark.parametrize(("belief", "head"), PAIRS)
def test_the_table_says_what_is_refused(belief: str, head: str) -> None:
    """Under the settings of every agent; only the notes below the table add to what a pair is refused for."""
    for agent in AGENTS:
        arguments = {"agent": agent, "belief": belief, "head": head, "head.units": 8, "device": "cpu", **TINY[belief]}
        config = compose(arguments, PRESETS)
        spec = PIXEL_SPEC if config.env.obs == "pixels" else STATE_SPEC
        for_vectors = belief == "identity" and config.env.obs == "pixels"
        too_short = belief == "slac" and config.replay.length < 9
        expected = table()[belief, head].startswith("refused") or for_vectors or too_short
        try:
            loop._check_fits(config, Agent(config, spec))
            refusal = ""
        except UserError as error:
            refusal = str(error)
        assert bool(refusal) == expected, (agent, refusal)
