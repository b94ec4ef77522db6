"""``worldrl studies useless``: what it reads from run folders, and what is exactly true of duplicates."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.report.toy_runs import write_run
from worldrl.agent import Agent
from worldrl.config import config_from_dict
from worldrl.envs.families.useless import UselessEnv
from worldrl.errors import UserError
from worldrl.heads.soft_q import SoftQ
from worldrl.studies.__main__ import main
from worldrl.studies.useless import best_return, good_return, points, read_mass, read_trials, split
from worldrl.types import Batch, EnvSpec, ObsSpec, Sizes, choice


def cartpole(
    path: Path, returns: Sequence[float], useless: str = "", prior: Sequence[Sequence[float]] = (), **settings: Any
) -> Path:
    """A run that was evaluated every 1000 frames, and logged its prior at 1000, 2000, ..."""
    records: list[dict[str, Any]] = [
        {"frames": 1000 * i, "updates": i, "phase": "acting", "eval/return": value} for i, value in enumerate(returns)
    ]
    for i, row in enumerate(prior, 1):
        logged = {f"policy/prior/{j}": p for j, p in enumerate(row)}
        records.insert(2 * i - 1, {"frames": 1000 * i, "updates": i, "phase": "acting", **logged})
    task = f"CartPole-v1{useless}"
    return write_run(path, records, **{"agent": "dqn", "task": task, "env.obs": "state", **settings})


# --- reading ----------------------------------------------------------------------------------------------------------


def test_tasks_and_their_useless_actions() -> None:
    assert split("CartPole-v1") == ("CartPole-v1", "", 0)
    assert split("CartPole-v1+16dominated") == ("CartPole-v1", "dominated", 16)
    assert split("grid8corner+4duplicates") == ("grid8corner", "duplicates", 4)
    assert split("grid8+0duplicates") == ("grid8", "", 0)


def test_what_is_good() -> None:
    assert good_return("CartPole-v1") == 475.0
    assert best_return("grid8corner") == 9.0 - 13.0  # fourteen steps
    assert good_return("grid8corner") == pytest.approx(-4.2)
    assert best_return("grid3") == np.mean([9 - (d - 1) for d in (1, 1, 2, 2, 2, 3, 3, 4)])
    with pytest.raises(UserError) as refused:
        good_return("Pendulum-v1")
    assert "CartPole-v1" in refused.value.expected


def test_the_first_good_evaluation_and_runs_without_one(tmp_path: Path) -> None:
    """Compared up to the end of the shortest run; one that gets there later counts as one that never does."""
    cartpole(tmp_path / "a", [10, 480, 30, 40], seed=1)
    cartpole(tmp_path / "b", [10, 30, 474.9, 100], seed=2)
    cartpole(tmp_path / "c", [10, 30, 30, 30, 500], seed=3)
    cartpole(tmp_path / "d", [10, 20, 475, 500], "+4dominated", seed=1)
    cartpole(tmp_path / "e", [10, 20, 475, 500], "+4dominated", agent="mirl", seed=1)
    trials, notes = read_trials([tmp_path])
    assert ["3,000 to 4,000" in note for note in notes] == [True]
    assert [(t.frames, t.reached, t.end) for t in trials] == [
        (1000.0, True, 3000.0),
        (3000.0, False, 3000.0),
        (3000.0, False, 3000.0),
        (2000.0, True, 3000.0),
        (2000.0, True, 3000.0),
    ]
    found = {(p.kind, p.useless, p.agent): p for p in points(trials)}
    assert set(found) == {
        ("duplicates", 0, "dqn"),
        ("dominated", 0, "dqn"),
        ("dominated", 4, "dqn"),
        ("dominated", 4, "mirl"),
    }
    none = found["dominated", 0, "dqn"]
    assert (none.seeds, none.reached, none.mean) == (3, 1, pytest.approx(7000 / 3))
    assert np.isnan(none.half)  # an interval of values that were cut off is none
    assert np.isnan(found["dominated", 4, "dqn"].half)


def test_settings_tell_agents_apart(tmp_path: Path) -> None:
    for i, rate in enumerate((1e-3, 1e-2)):
        cartpole(tmp_path / str(i), [10, 500], agent="mirl", **{"head.prior_rate": rate})
    cartpole(tmp_path / "dqn", [10, 500])
    grid = {"agent": "dqn", "task": "grid8corner", "schedule.prefill": 7}  # another task's settings are no difference
    write_run(tmp_path / "grid", [{"frames": 0, "updates": 0, "phase": "acting", "eval/return": -20.0}], **grid)
    trials, _ = read_trials([tmp_path])
    assert sorted(t.agent for t in trials) == ["dqn", "dqn", "mirl prior_rate=0.001", "mirl prior_rate=0.01"]


def test_runs_whose_time_is_updates_and_runs_that_have_just_begun_are_left_out(tmp_path: Path) -> None:
    cartpole(tmp_path / "a", [10, 20, 500])
    cartpole(tmp_path / "begun", [10])
    data = [{"frames": 0, "updates": 100 * i, "phase": "data", "eval/return": 500.0} for i in range(2)]
    write_run(tmp_path / "data", data, **{"agent": "cql", "task": "CartPole-v1", "env.obs": "state"})
    (trial,), notes = read_trials([tmp_path])
    assert (trial.agent, trial.frames, trial.end) == ("dqn", 2000, 2000)
    assert [name for name in ("begun", "data") if any(str(tmp_path / name) in note for note in notes)] == [
        "begun",
        "data",
    ]


def test_a_prior_that_was_not_finite_has_no_mass(tmp_path: Path) -> None:
    run = cartpole(tmp_path / "a", [10, 20, 30], "+2dominated", [[0.25] * 4, [0.4, 0.5, 0.06, 0.04]], agent="mirl")
    metrics = run / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("0.25", "null"))
    (trial,), _ = read_trials([tmp_path])
    mass = read_mass(trial)
    assert mass is not None
    np.testing.assert_allclose(mass.values, [0.1])


def test_the_mass_on_useless_actions(tmp_path: Path) -> None:
    prior = [[0.25, 0.25, 0.25, 0.25], [0.4, 0.5, 0.06, 0.04]]
    cartpole(tmp_path / "a", [10, 20, 30], "+2dominated", prior, agent="mirl")
    cartpole(tmp_path / "b", [10, 20, 30], "+2dominated")
    cartpole(tmp_path / "c", [10, 20, 30], "", [[0.3, 0.7]], agent="mirl")
    mass, *others = [read_mass(trial) for trial in read_trials([tmp_path])[0]]
    assert others == [None, None]
    np.testing.assert_array_equal(mass.frames, [1000, 2000])
    np.testing.assert_allclose(mass.values, [0.5, 0.1])


@pytest.mark.parametrize("prior", [(), [[0.25] * 4, [0.4, 0.4, 0.1, 0.1]]], ids=["no prior", "with its prior"])
def test_the_command(prior: Sequence[Sequence[float]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    for seed in (1, 2):
        cartpole(runs / f"plain-{seed}", [10, 500, 500], seed=seed)
        for kind in ("duplicates", "dominated"):
            returns = [10, 20 * seed, 480 if seed == 2 else 300]
            cartpole(runs / f"{kind}-{seed}", returns, f"+2{kind}", prior, seed=seed, agent="mirl")
    assert main(["useless", str(runs), "--out", str(out)]) == 0
    numbers = json.loads((out / "useless.json").read_text())
    with (out / "useless.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["reached"]) for row in rows] == [p["reached"] for p in numbers["points"]] == [2, 1, 2, 1]
    assert {run["mass"] for run in numbers["runs"]} == ({None, 0.2} if prior else {None})
    with (out / "useless_runs.csv").open() as file:
        each = [(row["agent"], row["kind"], row["seed"], row["reached"], row["mass"]) for row in csv.DictReader(file)]
    assert len(each) == len(numbers["runs"]) == 6
    assert ("mirl", "dominated", "1", "False", "0.2" if prior else "") in each
    assert (out / "useless.png").stat().st_size > 10_000
    assert "+ 2 dominated, mirl: at least 2,000" in capsys.readouterr().out


def test_a_folder_without_runs_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["useless", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


# --- duplicates: what nothing tells apart -----------------------------------------------------------------------------

SIDE, COPIES = 3, 5


def every_step() -> tuple[EnvSpec, Batch]:
    """Each action once in each cell of a grid whose five actions have a copy each, as windows of two rows."""
    env = UselessEnv(f"grid{SIDE}corner+{COPIES}duplicates", "state", 1)
    world, rows = env.unwrapped._env.unwrapped, []
    for cell in set(range(SIDE**2)) - {SIDE * (SIDE - 1)}:
        for action in np.eye(env.choices, dtype=np.float32):
            env.reset(seed=0)
            world.state = cell
            before = np.eye(SIDE**2, dtype=np.float32)[cell]
            after, reward, terminal, *_ = env.step(action)
            rows.append((np.stack([before, after["state"]]), np.stack([0 * action, action]), reward, terminal))
    obs, action, reward, terminal = (torch.as_tensor(np.array(x), dtype=torch.float32) for x in zip(*rows, strict=True))
    zero = torch.zeros_like(reward)
    flags = (torch.stack([zero, x], 1) for x in (reward, zero, terminal))
    spec = EnvSpec("grid", {"state": ObsSpec((SIDE**2,), "float32")}, choice(env.choices), terminates=True)
    return spec, Batch({"state": obs}, action, *flags)


def learned(symmetric: bool) -> Tensor:
    """The prior of MIRL after updates on all steps at once, (2, 5): originals, copies."""
    spec, batch = every_step()
    assert set(batch.reward[batch.is_terminal > 0].tolist()) == {9.0}  # steps onto the goal are among them
    torch.manual_seed(0)
    settings = {"head.units": 16, "head.prior_rate": 0.1, "head.prior_batch": 0, "head.beta": 2.0, "head.beta_rate": 0}
    config = {"belief": "identity", "head": "mirl", **settings, "head.critic_lr": 1e-2, "device": "cpu"}
    agent = Agent(config_from_dict(config), spec)
    with torch.no_grad():
        for critic in (agent.head.critic, agent.head.target) if symmetric else ():
            for last in (critic.weights[-1], critic.biases[-1]):
                last[..., COPIES:] = last[..., :COPIES]
    for _ in range(60):
        agent.update(agent.next_phase(), batch)
        agent.updates += 1
    return agent.head.prior.view(2, COPIES)


def test_the_prior_of_a_copy_stays_that_of_its_original() -> None:
    """Where Q begins equal for both and learns from both alike: through updates of a network, not of a table."""
    originals, copies = learned(symmetric=True)
    torch.testing.assert_close(copies / originals, torch.ones(COPIES), rtol=1e-5, atol=0.0)
    assert float(originals.max() / originals.min()) > 3.0  # the prior has moved
    originals, copies = learned(symmetric=False)
    assert float((copies / originals - 1.0).abs().max()) > 1e-2  # so that the test above can fail


def test_copies_of_every_action_change_no_value() -> None:
    """The mean over a prior that is uniform does not see that each action is there twice."""
    q = torch.randn(7, 3)
    sizes = [Sizes((4,), (4,), choice(n)) for n in (3, 6)]
    plain, doubled = (SoftQ(SoftQ.Config(beta=2.0), each) for each in sizes)
    torch.testing.assert_close(doubled.value(torch.cat([q, q], -1)), plain.value(q))
    paid = SoftQ(SoftQ.Config(beta=2.0, entropy_bonus=True), sizes[1]).value(torch.cat([q, q], -1))
    assert float((paid - plain.value(q)).min()) > 0.5  # an entropy that is paid for does
