"""A trained world model under a new head: what is taken over, what is refused, and that it can stay as it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.errors import refusing
from tests.kills import records
from tests.training.running import STATE, assert_same_run, make_trainer
from worldrl import train
from worldrl.compose import compose
from worldrl.config import config_from_dict, config_to_dict, flatten
from worldrl.errors import UserError
from worldrl.runs.checkpoint import Checkpoints
from worldrl.runs.settings import load_config
from worldrl.training.loop import resume
from worldrl.types import box

HEAD = {"head": "sac", "head.units": 8}
NEW = {k: v for k, v in STATE.items() if not k.startswith(("belief", "head", "env", "task"))} | {
    **HEAD,
    "frames": 2_000,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of SMAC on the RSSM, with an evaluation after its first updates."""
    torch.manual_seed(0)
    return train({**STATE, "frames": 2_200, "eval.every": 1_000}, tmp_path_factory.mktemp("world") / "run")


def weights(run: Path, which: str = "last") -> dict[str, torch.Tensor]:
    checkpoints = Checkpoints(run)
    return checkpoints.load(checkpoints.find(which))["agent"]["model"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("which", ["last", "best"])
def test_a_new_run_starts_with_the_weights_and_in_the_world_of_the_other(
    trained: Path, tmp_path: Path, which: str
) -> None:
    settings = {**NEW, "init_from": str(trained), "init_from_checkpoint": which}
    ours, theirs = compose(settings), load_config(trained)
    assert (ours.belief, ours.env, ours.task) == (theirs.belief, theirs.env, theirs.task)
    trainer = make_trainer(flatten(config_to_dict(ours)), tmp_path / "run")
    trainer.close()
    assert same(trainer.agent.model.state_dict(), weights(trained, which))
    assert trainer.agent.updates == trainer.experience.now == 0


def test_frozen_it_never_changes_and_is_not_trained(trained: Path, tmp_path: Path) -> None:
    run = train({**NEW, "init_from": str(trained), "schedule.model_every": 0}, tmp_path / "run")
    logged = {key for record in records(run) for key in record}
    assert same(weights(run), weights(trained))
    assert {"loss/critic", "loss/actor"} <= logged
    assert not {"loss/state", "loss/kl", "loss/reward", "opt/model/grad_norm"} & logged


def test_by_default_it_learns_on(trained: Path, tmp_path: Path) -> None:
    run = train({**NEW, "init_from": str(trained), "belief.lr": 1e-5}, tmp_path / "run")
    ours, theirs = weights(run), weights(trained)
    assert not same(ours, theirs)
    assert all((ours[name] - theirs[name]).abs().max() < 1e-3 for name in ours)
    assert "loss/state" in {key for record in records(run) for key in record}


@pytest.mark.parametrize("settings", [{"belief.particles": "last_step"}, {"belief.burn_in": 2}])
def test_settings_that_change_no_weight_may_differ(trained: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    composed = compose({**NEW, "init_from": str(trained), **settings})
    trainer = make_trainer(flatten(config_to_dict(composed)), tmp_path / "run")
    trainer.close()
    assert same(trainer.agent.model.state_dict(), weights(trained))


@pytest.mark.parametrize("model_every", [0, 1])
def test_resuming_is_exact_and_needs_the_other_run_no_more(trained: Path, tmp_path: Path, model_every: int) -> None:
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    settings = {**NEW, "init_from": str(other), "schedule.model_every": model_every}
    train({**settings, "frames": 2_400}, tmp_path / "whole")
    train({**settings, "frames": 1_600}, tmp_path / "halves")
    shutil.rmtree(other)
    resume(tmp_path / "halves", {"frames": 2_400})
    assert load_config(tmp_path / "halves").init_from == str(other)
    assert_same_run(tmp_path / "whole", tmp_path / "halves")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"belief": "slac", "replay.length": 12}, "belief: found 'slac', expected 'rssm' as in init_from="),
        ({"belief.deter": 32}, "belief.deter: found 32, expected 16 as in init_from=.*; leave it out"),
        (
            {"env.obs": "both"},
            "found observations pixels 64x64x3, state 5 of cartpole_swingup, expected state 5 of cartpole_swingup, on",
        ),
        ({"task": "acrobot_swingup"}, "found observations state 6 of acrobot_swingup, expected state 5 of"),
        ({"task": "point_mass_easy"}, "found observations state 4 of point_mass_easy, expected state 5 of"),
        ({"init_from_checkpoint": "first"}, "unknown value of init_from_checkpoint 'first'"),
        ({"init_from": ""}, "schedule.model_every: found 0: the belief model never learns, expected init_from=RUN_DIR"),
        ({"schedule.pretrain": 5}, "schedule.pretrain: found 5, expected 0: with schedule.model_every=0"),
        ({"init_from": "nowhere"}, "init_from: no run in 'nowhere'"),
    ],
)
def test_refusals(trained: Path, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        train({**NEW, "init_from": str(trained), "schedule.model_every": 0, **settings}, tmp_path / "run")
    assert "\n" not in str(refused.value)


def test_a_run_without_a_complete_checkpoint_and_a_belief_without_weights_are_refused(
    trained: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    shutil.copytree(trained, half)
    for marker in half.glob("checkpoints/*/COMPLETE.json"):
        marker.unlink()
    with pytest.raises(UserError, match=r"^init_from=.*checkpoints: found only half-written"):
        train({**NEW, "init_from": str(half)}, tmp_path / "run")
    with pytest.raises(UserError, match=r"^init_from=.*no best checkpoint"):
        train({**NEW, "init_from": str(half), "init_from_checkpoint": "best"}, tmp_path / "best")
    point = {k: v for k, v in STATE.items() if not k.startswith(("belief.", "head"))} | {"belief": "identity", **HEAD}
    plain = train({**point, "frames": 1_200}, tmp_path / "plain")
    with pytest.raises(UserError) as refused:
        train({**NEW, "init_from": str(plain)}, tmp_path / "again")
    assert refused.value.where == f"init_from={plain}"
    assert refused.value.found == "belief=identity, which has no weights"


def test_the_action_size_and_the_weights_must_fit(trained: Path, tmp_path: Path) -> None:
    trainer = make_trainer({**STATE, "frames": 100}, tmp_path / "run")
    trainer.close()
    from worldrl.runs import transfer

    config = config_from_dict({**STATE, "init_from": str(trained)})
    trainer.agent.spec = trainer.agent.spec._replace(actions=box(3))
    with pytest.raises(UserError) as refused:
        transfer.load_model(trainer.agent, config)
    assert refused.value.found == "actions box 3 of cartpole_swingup"
    assert refused.value.expected.startswith("box 1 of cartpole_swingup")
    trainer.agent.spec = trainer.agent.spec._replace(actions=box(1))
    trainer.agent.model.continue_head = torch.nn.Linear(2, 1)
    with pytest.raises(UserError) as refused:
        transfer.load_model(trainer.agent, config)
    assert refused.value.where == f"init_from={trained}: weight continue_head.weight"
    assert (refused.value.found, refused.value.expected) == ("shape (1, 2)", "none as in that run")


# --- from the command line --------------------------------------------------------------------------------------------


def test_arguments_beat_the_other_run_which_beats_every_preset(trained: Path) -> None:
    theirs, start = load_config(trained), {"init_from": str(trained)}
    config = compose({**start, "agent": "sac"})
    assert (config.agent, config.belief, config.env) == ("sac@rssm", theirs.belief, theirs.env)
    assert config.replay.length == 2  # replay and schedule are those of the new agent
    config = compose({**start, "experiment": "quickstart", "agent": "dreamer"})
    assert (config.agent, config.belief, config.task) == ("dreamer", theirs.belief, theirs.task)
    config = compose({**start, "head": "sac", "task": "cartpole_balance", "env.num_envs": 2, "belief.lr": 1.0})
    assert (config.task, config.env.num_envs, config.belief["lr"]) == ("cartpole_balance", 2, 1.0)
    assert compose({**start, "env": "dmc_pixels"}).env.obs == "pixels"


@pytest.mark.parametrize(("key", "value"), [("belief", "identity"), ("belief.stoch", 9)])
def test_an_argument_that_asks_for_another_belief_is_refused(trained: Path, key: str, value: Any) -> None:
    with refusing(key, found=repr(value)):
        compose({"init_from": str(trained), key: value})
