"""``check_belief``: what the package ships passes, and each mistake is told by its own message."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.testing.refusal import check_refusal
from worldrl.beliefs.identity import Identity
from worldrl.beliefs.rssm import RSSM
from worldrl.errors import UserError
from worldrl.registry import BELIEFS, load_class
from worldrl.testing import check_belief
from worldrl.types import NOISE, Noise

BELIEF_SETTINGS: dict[str, list[dict[str, Any]]] = {
    "rssm": [{"burn_in": 1}, {"particles": "last_step"}],
    "slac": [{"model_batch": 2}],
}
BELIEF_CASES = [(name, settings) for name in BELIEFS for settings in BELIEF_SETTINGS.get(name, [{}])]


@pytest.mark.parametrize(("name", "settings"), BELIEF_CASES)
def test_shipped_beliefs_pass(name: str, settings: dict[str, Any]) -> None:
    check_belief(name, **{**load_class("belief", name).tiny, **settings})


# --- beliefs with one mistake each ------------------------------------------------------------------------------------

SIZES = {"stoch": 3, "deter": 6, "hidden": 6, "reward_units": 6, "vector_units": 6}


class Model(RSSM):
    """From state vectors only, to be quick."""

    def __init__(self, config: Any, spec: Any) -> None:
        if "pixels" in spec.obs:
            raise UserError("no images")
        super().__init__(config, spec)
        self.scale = 1.0


class RefusesAll(Identity):
    def __init__(self, config: Any, spec: Any) -> None:
        raise UserError("not today")


class NoContextDim(Model):
    def __init__(self, config: Any, spec: Any) -> None:
        super().__init__(config, spec)
        self.context_dim = None


class Frozen(Model):
    def __init__(self, config: Any, spec: Any) -> None:
        super().__init__(config, spec)
        self.gru.requires_grad_(False)


class Unused(Model):
    def __init__(self, config: Any, spec: Any) -> None:
        super().__init__(config, spec)
        self.spare = nn.Linear(1, 1)


class NoLearningRate(Identity):
    def __init__(self, config: Any, spec: Any) -> None:
        super().__init__(config, spec)
        self.layer = nn.Linear(1, 1)


class LosesRows(Model):
    def __init__(self, config: Any, spec: Any) -> None:
        super().__init__(config, spec)
        self.lost_rows = 1


class StepsWithOwnNoise(Model):
    def step(
        self, state: Any, obs: Any, action: Any, is_first: Any, deterministic: bool = False, noise: Noise = NOISE
    ) -> Any:
        return super().step(state, obs, action, is_first, deterministic)


class Observes(Model):
    """``observe`` with something done to what it gives."""

    def observe(self, batch: Any, particles: int, learn: bool = True) -> Any:
        return self.spoil(batch, *super().observe(batch, particles, learn))

    def spoil(self, batch: Any, belief: Any, losses: Any, metrics: Any) -> Any:
        return belief, losses, metrics


class Attached(Observes):
    def spoil(self, batch: Any, belief: Any, losses: Any, metrics: Any) -> Any:
        return belief._replace(feat=belief.feat + self.gru.bias_ih[0]), losses, metrics


class OneParticle(Observes):
    def spoil(self, batch: Any, belief: Any, losses: Any, metrics: Any) -> Any:
        return belief._replace(particles=belief.particles[:1]), losses, metrics


class TwoResults(Observes):
    def spoil(self, batch: Any, belief: Any, losses: Any, metrics: Any) -> Any:
        return belief, losses


class AlwaysLearns(Observes):
    def spoil(self, batch: Any, belief: Any, losses: Any, metrics: Any) -> Any:
        return belief, losses or {"x": torch.zeros(())}, metrics


class DetachedLosses(Observes):
    def spoil(self, batch: Any, belief: Any, losses: Any, metrics: Any) -> Any:
        return belief, {key: value.detach() for key, value in losses.items()}, metrics


class Shifted(Observes):
    def spoil(self, batch: Any, belief: Any, losses: Any, metrics: Any) -> Any:
        return belief._replace(feat=belief.feat + 0.5), losses, metrics


class NumberedNoise(Observes):
    def spoil(self, batch: Any, belief: Any, losses: Any, metrics: Any) -> Any:
        self.scale += 0.00001
        return belief._replace(entropy=belief.entropy * self.scale), losses, metrics


class Unsaved(Observes):
    def __init__(self, config: Any, spec: Any) -> None:
        super().__init__(config, spec)
        self.scale = torch.rand(())

    def spoil(self, batch: Any, belief: Any, losses: Any, metrics: Any) -> Any:
        return belief._replace(entropy=belief.entropy * (1 + 1e-5 * self.scale)), losses, metrics


class NeverResets(Model):
    def step(self, state: Any, obs: Any, prev_action: Any, is_first: Any, *rest: Any) -> Any:
        return super().step(state, obs, prev_action, torch.zeros_like(is_first), *rest)


class ResetsAll(Model):
    def step(self, state: Any, obs: Any, prev_action: Any, is_first: Any, *rest: Any) -> Any:
        return super().step(state, obs, prev_action, is_first.amax() + torch.zeros_like(is_first), *rest)


class ForgetsTheState(Model):
    def step(self, *args: Any) -> Any:
        state, belief = super().step(*args)
        return {"deter": state["deter"]}, belief


class DreamsElsewhere(Model):
    def imagine(self, feat: Any, actor: Any, horizon: int) -> Any:
        return super().imagine(feat + 1, actor, horizon)


class DreamsDetached(Model):
    def imagine(self, feat: Any, actor: Any, horizon: int) -> Any:
        return super().imagine(feat, lambda x: actor(x).detach(), horizon)


class DecodesOther(Model):
    def decode(self, feat: Any) -> Any:
        return {"image": feat}


class ReadsTheLost(Identity):
    imputes = True


BELIEF_MISTAKES = [
    (RefusesAll, "belief RefusesAll", "that it refuses vectors, images and both: not today"),
    (NoContextDim, "belief NoContextDim on state: context_dim", "None"),
    (Frozen, "parameter gru.weight_ih", "that it takes no gradient"),
    (Unused, "parameter spare.weight", "no part in the losses"),
    (NoLearningRate, "Config", "no lr"),
    (LosesRows, "observe(batch, 2, learn=True): feat", "shape (3, 5, 9)"),
    (Attached, "feat", "a tensor with a graph"),
    (OneParticle, "particles", "shape (1, 3, 4, 9)"),
    (TwoResults, "observe", "an object of type tuple"),
    (AlwaysLearns, "observe(learn=False)", "losses ['x']"),
    (DetachedLosses, "observe", "losses without a graph"),
    (StepsWithOwnNoise, "step", "another state"),
    (Shifted, "step", "another feat than observe on the same rows without noise"),
    (NumberedNoise, "observe", "another entropy from the same seed"),
    (Unsaved, "observe", "another entropy after saving and loading"),
    (NeverResets, "step", "after is_first = 1 that depends on the rows before"),
    (ResetsAll, "step", "another belief of a row where another row has is_first = 1"),
    (ForgetsTheState, "step: state", "{'deter': ((3, 3, 6), torch.float32)}"),
    (DreamsElsewhere, "imagine", "another feat at its beginning"),
    (DreamsDetached, "imagine: reward", "no gradient to the actions"),
    (DecodesOther, "decode", "['image']"),
    (ReadsTheLost, "step", "another feat by readings that SEEN says are lost"),
]


@pytest.mark.parametrize(("cls", "where", "found"), BELIEF_MISTAKES, ids=[cls.__name__ for cls, *_ in BELIEF_MISTAKES])
def test_a_belief_with_one_mistake(cls: type, where: str, found: str) -> None:
    check_refusal(check_belief, cls, {} if issubclass(cls, Identity) else SIZES, where, found)
