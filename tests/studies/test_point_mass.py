"""``worldrl studies dimensions``: a task whose best return is known, and a run of every agent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from worldrl.errors import UserError
from worldrl.studies import point_mass
from worldrl.studies.__main__ import main
from worldrl.tabular.mdp import make_mdp
from worldrl.tabular.solve import value_iteration


def play(dimensions: int, act, seed: int = 0) -> float:
    env = getattr(point_mass, point_mass.TASKS[dimensions])()
    observation, _ = env.reset(seed=seed)
    total, ended = 0.0, False
    while not ended:
        observation, reward, terminated, ended, _ = env.step(act(observation))
        assert not terminated
        total += reward
    return total


@pytest.mark.parametrize("dimensions", point_mass.TASKS)
def test_the_best_return(dimensions: int) -> None:
    found = play(dimensions, lambda x: -x / point_mass.STEP)
    assert found == pytest.approx(point_mass.BEST)
    rng = np.random.default_rng(0)
    assert play(dimensions, lambda x: rng.uniform(-1, 1, dimensions)) < point_mass.BEST - 1


def test_no_policy_does_better() -> None:
    """One dimension on a lattice of half steps, by value iteration without discount over twenty steps."""
    places = np.linspace(-1, 1, 17)
    moves = np.linspace(-point_mass.STEP, point_mass.STEP, 5)
    after = np.clip(places[:, None] + moves, -1, 1)
    index = np.abs(after[..., None] - places).argmin(-1)
    assert np.allclose(places[index], after)
    mdp = make_mdp(np.eye(17)[index], -(after**2), 0.999999)
    assert value_iteration(mdp, 1e-9).value[0] == pytest.approx(point_mass.BEST, abs=1e-4)


@pytest.mark.parametrize("agent", point_mass.AGENTS)
def test_every_agent_runs(agent: str, tmp_path: Path) -> None:
    found = point_mass.regret(agent, 4, seed=1, frames=510, folder=tmp_path)
    assert 0.0 < found < 20.0


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made: list[tuple[int, int]] = []

    def regret(agent: str, dimensions: int, seed: int, *_: object) -> float:
        made.append((dimensions, seed))
        return dimensions / seed

    monkeypatch.setattr(point_mass, "regret", regret)
    assert main(["dimensions", "--dims", "1", "16", "--seeds", "2", "--out", str(tmp_path)]) == 0
    numbers = json.loads((tmp_path / "dimensions.json").read_text())["regret"]
    assert set(numbers) == set(point_mass.AGENTS)
    assert numbers["virel_beta"] == {"1": [1.0, 0.5], "16": [16.0, 8.0]}
    assert (tmp_path / "dimensions.png").stat().st_size > 10_000
    assert len(made) == 2 * 2 * len(point_mass.AGENTS)
    assert [seed for _, seed in made] == sorted(seed for _, seed in made)  # so that what is cut off is fair
    made.clear()
    assert main(["dimensions", "--dims", "1", "4", "--seeds", "3", "--out", str(tmp_path)]) == 0
    assert set(made) == {(1, 3), (4, 1), (4, 2), (4, 3)}  # what is known is not made again
    made.clear()
    before = (tmp_path / "dimensions.json").read_text()
    assert main(["dimensions", "--dims", "1", "--seeds", "1", "--frames", "600", "--out", str(tmp_path)]) == 2
    assert not made  # other frames, another study: that of before is kept
    assert (tmp_path / "dimensions.json").read_text() == before
    capsys.readouterr()
    assert main(["dimensions", "--dims", "3", "--out", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_a_study_that_was_cut_off_has_found_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = tmp_path / "dimensions.json"
    first = next(iter(point_mass.AGENTS))
    numbers.write_text(
        json.dumps({"settings": {"frames": "600"}, "with": point_mass.settings(), "regret": {first: {"1": [0.5]}}})
    )
    assert point_mass.known_regrets(numbers, 600) == {first: {1: [0.5]}}
    monkeypatch.setitem(point_mass.COMMON, "head.gamma", 0.5)
    for text in (numbers.read_text(), "{"):  # of other agents, damaged
        numbers.write_text(text)
        with pytest.raises(UserError):
            point_mass.known_regrets(numbers, 600)
    numbers.unlink()
    assert point_mass.known_regrets(numbers, 600) == {}
