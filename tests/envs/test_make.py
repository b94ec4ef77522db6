from __future__ import annotations

import numpy as np
import pytest

from worldrl.envs.make import EnvConfig, describe, make_env

STATE = EnvConfig(obs="state", action_repeat=3)


@pytest.mark.parametrize(
    ("task", "low", "high"),
    [
        ("toy_envs:Count", (0.0,), (4.0,)),
        ("Pendulum-v1", (-2.0,), (2.0,)),
        ("cartpole_balance", (-1.0,), (1.0,)),
        ("lqr_lqr_2_1", (-1.0,), (1.0,)),  # dm_control gives it no bounds
    ],
)
def test_what_an_environment_tells(task: str, low: tuple[float, ...], high: tuple[float, ...]) -> None:
    env = make_env(STATE, task)
    spec = describe(env, STATE)
    assert (spec.task, spec.action_repeat) == (task, 3)
    assert (spec.actions.kind, spec.actions.size, spec.actions.low, spec.actions.high) == ("box", 1, low, high)
    row = env.reset(seed=0)[0]
    assert {key: (item.shape, item.dtype) for key, item in spec.obs.items()} == {
        key: (value.shape, str(value.dtype)) for key, value in row.items()
    }
    assert not any(np.isnan(value).any() for value in row.values())
