"""Games from end to end: a few updates, a checkpoint, the run resumed, an evaluation and its video."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import worldrl
from worldrl.commands.evaluate import eval_main
from worldrl.registry import tiny_settings
from worldrl.training.loop import resume

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {
    "frames": 240,
    "schedule.prefill": 80,
    "schedule.updates_per_1000_frames": 50,
    "replay.capacity": 300,
    "replay.batch": 4,
    "replay.length": 8,
    "eval.every": 0,
    "eval.episodes": 1,
    "log.progress": False,
    "device": "cpu",
}
WORLD = {"env.obs": "pixels", "belief": "rssm", **tiny_settings("belief", "rssm")}
PONG = {"env": "atari", "task": "ALE/Pong-v5"}
BREAKOUT = {"env": "minatar", "task": "MinAtar/Breakout-v1"}


@pytest.mark.parametrize(
    ("game", "agent"),
    [
        ({"experiment": "atari", **PONG, "env.action_repeat": 4}, {"head": "mirl"}),
        ({**PONG, **WORLD}, {"agent": "dreamer", **tiny_settings("head", "dreamer")}),
        ({**PONG, **WORLD}, {"agent": "smac", **tiny_settings("head", "smac")}),
        ({**BREAKOUT, **WORLD}, {"agent": "mirl", "head": "mirl"}),
        ({**BREAKOUT, **WORLD}, {"agent": "mirl", "head": "dqn"}),
    ],
    ids=["Pong from screens", "Pong, Dreamer", "Pong, SMAC", "Breakout, MIRL", "Breakout, DQN"],
)
def test_a_game_is_learned_resumed_and_filmed(game: dict[str, Any], agent: dict[str, Any], tmp_path: Path) -> None:
    run = worldrl.train({**QUICK, "schedule.action_noise": 0.0, **game, **agent}, tmp_path / "run")
    assert (run / "config.yaml").read_text().splitlines()[1].startswith(("# ale-py", "# minatar"))
    resume(run, {"frames": 400})
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(record["updates"] for record in records if "updates" in record) >= 10
    if "atari" in (game.get("env"), game.get("experiment")):
        return  # an episode of an agent that has not learned to press fire may last for all its 108,000 frames
    assert (
        eval_main([str(run), "--episodes", "1", "--video", str(film := tmp_path / "game.mp4"), "--device", "cpu"]) == 0
    )
    assert film.stat().st_size > 1_000
