"""Run folders as training leaves them, made in a moment: a small untrained agent on a toy environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worldrl.config import config_from_dict, save_config
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
    "belief.stoch": 4,
    "belief.deter": 8,
    "belief.hidden": 8,
    "belief.depth": 2,
    "belief.reward_units": 8,
    "belief.vector_units": 8,
    "head": "smac",
    "head.units": 16,
    "head.num_particles": 2,
}
SLAC: dict[str, Any] = {
    **{key: value for key, value in SMALL.items() if not key.startswith(("belief", "head"))},
    "belief": "slac",
    "belief.z1": 3,
    "belief.z2": 6,
    "belief.units": 8,
    "belief.depth": 2,
    "belief.vector_units": 5,
    "belief.history": 3,
    "head": "slac",
    "head.units": 16,
}
STATE_SAC: dict[str, Any] = {
    **{key: value for key, value in SMALL.items() if not key.startswith(("belief", "head"))},
    "env.obs": "state",
    "belief": "identity",
    "head": "sac",
    "head.units": 16,
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
