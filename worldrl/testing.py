"""Is a class of your own a head, a belief or a policy that the package can run?

``check_head``, ``check_belief`` and ``check_policy`` do for the contract of ``worldrl/types.py`` what Gymnasium's
checker does for environments: they build the class on tiny inputs, use it as the agent does, and raise a ``UserError``
that names the first rule it breaks. They do not check equations, except a policy's density.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from worldrl.acting.noise import RowNoise
from worldrl.agent import HEAD_ONLY, MODEL_ONLY, check_pair
from worldrl.config import typed
from worldrl.errors import UserError
from worldrl.nn.functional import tanh_log_det
from worldrl.nn.optim import Optimizer
from worldrl.registry import check_class, load_class
from worldrl.types import (
    NOISE,
    SEEN,
    Actions,
    Batch,
    Belief,
    BeliefModel,
    Decodes,
    Draw,
    EnvSpec,
    Extra,
    Head,
    Imagines,
    Metrics,
    Needs,
    Noise,
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
FEAT, CONTEXT = 6, 5  # of the toy belief: different, so a head that confuses them fails
KINDS = (box(ACTIONS), choice(ACTIONS))
VECTORS, PIXELS = {"state": ObsSpec((5,), "float32")}, {"pixels": ObsSpec((64, 64, 3), "uint8")}
SPECS = [EnvSpec("toy", obs, KINDS[0], terminates=True) for obs in (VECTORS, PIXELS, {**PIXELS, **VECTORS})]
UPDATES = 16  # numbers of updates whose phases are tried
NETWORK = (8, 2, "elu")  # units, layers and activation that a head passes to its policy
GRID, REACH = 200, 8.0  # points per action dimension, and standard deviations to each side, for integrating a density
NOT_THEIRS = (__file__, str(Path(torch.__file__).parent))  # files in which an error of the user's code may surface
CPU = torch.device("cpu")

Make = Callable[..., Any]  # a new part, with the weights of a seed


def check_head(head: type | str, **settings: Any) -> None:
    """Check a head class, or the one behind a name or ``"module:Class"``, with these settings of its ``Config``.

    It also refuses a method of yours that the parent head inherits but never calls, and a setting of yours that
    nothing reads.

    Raises:
        UserError: what is wrong, in one line.
    """
    cls, name, config = _load("head", head, settings)
    with _watched(cls) as used, torch.random.fork_rng(devices=[]):
        tried = [_check_head(f"{name} on a {kind.kind}", cls, config, kind) for kind in KINDS]
    _ensure(any(tried), f"{name}: needs.actions", "no kind of action", "box, choice or both")
    live = _live(cls, used.codes)
    _check_overrides(name, cls, live, used.codes)
    _check_settings(name, cls, live, used.settings)


def check_belief(belief: type | str, **settings: Any) -> None:
    """Check a belief class, or the one behind a name or ``"module:Class"``, with these settings of its ``Config``.

    It is tested on state vectors, on images and on both; those that it refuses with a ``UserError`` are left out.

    Raises:
        UserError: what is wrong, in one line.
    """
    cls, name, config = _load("belief", belief, settings)
    refusals = []
    with torch.random.fork_rng(devices=[]):
        for spec in SPECS:
            on = f"{name} on {' and '.join(spec.obs)}"
            make = _maker(on, cls, config, spec)
            try:
                make()
            except UserError as error:
                if error.__cause__ is not None:  # it did not refuse: it failed
                    raise
                refusals.append(error)
            else:
                _check_belief(on, make, spec)
    if len(refusals) == len(SPECS):
        raise UserError(name, f"that it refuses vectors, images and both: {refusals[0]}", "support for one of them")


def check_policy(policy: type | str, **settings: Any) -> None:
    """Check a policy class, or the one behind a name or ``"module:Class"``, with these settings of its ``Config``.

    Raises:
        UserError: what is wrong, in one line.
    """
    cls, name, config = _load("policy", policy, settings)
    with torch.random.fork_rng(devices=[]):
        kinds = [kind for kind in KINDS if kind.kind in cls.actions]
        _ensure(bool(kinds), f"{name}: actions", repr(cls.actions), "box, choice or both")
        for kind in kinds:
            _check_policy(f"{name} on a {kind.kind}", _maker(name, cls, config, (FEAT,), kind, *NETWORK), kind)


# --- tiny inputs ------------------------------------------------------------------------------------------------------


def random_batch(spec: EnvSpec, windows: int, rows: int, device: torch.device = CPU) -> Batch:
    """A slice (windows, rows) from torch's generator, the same on every device. In window 0 an episode begins."""
    lead = (windows, rows)
    obs = {
        key: torch.randint(256, (*lead, *of.shape), dtype=torch.uint8)
        if of.dtype == "uint8"
        else torch.randn(*lead, *of.shape)
        for key, of in spec.obs.items()
    }
    action, reward = torch.rand(*lead, spec.action_dim) * 2 - 1, torch.randn(lead)
    action = action if spec.actions.kind == "box" else hardened(action)
    is_first, is_terminal, first = torch.zeros(lead), torch.zeros(lead), max(rows - 2, 0)
    is_first[0, first], action[0, first], reward[0, first] = 1.0, 0.0, 0.0
    is_terminal[0, :first][-1:] = 1.0
    shown = {key: value.to(device) for key, value in obs.items()}
    return Batch(shown, *(x.to(device) for x in (action, reward, is_first, is_terminal)))


def random_extra(needs: Needs, spec: EnvSpec, rows: int, device: torch.device = CPU, lost_rows: int = 0) -> Extra:
    """The batches for the head in addition to its slice (``Replay.sample_extra``)."""
    extra: Extra = {}
    if needs.td_batch:
        extra["td"] = random_batch(spec, needs.td_windows(rows - lost_rows), rows, device)
    if needs.recent_batch:
        of, length = (spec, rows) if needs.recent_obs else (spec._replace(obs={}), 1)
        extra["recent"] = random_batch(of, needs.recent_batch, length, device)
    return extra


def _random_belief(*lead: int, particles: int) -> Belief:
    feat, context = torch.randn(*lead, FEAT), torch.randn(*lead, CONTEXT)
    return Belief(feat, torch.randn(particles, *lead, FEAT), context, torch.zeros(lead))


class _ToyModel(BeliefModel):
    """A belief that can imagine and decode; its filter returns noise, and it has nothing to learn."""

    feat_dim, context_dim = FEAT, CONTEXT

    def __init__(self) -> None:
        super().__init__()
        self.dynamics, self.reward = nn.Linear(FEAT + ACTIONS, FEAT), nn.Linear(FEAT, 1)
        self.decoder = nn.Linear(FEAT, 5)

    def observe(self, batch: Batch, particles: int, learn: bool = True) -> tuple[Belief, Metrics, Metrics]:
        return _random_belief(*batch.reward.shape, particles=particles), {}, {}

    def imagine(self, feat: Tensor, actor: Callable[[Tensor], Tensor], horizon: int) -> Rollout:
        feats, actions = [feat], []
        for _ in range(horizon):
            actions.append(actor(feats[-1]))
            feats.append(torch.tanh(self.dynamics(torch.cat([feats[-1], actions[-1]], -1))))
        dream = torch.stack(feats)
        return Rollout(dream, torch.stack(actions), self.reward(dream).squeeze(-1), dream.new_ones(dream.shape[:-1]))

    def decode(self, feat: Tensor) -> Obs:
        return {"state": self.decoder(feat)}


# --- the class, and calls of its methods ------------------------------------------------------------------------------


def _load(kind: str, part: type | str, settings: Mapping[str, Any]) -> tuple[type[Any], str, Any]:
    cls = load_class(kind, part) if isinstance(part, str) else check_class(kind, part)
    name = f"{kind} {cls.__name__}"
    _check_decorated(name, cls.Config)
    frozen = cls.Config.__dataclass_params__.frozen
    _ensure(
        frozen, f"{name}: Config", "a dataclass that can be changed after it was checked", "@dataclass(frozen=True)"
    )
    for field in dataclasses.fields(cls.Config):
        default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        _ensure(default, f"{name}: Config.{field.name}", "no default", "one for every setting")
    with _doing(f"{name}: Config"):
        hints = typing.get_type_hints(cls.Config, include_extras=True)
        given = {key: typed(f"{kind}.{key}", settings[key], hints.get(key, Any)) for key in settings}
        return cls, name, cls.Config(**given)


def _check_decorated(name: str, config: type[Any]) -> None:
    """Check that what the class and its bases annotate became settings."""
    for each in config.__mro__:
        if "__dataclass_fields__" in vars(each):
            continue
        hints = {key for key, hint in inspect.get_annotations(each).items() if "ClassVar" not in str(hint)}
        lost = sorted(hints if each is config else hints - set(config.__dataclass_fields__))
        found = f"{each.__qualname__} without a decorator, so these are not settings: {', '.join(lost)}"
        _ensure(not lost, f"{name}: Config", found, "@dataclass(frozen=True)")


def _maker(name: str, cls: type[Any], *args: Any) -> Make:
    def make(seed: int = 0) -> Any:
        with _doing(f"{name}: __init__"):
            torch.manual_seed(seed)
            return cls(*args)

    return make


@contextmanager
def _doing(where: str) -> Iterator[None]:
    """Turn any other exception of the user's code into one line, with its place."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = [frame for frame in frames if not frame.filename.startswith(NOT_THEIRS)][-1:] or frames[-1:]
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(where, f"{reason} ({place[0].filename}:{place[0].lineno})") from error


def _call(where: str, method: Callable[..., Any], *args: Any, seed: int = 2) -> Any:
    """The result of the user's code with the noise of a fixed seed; the code must not wait for a GPU."""
    torch.manual_seed(seed)
    with _doing(where), _NoSync(where):
        return method(*args)


class _NoSync(TorchFunctionMode):
    """Refuses what would make the host wait for a GPU: values that Python reads, and shapes that depend on values."""

    READS = (
        *("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__complex__", "__index__"),
        *("__array__", "__contains__", "__format__", "equal"),
    )
    COUNTS = (
        *("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "allclose", "is_nonzero"),
        *("bincount", "histc"),
    )

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        waits = name in self.READS or name in self.COUNTS or _waits(name, args, kwargs)
        _ensure(not waits, self.where, f"values read on the host ({name})", "tensors that stay on the device")
        masked = "an index whose size is read on the host: a boolean mask, or a slice that ends at a tensor"
        _ensure(not _by_mask(name, args), self.where, masked, "weights")
        return func(*args, **kwargs)


def _waits(name: str, args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether this is a function that counts, such as ``torch.where(x)``, or ``x.to("cpu")``."""
    if name in ("tensor", "as_tensor"):
        return isinstance(args[0], list | tuple) and any(isinstance(x, Tensor) for x in args[0])
    if name == "one_hot":
        return len(args) < 2 and "num_classes" not in kwargs
    if name == "repeat_interleave":
        counts = kwargs.get("repeats", args[1] if len(args) > 1 else args[0])
        return isinstance(counts, Tensor) and kwargs.get("output_size") is None
    if name == "to":
        return "cpu" in [x for x in (*args[1:2], kwargs.get("device")) if isinstance(x, str)]
    return name == "where" and len(args) + len(kwargs) == 1


def _by_mask(name: str, args: Any) -> bool:
    """Whether this is ``x[mask]`` or ``x[: n]``, or assigns values there; one value for a mask needs no count."""
    writes_many = name == "__setitem__" and isinstance(args[2], Tensor) and args[2].dim() > 0
    if not writes_many and name != "__getitem__":
        return False
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    ends = [end for part in index if isinstance(part, slice) for end in (part.start, part.stop, part.step)]
    if any(isinstance(end, Tensor) for end in ends):
        return True
    return any(isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8) for part in index)


class _NoNoise(TorchFunctionMode):
    """Gaussian noise is zero, so a filter's draws are its means."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in ("randn", "randn_like"):
            return torch.zeros_like(result)
        if name != "normal":
            return result
        mean = args[0] if args else (kwargs or {}).get("mean", 0.0)
        return mean + torch.zeros_like(result)


# --- rules of all parts -----------------------------------------------------------------------------------------------


def _ensure(right: bool, where: str, found: str, expected: str = "", fix: str = "") -> None:
    if not right:
        raise UserError(where, found, expected, fix)


def _ensure_type(where: str, value: Any, kind: type) -> None:
    _ensure(isinstance(value, kind), where, f"an object of type {type(value).__name__}", kind.__qualname__)


def _check_tensors(
    where: str,
    given: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]],
    detached: bool = True,
    finite: bool = True,
) -> None:
    """Check that every entry is a tensor of its shape, finite, and by default without a graph."""
    for key, shape in shapes.items():
        here, value = f"{where}: {key}", given[key]
        _ensure_type(here, value, Tensor)
        _ensure(tuple(value.shape) == tuple(shape), here, f"shape {tuple(value.shape)}", f"{tuple(shape)}")
        _ensure(not (detached and value.requires_grad), here, "a tensor with a graph", "a detached one")
        _ensure(not finite or bool(value.isfinite().all()), here, "numbers that are not finite", "finite ones")


def _check_metrics(where: str, metrics: Any) -> None:
    _ensure_type(where, metrics, dict)
    for key in metrics:
        _ensure(isinstance(key, str), where, f"a metric named {key!r}", "text such as loss/actor")
        _check_tensors(where, metrics, {key: ()}, finite=key.startswith("loss/"))


def _check_actions(where: str, action: Tensor, actions: Actions) -> None:
    largest = float(action.detach().abs().max())
    _ensure(largest <= 1.0, where, f"{largest:g}", "actions in [-1, 1]")
    _ensure(actions.kind == "box" or _same(action, hardened(action)), where, "a mixed choice", "one-hot rows")


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4)


def _check_source(where: str, draw: Callable[[Noise, int], Mapping[str, Tensor]]) -> None:
    """Check that what is drawn depends only on the noise that is passed, and not on the seed of torch's generator."""
    one, other = (draw(RowNoise([torch.Generator().manual_seed(row) for row in range(BATCH)]), n) for n in (3, 4))
    _check_alike(where, one, other, "with other numbers than those of its argument noise", "draws from noise only")


def _check_alike(
    where: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor], when: str, expected: str, same: Any = _same
) -> None:
    """Check that two results do not differ."""
    for key, value in a.items():
        _ensure(key in b and same(value, b[key]), where, f"another {key} {when}", expected)


def _check_repeats(where: str, first: Mapping[str, Tensor], again: Mapping[str, Tensor]) -> None:
    _check_alike(where, first, again, "from the same seed", "noise from torch's own generator only")


def _check_saves(name: str, saved: Any, loaded: Any, use: Callable[[Any], Mapping[str, Tensor]]) -> None:
    """Check that a part computes the same after saving and loading."""
    with _doing(f"{name}: load_state_dict(state_dict())"):
        loaded.load_state_dict(saved.state_dict())
        for key, optimizer in getattr(saved, "optimizers", {}).items():
            loaded.optimizers[key].load_state_dict(optimizer.state_dict())
    _check_alike(name, use(saved), use(loaded), "after saving and loading", "all state in parameters and buffers")


@contextmanager
def _unchanged(where: str, tensors: Sequence[Tensor]) -> Iterator[None]:
    """Check that the arguments are left unchanged."""
    before = [x.detach().clone() for x in tensors]
    yield
    _ensure(
        all(map(_same, before, tensors)), where, "that it changes its arguments in place", "that it changes only a copy"
    )


# --- heads ------------------------------------------------------------------------------------------------------------


class _Inputs(NamedTuple):
    """The arguments of ``update`` after the phase."""

    batch: Batch
    belief: Belief
    model: _ToyModel
    extra: Extra

    def batches(self) -> list[Batch]:
        return [self.batch, *self.extra.values()]

    def tensors(self) -> list[Tensor]:
        rows = [x for batch in self.batches() for x in (*batch.obs.values(), *batch[1:])]
        return [*rows, *self.belief, *self.model.parameters()]


def _inputs(head: Any, phase: str, actions: Actions, rows: int = 0) -> _Inputs:
    """Inputs of ``rows``, by default six, or more if the head needs more."""
    rows = rows or max(6, head.needs.rows)
    torch.manual_seed(1)
    spec, belief = SPECS[0]._replace(actions=actions), _random_belief(BATCH, rows, particles=head.particles(phase))
    return _Inputs(random_batch(spec, BATCH, rows), belief, _ToyModel(), random_extra(head.needs, spec, rows))


def _check_head(name: str, cls: type[Any], config: Any, actions: Actions) -> bool:
    """Check a head on one kind of action, if it takes it."""
    make = _maker(name, cls, config, Sizes((FEAT,), (CONTEXT,), actions))
    try:
        head = make()
    except UserError as error:
        if error.__cause__ is not None:  # it did not refuse: it failed
            raise
        return False
    _check_head_parts(name, head)
    if actions.kind not in head.needs.actions:
        return False
    check_pair(_ToyModel(), make(), actions)
    phases = _phases(name, make())
    _check_acts(name, make(), actions)
    for phase in phases:
        _check_update(f"{name}: update('{phase}')", make, phase, actions)
    _check_learns(name, make(), make(), phases, actions)
    return True


def _check_head_parts(name: str, head: Any) -> None:
    for attribute, kind in (("config", type(head).Config), ("needs", Needs), ("optimizers", dict)):
        _ensure_type(f"{name}: {attribute}", getattr(head, attribute, None), kind)
    ours = {id(param) for param in head.parameters()}
    for key, optimizer in head.optimizers.items():
        where, kind = f"{name}: optimizers[{key!r}]", type(optimizer)
        found = f"{kind.__module__}.{kind.__name__}"
        _ensure(isinstance(optimizer, Optimizer), where, found, "worldrl.nn.optim.Optimizer")
        _ensure(key != "model", where, "the name of the belief model's optimiser", "another one")
        owned = all(id(param) in ours for param in optimizer.params)
        _ensure(owned, where, "parameters that the head does not have and would not save", "its own")


def _phases(name: str, head: Any) -> list[str]:
    """The phases of the first updates, each once; they must be text and depend only on the update's number."""
    where = f"{name}: phase(n)"
    phases, again = ([_call(where, head.phase, n) for n in range(UPDATES)] for _ in range(2))
    for phase in phases:
        _ensure(isinstance(phase, str), where, repr(phase), "text")
        taken = phase == MODEL_ONLY or phase.endswith(HEAD_ONLY)
        _ensure(not taken, where, f"'{phase}', a name that the agent uses itself", "another one")
        k = _call(f"{name}: particles('{phase}')", head.particles, phase)
        _ensure(isinstance(k, int) and k >= 0, f"{name}: particles('{phase}')", repr(k), "0, 1, 2, ...")
    _ensure(phases == again, where, "another name at the second call", "one that depends only on n, or no run resumes")
    return list(dict.fromkeys(phases))


def _check_acts(name: str, head: Any, actions: Actions) -> None:
    for explore in (True, False):
        for particles in (0, PARTICLES):
            where = f"{name}: act(belief, explore={explore}) with {particles} particles"
            belief = _random_belief(BATCH, particles=particles)
            belief = belief._replace(feat=20.0 * belief.feat, context=20.0 * belief.context)
            action = _call(where, head.act, belief, explore, NOISE)
            _check_tensors(where, {"action": action}, {"action": (BATCH, ACTIONS)})
            _check_actions(where, action, actions)
            _check_source(where, partial(_acted, where, head, belief, explore))


def _acted(where: str, head: Any, belief: Belief, explore: bool, noise: Noise, seed: int) -> dict[str, Tensor]:
    return {"action": _call(where, head.act, belief, explore, noise, seed=seed)}


def _check_update(where: str, make: Make, phase: str, actions: Actions) -> None:
    """Check what one update returns and what it must not change, on slices of the fewest rows, and of six or more."""
    for rows in (make().needs.rows, 0):
        head = make()
        inputs = _inputs(head, phase, actions, rows)
        with _unchanged(where, inputs.tensors()):
            first = _call(where, head.update, phase, *inputs)
        _check_metrics(where, first)
        _ensure(any(key.startswith("loss/") for key in first), where, f"{sorted(first)}", "loss/<name> among them")
        left = any(param.grad is not None for param in inputs.model.parameters())
        _ensure(not left, where, "gradients left in the belief model", "gradients only for the head's parameters")
    _check_repeats(where, first, _call(where, make().update, phase, *inputs))
    for batch in inputs.batches():  # the action of a first row belongs to the previous episode
        batch.reward.add_(50.0 * batch.is_first)
        batch.action.add_(0.5 * batch.is_first[..., None])
    masked = _call(where, make().update, phase, *inputs)
    _check_alike(where, first, masked, "with another reward or action of a first row", "that pair to be masked")


def _check_learns(name: str, head: Any, other: Any, phases: Sequence[str], actions: Actions) -> None:
    """Check that a round of updates changes the head, and that everything is saved."""

    def update(head: Any, phase: str = phases[0]) -> Metrics:
        return _call(f"{name}: update('{phase}')", head.update, phase, *_inputs(head, phase, actions))

    before = [param.detach().clone() for param in head.parameters()]
    owned = {key: [(param, param.detach().clone()) for param in each.params] for key, each in head.optimizers.items()}
    for phase in phases:
        update(head, phase)
    changed = not all(map(_same, before, head.parameters()))
    _ensure(changed, f"{name}: update", f"no parameter changed by {', '.join(phases)}", "optimisers to step")
    for key, pairs in owned.items():
        still = all(_same(param, was) for param, was in pairs)
        _ensure(
            not still, f"{name}: optimizers[{key!r}]", f"no step in {', '.join(phases)}", "one that changes something"
        )
    _check_saves(name, head, other, update)
    ours, theirs = ({key: param.detach() for key, param in each.named_parameters()} for each in (head, other))
    _check_alike(name, ours, theirs, "an update after saving and loading", "all state in parameters and buffers")


# --- what a head adds to its parent -----------------------------------------------------------------------------------


class _Used(NamedTuple):
    """Which code ran, and which attributes of the settings were read."""

    codes: set[CodeType]
    settings: set[str]


def _eager() -> AbstractContextManager[Any]:
    """Without torch.compile, in whose code no call is seen; nothing is imported for it, which takes seconds."""
    known = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")  # of torch 2.6
    return torch.compiler.set_stance("force_eager") if known else nullcontext()


@contextmanager
def _watched(cls: type[Any]) -> Iterator[_Used]:
    """Note what runs in this thread, and what is read of the settings, if the class is the user's."""
    used, config, profile = _Used(set(), set()), cls.Config, sys.getprofile()
    if not _theirs(cls):
        yield used
        return
    plain, own = config.__getattribute__, "__getattribute__" in vars(config)

    def read(settings: Any, key: str) -> Any:
        used.settings.add(key)
        return plain(settings, key)

    config.__getattribute__ = read
    sys.setprofile(lambda frame, event, given: used.codes.add(frame.f_code))
    try:
        with _eager():
            yield used
    finally:
        sys.setprofile(profile)
        if own:
            config.__getattribute__ = plain
        else:
            del config.__getattribute__


def _theirs(cls: type) -> list[type]:
    """The class and those of its bases that are the user's."""
    others = {"worldrl", "torch", *sys.stdlib_module_names}
    return [each for each in cls.__mro__ if each.__module__.partition(".")[0] not in others]


def _parents(cls: type) -> list[type]:
    """Those bases that are heads of the package, the nearest first."""
    return [each for each in cls.__mro__ if each.__module__.startswith("worldrl.heads.")]


def _functions(attributes: Mapping[str, Any]) -> Iterator[tuple[str, CodeType]]:
    """Name and code of the functions and properties among the attributes of a class."""
    for key, value in attributes.items():
        for inner in ("fget", "func", "__func__"):  # of properties, cached properties and class methods
            value = getattr(value, inner, None) or value
        if isinstance(value, FunctionType):
            yield key, inspect.unwrap(value).__code__


def _own_functions(cls: type[Any]) -> list[tuple[str, CodeType]]:
    """The functions of the user's classes and modules: a method by its name, those of another class by that class's."""
    classes = [*_theirs(cls), *_theirs(cls.Config)]
    found = [pair for each in classes for pair in _functions(vars(each))]
    for module in {each.__module__ for each in classes} & set(sys.modules):
        for key, value in vars(sys.modules[module]).items():
            if isinstance(value, FunctionType):
                found += _functions({key: value})
            elif isinstance(value, type) and value.__module__ == module and value not in classes:
                found += [(key, code) for _, code in _functions(vars(value))]
    return found


def _names(code: CodeType) -> set[str]:
    """Every name and text in this code."""
    inner = [name for const in code.co_consts if isinstance(const, CodeType) for name in _names(const)]
    return {*code.co_names, *(const for const in code.co_consts if isinstance(const, str)), *inner}


def _live(cls: type[Any], ran: set[CodeType]) -> set[CodeType]:
    """The user's functions that ran, those that only a run calls, and those that one of these names.

    What is named but did not run may lie on a branch that other settings take.
    """
    functions = _own_functions(cls)
    live = {code for key, code in functions if code in ran or (hasattr(Head, key) and not key.startswith("__"))}
    live |= {code for key, code in functions if key == "__post_init__" and "__setattr__" in code.co_names}
    while True:
        named = {name for code in live for name in _names(code) if not name.startswith("__")}
        more = {code for key, code in functions if key in named} - live
        if not more:
            return live
        live |= more


def _overrides(cls: type[Any]) -> dict[str, CodeType]:
    """The user's functions in place of those that heads of the package call themselves."""
    inherited = {key for each in _parents(cls) for key, _ in _functions(vars(each)) if _is_inner(key)}
    given = {key: code for each in reversed(_theirs(cls)) for key, code in _functions(vars(each))}
    return {key: code for key, code in given.items() if key in inherited}


def _is_inner(key: str) -> bool:
    """Whether a head calls this method itself, and not a run."""
    return not key.startswith("_") and not hasattr(Head, key)


def _check_overrides(name: str, cls: type[Any], live: set[CodeType], ran: set[CodeType]) -> None:
    """Check that the parent calls what the user overrides.

    Only what the parent inherits is judged: what it defines itself, other settings or phases may call. A head that
    also overrides what the parent calls instead is made for both.
    """
    parents, given = _parents(cls), _overrides(cls)
    for key in (key for key, code in given.items() if code not in live):
        owner = next(each for each in parents if key in vars(each))
        both = any(code in live and not hasattr(owner, other) for other, code in given.items())
        expected = f"one that {parents[0].__name__} calls: {', '.join(_called(parents[0], given, ran))}"
        told = "a method that nothing calls with these settings"
        _ensure(owner is parents[0] or both, f"{name}: {key}", told, expected)


def _called(parent: type, given: Mapping[str, CodeType], ran: set[CodeType]) -> list[str]:
    """The parent's own methods that ran, or what the user overrides them with."""
    return sorted(key for key, code in _functions(vars(parent)) if _is_inner(key) and ran & {code, given.get(key)})


def _check_settings(name: str, cls: type[Any], live: set[CodeType], read: set[str]) -> None:
    """Check that the settings that the user adds are read, or would be on a branch that was not taken."""
    bases = [*(each.Config for each in _parents(cls) if hasattr(each, "Config")), *_parents(cls.Config)]
    known = {key for each in bases for key in getattr(each, "__dataclass_fields__", ())}
    known |= read.union(*map(_names, live))
    for field in dataclasses.fields(cls.Config):
        used = field.name in known or "__dict__" in read
        _ensure(used, f"{name}: Config.{field.name}", "a setting that nothing reads", "one that changes something")


# --- policies ---------------------------------------------------------------------------------------------------------


def _check_policy(name: str, make: Make, actions: Actions) -> None:
    """Check a policy on one kind of action."""
    exact = make().exact_density
    expected = "True, or False if log_prob is a bound"
    _ensure(isinstance(exact, bool), f"{name}: exact_density", repr(exact), expected)
    for lead in ((BATCH,), (2, BATCH, 4)):
        _check_draws(name, make(), actions, lead)
    _check_density(name, make(), actions)
    x = torch.ones(BATCH, FEAT)
    _check_saves(name, make(0), make(1), lambda policy: {"action of sample": _sample(name, policy, x).action})


def _sample(name: str, policy: Any, x: Tensor, *noise: Any) -> Draw:
    where = f"{name}: sample(x{', noise' if noise else ''}) with x of shape {tuple(x.shape)}"
    draw = _call(where, policy.sample, x, *noise)
    _ensure_type(where, draw, Draw)
    return draw


def _check_draws(name: str, policy: Any, actions: Actions, lead: tuple[int, ...]) -> None:
    """Check shapes, ranges, weights and gradients of draws in the states ``x`` (*lead, F)."""
    torch.manual_seed(1)
    x = torch.randn(*lead, FEAT)
    draw, where = _sample(name, policy, x), f"{name}: sample(x) with x of shape {(*lead, FEAT)}"
    _check_draw(where, draw, lead)
    _check_actions(f"{where}: action", draw.action, actions)
    meant, law = (draw.raw.tanh(), "tanh of raw") if actions.kind == "box" else (draw.raw, "raw, one-hot rows")
    _ensure(torch.allclose(draw.action, meant, atol=1e-5), f"{where}: action", f"that it is not {law}", law)
    if isinstance(draw.penalty, Tensor):
        _check_tensors(where, draw._asdict(), {"penalty": lead}, detached=False)
    for key, value in (("action", draw.one()), ("log_prob", draw.log_prob)):
        _ensure(value.requires_grad, f"{where}: {key}", "no gradient to its parameters", "reparameterised draws")
    _check_repeats(where, {"action": draw.action}, {"action": _sample(name, policy, x).action})
    if lead == (BATCH,):
        where = f"{name}: act(x, noise)"
        _check_source(where, lambda source, seed: {"action": _call(where, policy.act, x, source, seed=seed)})
        acted = _call(where, policy.act, x)
        _check_tensors(where, {"action": acted}, {"action": (*lead, ACTIONS)}, detached=False)
        _check_actions(where, acted, actions)
    noise = policy.noise(x, 3)
    many, where = _sample(name, policy, x, noise), f"{name}: sample(x, noise(x, 3))"
    _check_draw(where, many, lead)
    torch.manual_seed(3)
    again = policy.sample(x, noise)
    _check_alike(where, {"action": many.action}, {"action": again.action}, "from the same noise", "no other noise")
    where = f"{name}: mode(x)"
    mode = _call(where, policy.mode, x)
    _check_tensors(where, {"action": mode}, {"action": (*lead, ACTIONS)}, detached=False)
    _check_actions(where, mode, actions)
    _check_alike(
        where, {"action": mode}, {"action": _call(where, policy.mode, x, seed=1)}, "at a second call", "no draw"
    )


def _check_draw(where: str, draw: Draw, lead: tuple[int, ...]) -> None:
    lead = (len(draw.action), *lead)
    shapes = {"action": (*lead, ACTIONS), "raw": (*lead, ACTIONS), "log_prob": lead}
    _check_tensors(where, draw._asdict(), shapes, detached=False)
    weight = draw.weight if isinstance(draw.weight, Tensor) else torch.full(lead, float(draw.weight))
    _check_tensors(where, {"weight": weight}, {"weight": lead}, detached=False)
    ones = torch.allclose(weight.sum(0), torch.ones(lead[1:]), atol=1e-4) and bool((weight >= 0).all())
    total = f"{lead[0]} draws whose weights sum to {float(weight.detach().sum(0).flatten()[0]):g}"
    _ensure(ones, f"{where}: weight", total, "1, and none below zero")


@torch.no_grad()
def _check_density(name: str, policy: Any, actions: Actions) -> None:
    """Check that ``log_prob`` broadcasts and, if it is exact, agrees with that of ``sample`` and integrates to one."""
    torch.manual_seed(1)
    x = torch.randn(PARTICLES, 1, BATCH, FEAT)  # the first of them made the draws, (M, B, A)
    draw, where = _sample(name, policy, x[0, 0]), f"{name}: log_prob(raw, x)"
    densities = _call(where, policy.log_prob, draw.raw, x)
    lead = torch.broadcast_shapes(draw.raw.shape[:-1], x.shape[:-1])
    _check_tensors(where, {"density": densities}, {"density": lead})
    with torch.enable_grad():
        fitted = _call(where, policy.log_prob, draw.raw, x[0, 0]).requires_grad
    _ensure(fitted, where, "no gradient to its parameters", "one: heads fit it to actions")
    if actions.kind == "box":
        inner = draw.raw.detach().clamp(-1.0, 1.0)
        given = _call(f"{name}: raw_of(action)", policy.raw_of, inner.tanh())
        right = _close(given, inner) or not policy.exact_density
        _ensure(right, f"{name}: raw_of(action)", "another number than the action's own before tanh", "its inverse")
    if policy.exact_density:
        same = torch.allclose(densities[0], draw.log_prob, rtol=1e-3, atol=1e-3)
        _ensure(same, where, "another value than the log_prob of sample", "the same at the same raw")
        mass = _mass(name, policy, x[0, 0, 0], actions)
        _ensure(abs(mass - 1.0) < 0.05, where, f"a density of actions that integrates to {mass:.3f}", "1")


def _mass(name: str, policy: Any, x: Tensor, actions: Actions) -> float:
    """Integral of the density of actions in the state ``x`` (F,): over all choices, or a grid around the draws."""
    if actions.kind == "choice":
        return float(policy.log_prob(torch.eye(ACTIONS), x).exp().sum())
    draws = _sample(name, policy, x.expand(1000, FEAT)).raw.flatten(0, -2)
    std, center = (stat.double() for stat in torch.std_mean(draws, 0))
    axes = [c + REACH * s * torch.linspace(-1, 1, GRID, dtype=torch.float64) for c, s in zip(center, std, strict=True)]
    points = torch.cartesian_prod(*axes).float()
    log_density = policy.log_prob(points, x) + tanh_log_det(points).sum(-1)
    return float(log_density.double().exp().sum() * (2 * REACH * std / (GRID - 1)).prod())


# --- beliefs ----------------------------------------------------------------------------------------------------------


def _check_belief(name: str, make: Make, spec: EnvSpec) -> None:
    """Check a belief on one kind of observation."""
    _check_belief_parts(name, make())
    torch.manual_seed(4)
    batch = random_batch(spec, BATCH, make().lost_rows + 4)
    _check_learning(name, make(), batch)
    _check_acting(name, make(), batch)
    _check_agreement(name, make(), batch)
    model = make()

    def observe(model: Any) -> Mapping[str, Tensor]:
        return _observe(name, model, batch, PARTICLES, learn=False)[0]._asdict()

    _check_repeats(f"{name}: observe", observe(model), observe(model))
    _check_saves(f"{name}: observe", model, make(1), observe)
    _check_abilities(name, make(), spec)
    if model.imputes:
        _check_imputation(name, make(), batch)


def _check_belief_parts(name: str, model: Any) -> None:
    for attribute, least in (("feat_dim", 1), ("context_dim", 1), ("lost_rows", 0)):
        found = getattr(model, attribute, None)
        right = isinstance(found, int) and found >= least
        _ensure(right, f"{name}: {attribute}", repr(found), f"a whole number, {least} or more")
    params = dict(model.named_parameters())
    for key, param in params.items():
        _ensure(param.requires_grad, f"{name}: parameter {key}", "that it takes no gradient", "a buffer in its place")
    for field in ("lr", "grad_clip", "adam_eps") if params else ():
        _ensure(hasattr(model.config, field), f"{name}: Config", f"no {field}", "what the agent's optimiser reads")


def _check_shapes(where: str, belief: Any, lead: tuple[int, ...], particles: int, model: Any) -> None:
    """A belief of leading shape (B,), or (B, T - lost_rows)."""
    _ensure_type(where, belief, Belief)
    feat = (*lead, model.feat_dim)
    shapes = (feat, (particles, *feat), (*lead, model.context_dim), lead)
    _check_tensors(where, belief._asdict(), dict(zip(Belief._fields, shapes, strict=True)))


def _observe(name: str, model: Any, batch: Batch, particles: int, learn: bool = True) -> tuple[Belief, Metrics]:
    """Call ``observe`` as the agent does, without gradient if nothing is learned: the belief and the loss terms."""
    where = f"{name}: observe(batch, {particles}, learn={learn})"
    with torch.set_grad_enabled(learn):
        result = _call(where, model.observe, batch, particles, learn)
    right = isinstance(result, tuple) and len(result) == 3
    _ensure(right, where, f"an object of type {type(result).__name__}", "(belief, losses, metrics)")
    belief, losses, metrics = result
    _check_shapes(where, belief, (BATCH, batch.reward.shape[1] - model.lost_rows), particles, model)
    _check_metrics(where, metrics)
    _ensure_type(f"{where}: losses", losses, dict)
    return belief, losses


def _check_learning(name: str, model: Any, batch: Batch) -> None:
    where, params = f"{name}: observe", dict(model.named_parameters())
    with _unchanged(where, [*batch.obs.values(), *batch[1:]]):
        _, losses = _observe(name, model, batch, PARTICLES)
        _observe(name, model, batch, 0)
        _, none = _observe(name, model, batch, PARTICLES, learn=False)
    _ensure(bool(losses) == bool(params), where, f"{len(params)} parameters and {len(losses)} losses", "both or none")
    _check_metrics(where, {f"loss/{key}": value.detach() for key, value in losses.items()})
    if losses:
        loss = torch.stack(list(losses.values())).sum()
        _ensure(loss.requires_grad, where, "losses without a graph", "gradients to its parameters")
        for key, grad in zip(params, torch.autograd.grad(loss, [*params.values()], allow_unused=True), strict=True):
            _ensure(grad is not None, f"{name}: parameter {key}", "no part in the losses", "a buffer, or a term")
    _ensure(not none, f"{where}(learn=False)", f"losses {sorted(none)}", "none")
    _observe(name, model, batch.drop_rows(2), PARTICLES)  # the shortest slice: two rows in addition to the lost ones


def _step(
    name: str,
    model: Any,
    state: State,
    batch: Batch,
    row: int,
    is_first: Tensor,
    deterministic: bool = False,
    noise: Noise = NOISE,
    seed: int = 2,
) -> tuple[State, Belief]:
    """``step`` on one row of a slice."""
    obs, action = {k: v[:, row] for k, v in batch.obs.items()}, batch.action[:, row] * (1.0 - is_first)[:, None]
    with torch.no_grad():
        return _call(f"{name}: step", model.step, state, obs, action, is_first, deterministic, noise, seed=seed)


def _flat(stepped: tuple[State, Belief]) -> dict[str, Tensor]:
    state, belief = stepped
    return {**{f"state {key}": x for key, x in state.items()}, **belief._asdict()}


def _check_acting(name: str, model: Any, batch: Batch) -> None:
    where = f"{name}: step"
    start = _call(f"{name}: initial({BATCH}, {PARTICLES})", model.initial, BATCH, PARTICLES)
    inside, reset, some = torch.zeros(BATCH), torch.ones(BATCH), torch.eye(BATCH)[0]
    state, belief = _step(name, model, start, batch, 0, reset)
    _ensure_type(where, belief, Belief)
    particles = PARTICLES if len(belief.particles) else 0  # a point belief need not repeat itself
    _check_shapes(where, belief, (BATCH,), particles, model)
    found, expected = ({key: (tuple(x.shape), x.dtype) for key, x in sorted(s.items())} for s in (state, start))
    _ensure(found == expected, f"{where}: state", f"{found}", f"that of initial: {expected}")
    for key, value in state.items():
        _ensure(len(value) == BATCH, f"{where}: state {key}", f"shape {tuple(value.shape)}", f"B = {BATCH} first")
    _check_source(where, lambda noise, seed: _flat(_step(name, model, start, batch, 0, reset, noise=noise, seed=seed)))
    state, _ = _step(name, model, state, batch, 1, inside)
    fresh, later = _step(name, model, start, batch, 2, reset), _step(name, model, state, batch, 2, reset)
    told = ("after is_first = 1 that depends on the rows before", "a state that is reset")
    _check_alike(where, fresh[0], later[0], *told)
    _check_alike(where, fresh[1]._asdict(), later[1]._asdict(), *told)
    mixed, unmixed = ({"belief": _step(name, model, state, batch, 2, first)[1].feat} for first in (some, inside))
    _check_alike(where, {"belief": mixed["belief"][:1]}, {"belief": fresh[1].feat[:1]}, *told)
    rest = {"belief": unmixed["belief"][1:]}
    _check_alike(
        where, {"belief": mixed["belief"][1:]}, rest, "of a row where another row has is_first = 1", "no effect"
    )


def _check_imputation(name: str, model: Any, batch: Batch) -> None:
    """Check that lost entries are not read, and that masks without lost entries have no effect."""
    start, first = model.initial(BATCH, PARTICLES), torch.ones(BATCH)
    lost = {SEEN + key: torch.zeros_like(x, dtype=torch.bool) for key, x in batch.obs.items()}
    seen = {key: ~mask for key, mask in lost.items()}

    def step(obs: Obs) -> Mapping[str, Tensor]:
        torch.manual_seed(7)
        return _step(name, model, start, batch._replace(obs=obs), 0, first)[1]._asdict()

    told = step({**batch.obs, **seen})
    _check_alike(f"{name}: step", told, step(batch.obs), "where SEEN says that all is seen", "none", _close)
    others = {key: x.flip(0) for key, x in batch.obs.items()}
    half = {key: torch.rand(mask.shape) < 0.5 for key, mask in lost.items()}
    for masks in (lost, half):
        changed = {key: torch.where(masks[SEEN + key], x, others[key]) for key, x in batch.obs.items()}
        told, again = step({**batch.obs, **masks}), step({**changed, **masks})
        _check_alike(f"{name}: step", told, again, "by readings that SEEN says are lost", "none")


def _check_agreement(name: str, model: Any, batch: Batch) -> None:
    """Check that learning and acting filter the same rows equally, as far as noise can be switched off."""
    with _NoNoise():
        learnt, seen = (_observe(name, model, batch, 0, learn)[0]._asdict() for learn in (True, False))
    _check_alike(f"{name}: observe(learn=False)", seen, learnt, "than with learn=True", "the same", _close)
    if _is_noisy(model, batch):
        return
    state, rows = model.initial(BATCH), []
    for row in range(batch.reward.shape[1]):
        with _NoNoise():
            state, belief = _step(name, model, state, batch, row, batch.is_first[:, row], deterministic=True)
        rows.append(belief)
    known = zip(*rows[model.lost_rows :], strict=True)
    acted = Belief(*(torch.stack(parts, -1 if parts[0].dim() == 1 else -2) for parts in known))._asdict()
    _check_alike(f"{name}: step", acted, seen, "than observe on the same rows without noise", "the same", _close)


def _is_noisy(model: Any, batch: Batch) -> bool:
    """Whether there is noise that is not Gaussian, which cannot be switched off here."""
    draws = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        with _NoNoise(), torch.no_grad():
            draws.append(model.observe(batch, 0, False)[0])
    return not all(map(_same, *draws))


def _check_abilities(name: str, model: Any, spec: EnvSpec) -> None:
    feat = torch.randn(4, model.feat_dim)
    if isinstance(model, Imagines):
        _check_imagination(f"{name}: imagine", model, feat)
    if isinstance(model, Decodes):
        obs = _call(f"{name}: decode", model.decode, feat)
        _ensure(set(obs) <= set(spec.obs), f"{name}: decode", f"{sorted(obs)}", f"some of {sorted(spec.obs)}")
        shapes = {key: (len(feat), *spec.obs[key].shape) for key in obs}
        _check_tensors(f"{name}: decode", obs, shapes, detached=False, finite=False)


def _check_imagination(where: str, model: Imagines, feat: Tensor) -> None:
    actor = nn.Linear(feat.shape[-1], ACTIONS)
    rollout = _call(where, model.imagine, feat, lambda x: torch.tanh(actor(x.detach())), HORIZON)
    rows = (HORIZON + 1, len(feat))
    shapes = {
        "feat": (*rows, feat.shape[-1]),
        "action": (HORIZON, len(feat), ACTIONS),
        "reward": rows,
        "discount": rows,
    }
    _check_tensors(where, rollout._asdict(), shapes, detached=False, finite=False)
    _check_alike(where, {"feat": rollout.feat[0]}, {"feat": feat}, "at its beginning", "the given one as entry 0")
    certain = bool(((rollout.discount >= 0) & (rollout.discount <= 1)).all())
    _ensure(certain, f"{where}: discount", "numbers outside of [0, 1]", "the probability that the episode continues")
    (grad,) = torch.autograd.grad(rollout.reward.sum(), [actor.weight], allow_unused=True)
    _ensure(grad is not None, f"{where}: reward", "no gradient to the actions", "none of it to be detached")
