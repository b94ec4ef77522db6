"""Size is judged before anything is allocated, and the setting that takes most is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.conftest import PIXEL_SPEC, STATE_SPEC
from worldrl.agent import build_parts, check_parts, sketch_parts
from worldrl.compose import compose
from worldrl.config import Config
from worldrl.errors import UserError
from worldrl.presets import preset_names
from worldrl.size import check_size, part_bytes
from worldrl.types import EnvSpec, choice

CPU = torch.device("cpu")


def spec(config: Config) -> EnvSpec:
    """What the agent can act in."""
    found = PIXEL_SPEC if config.env.obs == "pixels" else STATE_SPEC
    return found._replace(actions=choice(2)) if config.schedule.epsilon.start else found


@pytest.mark.parametrize("agent", preset_names("agent"))
def test_weights_are_counted_without_being_there(agent: str) -> None:
    config = compose({"agent": agent, "head.units": 16})
    noise = torch.random.get_rng_state()
    counted = part_bytes(config, spec(config))
    assert torch.equal(torch.random.get_rng_state(), noise)
    tensors = [x for part in build_parts(config, spec(config)) for x in (*part.parameters(), *part.buffers())]  # type: ignore[attr-defined]
    assert counted == sum(4 * x.numel() * (4 if x.requires_grad else 1) for x in {id(x): x for x in tensors}.values())
    assert sketch_parts(config, spec(config)) is not None


def test_a_frozen_model_has_no_gradients_and_moments() -> None:
    frozen, learns = (compose({"agent": "smac", "init_from": "demo", "schedule.model_every": n}) for n in (0, 1))
    belief, _ = build_parts(learns, spec(learns))
    weights = sum(4 * x.numel() for x in belief.parameters())
    assert part_bytes(learns, spec(learns)) - part_bytes(frozen, spec(frozen)) == 3 * weights


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"agent": "sac", "head.units": 60_000}, "head.units"),
        ({"agent": "sac", "head": "td3", "head.units": 30_000, "head.critics": 3}, "head.units"),
        ({"agent": "smac", "belief.depth": 20_000}, "belief.depth"),
        ({"agent": "smac", "replay.batch": 1_000_000}, "replay.batch"),
        ({"agent": "smac", "replay.capacity": 1e11, "frames": 1e11}, "replay.capacity"),
    ],
)
def test_what_takes_most_is_named(arguments: dict[str, Any], key: str) -> None:
    config = compose(arguments)
    with pytest.raises(UserError) as refused:
        check_size(config, spec(config), CPU)
    assert refused.value.where == key
    assert refused.value.fix == f"lower {key}"


def test_what_fits_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose({"agent": "sac", "replay.capacity": 1e11, "frames": 1_000})  # a short run never fills it
    check_size(config, STATE_SPEC, CPU)
    monkeypatch.setattr("worldrl.size.available_bytes", lambda device: None)  # a system that does not say
    check_size(compose({"agent": "sac", "head.units": 60_000}), STATE_SPEC, CPU)


def test_parts_of_a_sweep_are_checked_without_their_memory() -> None:
    check_parts(compose({"agent": "sac", "head.units": 60_000}))
