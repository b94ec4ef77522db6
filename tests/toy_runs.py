"""Run folders as training leaves them, made in a moment: a small untrained agent on a toy environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worldrl.config import config_from_dict
from worldrl.registry import tiny_settings
from worldrl.runs.settings import save_config
from worldrl.training.loop import Trainer

SMALL: dict[str, Any] = {
    "task": "tests.envs.toy_envs:Rich",
    "env.action_repeat": 1,
    "env.obs": "pixels",
    "eval.video": False,
    "replay.capacity": 50,
    "replay.batch": 2,
    "replay.length": 4,
    "log.progress": False,
    "log.tensorboard": False,
    "device": "cpu",
    "belief": "rssm",
    **tiny_settings("belief", "rssm"),
    "head": "smac",
    **tiny_settings("head", "smac"),
}
SLAC: dict[str, Any] = {
    **{key: value for key, value in SMALL.items() if not key.startswith(("belief", "head"))},
    "belief": "slac",
    **tiny_settings("belief", "slac"),
    "head": "slac",
    **tiny_settings("head", "slac"),
}
STATE_SAC: dict[str, Any] = {
    **{key: value for key, value in SMALL.items() if not key.startswith(("belief", "head"))},
    "env.obs": "state",
    "belief": "identity",
    "head": "sac",
    **tiny_settings("head", "sac"),
}


def make_run(run_dir: Path, settings: dict[str, Any] = SMALL, **changes: Any) -> Path:
    """A run folder with one complete checkpoint of an untrained agent."""
    config = config_from_dict({**settings, **changes})
    run_dir.mkdir(parents=True)
    save_config(config, run_dir)
    trainer = Trainer(config, run_dir, None)
    try:
        trainer.save()
    finally:
        trainer.close()
    return run_dir
