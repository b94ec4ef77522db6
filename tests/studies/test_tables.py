"""``worldrl studies tables``: environments are their tables, distances are zero at the table, and agents come near."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from worldrl.studies import tables
from worldrl.studies.__main__ import main
from worldrl.tabular.grid import grid_world
from worldrl.tabular.solve import backup, mutual_information_value_iteration
from worldrl.training.progress import Meter


@pytest.mark.parametrize("env", [tables.Grid4, tables.Grid16, tables.Counterexample])
def test_an_environment_is_its_table(env: type[tables.Table]) -> None:
    task = env()
    mdp, rng = task.mdp, np.random.default_rng(0)
    seen, _ = task.reset(seed=0)
    for _ in range(100):
        state, action = int(seen.argmax()), int(rng.integers(task.action_space.n))
        seen, reward, terminated, truncated, _ = task.step(action)
        assert seen.sum() == 1.0
        assert seen in task.observation_space
        assert mdp.transition[state, action, int(seen.argmax())] == 1.0  # both tables are deterministic
        assert reward == mdp.reward[state, action]
        assert terminated == mdp.terminal[int(seen.argmax())]
        if terminated or truncated:
            assert terminated or task.steps == tables.LIMIT
            seen, _ = task.reset()


def test_episodes_begin_where_the_table_says() -> None:
    task = tables.Grid4()
    found = np.mean([task.reset(seed=seed)[0] for seed in range(1_000)], 0)
    np.testing.assert_allclose(found, task.mdp.start, atol=0.03)
    assert found[task.mdp.terminal] == 0.0


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_virels_table_at_the_counterexample(temperature: float) -> None:
    assert tables.boltzmann_wrong(temperature) == pytest.approx(1 / (1 + np.exp(1 / temperature)), abs=1e-12)


@pytest.mark.parametrize("name", tables.GRID_AGENTS)
def test_an_agent_that_is_its_table_has_no_distance_from_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**tables.GRID_AGENTS[name].settings, "task": tables.task_of(tables.Grid4), "head.beta": 1.0}
    for trainer in tables.looks(settings, 130, 1):
        head, mdp, p = trainer.agent.head, tables.Grid4().mdp, tables.visited(trainer)
        assert p.sum() == pytest.approx(1.0)
        assert p[mdp.terminal] == 0.0
        before = tables.on_grid(trainer, name, 4)
        assert min(before[key] for key in ("policy", "policy, visited", "value", "value, visited")) > 0.01
        table = tables.GRID_AGENTS[name].solve(mdp, 1.0, p)
        q = torch.tensor(backup(mdp, table.value), dtype=torch.float32)
        monkeypatch.setattr(head, "q", lambda states, q=q: states @ q)
        head.prior.copy_(torch.tensor(table.prior))  # type: ignore[union-attr, operator]
        after = tables.on_grid(trainer, name, 4)
        assert after.pop("prior, paper") == pytest.approx(0.5 * np.abs(table.prior - paper(name)).sum(), abs=1e-6)
        assert max(after.values()) < 2e-4
        q[0] += torch.tensor([5.0, 0, 0, 0, 0])  # one state is wrong: the means are over states
        wrong = tables.on_grid(trainer, name, 4)
        policy = np.exp(head.log_pi(q[:1])[0].double().numpy())  # type: ignore[operator]
        apart = 0.5 * np.abs(policy - table.policy[0]).sum()
        assert wrong["policy"] == pytest.approx(apart / 15, abs=2e-4)
        assert wrong["policy, visited"] == pytest.approx(apart * p[0], abs=2e-4)


def paper(name: str) -> np.ndarray:
    """With uniform p(s)."""
    return np.full(5, 0.2) if name == "soft_q" else mutual_information_value_iteration(grid_world(4), 1.0).prior


def test_the_newest_rows_say_which_states_are_visited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "NEWEST", 5)
    states, ends = [0, 0, 0, 2, 1, 1, 0, 1], [0, 0, 0, 1, 0, 0, 0, 0]
    columns = {"state": np.eye(3)[states][:, None], "is_terminal": np.array(ends)[:, None]}
    trainer: Any = SimpleNamespace(experience=SimpleNamespace(saved_replay=SimpleNamespace(columns=lambda: columns)))
    assert tables.visited(trainer).tolist() == [0.25, 0.75, 0.0]


HARD = np.array([[0.0, 1.0] * 5, [0.0] * 10, [0.0] * 10])  # Q in s0, in s1, and at the end
SOFT = HARD + np.array([[0.99 * 0.5 * np.log(10), 0.0] * 5, [0.0] * 10, [0.0] * 10])  # at alpha = 0.5


@pytest.mark.parametrize(
    ("name", "table", "q"),
    [*zip(tables.CHOICE_AGENTS, (0.56944, 0.11920, 0.11920), (SOFT, HARD, HARD), strict=True)],
)
def test_distances_at_the_counterexample_by_hand(name: str, table: float, q: np.ndarray) -> None:
    p = torch.tensor([[0.03, 0.17] * 5, [0.1] * 10, [0.1] * 10])
    twins = torch.tensor(np.stack([q + 1.0, q]), dtype=torch.float32)
    twins[:, 2] = 99.0  # an end is worth nothing, whatever a critic says
    head = SimpleNamespace(
        policy=SimpleNamespace(log_probs=lambda states: (states @ p).log()),
        critic=SimpleNamespace(values=lambda states: states @ twins),
    )
    trainer: Any = SimpleNamespace(meter=Meter(), agent=SimpleNamespace(head=head))

    def look() -> dict[str, float]:
        for alpha in (0.4, 0.6):
            trainer.meter.add({"policy/alpha": torch.tensor(alpha)})
        return tables.at_choice(trainer, name)

    found = look()
    assert trainer.meter.mean() == {}  # the next look has its own mean
    assert (found["temperature"], found["wrong"]) == pytest.approx((0.5, 0.15))
    assert found["table"] == pytest.approx(table, abs=1e-5)
    assert found["policy"] == pytest.approx(abs(0.15 - table), abs=1e-5)
    assert found["value"] == pytest.approx(0.0, abs=1e-6)
    assert found["residual"] == pytest.approx(0.5 * 5 / 20 * q[0, 0] ** 2, abs=1e-6)  # five of the twenty pairs
    twins[1, 0, 1::2] -= 0.2
    lower = look()
    assert lower["value"] == pytest.approx(0.2 * 5 / 20, abs=1e-6)
    assert lower["residual"] - found["residual"] == pytest.approx(0.5 * 0.2**2 * 5 / 20, abs=1e-6)


@pytest.mark.parametrize("name", tables.CHOICE_AGENTS)
def test_every_agent_learns_the_counterexample(name: str) -> None:
    settings = {**tables.CHOICE_AGENTS[name].settings, "task": tables.task_of(tables.Counterexample)}
    found = [tables.at_choice(trainer, name) for trainer in tables.looks({**settings, "head.units": 16}, 150, 2)]
    assert all(np.isfinite(list(each.values())).all() for each in found)
    assert found[1]["value"] < found[0]["value"]
    assert found[0]["policy"] == pytest.approx(abs(found[0]["wrong"] - found[0]["table"]))


def test_the_shortest_study_has_updates_before_its_first_comparison() -> None:
    name, agent = next(iter(tables.CHOICE_AGENTS.items()))
    settings = {**agent.settings, "task": tables.task_of(tables.Counterexample), "head.units": 16}
    (found,) = (tables.at_choice(trainer, name) for trainer in tables.looks(settings, tables.LEAST // tables.TIMES, 1))
    assert found["temperature"] == 0.5


def test_the_study_trains_every_agent_with_every_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[tuple[Any, ...]] = []

    def looks(settings: dict[str, Any], every: int, times: int) -> list[Any]:
        runs.append((settings["agent"], settings["task"], settings["seed"], settings.get("head.beta"), every, times))
        return []

    monkeypatch.setattr(tables, "looks", looks)
    assert list(tables.study(4, 2.0, seeds=2, frames=8_000, times=20)) == [[]] * 10
    grid, choice = tables.task_of(tables.Grid4), tables.task_of(tables.Counterexample)
    assert runs == [
        run
        for seed in (1, 2)
        for run in (
            *((agent, grid, seed, 2.0, 400, 20) for agent in ("soft_q", "mirl")),
            *((agent, choice, seed, None, 150, 20) for agent in ("sac", "virel", "virel_beta")),
        )
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", tables.GRID_AGENTS)
def test_an_agent_comes_to_its_table_on_a_small_grid(name: str) -> None:
    settings = {**tables.GRID_AGENTS[name].settings, "task": tables.task_of(tables.Grid4), "head.beta": 1.0}
    first, *_, last = [tables.on_grid(trainer, name, 4) for trainer in tables.looks(settings, 250, 10)]
    assert last["policy"] < 0.03 < first["policy"]
    assert last["value"] < 0.1 < first["value"]
    assert last["prior"] < 0.03


@pytest.mark.slow
@pytest.mark.parametrize(("name", "wrong"), [*zip(tables.CHOICE_AGENTS, (0.569, 0.119, 0.0), strict=True)])
def test_an_agent_comes_to_its_table_at_the_counterexample(name: str, wrong: float) -> None:
    """Maximum entropy prefers the worthless actions, VIREL does not, and less and less with its own temperature."""
    settings = {**tables.CHOICE_AGENTS[name].settings, "task": tables.task_of(tables.Counterexample)}
    for trainer in tables.looks(settings, 3_000, 1):
        found = tables.at_choice(trainer, name)
        assert found["wrong"] == pytest.approx(wrong, abs=0.02)
        assert found["value"] < 0.02


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def study(size: int, beta: float, seeds: int, frames: int):
        assert (size, beta, seeds, frames) == (4, 2.0, 1, 2_100)
        names = ("policy", "policy, visited", "value", "value, visited", "prior", "prior, paper")
        for agent in tables.GRID_AGENTS:
            yield [tables.Point("grid", agent, 1, f, dict.fromkeys(names, 1 / f)) for f in (300, 600)]
        names = ("wrong", "table", "policy", "temperature", "value", "residual")
        yield [tables.Point("counterexample", "sac, alpha = 0.5", 1, 300, dict.fromkeys(names, 0.25))]

    monkeypatch.setattr(tables, "study", study)
    arguments = ["--size", "4", "--beta", "2", "--seeds", "1", "--frames", "2100", "--out", str(tmp_path)]
    assert main(["tables", *arguments]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4  # one for each agent, and where it is written
    with (tmp_path / "tables.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 6 + 6
    assert rows[-1] == {
        "task": "counterexample",
        "agent": "sac, alpha = 0.5",
        "seed": "1",
        "frames": "300",
        "quantity": "residual",
        "value": "0.25",
    }
    assert len(json.loads((tmp_path / "tables.json").read_text())["points"]) == 5
    assert (tmp_path / "tables.png").stat().st_size > 10_000
    assert main(["tables", "--size", "5", "--out", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
