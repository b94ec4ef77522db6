"""Does a run fit into memory? Checked once, before anything is allocated: its parts are built on the meta device."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

from worldrl.agent import sketch_parts
from worldrl.config import Config
from worldrl.data.memory import GIB, available_bytes
from worldrl.data.replay import row_bytes
from worldrl.errors import wrong
from worldrl.registry import PARTS, load_class
from worldrl.types import EnvSpec

FLOAT = 4  # bytes
TRAINED = 4  # numbers for each trained weight: the weight, its gradient, two moments of Adam


def check_size(config: Config, spec: EnvSpec, device: torch.device) -> None:
    """Refuse a run whose weights, Adam state, one batch and replay do not fit into the free memory.

    This is a lower bound without activations. A replay that may be anywhere is compared with this machine's memory.

    Args:
        config: its settings.
        spec: what the environment provides.
        device: where the agent will learn.

    Raises:
        UserError: it names the setting that takes the most memory.
    """
    needs = {"replay.batch": _batch(config, spec), "": part_bytes(config, spec)}
    _compare(config, spec, needs, device)
    place = torch.device("cpu" if config.replay.device == "auto" else config.replay.device)
    together = needs if place.type == device.type else {}
    _compare(config, spec, {**together, "replay.capacity": _rows(config) * row_bytes(spec)}, place)


def part_bytes(config: Config, spec: EnvSpec) -> int:
    """Bytes of belief, head, their gradients and Adam; 0 for a user's own parts that cannot be built without memory."""
    if (parts := sketch_parts(config, spec)) is None:
        return 0
    frozen = {id(x) for x in parts[0].parameters()} if config.schedule.model_every == 0 else set()
    tensors = {id(x): x for part in parts for x in (*part.parameters(), *part.buffers())}
    return sum(
        FLOAT * x.numel() * (TRAINED if x.requires_grad and key not in frozen else 1) for key, x in tensors.items()
    )


def _batch(config: Config, spec: EnvSpec) -> int:
    """Bytes of one batch, as stored and as floats."""
    values = sum(torch.Size(obs.shape).numel() for obs in spec.obs.values())
    return config.replay.batch * config.replay.length * (row_bytes(spec) + FLOAT * values)


def _rows(config: Config) -> int:
    """Rows that the replay will hold at most: a short run never fills a large one."""
    return min(config.replay.capacity, 2 * (config.frames // config.env.action_repeat + config.env.num_envs))


def _compare(config: Config, spec: EnvSpec, needs: dict[str, int], device: torch.device) -> None:
    free, total = available_bytes(device), sum(needs.values())
    if free is None or total <= free:
        return
    key = max(needs, key=lambda name: needs[name]) or _largest(config, spec)
    value = _value(config, key)
    room = f"a run of at most {free / GIB:.1f} GiB, which are free on {device}, not of {total / GIB:,.1f} GiB"
    raise wrong(key, value, room, f"lower {key}")


def _largest(config: Config, spec: EnvSpec) -> str:
    """The setting of a part that takes the most memory: the one whose default would make the parts smallest."""
    smaller = {key: part_bytes(other, spec) for key, other in _with_defaults(config)}
    return min(smaller, key=lambda key: smaller[key], default="belief")


def _with_defaults(config: Config) -> Iterator[tuple[str, Config]]:
    """The settings with one number of a part at its default, for each number that is not."""
    for kind in PARTS:
        part = getattr(config, kind)
        for item in dataclasses.fields(load_class(kind, part["name"]).Config):
            if isinstance(item.default, int) and item.default != part[item.name]:
                changed: dict[str, Any] = {kind: {**part, item.name: item.default}}
                yield f"{kind}.{item.name}", dataclasses.replace(config, **changed)


def _value(config: Config, key: str) -> Any:
    group, _, name = key.partition(".")
    part = getattr(config, group)
    return part["name"] if not name else part[name] if isinstance(part, dict) else getattr(part, name)
