"""Every setting of a run, as frozen dataclasses. Hot code never sees OmegaConf."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RenderConfig:
    """How pixels are made."""

    backend: str = "auto"  # auto | egl | osmesa | glfw: auto probes them in this order
    quality: str = "full"  # full: dm_control's own; fast: cheaper shadows and meshes, about 3 x in software OpenGL
    size: int = 64  # only 64 is supported
    camera: int = -1  # -1: the task's usual camera (0; quadruped 2)


@dataclass(frozen=True)
class CorruptionConfig:
    """Noise on observations, in [0, 1] pixel units or in units of the state; seeded per episode. 0 is off."""

    gaussian: float = 0.0  # standard deviation per value
    missing: float = 0.0  # probability that a value is zero, per channel value
    flicker: float = 0.0  # probability that a whole frame (or vector) is zero
    apply: str = "both"  # train | eval | both


@dataclass(frozen=True)
class EnvConfig:
    obs: str = "pixels"  # pixels | state | both
    action_repeat: int = 2
    num_envs: int = 1  # more than one: worker processes
    timeout_s: float = 120.0  # a worker that is silent for longer is taken for dead
    render: RenderConfig = field(default_factory=RenderConfig)
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)


@dataclass(frozen=True)
class ReplayConfig:
    capacity: int = 1_000_000  # rows (agent steps) over all environments
    batch: int = 50  # B
    length: int = 50  # T
    device: str = "auto"  # auto: on the GPU when it fits


@dataclass(frozen=True)
class ScheduleConfig:
    """When to act at random and when to learn; the unit of time is the frame (agent step x action repeat)."""

    prefill: int = 10_000  # frames of uniform random actions before the first update
    pretrain: int = 0  # model-only updates right after the prefill
    updates_per_1000_frames: float = 100.0
    action_noise: float = 0.3  # std of Gaussian noise added to training actions, 0 is off


@dataclass(frozen=True)
class EvalConfig:
    every: int = 10_000  # frames, 0 is never
    episodes: int = 5
    video: bool = True  # of the first evaluation episode


@dataclass(frozen=True)
class LogConfig:
    every: int = 1_000  # frames
    tensorboard: bool = True
    progress: bool = True


@dataclass(frozen=True)
class CheckpointConfig:
    minutes: float = 10.0
    replay: bool = True  # without it a resumed run starts from an empty replay and is not exact


@dataclass(frozen=True)
class Config:
    """One run. ``belief`` and ``head`` hold ``name`` and the fields of that class's own ``Config`` dataclass."""

    task: str = "walker_walk"
    agent: str = "smac"  # a label; belief and head say what it is
    seed: int = 1
    frames: int = 1_000_000
    belief: dict[str, Any] = field(default_factory=lambda: {"name": "rssm"})
    head: dict[str, Any] = field(default_factory=lambda: {"name": "smac"})
    env: EnvConfig = field(default_factory=EnvConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    log: LogConfig = field(default_factory=LogConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    device: str = "auto"  # auto | cpu | cuda | cuda:N
    precision: str = "auto"  # auto | fp32 | bf16 | fp16
    speed: str = "eager"  # eager | compile | capture
    deterministic: bool = False  # deterministic CUDA kernels, slower
    threads: int = 0  # torch CPU threads, 0: as many as there are cores
