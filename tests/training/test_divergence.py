"""A loss or a gradient that is not finite stops the run and spares the last checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.training.running import STATE, make_trainer
from worldrl.errors import Diverged, UserError
from worldrl.training.loop import Trainer


def trained(run: Path) -> Trainer:
    """A trainer after five updates and a checkpoint."""
    trainer = make_trainer(STATE, run)
    trainer.begin()
    while trainer.agent.updates < 5:
        trainer.tick()
    trainer.save()
    return trainer


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    trainer = trained(tmp_path / "run")
    try:
        good = trainer.checkpoints.latest()
        with torch.no_grad():
            trainer.agent.model.reward_head.linears[0].weight[0, 0] = float("nan")
        with pytest.raises(Diverged, match=r"loss/reward .* update 6\b") as stopped:
            trainer.run()
        assert str(good) in str(stopped.value)
        assert trainer.checkpoints.latest() == good
        trainer.checkpoints.load(good)
        report = json.loads((tmp_path / "run" / "non_finite.json").read_text())
        batch = trainer.experience.replay.window(**report["windows"]["replay"])
        assert batch.reward.shape == (4, 6)
        assert report["draws_not_kept"] == []
    finally:
        trainer.close()


def test_a_gradient_that_is_not_finite_spares_the_good_checkpoint(tmp_path: Path) -> None:
    """Its loss is finite; the next actions are not, the environment refuses them, and that saves."""
    trainer = trained(tmp_path / "run")
    try:
        good = trainer.checkpoints.latest()
        actor = trainer.agent.head.optimizers["actor"]
        step = actor.step
        actor.step = lambda loss: step(loss + float("nan") * next(iter(actor.params)).sum() * 0)
        with pytest.raises(Diverged, match=r"opt/actor/grad_norm .* update 6\b"):
            trainer.run()
        assert trainer.checkpoints.latest() == good
    finally:
        trainer.close()


def test_the_report_of_a_loss_that_is_not_finite_says_which_draws_it_lacks(tmp_path: Path) -> None:
    virel = {"belief": "identity", "head": "virel", "head.temperature": "residual", "head.residual_batch": 64}
    common = {key: value for key, value in STATE.items() if not key.startswith(("belief", "head"))}
    trainer = make_trainer({**common, **virel, "head.units": 16, "eval.every": 0}, tmp_path / "run")
    try:
        with torch.no_grad():
            next(trainer.agent.head.value.parameters()).fill_(float("nan"))
        with pytest.raises(UserError, match=r"update 1\b.*\btd\b"):
            trainer.run()
        assert json.loads((tmp_path / "run" / "non_finite.json").read_text())["draws_not_kept"] == ["td"]
    finally:
        trainer.close()
