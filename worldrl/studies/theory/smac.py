"""SMAC (Zhang et al., 2023, arXiv 2210.00999): section 3, appendices B and D."""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
import torch

from worldrl.estimators.marginal import elbo, elbo_gap, mlmc, mlmc_fresh, nested, roulette
from worldrl.studies.theory.statements import Bench, Errors, Statement, above, apart
from worldrl.tabular.latent import (
    Chain,
    LatentPolicy,
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
from worldrl.tabular.mdp import Array
from worldrl.tabular.solve import boltzmann, evaluate, expect
from worldrl.tabular.tiger import HEAR, aggregated, beliefs, exact_q, judge, latent_q

PAPER, SIGNALS, ALPHA = "SMAC", [0, 1, 1, 0, 1], 0.3


def latent(x: Bench) -> LatentPolicy:
    """Three latents and four actions."""
    return LatentPolicy(x.rng.dirichlet(np.ones(3)), boltzmann(2 * x.rng.normal(size=(3, 4)), 1.0))


def information(policy: LatentPolicy) -> float:
    """KL of the joint distribution of latent and action from the product of its marginals."""
    joint = policy.q[:, None] * policy.pi
    return float((joint * np.log(joint / (policy.q[:, None] * policy.density()))).sum())


def chain(x: Bench) -> Chain:
    return Chain(x.rng.dirichlet(np.ones(3)), x.rng.dirichlet(np.ones(3), 3), x.rng.dirichlet(np.ones(2), 3))


# --- section 3 --------------------------------------------------------------------------------------------------------


def eq_7(x: Bench) -> Errors:
    """With the true p(s_t | s_{t-1}, x_t); and with the belief in s_{t-1} that x_t has changed too."""
    hidden = chain(x)
    right, repaired = filtered(hidden, SIGNALS), filtered(hidden, SIGNALS[:1])[0]
    for signal in SIGNALS[1:]:
        step = hidden.move * hidden.emit[:, signal]
        before = repaired * step.sum(-1)
        repaired = before / before.sum() @ (step / step.sum(-1, keepdims=True))
    return Errors(apart(recursive_belief(hidden, SIGNALS), right), apart(repaired, right[-1]))


def eqs_9_and_10(x: Bench) -> Errors:
    """For a random proposal, for the posterior, and by the estimators where every latent is drawn once."""
    policy, uniform = latent(x), np.full((4, 3), 1 / 3)
    proposal = x.rng.dirichlet(np.ones(3), 4)
    found = naive_entropy(policy, proposal)
    identity = apart(found, entropy(policy) + naive_excess(policy, proposal))
    at_best = apart(naive_entropy(policy, policy.posterior()), entropy(policy))
    log_pi, log_q, log_uniform, log_marginal = (
        torch.tensor(np.log(each)) for each in (policy.pi, policy.q[:, None], uniform.T, policy.density())
    )
    bound, gap = elbo(log_pi, log_q, log_uniform), elbo_gap(log_pi, log_q, log_uniform, log_marginal)
    estimated = -policy.density() @ bound.numpy(), policy.density() @ gap.numpy()
    exact = naive_entropy(policy, uniform), naive_excess(policy, uniform)
    wrong = apart(np.array(estimated), np.array(exact))
    return Errors(max(identity, above(entropy(policy), found), at_best, wrong))


def _all_draws(policy: LatentPolicy, particles: int) -> tuple[Array, torch.Tensor]:
    """p(s_0 .. s_n, a) and log pi(a | s_k) (n + 1, ...) of every way to draw n = ``particles`` latents."""
    draws = np.array(list(itertools.product(range(len(policy.q)), repeat=particles + 1)))
    chance = policy.q[draws].prod(-1)[:, None] * policy.pi[draws[:, 0]]
    return chance, torch.tensor(np.log(policy.pi)[draws]).movedim(1, 0)


def eq_12(x: Bench) -> Errors:
    """The mean of both multi-level forms over every draw is that of eq. 11 at the same K."""
    policy = LatentPolicy(x.rng.dirichlet(np.ones(2)), boltzmann(2 * x.rng.normal(size=(2, 3)), 1.0))
    found = []
    for estimate, particles in ((mlmc, 4), (mlmc_fresh, 7), (nested, 4)):
        chance, logs = _all_draws(policy, particles)
        found.append(-float((chance * estimate(logs).numpy()).sum()))
    return Errors(apart(np.array(found), nested_entropy(policy, 4)))


def unbiased_levels(x: Bench) -> Errors:
    """Appendix B.3: levels weighted by 1 / P(N >= l) telescope, so that a roulette of L levels has the mean of 2^L."""
    policy = LatentPolicy(x.rng.dirichlet(np.ones(2)), boltzmann(2 * x.rng.normal(size=(2, 3)), 1.0))
    decay, total = 2.0**-1.5, 0.0
    for level, particles in enumerate((1, 3, 7)):
        chance, logs = _all_draws(policy, particles)
        stops = decay**level * (1 - decay) if level < 2 else decay**level
        total -= stops * float((chance * roulette(logs).numpy()).sum())
    return Errors(apart(total, nested_entropy(policy, 4)))


@cache
def belief_values() -> Errors:
    """Eq. 13 against the exact Q of beliefs, on the tiger; and the mean, which head.q_aggregate has too."""
    exact, found = exact_q(), [aggregated(latent_q(), beliefs(), how) for how in ("lse", "mean")]
    return Errors(*(apart(each, exact) for each in found))


@cache
def belief_actions() -> Errors:
    """What is lost by acting on eq. 13, and on the mean, at the uniform belief, with ears of three qualities."""
    lost: dict[str, list[float]] = {"lse": [], "mean": []}
    for hear in (0.8, HEAR, 0.95):
        best = judge(exact_q(hear, 80), hear, 80).value
        for how in ("lse", "mean"):
            found = judge(aggregated(latent_q(), beliefs(hear, 80), how), hear, 80)
            lost[how].append(best - found.value)
    return Errors(max(lost["lse"]), max(lost["mean"]))


@cache
def certain_beliefs() -> Errors:
    """Where the state is known, eq. 13 is its Q."""
    return Errors(apart(aggregated(latent_q(), np.array([1.0, 0.0]), "lse"), latent_q()))


# --- appendix B -------------------------------------------------------------------------------------------------------


def eqs_16_to_19(x: Bench) -> Errors:
    """E[r - alpha log pi] = alpha log Z - alpha KL(pi || p*), p* proportional to exp(r / alpha)."""
    r, pi = x.q[0], x.policy[0]
    left = float(pi @ (r - ALPHA * np.log(pi)))
    log_z = float(np.log(np.exp(r / ALPHA).sum()))
    return Errors(apart(left, ALPHA * log_z - ALPHA * float(pi @ (np.log(pi) - np.log(boltzmann(r, ALPHA))))))


def eqs_20_to_22(x: Bench) -> Errors:
    """A lower bound for any q, which is reached where q looks ahead."""
    hidden = chain(x)
    steps = [x.rng.dirichlet(np.ones(3), 3) for _ in SIGNALS]
    steps[0] = np.tile(steps[0][0], (3, 1))
    truth = log_likelihood(hidden, SIGNALS)
    reached = apart(sequence_bound(hidden, SIGNALS, smoothing_steps(hidden, SIGNALS)), truth)
    return Errors(max(above(sequence_bound(hidden, SIGNALS, steps), truth), reached))


def eq_23(x: Bench) -> Errors:
    """Fixed points of the critic with alpha H outside of gamma, and inside as in eq. 2, against returns of eq. 1."""
    gain = -ALPHA * (x.policy * np.log(x.policy)).sum(-1)
    true = x.mdp.reward + x.mdp.gamma * x.mdp.transition @ evaluate(
        x.mdp._replace(reward=x.mdp.reward + gain[:, None]), x.policy
    )
    found = []
    for weight in (1.0, x.mdp.gamma):
        q = np.zeros_like(true)
        for _ in range(400):
            ahead = x.mdp.gamma * expect(x.policy, q) + weight * gain
            q = x.mdp.reward + x.mdp.transition @ ahead
        found.append(apart(q, true))
    return Errors(*found)


def eq_26(x: Bench) -> Errors:
    """With beta = alpha the two entropies are the information that the latent has of the action."""
    policy = latent(x)
    return Errors(apart(entropy(policy) - conditional_entropy(policy), information(policy)))


# --- appendix D -------------------------------------------------------------------------------------------------------


@cache
def proposition_1() -> Errors:
    found = [universal_distance(n) for n in (1, 2, 4, 8)]
    return Errors(max(above(d, 2 / n) for d, n in zip(found, (1, 2, 4, 8), strict=True)) + above(found[-1], found[0]))


@cache
def coupling() -> Errors:
    """n times the mean length of the proof's noise: printed 1 / sqrt(2 pi)."""
    z = np.linspace(0.0, 12.0, 240_001)
    right = float(2 * (z * np.exp(-(z**2) / 2)).sum() * z[1] / math.sqrt(2 * math.pi))
    return Errors(abs(right - 1 / math.sqrt(2 * math.pi)), abs(right - math.sqrt(2 / math.pi)))


@cache
def dimensions() -> Errors:
    """The same in four dimensions: printed below 1; at most sqrt(d)."""
    return Errors(above(_mean_length(4), 1.0), above(_mean_length(4), math.sqrt(4)))


def _mean_length(d: int) -> float:
    """E ||zeta||, zeta ~ N(0, 1) in d dimensions."""
    return math.sqrt(2) * math.gamma((d + 1) / 2) / math.gamma(d / 2)


def proposition_3(x: Bench) -> Errors:
    """Below the entropy, rising with K, and within C / K of it."""
    policy = latent(x)
    values = np.array([nested_entropy(policy, k) for k in (0, 1, 2, 4, 8, 16)])
    gaps = entropy(policy) - values
    falls = above(gaps[5] * 16, 1.5 * gaps[4] * 8)
    return Errors(max(above(values, entropy(policy)), above(values[:-1] - values[1:], 0.0), falls))


def printed_entropy(x: Bench) -> Errors:
    """The right side of part (1) without and with pi(a | h), against the entropy by its parts."""
    policy = latent(x)
    log_p = np.log(policy.density())
    true = conditional_entropy(policy) + information(policy)
    return Errors(apart(-log_p.sum(), true), apart(-policy.density() @ log_p, true))


STATEMENTS = (
    Statement(
        PAPER,
        "eq. 7",
        "q(s_t | x_1..t) from q(s_{t-1} | x_1..t-1)",
        "from the belief in s_{t-1} given x_t too, if it is to be the posterior",
        eq_7,
    ),
    Statement(PAPER, "eqs. 9 and 10", "eq. 9 is the entropy plus E KL(q~ || posterior), for any q~", "", eqs_9_and_10),
    Statement(PAPER, "eq. 12", "both multi-level forms have the mean of eq. 11", "", eq_12),
    Statement(
        PAPER, "appendix B.3, roulette", "a random level with weights has the mean of all levels", "", unbiased_levels
    ),
    Statement(
        PAPER, "eq. 13, known state", "log E exp Q is Q where the state is known", "", lambda x: certain_beliefs()
    ),
    Statement(
        PAPER,
        "eq. 13, value",
        "log E exp Q(s, a) is the value of a belief",
        "no: it is above E Q, which is above it (tiger; second number: E Q)",
        lambda x: belief_values(),
    ),
    Statement(
        PAPER,
        "eqs. 13 to 15, action",
        "acting on it is best",
        "no: it does not listen; E Q loses less (tiger; second number: E Q)",
        lambda x: belief_actions(),
    ),
    Statement(PAPER, "eqs. 16 to 19", "maximum entropy is a reverse divergence, scaled by alpha", "", eqs_16_to_19),
    Statement(PAPER, "eqs. 4, 20 to 22", "a bound, reached by a q that looks ahead", "", eqs_20_to_22),
    Statement(PAPER, "eqs. 23 and 25", "r + gamma Q' + alpha H", "r + gamma (Q' + alpha H), as in eq. 2", eq_23),
    Statement(PAPER, "eq. 26", "with beta = alpha: the information of the latent in the action", "", eq_26),
    Statement(PAPER, "proposition 1", "the distance is at most 2 / n (one dimension)", "", lambda x: proposition_1()),
    Statement(
        PAPER, "appendix D.1", "n E|x - x'| = 1 / sqrt(2 pi)", "sqrt(2 / pi), in one dimension", lambda x: coupling()
    ),
    Statement(
        PAPER,
        "appendix D.1, d > 1",
        "n E||x - x'|| < 1 in every dimension",
        "at most sqrt(d); the limit stays",
        lambda x: dimensions(),
    ),
    Statement(PAPER, "proposition 3", "eq. 27 rises with K to the entropy, from below", "", proposition_3),
    Statement(
        PAPER,
        "proposition 3 (1)",
        "H = -integral of log pi(a | h)",
        "-integral of pi(a | h) log pi(a | h), as in eq. 8",
        printed_entropy,
    ),
)
