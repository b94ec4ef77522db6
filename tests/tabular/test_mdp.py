"""Processes from tables: what is refused, and what toy-text environments become."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from worldrl.errors import UserError, one_line
from worldrl.tabular.mdp import MDP, check_distribution, from_toy_text, make_mdp, random_mdp
from worldrl.tabular.solve import evaluate, greedy, value_iteration


def test_a_random_process_is_a_process() -> None:
    mdp = random_mdp(np.random.default_rng(0), 4, 3)
    assert mdp.transition.shape == (4, 3, 4)
    np.testing.assert_allclose(mdp.transition.sum(-1), 1.0)
    np.testing.assert_allclose(mdp.start, 0.25)
    assert mdp.transition.dtype == mdp.reward.dtype == np.float64


LOOP = np.ones((1, 1, 1))


def wrong_row() -> MDP:
    transition = random_mdp(np.random.default_rng(0), 3, 2).transition
    transition[2, 1] *= 0.9
    return make_mdp(transition, np.zeros((3, 2)), 0.9)


@pytest.mark.parametrize(
    ("build", "where", "found"),
    [
        (wrong_row, "transition[2, 1]", "a sum of 0.9"),
        (lambda: make_mdp(-LOOP, [[0.0]], 0.9), "transition[0, 0, 0]", "-1"),
        (lambda: make_mdp(LOOP, [[0.0]], 1.0), "gamma", "1, and state 0 leads to no end"),
        (lambda: make_mdp(LOOP, [[0.0]], 1.5), "gamma", "1.5"),
        (lambda: make_mdp(LOOP, [[0.0]], -0.1), "gamma", "-0.1"),
        (lambda: make_mdp(np.nan * LOOP, [[0.0]], 0.9), "transition[0, 0, 0]", "nan"),
        (lambda: make_mdp(LOOP, [[np.inf]], 0.9), "reward", "a value that is not finite"),
        (lambda: make_mdp(LOOP, [[0.0]], 0.9, [False, True], [1.0]), "terminal and start", "shapes (2,) and"),
        (lambda: make_mdp(LOOP, [[np.nan]], 0.9), "reward", "a value that is not finite"),
        (lambda: make_mdp(LOOP, [[-np.inf]], 0.9), "reward", "a value that is not finite"),
        (lambda: make_mdp(LOOP, [0.0], 0.9), "the tables of the process", "shapes (1, 1, 1) and (1,)"),
        (lambda: make_mdp(LOOP, [[0.0]], 0.9, start=[0.5]), "start", "a sum of 0.5"),
        (lambda: make_mdp(LOOP, [[0.0]], 0.9, start=[0.5, 0.5]), "terminal and start", "shapes (1,) and (2,)"),
        (lambda: check_distribution("prior", np.array([0.5, 0.0, 0.5]), positive=True), "prior[1]", "0"),
        (lambda: from_toy_text(gymnasium.make("CartPole-v1"), 0.9), "environment CartPoleEnv", ""),
    ],
)
def test_bad_tables_are_one_line(build, where: str, found: str) -> None:
    with pytest.raises(UserError) as error:
        build()
    assert error.value.where == where
    assert error.value.found.startswith(found)
    assert len(one_line(error.value).splitlines()) == 1


def test_a_discount_of_one_is_for_processes_that_end() -> None:
    mdp = make_mdp([[[0.5, 0.5]], [[0.0, 1.0]]], [[-1.0], [0.0]], 1.0, terminal=[False, True])
    assert value_iteration(mdp).value[0] == pytest.approx(-2.0)
    assert evaluate(mdp, np.ones((2, 1)))[0] == pytest.approx(-2.0)


@pytest.mark.parametrize(
    ("task", "gamma", "best"), [("CliffWalking-v1", 1.0, -13.0), ("FrozenLake-v1", 0.99, 0.5420259)]
)
def test_toy_text_environments_have_their_known_values(task: str, gamma: float, best: float) -> None:
    mdp = from_toy_text(gymnasium.make(task), gamma)
    assert mdp.start @ value_iteration(mdp).value == pytest.approx(best, abs=1e-6)


def test_the_process_of_a_toy_text_environment_is_the_environment() -> None:
    """The mean return of the best policy, played, is its value."""
    env = gymnasium.make("FrozenLake-v1", map_name="4x4", is_slippery=True, max_episode_steps=10_000)
    mdp = from_toy_text(env, 1.0)
    policy = greedy(mdp.reward + mdp.gamma * mdp.transition @ value_iteration(mdp, 1e-10).value).argmax(-1)
    returns = []
    for seed in range(400):
        state, _ = env.reset(seed=seed)
        ended, gain = False, 0.0
        while not ended:
            state, reward, ended, _, _ = env.step(int(policy[state]))
            gain += float(reward)
        returns.append(gain)
    value = mdp.start @ value_iteration(mdp, 1e-10).value
    assert value == pytest.approx(14 / 17)
    assert np.mean(returns) == pytest.approx(value, abs=3 * np.std(returns) / 20)


def test_an_end_that_only_a_missing_action_reaches_does_not_count() -> None:
    transition = np.zeros((2, 2, 2))
    transition[0, 0, 0] = transition[0, 1, 1] = 1
    transition[1, :, 1] = 1
    assert make_mdp(transition, [[-1.0, -1.0], [0, 0]], 1.0, [False, True]).gamma == 1
    with pytest.raises(UserError):
        make_mdp(transition, [[-1.0, -np.inf], [0, 0]], 1.0, [False, True])
