"""The training loop: collect rows, learn, evaluate, log, save; and resume exactly where a run stopped.

Everything that the next ticks depend on is in ``Trainer.state_dict``, so a run of 2N frames is the same as a run of N
frames that is killed and resumed for N more.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from worldrl.acting.episodes import Interrupted
from worldrl.agent import Agent
from worldrl.compose import resumed
from worldrl.config import Config, config_to_dict
from worldrl.data.replay import Replay
from worldrl.envs.vector import WorkerError
from worldrl.errors import UserError, one_line, wrong
from worldrl.nn import products
from worldrl.nn.precision import choose_device
from worldrl.registry import PARTS
from worldrl.runs.checkpoint import STATE, CheckpointError, Checkpoints
from worldrl.runs.exactness import PRODUCTS, compare_fingerprint, environment_fingerprint, rng_state, set_rng_state
from worldrl.runs.folder import resume_command, sole_use
from worldrl.runs.metrics import Logger, check_place
from worldrl.runs.settings import check_unchanged, save_config
from worldrl.runs.state import restoring
from worldrl.runs.transfer import check_spec, encode_spec, load_model
from worldrl.size import check_size
from worldrl.training.clocks import Every, Seconds, Timer
from worldrl.training.divergence import check_finite
from worldrl.training.evaluations import Evaluations
from worldrl.training.experience.base import Experience
from worldrl.training.experience.make import make_experience
from worldrl.training.progress import Meter, Progress
from worldrl.training.signals import Stopped, heeding_signals
from worldrl.training.speed import form_of, make_update
from worldrl.training.suitability import check_suits, consequences
from worldrl.types import Needs, Part

MakeExperience = Callable[[Config], Experience]

PRETRAIN_LOG = 1_000  # updates


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
        check_suits(config, self.agent)
        self.update = make_update(self.agent, config.speed)
        self.experience.attach(self.agent)
        self.pretrained = 0
        self.evaluations = Evaluations(config, self.agent, run_dir)
        self.log_clock = Every(config.log.every)
        self.save_clock = Seconds(60.0 * config.checkpoint.minutes)
        self.meter, self.timer = Meter(self.agent.device), Timer()
        self.checkpoints = Checkpoints(run_dir)
        self.stop_signal, self.fresh = 0, saved is None
        self.advised: set[Part] = set()  # parts whose advice has been printed
        self.source: Path | None = None  # the checkpoint that the belief model was taken from
        position = None
        if saved is None:
            self._begin()
        else:
            with restoring(saved["folder"] / STATE):
                position = self._restore(saved)
        check_place(run_dir, position)
        save_config(
            config, run_dir, self.experience.spec.protocol
        )  # before any other file: without it nobody knows whose they are
        self.logger = Logger(run_dir, config.log.tensorboard, position, self.experience.position)
        self.progress = self._new_progress()
        self._window = (time.perf_counter(), self.experience.counters()[0], self.agent.updates)

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
        evaluated = self._last_return()
        result = "" if evaluated is None else f", last evaluation {evaluated:.1f}"
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
        self.evaluations.begin_phase()
        self.log_clock, self.progress = Every(self.config.log.every), self._new_progress()
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
        if self.log_clock(self.experience.now):
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

    def evaluate_if_due(self) -> None:
        """Evaluate between ticks, so a run that ends here and one that continues evaluate the same agent."""
        with self.evaluations.if_due(self.experience.now, self.progress.say) as due:
            if due:
                with self.timer["eval"]:
                    self.evaluate()

    def evaluate(self) -> None:
        """Evaluate and record the result; the best agent is saved."""
        self._record(self.evaluations.play(self.experience.position, lambda: self.stop_signal, self.progress))
        self._check_finite()
        if self.evaluations.improved():
            self.checkpoints.save_best(self.experience.position, self.evaluations.best, self._agent_state())

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
        last = returns[-1] if returns else None
        self.progress.update(self.experience.now, last, self._last_return(), self.timer.shares())

    def _last_return(self) -> float | None:
        return None if math.isnan(self.evaluations.last) else self.evaluations.last

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
        for note in (*self.experience.notes(), *consequences(c, agent, self.experience)):
            say(note)

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
            **self.evaluations.state_dict(),
            "clocks": {"eval": self.evaluations.clock.state_dict(), "log": self.log_clock.state_dict()},
            "meter": self.meter.state_dict(),
            "metrics": self.logger.position(),
            "rng": rng_state(self.agent.device),
            "fingerprint": self._fingerprint(),
        }

    def _restore(self, saved: dict[str, Any]) -> dict[str, int]:
        """Load the saved state; returns its position in the metrics file."""
        check_spec(f"resume={self.run_dir}", encode_spec(self.experience.spec), saved["spec"])
        products.use(saved["fingerprint"].get(PRODUCTS, "torch"))
        old = {"protocol": saved["spec"].get("protocol", ""), **saved["fingerprint"]}  # with the version of a game
        new = {"protocol": self.experience.spec.protocol, **self._fingerprint()}
        for line in compare_fingerprint(old, new):
            print(line, file=sys.stderr)
        self.agent.load_state_dict(saved["agent"])
        if self.experience.saved_replay is not None:
            self._load_replay(saved["folder"], self.experience.saved_replay)
        self.experience.restore(saved["experience"])
        self._check_length(saved["now"], saved["length"])
        self.pretrained = saved["pretrained"]
        self.evaluations.load_state_dict(saved)
        self.evaluations.clock.load_state_dict(saved["clocks"]["eval"])
        self.log_clock.load_state_dict(saved["clocks"]["log"])
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
        check_finite(self.agent, self.experience, self.run_dir, self.checkpoints.latest())

    def _on_signal(self, number: int) -> None:
        self.stop_signal = number
        with suppress(OSError):  # unbuffered, because the signal may have interrupted Python's buffers
            os.write(2, b"\nstopping after the step in progress; Ctrl-C again stops at once, unsaved\n")

    def resume_command(self) -> str:
        return resume_command(self.run_dir, self.config)

    def close(self) -> None:
        with ExitStack() as stack:  # whatever fails, the others are closed
            stack.callback(torch.set_num_threads, self._threads)
            stack.callback(self.evaluations.close)
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


def _set_determinism(deterministic: bool) -> None:
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic


__all__ = ["CheckpointError", "Stopped", "Trainer", "resume", "train"]
