"""MIRL, soft Q-learning and DQN: updates compared with their oracle, limits that connect them, and tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.conftest import STATE_SPEC
from tests.oracles import mirl as oracle
from tests.oracles.rssm import RSSM as RSSMOracle
from tests.oracles.side_by_side import compare, plain_agent, random_rows
from worldrl.agent import Agent
from worldrl.config import config_from_dict
from worldrl.errors import UserError
from worldrl.heads.dqn import DQN
from worldrl.heads.mirl import MIRL
from worldrl.heads.soft_q import SoftQ
from worldrl.heads.transitions import Steps, Transition
from worldrl.registry import tiny_settings
from worldrl.types import Belief, BeliefModel, Sizes, choice

A, S, GAMMA = 3, 4, 0.9
SPEC = STATE_SPEC._replace(actions=choice(A), terminates=True)
NO_MODEL = BeliefModel()


def agent(head: str, belief: str = "identity", **settings: Any) -> Agent:
    torch.manual_seed(0)
    parts = {"belief": belief, **tiny_settings("belief", belief), "head": head, **tiny_settings("head", head)}
    of_head = {f"head.{key}": value for key, value in settings.items()}
    return Agent(config_from_dict({**parts, "device": "cpu", **of_head}), SPEC)


# --- whole updates ----------------------------------------------------------------------------------------------------

ORACLES = {"dqn": oracle.DQN, "soft_q": oracle.SoftQ, "mirl": oracle.MIRL}
RATES = {"prior_rate": 0.2, "beta_rate": 0.1, "loss_rate": 0.3}


@pytest.mark.parametrize(
    ("head", "settings"),
    [
        ("dqn", {}),
        ("dqn", {"double": True, "huber": True, "steps": 3}),
        ("soft_q", {"beta": 3.0}),
        ("soft_q", {"beta": 3.0, "double": True, "entropy_bonus": True}),
        ("mirl", RATES),
        ("mirl", {**RATES, "prior_batch": 0, "beta": 0.8, "beta_limits": (0.5, 0.9), "double": True}),
    ],
    ids=str,
)
def test_updates_are_the_oracles(head: str, settings: dict[str, Any]) -> None:
    """Losses, norms, weights, and the buffers: prior, temperature, smoothed loss."""
    whole = agent(head, **settings)
    recent = {"recent": random_rows(SPEC, 9, b=4, t=2)} if whole.head.needs.recent_batch else {}
    compare(whole, plain_agent(whole, ORACLES[head]), [random_rows(SPEC, n) for n in range(4)], recent)


@pytest.mark.parametrize("head", ["dqn", "mirl"])
def test_updates_on_a_world_model_are_the_oracles(head: str) -> None:
    whole = agent(head, "rssm", **(RATES if head == "mirl" else {}))
    recent = {"recent": random_rows(SPEC, 9, b=4)} if whole.head.needs.recent_batch else {}
    compare(whole, plain_agent(whole, ORACLES[head], RSSMOracle), [random_rows(SPEC, n) for n in range(4)], recent)


# --- limits, bit for bit ----------------------------------------------------------------------------------------------


def trained(head: str, **settings: Any) -> tuple[list[Tensor], Tensor]:
    """The weights of Q and Q' after some updates, and what it then does."""
    whole = agent(head, **settings)
    for n in range(6):
        phase = whole.next_phase()
        whole.update(phase, random_rows(SPEC, n), {"recent": random_rows(SPEC, 9, b=4, t=2)})
        whole.updates += 1
    feat = random_rows(SPEC, 7).obs["state"].flatten(0, 1)
    belief = Belief(feat, feat.expand(0, *feat.shape), feat, feat[:, 0])
    return [*whole.head.critic.parameters(), *whole.head.target.parameters()], whole.head.act(belief, True)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("head", ["soft_q", "mirl"])
def test_at_a_large_beta_they_are_dqn_bit_for_bit(head: str, double: bool) -> None:
    fixed = {"prior_rate": 0.0, "beta_rate": 0.0} if head == "mirl" else {}
    (weights, actions), (expected, best) = (
        trained(head, beta=1e9, double=double, **fixed),
        trained("dqn", double=double),
    )
    assert all(map(torch.equal, weights, expected))
    assert torch.equal(actions, best)


@pytest.mark.parametrize("beta", [0.3, 10.0])
def test_with_a_fixed_prior_and_temperature_mirl_is_soft_q_bit_for_bit(beta: float) -> None:
    weights, actions = trained("mirl", beta=beta, prior_rate=0.0, beta_rate=0.0)
    expected, best = trained("soft_q", beta=beta)
    assert all(map(torch.equal, weights, expected))
    assert torch.equal(actions, best)


def test_they_differ_where_they_should() -> None:
    """So that the tests of the limits can fail."""
    dqn, soft, mirl = trained("dqn"), trained("soft_q", beta=1.0), trained("mirl", beta=1.0, prior_rate=0.5)
    assert not all(map(torch.equal, dqn[0], soft[0]))
    assert not all(map(torch.equal, soft[0], mirl[0]))


# --- tables -----------------------------------------------------------------------------------------------------------


class Table(nn.Module):
    """Q of one-hot states as a table, in place of a critic."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Parameter(torch.zeros(S, A, dtype=torch.float64))

    def values(self, feat: Tensor) -> Tensor:
        return (feat @ self.q)[None]


def process(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rewards (S, A) and transition probabilities (S, A, S)."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(S, A)), rng.dirichlet(np.ones(S), (S, A))


def head_on_tables(cls: type[DQN], prior: np.ndarray | None = None, **settings: Any) -> DQN:
    """A head whose Q and Q' are tables, in float64."""
    head = cls(cls.Config(**{"gamma": GAMMA, **settings}), Sizes((S,), (S,), choice(A))).double()
    head.critic, head.target = Table(), Table()
    if prior is not None:
        head.prior.copy_(torch.from_numpy(prior))
    return head


def fixed_point(head: DQN) -> np.ndarray:
    """Q (S, A) where the head's own targets, averaged over the process, are Q."""
    reward, move = process()
    every = torch.eye(S, dtype=torch.float64)[None, None]  # (1, 1, S, S): all next states
    zeros = torch.zeros(1, S, dtype=torch.float64)
    pairs = Transition(every, torch.zeros(1, S, A), zeros, every, zeros, zeros + 1)
    steps = Steps(pairs, torch.full_like(zeros, GAMMA))
    for _ in range(500):
        later = head.td_target(steps)[0, 0].numpy()  # gamma V(s')
        q = torch.from_numpy(reward + move @ later)
        for table in (head.critic, head.target):
            table.q.data.copy_(q)
    return q.numpy()


@pytest.mark.parametrize("beta", [0.5, 2.0, 20.0])
def test_the_target_is_that_of_soft_value_iteration_under_the_prior(beta: float) -> None:
    prior = np.array([0.7, 0.25, 0.05])
    found = fixed_point(head_on_tables(MIRL, prior, beta=beta, beta_rate=0.0))
    np.testing.assert_allclose(found, oracle.soft_values(*process(), GAMMA, prior, beta), atol=1e-9)


def test_a_large_beta_is_within_its_bound_of_the_best_values() -> None:
    """0 <= Q* - Q <= gamma log A / (beta (1 - gamma))."""
    beta = 1e4
    gap = oracle.hard_values(*process(), GAMMA) - fixed_point(head_on_tables(SoftQ, beta=beta))
    assert gap.min() >= -1e-9
    assert gap.max() <= GAMMA * np.log(A) / (beta * (1 - GAMMA)) + 1e-9
    assert gap.max() > 1e-5


def test_a_small_beta_follows_the_prior() -> None:
    """beta to 0: Q of the policy pi_0, solved as a linear system."""
    reward, move = process()
    prior = np.array([0.2, 0.5, 0.3])
    flow = np.einsum("sat,b->satb", move, prior).reshape(S * A, S * A)
    expected = np.linalg.solve(np.eye(S * A) - GAMMA * flow, reward.ravel()).reshape(S, A)
    found = fixed_point(head_on_tables(MIRL, prior, beta=1e-4, beta_rate=0.0))
    assert 0 < np.abs(found - expected).max() < 1e-3


def test_dqn_has_the_best_values() -> None:
    np.testing.assert_allclose(fixed_point(head_on_tables(DQN)), oracle.hard_values(*process(), GAMMA), atol=1e-9)


def test_double_q_chooses_by_one_network_and_evaluates_by_the_other() -> None:
    head = DQN(DQN.Config(double=True), Sizes((S,), (S,), choice(A)))
    q, target = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[5.0, 3.0, 9.0]])
    assert head.double_value(q, target).tolist() == [3.0]


@pytest.mark.parametrize("double", [False, True])
def test_the_entropy_bonus_is_a_constant_in_every_step(double: bool) -> None:
    beta = 2.0
    plain, paid = (
        fixed_point(head_on_tables(SoftQ, beta=beta, entropy_bonus=bonus, double=double)) for bonus in (False, True)
    )
    np.testing.assert_allclose(paid - plain, GAMMA / (1 - GAMMA) * np.log(A) / beta, atol=1e-9)


# --- the prior --------------------------------------------------------------------------------------------------------


def move_prior(head: DQN, counts: list[int]) -> None:
    """A step towards the marginal over one-hot states (1, N, S), each so often."""
    states = torch.eye(S, dtype=torch.float64).repeat_interleave(torch.tensor(counts), 0)[None]
    head.prior.copy_(head.moved_prior(states, torch.ones(states.shape[:2])))
    head.started.fill_(1.0)


@pytest.mark.parametrize("beta", [0.5, 3.0])
def test_the_prior_of_fixed_states_is_that_of_blahut_and_arimoto(beta: float) -> None:
    """Q and the distribution of states fixed, the prior goes where the alternating maximisation goes."""
    head, counts = head_on_tables(MIRL, beta=beta, prior_rate=0.3), [4, 3, 2, 1]
    q = np.random.default_rng(1).normal(size=(S, A))
    head.critic.q.data.copy_(torch.from_numpy(q))
    for _ in range(3_000):
        move_prior(head, counts)
    expected = oracle.blahut_arimoto(q, np.array(counts) / 10, beta)
    np.testing.assert_allclose(head.prior.numpy(), expected, atol=2e-4)  # an action on its way to zero is slow
    assert expected.max() > 0.4


def test_the_prior_stays_a_distribution() -> None:
    whole = agent("mirl", prior_rate=0.3)
    for n in range(50):
        whole.update("update", random_rows(SPEC, n), {"recent": random_rows(SPEC, n + 99, b=4, t=2)})
        prior = whole.head.prior
        assert (prior >= 0).all()
        assert float(prior.double().sum()) == pytest.approx(1.0, abs=1e-6)
    assert prior.max() > 1 / A


def test_the_first_prior_is_the_marginal_of_the_first_policy() -> None:
    whole = agent("mirl", beta=5.0, critic_lr=0.0, beta_rate=0.0)
    recent = random_rows(SPEC, 3, b=4, t=2)
    whole.update("update", random_rows(SPEC, 0), {"recent": recent})
    policy = (5.0 * whole.head.q(recent.obs["state"])).softmax(-1)
    torch.testing.assert_close(whole.head.prior, policy.mean((0, 1)).detach())


@pytest.mark.parametrize("rows", ["newest", "batch"])
def test_rows_in_which_nobody_acts_do_not_move_the_prior(rows: str) -> None:
    """States that end an episode: whatever they show, the prior and what is logged stay the same."""
    found = []
    for shown in (0.0, 100.0):
        whole = agent("mirl", prior_rate=0.5, critic_lr=0.0, prior_batch=4 if rows == "newest" else 0)
        batch = random_rows(SPEC, 3)
        ends = batch.is_terminal[..., None] > 0
        batch = batch._replace(obs={"state": torch.where(ends, shown, batch.obs["state"])})
        metrics = whole.update("update", random_rows(SPEC, 0) if rows == "newest" else batch, {"recent": batch})
        found.append(torch.stack([*whole.head.prior, metrics["policy/entropy"], metrics["policy/information"]]))
    assert ends.any()
    assert torch.equal(*found)


def test_where_every_episode_ends_the_prior_stays() -> None:
    whole, recent = agent("mirl", prior_rate=0.5), random_rows(SPEC, 3)
    over = recent._replace(is_terminal=torch.ones_like(recent.reward))
    for _ in range(2):
        whole.update("update", random_rows(SPEC, 0), {"recent": over})
        torch.testing.assert_close(whole.head.prior, torch.full((A,), 1 / A))


def test_duplicates_of_an_action_keep_their_ratio() -> None:
    """Two columns of Q that are the same: nothing tells the actions apart, so neither gains on the other."""
    head = head_on_tables(MIRL, beta=2.0, prior_rate=0.2)
    q = torch.randn(S, A, dtype=torch.float64)
    q[:, 1] = q[:, 0]
    head.critic.q.data.copy_(q)
    for _ in range(200):
        move_prior(head, [1, 1, 1, 1])
    assert head.prior[0] == pytest.approx(float(head.prior[1]), rel=1e-12)


def test_a_dominated_action_loses_its_prior() -> None:
    head = head_on_tables(MIRL, beta=2.0, prior_rate=0.2)
    q = torch.randn(S, A, dtype=torch.float64)
    q[:, 2] = q.min() - 1.0
    head.critic.q.data.copy_(q)
    for _ in range(500):
        move_prior(head, [1, 1, 1, 1])
    assert head.prior[2] < 1e-6


# --- acting -----------------------------------------------------------------------------------------------------------


def rows(n: int) -> dict[str, np.ndarray]:
    return {"state": np.ones((n, 5), np.float32), "action": np.zeros((n, A), np.float32), "is_first": np.ones(n)}


def test_exploration_is_drawn_from_the_prior_and_the_rest_is_greedy() -> None:
    whole, n, epsilon = agent("mirl"), 40_000, 0.4
    whole.head.prior.copy_(torch.tensor([0.6, 0.3, 0.1]))
    best = whole.act({}, rows(1), explore=True)[1][0]
    found = whole.act({}, rows(n), explore=True, epsilon=epsilon)[1].mean(0)
    expected = epsilon * np.array([0.6, 0.3, 0.1]) + (1 - epsilon) * best
    assert np.abs(found - expected).max() < 4 * np.sqrt(0.25 / n)
    uniform = agent("dqn").act({}, rows(n), explore=True, epsilon=1.0)[1].mean(0)
    assert np.abs(uniform - 1 / A).max() < 4 * np.sqrt(0.25 / n)


def test_an_action_without_prior_is_never_explored() -> None:
    whole = agent("mirl")
    whole.head.prior.copy_(torch.tensor([0.5, 0.0, 0.5]))
    found = whole.act({}, rows(20_000), explore=True, epsilon=1.0)[1].sum(0)
    assert found[1] == 0


def test_the_best_action_is_that_of_the_policy_and_not_of_q() -> None:
    whole = agent("mirl", beta=0.1)
    q = whole.head.q(torch.ones(1, 5))[0]
    best = int(q.argmax())
    prior = torch.full((A,), 0.999)
    prior[best] = 1e-6
    whole.head.prior.copy_(prior / prior.sum())
    assert whole.act({}, rows(1), explore=False)[1][0].argmax() != best


def test_acting_leaves_every_buffer_unchanged() -> None:
    whole = agent("mirl")
    before = {name: value.clone() for name, value in whole.head.state_dict().items()}
    for explore in (True, False):
        whole.act({}, rows(9), explore, epsilon=0.5)
    after = whole.head.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_beta_stays_within_its_limits() -> None:
    whole = agent("mirl", beta=1.0, beta_rate=1.0, beta_scale=1.0, beta_limits=(0.5, 2.0))
    batch = random_rows(SPEC, 0)
    for reward, expected in ((1e3, 0.5), (0.0, 2.0)):
        whole.head.loss.zero_()
        whole.head.started.zero_()
        same = batch._replace(reward=torch.full_like(batch.reward, reward))
        with torch.no_grad():
            for p in (*whole.head.critic.parameters(), *whole.head.target.parameters()):
                p.zero_()
        whole.update("update", same, {"recent": random_rows(SPEC, 9, b=4, t=2)})
        assert float(whole.head.beta) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("head", "settings", "where"),
    [
        ("soft_q", {"steps": 2}, "head.steps"),
        ("mirl", {"steps": 2}, "head.steps"),
        ("mirl", {"entropy_bonus": True, "prior_rate": 0.0}, "head.entropy_bonus"),
        ("mirl", {"entropy_bonus": True, "beta_rate": 0.0}, "head.entropy_bonus"),
        ("mirl", {"beta": 2e3}, "head.beta"),
        ("mirl", {"beta": 0.5, "beta_limits": (1.0, 2.0)}, "head.beta"),
        ("mirl", {"beta_limits": (2.0, 1.0)}, "head.beta_limits"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(head: str, settings: dict[str, Any], where: str) -> None:
    with pytest.raises(UserError) as refused:
        agent(head, **settings)
    assert refused.value.where == where
    assert refused.value.expected


def test_what_stays_fixed_goes_together() -> None:
    agent("mirl", beta=2e3, beta_rate=0.0)
    agent("mirl", entropy_bonus=True, beta_rate=0.0, prior_rate=0.0)
