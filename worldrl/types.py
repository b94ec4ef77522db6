"""The contract. Read this file first.

An agent is a *belief model* (what is the state?) under a *head* (what do I do in it?), and any head runs on any belief.

Shape letters, used everywhere: ``K`` particles, ``B`` batch, ``T`` time, ``F`` feature, ``C`` context, ``A`` action,
``H`` horizon, ``M`` policy components; ``...`` is any leading shape.

**Time.** Row ``t`` is what was known on arrival at time ``t``: ``obs[t]``, the ``action[t]`` that LED there (zero on
the first row of an episode), the ``reward[t]`` received on arriving, ``is_first[t]`` and ``is_terminal[t]`` (true
termination only, never a time limit). A transition is two rows: ``belief[t-1], action[t], reward[t], belief[t]``. A
pair whose second row is a first row is not a transition and is masked. State-based agents read rows of length two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

GRID_SIDE = 32  # an array (H, W, C) up to this size is a grid: networks use its shape
SCREEN_SIDES = range(36, 129)  # of a screen, an array (H, W, C) of bytes; Atari's convolutions need 36

Obs = dict[str, Tensor]  # "pixels": (..., 64, 64, 3) uint8; vectors such as "state": (..., D) float32
State = dict[str, Tensor]  # recurrent state while acting, every entry (B, ...)
Metrics = dict[str, Tensor]  # 0-d tensors that stay on the device until they are logged
SEEN = "seen/"  # obs["seen/" + key], if a row has it, is True where obs[key] is a reading and False where it is lost
INSIDE = 0.999  # given actions are clamped to ±this before their density is evaluated: at ±1 it is infinite


def fits_grid(shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape is (H, W, C) with sides of at most ``GRID_SIDE``."""
    return len(shape) == 3 and max(shape[:2]) <= GRID_SIDE


def fits_screen(shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape is (H, W, C) with both sides in ``SCREEN_SIDES``."""
    return len(shape) == 3 and all(side in SCREEN_SIDES for side in shape[:2])


class ObsSpec(NamedTuple):
    """One observation key: its shape without leading axes, and ``"uint8"`` (pixels) or ``"float32"`` (vectors)."""

    shape: tuple[int, ...]
    dtype: str


class Noise:
    """Source of random numbers: torch's default generator. ``acting/noise.py`` has one generator per row."""

    def normal(self, shape: Sequence[int], rows: int, like: Tensor) -> Tensor:
        """Standard normal numbers on the device of ``like``. ``rows`` is the batch axis of ``shape``."""
        return torch.randn(tuple(shape), dtype=torch.float32, device=like.device)

    def uniform(self, shape: Sequence[int], rows: int, like: Tensor) -> Tensor:
        """Uniform numbers in [0, 1); the arguments are those of ``normal``."""
        return torch.rand(tuple(shape), dtype=torch.float32, device=like.device)


NOISE = Noise()


class Actions(NamedTuple):
    """The action space of a task. To an agent every action is a row (A,) of floats.

    - ``box``: ``size`` numbers in [-1, 1]. ``low`` and ``high`` are the task's own bounds, if known.
    - ``choice``: one of ``size`` alternatives, as a one-hot row. The task numbers them from ``first`` on.
    """

    kind: Literal["box", "choice"]
    size: int
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    first: int = 0

    @property
    def target_entropy(self) -> float:
        """The target entropy of a tuned temperature, in nats: -A, or 0.98 log A for a choice (arXiv 1910.07207)."""
        return -float(self.size) if self.kind == "box" else 0.98 * math.log(self.size)

    @property
    def most_entropy(self) -> float:
        """The entropy of uniform actions, in nats."""
        return self.size * math.log(2.0) if self.kind == "box" else math.log(self.size)

    def random(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """(n, A) float32: uniform over all actions."""
        if self.kind == "box":
            return rng.uniform(-1.0, 1.0, (n, self.size)).astype(np.float32)
        return np.eye(self.size, dtype=np.float32)[rng.integers(self.size, size=n)]

    def perturb(self, action: Tensor, scale: float, noise: Noise = NOISE, prior: Tensor | None = None) -> Tensor:
        """(B, A): a box gets Gaussian noise of standard deviation ``scale``; a choice is random with that probability.

        The random choice is drawn from the probabilities ``prior`` (A,), or uniformly if there is none.
        """
        if self.kind == "box":
            return (action + scale * noise.normal(action.shape, -2, action)).clamp(-1.0, 1.0)
        priority, change = noise.uniform((2, *action.shape), -2, action)
        race = priority if prior is None else priority.log() / prior  # the largest is i with probability prior[i]
        return hardened(race).where(change[..., :1] < scale, action)

    def average(self, actions: Tensor) -> Tensor:
        """(P, ..., A) -> (..., A): the mean; for choices the most frequent one, the first in a tie."""
        return actions.mean(0) if self.kind == "box" else hardened(actions.sum(0))


def box(size: int, low: Sequence[float] = (), high: Sequence[float] = ()) -> Actions:
    """``size`` numbers; ``low`` and ``high`` are the task's own bounds, ``size`` values each or empty."""
    return Actions("box", size, tuple(low), tuple(high))


def choice(size: int, first: int = 0) -> Actions:
    """One of ``size`` alternatives, which the task numbers from ``first`` on."""
    return Actions("choice", size, first=first)


def hardened(x: Tensor) -> Tensor:
    """(..., A): the one-hot row at the largest entry, the first in a tie."""
    return torch.zeros_like(x).scatter(-1, x.argmax(-1, keepdim=True), 1.0)


class EnvSpec(NamedTuple):
    """What an environment tells an agent before the first step.

    ``groups[key][name] = (start, stop)`` names the sensors inside a state vector. ``terminates`` says whether episodes
    can end by true termination. ``max_frames`` is the time limit in frames (0: none known). ``protocol`` describes in
    words what else defines the task; it is printed when training begins and is stored in every checkpoint.
    """

    task: str
    obs: dict[str, ObsSpec]
    actions: Actions
    action_repeat: int = 1
    terminates: bool = False
    max_frames: int = 0
    groups: Mapping[str, dict[str, tuple[int, int]]] = MappingProxyType({})
    protocol: str = ""

    @property
    def action_dim(self) -> int:
        """The length of an action's row."""
        return self.actions.size


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
        """The windows that ``which`` selects, with all their rows."""
        return Batch({k: v[which] for k, v in self.obs.items()}, *(x[which] for x in self[1:]))


Extra = dict[str, Batch]  # what a head needs in addition to its slice: "td" (N, T) windows, "recent" (N, 1) or windows


class Belief(NamedTuple):
    """What a belief model knows, as detached tensors. While acting there is no axis ``T``."""

    feat: Tensor  # (B, T, F) one sample of the state
    particles: Tensor  # (K, B, T, F) K more samples, in addition to feat
    context: Tensor  # (B, T, C) the deterministic part of what is known
    entropy: Tensor  # (B, T) nats, of the last filtering distribution


class Rollout(NamedTuple):
    """An imagined trajectory from ``N`` start features; entry 0 of ``feat`` is the start itself."""

    feat: Tensor  # (H + 1, N, F)
    action: Tensor  # (H, N, A)
    reward: Tensor  # (H + 1, N) reward received on arriving in feat
    discount: Tensor  # (H + 1, N) probability that the episode continues


class Draw(NamedTuple):
    """``M`` weighted actions of a policy: one for a Gaussian, one per component of a mixture, every choice once.

    If ``n`` draws are asked for, there are ``n`` times as many.
    """

    action: Tensor  # (M, ..., A) in [-1, 1]
    raw: Tensor  # (M, ..., A) what the density is evaluated at: the value before tanh, or the one-hot row itself
    log_prob: Tensor  # (M, ...) log density of action
    weight: Tensor | float = 1.0  # (M, ...) sums to one over M
    penalty: Tensor | float = 0.0  # (...) added to the actor loss times alpha, e.g. the term of SMAC eq. 26

    def mean(self, values: Tensor) -> Tensor:
        """(M, ...) -> (...): the expectation of ``values``, which has one entry per action."""
        return (self.weight * values).sum(0)

    def one(self, noise: Noise = NOISE) -> Tensor:
        """(..., A): one action, drawn by the weights. The rows of ``noise`` are on the last leading axis.

        The gradient flows through the action, and straight through the weights as if the mean had been returned.
        """
        if not isinstance(self.weight, Tensor):
            return self.action[0]
        u = noise.uniform(self.weight.shape[1:], -1, self.weight)
        index = (self.weight.cumsum(0) <= u).sum(0, keepdim=True).clamp(max=len(self.weight) - 1)[..., None]
        mean = (self.weight[..., None] * self.action.detach()).sum(0)
        return self.action.gather(0, index.expand_as(self.action[:1]))[0] + (mean - mean.detach())


class Needs(NamedTuple):
    """What a head requires of its belief and of the training loop."""

    particles: int = 0
    imagine: bool = False
    actor_input: str = "feat"  # or "context"
    td_batch: int = 0  # transitions in addition to the slice, redrawn for every update: Extra["td"]
    recent_batch: int = 0  # rows drawn for every update from the newest recent_actions rows: Extra["recent"]
    recent_actions: int = 0
    recent_obs: bool = False  # the newest rows are whole windows with observations, not (N, 1) rows without
    rows: int = 2  # least number of rows of a window that the belief must serve
    action_noise: bool = False  # the head explores only by schedule.action_noise
    epsilon: bool = False  # the head explores only by schedule.epsilon
    actions: tuple[str, ...] = ("box",)  # the kinds of action that the head supports: "box", "choice"

    def td_windows(self, rows: int) -> int:
        """How many windows hold ``td_batch`` transitions if the belief serves ``rows`` rows of each."""
        return -(-self.td_batch // (rows - 1))


class Sizes(NamedTuple):
    """The sizes from which a head builds its networks."""

    feat: tuple[int, ...]  # (F,), or (h, w, c) of a small grid that is stored flat
    context: tuple[int, ...]
    actions: Actions


class Part(nn.Module):
    """Base of beliefs, heads and policies: a module with a ``Config``, a frozen dataclass of its settings.

    Everything else that the package reads from a part is declared here and below, with its default.
    """

    tiny: ClassVar[dict[str, Any]] = {}  # the smallest settings that still run, for tests
    compiled: ClassVar[tuple[str, ...]] = ()  # methods that speed=compile compiles
    own_meaning: ClassVar[tuple[str, ...]] = ()  # settings that mean something else than in the parent class
    note: str = ""  # printed when training begins
    config: Any

    def advice(self, metrics: Mapping[str, float]) -> str:
        """A warning about the means over a logging interval, printed once per run; empty if all is well."""
        return ""


class BeliefModel(Part):
    """Turns observations into beliefs and learns to do so; its parameters never receive a head's gradient."""

    feat_dim: int
    context_dim: int
    grid: tuple[int, ...] = ()  # (h, w, c) if feat and context are flattened grids
    lost_rows: int = 0  # leading rows of a slice that it cannot serve
    model_batch: int | None = None  # windows that it learns from, if not all: model-only updates skip the others
    free: ClassVar[tuple[str, ...]] = ()  # settings that change no weight: with init_from they may differ
    imputes: bool = False  # step uses SEEN: it imputes lost entries, and takes the prior where a row has no reading

    def sizes(self, actions: Actions) -> Sizes:
        return Sizes(self.grid or (self.feat_dim,), self.grid or (self.context_dim,), actions)

    def initial(self, batch: int, particles: int = 0) -> State:
        raise NotImplementedError

    def step(
        self,
        state: State,
        obs: Obs,
        prev_action: Tensor,
        is_first: Tensor,
        deterministic: bool = False,
        noise: Noise = NOISE,
    ) -> tuple[State, Belief]:
        """Filter one row while acting; leading shape (B,). ``deterministic`` takes the posterior mean.

        For a belief that ``imputes``, ``obs`` may mark lost entries: ``SEEN + key``, bool, in the shape of ``key``.
        """
        raise NotImplementedError

    def observe(self, batch: Batch, particles: int, learn: bool = True) -> tuple[Belief, Metrics, Metrics]:
        """Filter a slice: the belief, the loss terms (the only graph; their sum is minimised), detached metrics.

        Without ``learn`` only the belief is computed, and there are no loss terms.
        """
        raise NotImplementedError


@runtime_checkable
class Imagines(Protocol):
    """Optional ability: roll the learned dynamics forward under an actor."""

    def imagine(self, feat: Tensor, actor: Callable[[Tensor], Tensor], horizon: int) -> Rollout:
        """From ``feat`` (N, F), ``horizon`` steps of ``action (N, A) = actor(feat)``, called once per step in order.

        The rollout is differentiable in the actions. The model's weights are in its graph too, so a caller must take
        the gradient of its own parameters only.
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


class Policy(Part):
    """A distribution over actions. A head builds it with the arguments of ``MakePolicy``; the constructor of a class
    that ``policy=`` names takes its ``Config`` before them.
    """

    actions: ClassVar[tuple[str, ...]] = ("box",)  # the kinds of action that it supports
    exact_density: ClassVar[bool] = True  # log_prob is the density of a given action, not a bound on it

    def noise(self, x: Tensor, n: int = 1, source: Noise = NOISE) -> Any:
        """Noise that ``sample`` turns into ``n`` draws in each state x (..., B, F); B is the row axis of ``source``."""
        raise NotImplementedError

    def sample(self, x: Tensor, noise: Any = None) -> Draw:
        """x (..., F) -> reparameterised draws from this ``noise``, by default one draw from ``self.noise(x)``."""
        raise NotImplementedError

    def drawing(self, x: Tensor) -> Callable[[Any], Draw]:
        """``sample`` in the states x for many noises; a policy may compute once what does not depend on the noise."""
        return partial(self.sample, x)

    def raw_of(self, action: Tensor) -> Tensor:
        """(..., A): what ``log_prob`` takes for a given action: the value before tanh, clamped to ±``INSIDE``."""
        return action.clamp(-INSIDE, INSIDE).atanh()

    def act(self, x: Tensor, noise: Noise = NOISE) -> Tensor:
        """x (..., F) -> one action (..., A) in [-1, 1], drawn as by ``sample``, if possible without its density."""
        return self.sample(x, self.noise(x, source=noise)).one(noise)

    def probabilities(self, x: Tensor) -> Tensor:
        """(..., A): the probability of each alternative of a choice in the states x (..., F)."""
        draw = self.sample(x)
        return (torch.as_tensor(draw.weight)[..., None] * draw.action).sum(0)

    def log_prob(self, raw: Tensor, x: Tensor) -> Tensor:
        """(...) log density of the action whose ``raw`` value is given; both arguments broadcast."""
        raise NotImplementedError

    def mode(self, x: Tensor) -> Tensor:
        """(..., A): the deterministic action, in [-1, 1]."""
        raise NotImplementedError


# (shape of x, actions, units, layers, activation) -> policy: what every policy takes from its head.
MakePolicy = Callable[[tuple[int, ...], Actions, int, int, str], Policy]


class Head(Part):
    """One paper's actor-critic on a belief, built from (config, sizes); it owns its optimisers.

    If its constructor takes a third argument, ``policy: MakePolicy | None``, users can choose its policy.
    """

    needs: Needs = Needs()
    optimizers: dict[str, Any]

    def act(self, belief: Belief, explore: bool, noise: Noise = NOISE) -> Tensor:
        """(B, A): with ``explore`` a sample of the policy, otherwise its best action."""
        raise NotImplementedError

    def probabilities(self, belief: Belief, explore: bool) -> Tensor:
        """(B, A): the probability of each alternative of a choice in ``act``; by default a draw, whose mean it is."""
        return self.act(belief, explore)

    def exploration(self) -> Tensor | None:
        """(A,): the probabilities of the random choices of schedule.epsilon; None: they are equal."""
        return None

    def too_short(self, updates: int) -> str:
        """A note on what a run of this many updates does not reach, printed when it begins; empty if all is reached."""
        return ""

    def phase(self, n: int) -> str:
        """Name of update number ``n`` (0-based), decided on the host: one captured graph per name."""
        return "update"

    def particles(self, phase: str) -> int:
        """Particles that the belief must supply in this phase; if random, they may exceed ``needs.particles``."""
        return self.needs.particles

    def update(
        self, phase: str, batch: Batch, belief: Belief, model: BeliefModel, extra: Extra | None = None
    ) -> Metrics:
        """Learn from a slice; detached 0-d metrics, losses under ``loss/``."""
        raise NotImplementedError
