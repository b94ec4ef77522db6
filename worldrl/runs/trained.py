"""A trained agent as a policy, only from its run folder: observations in, actions out.

    policy = worldrl.load(run_dir)
    policy.reset()
    action = policy.act(image)

Neither environments nor simulators are imported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from worldrl import trust
from worldrl.agent import Agent, require, require_imputation, sketch_parts
from worldrl.config import Config, config_from_dict
from worldrl.envs.scaling import rescale
from worldrl.errors import UserError, check_writable, unknown, writing, wrong
from worldrl.nn.compiler import load_compiler
from worldrl.runs.checkpoint import STATE, Checkpoints, verify
from worldrl.runs.inputs import Arrays, check_action, check_flags, check_observation, check_seen
from worldrl.runs.settings import CONFIG_FILE, check_unchanged, load_config, moved, run_folder, save_config
from worldrl.runs.state import restoring
from worldrl.runs.transfer import check_weights, decode_spec
from worldrl.terminal import pasted
from worldrl.types import SEEN, Belief, Decodes, Obs, State

CHECKPOINTS = ("last", "best")
EXPORT_SUFFIX = ".pt2"
OWN_SETTINGS = "put back the settings that these weights were trained with"
ACTIONS_FILE = "actions.json"  # in an exported program: the bounds of its actions


def load(
    run_dir: str | Path,
    checkpoint: str = "last",
    device: str = "auto",
    act_particles: int = 0,
    allow: str | Iterable[str] = (),
) -> TrainedPolicy:
    """The policy that a run has learned, ready to act on any device.

    Args:
        run_dir: a folder that ``train.py`` wrote; ``demo`` is a trained agent inside this package.
        checkpoint: ``last``, or ``best`` (the highest evaluation return during training).
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        act_particles: act on the mean of the modes over this many more filtered paths (SMAC's marginal policy).
        allow: modules outside this package that the run may use (``"my_mod"``): they are imported.

    Raises:
        UserError: no run, a class from outside that is not allowed, no complete checkpoint, a damaged one, or no such
            device.
    """
    trust.allow(allow)
    agent, _ = load_agent(Path(run_dir), checkpoint, device)
    return TrainedPolicy(agent, act_particles)


def load_agent(
    run_dir: Path, checkpoint: str = "last", device: str = "auto", tell: Callable[[str], object] = str
) -> tuple[Agent, Config]:
    """The agent of a run folder, ready to act, and the run's settings; arguments and errors are those of ``load``.

    ``tell`` gets a line for each setting of the environment, or seed, that differs from the checkpoint.
    """
    if checkpoint not in CHECKPOINTS:
        raise unknown("checkpoint", checkpoint, CHECKPOINTS)
    run_dir = run_folder(run_dir)
    config = load_config(run_dir, device=device, precision="fp32")  # half precision is for updates, and may need a GPU
    checkpoints = Checkpoints(run_dir)
    folder, state = checkpoints.read(checkpoint)
    with restoring(folder / STATE):
        check_unchanged(run_dir, state["config"], agent_only=True)
        spec = decode_spec(state["spec"])
        for name, part in zip(("model", "head"), sketch_parts(config, spec) or (), strict=False):
            # Before they take memory: a stranger's settings may ask for any amount of it.
            check_weights(f"{folder / STATE}: {name}", part.state_dict(), state["agent"][name], OWN_SETTINGS)
        with torch.random.fork_rng(devices=[]):  # of the weights that are about to be replaced
            agent = Agent(config, spec)
        agent.load_state_dict(state["agent"], optimizers=False)
        for line in moved(config, state["config"]):
            tell(f"{run_dir / CONFIG_FILE}: {line}")
    return agent, config


def check_playable(run_dir: Path, config: Config) -> None:
    """Refuse a run that has learned from data of no environment where an agent is to act."""
    if not config.task:
        value = pasted("eval", run_dir, "--fqe")
        fix = f"train with task=NAME; without one, only its value can be estimated, from its data: {value}"
        raise UserError(str(run_dir), "no environment", "one to play in", fix)


def share(run_dir: str | Path, out: str | Path, checkpoint: str = "last", allow: str | Iterable[str] = ()) -> Path:
    """Write what acting needs of a run into a new folder for ``load`` and ``eval``, without optimisers and replay.

    ``allow`` names modules outside of the package that the run may use, as in ``load``.

    Raises:
        UserError: as ``load``, or ``out`` is not empty.
    """
    trust.allow(allow)
    run_dir, out = run_folder(run_dir), Path(out)
    load_agent(run_dir, checkpoint, "cpu")  # refuse to export what cannot be loaded
    checkpoints = Checkpoints(run_dir)

    def read() -> tuple[int, dict[str, Any]]:
        folder, state = checkpoints.read(checkpoint)
        return verify(folder)["frames"], state

    frames, state = checkpoints.steadily(read)
    if out.exists() and any(out.iterdir()):
        raise UserError(str(out), "a folder that is not empty", "a new folder")
    with writing(out, "choose another folder"):
        out.mkdir(parents=True, exist_ok=True)
        save_config(config_from_dict(state["config"]), out, state["spec"].get("protocol", ""))
    kept = {key: state[key] for key in ("spec", "config")}
    agent = {key: value for key, value in state["agent"].items() if key != "optimizers"}
    return Checkpoints(out).save(frames, {**kept, "agent": agent}, done=True)


class TrainedPolicy:
    """An agent that acts, with its memory of the observations since ``reset``.

    Random draws come from torch's default generator: ``torch.manual_seed`` before acting repeats them.

    Attributes:
        agent: belief model and head.
        spec: the spec that the agent was trained on: observation keys with shapes and types, actions, action repeat.
    """

    def __init__(self, agent: Agent, act_particles: int = 0) -> None:
        if act_particles < 0:
            raise wrong("act_particles", act_particles, "0 or more")
        self.agent, self.spec, self.act_particles = agent, agent.spec, act_particles
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next observation begins an episode, in every entry of a batch."""
        self._state: State | None = None
        self._belief: Belief | None = None
        self._action = self._no_action(0)
        self._single = False

    def act(
        self,
        obs: ArrayLike | Mapping[str, ArrayLike],
        is_first: ArrayLike | None = None,
        *,
        explore: bool = False,
        deterministic: bool = False,
        prev_action: ArrayLike | None = None,
        seen: ArrayLike | Mapping[str, ArrayLike] | None = None,
    ) -> np.ndarray:
        """Take an observation and choose an action.

        Args:
            obs: one observation, or a batch with a leading axis B that stays the same until ``reset``. A dict by key,
                or the bare array if the agent has one key: images (64, 64, 3) uint8, vectors (D,) of numbers.
            is_first: whether an episode begins, a bool or (B,) bools; the first call after ``reset`` begins everywhere.
            explore: sample the policy; otherwise take its mode, as evaluation does.
            deterministic: use the posterior mean of the belief; otherwise a posterior draw, as evaluation does.
            prev_action: the action that led here, (A,) or (B, A), if it was not the last result of ``act``.
            seen: bools in the form of ``obs``, False where a reading is lost, whatever ``obs`` has there. The belief
                predicts those; in a dict, keys that are left out are seen.

        Returns:
            (A,), or (B, A) for a batch; float32 in [-1, 1], to be repeated ``spec.action_repeat`` times. ``to_env``
            converts it to the environment's own units.

        Raises:
            UserError: wrong keys, shapes, types or values, a batch size that differs from before, or ``seen`` for a
                belief that cannot predict lost readings.
        """
        masks: Arrays = {}
        if seen is not None:
            require_imputation(self.agent.model, "seen")
            obs, masks = check_seen(seen, obs, self.spec)
        arrays, single = check_observation(obs, self.spec)
        lost = {SEEN + key: mask.reshape(arrays[key].shape) for key, mask in masks.items()}
        n = len(next(iter(arrays.values())))
        if self._state is None:
            state, action, first = self.agent.initial(n, self.act_particles), self._no_action(n), np.ones(n, np.float32)
        else:
            state, action, first = self._state, self._action, check_flags(is_first, n)
        if len(action) != n:
            raise UserError("observation", f"a batch of {n}", f"{len(action)} as before", "call reset() between them")
        if prev_action is not None:
            action = check_action(prev_action, action.shape, self.spec.actions)
        rows = {**arrays, **lost, "action": action * (1.0 - first)[:, None], "is_first": first}
        self._state, self._action, self._belief = self.agent.act(state, rows, explore, deterministic, perturb=False)
        self._single = single
        return (self._action[0] if single else self._action).copy()

    def to_env(self, action: ArrayLike) -> np.ndarray:
        """An action of ``act`` in the form that the environment takes.

        Args:
            action: (..., A) in [-1, 1], or one-hot rows of a choice.

        Returns:
            (..., A) from ``spec.actions.low`` to ``spec.actions.high``, float32 if both are exact in it; for a choice
            the number of the alternative, (...) int64.

        Raises:
            UserError: an action of another size, or a run without known bounds.
        """
        actions, given = self.spec.actions, np.asarray(action)
        if given.shape[-1:] != (actions.size,):
            raise UserError("action", f"shape {given.shape}", f"(..., {actions.size})")
        if actions.kind == "choice":
            return given.argmax(-1) + actions.first
        if not actions.low:
            raise UserError("to_env", "a run without the bounds of its task's actions", "a run on a task")
        low, high = np.array(actions.low), np.array(actions.high)
        exact = all((end.astype(np.float32) == end).all() for end in (low, high))
        return rescale(given, low, high).astype(np.float32 if exact else np.float64)

    @property
    def belief(self) -> Belief:
        """The belief after the last observation, as tensors on the agent's device.

        ``feat`` (B, F) the draw that was acted on, ``particles`` (K, B, F), ``context`` (B, C), ``entropy`` (B,) in
        nats; without the axis B after a single observation.
        """
        if self._belief is None:
            raise UserError("belief", "none yet", fix="call act() first")
        if not self._single:
            return self._belief
        feat, particles, context, entropy = self._belief
        return Belief(feat[0], particles[:, 0], context[0], entropy[0])

    def reconstruct(self) -> Arrays:
        """The belief's reconstruction of the last observation, by key: images uint8, vectors float32.

        Raises:
            UserError: the belief model does not decode.
        """
        require(self.agent.model, Decodes, "decode")
        return {key: value.cpu().numpy() for key, value in self.agent.decode(self.belief.feat).items()}

    def export(self, path: str | Path, *, explore: bool = False, deterministic: bool = True) -> Path:
        """Write one acting step as a program that needs only torch, for the device that the agent is on.

        ``torch.export.load(path)`` returns the program and ``program.module()`` the function
        ``(state, obs, prev_action, is_first) -> (state, action)``, each argument with a leading axis of any size B.
        ``program.example_inputs[0]`` are such arguments for the start of two episodes. It has only what acting needs.
        Actions are in [-1, 1]; the extra file ``actions.json`` has the task's own bounds and the action repeat.

        Args:
            path: ends in ``.pt2``.
            explore: as in ``act``.
            deterministic: as in ``act``; otherwise the program draws from torch's default generator.

        Raises:
            UserError: another suffix, or a file that cannot be written.
        """
        path = Path(path)
        if path.suffix != EXPORT_SUFFIX:
            raise wrong("the program's name", path.name, f"one that ends in {EXPORT_SUFFIX}")
        check_writable(path)
        load_compiler("export")
        step, inputs = _Step(self.agent, explore, deterministic), self._example(2)  # one row would become a fixed size
        batch = torch.export.Dim("batch", min=1)
        shapes = pytree.tree_map(lambda _: {0: batch}, inputs)
        program = torch.export.export(step, inputs, dynamic_shapes=shapes)
        actions = {**self.spec.actions._asdict(), "action_repeat": self.spec.action_repeat}
        torch.export.save(program, path, extra_files={ACTIONS_FILE: json.dumps(actions)})
        return path

    def _example(self, n: int) -> tuple[State, Obs, Tensor, Tensor]:
        """Arguments of the exported step: ``n`` first rows."""
        with torch.device(self.agent.device):
            obs = {
                key: torch.zeros(n, *spec.shape, dtype=getattr(torch, spec.dtype))
                for key, spec in self.spec.obs.items()
            }
            state = self.agent.initial(n, self.act_particles)
            return state, obs, torch.zeros(n, self.spec.action_dim), torch.ones(n)

    def _no_action(self, n: int) -> np.ndarray:
        return np.zeros((n, self.spec.action_dim), np.float32)


class _Step(nn.Module):
    """One acting step. The parts are in a tuple, so only the weights that the step uses are exported."""

    def __init__(self, agent: Agent, explore: bool, deterministic: bool) -> None:
        super().__init__()
        self.parts = deepcopy((agent.normalizer or nn.Identity(), agent.model, agent.head))
        self.explore, self.deterministic = explore, deterministic
        for part in self.parts:
            for parameter in part.parameters():
                parameter.requires_grad_(False)  # the exporter refuses hidden weights that require a gradient

    def forward(self, state: State, obs: Obs, prev_action: Tensor, is_first: Tensor) -> tuple[State, Tensor]:
        normalizer, model, head = self.parts
        led_here = prev_action * (1.0 - is_first)[:, None]  # the action before belongs to another episode
        state, belief = model.step(state, normalizer(obs), led_here, is_first, self.deterministic)
        return state, head.act(belief, self.explore)
