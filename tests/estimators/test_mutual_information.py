"""The bounds against the oracle of finite processes: theorem 4.1, eq. 15 by finite differences, what float32 allows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.oracles import misa as oracle
from worldrl.estimators.mutual_information import (
    LIMIT,
    NORMALISERS,
    barber_agakov,
    bounds,
    exp_or_tangent,
    log_partition,
)

KNOWN = (  # p(s, a), pi, T
    np.array([[0.45, 0.05], [0.1, 0.4]]),
    np.full((2, 2), 0.5),
    np.array([[1.0, 0.0], [0.0, 2.0]]),
)


def process(seed: int, s: int = 3, a: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """p(s, a), pi and T."""
    rng = np.random.default_rng(seed)
    policy = rng.dirichlet(np.ones(a), s)
    return rng.dirichlet(np.ones(s * a)).reshape(s, a), policy, 2 * rng.standard_normal((s, a))


def ours(joint: np.ndarray, policy: np.ndarray, energy: np.ndarray) -> dict[str, float]:
    found = bounds(*map(torch.from_numpy, (joint, policy, energy)))
    return {name: float(value) for name, value in found._asdict().items()}


def test_the_known_case() -> None:
    known = {"information": 0.275396, "misa": 0.218044, "dv": 0.137474, "f": 0.131481, "ba": -0.005008}
    assert ours(*KNOWN) == pytest.approx(known, abs=1e-6)


@pytest.mark.parametrize("seed", range(50))
def test_the_bounds_are_the_oracles_and_their_gaps_are_not_negative(seed: int) -> None:
    joint, policy, energy = process(seed)
    found, gaps = ours(joint, policy, energy), oracle.gaps(joint, policy, energy)
    assert found.pop("information") == pytest.approx(oracle.information(joint), abs=1e-12)
    assert found == pytest.approx(oracle.bounds(joint, policy, energy), abs=1e-12)
    steps = (oracle.information(joint) - found["misa"], found["misa"] - found["dv"], found["dv"] - found["f"])
    assert steps == pytest.approx((gaps["misa"], gaps["dv"], gaps["f"]), abs=1e-12)
    assert min(gaps.values()) >= 0


def test_the_best_energy_makes_them_tight() -> None:
    joint, policy, _ = process(0)
    best = np.log(joint / joint.sum(1, keepdims=True) / policy)
    truth = oracle.information(joint)
    found, shifted = ours(joint, policy, best), ours(joint, policy, best + 1)
    assert [found["misa"], found["dv"], shifted["f"], shifted["misa"]] == pytest.approx([truth] * 4, abs=1e-12)
    assert found["f"] < truth - 1e-3


@pytest.mark.parametrize("bound", NORMALISERS)
@pytest.mark.parametrize("seed", range(3))
def test_the_score_form_is_the_gradient_of_the_bound_by_finite_differences(bound: str, seed: int) -> None:
    """Eq. 15, and its weights of states under DV and f; the policy is the softmax of ``logits``."""
    joint, policy, energy = process(seed)
    logits = torch.from_numpy(np.log(policy)).requires_grad_()
    log_pi = logits.log_softmax(1)
    p, log_weight = torch.from_numpy(joint.sum(1)), log_pi.detach()
    log_z = log_partition(torch.from_numpy(energy), log_weight, 1)
    tilted = (
        NORMALISERS[bound].slope(log_z, p)[:, None] * (log_weight + torch.from_numpy(energy) - log_z[:, None]).exp()
    )
    score = (torch.from_numpy(joint) * log_pi).sum() - (p[:, None] * tilted * log_pi).sum()
    (found,) = torch.autograd.grad(score, logits)
    differences = np.zeros_like(policy)
    for index in np.ndindex(*policy.shape):
        ends = []
        for step in (1e-5, -1e-5):
            moved = np.log(policy)
            moved[index] += step
            moved = np.exp(moved) / np.exp(moved).sum(1, keepdims=True)
            ends.append(oracle.bounds(joint, moved, energy)[bound])
        differences[index] = (ends[0] - ends[1]) / 2e-5
    np.testing.assert_allclose(found.numpy(), differences, atol=1e-8)


@pytest.mark.parametrize("bound", NORMALISERS)
def test_the_slope_is_the_normalisers_derivative(bound: str) -> None:
    p = torch.tensor([0.5, 0.0, 0.2, 0.3], dtype=torch.float64)
    log_z = torch.tensor([1.0, 300.0, -2.0, 2.0], dtype=torch.float64, requires_grad=True)
    normaliser = NORMALISERS[bound]
    (gradient,) = torch.autograd.grad(normaliser.value(log_z, p), log_z)
    torch.testing.assert_close(gradient, p * normaliser.slope(log_z.detach(), p))
    assert gradient[1] == 0


@pytest.mark.parametrize("bound", NORMALISERS)
def test_nothing_overflows_and_no_state_is_no_loss(bound: str) -> None:
    normaliser = NORMALISERS[bound]
    for p in (torch.full((4,), 0.25), torch.zeros(4)):
        log_z = torch.tensor([1e3, -1e3, 90.0, 0.0], requires_grad=True)
        value = normaliser.value(log_z, p)
        (gradient,) = torch.autograd.grad(value, log_z)
        for x in (value, gradient, normaliser.slope(log_z, p)):
            assert torch.isfinite(x).all()
        assert p.any() or (value == 0 and not gradient.any())


def test_beyond_its_limit_the_exponential_is_its_tangent() -> None:
    x = torch.tensor([-3.0, LIMIT, LIMIT + 2.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(exp_or_tangent(x).sum(), x)
    top = np.exp(LIMIT)
    assert exp_or_tangent(x).tolist() == pytest.approx([np.exp(-3.0), top, 3 * top])
    assert slope.tolist() == pytest.approx([np.exp(-3.0), top, top])


def test_draws_of_equal_weight_have_the_mean_and_barber_agakov_is_below_the_information() -> None:
    energy = torch.tensor([1.0, 2.0, 3.0])
    assert log_partition(energy, torch.full((3,), -np.log(3.0))).item() == pytest.approx(
        energy.exp().mean().log().item()
    )
    joint, policy, _ = map(torch.from_numpy, process(3))
    assert barber_agakov(joint, policy) < barber_agakov(joint, joint / joint.sum(1, keepdim=True))


@pytest.mark.parametrize("seed", range(4))
def test_the_policy_behind_the_bound_is_the_improved_one(seed: int) -> None:
    """pi* ~ pi exp Q has the largest E Q - KL(pi' | pi), which is log Z; its bound of Barber and Agakov is I_MISA."""
    joint, policy, q = process(seed)
    log_z = np.log((policy * np.exp(q)).sum(1))
    improved = policy * np.exp(q) / np.exp(log_z)[:, None]
    found = [(other * (q - np.log(other / policy))).sum(-1) for other in (improved, process(seed + 100)[1])]
    assert found[0] == pytest.approx(log_z)
    rng = np.random.default_rng(seed)
    near = improved * np.exp(1e-2 * rng.standard_normal((100, *q.shape)))
    near /= near.sum(-1, keepdims=True)
    assert ((near * (q - np.log(near / policy))).sum(-1) < log_z).all()
    assert (found[1] < log_z).all()
    assert ours(joint, policy, q)["misa"] == pytest.approx(ours(joint, improved, 0 * q)["ba"])
