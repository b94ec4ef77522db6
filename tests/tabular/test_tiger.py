"""The tiger: exact planning in beliefs, and what SMAC's eqs. 13 and 14 make of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.oracles import tabular as oracle
from worldrl.estimators.marginal import marginal_q
from worldrl.tabular.tiger import (
    BAD,
    DEPTH,
    GAMMA,
    GOOD,
    HEAR,
    LISTEN,
    aggregated,
    belief_process,
    beliefs,
    exact_q,
    judge,
    latent_q,
    listening_scale,
    rewards,
)

LEFT = beliefs()


def test_beliefs_are_bayes_rule() -> None:
    assert LEFT[DEPTH] == 0.5
    assert LEFT[DEPTH + 1] == pytest.approx(0.85)
    assert LEFT[DEPTH + 2] == pytest.approx(0.85**2 / (0.85**2 + 0.15**2))
    np.testing.assert_allclose(LEFT + LEFT[::-1], 1.0)


def test_exact_values_are_those_of_the_upper_envelope() -> None:
    """19.3714 at the uniform belief, as published, and an independent solution at others."""
    lines = oracle.tiger_values(GAMMA, HEAR, LISTEN, GOOD, BAD, 240)
    best = exact_q().max(-1)
    assert belief_process().start @ best == pytest.approx(19.3714, abs=1e-4)
    for n in range(-5, 6):
        assert best[DEPTH + n] == pytest.approx(oracle.envelope_value(lines, 1 - LEFT[DEPTH + n]), abs=1e-3)


def test_the_exact_rule_opens_after_two_signals_more() -> None:
    rule = judge(exact_q())
    assert rule.opens_above == pytest.approx(0.96980, abs=1e-5)
    assert rule.value == pytest.approx(exact_q()[DEPTH].max())
    assert rule.wrong == 0.0


def test_what_a_critic_of_known_places_says() -> None:
    np.testing.assert_allclose(latent_q(), [[189.0, 90.0, 200.0], [189.0, 200.0, 90.0]])


def test_one_step_at_the_uniform_belief() -> None:
    """Opening a door: log(e^10 / 2 + e^-100 / 2) = 9.3 by eq. 13, and -45 in the mean."""
    half = np.array([0.5])
    assert aggregated(rewards(), half, "lse")[0] == pytest.approx([-1.0, 9.306853, 9.306853], abs=1e-6)
    assert aggregated(rewards(), half, "mean")[0].tolist() == [-1.0, -45.0, -45.0]
    scaled = np.log(0.5 * np.exp(0.1 * 10.0) + 0.5 * np.exp(0.1 * -100.0)) / 0.1  # at a tenth of the rewards
    assert aggregated(rewards(), half, "lse", 0.1)[0] == pytest.approx([-1.0, scaled, scaled])
    assert exact_q()[DEPTH].argmax() == 0


def test_the_three_aggregates_are_those_of_the_head() -> None:
    """With particles in the proportion of the belief."""
    q, left = latent_q(), np.array([0.75])
    particles = torch.tensor(q[[0, 0, 0, 1]])[None]  # (critics, P, A)
    for how in ("lse", "mean", "min"):
        expected = marginal_q(particles, how)
        np.testing.assert_allclose(aggregated(q, left, how)[0], expected.numpy(), rtol=1e-12)  # type: ignore[arg-type]


def test_every_aggregate_is_above_the_exact_value() -> None:
    """E Q never pays for what is not known, and log E exp Q is above it (Jensen)."""
    exact, mean, top = exact_q(), aggregated(latent_q(), LEFT, "mean"), aggregated(latent_q(), LEFT, "lse")
    assert (exact < mean).all()
    assert (mean <= top + 1e-12).all()


@pytest.mark.parametrize(
    ("scale", "value", "opens_above"),
    [(1e-3, 19.37137, 0.96980), (0.05, -73.58974, 0.85), (0.07, -900.0, 0.5), (1.0, -900.0, 0.5), (10.0, -900.0, 0.5)],
)
def test_log_mean_exp_opens_too_early_and_more_so_with_larger_rewards(
    scale: float, value: float, opens_above: float
) -> None:
    rule = judge(aggregated(latent_q(), LEFT, "lse", scale))
    assert rule.value == pytest.approx(value, abs=1e-4)
    assert rule.opens_above == pytest.approx(opens_above, abs=1e-4)


def test_the_scale_at_which_log_mean_exp_stops_listening() -> None:
    """e^(11 x) + e^(-99 x) = 2."""
    x = listening_scale()
    assert x == pytest.approx(0.062924, abs=1e-6)
    assert np.exp(11 * x) + np.exp(-99 * x) == pytest.approx(2.0)


def test_the_mean_acts_as_the_exact_plan_here_and_its_values_do_not() -> None:
    rule = judge(aggregated(latent_q(), LEFT, "mean"))
    assert rule.wrong == 0.0
    assert rule.value == pytest.approx(19.37137, abs=1e-4)
    assert rule.bias == pytest.approx(169.6286, abs=1e-3)


def test_the_mean_opens_above_nine_tenths_however_good_the_ear_is() -> None:
    """The exact plan listens once more where that is worth it."""
    for hear, value, exact in ((0.95, 33.58974, 43.15107), (0.8, 1.68506, 8.96684)):
        left = beliefs(hear, 80)
        found = judge(aggregated(latent_q(), left, "mean"), hear, 80)
        assert found.value == pytest.approx(value, abs=1e-4)
        assert judge(exact_q(hear, 80), hear, 80).value == pytest.approx(exact, abs=1e-4)
        assert found.opens_above > 0.9


def test_the_minimum_never_opens() -> None:
    rule = judge(aggregated(latent_q(), LEFT, "min"))
    assert rule.opens_above == 1.0
    assert rule.value == pytest.approx(LISTEN / (1 - GAMMA))
