"""Data of your own: record a controller in an environment, save the arrays, learn from them."""

import numpy as np
from point import Point

import worldrl

names = ["observations", "actions", "rewards", "terminals", "timeouts", "next_observations"]


def record(episodes: int) -> list[np.ndarray]:
    """What a shaky controller does, step by step: one array for each name."""
    env, steps = Point(), []
    for seed in range(episodes):
        (observation, _), timeout = env.reset(seed=seed), False
        while not timeout:
            towards = env.np_random.normal(-0.2 * observation, 0.05).clip(-0.1, 0.1).astype(np.float32)
            after, reward, terminated, timeout, _ = env.step(towards)
            steps.append((observation, towards, reward, terminated, timeout, after))
            observation = after
    return [np.array(column) for column in zip(*steps, strict=True)]


if __name__ == "__main__":
    np.savez("point.npz", **dict(zip(names, record(episodes=40), strict=True)))
    run_dir = worldrl.train(
        {"eval.every": 1_000, "eval.video": False},
        agent="td3_bc",
        data="point.npz",
        task="point:Point",
        env="gym",
        updates=2_000,
    )
    print(run_dir)
