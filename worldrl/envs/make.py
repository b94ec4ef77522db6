"""One environment of a run: its settings, its task with all wrappers, and its spec for an agent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, cast

from worldrl.envs import rendering
from worldrl.envs.corruption import CorruptionConfig, check_corruption, is_active
from worldrl.envs.families import family_of
from worldrl.envs.rendering import RenderConfig
from worldrl.fields import OneOf, Range

if TYPE_CHECKING:
    import gymnasium
    from gymnasium import spaces

    from worldrl.envs.spaces import TaskEnv
    from worldrl.types import EnvSpec  # imports torch, which workers do not need


@dataclass(frozen=True)
class EnvConfig:
    obs: Annotated[str, OneOf("pixels", "state", "both")] = "pixels"
    hide: tuple[str, ...] = ()  # sensor groups that the agent never sees, such as velocity
    mask: bool = False  # the agent also observes which share of each sensor group, and of the image, is a reading
    action_repeat: Annotated[int, Range(1, 1_000)] = 2
    target_return: float | None = None  # shown to the policy, minus the rewards so far; for runs on data
    num_envs: Annotated[int, Range(1, 1_024)] = 1  # more than one: worker processes
    timeout_s: Annotated[float, Range(0, 1e6, above=True)] = 120.0  # a worker that is silent for longer counts as dead
    render: RenderConfig = field(default_factory=RenderConfig)
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)


def make_env(config: EnvConfig, task: str, training: bool = True) -> gymnasium.Env[Any, Any]:
    """One environment with all its wrappers, in this process. Raises UserError as ``make_envs`` does."""
    from worldrl.envs.wrappers import Asked, Corruption, Hidden, Masked

    check_corruption(config.corruption)
    env: gymnasium.Env[Any, Any] = make_task(config, task)
    env = Hidden(env, config.hide) if config.hide else env
    env = Masked(env) if config.mask else env
    noisy = Corruption(env, config.corruption)  # refuses what does not fit, even if it does not apply
    env = noisy if is_active(config.corruption, training) else env
    return env if config.target_return is None else Asked(env, config.target_return)


def describe(env: gymnasium.Env[Any, Any], config: EnvConfig) -> EnvSpec:
    """The EnvSpec of an environment made by ``make_env``."""
    from worldrl.types import EnvSpec, ObsSpec, box, choice

    inner = cast("TaskEnv", env.unwrapped)
    obs, size = cast("spaces.Dict", env.observation_space), cast("spaces.Box", env.action_space).shape[0]
    bounds = [end.tolist() for end in inner.bounds or ()]
    return EnvSpec(
        task=inner.task,
        obs={k: ObsSpec(tuple(v.shape or ()), str(v.dtype)) for k, v in obs.spaces.items()},
        actions=choice(inner.choices, inner.first_choice) if inner.choices else box(size, *bounds),
        action_repeat=config.action_repeat,
        terminates=inner.terminates,
        max_frames=inner.max_frames,
        groups={"state": groups} if (groups := env.get_wrapper_attr("groups")) else {},
        protocol=inner.protocol,
    )


def make_task(config: EnvConfig, task: str, draws: bool = True) -> TaskEnv:
    """The task itself; without ``draws`` nothing is rendered. Raises UserError if it does not exist or fit."""
    rendering.load_triton_first()
    return family_of(task).make(task, config.obs, config.action_repeat, config.render, draws)
