"""A point in a square that is rewarded for standing at the origin."""

import gymnasium
import numpy as np
from gymnasium import spaces


class Point(gymnasium.Env):
    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-0.1, 0.1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)  # draw from self.np_random only: then an episode follows from its seed
        self.position, self.steps = self.np_random.uniform(-1, 1, 2), 0
        return self.position.astype(np.float32), {}

    def step(self, action):
        self.position, self.steps = np.clip(self.position + action, -1, 1), self.steps + 1
        reward = float(np.exp(-4 * np.square(self.position).sum()))
        return self.position.astype(np.float32), reward, False, self.steps >= 50, {}
