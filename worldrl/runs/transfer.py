"""A trained world model under a new head: what ``init_from=RUN_DIR`` loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from worldrl.agent import Agent
from worldrl.config import Config
from worldrl.errors import UserError
from worldrl.runs.checkpoint import STATE, Checkpoints
from worldrl.runs.settings import check_same_belief, run_folder
from worldrl.runs.state import restoring
from worldrl.types import Actions, EnvSpec, ObsSpec

# With equal settings of the belief, only the code or the task's termination can differ.
SAME_TASK = "use the same code, and either two tasks that can terminate or two that cannot"


def encode_spec(spec: EnvSpec) -> dict[str, Any]:
    """The environment's spec in the form of a checkpoint."""
    obs = [(key, list(item.shape), item.dtype) for key, item in spec.obs.items()]
    return {**spec._asdict(), "obs": obs, "actions": spec.actions._asdict()}


def decode_spec(saved: dict[str, Any]) -> EnvSpec:
    """The inverse of ``encode_spec``."""
    obs = {key: ObsSpec(tuple(shape), dtype) for key, shape, dtype in saved["obs"]}
    return EnvSpec(**{**saved, "obs": obs, "actions": Actions(**saved["actions"])})


def load_model(agent: Agent, config: Config) -> Path:
    """Give a new agent the belief model of the run ``config.init_from``, with a new optimiser.

    Returns:
        the checkpoint that the weights come from.

    Raises:
        UserError: another belief, other observations or actions, weights that do not fit, or no complete checkpoint.
    """
    where = f"init_from={config.init_from}"
    check_same_belief(config)
    ours = agent.model.state_dict()
    if not ours:
        raise UserError(
            where, f"belief={config.belief['name']}, which has no weights", "one with weights", "leave init_from out"
        )
    checkpoints = Checkpoints(run_folder(config.init_from))
    try:
        folder, saved = checkpoints.read(config.init_from_checkpoint)
    except UserError as error:
        raise error.inside(where) from error
    with restoring(folder / STATE):
        theirs = saved["agent"]["model"]
        check_spec(where, encode_spec(agent.spec), saved["spec"])
        check_weights(where, ours, theirs, SAME_TASK)
        agent.model.load_state_dict(theirs)
        if agent.normalizer is not None:
            agent.normalizer.load_state_dict(saved["agent"]["normalizer"])
    return folder


def check_spec(where: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Raise UserError, which begins with ``where``, unless an agent trained on ``theirs`` can act on ``ours``."""
    for key, name in (("obs", "observations"), ("actions", "actions")):
        found, expected = _words(ours[key]), _words(theirs[key])
        if found != expected:
            expected = f"{expected} of {theirs['task']}, on which its agent was trained"
            fix = "choose a task and env.obs that match"
            raise UserError(where, f"{name} {found} of {ours['task']}", expected, fix)


def _words(value: Any) -> str:
    """``pixels 64x64x3, state 5``, or ``box 2``."""
    if isinstance(value, dict):
        return f"{value['kind']} {value['size']}"
    return ", ".join(f"{key} {'x'.join(map(str, shape))}" for key, shape, _ in value)


def check_weights(where: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], fix: str) -> None:
    """Refuse the weights of a run, ``theirs``, unless they have the names and shapes of ``ours``."""
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        there, here = (tuple(side[name].shape) if name in side else "none" for side in (theirs, ours))
        if there != here:
            raise UserError(f"{where}: weight {name}", f"shape {here}", f"{there} as in that run", fix)
