"""Every belief under every head with every policy: it runs, or it is refused in one line that names the way out."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from tests.conftest import BOTH_SPEC, STATE_SPEC
from tests.oracles.side_by_side import random_rows
from worldrl.agent import Agent
from worldrl.config import config_from_dict
from worldrl.errors import UserError
from worldrl.registry import BELIEFS, HEADS, OWN_POLICY, POLICIES, load_class, takes_policy, tiny_settings
from worldrl.types import Actions, Decodes, EnvSpec, Extra, Imagines, Needs, ObsSpec, Sizes, box, choice

PAIRS = list(product(BELIEFS, HEADS))
KINDS = (box(2), choice(3))
POINTS = ("identity", "stack")  # beliefs that take vectors only, or one observation only


def build(belief: str, head: str, policy: str, spec: EnvSpec) -> Agent | UserError:
    """The agent, or why there is none."""
    parts = (("belief", belief), ("head", head), ("policy", policy))
    tiny = {key: value for kind, name in parts for key, value in tiny_settings(kind, name).items()}
    try:
        return Agent(
            config_from_dict({"belief": belief, "head": head, "policy": policy, "device": "cpu", **tiny}), spec
        )
    except UserError as error:
        return error


def beside(agent: Agent, spec: EnvSpec) -> Extra:
    """Rows for what a head needs in addition to its slice."""
    recent = (spec, 6) if agent.head.needs.recent_obs else (spec._replace(obs={}), 1)
    return {"td": random_rows(spec, 1, b=3), "recent": random_rows(recent[0], 2, b=8, t=recent[1])}


def run(agent: Agent, spec: EnvSpec) -> None:
    """One update of every kind that the first eight may be, then an action."""
    for phase in sorted({agent.head.phase(n) for n in range(8)}):
        metrics = agent.update(phase, random_rows(spec, 0, b=3), beside(agent, spec))
        assert all(value.dim() == 0 and torch.isfinite(value) for value in metrics.values())
    rows = random_rows(spec, 3, b=3, t=1)
    now = {key: value[:, 0].numpy() for key, value in rows.obs.items()}
    now |= {"action": rows.action[:, 0].numpy(), "is_first": rows.is_first[:, 0].numpy()}
    for explore in (True, False):
        _, action, known = agent.act(agent.initial(3), now, explore)
        assert (action.shape, action.dtype) == ((3, spec.action_dim), np.float32)
        assert np.abs(action).max() <= 1
        assert spec.actions.kind == "box" or np.array_equal(np.sort(action), np.eye(spec.action_dim)[[-1] * 3])
        assert not known.feat.requires_grad


def resume(agent: Agent, other: Agent, spec: EnvSpec) -> None:
    """``other`` is loaded with what ``agent`` saves, and continues in the same way."""
    other.load_state_dict(agent.state_dict())
    ends = []
    for one in (agent, other):
        torch.manual_seed(4)
        metrics = one.update(one.next_phase(), random_rows(spec, 5, b=3), beside(one, spec))
        ends.append([*metrics.values(), *one.head.state_dict().values(), *one.model.parameters()])
    assert all(map(torch.equal, *ends))


@pytest.mark.parametrize("actions", KINDS, ids=lambda actions: actions.kind)
@pytest.mark.parametrize("policy", list(POLICIES))
@pytest.mark.parametrize(("belief", "head"), PAIRS)
def test_a_pair_runs_or_is_refused_in_one_line(belief: str, head: str, policy: str, actions: Actions) -> None:
    """What is refused says what it found and what it expected; what runs draws actions of the task's kind."""
    spec = (STATE_SPEC if belief in POINTS else BOTH_SPEC)._replace(actions=actions)
    agent = build(belief, head, policy, spec)
    if isinstance(agent, UserError):
        assert "\n" not in str(agent)
        assert agent.where
        assert agent.found
        assert agent.expected
        assert agent.fix
        assert is_refused(belief, head, policy, actions)
        return
    assert not is_refused(belief, head, policy, actions)
    assert actions.kind in agent.head.needs.actions
    run(agent, spec)
    other = build(belief, head, policy, spec)
    assert isinstance(other, Agent)
    resume(agent, other, spec)


def is_refused(belief: str, head: str, policy: str, actions: Actions) -> bool:
    """Whether it must be, by what the parts say of themselves: kinds of action, dreams, exact densities."""
    drawn, needs = load_class("policy", policy), needs_alone(head, actions)
    dreams = needs.imagine and not isinstance(load_class("belief", belief), Imagines)
    if policy == OWN_POLICY or dreams or actions.kind not in needs.actions:
        return dreams or actions.kind not in needs.actions
    inexact = head in ("smac", "misa") and not drawn.exact_density
    return inexact or not takes_policy(head) or actions.kind not in drawn.actions


def needs_alone(head: str, actions: Actions) -> Needs:
    """What a head with its own policy needs on such actions."""
    settings = {key.partition(".")[2]: value for key, value in tiny_settings("head", head).items()}
    cls = load_class("head", head)
    needs: Needs = cls(cls.Config(**settings), Sizes((5,), (5,), actions)).needs
    return needs


@pytest.mark.parametrize("belief", list(BELIEFS))
@pytest.mark.parametrize("head", ["sac", "smac"])
def test_exact_expectations_run_on_every_belief(belief: str, head: str) -> None:
    spec = (STATE_SPEC if belief in POINTS else BOTH_SPEC)._replace(actions=choice(3))
    agent = build(belief, head, "categorical", spec)
    assert isinstance(agent, Agent)
    assert agent.head.needs.actions == ("choice",)


@pytest.mark.parametrize("head", ["sac", "mirl"])
@pytest.mark.parametrize("belief", list(BELIEFS))
def test_every_belief_takes_a_small_grid(belief: str, head: str) -> None:
    spec = EnvSpec("toy", {"state": ObsSpec((4, 3, 2), "float32")}, choice(3))
    agent = build(belief, head, OWN_POLICY, spec)
    assert isinstance(agent, Agent)
    run(agent, spec)
    if isinstance(agent.model, Decodes):
        assert agent.model.decode(torch.zeros(5, agent.model.feat_dim))["state"].shape == (5, 4, 3, 2)


@pytest.mark.parametrize("belief", list(BELIEFS))
def test_a_screen_in_grey_is_for_the_stack(belief: str) -> None:
    agent = build(belief, "dqn", OWN_POLICY, EnvSpec("toy", {"state": ObsSpec((84, 84, 1), "uint8")}, choice(3)))
    assert isinstance(agent, Agent) == (belief == "stack")
    assert belief == "stack" or "belief=stack" in str(agent)
