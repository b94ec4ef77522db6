"""Is a class of your own a head, a belief or a policy that the package can run?

``check_head``, ``check_belief`` and ``check_policy`` do for the contract of ``worldrl/types.py`` what Gymnasium's
checker does for environments: they build the class on tiny inputs, use it as the agent does, and raise ``UserError``
with one line that names the first rule it breaks. They cannot see whether its equations are right, but for the density
of a policy.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from worldrl.agent import HEAD_ONLY, MODEL_ONLY, check_pair
from worldrl.errors import UserError
from worldrl.nn.functional import tanh_log_det
from worldrl.nn.optim import Optimizer
from worldrl.registry import check_class, load_class
from worldrl.types import (
    NOISE,
    Actions,
    Batch,
    Belief,
    BeliefModel,
    Decodes,
    Draw,
    EnvSpec,
    Extra,
    Imagines,
    Metrics,
    Needs,
    Obs,
    ObsSpec,
    Rollout,
    Sizes,
    State,
    box,
    choice,
    hardened,
)

BATCH, ACTIONS, PARTICLES, HORIZON = 3, 2, 2, 3
FEAT, CONTEXT = 6, 5  # of the toy belief: not the same, so that a head that takes one for the other fails
NOT_THEIRS = (__file__, str(Path(torch.__file__).parent))  # where an error of the user's code may surface
UPDATES = 16  # numbers of updates whose phases are tried
UNITS, LAYERS, ACTIVATION = 8, 2, "elu"  # what a head tells its policy
GRID, REACH = 200, 8.0  # points per action dimension, and standard deviations either way, to integrate a density over
VECTORS, PIXELS = {"state": ObsSpec((5,), "float32")}, {"pixels": ObsSpec((64, 64, 3), "uint8")}
SPECS = (
    EnvSpec("toy", VECTORS, box(ACTIONS), terminates=True),
    EnvSpec("toy", PIXELS, box(ACTIONS)),
    EnvSpec("toy", {**PIXELS, **VECTORS}, box(ACTIONS)),
)

KINDS = (box(ACTIONS), choice(ACTIONS))

Make = Callable[..., Any]


def check_head(head: type | str, **settings: Any) -> None:
    """Check a head class, or the one behind a name or ``"module:Class"``, with these settings of its ``Config``.

    Raises:
        UserError: what is wrong, in one line.
    """
    cls, name, config = _load("head", head, settings)

    with torch.random.fork_rng(devices=[]):
        tried = [_check_head_on(name, cls, config, actions) for actions in KINDS]
    _ensure(any(tried), f"{name}: found needs.actions that names no kind of action, expected box, choice or both")


def _check_head_on(name: str, cls: type[Any], config: Any, actions: Actions) -> bool:
    """Check a head on one kind of action, if it takes it."""
    sizes = Sizes((FEAT,), (CONTEXT,), actions)

    def make() -> Any:
        with _doing(f"{name}: __init__(config, {sizes})"):
            torch.manual_seed(0)
            return cls(config, sizes)

    _check_head_parts(name, make())
    if actions.kind not in make().needs.actions:
        return False
    check_pair(_ToyModel(), make(), actions)
    phases = _phases(name, make())
    _check_actions(name, make(), actions)
    for phase in phases:
        _check_update(name, make, phase)
    _check_head_learns(name, make(), phases)
    _check_head_saves(name, make, phases)
    return True


def check_belief(belief: type | str, **settings: Any) -> None:
    """Check a belief class, or the one behind a name or ``"module:Class"``, with these settings of its ``Config``.

    It is tried on state vectors, on images and on both; those that it refuses by a ``UserError`` are left out.

    Raises:
        UserError: what is wrong, in one line.
    """
    cls, name, config = _load("belief", belief, settings)
    refusals = []
    with torch.random.fork_rng(devices=[]):
        for spec in SPECS:

            def make(seed: int = 0, spec: EnvSpec = spec) -> Any:
                with _doing(f"{name}: __init__(config, spec) with observations {sorted(spec.obs)}"):
                    torch.manual_seed(seed)
                    return cls(config, spec)

            try:
                make()
            except UserError as error:
                if error.__cause__ is not None:  # it did not refuse: it failed
                    raise
                refusals.append(error)
                continue
            _check_model(name, make, spec)
    if len(refusals) == len(SPECS):
        raise UserError(f"{name}: found that it refuses vectors, images and both, expected one of them: {refusals[0]}")


def check_policy(policy: type | str, **settings: Any) -> None:
    """Check a policy class, or the one behind a name or ``"module:Class"``, with these settings of its ``Config``.

    Raises:
        UserError: what is wrong, in one line.
    """
    cls, name, config = _load("policy", policy, settings)
    with torch.random.fork_rng(devices=[]):
        for actions in (kind for kind in KINDS if kind.kind in cls.actions):
            _check_policy_on(name, cls, config, actions)


def _check_policy_on(name: str, cls: type[Any], config: Any, actions: Actions) -> None:
    """Check a policy on one kind of action."""

    def make(seed: int = 0) -> Any:
        with _doing(f"{name}: __init__(config, ({FEAT},), {actions}, {UNITS}, {LAYERS}, '{ACTIVATION}')"):
            torch.manual_seed(seed)
            return cls(config, (FEAT,), actions, UNITS, LAYERS, ACTIVATION)

    with torch.random.fork_rng(devices=[]):
        exact = make().exact_density
        right = isinstance(exact, bool)
        _ensure(right, f"{name}: found exact_density = {exact!r}, expected True, or False if log_prob is a bound")
        for lead in ((BATCH,), (2, BATCH, 4)):
            _check_draws(name, make(), actions, lead)
        _check_density(name, make(), actions)
        _check_policy_saves(name, make)


# --- words ------------------------------------------------------------------------------------------------------------


def _ensure(right: bool, message: str) -> None:
    if not right:
        raise UserError(message)


@contextmanager
def _doing(what: str) -> Iterator[None]:
    """Any other exception of the user's code in one line, with its place."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = [frame for frame in frames if not frame.filename.startswith(NOT_THEIRS)][-1:] or frames[-1:]
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{what} failed at {place[0].filename}:{place[0].lineno}, {reason}") from error


def _load(kind: str, part: type | str, settings: Mapping[str, Any]) -> tuple[type[Any], str, Any]:
    cls = load_class(kind, part) if isinstance(part, str) else check_class(kind, part)
    name = f"{kind} {cls.__name__}"
    frozen = cls.Config.__dataclass_params__.frozen
    _ensure(frozen, f"{name}: Config can be changed after it was checked, expected @dataclass(frozen=True)")
    for field in dataclasses.fields(cls.Config):
        default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        _ensure(default, f"{name}: Config.{field.name} has no default; every setting needs one")
    with _doing(f"{name}: Config"):
        return cls, name, cls.Config(**settings)


# --- watching ---------------------------------------------------------------------------------------------------------


class _NoSync(TorchFunctionMode):
    """Refuses what would make the host wait for a GPU: values that Python reads, and shapes that depend on values."""

    READS = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__", "equal")
    COUNTS = ("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "allclose", "is_nonzero")

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in self.READS or name in self.COUNTS or _waits(name, args, kwargs or {}):
            raise UserError(f"{self.where} reads values on the host ({name}), expected tensors that stay on the device")
        reads, writes = name == "__getitem__", name == "__setitem__"
        if (reads and _has_mask(args[1])) or (writes and _fills_mask(*args[1:])):
            raise UserError(
                f"{self.where} indexes with a boolean mask (its size is read on the host), expected weights"
            )
        return func(*args, **(kwargs or {}))


def _waits(name: str, args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether this is ``torch.where(x)``, which counts, or ``x.to("cpu")``."""
    if name == "to":
        return "cpu" in [x for x in (*args[1:2], kwargs.get("device")) if isinstance(x, str)]
    return name == "where" and len(args) + len(kwargs) == 1


def _has_mask(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, Tensor) and part.dtype == torch.bool for part in parts)


def _fills_mask(index: Any, value: Any) -> bool:
    """Whether a mask's places are given one value each; a single value for all of them needs no count."""
    return _has_mask(index) and isinstance(value, Tensor) and value.dim() > 0


class _NoNoise(TorchFunctionMode):
    """Gaussian noise is zero, so that a filter's draws are its means."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in ("randn", "randn_like"):
            return torch.zeros_like(result)
        return args[0] + torch.zeros_like(result) if name == "normal" else result


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())


def _changed(before: Sequence[Tensor], after: Sequence[Tensor]) -> bool:
    return not all(map(_same, before, after))


def _check_metrics(where: str, metrics: Any) -> None:
    _ensure(isinstance(metrics, dict), f"{where} gives {type(metrics).__name__}, expected a dict of 0-d tensors")
    for key, value in metrics.items():
        _ensure(isinstance(key, str), f"{where} gives a metric named {key!r}, expected text such as loss/actor")
        is_scalar = isinstance(value, Tensor) and value.dim() == 0
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        _ensure(is_scalar, f"{where} gives {key} of {found}, expected a 0-d tensor")
        _ensure(not value.requires_grad, f"{where} gives {key} with its graph, expected {key}.detach()")
        if key.startswith("loss/"):
            _ensure(bool(value.isfinite()), f"{where} gives {key} = {float(value)}, expected a finite number")


# --- heads ------------------------------------------------------------------------------------------------------------


class _ToyModel(BeliefModel):
    """A belief that can imagine and decode; its filter gives noise, and has nothing to learn."""

    feat_dim, context_dim = FEAT, CONTEXT

    def __init__(self) -> None:
        super().__init__()
        self.dynamics, self.reward, self.decoder = (
            nn.Linear(FEAT + ACTIONS, FEAT),
            nn.Linear(FEAT, 1),
            nn.Linear(FEAT, 5),
        )

    def observe(self, batch: Batch, particles: int, learn: bool = True) -> tuple[Belief, Metrics, Metrics]:
        return _toy_belief(tuple(batch.reward.shape), particles), {}, {}

    def imagine(self, feat: Tensor, actor: Callable[[Tensor], Tensor], horizon: int) -> Rollout:
        feats, actions = [feat], []
        for _ in range(horizon):
            actions.append(actor(feats[-1]))
            feats.append(torch.tanh(self.dynamics(torch.cat([feats[-1], actions[-1]], -1))))
        dream = torch.stack(feats)
        return Rollout(dream, torch.stack(actions), self.reward(dream).squeeze(-1), dream.new_ones(dream.shape[:-1]))

    def decode(self, feat: Tensor) -> Obs:
        return {"state": self.decoder(feat)}


def _slice(spec: EnvSpec, rows: int, windows: int = BATCH) -> Batch:
    """A random (windows, rows) slice; in window 0 an episode ends and another begins where there is room."""
    lead = (windows, rows)
    obs = {
        key: torch.randint(256, (*lead, *o.shape), dtype=torch.uint8)
        if o.dtype == "uint8"
        else torch.randn(*lead, *o.shape)
        for key, o in spec.obs.items()
    }
    action, reward = torch.rand(*lead, spec.action_dim) * 2 - 1, torch.randn(lead)
    is_first, is_terminal = torch.zeros(lead), torch.zeros(lead)
    if rows > 3:
        is_terminal[0, -3], is_first[0, -2] = 1.0, 1.0
        action[0, -2], reward[0, -2] = 0.0, 0.0
    return Batch(obs, action, reward, is_first, is_terminal)


def _beside(needs: Needs, rows: int) -> Extra:
    """What the loop draws for the head beside its slice (``Replay.sample_extra``); one recent row is a first row."""
    extra: Extra = {}
    if needs.td_batch:
        extra["td"] = _slice(SPECS[0], rows, needs.td_windows(rows))
    if needs.recent_batch:
        recent = extra["recent"] = _slice(SPECS[0]._replace(obs={}), 1, needs.recent_batch)
        recent.is_first[0], recent.action[0], recent.reward[0] = 1.0, 0.0, 0.0
    return extra


def _toy_belief(lead: tuple[int, ...], particles: int) -> Belief:
    feat, context = torch.randn(*lead, FEAT), torch.randn(*lead, CONTEXT)
    return Belief(feat, torch.randn(particles, *lead, FEAT), context, torch.zeros(lead))


def _check_head_parts(name: str, head: Any) -> None:
    for attribute, kind in (("config", type(head).Config), ("needs", Needs), ("optimizers", dict)):
        found = type(getattr(head, attribute, None)).__name__
        right = isinstance(getattr(head, attribute, None), kind)
        _ensure(right, f"{name}: found {attribute} of type {found}, expected {kind.__qualname__}")
    ours = {id(param) for param in head.parameters()}
    for key, optimizer in head.optimizers.items():
        where = f"{name}: optimizers[{key!r}]"
        found = f"{type(optimizer).__module__}.{type(optimizer).__name__}"
        _ensure(isinstance(optimizer, Optimizer), f"{where} is a {found}, expected worldrl.nn.optim.Optimizer")
        _ensure(key != "model", f"{where} has the name of the belief model's, expected another one")
        owned = all(id(param) in ours for param in optimizer.params)
        _ensure(owned, f"{where} trains parameters that the head does not have, so that they would not be saved")


def _phases(name: str, head: Any) -> list[str]:
    """The phases of the first updates, each once; they must be text, and follow from the update's number alone."""
    with _doing(f"{name}: phase(n)"):
        phases = [head.phase(n) for n in range(UPDATES)]
        again = [head.phase(n) for n in range(UPDATES)]
    for phase in phases:
        _ensure(isinstance(phase, str), f"{name}: phase(n) gives {phase!r}, expected text")
        taken = phase == MODEL_ONLY or phase.endswith(HEAD_ONLY)
        _ensure(not taken, f"{name}: phase(n) gives '{phase}', a name that the agent uses itself")
        with _doing(f"{name}: particles('{phase}')"):
            k = head.particles(phase)
        _ensure(isinstance(k, int) and k >= 0, f"{name}: particles('{phase}') gives {k!r}, expected 0, 1, 2, ...")
    _ensure(phases == again, f"{name}: phase(n) gives another name when asked again, so that no run could be resumed")
    return list(dict.fromkeys(phases))


def _check_actions(name: str, head: Any, actions: Actions) -> None:
    for explore in (True, False):
        for particles in (0, PARTICLES):
            where = f"{name}: act(belief, explore={explore}) with {particles} particles"
            belief = _toy_belief((BATCH,), particles)
            belief = belief._replace(feat=20.0 * belief.feat, context=20.0 * belief.context)
            with _doing(where), _NoSync(where):
                action = head.act(belief, explore, NOISE)
            _ensure(isinstance(action, Tensor), f"{where} gives {type(action).__name__}, expected a tensor")
            _ensure(not action.requires_grad, f"{where} keeps a graph, expected @torch.no_grad()")
            found, expected = tuple(action.shape), (BATCH, ACTIONS)
            _ensure(found == expected, f"{where} gives shape {found}, expected (B, A) = {expected}")
            inside = bool((action.abs() <= 1.0).all())
            _ensure(inside, f"{where} gives {float(action.abs().max()):g}, expected actions in [-1, 1]")
            whole = actions.kind == "box" or _same(action, hardened(action))
            _ensure(whole, f"{where} gives a mixed choice, expected one-hot rows")


class _Inputs(NamedTuple):
    """What ``update`` takes beside the phase."""

    batch: Batch
    belief: Belief
    model: _ToyModel
    extra: Extra

    def tensors(self) -> list[Tensor]:
        batches = (self.batch, *self.extra.values())
        rows = [x for batch in batches for x in (*batch.obs.values(), *batch[1:])]
        return [*rows, *self.belief, *self.model.parameters()]


def _update(name: str, head: Any, phase: str, inputs: _Inputs) -> Metrics:
    """One update with the noise of a fixed seed."""
    torch.manual_seed(2)
    where = f"{name}: update('{phase}')"
    with _doing(where), _NoSync(where):
        return head.update(phase, *inputs)


def _inputs(head: Any, phase: str, rows: int) -> _Inputs:
    torch.manual_seed(1)
    batch, belief = _slice(SPECS[0], rows), _toy_belief((BATCH, rows), head.particles(phase))
    return _Inputs(batch, belief, _ToyModel(), _beside(head.needs, rows))


def _check_update(name: str, make: Make, phase: str) -> None:
    """On slices of six rows and of two, what one update gives and what it leaves alone."""
    where = f"{name}: update('{phase}')"
    for rows in (6, 2):
        head = make()
        inputs = _inputs(head, phase, rows)
        before = [x.detach().clone() for x in inputs.tensors()]
        metrics = _update(name, head, phase, inputs)
        _check_metrics(where, metrics)
        _ensure(
            any(key.startswith("loss/") for key in metrics), f"{where} gives {sorted(metrics)}, expected loss/<name>"
        )
        left = any(param.grad is not None for param in inputs.model.parameters())
        _ensure(not left, f"{where} leaves gradients in the belief model, expected them for the head's parameters only")
        changed = _changed(before, inputs.tensors())
        _ensure(not changed, f"{where} changes its batch, extra, belief or model in place")
    inputs = _inputs(make(), phase, 6)
    first, again = (_update(name, make(), phase, inputs) for _ in range(2))
    key = _first_difference(first, again)
    _ensure(
        key is None, f"{where} gives another {key} from the same seed, expected noise from torch's own generator only"
    )
    for batch in (inputs.batch, *inputs.extra.values()):  # what led to a first row belongs to the episode before
        batch.reward.add_(50.0 * batch.is_first)
        batch.action.add_(0.5 * batch.is_first[..., None])
    key = _first_difference(first, _update(name, make(), phase, inputs))
    _ensure(key is None, f"{where}: {key} depends on reward or action of a first row, expected that pair to be masked")


def _first_difference(a: Metrics, b: Metrics) -> str | None:
    return next((key for key in a if key not in b or not _same(a[key], b[key])), None)


def _check_head_learns(name: str, head: Any, phases: Sequence[str]) -> None:
    before = [param.detach().clone() for param in head.parameters()]
    for phase in phases:
        _update(name, head, phase, _inputs(head, phase, 6))
    changed = _changed(before, list(head.parameters()))
    _ensure(changed, f"{name}: update changes no parameter in phases {', '.join(phases)}, expected optimisers to step")


def _check_head_saves(name: str, make: Make, phases: Sequence[str]) -> None:
    head, other = make(), make()
    for phase in phases:
        _update(name, head, phase, _inputs(head, phase, 6))
    with _doing(f"{name}: load_state_dict(state_dict())"):
        other.load_state_dict(head.state_dict())
        for key, optimizer in head.optimizers.items():
            other.optimizers[key].load_state_dict(optimizer.state_dict())
    inputs = _inputs(head, phases[0], 6)
    key = _first_difference(*(_update(name, one, phases[0], inputs) for one in (head, other)))
    _ensure(
        key is None, f"{name}: {key} differs after saving and loading, expected all state in parameters and buffers"
    )


# --- policies ---------------------------------------------------------------------------------------------------------


def _sample(name: str, policy: Any, x: Tensor, noise: Any = None) -> Draw:
    """``sample`` with the noise of a fixed seed."""
    torch.manual_seed(2)
    where = f"{name}: sample(x) with x of shape {tuple(x.shape)}"
    with _doing(where), _NoSync(where):
        draw = policy.sample(x, noise)
    _ensure(isinstance(draw, Draw), f"{where} gives {type(draw).__name__}, expected a Draw")
    return draw


def _expect(what: str, value: Any, shape: tuple[int, ...]) -> None:
    found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    _ensure(found == shape, f"{what} of shape {found}, expected {shape}")
    _ensure(bool(value.isfinite().all()), f"{what} that is not finite")


def _in_range(what: str, action: Tensor) -> None:
    largest = float(action.detach().abs().max())
    _ensure(largest <= 1.0, f"{what} {largest:g}, expected actions in [-1, 1]")


def _check_draws(name: str, policy: Any, actions: Actions, lead: tuple[int, ...]) -> None:
    """Shapes, ranges, weights and gradients of draws in the states ``x`` (*lead, F)."""
    torch.manual_seed(1)
    x = torch.randn(*lead, FEAT)
    draw, where = _sample(name, policy, x), f"{name}: sample(x) with x of shape {(*lead, FEAT)} gives"
    m = len(draw.action)
    _expect(f"{where} action", draw.action, (m, *lead, ACTIONS))
    _expect(f"{where} raw", draw.raw, (m, *lead, ACTIONS))
    _expect(f"{where} log_prob", draw.log_prob, (m, *lead))
    _in_range(f"{where} an action of", draw.action)
    if actions.kind == "box":
        told = f"{where} an action that is not tanh of its raw"
        _ensure(torch.allclose(draw.action, draw.raw.tanh(), atol=1e-5), told)
    else:
        _ensure(_same(draw.action, draw.raw), f"{where} an action that is not its raw, expected one-hot rows in both")
        _ensure(_same(draw.action, hardened(draw.action)), f"{where} a mixed choice, expected one-hot rows")
    _check_weights(where, draw, lead)
    if isinstance(draw.penalty, Tensor):
        _expect(f"{where} penalty", draw.penalty, lead)
    for key, value in (("action", draw.one()), ("log_prob", draw.log_prob)):
        learns = value.requires_grad
        _ensure(learns, f"{where} {key} without a gradient to its parameters, expected reparameterised draws")
    _ensure(_same(draw.action, _sample(name, policy, x).action), f"{where} other actions from the same seed")
    noise = policy.noise(x, 3)
    many = _sample(name, policy, x, noise)
    where = f"{name}: sample(x, noise(x, 3)) gives"
    _expect(f"{where} action", many.action, (len(many.action), *lead, ACTIONS))
    _check_weights(where, many, lead)
    torch.manual_seed(3)
    _ensure(_same(many.action, policy.sample(x, noise).action), f"{where} actions that do not follow from the noise")
    with _doing(f"{name}: mode(x)"), _NoSync(f"{name}: mode(x)"):
        mode = policy.mode(x)
    _expect(f"{name}: mode(x) gives an action", mode, (*lead, ACTIONS))
    _in_range(f"{name}: mode(x) gives", mode)


def _check_weights(where: str, draw: Draw, lead: tuple[int, ...]) -> None:
    m, weight = len(draw.action), draw.weight
    if not isinstance(weight, Tensor):
        told = f"{where} {m} draws of weight {weight}, expected 1 / {m}, or weights that sum to one"
        _ensure(abs(m * weight - 1.0) < 1e-6, told)
        return
    _expect(f"{where} weight", weight, (m, *lead))
    ones = torch.allclose(weight.sum(0), torch.ones(lead), atol=1e-4)
    _ensure(ones and bool((weight >= 0).all()), f"{where} weights that do not sum to one over the {m} draws")


@torch.no_grad()
def _check_density(name: str, policy: Any, actions: Actions) -> None:
    """``log_prob`` broadcasts; where it is exact it agrees with that of ``sample`` and integrates to one."""
    torch.manual_seed(1)
    x = torch.randn(PARTICLES, 1, BATCH, FEAT)  # the first of them made the draws, (M, B, A)
    draw, where = _sample(name, policy, x[0, 0]), f"{name}: log_prob(raw, x)"
    with _doing(where), _NoSync(where):
        densities = policy.log_prob(draw.raw, x)
    lead = torch.broadcast_shapes(draw.raw.shape[:-1], x.shape[:-1])
    _expect(f"{where} with {tuple(draw.raw.shape)} and {tuple(x.shape)} gives a tensor", densities, tuple(lead))
    if not policy.exact_density:
        return
    same = torch.allclose(densities[0], draw.log_prob, rtol=1e-3, atol=1e-3)
    _ensure(same, f"{where} differs from the log_prob of sample at the same raw")
    mass = _mass(name, policy, x[0, 0, 0]) if actions.kind == "box" else _total(policy, x[0, 0, 0])
    _ensure(abs(mass - 1.0) < 0.05, f"{where}: the density of actions integrates to {mass:.3f}, expected 1")


def _total(policy: Any, x: Tensor) -> float:
    """Probability of all choices in the state ``x`` (F,)."""
    return float(policy.log_prob(torch.eye(ACTIONS), x).exp().sum())


def _mass(name: str, policy: Any, x: Tensor) -> float:
    """Integral of the density of actions in the state ``x`` (F,), over a grid about the draws."""
    draws = _sample(name, policy, x.expand(1000, FEAT)).raw.flatten(0, -2)
    std, center = (stat.double() for stat in torch.std_mean(draws, 0))
    axes = [c + REACH * s * torch.linspace(-1, 1, GRID, dtype=torch.float64) for c, s in zip(center, std, strict=True)]
    points = torch.cartesian_prod(*axes).float()
    log_density = policy.log_prob(points, x) + tanh_log_det(points).sum(-1)
    return float(log_density.double().exp().sum() * (2 * REACH * std / (GRID - 1)).prod())


def _check_policy_saves(name: str, make: Make) -> None:
    policy, other = make(0), make(1)
    with _doing(f"{name}: load_state_dict(state_dict())"):
        other.load_state_dict(policy.state_dict())
    ours, theirs = (_sample(name, one, torch.ones(BATCH, FEAT)).action for one in (policy, other))
    told = f"{name}: sample differs after saving and loading, expected all state in parameters and buffers"
    _ensure(_same(ours, theirs), told)


# --- beliefs ----------------------------------------------------------------------------------------------------------


def _check_model(name: str, make: Make, spec: EnvSpec) -> None:
    name = f"{name} on {' and '.join(spec.obs)}"
    _check_model_parts(name, make())
    rows = make().lost_rows + 4
    _check_learning(name, make(), _slice(spec, rows))
    _check_acting(name, make(), _slice(spec, rows))
    _check_agreement(name, make(), _slice(spec, rows))
    _check_model_saves(name, make, _slice(spec, rows))
    _check_abilities(name, make(), spec)


def _check_model_parts(name: str, model: Any) -> None:
    for attribute, least in (("feat_dim", 1), ("context_dim", 1), ("lost_rows", 0)):
        found = getattr(model, attribute, None)
        right = isinstance(found, int) and found >= least
        _ensure(right, f"{name}: found {attribute} = {found!r}, expected a whole number, {least} or more")
    params = dict(model.named_parameters())
    for key, param in params.items():
        _ensure(param.requires_grad, f"{name}: parameter {key} takes no gradient, expected a buffer in its place")
    for field in ("lr", "grad_clip", "adam_eps") if params else ():
        _ensure(hasattr(model.config, field), f"{name}: Config has no {field}, which the agent's optimiser reads")


def _check_shapes(where: str, belief: Any, lead: tuple[int, ...], particles: int, model: Any) -> None:
    _ensure(isinstance(belief, Belief), f"{where} gives {type(belief).__name__}, expected a Belief")
    axes = "(B,)" if len(lead) == 1 else "(B, T - lost_rows)"
    feat = (*lead, model.feat_dim)
    expected = (feat, (particles, *feat), (*lead, model.context_dim), lead)
    for field, value, shape in zip(Belief._fields, belief, expected, strict=True):
        found = tuple(value.shape)
        _ensure(found == shape, f"{where} gives {field} of shape {found}, expected {shape} with {axes} = {lead}")
        _ensure(not value.requires_grad, f"{where} gives {field} with its graph, expected a detached tensor")
        _ensure(bool(value.isfinite().all()), f"{where} gives {field} that is not finite")


def _observe(
    name: str, model: Any, batch: Batch, particles: int, learn: bool = True
) -> tuple[Belief, Metrics, Metrics]:
    """``observe`` with the noise of a fixed seed; as the agent does, without gradient where nothing is learned."""
    torch.manual_seed(2)
    where = f"{name}: observe(batch, {particles}, learn={learn})"
    with _doing(where), _NoSync(where), torch.set_grad_enabled(learn):
        result = model.observe(batch, particles, learn)
    right = isinstance(result, tuple) and len(result) == 3
    _ensure(right, f"{where} gives {type(result).__name__}, expected (belief, losses, metrics)")
    lead = (BATCH, batch.reward.shape[1] - model.lost_rows)
    _check_shapes(where, result[0], lead, particles, model)
    _check_metrics(where, result[2])
    return result


def _check_learning(name: str, model: Any, batch: Batch) -> None:
    before = [x.clone() for x in (*batch.obs.values(), *batch[1:])]
    params = dict(model.named_parameters())
    _, losses, _ = _observe(name, model, batch, PARTICLES)
    _ensure(isinstance(losses, dict), f"{name}: observe gives losses of type {type(losses).__name__}, expected a dict")
    _ensure(bool(losses) == bool(params), f"{name}: found {len(params)} parameters and {len(losses)} loss terms")
    _check_metrics(f"{name}: observe", {f"loss/{key}": value.detach() for key, value in losses.items()})
    if losses:
        _check_gradients(name, params, torch.stack(list(losses.values())).sum())
    _observe(name, model, batch, 0)
    _, losses, _ = _observe(name, model, batch, PARTICLES, learn=False)
    _ensure(not losses, f"{name}: observe(learn=False) gives losses {sorted(losses)}, expected none")
    _ensure(not _changed(before, [*batch.obs.values(), *batch[1:]]), f"{name}: observe changes its batch in place")
    _observe(name, model, batch.drop_rows(2), PARTICLES)  # the shortest slice: two rows beside the lost ones


def _check_gradients(name: str, params: Mapping[str, nn.Parameter], loss: Tensor) -> None:
    _ensure(loss.requires_grad, f"{name}: observe gives losses without a graph, expected gradients to its parameters")
    for key, grad in zip(params, torch.autograd.grad(loss, [*params.values()], allow_unused=True), strict=True):
        _ensure(grad is not None, f"{name}: parameter {key} has no part in the losses, expected a buffer or a term")


def _step(
    name: str, model: Any, state: State, batch: Batch, row: int, is_first: Tensor, deterministic: bool = False
) -> tuple[State, Belief]:
    """``step`` on one row of a slice, with the noise of a fixed seed."""
    torch.manual_seed(3)
    where = f"{name}: step"
    action = batch.action[:, row] * (1.0 - is_first)[:, None]
    with _doing(where), _NoSync(where), torch.no_grad():
        obs = {k: v[:, row] for k, v in batch.obs.items()}
        return model.step(state, obs, action, is_first, deterministic, NOISE)


def _check_acting(name: str, model: Any, batch: Batch) -> None:
    with _doing(f"{name}: initial({BATCH}, {PARTICLES})"):
        start = model.initial(BATCH, PARTICLES)
    go_on, reset = torch.zeros(BATCH), torch.ones(BATCH)
    some = torch.tensor([1.0] + [0.0] * (BATCH - 1))
    state, belief = _step(name, model, start, batch, 0, reset)
    _ensure(isinstance(belief, Belief), f"{name}: step gives {type(belief).__name__}, expected a Belief")
    particles = PARTICLES if len(belief.particles) else 0  # a point belief need not repeat itself
    _check_shapes(f"{name}: step", belief, (BATCH,), particles, model)
    both = f"{name}: initial gives the state {sorted(start)} and step {sorted(state)}, expected the same entries"
    _ensure(start.keys() == state.keys(), both)
    for key, value in state.items():
        found, expected = (tuple(value.shape), value.dtype), (tuple(start[key].shape), start[key].dtype)
        _ensure(found == expected, f"{name}: step gives the state {key} as {found}, initial as {expected}")
        _ensure(len(value) == BATCH, f"{name}: the state {key} has the shape {found[0]}, expected B = {BATCH} first")
    state, _ = _step(name, model, state, batch, 1, go_on)
    fresh, later = _step(name, model, start, batch, 2, reset), _step(name, model, state, batch, 2, reset)
    told = f"{name}: after is_first = 1 the {{}} still depends on the rows before, expected a state that is reset"
    _ensure(not _changed(list(fresh[0].values()), list(later[0].values())), told.format("state"))
    _ensure(not _changed(fresh[1], later[1]), told.format("belief"))
    mixed, unmixed = (_step(name, model, state, batch, 2, first)[1].feat for first in (some, go_on))
    _ensure(_same(mixed[0], fresh[1].feat[0]), told.format("belief of a row whose neighbours go on"))
    _ensure(_same(mixed[1:], unmixed[1:]), f"{name}: is_first = 1 in one row changes the belief of another")


def _check_agreement(name: str, model: Any, batch: Batch) -> None:
    """Learning and acting filter the same rows alike, as far as noise can be switched off."""
    with _NoNoise():
        seen = [_observe(name, model, batch, 0, learn)[0] for learn in (True, False)]
    told = f"{name}: observe(learn=False) gives another {{}} than observe(learn=True)"
    _compare(told, seen[0], seen[1])
    state, rows = model.initial(BATCH), []
    for row in range(batch.reward.shape[1]):
        with _NoNoise():
            state, belief = _step(name, model, state, batch, row, batch.is_first[:, row], deterministic=True)
        rows.append(belief)
    known = rows[model.lost_rows :]
    acted = Belief(*(torch.stack(parts, -1 if parts[0].dim() == 1 else -2) for parts in zip(*known, strict=True)))
    if _is_noisy(model, batch):
        return
    _compare(f"{name}: step and observe differ in {{}} on the same rows without noise", acted, seen[1])


def _is_noisy(model: Any, batch: Batch) -> bool:
    """Whether there is noise that is not Gaussian, which cannot be switched off from here."""
    with _NoNoise(), torch.no_grad():
        draws = []
        for seed in (5, 6):
            torch.manual_seed(seed)
            draws.append(model.observe(batch, 0, False)[0])
    return _changed(*draws)


def _compare(told: str, a: Belief, b: Belief) -> None:
    for field, x, y in zip(Belief._fields, a, b, strict=True):
        same = x.shape == y.shape and torch.allclose(x, y, rtol=1e-3, atol=1e-4)
        _ensure(same, told.format(field))


def _check_model_saves(name: str, make: Make, batch: Batch) -> None:
    model, other = make(0), make(1)
    with _doing(f"{name}: load_state_dict(state_dict())"):
        other.load_state_dict(model.state_dict())
    ours, again, theirs = (_observe(name, one, batch, PARTICLES, False)[0] for one in (model, model, other))
    _ensure(
        not _changed(ours, again), f"{name}: observe differs from the same seed, expected torch's own generator only"
    )
    told = f"{name}: observe differs after saving and loading, expected all state in parameters and buffers"
    _ensure(not _changed(ours, theirs), told)


def _check_abilities(name: str, model: Any, spec: EnvSpec) -> None:
    feat = torch.randn(4, model.feat_dim)
    if isinstance(model, Imagines):
        _check_imagination(name, model, feat)
    if isinstance(model, Decodes):
        with _doing(f"{name}: decode"):
            obs = model.decode(feat)
        for key, value in obs.items():
            _ensure(key in spec.obs, f"{name}: decode gives {key}, expected some of {sorted(spec.obs)}")
            found, expected = tuple(value.shape), (4, *spec.obs[key].shape)
            _ensure(found == expected, f"{name}: decode gives {key} of shape {found}, expected {expected}")


def _check_imagination(name: str, model: Imagines, feat: Tensor) -> None:
    actor = nn.Linear(feat.shape[-1], ACTIONS)
    where = f"{name}: imagine"
    with _doing(where), _NoSync(where):
        rollout = model.imagine(feat, lambda x: torch.tanh(actor(x.detach())), HORIZON)
    n = len(feat)
    expected = ((HORIZON + 1, *feat.shape), (HORIZON, n, ACTIONS), (HORIZON + 1, n), (HORIZON + 1, n))
    for field, value, shape in zip(Rollout._fields, rollout, expected, strict=True):
        found = tuple(value.shape)
        _ensure(found == shape, f"{where} gives {field} of shape {found}, expected {shape} with H = {HORIZON}, N = {n}")
    _ensure(_same(rollout.feat[0], feat), f"{where} begins at another feat, expected the given one as entry 0")
    certain = bool(((rollout.discount >= 0) & (rollout.discount <= 1)).all())
    _ensure(certain, f"{where} gives a discount outside of [0, 1], expected the probability that the episode goes on")
    (grad,) = torch.autograd.grad(rollout.reward.sum(), [actor.weight], allow_unused=True)
    _ensure(grad is not None, f"{where} gives rewards without a gradient to the actions, expected none to be detached")
