"""Is a class of your own a policy that the package can run?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from worldrl.nn.functional import tanh_log_det
from worldrl.testing.calls import Make, call, ensure, ensure_type, maker
from worldrl.testing.inputs import ACTIONS, BATCH, FEAT, KINDS, PARTICLES
from worldrl.testing.rules import (
    check_act,
    check_actions,
    check_alike,
    check_repeats,
    check_saves,
    check_tensors,
    close,
    load,
)
from worldrl.types import Actions, Draw

NETWORK = (8, 2, "elu")  # units, layers and activation that a head passes to its policy
GRID, REACH = 200, 8.0  # points per action dimension, and standard deviations to each side, for integrating a density


def check_policy(policy: type | str, **settings: Any) -> None:
    """Check a policy class, or the one behind a name or ``"module:Class"``, with these settings of its ``Config``.

    Raises:
        UserError: what is wrong, in one line.
    """
    cls, name, config = load("policy", policy, settings)
    with torch.random.fork_rng(devices=[]):
        kinds = [kind for kind in KINDS if kind.kind in cls.actions]
        ensure(bool(kinds), f"{name}: actions", repr(cls.actions), "box, choice or both")
        for kind in kinds:
            _check_kind(f"{name} on a {kind.kind}", maker(name, cls, config, (FEAT,), kind, *NETWORK), kind)


def _check_kind(name: str, make: Make, actions: Actions) -> None:
    """Check a policy on one kind of action."""
    exact, expected = make().exact_density, "True, or False if log_prob is a bound"
    ensure(isinstance(exact, bool), f"{name}: exact_density", repr(exact), expected)
    for lead in ((BATCH,), (2, BATCH, 4)):
        _check_draws(name, make(), actions, lead)
    _check_density(name, make(), actions)
    x = torch.ones(BATCH, FEAT)
    check_saves(name, make(0), make(1), lambda policy: {"action of sample": _sample(name, policy, x).action})


def _sample(name: str, policy: Any, x: Tensor, *noise: Any) -> Draw:
    where = f"{name}: sample(x{', noise' if noise else ''}) with x of shape {tuple(x.shape)}"
    draw = call(where, policy.sample, x, *noise)
    ensure_type(where, draw, Draw)
    return draw


def _check_draws(name: str, policy: Any, actions: Actions, lead: tuple[int, ...]) -> None:
    """Check all that a policy does in the states ``x`` (*lead, F), except its density."""
    torch.manual_seed(1)
    x = torch.randn(*lead, FEAT)
    _check_sample(name, policy, x, actions)
    if lead == (BATCH,):
        check_act(f"{name}: act(x, noise)", partial(policy.act, x), actions, detached=False)
    _check_given_noise(name, policy, x)
    _check_mode(name, policy, x, actions)


def _check_sample(name: str, policy: Any, x: Tensor, actions: Actions) -> None:
    """Check shapes, ranges, weights and gradients of draws."""
    draw, where, lead = _sample(name, policy, x), f"{name}: sample(x) with x of shape {tuple(x.shape)}", x.shape[:-1]
    _check_draw(where, draw, lead)
    check_actions(f"{where}: action", draw.action, actions)
    meant, law = (draw.raw.tanh(), "tanh of raw") if actions.kind == "box" else (draw.raw, "raw, one-hot rows")
    ensure(torch.allclose(draw.action, meant, atol=1e-5), f"{where}: action", f"that it is not {law}", law)
    if isinstance(draw.penalty, Tensor):
        check_tensors(where, draw._asdict(), {"penalty": lead}, detached=False)
    for key, value in (("action", draw.one()), ("log_prob", draw.log_prob)):
        ensure(value.requires_grad, f"{where}: {key}", "no gradient to its parameters", "reparameterised draws")
    check_repeats(where, {"action": draw.action}, {"action": _sample(name, policy, x).action})


def _check_given_noise(name: str, policy: Any, x: Tensor) -> None:
    noise, where = call(f"{name}: noise(x, 3)", policy.noise, x, 3), f"{name}: sample(x, noise(x, 3))"
    draw = _sample(name, policy, x, noise)
    _check_draw(where, draw, x.shape[:-1])
    again = call(where, policy.sample, x, noise, seed=3)
    check_alike(where, {"action": draw.action}, {"action": again.action}, "from the same noise", "no other noise")


def _check_mode(name: str, policy: Any, x: Tensor, actions: Actions) -> None:
    where = f"{name}: mode(x)"
    mode = call(where, policy.mode, x)
    check_tensors(where, {"action": mode}, {"action": (*x.shape[:-1], ACTIONS)}, detached=False)
    check_actions(where, mode, actions)
    check_alike(where, {"action": mode}, {"action": call(where, policy.mode, x, seed=1)}, "at a second call", "no draw")


def _check_draw(where: str, draw: Draw, lead: Sequence[int]) -> None:
    lead = (len(draw.action), *lead)
    shapes = {"action": (*lead, ACTIONS), "raw": (*lead, ACTIONS), "log_prob": lead}
    check_tensors(where, draw._asdict(), shapes, detached=False)
    weight = draw.weight if isinstance(draw.weight, Tensor) else torch.full(lead, float(draw.weight))
    check_tensors(where, {"weight": weight}, {"weight": lead}, detached=False)
    ones = torch.allclose(weight.sum(0), torch.ones(lead[1:]), atol=1e-4) and bool((weight >= 0).all())
    total = f"{lead[0]} draws whose weights sum to {float(weight.detach().sum(0).flatten()[0]):g}"
    ensure(ones, f"{where}: weight", total, "1, and none below zero")


@torch.no_grad()
def _check_density(name: str, policy: Any, actions: Actions) -> None:
    """Check that ``log_prob`` broadcasts and, if it is exact, agrees with that of ``sample`` and integrates to one."""
    torch.manual_seed(1)
    x = torch.randn(PARTICLES, 1, BATCH, FEAT)  # the first of them made the draws, (M, B, A)
    draw, where = _sample(name, policy, x[0, 0]), f"{name}: log_prob(raw, x)"
    densities = call(where, policy.log_prob, draw.raw, x)
    lead = torch.broadcast_shapes(draw.raw.shape[:-1], x.shape[:-1])
    check_tensors(where, {"density": densities}, {"density": lead})
    with torch.enable_grad():
        fitted = call(where, policy.log_prob, draw.raw, x[0, 0]).requires_grad
    ensure(fitted, where, "no gradient to its parameters", "one: heads fit it to actions")
    if actions.kind == "box":
        _check_inverse(f"{name}: raw_of(action)", policy, draw.raw.clamp(-1.0, 1.0))
    if policy.exact_density:
        same = torch.allclose(densities[0], draw.log_prob, rtol=1e-3, atol=1e-3)
        ensure(same, where, "another value than the log_prob of sample", "the same at the same raw")
        mass = _mass(name, policy, x[0, 0, 0], actions)
        ensure(abs(mass - 1.0) < 0.05, where, f"a density of actions that integrates to {mass:.3f}", "1")


def _check_inverse(where: str, policy: Any, raw: Tensor) -> None:
    """Check that a policy whose density is exact gets numbers back from their tanh."""
    right = close(call(where, policy.raw_of, raw.tanh()), raw) or not policy.exact_density
    ensure(right, where, "another number than the action's own before tanh", "its inverse")


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
