"""The head with a value network against an independent one, on transitions."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from tests.conftest import STATE_SPEC
from tests.heads.test_sac import PlainSAC
from worldrl.beliefs.identity import Identity
from worldrl.errors import UserError
from worldrl.heads.value_sac import ValueSAC

SMALL = ValueSAC.Config(units=16, tau=0.1, reward_scale=3.0, init_alpha=0.4)


def build(config: ValueSAC.Config = SMALL) -> tuple[Identity, ValueSAC]:
    model = Identity(Identity.Config(), STATE_SPEC)
    return model, ValueSAC(config, model.feat_dim, model.context_dim, STATE_SPEC.action_dim)


class PlainValueSAC(PlainSAC):
    """The textbook form on (s, a, r, s', d), by ``torch.distributions`` and separate networks."""

    def __init__(self, head: ValueSAC) -> None:
        super().__init__(head)
        self.value = deepcopy(head.value.nets[0])
        self.old_value = deepcopy(self.value)
        self.value_adam = torch.optim.Adam(self.value.parameters(), lr=3e-4)

    def update(self, s: Tensor, a: Tensor, r: Tensor, s2: Tensor, d: Tensor, noises: list[Tensor]) -> None:
        y = (3.0 * r + 0.99 * (1 - d) * self.old_value(s2)).detach()
        self.step(self.critic_adam, (self.q(self.critics, s, a) - y).square().mean(-1).sum())
        action, log_pi = self.sample(s, noises[0])
        gain = self.q(self.critics, s, action).amin(0) - 0.4 * log_pi
        self.step(self.actor_adam, -gain.mean())
        self.step(self.value_adam, (self.value(s) - gain.detach()).square().mean())
        with torch.no_grad():
            for old, new in zip(self.old_value.parameters(), self.value.parameters(), strict=True):
                old.mul_(0.9).add_(0.1 * new)


def test_updates_are_those_of_an_independent_implementation(make_batch) -> None:
    model, head = build()
    plain = PlainValueSAC(head)
    for _ in range(4):
        batch = make_batch(STATE_SPEC, b=32, t=2)
        batch.is_terminal[3, 1] = 1.0
        belief = model.observe(batch, 0)[0]
        state = torch.get_rng_state()
        noise = torch.randn(1, 32, 1, 2)[0, :, 0]
        torch.set_rng_state(state)
        head.update("update", batch, belief, model)
        s = batch.obs["state"]
        plain.update(s[:, 0], batch.action[:, 1], batch.reward[:, 1], s[:, 1], batch.is_terminal[:, 1], [noise])
    pairs = [
        (head.policy.net, plain.actor),
        (head.value.nets[0], plain.value),
        (head.target.nets[0], plain.old_value),
    ]
    for ours, theirs in pairs:
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    for j in range(2):
        for k, layer in enumerate(m for m in plain.critics[j] if isinstance(m, nn.Linear)):
            torch.testing.assert_close(head.critic.weights[k][j].T, layer.weight, rtol=1e-4, atol=1e-6)


def test_a_row_that_no_transition_touches_changes_nothing(make_batch) -> None:
    ends = []
    for shift in (0.0, 5.0):
        torch.manual_seed(0)
        model, head = build()
        batch = make_batch(STATE_SPEC, b=2, t=4, border=2)
        batch.is_terminal[0, 1] = 1.0
        batch.obs["state"][0, 1] += shift
        batch.reward[0, 2] += shift
        torch.manual_seed(1)
        metrics = head.update("update", batch, model.observe(batch, 0)[0], model)
        ends.append((metrics, [p.clone() for p in head.parameters()]))
    assert all(torch.equal(ends[0][0][key], ends[1][0][key]) for key in ends[0][0])
    assert all(torch.equal(a, b) for a, b in zip(ends[0][1], ends[1][1], strict=True))


def test_a_learned_temperature_follows_the_entropy(make_batch) -> None:
    """It rises where the entropy is below its target, and falls where it is above."""
    for scale, rises in ((-5.0, True), (5.0, False)):
        config = ValueSAC.Config(units=16, tune_alpha=True, target_entropy_scale=scale)
        model, head = build(config)
        batch = make_batch(STATE_SPEC)
        head.update("update", batch, model.observe(batch, 0)[0], model)
        assert (float(head.log_alpha.detach()) > 0) == rises


def test_a_reward_scale_of_zero_is_refused() -> None:
    with pytest.raises(UserError, match=r"head.reward_scale: found 0.0, expected more than 0"):
        ValueSAC.Config(reward_scale=0.0)
