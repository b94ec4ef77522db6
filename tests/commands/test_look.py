"""The studies of a belief, against toys whose answer is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.errors import refusing
from tests.toy_runs import SLAC, SMALL, STATE_SAC, make_run
from worldrl.acting.collect import by_mode, collect
from worldrl.acting.recording import Episode, Filtered, Recorder, conditions, filter_rows
from worldrl.beliefs.stack import Stack
from worldrl.commands.look import main
from worldrl.compose import compose
from worldrl.errors import UserError
from worldrl.runs.trained import load_agent
from worldrl.studies.beliefs import doubt, many_paths, prediction, probe
from worldrl.types import EnvSpec, ObsSpec, box

STATE_RSSM = {**SMALL, "task": "tests.envs.toy_envs:Count", "env.obs": "state"}
COUNT = {**STATE_SAC, "task": "tests.envs.toy_envs:Count", "belief": "tests.toy_beliefs:CountBelief"}
ROWS = 6  # of an episode of the toys


def recorder_of(run: Path, episodes: int = 4, **settings: Any) -> Recorder:
    agent, config = load_agent(run, device="cpu")
    return Recorder(agent, config, seed=5, episodes=episodes, **settings)


@pytest.fixture(scope="module")
def state_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("state") / "run", STATE_RSSM)


@pytest.fixture(scope="module")
def count_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("count") / "run", COUNT)


# --- recording --------------------------------------------------------------------------------------------------------


def test_corruptions_are_seen_on_the_same_episodes(state_run: Path) -> None:
    recorder = recorder_of(state_run, episodes=2)
    clean, noisy = conditions(recorder.config, ["gaussian"], [0.3])["gaussian"]
    assert recorder.under(clean.config) is recorder.played()  # the run's own corruption is none
    for plain, other in zip(recorder.played(), recorder.under(noisy.config), strict=True):
        np.testing.assert_array_equal(plain.action, other.action)
        np.testing.assert_array_equal(plain.reward, other.reward)
        for name, values in plain.truth.items():
            np.testing.assert_array_equal(values, other.truth[name])
        added = other.obs["state"] - plain.obs["state"]
        assert 0.1 < added.std() < 0.6
    again = recorder_of(state_run, episodes=2).under(noisy.config)
    np.testing.assert_array_equal(again[1].obs["state"], other.obs["state"])


def test_an_environment_that_does_not_fit_the_agent_is_one_line(state_run: Path) -> None:
    agent, config = load_agent(state_run, device="cpu")
    other = replace(config, task="tests.envs.toy_envs:Choice")
    with pytest.raises(UserError):
        Recorder(agent, other, seed=5, episodes=1).played()
    with pytest.raises(UserError):
        collect(other.env, other.task, 5, 10, by_mode(agent))
    with pytest.raises(UserError):
        many_paths._returns(agent, other, 1, 5, 2)


def test_rows_keep_the_time_convention(state_run: Path) -> None:
    """Count observes (step, last action, mark) and is rewarded with its step."""
    for episode in recorder_of(state_run).played():
        np.testing.assert_array_equal(episode.reward, np.arange(ROWS))
        np.testing.assert_array_equal(episode.truth["observation 0"], np.arange(ROWS))
        np.testing.assert_array_equal(episode.action[0], 0)
        np.testing.assert_allclose(episode.truth["observation 1"][1:], 2 * (episode.action[1:, 0] + 1), rtol=1e-6)
        assert len(set(episode.truth["observation 2"])) == 1
    assert [len(e.reward) for e in recorder_of(state_run, rows=3).played()] == [3] * 4


def test_filtering_is_what_the_acting_belief_was(state_run: Path) -> None:
    recorder = recorder_of(state_run, episodes=1)
    first, second = (recorder.filtered(recorder.config)[0] for _ in range(2))
    np.testing.assert_array_equal(first.feat, second.feat)
    assert first.feat.shape == (ROWS, 12)
    assert first.entropy.shape == (ROWS,)
    means = [filter_rows(recorder.agent, recorder.played(), seed, deterministic=True)[0].feat for seed in (5, 6)]
    np.testing.assert_array_equal(*means)  # no draw is left in it
    assert not np.array_equal(filter_rows(recorder.agent, recorder.played(), 6)[0].feat, first.feat)


def test_episodes_side_by_side_are_filtered_as_if_alone(state_run: Path) -> None:
    """Also where they differ in length: the one that is over must not disturb the others."""
    recorder = recorder_of(state_run, episodes=2)
    short, long = recorder.played()
    short = Episode(short.number, {"state": short.obs["state"][:4]}, short.action[:4], short.reward[:4], {})
    together = filter_rows(recorder.agent, [short, long], 5, deterministic=True)
    assert [len(found.feat) for found in together] == [len(found.entropy) for found in together] == [4, ROWS]
    for episode, found in zip((short, long), together, strict=True):
        (alone,) = filter_rows(recorder.agent, [episode], 5, deterministic=True)
        np.testing.assert_allclose(found.feat, alone.feat, atol=1e-5)
        np.testing.assert_allclose(found.entropy, alone.entropy, atol=1e-4)


def test_any_number_among_the_corruption_settings_is_a_kind(state_run: Path) -> None:
    _, config = load_agent(state_run, device="cpu")
    found = conditions(config, ["flicker", "missing"], [0.5, 0.1])
    assert [(c.kind, c.level) for c in found["flicker"]] == [("flicker", 0.0), ("flicker", 0.1), ("flicker", 0.5)]
    assert found["missing"][2].config.env.corruption.missing == 0.5
    assert found["missing"][2].config.env.corruption.apply == "both"
    for kind, level, words in (
        ("gausian", 0.1, "unknown corruption 'gausian'; did you mean: gaussian"),
        ("burst_length", 3, "unknown corruption 'burst_length'"),
        ("missing", 2.0, "missing: found 2.0"),
        ("apply", 0.1, "apply"),
    ):
        with pytest.raises(UserError, match=words):
            conditions(config, [kind], [level])


def test_bursts_have_the_length_asked_for() -> None:
    config = compose({"task": "cartpole_balance", "agent": "sac"})
    for asked, length in ((None, config.env.corruption.burst_length), (3, 3)):
        found = conditions(config, ["bursts"], [0.3], asked)["bursts"]
        assert [(c.level, c.config.env.corruption.burst_length) for c in found] == [(0.0, length), (0.3, length)]
    with refusing("env.corruption.burst_length", found="0", expected="1"):
        conditions(config, ["bursts"], [0.3], 0)


# --- prediction -------------------------------------------------------------------------------------------------------


def test_open_loop_prediction_is_aligned_with_what_came(count_run: Path) -> None:
    """The toy knows the rules: step + 1, the action that leads there, the same mark. Any shift would be an error."""
    recorder = recorder_of(count_run)
    windows = prediction.cut_windows(recorder.played(), 5, count=7)
    assert windows.action.shape == (7, 5, 1)
    found = prediction.predict(recorder.agent, windows, context=2, seed=0)
    np.testing.assert_allclose(found.predicted["state"], windows.obs["state"], atol=1e-6)
    wrong = prediction.errors(found, 2)["state"]
    assert max(wrong["open_loop"]) < 1e-6
    assert max(wrong["reconstruction"]) == 0
    assert 0.3 < wrong["last_seen"][0] < wrong["last_seen"][2]
    assert wrong["mean"][1] > 0.3
    moved = windows._replace(action=np.roll(windows.action, 1, axis=1))
    assert max(prediction.errors(prediction.predict(recorder.agent, moved, 2, 0), 2)["state"]["open_loop"]) > 1e-3


def test_windows_are_spread_and_never_cross_episodes(count_run: Path) -> None:
    episodes = recorder_of(count_run).played()
    windows = prediction.cut_windows(episodes, 3, count=100)
    assert len(windows.action) == 4 * 4  # all there are
    np.testing.assert_array_equal(np.diff(windows.obs["state"][..., 0], axis=1), 1)
    with refusing("context + horizon", found="7", expected="6"):
        prediction.cut_windows(episodes, 7, count=1)


def test_images_err_in_units_of_white() -> None:
    truth = np.zeros((2, 3, 4, 4, 3), np.uint8)
    found = prediction.Prediction({"pixels": truth}, {"pixels": truth + 51}, {"pixels": truth + 255})
    wrong = prediction.errors(found, 1)["pixels"]
    np.testing.assert_allclose(wrong["open_loop"], [1, 1])
    np.testing.assert_allclose(wrong["reconstruction"], [0.2, 0.2])


def test_vectors_err_in_their_own_deviations() -> None:
    """Entries of a hundred times the size weigh no more."""
    truth = np.random.default_rng(0).standard_normal((50, 4, 2)) * [1.0, 100.0]
    large, small = np.array([0.0, 100.0]), np.array([1.0, 0.0])
    found = prediction.Prediction({"state": truth}, {"state": truth + large}, {"state": truth + small})
    wrong = prediction.errors(found, 1)["state"]
    np.testing.assert_allclose(wrong["open_loop"], 0.5**0.5, rtol=0.15)
    np.testing.assert_allclose(wrong["reconstruction"], 0.5**0.5, rtol=0.15)


def test_the_belief_is_shown_normalised_observations(state_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an agent that normalises: prediction and surprise are those of one that is shown such rows."""
    recorder = recorder_of(state_run, episodes=1)
    agent, (episode,) = recorder.agent, recorder.played()
    shown = episode._replace(obs={key: x + np.float32(2.0) for key, x in episode.obs.items()})

    def found(episode: Episode) -> list[np.ndarray]:
        windows = prediction.cut_windows([episode], 4, count=3)
        return [doubt.surprise(agent, episode, 5), prediction.predict(agent, windows, 2, 0).predicted["state"]]

    expected, plain = found(shown), found(episode)
    monkeypatch.setattr(agent, "normalized", lambda obs: {key: x + 2.0 for key, x in obs.items()})
    for ours, want, other in zip(found(episode), expected, plain, strict=True):
        np.testing.assert_allclose(ours, want, rtol=1e-5, atol=1e-5)
        assert not np.allclose(ours, other, atol=1e-3)


# --- noise ------------------------------------------------------------------------------------------------------------


def test_noise_is_a_paired_change(state_run: Path) -> None:
    recorder = recorder_of(state_run)
    records = doubt.measure(recorder, conditions(recorder.config, ["gaussian", "missing"], [2.0, 0.5][1:]))
    assert [(r["kind"], r["level"]) for r in records] == [
        ("gaussian", 0.0), ("gaussian", 0.5), ("missing", 0.0), ("missing", 0.5)
    ]  # fmt: skip
    assert records[0] == {**records[2], "kind": "gaussian"}
    assert records[0]["entropy_change"] == records[0]["kl_change"] == records[0]["kl_change_interval"] == 0
    for record in records:
        for name in ("entropy", "kl"):
            assert len(record[f"{name}_by_row"]) == ROWS
            assert record[name] == pytest.approx(np.mean(record[f"{name}_by_row"]))
            assert record[f"{name}_change"] == pytest.approx(record[name] - records[0][name], abs=1e-6)
    assert records[1]["kl"] != records[0]["kl"]


def test_rows_are_averaged_over_the_episodes_that_have_them() -> None:
    assert doubt.by_row([np.array([1.0, 2, 3]), np.array([3.0])]).tolist() == [2, 2, 3]


# --- probe ------------------------------------------------------------------------------------------------------------


def synthetic(rng: np.random.Generator, feat: Any, count: int = 4) -> tuple[list[Episode], list[Filtered]]:
    """Episodes whose state is (moving, moving, still), with features made from it."""
    episodes, filtered = [], []
    for i in range(count):
        state = np.concatenate([rng.standard_normal((80, 2)), np.ones((80, 1))], 1)
        truth = {f"x{j}": column for j, column in enumerate(state.T)}
        episodes.append(Episode(i, {}, np.zeros((80, 1)), np.zeros(80), truth))
        filtered.append(Filtered(feat(state), np.zeros(80)))
    return episodes, filtered


def test_the_probe_reads_a_linear_feature_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    mixing, shift = rng.standard_normal((3, 7)) * 10, rng.standard_normal(7)
    exact = probe.score(*synthetic(rng, lambda state: state @ mixing + shift))
    assert (exact[:2] > 0.9999).all()
    assert np.isnan(exact[2])  # what does not move has no R squared
    unrelated = probe.score(*synthetic(rng, lambda state: rng.standard_normal((80, 7))))
    assert (unrelated[:2] < 0.1).all()
    half = probe.score(*synthetic(rng, lambda state: state[:, :1] + rng.standard_normal((80, 1))))
    assert half[0] == pytest.approx(0.5, abs=0.15)  # of x + noise of the same size


def test_ridge_is_the_minimum_of_its_own_cost() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((30, 4)) * [1, 2, 3, 4] + 5, rng.standard_normal((30, 2))
    found = probe.fit(x, y, 0.3)

    def cost(p: probe.Probe) -> float:
        scaled = p.weights * x.std(0)[:, None]
        return float(np.square(y - p(x)).sum() / len(x) + 0.3 * np.square(scaled).sum())

    for _ in range(20):
        other = found._replace(weights=found.weights + 1e-3 * rng.standard_normal((4, 2)))
        assert cost(found) < cost(other)


def test_the_penalty_follows_the_held_out_episodes() -> None:
    rng = np.random.default_rng(2)
    x = [rng.standard_normal((20, 30)) for _ in range(3)]
    assert probe.choose_penalty(x, [part[:, :1] for part in x]) < 0.1
    noise = [rng.standard_normal((20, 1)) for _ in x]
    assert probe.choose_penalty(x, noise) >= 1.0
    settling = [np.hstack([part[:, :1], 1e-9 * jitter]) for part, jitter in zip(x, noise, strict=True)]
    assert probe.choose_penalty(x, settling) < 0.1  # a coordinate that hardly moves has no say


def test_the_probe_finds_the_state_in_a_belief_that_is_the_state(count_run: Path) -> None:
    recorder = recorder_of(count_run, episodes=8)
    records = probe.measure(recorder, conditions(recorder.config, ["gaussian"], [3.0]))
    assert records[0]["trained"]["observation 0"] > 0.999
    assert records[1]["trained"]["observation 0"] < 0.9
    assert (
        probe.table({"episodes": 6, "records": records}).splitlines()[2].startswith("| observation 0 | 1.00 (1.00) |")
    )


def test_the_probe_reads_posterior_means(count_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, seen = recorder_of(count_run), []
    filtered = recorder.filtered
    monkeypatch.setattr(recorder, "filtered", lambda *args, **how: seen.append(how) or filtered(*args, **how))
    probe.measure(recorder, conditions(recorder.config, ["gaussian"], []))
    assert seen == [{"deterministic": True}] * 2  # trained and untrained


def test_the_probe_says_what_it_needs(count_run: Path) -> None:
    with refusing("episodes", found="1", expected="2"):
        probe.score([None], [None])  # type: ignore[list-item]
    blind = recorder_of(count_run, episodes=2).played()
    with pytest.raises(UserError, match="images only"):
        probe.score([episode._replace(truth={}) for episode in blind], [Filtered(np.zeros((6, 1)), np.zeros(6))] * 2)


def test_the_baseline_has_fresh_weights(state_run: Path) -> None:
    recorder = recorder_of(state_run, episodes=2)
    first, second = probe.untrained(recorder), probe.untrained(recorder)
    weights = [agent.model.state_dict()["gru.weight_hh"] for agent in (recorder.agent, first, second)]
    assert not weights[0].equal(weights[1])
    assert weights[1].equal(weights[2])


# --- marginal ---------------------------------------------------------------------------------------------------------


def test_the_marginal_policy_plays_the_same_episodes(state_run: Path) -> None:
    agent, config = load_agent(state_run, device="cpu")
    records = many_paths.measure(agent, conditions(config, ["gaussian"], [0.5]), episodes=2, seed=3, particles=2)
    for record in records:
        assert record["single"] == record["marginal"] == [15.0, 15.0]  # Count rewards its step, whatever is done
        assert record["gain"] == record["gain_interval"] == 0


def test_the_gain_is_that_of_the_marginal_policy(state_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, config = load_agent(state_run, device="cpu")
    played: list[int] = []

    def returns(agent: Any, config: Any, episodes: int, seed: int, particles: int) -> list[float]:
        played.append(particles)
        return [2.0, 4.0, 6.0] if particles else [1.0, 2.0, 3.0]

    monkeypatch.setattr(many_paths, "_returns", returns)
    (record,) = many_paths.measure(agent, conditions(config, ["gaussian"], []), episodes=3, seed=3, particles=2)
    assert played == [0, 2]
    assert record["gain"] == 2.0
    assert record["gain_interval"] == pytest.approx(4.3026527 / 3**0.5, rel=1e-5)  # of t with 2 degrees of freedom


def test_the_marginal_policy_acts_on_its_paths(state_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, config = load_agent(state_run, device="cpu")
    paths, act = set(), agent.head.act
    monkeypatch.setattr(agent.head, "act", lambda belief, *rest: paths.add(len(belief.particles)) or act(belief, *rest))
    many_paths.measure(agent, conditions(config, ["gaussian"], []), episodes=1, seed=3, particles=2)
    assert paths == {0, 2}


def test_points_are_refused(count_run: Path) -> None:
    recorder = recorder_of(count_run)
    by_kind = conditions(recorder.config, ["gaussian"], [0.1])
    with refusing(found="CountBelief", expected="entropy"):
        doubt.measure(recorder, by_kind)
    with refusing(found="CountBelief", expected="paths"):
        many_paths.measure(recorder.agent, by_kind, 1, 0, 4)


def test_a_stack_has_no_paths_to_average_over(count_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = recorder_of(count_run)
    stack = Stack(Stack.Config(), EnvSpec("any", {"state": ObsSpec((3,), "float32")}, box(1)))
    monkeypatch.setattr(recorder.agent, "model", stack)
    with pytest.raises(UserError):
        many_paths.measure(recorder.agent, conditions(recorder.config, ["gaussian"], [0.1]), 1, 0, 4)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_makes_every_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", SMALL, **{"env.obs": "both"})
    line = "--episodes 2 --context 2 --horizon 3 --particles 2 --corruption gaussian --level 0.1 --device cpu"
    capsys.readouterr()
    assert main([str(run), *line.split()]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:4]] == ["prediction", "noise", "probe", "marginal"]
    out = run / "inside"
    assert {path.name for path in out.iterdir()} == {
        *(f"{name}.{suffix}" for name in ("prediction", "noise", "probe", "marginal") for suffix in ("json", "png")),
        *("prediction_pixels.mp4", "prediction_pixels.png", "probe.md"),
    }
    assert set(json.loads((out / "prediction.json").read_text())["errors"]) == {"pixels", "state"}
    levels = [record["level"] for record in json.loads((out / "probe.json").read_text())["records"]]
    assert levels == [0.0, 0.1]


def test_the_command_studies_slac(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", SLAC)
    line = "--episodes 2 --context 2 --horizon 3 --corruption missing --level 0.1 --device cpu"
    assert main([str(run), *line.split()]) == 0
    assert "marginal: skipped: head" in capsys.readouterr().out
    assert json.loads((run / "inside" / "noise.json").read_text())["records"][1]["kl"] > 0


def test_the_command_skips_what_the_agent_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", STATE_SAC)
    line = "--episodes 2 --corruption gaussian --level 0.1 --device cpu"
    assert main([str(run), *line.split()]) == 0
    said = capsys.readouterr().out
    assert "prediction: skipped" in said
    assert "noise: skipped: belief: found Identity, which is a point" in said
    assert (run / "inside" / "probe.json").is_file()
    assert main([str(run), *line.split(), "--study", "marginal"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--corruption gausian", "did you mean: gaussian"),
        ("--corruption missing --level 1.5", "missing: found 1.5"),
        ("--episodes 0", "--episodes: found '0', expected a whole number, 1 or more"),
        ("--horizon 0", "--horizon: found '0', expected a whole number, 1 or more"),
        ("--study prediction", "context + horizon: found 50 rows, expected at most"),
        ("--out {run}/config.yaml/x", "choose another folder with --out"),
        ("--device cuda:99", "device"),
    ],
)
def test_mistakes_are_one_line(
    line: str, words: str, state_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    if "cuda" in line and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    options = line.format(run=state_run).split()
    assert main([str(state_run), "--device", "cpu", "--out", str(tmp_path), *options]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert words in err


def test_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "no run in" in capsys.readouterr().err
