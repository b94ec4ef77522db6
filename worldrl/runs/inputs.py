"""What a caller gives to a trained policy, checked before it reaches the agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from worldrl.errors import UserError, wrong
from worldrl.types import Actions, EnvSpec, ObsSpec

Arrays = dict[str, np.ndarray]


def check_observation(obs: Any, spec: EnvSpec) -> tuple[Arrays, bool]:
    """An observation as a batch (B, ...) of arrays for the agent, and whether it came without an axis B.

    Raises:
        UserError: keys, shapes or types differ from those of ``spec``, or a number is not finite.
    """
    obs = _by_key("observation", obs, spec)
    if obs.keys() != spec.obs.keys():
        raise UserError("observation", f"the keys {', '.join(map(str, obs))}", ", ".join(spec.obs))
    arrays = {key: _check_array(key, obs[key], expected) for key, expected in spec.obs.items()}
    leads = {key: array.shape[: array.ndim - len(spec.obs[key].shape)] for key, array in arrays.items()}
    if len(set(leads.values())) > 1:
        shapes = ", ".join(f"{key} {arrays[key].shape}" for key in arrays)
        raise UserError("observation", f"different batch sizes: {shapes}", "one")
    single = next(iter(leads.values())) == ()
    return {key: array[None] if single else array for key, array in arrays.items()}, single


def check_seen(seen: Any, obs: Any, spec: EnvSpec) -> tuple[dict[str, Any], Arrays]:
    """An observation by key with zeros where readings are lost, and for each key which of them are seen (bools).

    Raises:
        UserError: ``seen`` has other keys, shapes or types than bools in the form of ``obs``.
    """
    obs, seen = dict(_by_key("observation", obs, spec)), _by_key("seen", seen, spec)
    if unknown_keys := seen.keys() - obs.keys():
        raise UserError("seen", f"the keys {', '.join(map(str, unknown_keys))}", f"some of {', '.join(obs)}")
    masks = {key: np.asarray(seen.get(key, np.ones(np.shape(value), bool))) for key, value in obs.items()}
    for key, mask in masks.items():
        if mask.dtype != bool or mask.shape != np.shape(obs[key]):
            expected = f"bools of the observation's shape {np.shape(obs[key])}"
            raise UserError(f"seen '{key}'", f"{mask.dtype} {mask.shape}", expected)
        if not mask.all():
            obs[key] = np.where(mask, obs[key], np.zeros_like(obs[key]))
    return obs, masks


def _by_key(where: str, value: Any, spec: EnvSpec) -> Mapping[str, Any]:
    """``value`` as a dict; a bare array is that of the only key."""
    if isinstance(value, Mapping):
        return value
    if len(spec.obs) > 1:
        raise UserError(where, "a bare array", f"a dict with the keys {', '.join(spec.obs)}")
    return {next(iter(spec.obs)): value}


def _check_array(key: str, value: Any, expected: ObsSpec) -> np.ndarray:
    where, shape, n = f"observation '{key}'", expected.shape, len(expected.shape)
    array = _array(where, value)
    if array.shape[array.ndim - n :] != shape or array.ndim not in (n, n + 1) or array.size == 0:
        batch = ", ".join(["B", *map(str, shape)])
        raise UserError(where, f"shape {array.shape}", f"{shape} or ({batch})")
    if expected.dtype == "uint8" and array.dtype != np.uint8:
        raise UserError(where, str(array.dtype), "uint8 from 0 to 255")
    if expected.dtype == "float32" and array.dtype.kind not in "fiu":
        raise UserError(where, str(array.dtype), "numbers")
    with np.errstate(over="ignore"):
        array = array.astype(expected.dtype)  # a copy: the caller may write into its own
    if not np.isfinite(array).all():
        raise UserError(where, "a number that is not finite", "finite numbers: the belief would never recover")
    return array


def _array(where: str, value: Any, dtype: Any = None) -> np.ndarray:
    try:
        return np.asarray(value, dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(where, str(error).partition("\n")[0], "an array of numbers") from error


def check_action(action: ArrayLike, expected: tuple[int, ...], actions: Actions) -> np.ndarray:
    """(n, A) float32"""
    array = np.atleast_2d(_array("prev_action", action, np.float32))
    if array.shape != expected:
        raise UserError("prev_action", f"shape {array.shape}", f"{expected} or {expected[1:]} for one")
    if not (np.abs(array) <= 1.0).all():
        worst = float(array.flat[np.abs(array).argmax()])
        raise UserError("prev_action", f"{worst:g}", "numbers in [-1, 1], as returned by act")
    if actions.kind == "choice" and not (np.isin(array, (0.0, 1.0)).all() and (array.sum(-1) <= 1.0).all()):
        raise UserError("prev_action", f"{array.tolist()}", "one-hot rows, as returned by act, or zeros for no action")
    return array


def check_flags(is_first: ArrayLike | None, n: int) -> np.ndarray:
    """(n,) float32, 1 where an episode begins."""
    if is_first is None:
        return np.zeros(n, np.float32)
    flags = np.atleast_1d(_array("is_first", is_first, np.float32))
    if flags.shape != (n,) or not np.isin(flags, (0.0, 1.0)).all():
        raise wrong("is_first", np.asarray(is_first), f"{n} of True and False")
    return flags
