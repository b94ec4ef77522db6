"""The tutorial as a script of cells: train, read the curve, act, add noise, swap the head."""

# %% Train: Latent-SAC swings up a pole, from state vectors
import json

import numpy as np
from dm_control import suite

import worldrl
from worldrl.evaluation.robustness import evaluate_grid

run_dir = worldrl.train(experiment="tutorial", seed=1)

# %% The curve: every line of metrics.jsonl is a record
records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
for record in records:
    if "eval/return" in record:
        print(record["frames"], round(record["eval/return"]))

# %% Act: an episode in the simulator, without any of worldrl's environments
env, policy = suite.load("cartpole", "swingup", {"random": 0}), worldrl.load(run_dir)
policy.reset()
step, total, entropies = env.reset(), 0.0, []
while not step.last():
    action = policy.act(np.concatenate([np.ravel(values) for values in step.observation.values()]))
    entropies.append(float(policy.belief.entropy))
    for _ in range(policy.spec.action_repeat):
        step = env.step(policy.to_env(action))
        total += step.reward
        if step.last():
            break
print(f"return {total:.0f}, entropy of the belief {np.mean(entropies):.2f} nats")

# %% Noise: the same agent while its sensors fail
grid = evaluate_grid(run_dir, ["bursts"], [0.1, 0.3], episodes=10)
for cell in grid["cells"]:
    print(cell["corruption"], cell["level"], round(cell["return"]))

# %% Swap the head: SMAC on the world model that has been learned, which is frozen
frozen = {"schedule.model_every": 0, "schedule.pretrain": 0}
other = worldrl.train(frozen, init_from=run_dir, experiment="tutorial", head="smac", frames=20_000, seed=1)
print("worldrl report", run_dir, other)
