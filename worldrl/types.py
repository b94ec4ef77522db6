"""The contract. Read this file first.

An agent is a *belief model* (what is the state?) under a *head* (what do I do in it?), and any head runs on any belief.

Shape letters, used everywhere: ``K`` particles, ``B`` batch, ``T`` time, ``F`` feature, ``C`` context, ``A`` action,
``H`` horizon, ``M`` policy components; ``...`` stands for any leading shape.

**Time.** Row ``t`` is what was known on arrival at time ``t``: ``obs[t]``, the ``action[t]`` that LED there (zero on
the first row of an episode), the ``reward[t]`` received on arriving, ``is_first[t]`` and ``is_terminal[t]`` (true
termination only, never a time limit). A transition is two rows: ``belief[t-1], action[t], reward[t], belief[t]``. A
pair whose second row is a first row is no transition and is masked. State-based agents read rows of length two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Obs = dict[str, Tensor]  # "pixels": (..., 64, 64, 3) uint8; vectors such as "state": (..., D) float32
State = dict[str, Tensor]  # recurrent state while acting, every entry (B, ...)
Metrics = dict[str, Tensor]  # 0-d tensors that stay on the device until they are logged


class ObsSpec(NamedTuple):
    """One observation key: its shape without leading axes, and ``"uint8"`` (pixels) or ``"float32"`` (vectors)."""

    shape: tuple[int, ...]
    dtype: str


class EnvSpec(NamedTuple):
    """What an environment tells an agent before the first step.

    ``groups[key][name] = (start, stop)`` names the sensors inside a state vector. ``terminates`` says whether episodes
    can end by true termination. ``max_frames`` is the time limit in frames (0: none known).
    """

    task: str
    obs: dict[str, ObsSpec]
    action_dim: int
    action_repeat: int = 1
    terminates: bool = False
    max_frames: int = 0
    groups: Mapping[str, dict[str, tuple[int, int]]] = MappingProxyType({})


class Batch(NamedTuple):
    """A replay slice of ``B`` windows of ``T`` rows."""

    obs: Obs  # (B, T, ...)
    action: Tensor  # (B, T, A)
    reward: Tensor  # (B, T)
    is_first: Tensor  # (B, T) float, 1 on the first row of an episode
    is_terminal: Tensor  # (B, T) float, 1 on true termination

    def drop_rows(self, n: int) -> Batch:
        """The same windows without their first ``n`` rows."""
        if n == 0:
            return self
        return Batch({k: v[:, n:] for k, v in self.obs.items()}, *(x[:, n:] for x in self[1:]))

    def windows(self, which: slice) -> Batch:
        """Some of the windows, whole."""
        return Batch({k: v[which] for k, v in self.obs.items()}, *(x[which] for x in self[1:]))


Extra = dict[str, Batch]  # what a head needs beside its slice: "td" (N, T) windows, "recent" (N, 1) rows without obs


class Belief(NamedTuple):
    """What a belief model knows: detached tensors, nothing else. While acting the axis ``T`` is missing."""

    feat: Tensor  # (B, T, F) one draw of the state
    particles: Tensor  # (K, B, T, F) K more draws, beside feat
    context: Tensor  # (B, T, C) the deterministic part of what is known
    entropy: Tensor  # (B, T) nats, of the last filtering distribution


class Rollout(NamedTuple):
    """An imagined trajectory from ``N`` start features; entry 0 of ``feat`` is the start itself."""

    feat: Tensor  # (H + 1, N, F)
    action: Tensor  # (H, N, A)
    reward: Tensor  # (H + 1, N) reward received on arriving in feat
    discount: Tensor  # (H + 1, N) probability that the episode goes on


class Draw(NamedTuple):
    """``M`` stratified draws of a policy (``M = 1`` but for mixtures)."""

    action: Tensor  # (M, ..., A) in [-1, 1]
    pre_tanh: Tensor  # (M, ..., A) the value that tanh squashed
    log_prob: Tensor  # (M, ...) log density of action
    weight: Tensor | float = 1.0  # (M, ...) sums to one over M
    penalty: Tensor | float = 0.0  # (...) the actor loss gets alpha times it, e.g. the term of SMAC eq. 26

    def one(self) -> Tensor:
        """(..., A): the action of one component, drawn by its weight."""
        if not isinstance(self.weight, Tensor):
            return self.action[0]
        # The first to arrive wins by its weight. Two squared normals make an exponential time; like all noise here they
        # come from randn, which the robustness grid can draw from a generator per row.
        noise = torch.randn(*self.weight.shape, 2, device=self.weight.device)
        race = noise.square().sum(-1) / self.weight
        first = race.argmin(0, keepdim=True)[..., None]
        return self.action.gather(0, first.expand_as(self.action[:1]))[0]


class Needs(NamedTuple):
    """What a head asks of its belief and of the training loop."""

    particles: int = 0
    imagine: bool = False
    actor_input: str = "feat"  # or "context"
    td_batch: int = 0  # transitions beside the slice, redrawn for every update: Extra["td"]
    recent_batch: int = 0  # rows drawn for every update from the newest recent_actions ones: Extra["recent"]
    recent_actions: int = 0
    action_noise: bool = False  # it explores by schedule.action_noise alone

    def td_windows(self, rows: int) -> int:
        """How many windows of ``rows`` rows that the belief serves hold ``td_batch`` transitions."""
        return -(-self.td_batch // (rows - 1))


class Module(Protocol):
    """What beliefs and heads are besides: ``torch.nn.Module``s, with their settings in ``config``."""

    config: Any

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


class BeliefModel(Module, Protocol):
    """Turns observations into beliefs and learns to do so; its parameters never see a head's gradient."""

    feat_dim: int
    context_dim: int
    lost_rows: int  # leading rows of a slice it cannot serve

    def initial(self, batch: int, particles: int = 0) -> State: ...

    def step(
        self, state: State, obs: Obs, prev_action: Tensor, is_first: Tensor, deterministic: bool = False
    ) -> tuple[State, Belief]:
        """Filter one row while acting; leading shape (B,). ``deterministic`` takes the posterior mean."""
        ...

    def observe(self, batch: Batch, particles: int, learn: bool = True) -> tuple[Belief, Metrics, Metrics]:
        """Filter a slice: the belief, the loss terms (the only graph; their sum is minimised), detached metrics.

        Without ``learn`` there are no loss terms: the belief alone is wanted, and nothing is computed for the others.
        """
        ...


@runtime_checkable
class Imagines(Protocol):
    """Optional ability: roll the learned dynamics forward under an actor."""

    def imagine(self, feat: Tensor, actor: Callable[[Tensor], Tensor], horizon: int) -> Rollout:
        """From ``feat`` (N, F), ``horizon`` steps of ``action (N, A) = actor(feat)``, called once per step in order.

        The roll-out depends differentiably on the actions. The model's weights are in its graph too: whoever takes a
        gradient asks for that of its own parameters alone.
        """
        ...


@runtime_checkable
class Surprises(Protocol):
    """Optional ability: say how far each observation moved the belief."""

    def surprise(self, batch: Batch) -> Tensor:
        """(B, T) nats: KL divergence of the filtered state of a row from its prediction before the observation."""
        ...


@runtime_checkable
class Decodes(Protocol):
    """Optional ability: turn features back into observations."""

    def decode(self, feat: Tensor) -> Obs: ...


class Policy(Protocol):
    """What a head acts by: a ``torch.nn.Module`` that a head builds as ``MakePolicy`` says.

    A class that ``policy=`` names has a ``Config``; its constructor gets an instance of it before those arguments. A
    ``note`` that is not empty, if it has one, is said when training begins.
    """

    exact_density: ClassVar[bool]  # log_prob is the density of a given action, and not a bound on it

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def sample(self, x: Tensor) -> Draw:
        """x (..., F) -> reparameterised draws, noise from torch's own ``randn``."""
        ...

    def log_prob(self, pre_tanh: Tensor, x: Tensor) -> Tensor:
        """(...) log density of ``tanh(pre_tanh)``; both arguments broadcast."""
        ...

    def mode(self, x: Tensor) -> Tensor:
        """(..., A): the deterministic action, in [-1, 1]."""
        ...


# (inputs, action_dim, units, layers, activation) -> policy: the settings that every policy takes from its head.
MakePolicy = Callable[[int, int, int, int, str], Policy]


class Head(Module, Protocol):
    """One paper's actor-critic on a belief; it owns its optimisers."""

    needs: Needs
    optimizers: dict[str, Any]

    def act(self, belief: Belief, explore: bool) -> Tensor: ...

    def phase(self, n: int) -> str:
        """Host-side name of update number ``n`` (0-based): one captured graph per name."""
        ...

    def particles(self, phase: str) -> int:
        """Particles asked of the belief in this phase; ``needs.particles`` but for randomly truncated estimators."""
        ...

    def update(
        self, phase: str, batch: Batch, belief: Belief, model: BeliefModel, extra: Extra | None = None
    ) -> Metrics: ...
