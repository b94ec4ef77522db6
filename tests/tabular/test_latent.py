"""SMAC's appendix D and the bounds of appendix B.2, summed exactly."""

from __future__ import annotations

import itertools
import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import norm

from worldrl.tabular.latent import (
    Chain,
    LatentPolicy,
    Targets,
    conditional_entropy,
    entropy,
    filtered,
    log_likelihood,
    naive_entropy,
    naive_excess,
    nested_entropy,
    recursive_belief,
    sequence_bound,
    smoothing_steps,
    universal_distance,
)


@pytest.fixture(params=range(3))
def policy(request: pytest.FixtureRequest) -> LatentPolicy:
    rng = np.random.default_rng(request.param)
    return LatentPolicy(rng.dirichlet(np.ones(3)), rng.dirichlet(0.5 * np.ones(4), 3) * 0.999 + 0.001 / 4)


def test_the_nested_estimate_is_summed_over_all_draws(policy: LatentPolicy) -> None:
    """Against every sequence of latents, one by one."""
    q, pi = policy
    for particles in (0, 1, 3):
        total = 0.0
        for draws in itertools.product(range(3), repeat=particles + 1):
            chance = math.prod(q[s] for s in draws)
            for a in range(4):
                total -= chance * pi[draws[0], a] * math.log(sum(pi[s, a] for s in draws) / (particles + 1))
        assert nested_entropy(policy, particles) == pytest.approx(total, abs=1e-12)


def test_proposition_3_a_lower_bound_that_rises_to_the_entropy(policy: LatentPolicy) -> None:
    values = [nested_entropy(policy, k) for k in range(12)]
    assert values[0] == pytest.approx(conditional_entropy(policy))
    assert all(a < b for a, b in pairwise(values))
    assert values[-1] < entropy(policy)
    gaps = [entropy(policy) - nested_entropy(policy, k) for k in (16, 32, 64)]
    assert gaps[2] < 0.01
    assert gaps[0] / gaps[2] == pytest.approx(4.0, rel=0.35)  # the gap falls as 1 / K


def test_the_entropy_of_the_statement_lacks_its_density(policy: LatentPolicy) -> None:
    """Part (1) prints the sum of -log pi(a | h) over actions, without pi(a | h) before it; eq. 8 has it."""
    p = policy.density()
    assert entropy(policy) == pytest.approx(-sum(x * math.log(x) for x in p))
    assert -np.log(p).sum() > entropy(policy) + 1.0


def test_eqs_9_and_10_for_any_proposal(policy: LatentPolicy) -> None:
    rng = np.random.default_rng(9)
    for proposal in (*(rng.dirichlet(np.ones(3), 4) for _ in range(20)), np.tile(policy.q, (4, 1))):
        bound = naive_entropy(policy, proposal)
        assert bound == pytest.approx(entropy(policy) + naive_excess(policy, proposal), abs=1e-12)
        assert bound > entropy(policy)
    assert naive_entropy(policy, policy.posterior()) == pytest.approx(entropy(policy), abs=1e-12)


def test_the_error_of_eq_9_has_no_bound(policy: LatentPolicy) -> None:
    """As a latent becomes sharp the entropy stays below log A, and the estimate with the prior does not."""
    values = []
    for sharp in (1e-2, 1e-8, 1e-32):
        pi = np.full((2, 2), sharp)
        pi[[0, 1], [0, 1]] = 1 - sharp
        latent = LatentPolicy(np.array([0.5, 0.5]), pi)
        values.append(naive_entropy(latent, np.full((2, 2), 0.5)))
        assert entropy(latent) == pytest.approx(math.log(2))
    assert values[0] < values[1] < values[2]
    assert values[2] > 30


def test_eq_26_rewards_the_information_of_the_latent(policy: LatentPolicy) -> None:
    joint = policy.q[:, None] * policy.pi
    information = (joint * np.log(joint / (policy.q[:, None] * policy.density()))).sum()
    assert entropy(policy) - conditional_entropy(policy) == pytest.approx(information, abs=1e-12)


# --- appendix B.2 -----------------------------------------------------------------------------------------------------

SIGNALS = [0, 1, 1, 0, 1]


@pytest.fixture
def chain() -> Chain:
    rng = np.random.default_rng(4)
    return Chain(rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(3), 3), rng.dirichlet(np.ones(2), 3))


def paths(chain: Chain, signals: list[int]) -> dict[tuple[int, ...], float]:
    """p(s_1 .. s_T, x_1 .. x_T) of every path."""
    found = {}
    for path in itertools.product(range(3), repeat=len(signals)):
        p = chain.first[path[0]] * math.prod(chain.move[a, b] for a, b in pairwise(path))
        found[path] = p * math.prod(chain.emit[s, x] for s, x in zip(path, signals, strict=True))
    return found


def test_likelihood_and_filter_by_enumeration(chain: Chain) -> None:
    joint = paths(chain, SIGNALS)
    assert log_likelihood(chain, SIGNALS) == pytest.approx(math.log(sum(joint.values())), abs=1e-12)
    last = [sum(p for path, p in joint.items() if path[-1] == s) for s in range(3)]
    np.testing.assert_allclose(filtered(chain, SIGNALS)[-1], np.array(last) / sum(last), atol=1e-12)


def test_eqs_20_to_22_are_a_bound_that_looking_ahead_reaches(chain: Chain) -> None:
    truth, best = log_likelihood(chain, SIGNALS), smoothing_steps(chain, SIGNALS)
    assert sequence_bound(chain, SIGNALS, best) == pytest.approx(truth, abs=1e-12)
    alone = sequence_bound(chain, [1], smoothing_steps(chain, [1]))
    assert alone == pytest.approx(log_likelihood(chain, [1]), abs=1e-12)
    rng = np.random.default_rng(5)
    for _ in range(50):
        steps = [rng.dirichlet(np.ones(3), 3) for _ in SIGNALS]
        steps[0] = np.tile(steps[0][0], (3, 1))
        assert sequence_bound(chain, SIGNALS, steps) < truth


def test_the_best_q_that_sees_no_future_does_not_reach_it(chain: Chain) -> None:
    """Eq. 4's q(s_t | s_{t-1}, a_{t-1}, x_t) is the posterior only of the last step."""
    steps = [chain.move * chain.emit[:, x] for x in SIGNALS]
    steps = [step / step.sum(-1, keepdims=True) for step in steps]
    first = chain.first * chain.emit[:, SIGNALS[0]]
    steps[0] = np.tile(first / first.sum(), (3, 1))
    assert sequence_bound(chain, SIGNALS, steps) < log_likelihood(chain, SIGNALS) - 1e-3


def test_eq_7_is_not_bayes_rule(chain: Chain) -> None:
    """With the true transition given the signal, what the signal says of the state before it is lost."""
    right, found = filtered(chain, SIGNALS), recursive_belief(chain, SIGNALS)
    np.testing.assert_allclose(found.sum(-1), 1.0)
    np.testing.assert_allclose(found[0], right[0])
    assert np.abs(found[1:] - right[1:]).max() > 0.01


def test_by_eq_7_nobody_learns_from_a_state_that_stands_still() -> None:
    """The tiger's place while one listens: p(s_t | s_{t-1}, x_t) leaves the belief as it was."""
    tiger = Chain(np.array([0.5, 0.5]), np.eye(2), np.array([[0.85, 0.15], [0.15, 0.85]]))
    assert recursive_belief(tiger, [0, 0, 0])[-1] == pytest.approx([0.85, 0.15])  # of the first signal only
    assert filtered(tiger, [0, 0, 0])[-1][0] == pytest.approx(0.85**3 / (0.85**3 + 0.15**3))


# --- appendix D.1 -----------------------------------------------------------------------------------------------------


def test_proposition_1_the_distance_falls_below_two_over_n() -> None:
    found = [universal_distance(n) for n in (1, 2, 4, 8, 16)]
    assert all(b < 0.6 * a for a, b in pairwise(found))
    assert all(distance < 2 / n for distance, n in zip(found, (1, 2, 4, 8, 16), strict=True))


def test_the_distance_against_sorted_draws() -> None:
    rng = np.random.default_rng(6)
    n, draws = 2, 200_000
    z = rng.normal(size=draws)
    x = np.linspace(-4, 4, 1601)
    made = np.interp(norm.cdf(z), Targets().cdf(x), x) + rng.normal(size=draws) / n
    true = rng.choice([-1.0, 1.0], draws) + 0.2 * rng.normal(size=draws)
    assert universal_distance(n) == pytest.approx(np.abs(np.sort(made) - np.sort(true)).mean(), abs=0.01)


def test_the_constant_of_the_proof_is_half_of_the_right_one() -> None:
    """E|zeta| / n is sqrt(2 / pi) / n, printed 1 / (sqrt(2 pi) n); in two dimensions the mean length passes 1 / n."""
    rng = np.random.default_rng(7)
    zeta = rng.normal(size=(400_000, 3))
    assert np.abs(zeta[:, 0]).mean() == pytest.approx(math.sqrt(2 / math.pi), abs=3e-3)
    assert math.sqrt(2 / math.pi) == pytest.approx(2 / math.sqrt(2 * math.pi))
    assert np.linalg.norm(zeta[:, :2], axis=1).mean() > 1.0
