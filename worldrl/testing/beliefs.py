"""Is a class of your own a belief that the package can run?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from worldrl.errors import UserError
from worldrl.testing.calls import call, ensure, ensure_type, maker, refusal
from worldrl.testing.inputs import ACTIONS, BATCH, PARTICLES, SPECS, random_batch
from worldrl.testing.rules import (
    check_alike,
    check_metrics,
    check_repeats,
    check_saves,
    check_source,
    check_tensors,
    close,
    load,
    same,
    unchanged,
)
from worldrl.types import NOISE, SEEN, Batch, Belief, Decodes, EnvSpec, Imagines, Metrics, Noise, Obs, State

HORIZON = 3


def check_belief(belief: type | str, **settings: Any) -> None:
    """Check a belief class, or the one behind a name or ``"module:Class"``, with these settings of its ``Config``.

    It is tested on state vectors, on images and on both; those that it refuses with a ``UserError`` are left out.

    Raises:
        UserError: what is wrong, in one line.
    """
    cls, name, config = load("belief", belief, settings)
    with torch.random.fork_rng(devices=[]):
        refusals = [_check_kind(f"{name} on {' and '.join(spec.obs)}", cls, config, spec) for spec in SPECS]
    found = f"that it refuses vectors, images and both: {refusals[0]}"
    ensure(not all(refusals), name, found, "support for one of them")


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


def _check_kind(name: str, cls: type[Any], config: Any, spec: EnvSpec) -> UserError | None:
    """Check a belief on one kind of observation, unless it refuses it by the error that is returned."""
    make = maker(name, cls, config, spec)
    if refused := refusal(make):
        return refused
    _check_parts(name, make())
    torch.manual_seed(4)
    batch = random_batch(spec, BATCH, make().lost_rows + 4)
    _check_learning(name, make(), batch)
    _check_acting(name, make(), batch)
    _check_agreement(name, make(), batch)
    model = make()

    def observe(model: Any) -> Mapping[str, Tensor]:
        return _observe(name, model, batch, PARTICLES, learn=False)[0]._asdict()

    check_repeats(f"{name}: observe", observe(model), observe(model))
    check_saves(f"{name}: observe", model, make(1), observe)
    _check_abilities(name, make(), spec)
    if model.imputes:
        _check_imputation(name, make(), batch)
    return None


def _check_parts(name: str, model: Any) -> None:
    for attribute, least in (("feat_dim", 1), ("context_dim", 1), ("lost_rows", 0)):
        found = getattr(model, attribute, None)
        right = isinstance(found, int) and found >= least
        ensure(right, f"{name}: {attribute}", repr(found), f"a whole number, {least} or more")
    params = dict(model.named_parameters())
    for key, param in params.items():
        ensure(param.requires_grad, f"{name}: parameter {key}", "that it takes no gradient", "a buffer in its place")
    for field in ("lr", "grad_clip", "adam_eps") if params else ():
        ensure(hasattr(model.config, field), f"{name}: Config", f"no {field}", "what the agent's optimiser reads")


def _check_shapes(where: str, belief: Any, lead: tuple[int, ...], particles: int, model: Any) -> None:
    """A belief of leading shape (B,), or (B, T - lost_rows)."""
    ensure_type(where, belief, Belief)
    feat = (*lead, model.feat_dim)
    shapes = (feat, (particles, *feat), (*lead, model.context_dim), lead)
    check_tensors(where, belief._asdict(), dict(zip(Belief._fields, shapes, strict=True)))


def _observe(name: str, model: Any, batch: Batch, particles: int, learn: bool = True) -> tuple[Belief, Metrics]:
    """Call ``observe`` as the agent does, without gradient if nothing is learned: the belief and the loss terms."""
    where = f"{name}: observe(batch, {particles}, learn={learn})"
    with torch.set_grad_enabled(learn):
        result = call(where, model.observe, batch, particles, learn)
    right = isinstance(result, tuple) and len(result) == 3
    ensure(right, where, f"an object of type {type(result).__name__}", "(belief, losses, metrics)")
    belief, losses, metrics = result
    _check_shapes(where, belief, (BATCH, batch.reward.shape[1] - model.lost_rows), particles, model)
    check_metrics(where, metrics)
    ensure_type(f"{where}: losses", losses, dict)
    return belief, losses


def _check_learning(name: str, model: Any, batch: Batch) -> None:
    where, params = f"{name}: observe", dict(model.named_parameters())
    with unchanged(where, [*batch.obs.values(), *batch[1:]]):
        _, losses = _observe(name, model, batch, PARTICLES)
        _observe(name, model, batch, 0)
        _, none = _observe(name, model, batch, PARTICLES, learn=False)
    ensure(bool(losses) == bool(params), where, f"{len(params)} parameters and {len(losses)} losses", "both or none")
    check_metrics(where, {f"loss/{key}": value.detach() for key, value in losses.items()})
    if losses:
        loss = torch.stack(list(losses.values())).sum()
        ensure(loss.requires_grad, where, "losses without a graph", "gradients to its parameters")
        for key, grad in zip(params, torch.autograd.grad(loss, [*params.values()], allow_unused=True), strict=True):
            ensure(grad is not None, f"{name}: parameter {key}", "no part in the losses", "a buffer, or a term")
    ensure(not none, f"{where}(learn=False)", f"losses {sorted(none)}", "none")
    _observe(name, model, batch.drop_rows(2), PARTICLES)  # the shortest slice: two rows in addition to the lost ones


def _step(
    name: str,
    model: Any,
    batch: Batch,
    row: int,
    state: State,
    is_first: Tensor,
    deterministic: bool = False,
    noise: Noise = NOISE,
    seed: int = 2,
) -> tuple[State, Belief]:
    """``step`` on one row of a slice."""
    obs, action = {k: v[:, row] for k, v in batch.obs.items()}, batch.action[:, row] * (1.0 - is_first)[:, None]
    with torch.no_grad():
        return call(f"{name}: step", model.step, state, obs, action, is_first, deterministic, noise, seed=seed)


def _flat(stepped: tuple[State, Belief]) -> dict[str, Tensor]:
    state, belief = stepped
    return {**{f"state {key}": x for key, x in state.items()}, **belief._asdict()}


def _check_acting(name: str, model: Any, batch: Batch) -> None:
    where, step = f"{name}: step", partial(_step, name, model, batch)
    start = call(f"{name}: initial({BATCH}, {PARTICLES})", model.initial, BATCH, PARTICLES)
    first = partial(step, 0, start, torch.ones(BATCH))
    state, belief = first()
    _check_stepped(where, model, start, state, belief)
    check_source(where, lambda noise, seed: _flat(first(noise=noise, seed=seed)))
    _check_resets(where, step, start, state)


def _check_stepped(where: str, model: Any, start: State, state: State, belief: Any) -> None:
    """Check the state and the belief after one step from ``start``."""
    ensure_type(where, belief, Belief)
    particles = PARTICLES if len(belief.particles) else 0  # a point belief need not repeat itself
    _check_shapes(where, belief, (BATCH,), particles, model)
    found, expected = ({key: (tuple(x.shape), x.dtype) for key, x in sorted(s.items())} for s in (state, start))
    ensure(found == expected, f"{where}: state", f"{found}", f"that of initial: {expected}")
    for key, value in state.items():
        ensure(len(value) == BATCH, f"{where}: state {key}", f"shape {tuple(value.shape)}", f"B = {BATCH} first")


def _check_resets(where: str, step: Callable[..., tuple[State, Belief]], start: State, state: State) -> None:
    """Check that ``is_first`` resets its own row, and no other; ``state`` is that after row 0."""
    inside, reset, some = torch.zeros(BATCH), torch.ones(BATCH), torch.eye(BATCH)[0]
    state, _ = step(1, state, inside)
    fresh, later = step(2, start, reset), step(2, state, reset)
    told = ("after is_first = 1 that depends on the rows before", "a state that is reset")
    check_alike(where, fresh[0], later[0], *told)
    check_alike(where, fresh[1]._asdict(), later[1]._asdict(), *told)
    mixed, unmixed = (step(2, state, is_first)[1].feat for is_first in (some, inside))
    check_alike(where, {"belief": mixed[:1]}, {"belief": fresh[1].feat[:1]}, *told)
    told = ("of a row where another row has is_first = 1", "no effect")
    check_alike(where, {"belief": mixed[1:]}, {"belief": unmixed[1:]}, *told)


def _check_imputation(name: str, model: Any, batch: Batch) -> None:
    """Check that lost entries are not read, and that masks without lost entries have no effect."""
    start, first = model.initial(BATCH, PARTICLES), torch.ones(BATCH)
    lost = {SEEN + key: torch.zeros_like(x, dtype=torch.bool) for key, x in batch.obs.items()}
    seen = {key: ~mask for key, mask in lost.items()}

    def step(obs: Obs) -> Mapping[str, Tensor]:
        torch.manual_seed(7)
        return _step(name, model, batch._replace(obs=obs), 0, start, first)[1]._asdict()

    told = step({**batch.obs, **seen})
    check_alike(f"{name}: step", told, step(batch.obs), "where SEEN says that all is seen", "none", close)
    others = {key: x.flip(0) for key, x in batch.obs.items()}
    half = {key: torch.rand(mask.shape) < 0.5 for key, mask in lost.items()}
    for masks in (lost, half):
        changed = {key: torch.where(masks[SEEN + key], x, others[key]) for key, x in batch.obs.items()}
        told, again = step({**batch.obs, **masks}), step({**changed, **masks})
        check_alike(f"{name}: step", told, again, "by readings that SEEN says are lost", "none")


def _check_agreement(name: str, model: Any, batch: Batch) -> None:
    """Check that learning and acting filter the same rows equally, as far as noise can be switched off."""
    with _NoNoise():
        learnt, seen = (_observe(name, model, batch, 0, learn)[0]._asdict() for learn in (True, False))
    check_alike(f"{name}: observe(learn=False)", seen, learnt, "than with learn=True", "the same", close)
    if _is_noisy(model, batch):
        return
    state, rows = model.initial(BATCH), []
    for row in range(batch.reward.shape[1]):
        with _NoNoise():
            state, belief = _step(name, model, batch, row, state, batch.is_first[:, row], deterministic=True)
        rows.append(belief)
    known = zip(*rows[model.lost_rows :], strict=True)
    acted = Belief(*(torch.stack(parts, -1 if parts[0].dim() == 1 else -2) for parts in known))._asdict()
    check_alike(f"{name}: step", acted, seen, "than observe on the same rows without noise", "the same", close)


def _is_noisy(model: Any, batch: Batch) -> bool:
    """Whether there is noise that is not Gaussian, which cannot be switched off here."""
    draws = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        with _NoNoise(), torch.no_grad():
            draws.append(model.observe(batch, 0, False)[0])
    return not all(map(same, *draws))


def _check_abilities(name: str, model: Any, spec: EnvSpec) -> None:
    feat = torch.randn(4, model.feat_dim)
    if isinstance(model, Imagines):
        _check_imagination(f"{name}: imagine", model, feat)
    if isinstance(model, Decodes):
        obs = call(f"{name}: decode", model.decode, feat)
        ensure(set(obs) <= set(spec.obs), f"{name}: decode", f"{sorted(obs)}", f"some of {sorted(spec.obs)}")
        shapes = {key: (len(feat), *spec.obs[key].shape) for key in obs}
        check_tensors(f"{name}: decode", obs, shapes, detached=False, finite=False)


def _check_imagination(where: str, model: Imagines, feat: Tensor) -> None:
    actor = nn.Linear(feat.shape[-1], ACTIONS)
    rollout = call(where, model.imagine, feat, lambda x: torch.tanh(actor(x.detach())), HORIZON)
    rows = (HORIZON + 1, len(feat))
    shapes = {
        "feat": (*rows, feat.shape[-1]),
        "action": (HORIZON, len(feat), ACTIONS),
        "reward": rows,
        "discount": rows,
    }
    check_tensors(where, rollout._asdict(), shapes, detached=False, finite=False)
    check_alike(where, {"feat": rollout.feat[0]}, {"feat": feat}, "at its beginning", "the given one as entry 0")
    certain = bool(((rollout.discount >= 0) & (rollout.discount <= 1)).all())
    ensure(certain, f"{where}: discount", "numbers outside of [0, 1]", "the probability that the episode continues")
    (grad,) = torch.autograd.grad(rollout.reward.sum(), [actor.weight], allow_unused=True)
    ensure(grad is not None, f"{where}: reward", "no gradient to the actions", "none of it to be detached")
