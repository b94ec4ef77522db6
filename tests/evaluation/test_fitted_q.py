"""Fitted Q evaluation against exact values by a linear solve; on runs, with and without an environment."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.formats.test_formats import arrays, npz
from tests.data.test_episodes import made
from tests.runs.test_data import COUNT, trained
from worldrl.__main__ import main
from worldrl.agent import Agent
from worldrl.config import Config, config_from_dict
from worldrl.data.episodes import to_unit
from worldrl.data.formats import minari
from worldrl.evaluation.fitted_q import Fit, FittedQ, _episodes, evaluate_on_data, fitted, possible, told_of_data
from worldrl.registry import tiny_settings
from worldrl.runs.data import Rewards, Rows, read_data
from worldrl.runs.settings import CONFIG_FILE
from worldrl.tabular.mdp import MDP, make_mdp, random_mdp
from worldrl.tabular.solve import evaluate
from worldrl.types import Actions, Batch, Belief, EnvSpec, ObsSpec, box, choice

S, GAMMA = 4, 0.8
ONE_HOT = ObsSpec((S + 1,), "float32")
FIT = Fit(updates=500, gamma=GAMMA, units=32, lr=3e-3, tau=0.05)

Behaviour = Callable[[np.random.Generator], tuple[int, np.ndarray]]  # -> alternative that decides, row of the action


def process(rng: np.random.Generator) -> MDP:
    """Random, with an end that some states lead to."""
    mdp = random_mdp(rng, S + 1, 2, GAMMA)
    return make_mdp(mdp.transition, 4.0 * mdp.reward, GAMMA, np.arange(S + 1) == S, [0.7, 0.3, 0.0, 0.0, 0.0])


def record(mdp: MDP, actions: Actions, act: Behaviour, rng: np.random.Generator, steps: int) -> Rows:
    """Episodes of at most 6 steps; the state is one-hot."""
    rows: list[tuple[int, np.ndarray, float, float, float]] = []
    s, left = -1, 0
    for _ in range(steps):
        if left == 0 or mdp.terminal[s]:
            s, left = int(rng.choice(S + 1, p=mdp.start)), 6
            rows.append((s, np.zeros(actions.size), 0.0, 1.0, 0.0))
            continue
        a, row = act(rng)
        reward, s, left = mdp.reward[s, a], int(rng.choice(S + 1, p=mdp.transition[s, a])), left - 1
        rows.append((s, row, float(reward), 0.0, float(mdp.terminal[s])))
    state, *rest = (np.array(column, np.float32) for column in zip(*rows, strict=True))
    names = ("action", "reward", "is_first", "is_terminal")
    columns = {"state": np.eye(S + 1, dtype=np.float32)[state.astype(int)], **dict(zip(names, rest, strict=True))}
    spec = EnvSpec("", {"state": ONE_HOT}, actions)
    return Rows(columns, spec, Rewards(), None, "", int(columns["is_first"].sum()))


def either(rng: np.random.Generator) -> tuple[int, np.ndarray]:
    """A behaviour: one of two choices, whatever the state."""
    a = int(rng.integers(2))
    return a, np.eye(2)[a]


def clone(spec: EnvSpec, weight: np.ndarray, **changes: Any) -> tuple[Agent, Config]:
    """A clone without hidden layers: what it does in state s is column s of ``weight`` (A, S + 1)."""
    settings = {"belief": "identity", "head": "bc", "head.actor_layers": 0, "device": "cpu"}
    config = config_from_dict({**settings, "replay.batch": 256, "replay.length": 2, **changes})
    agent = Agent(config, spec)
    with torch.no_grad():
        for parameter in agent.head.parameters():
            parameter.copy_(torch.from_numpy(weight) if parameter.ndim == 2 else torch.zeros(()))
    return agent, config


def estimates(rows: Rows, weight: np.ndarray, explore: bool) -> np.ndarray:
    """(E,) by fitted Q evaluation."""
    torch.manual_seed(0)
    agent, config = clone(rows.spec, weight)
    first = _episodes(rows, GAMMA)[1]
    return fitted(FittedQ(agent, FIT, explore), rows, config, 0, first)[0]


def compare(found: np.ndarray, rows: Rows, exact: np.ndarray) -> None:
    """Of every first state, within 3 % of the largest value."""
    first = rows.columns["state"][rows.columns["is_first"] > 0].argmax(-1)[: len(found)]
    error, scale = found - exact[first], 0.03 * exact.max()
    assert np.abs(error).max() < scale, (error.min(), error.max(), exact)
    assert np.ptp(exact[:2]) > 4 * scale  # a constant would fail


@pytest.mark.parametrize("explore", [True, False])
def test_choices_have_their_exact_values(explore: bool) -> None:
    rng = np.random.default_rng(5)
    mdp = process(rng)
    logits = rng.normal(0.0, 1.5, (2, S + 1))
    policy = np.exp(logits) / np.exp(logits).sum(0) if explore else np.eye(2)[logits.argmax(0)].T
    rows = record(mdp, choice(2), either, rng, 20_000)
    compare(estimates(rows, logits.astype(np.float32), explore), rows, evaluate(mdp, policy.T))


def test_a_box_has_its_exact_values() -> None:
    """The action a in [-1, 1] takes the second alternative with probability (1 + a) / 2."""
    rng = np.random.default_rng(5)
    mdp = process(rng)

    def act(r: np.random.Generator) -> tuple[int, np.ndarray]:
        a = r.uniform(-1.0, 1.0)
        return int(r.random() < (1 + a) / 2), np.array([a])

    rows = record(mdp, box(1), act, rng, 20_000)
    weight = rng.normal(0.0, 1.0, (1, S + 1)).astype(np.float32)
    second = (1 + np.tanh(weight[0])) / 2
    compare(estimates(rows, weight, False), rows, evaluate(mdp, np.stack([1 - second, second], -1)))


def test_the_loss_bootstraps_from_the_slow_copy() -> None:
    """L as it is defined, where Q and Q' differ."""
    rng = np.random.default_rng(5)
    rows = record(process(rng), choice(2), either, rng, 300)
    agent, _ = clone(rows.spec, rng.normal(0.0, 1.0, (2, S + 1)).astype(np.float32))
    critic = FittedQ(agent, FIT, False)
    columns = {name: torch.from_numpy(x)[None] for name, x in rows.columns.items()}
    batch = Batch({"state": columns.pop("state")}, **columns)
    state, later = batch.obs["state"][:, :-1], batch.obs["state"][:, 1:]
    with torch.no_grad():
        for parameter in critic.q.parameters():
            parameter.add_(0.5)
        best = agent.head.policy.mode(later)
        y = batch.reward[:, 1:] + GAMMA * (1.0 - batch.is_terminal[:, 1:]) * critic.target(later, best)[0]
        error = (critic.q(state, batch.action[:, 1:])[0] - y)[batch.is_first[:, 1:] == 0]
    assert float(critic.update(batch)) == pytest.approx(float(error.square().mean()), rel=1e-4)


def test_the_critic_sees_what_the_agent_sees() -> None:
    """An agent that normalises has the value of one without a normaliser on scaled rows."""
    rng = np.random.default_rng(5)
    rows = record(process(rng), choice(2), either, rng, 600)
    weight, values = rng.normal(0.0, 1.0, (2, S + 1)).astype(np.float32), []
    for normalize in (True, False):
        agent, config = clone(rows.spec, weight, **{"data.name": "x", "data.normalize": normalize})
        if normalize:
            agent.normalizer.fit(rows.columns)
        torch.manual_seed(1)
        critic = FittedQ(agent, replace(FIT, updates=20), True)
        values.append(fitted(critic, rows, config, 0, _episodes(rows, GAMMA)[1])[0])
        scaled = agent.normalized({"state": torch.from_numpy(rows.columns["state"])})["state"].numpy()
        rows = rows._replace(columns={**rows.columns, "state": scaled})
    np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-5)


def test_returns_of_the_episodes_as_they_were_recorded() -> None:
    reward = np.array([0, 1, 2, 0, 0, 4, 0, 8, 16, 32], np.float32)  # the episode in the fourth row has no step
    first = np.array([1, 0, 0, 1, 1, 0, 1, 0, 0, 0], np.float32)
    columns = {"state": np.arange(10.0)[:, None], "reward": reward, "is_first": first, "is_terminal": 0 * reward}
    columns["is_terminal"][5] = 1.0
    rows = Rows(columns, EnvSpec("", {"state": ObsSpec((1,), "float32")}, box(1)), Rewards(), None, "", 4)
    terminal, start, returns = _episodes(rows, 0.5)
    assert terminal.tolist() == [False, True, False]
    assert start["state"][:, 0].tolist() == [0, 4, 6]
    assert returns.tolist() == [2.0, 4.0, 8 + 8 + 8]


@pytest.mark.parametrize("explore", [True, False])
@pytest.mark.parametrize("parts", [("rssm", "smac"), ("stack", "dqn"), ("rssm", "dreamer"), ("identity", "sac")])
def test_any_agent_has_a_value(parts: tuple[str, str], explore: bool) -> None:
    belief, head = parts
    actions = choice(2) if head != "smac" else box(2)
    rng = np.random.default_rng(0)
    rows = record(process(rng), actions, lambda r: (0, np.eye(2)[r.integers(2)]), rng, 60)
    settings = {"belief": belief, "head": head, **tiny_settings("belief", belief), **tiny_settings("head", head)}
    config = config_from_dict({**settings, "device": "cpu", "replay.batch": 3, "replay.length": 5})
    critic = FittedQ(Agent(config, rows.spec), Fit(updates=4, units=8), explore)
    values = fitted(critic, rows, config, 0, _episodes(rows, 0.9)[1])[0]
    assert np.isfinite(values).all()
    assert np.ptp(values) > 0


@pytest.mark.parametrize("head", ["bc", "dreamer", "sac", "dqn"])
def test_probabilities_are_those_of_the_draws(head: str) -> None:
    belief = "rssm" if head == "dreamer" else "identity"
    settings = {"belief": belief, "head": head, **tiny_settings("belief", belief), **tiny_settings("head", head)}
    agent = Agent(config_from_dict({**settings, "device": "cpu"}), EnvSpec("", {"state": ONE_HOT}, choice(3)))
    torch.manual_seed(1)
    feat = 3.0 * torch.randn(2, agent.model.feat_dim).repeat_interleave(5000, 0)
    known = Belief(feat, feat[None][:0], feat, feat[:, 0])
    for explore in (True, False):
        drawn = agent.head.act(known, explore).reshape(2, 5000, 3).mean(1)
        found = agent.head.probabilities(known, explore)[::5000]
        torch.testing.assert_close(found, drawn, atol=0.03, rtol=0.0)


def test_of_a_run_without_an_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path, data=str(npz(tmp_path / "a.npz", arrays(True))), updates=3, **{"data.reward": "minus_1"})
    out = tmp_path / "value.json"
    assert main(["eval", str(run), "--fqe", "--updates", "6", "--gamma", "0.9", "--json", str(out)]) == 0
    told, found = capsys.readouterr().out, json.loads(out.read_text())
    assert f"{found['value']:.3f}" in told
    assert found["interval"][0] < found["value"] < found["interval"][1]
    assert (found["first_states"], found["fitted_updates"], found["updates"]) == (5, 6, 3)
    returns = [float(episode.reward @ 0.9 ** np.arange(len(episode.reward))) for episode in made()]
    assert found["recorded"] == pytest.approx(np.mean(returns))  # of the rewards as they are in the file
    made_from = ["data", "make", str(tmp_path / "b"), "--policy", str(run)]
    for played in (
        ["eval", str(run)],
        ["eval", str(run), "--corruption", "gaussian", "--level", "1"],
        ["look", str(run)],
        made_from,
    ):
        assert main([*played]) == 2
        assert "--fqe" in capsys.readouterr().err


def test_of_a_run_that_has_acted_by_its_own_replay(tmp_path: Path) -> None:
    run = trained(tmp_path, task=COUNT, frames=30, **{"schedule.prefill": 10})
    found = evaluate_on_data(run, fit=Fit(updates=4, units=8))
    settings = run / CONFIG_FILE
    settings.write_text(
        settings.read_text().replace("device: cpu", "device: cuda").replace("device: auto", "device: cuda")
    )
    assert (found["data"], found["action"]) == (str(run), "mode")
    again = evaluate_on_data(run, run, fit=Fit(updates=4, units=8), device="cpu")  # wherever it was trained
    assert again["value"] == found["value"]


def test_a_value_that_no_return_can_be_is_told() -> None:
    columns = {"reward": np.array([0.0, -1.0, -2.0, 0.0, -1.0]), "is_first": np.array([1.0, 0, 0, 1.0, 0])}
    assert possible(columns, 0.9) == [pytest.approx(-20.0), 0.0]
    result = {"agent": "bc", "checkpoint": "last", "data": "x", "gamma": 0.9, "interval": [0.0, 0.0], "first_states": 2}
    result |= {"fitted_updates": 2, "halfway": 0.0, "recorded": -3.0, "per_step": None, "possible": [-20.0, 0.0]}
    lines = [len(told_of_data(result | {"value": value}).splitlines()) for value in (-21.0, -20.0, 0.0, 0.1)]
    assert lines == [4, 3, 3, 4]


def test_one_first_state_has_no_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = {name: column[:1] for name, column in arrays(True).items()}
    run = trained(tmp_path, data=str(npz(tmp_path / "a.npz", few)), updates=1, **{"data.low": -1})
    capsys.readouterr()
    assert main(["eval", str(run), "--fqe", "--updates", "2"]) == 0
    assert "nan" not in capsys.readouterr().out


def test_bounds_of_a_file_are_not_those_of_a_folder(tmp_path: Path) -> None:
    file = npz(tmp_path / "a.npz", arrays(True))
    run = trained(tmp_path, data=str(file), updates=1, **{"data.low": -2, "data.high": 2})
    data = read_data(file)
    minari.write(tmp_path / "b", to_unit(file, data, *np.full((2, data.actions.size), [[-2.0], [2.0]])))
    values = [evaluate_on_data(run, path, Fit(updates=2, units=8))["value"] for path in (None, tmp_path / "b")]
    assert values[0] == values[1]


@pytest.mark.parametrize(
    "options",
    [["--fqe", "--episodes", "3"], ["--fqe", "nothing"], ["--fqe", "--gamma", "1"], ["--fqe", "--gamma", "1.5"],
     ["--updates", "3"], ["--fqe", "--corruption", "gaussian"], ["--fqe", "--level", "1"],
     ["--fqe", "SHORT"]],
)  # fmt: skip
def test_mistakes_are_one_line(tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path, data=str(npz(tmp_path / "a.npz", arrays(True))), updates=1)
    capsys.readouterr()
    short = {name: column[:1] for name, column in arrays(True).items()}
    options = [str(npz(tmp_path / "short.npz", short)) if option == "SHORT" else option for option in options]
    assert main(["eval", str(run), *options]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
