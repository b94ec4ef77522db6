"""An agent: a belief model under a head, and the one update function that trains both."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldrl.config import Config
from worldrl.errors import UserError, wrong
from worldrl.nn.normalizer import Normalizer
from worldrl.nn.optim import Optimizer, constant
from worldrl.nn.precision import Precision, choose_device, choose_precision
from worldrl.registry import BELIEFS, HEADS, OWN_POLICY, load_class, settings_of, takes_policy
from worldrl.types import (
    NOISE,
    SEEN,
    Actions,
    Batch,
    Belief,
    BeliefModel,
    EnvSpec,
    Extra,
    Head,
    Imagines,
    MakePolicy,
    Metrics,
    Noise,
    Obs,
    ObsSpec,
    State,
    box,
    choice,
)

MODEL_ONLY = "model"  # the phase that trains only the belief model
ANY_OBS = {"pixels": ObsSpec((64, 64, 3), "uint8"), "state": ObsSpec((2,), "float32")}
HEAD_ONLY = "/head_only"  # ends the names of phases that train only the head


class Acting(NamedTuple):
    """How an agent acts; see ``Agent.act``."""

    explore: bool
    deterministic: bool = False
    perturb: bool = False


class Agent:
    """Belief model, head, their optimisers and the precision they run in.

    Attributes:
        model: the belief model. Its optimiser steps on the sum of the losses that ``observe`` returns.
        head: the actor-critic; it owns its optimisers.
        updates: gradient updates so far.
    """

    def __init__(self, config: Config, spec: EnvSpec) -> None:
        self.spec = spec
        self.device = choose_device(config.device)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # streams, graphs and generators below use the current device
        self.precision = choose_precision(config.precision, self.device, "pixels" in spec.obs)
        self.action_noise = config.schedule.action_noise
        self.model_every = config.schedule.model_every
        self.pretrain = config.schedule.pretrain  # updates of the model only, which come first
        self.updates = 0
        with torch.device(self.device):
            self.model, self.head = build_parts(config, spec)
            self.normalizer = Normalizer(spec) if config.data.normalize else None
        _check_exploration(config, spec.actions)
        self.optimizers = _optimizers(self.model if self.model_every else None, self.head, self.precision)
        self.counter = torch.zeros((), dtype=torch.int64, device=self.device)  # updates, on the device
        self._bad: dict[str, Tensor] = {}  # per phase: the update at which each loss first was not finite, or -1
        self._loss_names: dict[str, list[str]] = {}

    # --- acting -------------------------------------------------------------------------------------------------------

    def initial(self, batch: int, particles: int = 0) -> State:
        return self.model.initial(batch, particles)

    @torch.no_grad()
    def act(
        self,
        state: State,
        rows: dict[str, np.ndarray],
        explore: bool,
        deterministic: bool = False,
        perturb: bool = True,
        noise: Noise = NOISE,
        epsilon: float = 0.0,
    ) -> tuple[State, np.ndarray, Belief]:
        """Choose actions for ``N`` rows as they come from the environments.

        Args:
            state: from ``initial`` or the previous call; it is reset in rows where ``is_first`` is 1.
            rows: observation keys, ``action`` (N, A) that led here, ``is_first`` (N,), and optional ``SEEN`` masks.
            explore: sample the policy; otherwise take its mode.
            deterministic: use the posterior mean instead of a posterior draw.
            perturb: when exploring, add the training's action noise.
            noise: where random numbers come from.
            epsilon: the probability of a random choice, drawn from ``Head.exploration``, in place of the head's.

        Returns:
            the next state, actions (N, A) float32 in [-1, 1] or one-hot, the belief.
        """
        told = [SEEN + key for key in self.spec.obs if SEEN + key in rows]
        obs: Obs = {key: self._upload(rows[key]) for key in [*self.spec.obs, *told]}
        led_here, is_first = self._upload(rows["action"]), self._upload(rows["is_first"])
        state, action, belief = self.choose(
            state, obs, led_here, is_first, Acting(explore, deterministic, explore and perturb), noise
        )
        if epsilon > 0:
            action = self.spec.actions.perturb(action, epsilon, noise, self.head.exploration())
        return state, action.cpu().numpy(), belief

    def choose(
        self, state: State, obs: Obs, prev_action: Tensor, is_first: Tensor, how: Acting, noise: Noise
    ) -> tuple[State, Tensor, Belief]:
        """``act`` on the device, without waiting for the result: the next state, actions (N, A), the belief."""
        state, belief = self.model.step(state, self.normalized(obs), prev_action, is_first, how.deterministic, noise)
        action = self.head.act(belief, how.explore, noise)
        if how.perturb and self.action_noise > 0:
            action = self.spec.actions.perturb(action, self.action_noise, noise)
        return state, action.float(), belief

    def _upload(self, x: np.ndarray) -> Tensor:
        """Copy from pinned memory: any other copy would wait for the updates that are queued on a GPU."""
        rows = torch.from_numpy(np.ascontiguousarray(x))
        return rows.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else rows

    def normalized(self, obs: Obs) -> Obs:
        """Observations in the units of the belief."""
        return obs if self.normalizer is None else self.normalizer(obs)

    def decode(self, feat: Tensor) -> Obs:
        """Decode features (..., F) into observations in the environment's units; the belief must be a ``Decodes``."""
        model: Any = self.model
        obs = model.decode(feat)
        return obs if self.normalizer is None else self.normalizer.inverse(obs)

    def _normalized_batch(self, batch: Batch) -> Batch:
        return batch._replace(obs=self.normalized(batch.obs))

    # --- learning -----------------------------------------------------------------------------------------------------

    def next_phase(self, model_only: bool = False) -> str:
        """Name of the next update, decided on the host."""
        if model_only:
            return MODEL_ONLY
        due = self.model_every > 0 and self.updates % self.model_every == 0
        return self.head.phase(self.updates - self.pretrain) + ("" if due else HEAD_ONLY)

    def update(self, phase: str, batch: Batch, extra: Extra | None = None) -> Metrics:
        """One gradient update on a (B, T) slice: all sampling, then the model's step if it is due, then the head's.

        ``extra`` is what the head needs in addition to the slice (``Replay.sample_extra``).

        Contains no host synchronisation and no branch on data, so it can be captured as it is; for the same reason it
        leaves ``updates`` to its caller (``training.speed.make_update``), and counts on the device for the latch.
        """
        learn, head_phase = not phase.endswith(HEAD_ONLY), phase.removesuffix(HEAD_ONLY)
        particles = 0 if phase == MODEL_ONLY else self.head.particles(head_phase)
        batch = self._normalized_batch(batch)
        extra = {name: self._normalized_batch(each) for name, each in (extra or {}).items()}
        if phase == MODEL_ONLY:  # some models learn from the first windows of a batch only
            batch = batch.windows(slice(self.model.model_batch))
        with self.precision.autocast():
            with torch.set_grad_enabled(learn):
                belief, losses, metrics = self.model.observe(batch, particles, learn)
            metrics = {**metrics, "belief/entropy": belief.entropy.mean()}
            if losses:
                metrics["opt/model/grad_norm"] = self.optimizers["model"].step(torch.stack(list(losses.values())).sum())
                metrics.update({f"loss/{name}": loss.detach() for name, loss in losses.items()})
            if phase != MODEL_ONLY:
                rows = batch.drop_rows(self.model.lost_rows)
                with constant(self.model):
                    metrics.update(self.head.update(head_phase, rows, belief, self.model, extra))
        self.counter.add_(1)
        self._latch(phase, metrics)
        return metrics

    def _latch(self, phase: str, metrics: Metrics) -> None:
        """Remember, on the device, the first update at which each loss, or gradient behind one, was not finite."""
        names = [name for name in metrics if name.startswith("loss/")]
        names += [name for name in metrics if name.endswith("/grad_norm")]
        if not names:
            return
        finite = torch.isfinite(torch.stack([metrics[name] for name in names]))
        if phase not in self._bad:
            self._loss_names[phase] = names
            self._bad[phase] = torch.full((len(names),), -1, dtype=torch.int64, device=self.device)
        bad = self._bad[phase]
        bad.copy_(torch.where((bad < 0) & ~finite, self.counter, bad))

    def first_non_finite(self) -> tuple[str, int] | None:
        """Name and update number of the first loss or gradient norm that was not finite, if any. Synchronises."""
        found = [
            (int(n), name)
            for phase, bad in self._bad.items()
            for n, name in zip(bad.tolist(), self._loss_names[phase], strict=True)
            if n >= 0
        ]
        if not found:
            return None
        n = min(found)[0]
        return next(name for m, name in found if m == n), n

    # --- saving -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that learning depends on except the random generators."""
        return {
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "normalizer": {} if self.normalizer is None else self.normalizer.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any], optimizers: bool = True) -> None:
        self.model.load_state_dict(state["model"])
        self.head.load_state_dict(state["head"])
        if self.normalizer is not None:
            self.normalizer.load_state_dict(state["normalizer"])
        self.updates = state["updates"]
        self.counter.fill_(self.updates)
        if optimizers:
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])


def build_parts(config: Config, spec: EnvSpec) -> tuple[BeliefModel, Head]:
    """The belief model and the head that runs on it. Raises UserError if they are not compatible."""
    model: BeliefModel = _build("belief", config.belief, spec)
    head: Head = _build("head", config.head, model.sizes(spec.actions), **_chosen_policy(config, spec.actions))
    check_pair(model, head, spec.actions)
    return model, head


class _OtherActions(UserError):
    """A part supports another kind of action, so it may fit another task."""


def check_parts(config: Config) -> None:
    """Refuse incompatible parts before there is an environment: they are built once, for any task."""
    obs = {key: ANY_OBS[key] for key in ANY_OBS if config.env.obs in (key, "both")}
    refusals = []
    for actions in (box(2), choice(2)):
        try:
            parts = sketch_parts(config, EnvSpec(config.task, obs, actions))
        except UserError as error:
            refusals.append(error)
            continue
        if parts:
            check_length(config, *parts)
        return
    raise next((error for error in refusals if not isinstance(error, _OtherActions)), refusals[0])


def sketch_parts(config: Config, spec: EnvSpec) -> tuple[BeliefModel, Head] | None:
    """``build_parts`` on the meta device, which takes no memory; ``None`` for classes that read their weights."""
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            return build_parts(config, spec)
    except UserError:
        raise
    except Exception:  # a user's own class may read its weights; its real errors appear when it is built
        return None


def check_length(config: Config, model: BeliefModel, head: Head) -> None:
    """Refuse windows that leave the head fewer rows than it needs."""
    lost, rows, length = model.lost_rows, head.needs.rows, config.replay.length
    if length < lost + rows:
        expected = f"{lost + rows} or more: the belief keeps {lost} rows to itself, the head needs {rows}"
        raise wrong("replay.length", length, expected)


def check_pair(model: BeliefModel, head: Head, actions: Actions) -> None:
    """Refuse a head for other actions, or whose needs its belief cannot meet; the error names the beliefs that can."""
    _check_kind(f"head {type(head).__name__} with its policy", actions, head.needs.actions)
    if head.needs.imagine and not isinstance(model, Imagines):
        raise UserError(
            f"head {type(head).__name__}",
            f"the belief {type(model).__name__}",
            "a belief that can imagine",
            f"beliefs that can: {able_beliefs(Imagines)}",
        )
    if head.needs.actor_input == "context" and (head.needs.particles or head.needs.imagine):
        raise UserError(
            f"head {type(head).__name__}",
            "actor_input=context",
            "actor_input=feat",
            "a head without particles or imagination: the context has neither",
        )


def _check_exploration(config: Config, actions: Actions) -> None:
    """Refuse exploration that is meant for another kind of action."""
    epsilon, noise = config.schedule.epsilon, config.schedule.action_noise
    if actions.kind == "choice" and noise:
        fix = "set schedule.action_noise=0; schedule.epsilon.start, .end and .frames set the share of random choices"
        raise wrong("schedule.action_noise", noise, f"0: {config.task} has a choice of {actions.size} actions", fix)
    if actions.kind == "box" and (epsilon.start or epsilon.end):
        found = f"{epsilon.start} to {epsilon.end}"
        raise UserError(
            "schedule.epsilon", found, f"0: {config.task} has a box of actions", "use schedule.action_noise"
        )
    if epsilon.start < epsilon.end:
        found, fix = f"{epsilon.start} to {epsilon.end}", "schedule.epsilon.end=0 leaves exploration to the policy"
        raise UserError("schedule.epsilon", found, "an end that is not above the start", fix)
    if epsilon.start > epsilon.end and not epsilon.frames:
        expected = f"the frames in which it falls from {epsilon.start:g} to {epsilon.end:g}"
        raise wrong("schedule.epsilon.frames", 0, expected, "set schedule.epsilon.end to the start for a constant one")


def _check_kind(where: str, actions: Actions, kinds: tuple[str, ...]) -> None:
    if actions.kind not in kinds:
        found, expected = (f"actions of the kind {kind}" for kind in (actions.kind, " or ".join(kinds)))
        raise _OtherActions(where, found, expected, "use another task, or a part that worldrl parts pairs lists")


def require(model: BeliefModel, ability: Any, verb: str) -> None:
    """Refuse a belief that lacks an optional ability; ``verb`` is what it cannot do."""
    if not isinstance(model, ability):
        found = f"{type(model).__name__}, which cannot {verb}"
        raise UserError("belief", found, f"one that can: {able_beliefs(ability)}")


def require_imputation(model: BeliefModel, where: str) -> None:
    """Refuse a belief that cannot impute lost entries; ``where`` names the setting that needs it."""
    if not model.imputes:
        able = ", ".join(name for name in BELIEFS if load_class("belief", name).imputes)
        raise UserError(where, f"the belief {type(model).__name__}", f"one that imputes what is lost: {able}")


def able_beliefs(ability: Any) -> str:
    """Names of the registered beliefs that have an optional ability, for messages."""
    return ", ".join(name for name in BELIEFS if _has(load_class("belief", name), ability)) or "none yet"


def _has(cls: type, ability: Any) -> bool:
    """Whether instances of ``cls`` have every method of the ability."""
    return all(callable(getattr(cls, name, None)) for name in vars(ability) if not name.startswith("_"))


def _build(kind: str, settings: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    return load_class(kind, settings["name"])(settings_of(kind, settings), *args, **kwargs)


def _chosen_policy(config: Config, actions: Actions) -> dict[str, MakePolicy]:
    """What the head's constructor gets in addition to its usual arguments: nothing, or a maker of the chosen policy."""
    head, policy = config.head["name"], config.policy["name"]
    if policy == OWN_POLICY:
        return {}
    if not takes_policy(head):
        able = ", ".join(filter(takes_policy, HEADS))
        told = f"this head has its own; heads that accept another: {able}"
        raise UserError(f"head={head}", f"policy={policy}", f"policy={OWN_POLICY}", told)
    _check_kind(f"policy={policy}", actions, load_class("policy", policy).actions)
    return {"policy": partial(_build, "policy", config.policy)}


def _optimizers(model: BeliefModel | None, head: Head, precision: Precision) -> dict[str, Optimizer]:
    """The head's optimisers, and the model's unless it is frozen (``None``) or has nothing to learn."""
    optimizers = dict(head.optimizers)
    params = [] if model is None else list(model.parameters())
    if model is not None and params:
        c = model.config
        optimizers["model"] = Optimizer(params, c.lr, c.grad_clip, c.adam_eps)
    for optimizer in optimizers.values():
        optimizer.scaler = precision.scaler()
    return optimizers
