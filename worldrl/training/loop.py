"""The training loop: act, store, learn, evaluate, log, save; and go on exactly where a run stopped.

One tick is one row per environment. Everything that the coming ticks depend on is in ``Trainer.state``, so a run of 2N
frames and a run of N frames, killed and resumed for N more, are the same run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from worldrl.acting.episodes import VIDEO_SIZE, Interrupted, own_randomness, run_episodes, with_action
from worldrl.agent import Agent, check_length
from worldrl.config import Config, check_unchanged, config_to_dict, load_config, save_config
from worldrl.data.replay import Replay, choose_replay_device
from worldrl.envs import describe_backend, gl_string, make_envs
from worldrl.envs.vector import VectorEnv, WorkerError
from worldrl.errors import Diverged, UserError
from worldrl.registry import PARTS
from worldrl.runs.checkpoint import (
    CheckpointError,
    Checkpoints,
    compare_fingerprint,
    environment_fingerprint,
    rng_state,
    set_rng_state,
)
from worldrl.runs.folder import sole_use
from worldrl.runs.metrics import Logger, Meter, Progress
from worldrl.runs.transfer import check_spec, encode_spec, load_model
from worldrl.training.clocks import Every, Ratio, Seconds, Timer
from worldrl.training.speed import make_update
from worldrl.types import Needs, State

PRETRAIN_LOG = 1_000  # updates
SHORT = 4  # rows of a window, in which there is next to nothing to remember


class Stopped(SystemExit):
    """A signal ended the run after a checkpoint; the exit code is 128 + the signal's number."""


def train(config: Config, run_dir: Path) -> None:
    """Train one agent in a new run folder."""
    with sole_use(run_dir):
        trainer = Trainer(config, run_dir, None)  # refuses what only the finished agent can judge
        save_config(config, run_dir)
        _run(trainer)


def resume(run_dir: Path, overrides: dict[str, Any] | None = None) -> None:
    """Continue a run from its last complete checkpoint; ``overrides`` are dotted keys that may change."""
    config = load_config(run_dir, **(overrides or {}))
    with sole_use(run_dir):
        checkpoints = Checkpoints(run_dir)
        folder = checkpoints.find()
        saved = checkpoints.load(folder, "cpu")
        check_unchanged(run_dir, saved["config"])
        if config.frames < min(saved["frames"], saved["config"]["frames"]):  # a run may end above what was asked for
            raise UserError(f"frames={config.frames}: the run in {run_dir} has {saved['frames']} already; ask for more")
        trainer = Trainer(config, run_dir, {**saved, "folder": folder})
        save_config(config, run_dir)
        _run(trainer)


def _run(trainer: Trainer) -> None:
    try:
        trainer.run()
    except KeyboardInterrupt:
        last = trainer.checkpoints.latest()
        rest = f"from {last.name}: {trainer.resume_command()}" if last else "is nothing: start the run again"
        trainer.progress.say(f"stopped at once, unsaved; what can go on {rest}")
        raise Stopped(130) from None
    finally:
        trainer.close()


class Trainer:
    """One run in progress."""

    def __init__(self, config: Config, run_dir: Path, saved: dict[str, Any] | None) -> None:
        self.config, self.run_dir = config, run_dir
        if config.threads:
            torch.set_num_threads(config.threads)
        _set_determinism(config.deterministic)
        torch.manual_seed(config.seed)
        self.envs = make_envs(config.env, config.task, config.seed)
        self.eval_envs: VectorEnv | None = None
        self.agent = Agent(config, self.envs.spec)
        _check_fits(config, self.agent)
        self.update = make_update(self.agent, config.speed)
        spec, replay = self.envs.spec, config.replay
        place = choose_replay_device(spec, replay.capacity, self.agent.device, replay.device)
        self.replay = Replay(spec, replay.capacity, config.env.num_envs, device=place, seed=config.seed)
        self.action_rng = np.random.default_rng([config.seed, 0x414354])  # the prefill's random actions
        self.frames = self.agent_steps = 0
        self.total, self.length = np.zeros(config.env.num_envs), np.zeros(config.env.num_envs, np.int64)
        self.last_return = self.eval_return = self.best_return = float("nan")
        self.evaluations = 0
        self.due = Ratio(config.schedule.updates_per_1000_frames, per=1000, start=config.schedule.prefill)
        self.clocks = {"eval": Every(config.eval.every), "log": Every(config.log.every)}
        self.save_clock = Seconds(60.0 * config.checkpoint.minutes)
        self.meter, self.timer = Meter(self.agent.device), Timer()
        self.checkpoints = Checkpoints(run_dir)
        self.stop_signal, self.fresh = 0, saved is None
        self.pretrained = 0
        self.source: Path | None = None  # the checkpoint that the belief model was taken from
        self.state = self.agent.initial(config.env.num_envs)
        if saved is None:
            self._try_video()
            self.rows = with_action(self.envs.reset(), np.zeros((config.env.num_envs, self.envs.spec.action_dim)))
            self.replay.add(self.rows)
            offset = None
            if config.init_from:
                self.source = load_model(self.agent, config)
        else:
            offset = self._restore(saved)
        self.logger = Logger(run_dir, config.log.tensorboard, offset, self.frames)
        self.progress = Progress(config.frames, self.frames, config.log.progress)
        self._window = (time.perf_counter(), self.frames, self.agent.updates)

    def _try_video(self) -> None:
        """Refuse a video that cannot be drawn, before anything is written."""
        if self.config.eval.video and self.config.eval.every:
            self.envs.reset()
            self.envs.render(*VIDEO_SIZE)

    # --- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train until ``config.frames``; a checkpoint at the end, and on SIGTERM or Ctrl-C."""
        self._greet()
        with _signals(self._on_signal):
            try:
                if self.fresh:
                    self.begin()
                while self.frames < self.config.frames and not self.stop_signal:
                    self.tick()
                if not self.stop_signal:
                    self.evaluate_if_due()
            except WorkerError as error:
                if self.fresh:  # in its first evaluation, with nothing to continue from
                    raise WorkerError(f"{error}; start the run again", error.index) from error
                self.save()
                raise WorkerError(f"{error}; continue with: {self.resume_command()}", error.index) from error
            except Interrupted:
                self.progress.say("stopped in its first evaluation, with nothing to continue from; start the run again")
                raise Stopped(128 + self.stop_signal) from None
            self.save(done=not self.stop_signal)
        if self.meter.mean():
            self.log(last=True)  # after the checkpoint: a run that goes on from there rolls this short window back
        if self.stop_signal:
            self.progress.say(f"stopped at {self.frames} frames; continue with: {self.resume_command()}")
            raise Stopped(128 + self.stop_signal)
        result = "" if np.isnan(self.eval_return) else f", last evaluation {self.eval_return:.1f}"
        self.progress.say(f"done: {self.frames} frames{result}, in {self.run_dir}")

    def begin(self) -> None:
        """A first evaluation and a first checkpoint, so that from here on a killed run can always go on."""
        if self.config.eval.every:
            with self.timer["eval"]:
                self.evaluate()
        self.save()
        self.fresh = False

    def tick(self) -> None:
        """One row from every environment and the updates that fall due, which run while workers step."""
        self.evaluate_if_due()
        self.pretrain()
        if self.stop_signal:
            return
        with self.timer["env"]:
            state, action = self.choose_action()
            self.envs.send(action)
        for _ in range(self._updates_due()):
            self.learn()
        with self.timer["env"]:
            self.rows = with_action(self.envs.receive(), action)
        self.state = state  # only now: after a tick that a dead worker cuts short, its row is still to come
        self.replay.add(self.rows)
        self.count()
        self.progress.update(self.frames, *self._shown_returns(), self.timer.shares())
        if self.clocks["log"](self.frames):
            self.log()
        if self.save_clock():
            self.save()

    def choose_action(self) -> tuple[State, np.ndarray]:
        """The next acting state, and actions (N, A): uniform during the prefill, the exploring agent's afterwards."""
        if self.frames < self.config.schedule.prefill:
            return self.state, self.action_rng.uniform(-1.0, 1.0, self.rows["action"].shape).astype(np.float32)
        state, action, _ = self.agent.act(self.state, self.rows, explore=True)
        return state, action

    def pretrain(self) -> None:
        """The model-only updates, once and all at one frame; they may take hours, so they are logged and saved too."""
        while self.pretrained < self.config.schedule.pretrain and self._may_learn() and not self.stop_signal:
            self.learn()
            self.progress.pretrain(self.pretrained, self.config.schedule.pretrain)
            if self.pretrained % PRETRAIN_LOG == 0:
                self.log()
            if self.save_clock():
                self.save()

    def learn(self) -> None:
        """Sample and update once."""
        with self.timer["sample"]:
            replay, agent = self.config.replay, self.agent
            batch = self.replay.sample(replay.batch, replay.length, agent.device)
            model_only = self.pretrained < self.config.schedule.pretrain
            needs = Needs() if model_only else agent.head.needs
            extra = self.replay.sample_extra(needs, replay.length, agent.model.lost_rows, agent.device)
        with self.timer["update"]:
            phase = agent.next_phase(model_only)
            self.pretrained += model_only
            with _pointing_to_checks(self.config):
                self.meter.add(self.update(phase, batch, extra))

    def _updates_due(self) -> int:
        """Updates by the schedule; the prefill's share is not made up for."""
        due = self.due(self.frames)
        return due if self._may_learn() else 0

    def _may_learn(self) -> bool:
        c = self.config
        filled = self.frames >= c.schedule.prefill and len(self.replay) >= self._rows_to_learn()
        return filled and self.replay.ready(c.replay.length)

    def _rows_to_learn(self) -> int:
        """What the prefill gives at least; a run that goes on with an empty replay waits for as many again."""
        c = self.config
        return min(c.schedule.prefill // c.env.action_repeat, self.replay.ticks * c.env.num_envs)

    def count(self) -> None:
        """Frames, agent steps and episodes; the only place where they are counted."""
        self.frames += int(self.rows["frames"].sum())
        self.agent_steps += int((1 - self.rows["is_first"]).sum())
        self.total += self.rows["reward"]
        self.length += self.rows["frames"]
        for i in np.flatnonzero(self.rows["is_last"]):
            self.last_return = float(self.total[i])
            self._record({"episode/return": self.last_return, "episode/length": int(self.length[i])})
            self.total[i], self.length[i] = 0.0, 0

    # --- evaluating ---------------------------------------------------------------------------------------------------

    def evaluate_if_due(self) -> None:
        """Between ticks, so that a run that ends here and one that goes on evaluate the same agent."""
        before = self.clocks["eval"].state_dict()
        if not self.clocks["eval"](self.frames):
            return
        try:
            with self.timer["eval"]:
                self.evaluate()
        except (WorkerError, Interrupted) as error:
            self.clocks["eval"].load_state_dict(before)  # still due when the run goes on
            if isinstance(error, WorkerError):
                raise

    def evaluate(self) -> None:
        """Play evaluation episodes with the mode action; training's randomness is left as it was."""
        c = self.config
        if self.eval_envs is None:
            self.eval_envs = make_envs(c.env, c.task, c.seed, training=False)
        first = self.evaluations * -(-c.eval.episodes // self.eval_envs.num_envs)
        record = c.eval.video
        with own_randomness(c.seed, 0x4556414C, self.evaluations):
            played = run_episodes(
                self.agent, self.eval_envs, c.eval.episodes, first, record=record, stop=lambda: self.stop_signal
            )
        self.evaluations += 1
        self.eval_return = float(np.mean(played.returns))
        self._record({"eval/return": self.eval_return, "eval/return_std": float(np.std(played.returns))})
        if record:
            played.save_video(self.run_dir / "videos" / f"eval-{self.frames:09d}.mp4")
        self._check_finite()
        if self.agent.updates and (np.isnan(self.best_return) or self.eval_return > self.best_return):
            self.best_return = self.eval_return
            self.checkpoints.save_best(self.frames, self.best_return, self._agent_state())

    # --- logging ------------------------------------------------------------------------------------------------------

    def log(self, last: bool = False) -> None:
        """Write the means since the last log. The only place, with ``save``, where the host waits for the device.

        ``last``: not to TensorBoard, which cannot take a record back.
        """
        self._check_finite()
        now, frames, updates = time.perf_counter(), self.frames, self.agent.updates
        seconds = now - self._window[0]
        speed = {
            "time/fps": (frames - self._window[1]) / seconds,
            "time/updates_per_second": (updates - self._window[2]) / seconds,
            **{f"time/frac_{name}": share for name, share in self.timer.shares().items()},
        }
        self._window = (now, frames, updates)
        self.timer.reset()
        self._record({**self.meter.mean(), "replay/size": len(self.replay), **speed}, tensorboard=not last)
        self.meter.reset()

    def _record(self, values: dict[str, float], tensorboard: bool = True) -> None:
        self.logger.write(self.frames, self.agent_steps, self.agent.updates, values, tensorboard)

    def _shown_returns(self) -> tuple[float | None, float | None]:
        episode, evaluation = (None if np.isnan(x) else x for x in (self.last_return, self.eval_return))
        return episode, evaluation

    def _greet(self) -> None:
        c, agent = self.config, self.agent
        params = sum(p.numel() for part in (agent.model, agent.head) for p in part.parameters() if p.requires_grad)
        how = f"{agent.device} {agent.precision.name} {c.speed}"
        self.progress.say(f"{c.agent} on {c.task}, seed {c.seed}: {params:,} parameters, {how}")
        if "pixels" in self.envs.spec.obs:
            self.progress.say(describe_backend())
        if self.source is not None:
            self.progress.say(f"belief model: {self.source}{'' if c.schedule.model_every else ', frozen'}")
        self.progress.say(f"run folder: {self.run_dir}")
        if not self.fresh:
            self.progress.say(f"going on at {self.frames:,} frames, from the last checkpoint")
            if not len(self.replay):
                self.progress.say(f"the replay is empty: learning waits for {self._rows_to_learn():,} rows")
        if c.schedule.prefill >= c.frames:
            prefill = f"schedule.prefill={c.schedule.prefill}"
            self.progress.say(f"nothing will be learned: {prefill} is not below frames={c.frames}")
        if c.eval.every > c.frames:
            self.progress.say(f"evaluated before training alone: eval.every={c.eval.every} is above frames={c.frames}")
        if agent.initial(1) and "model" in agent.optimizers and c.replay.length < SHORT:
            self.progress.say(
                f"the belief cannot learn to remember: found windows of replay.length={c.replay.length} rows, "
                "expected 16 to 50 (and as many in replay.batch)"
            )
        if note := getattr(getattr(agent.head, "policy", None), "note", ""):
            self.progress.say(note)
        if agent.head.needs.action_noise and not c.schedule.action_noise:
            self.progress.say("the agent will not explore: its policy is deterministic and schedule.action_noise=0")

    # --- saving and going on ------------------------------------------------------------------------------------------

    def save(self, done: bool = False) -> None:
        """Write a complete checkpoint; ``done``: of a run that came to its end, last evaluation included."""
        with self.timer["save"]:
            self._check_finite()
            replay = self.replay if self.config.checkpoint.replay else None
            self.checkpoints.save(self.frames, self.state_dict(), replay, done)
            self.save_clock.reset()

    def _agent_state(self) -> dict[str, Any]:
        spec, config = encode_spec(self.envs.spec), config_to_dict(self.config)
        return {"agent": self.agent.state_dict(), "spec": spec, "config": config}

    def state_dict(self) -> dict[str, Any]:
        """Everything the coming ticks depend on, but for the replay's rows."""
        return {
            **self._agent_state(),
            "envs": self.envs.state(),
            "rows": dict(self.rows),
            "acting": self.state,
            "frames": self.frames,
            "agent_steps": self.agent_steps,
            "pretrained": self.pretrained,
            "evaluations": self.evaluations,
            "returns": (self.total, self.length, self.last_return, self.eval_return, self.best_return),
            "due": self.due.state_dict(),
            "clocks": {name: clock.state_dict() for name, clock in self.clocks.items()},
            "meter": self.meter.state_dict(),
            "metrics_offset": self.logger.offset(),
            "rng": rng_state(self.agent.device),
            "action_rng": self.action_rng.bit_generator.state,
            "fingerprint": self._fingerprint(),
        }

    def _restore(self, saved: dict[str, Any]) -> int:
        """Take the saved state; returns the length of the metrics file that belongs to it."""
        check_spec(f"resume={self.run_dir}", encode_spec(self.envs.spec), saved["spec"])
        self.agent.load_state_dict(saved["agent"])
        if self.config.checkpoint.replay:
            self.checkpoints.load_replay(saved["folder"], self.replay)
        self.frames, self.agent_steps = saved["frames"], saved["agent_steps"]
        self.pretrained, self.evaluations = saved["pretrained"], saved["evaluations"]
        self.total, self.length, self.last_return, self.eval_return, self.best_return = saved["returns"]
        self.due.load_state_dict(saved["due"])
        for name, clock in self.clocks.items():
            clock.load_state_dict(saved["clocks"][name])
        self.meter.load_state_dict(saved["meter"])
        self.action_rng.bit_generator.state = saved["action_rng"]
        self.state = {key: value.to(self.agent.device) for key, value in saved["acting"].items()}
        self._restore_environments(saved)
        set_rng_state(saved["rng"], self.agent.device)
        return saved["metrics_offset"]

    def _restore_environments(self, saved: dict[str, Any]) -> None:
        rows = self.envs.restore(saved["envs"])
        self.rows = saved["rows"]
        here = self._fingerprint()
        for line in compare_fingerprint(saved["fingerprint"], here):
            print(line, file=sys.stderr)
        different = [key for key in rows if not np.array_equal(rows[key], self.rows[key])]
        if different:
            print(f"the environment did not replay exactly: {', '.join(different)} differ", file=sys.stderr)

    def _fingerprint(self) -> dict[str, str]:
        renderer = gl_string() if "pixels" in self.envs.spec.obs else "none"
        return environment_fingerprint(renderer, self.agent.device)

    def _check_finite(self) -> None:
        found = self.agent.first_non_finite()
        if found is None:
            return
        name, update = found
        path = self.run_dir / "non_finite.json"
        back = self.agent.updates - update + 1
        draws = self.replay.recent
        draw = draws[-back] if 0 < back <= len(draws) else None
        needs = self.agent.head.needs
        lost = [key for key, n in (("td", needs.td_batch), ("recent", needs.recent_batch)) if n]
        window = None if draw is None else _jsonable(draw._asdict())
        report = {"loss": name, "update": update, "window": window, "draws_not_kept": lost}
        beside = f"; what was drawn beside it, {', '.join(lost)}, is not kept" if lost else ""
        path.write_text(json.dumps(report) + "\n")
        last = self.checkpoints.latest()
        raise Diverged(
            f"{name} was not finite at update {update}; training stopped; the slice is named in {path} "
            f"(Replay.window rebuilds it{beside}); last good checkpoint: {last or 'none yet'}"
        )

    def _on_signal(self, number: int) -> None:
        self.stop_signal = number
        with suppress(OSError):  # written past Python's buffers, which the signal may have interrupted
            os.write(2, b"\nstopping after the step in progress; Ctrl-C again stops at once, unsaved\n")

    def resume_command(self) -> str:
        return f"python train.py resume={self.run_dir}"

    def close(self) -> None:
        with ExitStack() as stack:  # whatever fails, the others are closed
            if self.eval_envs is not None:
                stack.callback(self.eval_envs.close)
            stack.callback(self.envs.close)
            stack.callback(self.logger.close)
            stack.callback(self.progress.close)


@contextmanager
def _pointing_to_checks(config: Config) -> Iterator[None]:
    """Name, under the traceback of a failing update, the checks of the user's own parts."""
    try:
        yield
    except Exception as error:
        names = {kind: getattr(config, kind)["name"] for kind in PARTS}
        checks = [f'worldrl.testing.check_{kind}("{name}")' for kind, name in names.items() if ":" in name]
        if checks:
            error.add_note(f"an update of your own part failed; try: {', '.join(checks)}")
        raise


@contextmanager
def _signals(handle: Callable[[int], None]) -> Any:
    """SIGTERM and the first Ctrl-C end the tick in progress, a second Ctrl-C ends the process.

    Python gives signals to the main thread alone: a run in another thread goes on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        handle(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _check_fits(config: Config, agent: Agent) -> None:
    """Refuse settings that only the finished agent can judge."""
    check_length(config, agent.model)
    capacity, envs, beside = config.replay.capacity, config.env.num_envs, agent.head.needs.td_batch
    rows = capacity // envs * envs
    if 0 < rows <= beside:  # the replay itself refuses to have none
        raise UserError(
            f"replay.capacity={capacity} keeps {rows} rows at env.num_envs={envs}: the head draws {beside} transitions "
            f"beside its slice, expected more rows than that"
        )
    if config.schedule.pretrain and "model" not in agent.optimizers:
        raise UserError(f"schedule.pretrain={config.schedule.pretrain}: this belief has nothing to learn, expected 0")
    every = config.schedule.model_every
    if every > 1 and "model" not in agent.optimizers:
        raise UserError(f"schedule.model_every={every}: this belief has nothing to learn, expected 1")


def _set_determinism(deterministic: bool) -> None:
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic


def _jsonable(values: dict[str, Any]) -> dict[str, Any]:
    return {key: np.asarray(value).tolist() for key, value in values.items()}


__all__ = ["CheckpointError", "Stopped", "Trainer", "resume", "train"]
