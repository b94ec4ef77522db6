"""d3rlpy's BC, TD3+BC, IQL and CQL on a data set in D4RL's layout: final returns and seconds per 1,000 updates.

It needs a Python environment of its own: ``pip install d3rlpy "mujoco<4" imageio``. Networks, batches, rates and
lengths are those of ``worldrl train agent=NAME data=DATA``: two layers of 256 (CQL three), batches of 256.

    python against_d3rlpy.py DATA.npz TASK OUT.csv --updates 30000 --seeds 1 2 3
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import d3rlpy
import gymnasium
import numpy as np
import torch
from d3rlpy.models import VectorEncoderFactory

TWO, THREE = VectorEncoderFactory([256, 256]), VectorEncoderFactory([256, 256, 256])
RANGE_1000 = d3rlpy.preprocessing.ReturnBasedRewardScaler(multiplier=1000.0)
Z_SCORES = d3rlpy.preprocessing.StandardObservationScaler()


def learners() -> dict[str, d3rlpy.algos.AlgoBase]:
    """The four methods with their papers' settings for MuJoCo."""
    two = {"actor_encoder_factory": TWO, "critic_encoder_factory": TWO}
    three = {"actor_encoder_factory": THREE, "critic_encoder_factory": THREE}
    iql = {**two, "value_encoder_factory": TWO, "reward_scaler": RANGE_1000}
    return {
        "bc": d3rlpy.algos.BCConfig(batch_size=256, learning_rate=3e-4, encoder_factory=TWO),
        "td3_bc": d3rlpy.algos.TD3PlusBCConfig(batch_size=256, observation_scaler=Z_SCORES, **two),
        "iql": d3rlpy.algos.IQLConfig(batch_size=256, expectile=0.7, weight_temp=3.0, **iql),
        "cql": d3rlpy.algos.CQLConfig(
            batch_size=256,
            actor_learning_rate=1e-4,
            critic_learning_rate=3e-4,
            alpha_learning_rate=0.0,
            initial_alpha=1.0,
            conservative_weight=5.0,
            soft_q_backup=False,
            **three,
        ),
    }


def read(path: str) -> d3rlpy.dataset.MDPDataset:
    """Episodes of D4RL's arrays."""
    arrays = np.load(path)
    names = ("observations", "actions", "rewards", "terminals", "timeouts")
    return d3rlpy.dataset.MDPDataset(*(arrays[name].astype(np.float32) for name in names))


def play(learner: d3rlpy.algos.QLearningAlgoBase, task: str, episodes: int) -> float:
    """Mean return of ``episodes`` of the policy's mode."""
    env, returns = gymnasium.make(task), []
    for episode in range(episodes):
        row, _ = env.reset(seed=10_000 + episode)
        total, ended = 0.0, False
        while not ended:
            row, reward, terminal, cut, _ = env.step(learner.predict(row[None].astype(np.float32))[0])
            total, ended = total + float(reward), terminal or cut
        returns.append(total)
    return float(np.mean(returns))


def learn(name: str, data: d3rlpy.dataset.MDPDataset, updates: int) -> tuple[d3rlpy.algos.QLearningAlgoBase, float]:
    """A learner after ``updates``, and its seconds per 1,000 updates without the first 100."""
    learner = learners()[name].create(device="cpu:0")
    learner.build_with_dataset(data)
    for scaler in (learner.observation_scaler, learner.reward_scaler):
        if scaler is not None:
            scaler.fit_with_transition_picker(data.episodes, data.transition_picker)
    for done in range(updates):
        if done == 100:
            began = time.perf_counter()
        learner.update(data.sample_transition_batch(256))
    return learner, (time.perf_counter() - began) / (updates - 100) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("task")
    parser.add_argument("out", type=Path)
    parser.add_argument("--updates", type=int, default=30_000)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--methods", nargs="+", default=["bc", "td3_bc", "iql", "cql"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = read(given.data)
    with given.out.open("a", newline="") as file:
        for name in given.methods:
            for seed in given.seeds:
                d3rlpy.seed(seed)
                learner, seconds = learn(name, data, given.updates)
                row = [
                    name,
                    seed,
                    given.updates,
                    round(seconds, 2),
                    round(play(learner, given.task, given.episodes), 1),
                ]
                csv.writer(file).writerow(row)
                file.flush()
                print(*row)


if __name__ == "__main__":
    main()
