"""``worldrl baseline ppo task=walker_walk``: a baseline of Stable-Baselines3 on our environments, in a run folder.

It learns from state vectors and small grids. Its training episodes start as those of worldrl's own agents with the same
seed, and it is evaluated on the same episodes, so ``worldrl report`` can put them all into one plot. The algorithm and
its settings are those of Stable-Baselines3; ``sb3.*`` are the arguments of its constructor. There is no checkpoint to
continue from: a run that was stopped has to start again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from omegaconf import OmegaConf

from worldrl import origin
from worldrl.acting.episodes import Endless, run_episodes
from worldrl.commands.arguments import HYDRA, expand, read_command_line
from worldrl.compose import RUNS, compose, run_name
from worldrl.config import Config, check_keys, config_to_dict, known_keys
from worldrl.envs.make import make_env
from worldrl.envs.stream import TRAIN, episode_seed
from worldrl.envs.vector import VectorEnv, make_envs
from worldrl.envs.workers import Rows
from worldrl.errors import UserError, cannot_import, one_line, unknown, writing, wrong
from worldrl.runs.metrics import Logger
from worldrl.runs.settings import CONFIG_FILE
from worldrl.statistics import mean_and_deviation
from worldrl.terminal import command
from worldrl.training.clocks import Every
from worldrl.training.progress import Progress
from worldrl.types import Actions, EnvSpec

ALGORITHMS = {"ppo": "PPO", "ddpg": "DDPG", "td3": "TD3", "sac": "SAC", "a2c": "A2C", "dqn": "DQN"}
BOX, CHOICE = ("ppo", "ddpg", "td3", "sac", "a2c"), ("ppo", "a2c", "dqn")  # by the kind of action that they take
LABEL = "sb3_"  # prefix of the agent's name in the report
ANOTHER = "choose another folder with dir="
SETTINGS = "sb3."  # prefix of an argument of the algorithm
SHARED = ("agent", "task", "seed", "frames", "env", "eval", "log")  # which of our settings have a meaning here
UNUSED = ("eval.video", "log.every")  # except these: no films, and a record for every episode
MODEL_FILE = "model.zip"
USAGE = f"""worldrl baseline ALGORITHM [key=value ...]

ALGORITHM: {", ".join(ALGORITHMS)}
keys: task, seed, frames, env, env.*, eval.every, eval.episodes, log.tensorboard and log.progress as for train.py;
      by default states, at one frame per action;
      sb3.KEY, an argument of the algorithm's constructor, such as sb3.learning_rate=1e-3
      dir, the run folder (runs/<task>/sb3_<algorithm>/<seed>-<stamp>)"""

Env = gymnasium.Env[Any, Any]


class Choices(gymnasium.ActionWrapper[Any, Any, Any]):
    """A choice by its number, as in their algorithms, not by a one-hot row."""

    def __init__(self, env: Env, actions: Actions) -> None:
        super().__init__(env)
        self.actions, self.action_space = actions, gymnasium.spaces.Discrete(actions.size)

    def action(self, action: Any) -> np.ndarray:
        return rows_of(action, self.actions)


def rows_of(action: Any, actions: Actions) -> np.ndarray:
    """Actions (...) or (..., A) of their algorithms -> rows (..., A) of the contract."""
    return np.eye(actions.size, dtype=np.float32)[action] if actions.kind == "choice" else action


class Numbered(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Only the state; training episode e starts from the seed that it has in every run of ``run_seed``."""

    def __init__(self, env: Env, run_seed: int) -> None:
        super().__init__(env)
        self._run_seed, self.episode = run_seed, 0
        self.observation_space = env.observation_space["state"]  # type: ignore[index]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=episode_seed(self._run_seed, TRAIN, 0, self.episode))
        self.episode += 1
        return obs["state"], info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, *rest = self.env.step(action)
        return obs["state"], *rest


def train(algorithm: str, config: Config, run_dir: Path, arguments: dict[str, Any]) -> Path:
    """Train one baseline in a new folder.

    Args:
        algorithm: a key of ``ALGORITHMS``.
        config: only task, seed, frames, env, eval and log are read.
        arguments: of the algorithm's constructor.

    Returns:
        the run folder, with ``config.yaml``, ``metrics.jsonl`` and ``model.zip``.

    Raises:
        UserError: Stable-Baselines3 is not installed, an argument or the kind of action is not supported, or the folder
            is not empty.
    """
    make = _algorithm(algorithm)
    if "seed" in arguments:
        raise wrong("sb3.seed", arguments["seed"], "seed=, which the report reads too")
    if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        found = "files of another run" if run_dir.is_dir() else "a file"
        raise UserError(str(run_dir), found, "a new or empty folder", ANOTHER)
    with contextlib.ExitStack() as stack:
        evaluation = make_envs(config.env, config.task, config.seed, num_envs=1, training=False)
        stack.callback(evaluation.close)
        _check_kind(algorithm, evaluation.spec)
        training = stack.enter_context(contextlib.closing(_env(config, evaluation.spec.actions)))
        model = _built(make, algorithm, training, {"seed": config.seed, "device": "cpu", **arguments})
        with writing(run_dir, ANOTHER):
            run_dir.mkdir(parents=True, exist_ok=True)
        _save_settings(config, run_dir, arguments)
        logger = Logger(run_dir, config.log.tensorboard)
        stack.callback(logger.close)
        watch = _watcher(config, evaluation, logger)
        stack.callback(watch.progress.close)
        try:
            model.learn(total_timesteps=config.frames, callback=watch)  # the callback ends it: steps have many frames
        finally:  # of hours, whatever ends them
            vars(model).pop("_update_current_progress_remaining", None)  # ours; the rest is saved
            model.save(run_dir / MODEL_FILE)
        if config.eval.every:
            watch.evaluate()
        watch.progress.say(f"done: {watch.frames} frames, in {run_dir}")
    return run_dir


def _env(config: Config, actions: Actions) -> Numbered:
    env = make_env(config.env, config.task)
    return Numbered(Choices(env, actions) if actions.kind == "choice" else env, config.seed)


def _check_kind(algorithm: str, spec: EnvSpec) -> None:
    able = BOX if spec.actions.kind == "box" else CHOICE
    if algorithm not in able:
        found = f"{spec.task}, which has a {spec.actions.kind} of actions"
        raise UserError(f"baseline {algorithm}", found, f"another task, or one of: {', '.join(able)}")


def _algorithm(name: str) -> Any:
    if name not in ALGORITHMS:
        raise unknown("algorithm", name, ALGORITHMS)
    return getattr(stable_baselines(), ALGORITHMS[name])


def stable_baselines() -> ModuleType:
    """The package. Raises UserError if it is not installed."""
    try:
        import stable_baselines3
    except ImportError as error:
        raise cannot_import("Stable-Baselines3", error, "pip install -e '.[sb3]'") from error
    return stable_baselines3


def _built(make: Any, name: str, env: Env, arguments: dict[str, Any]) -> Any:
    try:
        return make(env=env, **{"policy": "MlpPolicy", **arguments, **_noise(env, arguments.get("action_noise"))})
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise UserError("sb3.*", f"settings that {ALGORITHMS[name]} refuses: {error}") from error


def _noise(env: Env, std: Any) -> dict[str, Any]:
    """The object for ``sb3.action_noise=0.1``: Gaussian noise of this standard deviation on actions in [-1, 1]."""
    if std is None:
        return {}
    if isinstance(std, bool) or not isinstance(std, int | float) or std < 0:
        raise wrong("sb3.action_noise", std, "a standard deviation of 0 or more")
    from stable_baselines3.common.noise import NormalActionNoise

    size = env.action_space.shape or ()
    return {"action_noise": NormalActionNoise(np.zeros(size), np.full(size, float(std)))}


def _save_settings(config: Config, run_dir: Path, arguments: dict[str, Any]) -> None:
    """What the report needs, and what a second run of this would need."""
    stored = config_to_dict(config)
    settings = {**{key: stored[key] for key in SHARED}, "sb3": arguments}
    text = f"{origin.note()}\n{OmegaConf.to_yaml(OmegaConf.create(settings))}"
    (run_dir / CONFIG_FILE).write_text(text, encoding="utf-8")


def _watcher(config: Config, envs: VectorEnv, logger: Logger) -> Any:
    """A callback that counts frames, evaluates, logs and stops; its base class is theirs, which is optional."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Watch(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.frames = self.evaluations = 0
            self.due = Every(config.eval.every)
            self.progress = Progress(config.frames, enabled=config.log.progress)

        def _on_training_start(self) -> None:
            # Schedules run over steps; ``learn`` was told frames, because the last step is not known.
            model: Any = self.model
            steps, update = -(-config.frames // config.env.action_repeat), model._update_current_progress_remaining
            model._update_current_progress_remaining = lambda now, _: update(min(now, steps), steps)
            if config.eval.every:
                self.evaluate()

        def _on_step(self) -> bool:
            (info,) = self.locals["infos"]
            self.frames += info["frames"]
            if "episode" in info:
                self.record({"episode/return": float(info["episode"]["r"])})
            if self.due(self.frames) and self.frames < config.frames:
                self.evaluate()
            self.progress.update(self.frames)
            return self.frames < config.frames

        def evaluate(self) -> None:
            first, n = self.evaluations * config.eval.episodes, config.eval.episodes
            self.evaluations += 1
            try:
                returns = run_episodes(envs, self.act, n, first).returns
            except Endless as error:
                self.progress.say(f"{one_line(error)}; this evaluation is skipped")
                return
            self.progress.update(self.frames, eval_return=float(np.mean(returns)))
            mean, deviation = mean_and_deviation(returns)
            self.record({"eval/return": mean, "eval/return_std": deviation})

        def act(self, rows: Rows) -> np.ndarray:
            return rows_of(self.model.predict(rows["state"], deterministic=True)[0], envs.spec.actions)

        def record(self, values: dict[str, float]) -> None:
            logger.write(self.frames, self.num_timesteps, getattr(self.model, "_n_updates", 0), values)

    return Watch()


def parse(argv: Sequence[str]) -> tuple[str, Config, Path, dict[str, Any]]:
    """The arguments of ``train`` from those of the command.

    Raises:
        UserError: no algorithm, a key without a meaning here, or a wrong value.
    """
    if not argv or "=" in argv[0]:
        found = argv[0] if argv else "nothing"
        raise UserError("the first argument", found, f"one of: {', '.join(ALGORITHMS)}", "see --help")
    algorithm, line = argv[0], read_command_line(argv[1:])
    several = [argument.text for argument in line.ours if argument.several]
    if line.multirun or several:
        raise UserError(several[0] if several else "-m", "several runs", "one", "call it once for each value")
    if line.show or line.hydra or line.run_dir or line.sweep_dir:
        found = "--cfg" if line.show else next(text for text in argv if text.startswith(HYDRA))
        raise UserError(found, "an option of worldrl train only", fix="dir= is the run folder")
    theirs = [argument for argument in line.ours if argument.key.startswith(SETTINGS)]
    arguments = {argument.key.removeprefix(SETTINGS): argument.values[0] for argument in theirs}
    (given,) = expand([argument for argument in line.ours if argument not in theirs])
    folder = given.pop("dir", "")
    if "resume" in given:
        raise UserError("resume", "a run that cannot be resumed", "a new one", "start it again with more frames")
    usable = {key for key in known_keys({}) if key.partition(".")[0] in SHARED[1:]} - {*UNUSED}
    check_keys(given, usable | {"env"})
    repeat = {} if "env" in given else {"env.action_repeat": 1}
    config = compose({"agent": "sac", "env.obs": "state", **repeat, **given})
    if config.env.obs != "state" or config.env.num_envs != 1:
        found = f"env.obs={config.env.obs} and env.num_envs={config.env.num_envs}"
        raise UserError(f"baseline {algorithm}", found, "the states of one: env.obs=state and env.num_envs=1")
    config = dataclasses.replace(config, agent=f"{LABEL}{algorithm}")
    return algorithm, config, Path(folder or Path(RUNS) / run_name(config)), arguments


@command
def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if "-h" in argv or "--help" in argv:
        print(USAGE)
        return 0
    start = time.perf_counter()
    train(*parse(argv))
    print(f"{time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
