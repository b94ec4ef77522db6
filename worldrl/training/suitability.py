"""Settings that only the finished agent can judge: some are refused, and the consequences of others are told."""

from __future__ import annotations

from collections.abc import Iterator

from worldrl.agent import Agent, check_length
from worldrl.config import Config
from worldrl.errors import wrong
from worldrl.training.experience.base import Experience

SHORT = 4  # rows of a window, in which there is hardly anything to remember


def check_suits(config: Config, agent: Agent) -> None:
    """Refuse settings that do not suit the finished agent.

    Raises:
        UserError: It names the setting.
    """
    check_length(config, agent.model, agent.head)
    if config.schedule.pretrain and "model" not in agent.optimizers:
        raise wrong("schedule.pretrain", config.schedule.pretrain, "0: this belief has nothing to learn")
    every = config.schedule.model_every
    if every > 1 and "model" not in agent.optimizers:
        raise wrong("schedule.model_every", every, "1: this belief has nothing to learn")


def consequences(config: Config, agent: Agent, experience: Experience) -> Iterator[str]:
    """What the settings lead to and may not be intended, a line each."""
    length, unit = experience.length, experience.unit
    if not config.task:
        named = experience.spec.task
        why = f"the data's task {named} does not exist here" if named else "the data name no task"
        yield f"nothing is evaluated: {why} (task=NAME); worldrl eval RUN_DIR --fqe estimates the policy's value"
    if config.eval.every > max(config.frames, config.updates):
        yield f"evaluated only before training: eval.every={config.eval.every} is above {unit}={length}"
    if agent.initial(1) and "model" in agent.optimizers and config.replay.length < SHORT:
        yield (
            f"the belief cannot learn to remember: found windows of replay.length={config.replay.length} rows, "
            "expected 16 to 50 (and a replay.batch of the same size)"
        )
    notes = (experience.spec.protocol, agent.precision.note, agent.model.note, agent.head.note)
    yield from filter(None, notes)
    schedule = config.schedule
    if config.frames and agent.head.needs.action_noise and not schedule.action_noise:
        yield "the agent will not explore: its policy is deterministic and schedule.action_noise=0"
    if config.frames and agent.head.needs.epsilon and not (schedule.epsilon.start or schedule.epsilon.end):
        yield "the agent will not explore: its policy is deterministic and schedule.epsilon is 0"
    if too_short := agent.head.too_short(config.all_updates):
        yield too_short
