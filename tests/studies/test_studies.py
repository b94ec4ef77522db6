"""The studies: their truths against exact ones, and the commands end to end at the smallest sizes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import worldrl
from tests.test_agent import build
from worldrl.config import config_from_dict
from worldrl.envs import make_envs
from worldrl.errors import Diverged
from worldrl.nn.functional import normal_entropy, tanh_log_det
from worldrl.nn.mlp import MLP
from worldrl.policies.action_prior import MarginalPolicy
from worldrl.runs.checkpoint import Checkpoints
from worldrl.studies import action_prior, bandit, during_training, entropy, pools, variance
from worldrl.studies.__main__ import main
from worldrl.studies.entropy import Pool, draw, estimate, true_entropy
from worldrl.studies.variance import relative_spread


def test_truth_lies_between_its_bounds_and_the_estimators_around_it() -> None:
    """Latents N(0, 1) and actions N(s, 0.3^2): the marginal before tanh is N(0, 1.09)."""
    pool = Pool(torch.randn(20_000, 1), torch.full((20_000, 1), 0.3))
    pre_tanh, s_0 = draw(pool, 2_000)
    normal = torch.distributions.Normal(0.0, math.sqrt(1.09))
    exact = (tanh_log_det(pre_tanh) - normal.log_prob(pre_tanh))[:, 0].double()
    lower, upper = true_entropy(pool, pre_tanh, s_0)
    assert lower.mean() < upper.mean()
    assert float((lower - exact).mean()) == pytest.approx(0.0, abs=0.02)
    assert float((upper - lower).mean()) < 2e-3
    estimates = estimate(pool, pre_tanh, s_0, [1, 8])
    means = {name: float(values[8].mean()) for name, values in estimates.items()}
    assert means["nested"] < float(exact.mean()) < means["iwae"] < means["naive"]
    assert estimates["nested"][1].mean() < means["nested"]


def test_the_upper_bound_holds_where_the_pool_is_sparse() -> None:
    """Between 2,000 latents in six dimensions there is nothing: without s_0 the density is next to none."""
    pool = Pool(torch.randn(2_000, 6), torch.full((2_000, 6), 0.02))
    pre_tanh, s_0 = draw(pool, 40)
    _, upper = true_entropy(pool, pre_tanh, s_0)
    for u, own, found in zip(pre_tanh.double(), s_0, upper, strict=True):
        others = torch.arange(2_000) != own
        normal = torch.distributions.Normal(pool.mean[others].double(), 0.02)
        expected = math.log(1_999) - normal.log_prob(u).sum(-1).logsumexp(0) + tanh_log_det(u).sum()
        assert float(found) == pytest.approx(float(expected), rel=1e-4)
    assert float(upper.mean()) > 100.0


def test_the_reward_of_the_bandit_is_a_log_density() -> None:
    """Of four Gaussians, whose entropy is known as far as they hardly overlap."""
    grid = torch.linspace(-1.5, 1.5, 301, dtype=torch.float64)
    log_p = bandit.reward(torch.cartesian_prod(grid, grid))
    cell = float(grid[1] - grid[0]) ** 2
    assert float(log_p.exp().sum()) * cell == pytest.approx(1.0, abs=1e-4)
    expected = math.log(4) + float(normal_entropy(torch.full((2,), bandit.STD)))
    assert float(-(log_p.exp() * log_p).sum()) * cell == pytest.approx(expected, abs=0.02)


def test_a_mode_is_found_where_a_tenth_of_the_actions_is_near_its_centre() -> None:
    centres = torch.tensor(bandit.CENTRES)
    action = centres.repeat_interleave(torch.tensor([70, 12, 9, 9]), 0) + 0.01
    assert bandit.masses(action).tolist() == pytest.approx([0.70, 0.12, 0.09, 0.09])
    assert bandit.modes_found(action) == 2


def test_broad_actions_find_no_mode_and_those_of_the_best_policy_all() -> None:
    uniform, gaussian = 2 * torch.rand(20_000, 2) - 1, torch.tanh(torch.randn(20_000, 2))
    best = torch.tensor(bandit.CENTRES)[torch.randint(4, (20_000,))] + bandit.STD * torch.randn(20_000, 2)
    assert [bandit.modes_found(action) for action in (uniform, gaussian, best)] == [0, 0, 4]


def test_relative_spread_of_a_known_gradient() -> None:
    samples = torch.tensor([3.0, 4.0], dtype=torch.float64) + 0.5 * torch.randn(4_000, 2, dtype=torch.float64)
    assert relative_spread(samples)[0] == pytest.approx(math.sqrt(0.5) / 5.0, rel=0.05)


def test_a_weak_signal_is_not_overrated_by_what_noise_is_left_in_the_mean() -> None:
    samples = torch.tensor([0.3, 0.4], dtype=torch.float64) + 2.0 * torch.randn(4_000, 40, 2, dtype=torch.float64)
    squares = samples.square().sum((1, 2))
    total = samples.sum(1).square().sum(-1)
    spread = (squares - total / 40) / 39
    signal = total / 40**2 - spread / 40
    assert float(signal.mean()) == pytest.approx(0.25, abs=0.03)  # not 0.45, as without the correction
    values = variance._quotient(squares, total, 40)
    told = signal > 0
    torch.testing.assert_close(values[told], (spread / signal).sqrt()[told])
    assert bool(torch.isnan(values[~told]).all())
    assert bool((~told).any())


def test_the_standard_error_of_a_relative_spread() -> None:
    """Against the spread of many estimates from samples of their own."""
    samples = torch.tensor([3.0, 4.0], dtype=torch.float64) + 2.0 * torch.randn(400, 50, 2, dtype=torch.float64)
    found = torch.tensor([relative_spread(each) for each in samples])
    assert float(found[:, 1].square().mean().sqrt()) == pytest.approx(float(found[:, 0].std()), rel=0.15)


def test_a_spread_whose_signal_the_samples_do_not_show_is_no_number() -> None:
    assert math.isnan(relative_spread(torch.tensor([[-1.0, 2.0], [1.0, -2.0]]))[0])


def test_the_noise_in_the_states_of_a_trained_agent(study_agent: Study, tmp_path: Path) -> None:
    command = ["variance", "some_run", "--repeats", "3"]
    assert study_agent("identity", "sac+latent", command=command) == 0
    noise = json.loads((tmp_path / "variance.json").read_text())
    assert {len(noise[name]) for name in ("nested", "mlmc", "mlmc_fresh")} == {6}
    _, x = pools.run_latents(Path("some_run"), 64)
    assert x.shape == (4, 2)  # of an episode of twenty steps
    assert len(x.unique(dim=0)) == 4
    assert study_agent("identity", "sac", command=command) == 2


def test_an_unresolved_gradient_is_said_and_null_in_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(variance, "relative_spread", lambda samples: (math.nan, math.nan))
    assert main(["variance", "--steps", "2", "--repeats", "2", "--out", str(tmp_path)]) == 0
    assert "not resolved by 2 repeats" in capsys.readouterr().out
    text = (tmp_path / "variance.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["nested"]["1"]["gradient"] is None


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["bandit", "--policy", "own", "latent", "--seeds", "2", "--steps", "2"], "modes_found"),
        (["entropy", "--steps", "2"], "training"),
        (["variance", "--steps", "2", "--repeats", "2"], "nested"),
        (["counterexample", "--k", "10"], "wrong_action"),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else x,
)
def test_each_command_writes_a_picture_and_its_numbers(arguments: list[str], key: str, tmp_path: Path) -> None:
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert (tmp_path / f"{arguments[0]}.png").stat().st_size > 10_000
    numbers = json.loads((tmp_path / f"{arguments[0]}.json").read_text())
    assert key in numbers
    assert numbers["settings"]["study"] == arguments[0]


Study = Callable[..., int]


@pytest.fixture
def study_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Runs ``entropy`` on a fresh agent, which is handed over and not loaded; returns the exit code."""

    def run(
        belief: str, head: str, pool: int = 50, bare: bool = False, command: list[str] | None = None, **settings: Any
    ) -> int:
        task = "tests.test_agent:Chase"
        config = config_from_dict({"task": task, "env.obs": "state", "env.action_repeat": 1})
        envs = make_envs(config.env, task, seed=0)
        agent = build(belief, head, envs.spec, **settings)
        envs.close()
        if bare:
            del agent.head.policy  # as a head of one's own may have none
        monkeypatch.setattr(pools, "load_agent", lambda run_dir: (agent, config))
        command = command or ["entropy", "some_run", "--states", "2", "--pool", str(pool)]
        return main([*command, "--out", str(tmp_path)])

    return run


@pytest.mark.parametrize(
    ("belief", "head", "settings"),
    [
        ("identity", "sac+latent", {}),
        ("rssm", "sac+latent", {"head.actor_input": "context"}),
        ("rssm", "sac", {}),
        ("rssm", "dreamer", {}),
    ],
)
def test_trained_agents_are_studied_in_the_states_that_they_visit(
    belief: str, head: str, settings: dict[str, Any], study_agent: Study, tmp_path: Path
) -> None:
    """The latents are the policy's own, or the paths of the belief."""
    assert study_agent(belief, head, **settings) == 0
    found = json.loads((tmp_path / "entropy.json").read_text())["some_run"]
    assert found["truth"]["lower"] <= found["truth"]["upper"] + 0.01
    assert set(found["estimates"]) == {"naive", "iwae", "nested", "mlmc"}


def test_entropy_is_the_same_in_a_second_call() -> None:
    pool = Pool(torch.randn(50, 2), torch.rand(50, 2) + 0.1)
    found = [(torch.seed(), entropy.study([pool], [1, 2], n=8))[1] for _ in range(2)]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("belief", "head", "settings", "message"),
    [
        ("identity", "sac", {}, "found head SAC with policy TanhGaussian, actor_input=feat, on belief Identity"),
        ("rssm", "slac", {}, "found head SLAC with policy TanhGaussian, actor_input=context, on belief RSSM"),
        ("rssm", "td3", {}, "found head TD3 with policy Deterministic"),
        ("rssm", "sac+mixture", {}, "found head SAC with policy Mixture"),
        ("identity", "sac", {"bare": True}, "found head SAC with policy NoneType"),
        ("rssm", "sac", {"pool": 1}, "--pool: found 1, expected 2 or more"),
    ],
)
def test_agents_without_latents_are_refused_in_one_line(
    belief: str,
    head: str,
    settings: dict[str, Any],
    message: str,
    study_agent: Study,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert study_agent(belief, head, **settings) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_wrong_use_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["bandit", "--policy", "own", "categorical", "--out", str(tmp_path)]) == 2
    assert main(["bandit", "--policy", "lattent", "--out", str(tmp_path)]) == 2
    assert "unknown policy 'lattent'" in capsys.readouterr().err
    for arguments, message in (
        (["bandit", "--seeds", "0"], "found '0', expected a whole number, 1 or more"),
        (["counterexample", "--k", "1"], "found '1', expected a whole number, 2 or more"),
        (["grid", "--beta", "1e-6"], "found '1e-6', expected 0.001 or more"),
        (["counterexample", "--gamma", "2"], "found '2', expected a number above 0 and at most 1"),
        (["marginal", str(tmp_path / "none")], "none"),
    ):
        assert main([*arguments, "--out", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    assert main(["nothing"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


LEARNING: dict[str, Any] = {
    "agent": "smac_state",
    "task": "tests.test_agent:Chase",
    "belief": {"name": "identity"},
    "head": {"name": "sac", "units": 8},
    "policy": {"name": "latent", "latent": 2, "num_particles": 2},
    "env": {"obs": "state", "action_repeat": 1},
    "replay": {"batch": 4, "length": 2, "capacity": 500},
    "schedule": {"prefill": 20, "updates_per_1000_frames": 100},
    "eval": {"every": 0},
    "frames": 40,
}
ALONG = ["--every", "40", "--states", "2", "--pool", "50"]


def read_runs(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "entropy_training.json").read_text())["runs"]


def test_entropy_along_the_training_of_a_run(tmp_path: Path) -> None:
    """The study trains the run on; its points are where the run stood, and the run is left where the last one is."""
    run, out = worldrl.train(LEARNING, tmp_path / "run"), ["--out", str(tmp_path)]
    assert main(["entropy", str(run), "--until", "80", *ALONG, *out]) == 0
    first = read_runs(tmp_path)[str(run)]
    assert [point["frames"] for point in first["points"]] == [40, 80]
    assert set(first["points"][0]) == {"frames", "lower", "upper", "naive", "iwae", "nested", "mlmc"}
    assert main(["entropy", str(run), "--until", "100", *ALONG, *out]) == 0
    second = read_runs(tmp_path)[str(run)]
    assert second["points"][:2] == first["points"]  # those that were known are kept
    assert [point["frames"] for point in second["points"]] == [40, 80, 100]
    assert Checkpoints(run).frames() == 100
    for refused in (["entropy", str(run), *ALONG, "--states", "3"], ["entropy", *ALONG]):
        assert main([*refused, "--until", "100", *out]) == 2  # points of other states would be lost; no run
    other = worldrl.train({**LEARNING, "seed": 7}, tmp_path / "other")
    assert main(["entropy", str(other), "--until", "40", *ALONG, *out]) == 0
    assert read_runs(tmp_path)[str(run)] == second  # a run that was not named is kept
    assert main(["marginal", str(run), *out]) == 2


def test_points_are_where_the_run_came_to_and_numbers_that_are_none_stay(tmp_path: Path) -> None:
    """Actions of three frames, and episodes of twenty, go beyond what was asked for."""
    run = worldrl.train({**LEARNING, "env": {"obs": "state", "action_repeat": 3}, "frames": 30}, tmp_path / "run")
    command = ["entropy", str(run), "--every", "10", "--states", "2", "--pool", "50", "--out", str(tmp_path)]
    assert main([*command, "--until", "50"]) == 0
    path = tmp_path / "entropy_training.json"
    points = read_runs(tmp_path)[str(run)]["points"]
    assert [point["frames"] for point in points] == [32, 43, 52]
    points[1]["naive"] = None  # as an infinite one is written
    record = json.loads(path.read_text())
    record["runs"][str(run)]["points"] = points
    path.write_text(json.dumps(record))
    assert main([*command, "--until", "60"]) == 0
    found = read_runs(tmp_path)[str(run)]["points"]
    assert found[:3] == points
    assert [point["frames"] for point in found[3:]] == [Checkpoints(run).frames()]


def test_a_study_that_is_stopped_keeps_what_it_knew_of_all_runs(tmp_path: Path, monkeypatch) -> None:
    runs = [worldrl.train({**LEARNING, "seed": seed}, tmp_path / str(seed)) for seed in (1, 2)]
    command = ["entropy", *map(str, runs), *ALONG, "--out", str(tmp_path)]
    assert main([*command, "--until", "80"]) == 0
    point, looks = during_training.Look.point, []

    def stopped(look: during_training.Look, run: Path, frames: int) -> during_training.Point:
        looks.append(frames)
        if len(looks) == 2:
            raise KeyboardInterrupt
        return point(look, run, frames)

    monkeypatch.setattr(during_training.Look, "point", stopped)
    assert main([*command, "--until", "160"]) == 130
    first, second = read_runs(tmp_path).values()
    assert [point["frames"] for point in first["points"]] == [40, 80, 120]
    assert [point["frames"] for point in second["points"]] == [40, 80]


def test_a_run_that_diverges_ends_its_own_curve_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [worldrl.train({**LEARNING, "seed": seed}, tmp_path / str(seed)) for seed in (1, 2)]
    trained = during_training.resume

    def resume(run: Path, changes: dict[str, int]) -> None:
        if run == runs[0] and changes["frames"] > 80:
            raise Diverged("loss/actor was not finite at update 9")
        trained(run, changes)

    monkeypatch.setattr(during_training, "resume", resume)
    assert main(["entropy", *map(str, runs), "--until", "120", *ALONG, "--out", str(tmp_path)]) == 0
    first, second = read_runs(tmp_path).values()
    assert [point["frames"] for point in first["points"]] == [40, 80]
    assert first["diverged"] == "loss/actor was not finite at update 9"
    assert [point["frames"] for point in second["points"]] == [40, 80, 120]
    assert second["diverged"] is None
    assert [first["label"], second["label"]] == ["smac_state seed=1", "smac_state seed=2"]
    assert (tmp_path / "entropy_training.png").stat().st_size > 10_000


class TwoSided(MarginalPolicy):
    """Half of its actions are near -0.5 and half near 0.5, in each of two dimensions together."""

    def __init__(self) -> None:
        super().__init__(action_dim=2, units=4, layers=1, samples=1)

    def _stats(self, net: MLP, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        side = torch.where(x[..., :1] > 0, 1.0, -1.0).expand(x.shape)
        return 0.55 * side, torch.full_like(side, 0.1)


def test_a_marginal_policy_is_compared_with_the_actions_that_it_describes() -> None:
    """The actions are its own: its mean log-density is minus its entropy, and one Gaussian is worse."""
    policy = TwoSided()
    action = policy.sample(4_000)
    assert float((action[:, 0] > 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    assert bool((action[:, 0].sign() == action[:, 1].sign()).all())
    found = action_prior.fit(policy, action)
    pre_tanh = torch.atanh(action.double())
    near = torch.distributions.Normal(0.55, 0.1).log_prob(pre_tanh.abs()).sum(-1) - math.log(2)
    expected = float((near - torch.log1p(-action.double().square()).sum(-1)).mean())
    assert found.learned == pytest.approx(expected, abs=0.02)
    assert found.empirical == pytest.approx(expected, abs=0.06)
    assert found.gaussian < found.learned - 1.0
    assert found.uniform == pytest.approx(-2 * math.log(2))


def test_the_entropy_of_a_sample_by_its_neighbours() -> None:
    assert action_prior.sample_entropy(2 * torch.rand(8_000, 1) - 1) == pytest.approx(math.log(2), abs=0.03)
    assert action_prior.sample_entropy(0.1 * torch.randn(8_000, 2)) == pytest.approx(
        2 * (1.4189 + math.log(0.1)), abs=0.05
    )
    assert math.isfinite(action_prior.sample_entropy(torch.ones(20, 3)))
    assert math.isfinite(action_prior.sample_entropy(torch.rand(3, 2)))
    assert math.isnan(action_prior.sample_entropy(torch.rand(1, 2)))


def test_the_marginal_policy_of_a_trained_agent_is_drawn(
    study_agent: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits, once = [], cache(pools.run_actions)
    monkeypatch.setattr("worldrl.studies.__main__.run_actions", lambda *asked: once(*asked))
    for _ in range(2):
        assert study_agent("identity", "miracle", command=["marginal", "some_run", "--actions", "60"]) == 0
        fits.append(json.loads((tmp_path / "marginal.json").read_text())["fit"])
    assert (tmp_path / "marginal.png").stat().st_size > 10_000
    assert set(fits[0]) == set(action_prior.Fit._fields)
    assert fits[0] == fits[1]


def test_no_action_is_counted_that_the_environment_does_not_take() -> None:
    """At the end of an episode the stream resets itself, whatever the agent says."""
    task = "tests.test_agent:Chase"
    config = config_from_dict({"task": task, "env.obs": "state", "env.action_repeat": 1})
    envs = make_envs(config.env, task, seed=0)
    agent = build("identity", "sac", envs.spec)
    envs.close()
    played = pools.steps(agent, config.env, task)
    lengths, length = [], 0
    while len(lengths) < 3:
        length += 1
        if next(played)[2]:
            lengths.append(length)
            length = 0
    played.close()
    assert lengths == [20, 20, 20]
