"""Every number among a head's settings has a part in what the head learns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import STATE_SPEC
from tests.oracles.side_by_side import random_rows
from worldrl.agent import Agent
from worldrl.config import config_from_dict
from worldrl.registry import HEADS, load_class, tiny_settings
from worldrl.types import choice

UPDATES = 6
UNLIMITED = {"policy_std": "softplus", "init_std": 1.0}
NEEDED: dict[str, dict[str, Any]] = {  # settings with which others have a part, in addition to the tiny ones
    "awac": {"max_weight": 1.0},
    "cql": {"budget": 0.2},
    "ddpg": {"target_noise": 0.2, "critics": 2},
    "dreamer": {"entropy_scale": 0.1},
    "iql": {"max_weight": 0.1, "decay_updates": 20},
    "miracle": {"tune_alpha": True, **UNLIMITED},
    "misa": {"budget": 0.2, "acceptance": 0.99, **UNLIMITED},
    "mpo": {"policy_period": 2, "init_eta": 0.05, "actor_lr": 0.03},
    "onestep": {"evaluation_updates": 3, "improvement": "weighted", "max_weight": 1.0},
    "pmoe": {"tune_alpha": True},
    "slac": UNLIMITED,
    "value_sac": {"tune_alpha": True, **UNLIMITED},
    "virel": {"temperature": "residual", "residual_limits": (1e-9, 1e9), **UNLIMITED},
}
NO_PART: dict[str, set[str]] = {  # here: of acting, of the rows that are drawn, or of another variant
    "dreamer": {"mode_samples"},
    "miracle": {"marginal_actions", "marginal_batch"},
    "mirl": {"prior_batch", "prior_rows"},
    "mpo": {"residual_scale"},
    "pmoe": {"init_std"},
    "smac": {"max_roulette_level"},
    "virel": {"alpha_lr", "residual_batch", "soft_reward_scale", "target_entropy_scale"},
}


def build(head: str, **settings: Any) -> Agent:
    torch.manual_seed(0)
    belief = "rssm" if head in ("dreamer", "smac") else "identity"
    parts = {"belief": belief, **tiny_settings("belief", belief), "head": head, **tiny_settings("head", head)}
    of_head = {f"head.{key}": value for key, value in {**NEEDED.get(head, {}), **settings}.items()}
    actions = choice(3) if head in ("dqn", "soft_q", "mirl") else STATE_SPEC.actions
    spec = STATE_SPEC._replace(actions=actions, terminates=True)
    return Agent(config_from_dict({**parts, "device": "cpu", **of_head}), spec)


def learning(agent: Agent) -> Iterator[list[Tensor]]:
    """The head's weights and buffers, before and after each of a few updates."""
    yield [x.clone() for x in agent.head.state_dict().values()]
    spec = agent.spec
    recent = random_rows(spec, 92, b=8) if agent.head.needs.recent_obs else random_rows(spec._replace(obs={}), 92, 8, 1)
    extra = {"td": random_rows(spec, 91, b=3), "recent": recent}
    for n in range(UPDATES):
        torch.manual_seed(n)
        agent.update(agent.next_phase(), random_rows(spec, n, b=3), extra)
        agent.updates += 1
        yield [x.clone() for x in agent.head.state_dict().values()]


def differ(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) != len(other) or not all(map(torch.equal, one, other))


def changed(name: str, value: Any) -> Any:
    """Another value of a number."""
    if name == "grad_clip":
        return 1e-3
    if isinstance(value, float):
        return 0.5 * value if value else 0.5
    return value + 1


@pytest.mark.parametrize("head", HEADS)
def test_every_number_has_a_part(head: str) -> None:
    cls = load_class("head", head)
    usual = {**{f.name: f.default for f in fields(cls.Config)}, **cls.tiny, **NEEDED.get(head, {})}
    numbers = [f.name for f in fields(cls.Config) if type(f.default) in (int, float)]
    numbers = [name for name in numbers if name != "steps"]  # of DQN's returns; others refuse it
    expected, without = list(learning(build(head))), set()
    for name in numbers:
        found = learning(build(head, **{name: changed(name, usual[name])}))
        if not any(map(differ, expected, found)):
            without.add(name)
    assert without == NO_PART.get(head, set())
