"""Is a class of your own a head that the package can run?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from worldrl.agent import HEAD_ONLY, MODEL_ONLY, check_pair
from worldrl.nn.optim import Optimizer
from worldrl.testing.additions import check_additions
from worldrl.testing.calls import Make, call, ensure, ensure_type, maker, refusal
from worldrl.testing.inputs import (
    BATCH,
    CONTEXT,
    FEAT,
    KINDS,
    PARTICLES,
    SPECS,
    ToyModel,
    random_batch,
    random_belief,
    random_extra,
)
from worldrl.testing.rules import (
    check_act,
    check_alike,
    check_metrics,
    check_repeats,
    check_saves,
    load,
    same,
    unchanged,
)
from worldrl.types import Actions, Batch, Belief, Extra, Metrics, Needs, Sizes

UPDATES = 16  # numbers of updates whose phases are tried


def check_head(head: type | str, **settings: Any) -> None:
    """Check a head class, or the one behind a name or ``"module:Class"``, with these settings of its ``Config``.

    It also refuses a method of yours that the parent head inherits but never calls, and a setting of yours that
    nothing reads.

    Raises:
        UserError: what is wrong, in one line.
    """
    cls, name, config = load("head", head, settings)
    with check_additions(name, cls), torch.random.fork_rng(devices=[]):
        tried = [_check_kind(f"{name} on a {kind.kind}", cls, config, kind) for kind in KINDS]
        ensure(any(tried), f"{name}: needs.actions", "no kind of action", "box, choice or both")


class _Inputs(NamedTuple):
    """The arguments of ``update`` after the phase."""

    batch: Batch
    belief: Belief
    model: ToyModel
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
    spec, belief = SPECS[0]._replace(actions=actions), random_belief(BATCH, rows, particles=head.particles(phase))
    return _Inputs(random_batch(spec, BATCH, rows), belief, ToyModel(), random_extra(head.needs, spec, rows))


def _check_kind(name: str, cls: type[Any], config: Any, actions: Actions) -> bool:
    """Check a head on one kind of action, if it takes it."""
    make = maker(name, cls, config, Sizes((FEAT,), (CONTEXT,), actions))
    if refusal(make):
        return False
    head = make()
    _check_parts(name, head)
    if actions.kind not in head.needs.actions:
        return False
    check_pair(ToyModel(), head, actions)
    phases = _phases(name, make())
    _check_acts(name, make(), actions)
    for phase in phases:
        _check_update(f"{name}: update('{phase}')", make, phase, actions)
    _check_learns(name, make(), make(), phases, actions)
    return True


def _check_parts(name: str, head: Any) -> None:
    for attribute, kind in (("config", type(head).Config), ("needs", Needs), ("optimizers", dict)):
        ensure_type(f"{name}: {attribute}", getattr(head, attribute, None), kind)
    ours = {id(param) for param in head.parameters()}
    for key, optimizer in head.optimizers.items():
        where, kind = f"{name}: optimizers[{key!r}]", type(optimizer)
        found = f"{kind.__module__}.{kind.__name__}"
        ensure(isinstance(optimizer, Optimizer), where, found, "worldrl.nn.optim.Optimizer")
        ensure(key != "model", where, "the name of the belief model's optimiser", "another one")
        owned = all(id(param) in ours for param in optimizer.params)
        ensure(owned, where, "parameters that the head does not have and would not save", "its own")


def _phases(name: str, head: Any) -> list[str]:
    """The phases of the first updates, each once; they must be text and depend only on the update's number."""
    where = f"{name}: phase(n)"
    phases, again = ([call(where, head.phase, n) for n in range(UPDATES)] for _ in range(2))
    for phase in phases:
        ensure(isinstance(phase, str), where, repr(phase), "text")
        taken = phase == MODEL_ONLY or phase.endswith(HEAD_ONLY)
        ensure(not taken, where, f"'{phase}', a name that the agent uses itself", "another one")
        k = call(f"{name}: particles('{phase}')", head.particles, phase)
        ensure(isinstance(k, int) and k >= 0, f"{name}: particles('{phase}')", repr(k), "0, 1, 2, ...")
    ensure(phases == again, where, "another name at the second call", "one that depends only on n, or no run resumes")
    return list(dict.fromkeys(phases))


def _check_acts(name: str, head: Any, actions: Actions) -> None:
    for explore in (True, False):
        for particles in (0, PARTICLES):
            where = f"{name}: act(belief, explore={explore}) with {particles} particles"
            belief = random_belief(BATCH, particles=particles)
            belief = belief._replace(feat=20.0 * belief.feat, context=20.0 * belief.context)
            check_act(where, partial(head.act, belief, explore), actions)


def _check_update(where: str, make: Make, phase: str, actions: Actions) -> None:
    """Check what one update returns and what it must not change, on slices of the fewest rows, and of six or more."""

    def update(inputs: _Inputs) -> Metrics:
        return call(where, make().update, phase, *inputs)

    for rows in (make().needs.rows, 0):
        inputs = _inputs(make(), phase, actions, rows)
        with unchanged(where, inputs.tensors()):
            first = update(inputs)
        check_metrics(where, first)
        ensure(any(key.startswith("loss/") for key in first), where, f"{sorted(first)}", "loss/<name> among them")
        left = any(param.grad is not None for param in inputs.model.parameters())
        ensure(not left, where, "gradients left in the belief model", "gradients only for the head's parameters")
    check_repeats(where, first, update(inputs))
    for batch in inputs.batches():  # the action of a first row belongs to the previous episode
        batch.reward.add_(50.0 * batch.is_first)
        batch.action.add_(0.5 * batch.is_first[..., None])
    check_alike(where, first, update(inputs), "with another reward or action of a first row", "that pair to be masked")


def _check_learns(name: str, head: Any, other: Any, phases: Sequence[str], actions: Actions) -> None:
    """Check that a round of updates changes the head, and that everything is saved."""

    def update(head: Any, phase: str = phases[0]) -> Metrics:
        return call(f"{name}: update('{phase}')", head.update, phase, *_inputs(head, phase, actions))

    done = ", ".join(phases)
    before = {param: param.detach().clone() for param in head.parameters()}
    for phase in phases:
        update(head, phase)
    changed = {param for param, was in before.items() if not same(param, was)}
    ensure(bool(changed), f"{name}: update", f"no parameter changed by {done}", "optimisers to step")
    for key, optimizer in head.optimizers.items():
        steps = not changed.isdisjoint(optimizer.params)
        ensure(steps, f"{name}: optimizers[{key!r}]", f"no step in {done}", "one that changes something")
    check_saves(name, head, other, update)
    ours, theirs = ({key: param.detach() for key, param in each.named_parameters()} for each in (head, other))
    check_alike(name, ours, theirs, "an update after saving and loading", "all state in parameters and buffers")
