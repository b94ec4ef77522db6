"""Sixty kills, a third of them inside a checkpoint write: each resumed run is the uninterrupted one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.kills import kill_and_compare
from tests.training.running import DATA, PIXELS, SMALL, STATE

pytestmark = pytest.mark.kills

KILLS = 5  # of each kind of run


def under(head: dict[str, Any], settings: dict[str, Any] = STATE) -> dict[str, Any]:
    """The settings with another head, and without a belief where it is not said."""
    rest = {key: value for key, value in settings.items() if not key.startswith(("head", "belief"))}
    return {**rest, "belief": "identity", "head.units": 16, **head}


RSSM = {key: value for key, value in SMALL.items() if key.startswith("belief")}
SLAC = {"belief": "slac", "belief.z1": 3, "belief.z2": 6, "belief.units": 8, "belief.depth": 2, "belief.history": 3}
WORKERS = {"env.num_envs": 2}  # each in a process

KINDS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> how rows come, settings
    "smac": ("stream", STATE),
    "sac": ("stream", under({"head": "sac"})),
    "td3": ("stream", under({"head": "td3", "schedule.action_noise": 0.1})),
    "miracle": ("stream", under({"head": "miracle", "head.marginal_batch": 8, "head.marginal_samples": 3})),
    "virel": ("stream", under({"head": "virel", "head.temperature": "residual", "head.residual_batch": 180})),
    "pixels": ("stream", PIXELS),
    "slac from pixels": ("stream", under({**SLAC, "head": "slac"}, {**PIXELS, "env.obs": "pixels"})),
    "dreamer, pretrained": ("stream", {**under({**RSSM, "head": "dreamer"}), "schedule.pretrain": 20}),
    "workers": ("stream", {**STATE, **WORKERS}),
    "workers with pixels": ("stream", {**PIXELS, **WORKERS}),
    "data": ("data", DATA),
    "mixed": ("mixed", STATE),
    "data, then acting": ("then", STATE),
}


@pytest.mark.parametrize("name", KINDS)
def test_killed_at_random_moments_it_is_the_same_run(tmp_path: Path, name: str, capsys: pytest.CaptureFixture) -> None:
    done = kill_and_compare(tmp_path, *KINDS[name], KILLS, name)
    assert 3 * done.inside >= KILLS
    with capsys.disabled():
        print(f"\n{name}: {done.kills} kills, {done.inside} inside a checkpoint write, {done.runs} runs, all exact")
