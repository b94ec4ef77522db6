"""Every head on every belief and with every policy: the tables of docs/architecture.md say what happens."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PIXEL_SPEC, STATE_SPEC
from worldrl.agent import Agent
from worldrl.cli import compose, preset_names
from worldrl.errors import UserError
from worldrl.registry import BELIEFS, HEADS, PARTS, POLICIES
from worldrl.training import loop

ROOT = Path(__file__).resolve().parents[1]
PRESETS = ROOT / "configs"
PAIRS = [(belief, head) for head in HEADS for belief in BELIEFS]
CHOICES = [(policy, head) for head in HEADS for policy in POLICIES]
TINY: dict[str, dict[str, Any]] = {
    "identity": {},
    "rssm": {"belief.deter": 8, "belief.hidden": 8, "belief.depth": 2, "belief.reward_units": 8},
    "slac": {"belief.z2": 8, "belief.units": 8, "belief.depth": 2},
}


def table(kind: str) -> dict[tuple[str, str], str]:
    """(belief or policy, head) -> what docs/architecture.md says of the two; ``kind`` is what the columns are."""
    lines = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| head | `{kind}="))
    columns = re.findall(rf"`{kind}=(\w+)`", lines[start])
    rows = (line.strip("|").split("|") for line in takewhile(lambda line: line.startswith("|"), lines[start + 2 :]))
    return {
        (column, re.sub(r"[ `]|head=", "", head)): cell.strip()
        for head, *cells in rows
        for column, cell in zip(columns, cells, strict=True)
    }


def named(kind: str) -> dict[str, tuple[str, str]]:
    """Agent -> its place in a table."""
    return {agent: pair for pair, cell in table(kind).items() for agent in re.findall(r"`agent=(\w+)`", cell)}


def refusal(arguments: dict[str, Any]) -> str:
    """The message, or nothing where the agent can be trained."""
    try:
        config = compose({"head.units": 8, "device": "cpu", **arguments}, PRESETS)
        spec = PIXEL_SPEC if config.env.obs == "pixels" else STATE_SPEC
        loop._check_fits(config, Agent(config, spec))
    except UserError as error:
        return str(error)
    return ""


def test_the_tables_have_every_pair_and_every_agent() -> None:
    assert set(table("belief")) == set(PAIRS)
    assert set(table("policy")) == set(CHOICES)
    agents = {agent: compose({"agent": agent}, PRESETS) for agent in preset_names(PRESETS, "agent")}
    belief, head, policy = ({agent: getattr(c, kind)["name"] for agent, c in agents.items()} for kind in PARTS)
    assert named("belief") == {agent: (belief[agent], head[agent]) for agent in agents if policy[agent] == "own"}
    assert named("policy") == {agent: (policy[agent], head[agent]) for agent in agents if policy[agent] != "own"}


@pytest.mark.parametrize(("belief", "head"), PAIRS)
def test_the_table_says_which_belief_is_refused(belief: str, head: str) -> None:
    """Under the settings of every agent; only the notes below the table add to what a pair is refused for."""
    for agent in preset_names(PRESETS, "agent"):
        config = compose({"agent": agent}, PRESETS)
        for_vectors = belief == "identity" and config.env.obs == "pixels"
        too_short = belief == "slac" and config.replay.length < 9
        other_policy = table("policy")[config.policy["name"], head].startswith("refused")
        expected = table("belief")[belief, head].startswith("refused") or for_vectors or too_short or other_policy
        found = refusal({"agent": agent, "belief": belief, "head": head, **TINY[belief]})
        assert bool(found) == expected, (agent, found)


@pytest.mark.parametrize(("policy", "head"), CHOICES)
def test_the_table_says_which_policy_is_refused(policy: str, head: str) -> None:
    found = refusal({"agent": "latent_sac", "head": head, "policy": policy, **TINY["rssm"]})
    assert bool(found) == table("policy")[policy, head].startswith("refused"), found
    assert not found or f"policy={policy}" in found or "only bounds them" in found
