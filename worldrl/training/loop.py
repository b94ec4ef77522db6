"""The training loop: collect rows, learn, evaluate, log, save; and resume exactly where a run stopped.

Everything that the next ticks depend on is in ``Trainer.state_dict``, so a run of 2N frames is the same as a run of N
frames that is killed and resumed for N more.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldrl.acting.episodes import AgentActs, Interrupted, own_randomness, run_episodes
from worldrl.acting.video import Video
from worldrl.agent import Agent, check_length
from worldrl.compose import resumed
from worldrl.config import Config, config_to_dict
from worldrl.data.replay import Replay
from worldrl.envs import make_envs
from worldrl.envs.vector import VectorEnv, WorkerError
from worldrl.errors import Diverged, UserError, one_line, wrong
from worldrl.nn import products
from worldrl.nn.precision import choose_device
from worldrl.registry import PARTS
from worldrl.runs.checkpoint import STATE, CheckpointError, Checkpoints
from worldrl.runs.exactness import PRODUCTS, compare_fingerprint, environment_fingerprint, rng_state, set_rng_state
from worldrl.runs.folder import NON_FINITE, VIDEOS, resume_command, sole_use
from worldrl.runs.metrics import Logger
from worldrl.runs.settings import check_unchanged, save_config
from worldrl.runs.state import restoring
from worldrl.runs.transfer import check_spec, encode_spec, load_model
from worldrl.size import check_size
from worldrl.statistics import mean_and_deviation, normalized
from worldrl.training.clocks import Every, Seconds, Timer
from worldrl.training.experience.base import Experience
from worldrl.training.experience.make import make_experience
from worldrl.training.progress import Meter, Progress
from worldrl.training.signals import Stopped, heeding_signals
from worldrl.training.speed import form_of, make_update
from worldrl.types import Needs, Part

MakeExperience = Callable[[Config], Experience]

PRETRAIN_LOG = 1_000  # updates
SHORT = 4  # rows of a window, in which there is hardly anything to remember


def train(config: Config, run_dir: Path, make: MakeExperience = make_experience) -> None:
    """Train one agent in a new run folder, on the experience that ``make`` creates."""
    with sole_use(run_dir):
        _run(Trainer(config, run_dir, None, make))


def resume(run_dir: Path, overrides: dict[str, Any] | None = None, make: MakeExperience = make_experience) -> None:
    """Resume a run from its last complete checkpoint; ``overrides`` are dotted keys that may change."""
    config = resumed(run_dir, overrides or {})
    with sole_use(run_dir):
        checkpoints = Checkpoints(run_dir)
        folder, saved = checkpoints.read()
        with restoring(folder / STATE):
            check_unchanged(run_dir, saved["config"])
        _run(Trainer(config, run_dir, {**saved, "folder": folder}, make))


def _run(trainer: Trainer) -> None:
    try:
        trainer.run()
    except KeyboardInterrupt:
        last = trainer.checkpoints.latest()
        rest = f"from {last.name}: {trainer.resume_command()}" if last else "is nothing: start the run again"
        trainer.progress.say(f"stopped at once, unsaved; what can continue {rest}")
        raise Stopped(130) from None
    finally:
        trainer.close()


class Trainer:
    """One run in progress."""

    def __init__(
        self, config: Config, run_dir: Path, saved: dict[str, Any] | None, make: MakeExperience = make_experience
    ) -> None:
        self.run_dir = run_dir
        self.eval_envs: VectorEnv | None = None
        device = choose_device(config.device)
        self._threads = torch.get_num_threads()  # of the process, which may have other runs
        if config.threads:
            torch.set_num_threads(config.threads)
        with ExitStack() as refused:
            refused.callback(torch.set_num_threads, self._threads)
            _set_determinism(config.deterministic)
            products.use(None)
            torch.manual_seed(config.seed)
            self.experience = make(config)
            refused.callback(self.experience.close)
            self._build(saved, device)
            refused.pop_all()

    def _build(self, saved: dict[str, Any] | None, device: torch.device) -> None:
        """Everything that learns on the experience, new or as it was saved."""
        config = self.experience.config  # with the data's checksum
        run_dir = self.run_dir
        check_size(config, self.experience.spec, device)
        self.agent = Agent(config, self.experience.spec)
        speed = form_of(config.speed, self.agent, config.all_updates)
        self.config = config = dataclasses.replace(config, speed=speed)
        _check_fits(config, self.agent)
        self.update = make_update(self.agent, config.speed)
        self.experience.attach(self.agent)
        self.evaluations = self.pretrained = 0
        self.eval_return = self.best_return = float("nan")
        self.clocks = self._new_clocks()
        self.save_clock = Seconds(60.0 * config.checkpoint.minutes)
        self.meter, self.timer = Meter(self.agent.device), Timer()
        self.checkpoints = Checkpoints(run_dir)
        self.stop_signal, self.fresh = 0, saved is None
        self.advised: set[Part] = set()  # parts whose advice has been printed
        self.patient = False  # whether the due evaluation has failed before
        self.source: Path | None = None  # the checkpoint that the belief model was taken from
        position = None
        if saved is None:
            self._begin()
        else:
            with restoring(saved["folder"] / STATE):
                position = self._restore(saved)
        save_config(config, run_dir)  # before any other file: without it nobody knows whose they are
        self.logger = Logger(run_dir, config.log.tensorboard, position, self.experience.position)
        self.progress = self._new_progress()
        self._window = (time.perf_counter(), self.experience.counters()[0], self.agent.updates)

    def _new_clocks(self) -> dict[str, Every]:
        """The clocks of a phase, which begins at time zero."""
        return {"eval": Every(self.config.eval.every), "log": Every(self.config.log.every)}

    def _new_progress(self) -> Progress:
        now, length, unit = self.experience.now, self.experience.length, self.experience.unit
        return Progress(length, now, self.config.log.progress, unit=unit)

    def _begin(self) -> None:
        self.experience.begin()
        if self.config.init_from:
            self.source = load_model(self.agent, self.config)

    # --- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end of the experience; save a checkpoint there, and on SIGTERM, SIGHUP or Ctrl-C."""
        self._greet()
        with heeding_signals(self._on_signal):
            try:
                self._train()
            except WorkerError as error:
                if self.fresh:  # in its first evaluation, with nothing to resume from
                    raise WorkerError(f"{error}; start the run again", error.index) from error
                self.save()
                raise WorkerError(f"{error}; continue with: {self.resume_command()}", error.index) from error
            except Interrupted:
                again = f"delete {self.run_dir} and start the run again"
                self.progress.say(f"stopped in its first evaluation, with nothing to resume from; {again}")
                raise Stopped(128 + self.stop_signal) from None
            self.save(done=not self.stop_signal)
        if self.meter.mean():
            self.log(last=True)  # after the checkpoint: a run that resumes there discards this short window
        now, unit = self.experience.now, self.experience.unit
        if self.stop_signal:
            self.progress.say(f"stopped at {now} {unit}; continue with: {self.resume_command()}")
            raise Stopped(128 + self.stop_signal)
        result = "" if np.isnan(self.eval_return) else f", last evaluation {self.eval_return:.1f}"
        self.progress.say(f"done: {now} {unit}{result}, in {self.run_dir}")

    def _train(self) -> None:
        if self.fresh:
            self.begin()
        while not self.stop_signal:
            while self.experience.now < self.experience.length and not self.stop_signal:
                self.tick()
            if self.stop_signal:
                return
            self.evaluate_if_due()
            if self.stop_signal or self.experience.position >= self.config.length:
                return
            if self.meter.mean():
                self.log()
            if not self.experience.advance():
                return
            self._begin_phase()

    def _begin_phase(self) -> None:
        """Reset the clocks; the metrics of the previous phase are logged under its name."""
        self.progress.close()
        self.clocks, self.progress = self._new_clocks(), self._new_progress()
        self.progress.say(f"learned from data; now acting for {self.experience.length:,} {self.experience.unit}")

    def begin(self) -> None:
        """Make a first evaluation and a first checkpoint, so a run that is killed later can always be resumed."""
        if self.config.eval.every:
            with self.timer["eval"]:
                self.evaluate()
        self.save()
        self.fresh = False

    def tick(self) -> None:
        """Collect rows and make the due updates, while workers step. Signals are handled between updates."""
        self.evaluate_if_due()
        self.pretrain()
        if self.stop_signal:
            return
        with self.timer["env"]:
            self.experience.send()
        while not self.stop_signal and self.experience.due():
            self.learn()
        if self.stop_signal:
            return  # the tick in progress is part of the experience's state
        with self.timer["env"]:
            ended = self.experience.receive()
        for episode in ended:
            self._record(episode)
        for line in self.experience.news():
            self.progress.say(line)
        self._show_progress(ended)
        if self.clocks["log"](self.experience.now):
            self.log()
        if self.save_clock():
            self.save()

    def pretrain(self) -> None:
        """The model-only updates, all at one time of the run; they can take hours, so they are logged and saved too."""
        total = self.config.schedule.pretrain
        while self.pretrained < total and self.experience.ready() and not self.stop_signal:
            self.learn()
            self.progress.pretrain(self.pretrained, total)
            if self.pretrained % PRETRAIN_LOG == 0:
                self.log()
            if self.save_clock():
                self.save()

    def learn(self) -> None:
        """Sample and update once."""
        replay, agent = self.config.replay, self.agent
        model_only = self.pretrained < self.config.schedule.pretrain
        with self.timer["sample"]:
            needs = Needs() if model_only else agent.head.needs
            batch, extra = self.experience.sample(replay.batch, replay.length, needs)
        with self.timer["update"]:
            phase = agent.next_phase(model_only)
            self.pretrained += model_only
            with _pointing_to_checks(self.config):
                self.meter.add(self.update(phase, batch, extra))

    # --- evaluating ---------------------------------------------------------------------------------------------------

    def evaluate_if_due(self) -> None:
        """Evaluate between ticks, so a run that ends here and one that continues evaluate the same agent.

        An evaluation that fails ends the run the first time; if it fails again in the resumed run, it is skipped.
        """
        before = self.clocks["eval"].state_dict()
        if not self.clocks["eval"](self.experience.now):
            return
        try:
            with self.timer["eval"]:
                self.evaluate()
        except Interrupted:
            self.clocks["eval"].load_state_dict(before)  # still due when the run is resumed
        except WorkerError as error:
            if not self.patient:
                self.patient = True
                self.clocks["eval"].load_state_dict(before)
                raise
            self._leave_evaluation_out(error)

    def _leave_evaluation_out(self, error: WorkerError) -> None:
        self.progress.say(f"{error}; it failed there before, so this evaluation is skipped")
        if self.eval_envs is not None:
            self.eval_envs.close()
        self.eval_envs, self.patient = None, False
        self.evaluations += 1

    def evaluate(self) -> None:
        """Play evaluation episodes with the mode action; the random state of training is restored."""
        c = self.config
        if self.eval_envs is None:
            n = min(c.env.num_envs, c.eval.episodes)
            self.eval_envs = make_envs(c.env, c.task, c.seed, n, training=False)
        self.eval_envs.patient = self.patient
        first = self.evaluations * -(-c.eval.episodes // self.eval_envs.num_envs)
        film = self.run_dir / VIDEOS / f"eval-{self.experience.position:09d}.mp4" if c.eval.video else None
        with own_randomness(c.seed, 0x4556414C, self.evaluations):
            act, n = AgentActs(self.agent, self.eval_envs.num_envs), c.eval.episodes
            tell = partial(self.progress.evaluate, n)
            played = run_episodes(self.eval_envs, act, n, first, film, lambda: self.stop_signal, tell)
        self.evaluations, self.patient = self.evaluations + 1, False
        self.eval_return, deviation = mean_and_deviation(played.returns)
        cut = {"eval/cut": played.cut} if played.cut else {}
        score = {"eval/score": 100.0 * normalized(self.eval_return, c.data.reference)} if c.data.reference else {}
        self._record({"eval/return": self.eval_return, "eval/return_std": deviation, **score, **cut})
        if cut:
            how_many = f"{played.cut} of {c.eval.episodes} evaluation episodes were cut short"
            self.progress.say(f"{how_many}; the last one: {self.eval_envs.cuts[-1]}")
        if played.video is not None:
            self._save_film(played.video)
        self._check_finite()
        if self.agent.updates and (np.isnan(self.best_return) or self.eval_return > self.best_return):
            self.best_return = self.eval_return
            self.checkpoints.save_best(self.experience.position, self.best_return, self._agent_state())

    def _save_film(self, film: Video) -> None:
        """Write a film, or say why that failed; training continues."""
        try:
            film.save()
        except UserError as error:
            self.progress.say(one_line(error))

    # --- logging ------------------------------------------------------------------------------------------------------

    def log(self, last: bool = False) -> None:
        """Write the means since the last log. The only place, with ``save``, where the host waits for the device.

        ``last``: not to TensorBoard, which cannot take a record back.
        """
        self._check_finite()
        now, updates = time.perf_counter(), self.agent.updates
        frames = self.experience.counters()[0]
        seconds = now - self._window[0]
        speed = {
            "time/fps": (frames - self._window[1]) / seconds,
            "time/updates_per_second": (updates - self._window[2]) / seconds,
            **{f"time/frac_{name}": share for name, share in self.timer.shares().items()},
        }
        self._window = (now, frames, updates)
        self.timer.reset()
        means = self.meter.mean()
        self._record({**means, "replay/size": len(self.experience), **speed}, tensorboard=not last)
        self._advise(means)
        self.meter.reset()

    def _advise(self, means: dict[str, float]) -> None:
        """Print each part's advice on its metrics, once."""
        for part in (self.agent.model, self.agent.head):
            if part not in self.advised and (line := part.advice(means)):
                self.advised.add(part)
                self.progress.say(line)

    def _record(self, values: dict[str, float], tensorboard: bool = True) -> None:
        frames, agent_steps = self.experience.counters()
        position, phase = self.experience.position, self.experience.phase
        self.logger.write(frames, agent_steps, self.agent.updates, values, tensorboard, position, phase)

    def _show_progress(self, ended: list[dict[str, float]]) -> None:
        returns = [episode["episode/return"] for episode in ended if "episode/return" in episode]
        evaluated = None if np.isnan(self.eval_return) else self.eval_return
        self.progress.update(self.experience.now, returns[-1] if returns else None, evaluated, self.timer.shares())

    def _greet(self) -> None:
        c, agent, say = self.config, self.agent, self.progress.say
        params = sum(p.numel() for part in (agent.model, agent.head) for p in part.parameters() if p.requires_grad)
        how = f"{agent.device} {agent.precision.name} {c.speed}"
        say(f"{c.agent} on {c.task or c.data.name}, seed {c.seed}: {params:,} parameters, {how}")
        if self.source is not None:
            say(f"belief model: {self.source}{'' if c.schedule.model_every else ', frozen'}")
        say(f"run folder: {self.run_dir}")
        if not self.fresh:
            say(f"resuming at {self.experience.now:,} {self.experience.unit}, from the last checkpoint")
        for note in (*self.experience.notes(), *self._notes()):
            say(note)

    def _notes(self) -> Iterator[str]:
        """Consequences of the settings that may not be intended."""
        c, agent, length, unit = self.config, self.agent, self.experience.length, self.experience.unit
        if c.eval.every > max(c.frames, c.updates):
            yield f"evaluated only before training: eval.every={c.eval.every} is above {unit}={length}"
        if agent.initial(1) and "model" in agent.optimizers and c.replay.length < SHORT:
            yield (
                f"the belief cannot learn to remember: found windows of replay.length={c.replay.length} rows, "
                "expected 16 to 50 (and a replay.batch of the same size)"
            )
        notes = (self.experience.spec.protocol, agent.precision.note, agent.model.note, agent.head.note)
        yield from filter(None, notes)
        if c.frames and agent.head.needs.action_noise and not c.schedule.action_noise:
            yield "the agent will not explore: its policy is deterministic and schedule.action_noise=0"
        if c.frames and agent.head.needs.epsilon and not (c.schedule.epsilon.start or c.schedule.epsilon.end):
            yield "the agent will not explore: its policy is deterministic and schedule.epsilon is 0"
        if too_short := agent.head.too_short(c.all_updates):
            yield too_short

    # --- saving and continuing ----------------------------------------------------------------------------------------

    def save(self, done: bool = False) -> None:
        """Write a complete checkpoint; ``done``: the run has ended, including its last evaluation."""
        with self.timer["save"]:
            self._check_finite()
            replay = self.experience.saved_replay if self.config.checkpoint.replay else None
            self.checkpoints.save(self.experience.position, self.state_dict(), replay, done)
            self.save_clock.reset()

    def _agent_state(self) -> dict[str, Any]:
        spec, config = encode_spec(self.experience.spec), config_to_dict(self.config)
        return {"agent": self.agent.state_dict(), "spec": spec, "config": config}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next ticks depend on, except the replay's rows."""
        return {
            **self._agent_state(),
            "now": self.experience.now,
            "length": self.experience.length,
            "experience": self.experience.state(),
            "pretrained": self.pretrained,
            "evaluations": self.evaluations,
            "patient": self.patient,
            "returns": (self.eval_return, self.best_return),
            "clocks": {name: clock.state_dict() for name, clock in self.clocks.items()},
            "meter": self.meter.state_dict(),
            "metrics": self.logger.position(),
            "rng": rng_state(self.agent.device),
            "fingerprint": self._fingerprint(),
        }

    def _restore(self, saved: dict[str, Any]) -> dict[str, int]:
        """Load the saved state; returns its position in the metrics file."""
        check_spec(f"resume={self.run_dir}", encode_spec(self.experience.spec), saved["spec"])
        products.use(saved["fingerprint"].get(PRODUCTS, "torch"))
        for line in compare_fingerprint(saved["fingerprint"], self._fingerprint()):
            print(line, file=sys.stderr)
        self.agent.load_state_dict(saved["agent"])
        if self.experience.saved_replay is not None:
            self._load_replay(saved["folder"], self.experience.saved_replay)
        self.experience.restore(saved["experience"])
        self._check_length(saved["now"], saved["length"])
        self.pretrained, self.evaluations = saved["pretrained"], saved["evaluations"]
        self.patient = saved["patient"]
        self.eval_return, self.best_return = saved["returns"]
        for name, clock in self.clocks.items():
            clock.load_state_dict(saved["clocks"][name])
        self.meter.load_state_dict(saved["meter"])
        set_rng_state(saved["rng"], self.agent.device)
        return {"bytes": int(saved["metrics"]["bytes"]), "crc32": int(saved["metrics"]["crc32"])}

    def _load_replay(self, folder: Path, replay: Replay) -> None:
        """Load the rows of the checkpoint; with ``checkpoint.replay=false`` damaged ones are left out."""
        try:
            self.checkpoints.load_replay(folder, replay)
        except UserError as error:
            if self.config.checkpoint.replay:
                raise error.also("checkpoint.replay=false resumes with an empty replay") from error
            print(f"{one_line(error)}; resuming with an empty replay", file=sys.stderr)

    def _check_length(self, now: int, length: int) -> None:
        """Refuse an end that the run has passed; a run that ended above its own end may still be resumed."""
        if self.experience.length < min(now, length):
            expected = f"{now} or more, which the run in {self.run_dir} has already reached"
            raise wrong(self.experience.unit, self.experience.length, expected)

    def _fingerprint(self) -> dict[str, str]:
        compiled = self.config.speed == "compile" and self.agent.device.type == "cpu"
        return environment_fingerprint(self.experience.renderer(), self.agent.device, compiled)

    def _check_finite(self) -> None:
        found = self.agent.first_non_finite()
        if found is None:
            return
        name, update = found
        path = self.run_dir / NON_FINITE
        drawn = self.experience.drawn(self.agent.updates - update + 1)
        needs = self.agent.head.needs
        lost = [key for key, n in (("td", needs.td_batch), ("recent", needs.recent_batch)) if n]
        windows = {place: _jsonable(each._asdict()) for place, each in drawn.items()}
        report = {"loss": name, "update": update, "windows": windows, "draws_not_kept": lost}
        beside = f"; the other samples, {', '.join(lost)}, are not kept" if lost else ""
        path.write_text(json.dumps(report) + "\n")
        last = self.checkpoints.latest()
        told = f"training stopped; the rows of its batch are named in {path} (Replay.window rebuilds them{beside})"
        fix = f"{told}; last good checkpoint: {last or 'none yet'}"
        raise Diverged(f"{name} was not finite at update {update}", fix=fix)

    def _on_signal(self, number: int) -> None:
        self.stop_signal = number
        with suppress(OSError):  # unbuffered, because the signal may have interrupted Python's buffers
            os.write(2, b"\nstopping after the step in progress; Ctrl-C again stops at once, unsaved\n")

    def resume_command(self) -> str:
        return resume_command(self.run_dir, self.config)

    def close(self) -> None:
        with ExitStack() as stack:  # whatever fails, the others are closed
            stack.callback(torch.set_num_threads, self._threads)
            if self.eval_envs is not None:
                stack.callback(self.eval_envs.close)
            stack.callback(self.experience.close)
            stack.callback(self.logger.close)
            stack.callback(self.progress.close)


@contextmanager
def _pointing_to_checks(config: Config) -> Iterator[None]:
    """Add the checks for the user's own parts to the traceback of a failing update."""
    try:
        yield
    except Exception as error:
        names = {kind: getattr(config, kind)["name"] for kind in PARTS}
        checks = [f'worldrl.testing.check_{kind}("{name}")' for kind, name in names.items() if ":" in name]
        if checks:
            error.add_note(f"an update of your own part failed; try: {', '.join(checks)}")
        raise


def _check_fits(config: Config, agent: Agent) -> None:
    """Refuse settings that do not suit the finished agent."""
    check_length(config, agent.model, agent.head)
    if config.schedule.pretrain and "model" not in agent.optimizers:
        raise wrong("schedule.pretrain", config.schedule.pretrain, "0: this belief has nothing to learn")
    every = config.schedule.model_every
    if every > 1 and "model" not in agent.optimizers:
        raise wrong("schedule.model_every", every, "1: this belief has nothing to learn")


def _set_determinism(deterministic: bool) -> None:
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic


def _jsonable(values: dict[str, Any]) -> dict[str, Any]:
    return {key: np.asarray(value).tolist() for key, value in values.items()}


__all__ = ["CheckpointError", "Stopped", "Trainer", "resume", "train"]
