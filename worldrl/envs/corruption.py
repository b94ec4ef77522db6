"""Noise on observations: Gaussian, missing values, flicker; and the rule that makes it reproducible.

The noise of a row is a function of (episode seed, step index, observation key) and of nothing else: it does not depend
on how many environments run beside it, in which process, or on whether earlier rows were drawn at all.
"""

from __future__ import annotations

import zlib
from typing import Any

import gymnasium
import numpy as np

from worldrl.config import CorruptionConfig
from worldrl.envs.spaces import Array, Observation
from worldrl.errors import UserError, unknown

STREAM = 0xC0221  # keeps these draws apart from every other use of an episode's seed
APPLY = ("both", "train", "eval")


def check_corruption(config: CorruptionConfig) -> None:
    """Raise UserError for a negative level, a probability above 1, or an unknown ``apply``."""
    if not (np.isfinite(config.gaussian) and config.gaussian >= 0):
        raise UserError(f"corruption.gaussian={config.gaussian}: expected a standard deviation of 0 or more")
    for name in ("missing", "flicker"):
        value = getattr(config, name)
        if not 0 <= value <= 1:
            raise UserError(f"corruption.{name}={value}: expected a probability from 0 to 1")
    if config.apply not in APPLY:
        raise unknown("corruption.apply", config.apply, APPLY)


def is_active(config: CorruptionConfig, training: bool) -> bool:
    """Whether any noise is to be added to training (or evaluation) environments."""
    wanted = config.apply in ("both", "train" if training else "eval")
    return wanted and max(config.gaussian, config.missing, config.flicker) > 0


def noise_generator(seed: int, step: int, key: str) -> np.random.Generator:
    """The generator of one row's noise; ``step`` is 0 on the reset row."""
    return np.random.default_rng([seed, STREAM, step, zlib.crc32(key.encode())])


def drop_frame(x: Array, probability: float, rng: np.random.Generator) -> Array:
    """Flicker: the whole array is zero with the given probability, one draw per call."""
    return np.zeros_like(x) if rng.random() < probability else x


def drop_values(x: Array, probability: float, rng: np.random.Generator) -> Array:
    """Missing: each value (for images each channel value) is zero with the given probability, independently."""
    return np.where(rng.random(x.shape, np.float32) < np.float32(probability), np.zeros((), x.dtype), x)


def add_gaussian(x: Array, sigma: float, rng: np.random.Generator) -> Array:
    """Add N(0, sigma^2) to each value of a float array."""
    return x + np.float32(sigma) * rng.standard_normal(x.shape, np.float32)


def add_gaussian_pixels(image: Array, sigma: float, rng: np.random.Generator) -> Array:
    """Add N(0, sigma^2) in units where 255 is 1, clip to [0, 1], round to uint8 (truncation would darken)."""
    noisy = add_gaussian(image.astype(np.float32) / np.float32(255), sigma, rng)
    return np.rint(np.clip(noisy, 0, 1) * 255).astype(np.uint8)


def corrupt(x: Array, config: CorruptionConfig, rng: np.random.Generator) -> Array:
    """Flicker, then missing, then Gaussian: the order of the SMAC paper's code.

    ``x`` is an image (H, W, 3) uint8 or a vector (D,) float32, which is not clipped. Kinds at level 0 draw nothing.
    """
    if config.flicker > 0:
        x = drop_frame(x, config.flicker, rng)
    if config.missing > 0:
        x = drop_values(x, config.missing, rng)
    if config.gaussian > 0:
        x = (add_gaussian_pixels if x.dtype == np.uint8 else add_gaussian)(x, config.gaussian, rng)
    return x


class Corruption(gymnasium.Wrapper[Observation, Array, Observation, Array]):
    """Corrupts every entry of a TaskEnv's observation dict, the reset row included.

    ``reset`` needs a seed. Rows that are not drawn (``render_pixels = False``) pass as they are.

    Raises:
        UserError: for levels outside their range.
    """

    def __init__(self, env: gymnasium.Env[Observation, Array], config: CorruptionConfig) -> None:
        super().__init__(env)
        check_corruption(config)
        self._config = config

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict]:
        if seed is None:
            raise ValueError("Corruption.reset needs the episode's seed")
        self._seed, self._step = seed, 0
        obs, info = self.env.reset(seed=seed, options=options)
        return self._corrupt(obs), info

    def step(self, action: Array) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._step += 1
        return self._corrupt(obs), reward, terminated, truncated, info

    def _corrupt(self, obs: Observation) -> Observation:
        if not getattr(self.unwrapped, "render_pixels", True):
            return obs
        return {k: corrupt(v, self._config, noise_generator(self._seed, self._step, k)) for k, v in obs.items()}
