"""The studies of learning from data: what they compute, and their commands end to end at the smallest sizes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import softmax
from scipy.stats import entropy

import worldrl
from tests.oracles.misa import gaps
from tests.studies.test_studies import LEARNING
from worldrl.nn.mlp import TwinQ
from worldrl.runs.data import read_run
from worldrl.runs.trained import load_agent
from worldrl.studies import bounds, embedding, sampler
from worldrl.studies.__main__ import main

MISA = {**LEARNING, "agent": "sac", "head": {"name": "misa", "units": 8, "samples": 2}, "policy": {"name": "own"}}


def test_closed_forms_are_the_oracles() -> None:
    process = bounds.random_process(torch.Generator().manual_seed(0), 5, 3)
    assert float(process.joint.sum()) == pytest.approx(1.0)
    expected = gaps(*(x.numpy() for x in process))
    assert [float(x) for x in bounds.closed_forms(process)] == pytest.approx(list(expected.values()))


def test_no_random_process_breaks_the_theorem_and_most_break_what_is_no_theorem() -> None:
    found = bounds.claims(200)
    assert [found[name].broken for name in ("I >= MISA", "MISA >= DV", "DV >= f")] == [0, 0, 0]
    assert max(claim.error or 0.0 for claim in found.values()) < 1e-12
    assert found["f >= BA"].broken > 100


def test_near_the_best_energy_the_bounds_are_below_the_information_and_meet_it_there() -> None:
    for x, values in bounds.curves(bounds.KNOWN).values():
        assert all(each.information > each.f - 1e-12 for each in values)
        best = values[int((x - (1.0 if x[0] == 0 else 0.0)).abs().argmin())]
        assert float(best.information - best.f) == pytest.approx(0.0, abs=1e-12)


def test_the_samplers_recover_what_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "CHAINS", 1_000)
    shift = sampler.slope(2.0, 6)
    share = {name: sampler.recovered(draw(shift), shift) for name, draw in sampler.SAMPLERS.items()}
    assert share["whitened HMC, 5 steps"] == pytest.approx(1.0, abs=0.06)
    assert 0.7 < share["SNIS, k = 50"] < 0.9
    assert share["SNIS, k = 5"] < 0.6
    assert abs(share["HMC in actions, 55 steps"]) < 0.1
    assert float(sampler.in_actions(shift).acceptance.mean()) < 0.01
    assert float(sampler.whitened(shift).acceptance.mean()) > 0.6


def clusters(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three of them in eight dimensions, and which."""
    rng = np.random.default_rng(seed)
    which = np.arange(3 * n) % 3
    return 4.0 * rng.standard_normal((3, 8))[which] + rng.standard_normal((3 * n, 8)), which.astype(float)


def test_clusters_stay_apart_in_the_plane_and_noise_tells_nothing() -> None:
    x, which = clusters()
    points = embedding.tsne(x, perplexity=10, iterations=300)
    assert embedding.neighbour_r2(points, which, 5) > 0.95
    assert np.array_equal(points, embedding.tsne(x, perplexity=10, iterations=300))
    noise = np.random.default_rng(1).standard_normal(len(x))
    assert embedding.neighbour_r2(points, noise, 5) < 0.1
    assert math.isnan(embedding.neighbour_r2(points, np.ones(len(x))))


def test_the_gradient_of_the_plane_is_that_of_the_divergence() -> None:
    x, _ = clusters(4)
    p = embedding._affinities(embedding._distances(x), 3.0)
    assert p.sum() == pytest.approx(1.0)
    y = torch.randn(12, 2, dtype=torch.float64, requires_grad=True)
    near = 1 / (1 + torch.cdist(y, y).square()) * (1 - torch.eye(12))
    q, p_ij = near / near.sum(), torch.from_numpy(p)
    apart = ~torch.eye(12, dtype=torch.bool)
    kl = (p_ij[apart] * (p_ij[apart] / q[apart]).log()).sum()
    (expected,) = torch.autograd.grad(kl, y)
    np.testing.assert_allclose(embedding._gradient(p, y.detach().numpy()), expected.numpy(), atol=1e-9)


@pytest.mark.parametrize("perplexity", [5.0, 20.0])
def test_affinities_are_gaussians_of_this_perplexity(perplexity: float) -> None:
    """Row by row, by a root of SciPy's."""
    x, _ = clusters(20)
    distances = np.square(x[:, None] - x).sum(-1)
    n = len(x)
    conditional = np.zeros((n, n))
    for i in range(n):
        others = np.delete(distances[i], i)
        excess = lambda log_beta: entropy(softmax(-np.exp(log_beta) * others)) - math.log(perplexity)  # noqa: B023, E731
        conditional[i, np.arange(n) != i] = softmax(-np.exp(brentq(excess, -12, 4)) * others)
    found = embedding._affinities(distances, perplexity)
    np.testing.assert_allclose(found, (conditional + conditional.T) / (2 * n), atol=1e-9)


@pytest.mark.parametrize("norm", [False, True])
def test_the_last_layer_is_the_critics(norm: bool) -> None:
    critic = TwinQ(3, 2, 8, 2, norm=norm)
    feat, action = torch.randn(7, 3), torch.randn(7, 2)
    hidden, q = embedding.last_hidden(critic, feat, action)
    assert hidden.shape == (7, 8)
    torch.testing.assert_close(q, critic(feat, action)[0])


def test_the_commands_write_pictures_and_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "CHAINS", 50)
    run = worldrl.train(MISA, tmp_path / "run")
    other = worldrl.train(MISA, tmp_path / "other")  # of the same label
    for command, key in (
        (["bounds", "--processes", "20"], "claims"),
        (["sampler"], "share"),
        (["embedding", str(run), str(other), "--pairs", "60"], "runs"),
    ):
        assert main([*command, "--out", str(tmp_path)]) == 0
        assert json.loads((tmp_path / f"{command[0]}.json").read_text())[key]
        assert (tmp_path / f"{command[0]}.png").stat().st_size > 10_000
    assert set(json.loads((tmp_path / "embedding.json").read_text())["runs"]) == {str(run), str(other)}


def test_a_run_that_learned_from_data_is_shown_in_them_and_as_its_critic_saw_them(tmp_path: Path) -> None:
    """By a batch: the windows are those of the data, the hidden layer that of normalised states."""
    source = worldrl.train(MISA, tmp_path / "source")
    learning = {**MISA, "data": {"name": str(source), "normalize": True}, "updates": 3, "frames": 0}
    run = worldrl.train(learning, tmp_path / "run")
    agent, config = load_agent(run)
    with pytest.raises(worldrl.errors.UserError):
        embedding.run_embedding(run, 5)  # too few to have ten neighbours
    batch = embedding.run_batch(agent, config, run, 40)
    columns = read_run(source).columns
    assert {tuple(row) for row in batch.obs["state"].reshape(-1, 2).tolist()} <= {
        *map(tuple, columns["state"].tolist())
    }
    critic = embedding.critic_of(agent, "a run")
    found = embedding.seen(agent, batch, critic)
    counts = batch.is_first[:, 1] == 0
    mean, std = (torch.from_numpy(x) for x in (columns["state"].mean(0), columns["state"].std(0)))
    state = (batch.obs["state"][:, 0] - mean) / std
    q = critic(state[counts], batch.action[:, 1][counts])[0]
    np.testing.assert_allclose(found.q, q.detach().numpy(), rtol=0.02, atol=0.02)
    assert np.array_equal(found.reward, batch.reward[:, 1][counts].double().numpy())
    once = embedding.different(embedding.Pairs(*(np.concatenate([x, x]) for x in found)))
    assert len(once.reward) == len(np.unique(found.hidden, axis=0))


def test_the_target_return_is_part_of_the_data(tmp_path: Path) -> None:
    source = worldrl.train(MISA, tmp_path / "source")
    learning = {**MISA, "data": {"name": str(source), "normalize": True}, "updates": 3, "frames": 0}
    agent, config = load_agent(
        worldrl.train({**learning, "env": {**MISA["env"], "target_return": 5}}, tmp_path / "run")
    )
    assert embedding.run_batch(agent, config, tmp_path / "run", 40).obs["return_to_go"].shape == (40, 2, 1)


def test_a_critic_without_such_a_layer_and_a_run_without_rows_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare: dict[str, Any] = {**MISA, "checkpoint": {"replay": False}}
    other: dict[str, Any] = {**LEARNING, "agent": "sac", "head": {"name": "sac", "units": 8}, "policy": {"name": "own"}}
    runs = [worldrl.train(each, tmp_path / str(i)) for i, each in enumerate((bare, other))]
    assert main(["embedding", str(runs[0]), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "checkpoint.replay=true" in error
    assert len(error.splitlines()) == 1
    agent, _ = load_agent(runs[1])
    agent.head.critic = torch.nn.Identity()
    with pytest.raises(worldrl.errors.UserError):
        embedding.critic_of(agent, "a run")
