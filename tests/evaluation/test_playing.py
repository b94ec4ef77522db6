"""How a grid plays: an episode depends only on its seed and its cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluation.toy_grids import SETTINGS, Steer
from worldrl.acting.episodes import AgentActs, run_episodes
from worldrl.agent import Agent
from worldrl.config import Config, config_from_dict
from worldrl.envs import episode_seed, make_envs
from worldrl.envs.corruption import CorruptionConfig
from worldrl.envs.stream import EVAL
from worldrl.evaluation.playing import Job, Played, cell_noise, make_clean_envs, play_grid, policy_seed
from worldrl.report.grids import CLEAN, Cell

JOBS = [
    Job(cell, seed, episode)
    for cell in (CLEAN, Cell("gaussian", 0.5), Cell("stuck", 0.5), Cell("missing", 0.5))
    for seed in (1, 2)
    for episode in range(3)
]


def play(trained: tuple[Agent, Config], num_envs: int, jobs: list[Job] = JOBS, **kwargs: Any) -> list[Played]:
    agent, config = trained
    with make_clean_envs(config.env, config.task, num_envs, agent.spec) as envs:
        return play_grid(agent, envs, jobs, **kwargs)


SMALL_SLAC = {"belief.z1": 4, "belief.z2": 8, "belief.units": 8, "belief.depth": 1, "belief.vector_units": 8}
PARTS = {
    "smac": {key: value for key, value in SETTINGS.items() if key.startswith(("belief", "head"))},
    "dreamer": {"head": "dreamer", "head.units": 8, "head.mode_samples": 5, "belief.deter": 8, "belief.depth": 1},
    "slac": {"belief": "slac", "head": "slac", "head.units": 8, **SMALL_SLAC},
    "latent": {"head": "sac", "head.units": 8, "policy": "latent", "belief.deter": 8, "belief.depth": 1},
}


@pytest.mark.parametrize("explore", [False, True])
@pytest.mark.parametrize("parts", PARTS)
def test_episodes_do_not_depend_on_the_layout(parts: str, explore: bool) -> None:
    """On any number of environments, in any order, by itself or among others; only rounding may differ."""
    plain = {key: value for key, value in SETTINGS.items() if not key.startswith(("belief", "head"))}
    config = config_from_dict({**plain, **PARTS[parts]})
    envs = make_envs(config.env, config.task, 1)
    untrained = Agent(config, envs.spec), config
    envs.close()
    expected = play(untrained, 1, explore=explore)
    assert len({p.episode_return for p in expected}) > len(JOBS) / 2  # cells differ, not only starts
    for num_envs in (2, 5, 40):
        torch.manual_seed(num_envs)  # torch's own generator plays no part
        for found, one in zip(play(untrained, num_envs, explore=explore), expected, strict=True):
            assert found == one._replace(episode_return=pytest.approx(one.episode_return, abs=1e-4))
    assert play(untrained, 5, explore=explore) == play(untrained, 5, explore=explore)
    backwards = play(untrained, 3, JOBS[::-1], explore=explore)
    assert [p[1] for p in backwards[::-1]] == pytest.approx([p[1] for p in expected], abs=1e-4)
    single = play(untrained, 1, [JOBS[7]], explore=explore)
    assert single[0][1] == pytest.approx(expected[7][1], abs=1e-4)


def test_an_episode_is_that_of_a_plain_loop(trained: tuple[Agent, Config]) -> None:
    """Its seed is the one that evaluation uses, its noise that of training environments, and its draws its own."""
    agent, _ = trained
    job = Job(Cell("gaussian", 0.5), 2, 1)
    seed = episode_seed(2, EVAL, 0, 1)
    env, noise = Steer(), cell_noise(job.cell, CorruptionConfig(), agent.spec)
    noise.begin(seed)
    torch.manual_seed(policy_seed(2, 1))
    raw, _ = env.reset(seed=seed)
    state, action, total, first, end = agent.initial(1), np.zeros((1, 2), np.float32), 0.0, 1.0, False
    while not end:
        clean = {"pixels": raw["camera"], "state": np.concatenate([raw["place"], raw["speed"]])}
        rows = {key: x[None] for key, x in noise(clean).items()}
        rows |= {"action": action, "is_first": np.full(1, first, np.float32)}
        state, action, _ = agent.act(state, rows, explore=False)
        raw, reward, _, end, _ = env.step(action[0])
        total, first = total + reward, 0.0
    (played,) = play(trained, 1, [job])
    found = played.episode_return
    assert found == pytest.approx(total, abs=1e-4)


def test_cells_share_starts_and_draws(trained: tuple[Agent, Config]) -> None:
    """Noise of a level that changes nothing changes nothing; episodes last as long in every cell."""
    jobs = [Job(cell, 1, e) for cell in (CLEAN, Cell("jpeg", 1e-9), Cell("missing", 0.9)) for e in range(3)]
    played = play(trained, 4, jobs)
    lengths = [p[2] for p in played]
    assert lengths[:3] == lengths[3:6] == lengths[6:]
    assert len(set(lengths)) > 1
    unnoticed = play(trained, 4, [job._replace(cell=Cell("blur", 0.01)) for job in jobs[:3]])
    assert [p[1] for p in unnoticed] == pytest.approx([p[1] for p in played[:3]], abs=1e-4)


def test_known_dropout_plays_the_same_episodes(trained: tuple[Agent, Config]) -> None:
    """It changes what is done where something is lost, and nothing else: what an all-dark row shows is not read."""
    cells = (CLEAN, Cell("gaussian", 0.5), Cell("flicker", 0.5), Cell("missing", 0.5))
    jobs = [Job(cell, 1, e) for cell in cells for e in range(3)]
    told, untold = (play(trained, 4, jobs, known_dropout=known) for known in (True, False))
    assert [p[2] for p in told] == [p[2] for p in untold]
    returns = np.array([[p[1] for p in played] for played in (told, untold)])
    np.testing.assert_array_equal(returns[0, :6], returns[1, :6])
    assert (returns[0, 6:] != returns[1, 6:]).any(-1)
    blind = [[p[1] for p in play(trained, 4, [Job(Cell(kind, 1.0), 1, e) for e in range(3)], known_dropout=True)]
             for kind in ("flicker", "missing", "bursts")]  # fmt: skip
    assert blind[0] == blind[1] == blind[2]


def test_the_clean_cell_plays_the_episodes_of_a_plain_evaluation(trained: tuple[Agent, Config]) -> None:
    agent, config = trained
    envs = make_envs(config.env, config.task, 7, num_envs=1, training=False)
    try:
        plain = run_episodes(envs, AgentActs(agent, 1), 5)
    finally:
        envs.close()
    assert [p[2] for p in play(trained, 2, [Job(CLEAN, 7, e) for e in range(5)])] == plain.lengths
