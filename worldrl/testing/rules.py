"""Rules of all parts: of their settings, of what they return, and of what that may depend on."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from worldrl.acting.noise import RowNoise
from worldrl.fields import typed
from worldrl.registry import check_class, load_class
from worldrl.testing.additions import check_decorated
from worldrl.testing.calls import call, doing, ensure, ensure_type
from worldrl.testing.inputs import BATCH
from worldrl.types import NOISE, Actions, Noise, hardened


def load(kind: str, part: type | str, settings: Mapping[str, Any]) -> tuple[type[Any], str, Any]:
    """The class, its name in messages, and its settings."""
    cls = load_class(kind, part) if isinstance(part, str) else check_class(kind, part)
    name = f"{kind} {cls.__name__}"
    _check_config(name, cls.Config)
    with doing(f"{name}: Config"):
        hints = typing.get_type_hints(cls.Config, include_extras=True)
        given = {key: typed(f"{kind}.{key}", settings[key], hints.get(key, Any)) for key in settings}
        return cls, name, cls.Config(**given)


def _check_config(name: str, config: Any) -> None:
    check_decorated(name, config)
    frozen = config.__dataclass_params__.frozen
    ensure(frozen, f"{name}: Config", "a dataclass that can be changed after it was checked", "@dataclass(frozen=True)")
    for field in dataclasses.fields(config):
        default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        ensure(default, f"{name}: Config.{field.name}", "no default", "one for every setting")


def check_tensors(
    where: str,
    given: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]],
    detached: bool = True,
    finite: bool = True,
) -> None:
    """Check that every entry is a tensor of its shape, finite, and by default without a graph."""
    for key, shape in shapes.items():
        here, value = f"{where}: {key}", given[key]
        ensure_type(here, value, Tensor)
        ensure(tuple(value.shape) == tuple(shape), here, f"shape {tuple(value.shape)}", f"{tuple(shape)}")
        ensure(not (detached and value.requires_grad), here, "a tensor with a graph", "a detached one")
        ensure(not finite or bool(value.isfinite().all()), here, "numbers that are not finite", "finite ones")


def check_metrics(where: str, metrics: Any) -> None:
    ensure_type(where, metrics, dict)
    for key in metrics:
        ensure(isinstance(key, str), where, f"a metric named {key!r}", "text such as loss/actor")
        check_tensors(where, metrics, {key: ()}, finite=key.startswith("loss/"))


def check_actions(where: str, action: Tensor, actions: Actions) -> None:
    largest = float(action.detach().abs().max())
    ensure(largest <= 1.0, where, f"{largest:g}", "actions in [-1, 1]")
    ensure(actions.kind == "box" or same(action, hardened(action)), where, "a mixed choice", "one-hot rows")


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4)


def check_act(where: str, act: Callable[[Noise], Any], actions: Actions, detached: bool = True) -> None:
    """Check the actions (B, A) that a part takes with the noise that it is given."""
    action = call(where, act, NOISE)
    check_tensors(where, {"action": action}, {"action": (BATCH, actions.size)}, detached)
    check_actions(where, action, actions)
    check_source(where, lambda noise, seed: {"action": call(where, act, noise, seed=seed)})


def check_source(where: str, draw: Callable[[Noise, int], Mapping[str, Tensor]]) -> None:
    """Check that what is drawn depends only on the noise that is passed, and not on the seed of torch's generator."""
    one, other = (draw(RowNoise([torch.Generator().manual_seed(row) for row in range(BATCH)]), n) for n in (3, 4))
    check_alike(where, one, other, "with other numbers than those of its argument noise", "draws from noise only")


def check_alike(
    where: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor], when: str, expected: str, equal: Any = same
) -> None:
    """Check that two results do not differ."""
    for key, value in a.items():
        ensure(key in b and equal(value, b[key]), where, f"another {key} {when}", expected)


def check_repeats(where: str, first: Mapping[str, Tensor], again: Mapping[str, Tensor]) -> None:
    check_alike(where, first, again, "from the same seed", "noise from torch's own generator only")


def check_saves(name: str, saved: Any, loaded: Any, use: Callable[[Any], Mapping[str, Tensor]]) -> None:
    """Check that a part computes the same after saving and loading."""
    with doing(f"{name}: load_state_dict(state_dict())"):
        loaded.load_state_dict(saved.state_dict())
        for key, optimizer in getattr(saved, "optimizers", {}).items():
            loaded.optimizers[key].load_state_dict(optimizer.state_dict())
    check_alike(name, use(saved), use(loaded), "after saving and loading", "all state in parameters and buffers")


@contextmanager
def unchanged(where: str, tensors: Sequence[Tensor]) -> Iterator[None]:
    """Check that the arguments are left unchanged."""
    before = [x.detach().clone() for x in tensors]
    yield
    ensure(
        all(map(same, before, tensors)), where, "that it changes its arguments in place", "that it changes only a copy"
    )
