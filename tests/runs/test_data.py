"""What a run makes of a data set, and of another run's replay."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import worldrl
from tests.data.formats.test_formats import DATA, arrays, npz
from tests.data.test_episodes import made
from tests.toy_runs import STATE_SAC
from worldrl.__main__ import main
from worldrl.agent import Agent
from worldrl.data import memory
from worldrl.data.episodes import Episode, Recorded, extent, rows_of_episodes
from worldrl.data.formats import minari
from worldrl.data.replay import nbytes
from worldrl.data.settings import DataConfig
from worldrl.errors import UserError
from worldrl.registry import tiny_settings
from worldrl.runs import data as runs_data
from worldrl.runs.checkpoint import Checkpoints
from worldrl.runs.data import load_rows, read_data
from worldrl.runs.settings import load_config, save_config
from worldrl.training.experience import dataset
from worldrl.training.loop import resume
from worldrl.types import EnvSpec, ObsSpec, box, choice

COUNT = "tests.envs.toy_envs:Count"


def rows(path: Path, **settings: Any) -> Any:
    return load_rows(DataConfig(name=str(path), **settings))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return npz(tmp_path / "a.npz", arrays(True))


def test_rewards_by_name(file: Path) -> None:
    plain = rows(file).columns
    led, reward = plain["is_first"] == 0, plain["reward"]
    expected = {
        "as_is": reward,
        "minus_1": reward - 1,
        "antmaze": 4 * (reward - 0.5),
        "min_max": 2 * ((reward - reward[led].min()) / np.ptp(reward[led]) - 0.5),
        "range_1000": reward * 1000 / np.ptp(extent(plain).returns),
    }
    for name, values in expected.items():
        found = rows(file, reward=name)
        np.testing.assert_allclose(found.columns["reward"], values * led, rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(found.rewards(reward, plain["is_first"]), found.columns["reward"], rtol=1e-6)


def test_rewards_are_scaled_by_those_that_are_kept(file: Path) -> None:
    every, kept = rows(file, reward="min_max"), rows(file, top=0.4, reward="min_max")
    for found in (every, kept):
        led = found.columns["reward"][found.columns["is_first"] == 0]
        assert (led.min(), led.max()) == pytest.approx((-1.0, 1.0), abs=1e-5)
    assert every.rewards != kept.rewards  # the smallest or the largest was left out


def test_an_episode_without_a_step_does_not_widen_the_range(tmp_path: Path) -> None:
    episodes = [Episode({"state": np.zeros((3, 1))}, np.zeros((2, 1)), np.full(2, r), False) for r in (200.0, 250.0)]
    lone = Episode({"state": np.zeros((1, 1))}, np.zeros((0, 1)), np.zeros(0), False)
    for name, recorded in (("whole", episodes), ("lone", [*episodes, lone])):
        minari.write(tmp_path / name, Recorded(rows_of_episodes(recorded), box(1), unit=True))
        assert rows(tmp_path / name, reward="range_1000").rewards.scale == 10.0


def test_returns_without_a_range_are_not_scaled(tmp_path: Path) -> None:
    episodes = [Episode({"state": np.zeros((3, 1))}, np.zeros((2, 1)), np.full(2, 2.5), True)] * 2
    minari.write(tmp_path / "same", Recorded(rows_of_episodes(episodes), box(1), unit=True))
    with pytest.raises(UserError) as refused:
        rows(tmp_path / "same", reward="range_1000")
    assert refused.value.found == "range_1000 for 2 episodes with a return of 5"


def test_the_best_episodes_only(file: Path) -> None:
    assert rows(file, top=0.4).episodes == 2
    assert rows(file).episodes == 5


def test_bounds_of_actions(tmp_path: Path) -> None:
    """Those of the settings, then the task's, then -1 and 1; a file that knows them is believed."""
    wide = {**arrays(True), "actions": 2 * arrays(True)["actions"]}
    path = npz(tmp_path / "a.npz", wide)
    with pytest.raises(UserError) as refused:
        rows(path)
    assert "data.low" in refused.value.fix
    env = EnvSpec("toy", {"state": ObsSpec((2,), "float32")}, box(1, (-2.0,), (2.0,)))
    for found in (rows(path, low=-2.0, high=2.0), load_rows(DataConfig(name=str(path)), env)):
        led = found.columns["is_first"] == 0
        np.testing.assert_allclose(found.columns["action"][led], arrays()["actions"], atol=1e-6)
    assert rows(path, low=-2.0, high=2.0).spec.actions == box(1, (-2.0,), (2.0,))
    assert rows(path, low=-3.0, high=3.0).notes == load_rows(DataConfig(name=str(path)), env).notes
    moved = load_rows(DataConfig(name=str(path), low=-3.0, high=3.0), env)
    assert any("mapped" in note for note in moved.notes)
    minari.write(tmp_path / "b", DATA)
    np.testing.assert_allclose(rows(tmp_path / "b").columns["action"], DATA.columns["action"], atol=1e-6)
    known = load_rows(DataConfig(name=str(tmp_path / "b")), env)
    assert any("mapped" in note for note in known.notes)


def test_actions_that_begin_at_zero_are_asked_about(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", {**arrays(True), "actions": (arrays()["actions"] + 1) / 2})
    with pytest.raises(UserError) as refused:
        rows(path)
    assert refused.value.fix.startswith("data.low=0")
    led = rows(path, low=0.0).columns
    np.testing.assert_allclose(led["action"][led["is_first"] == 0], arrays()["actions"], atol=1e-6)
    assert rows(path, low=-1.0).columns["action"].min() >= 0


def heater(path: Path, **changes: np.ndarray) -> Path:
    """Two actuators: 0 to 3000 and 0 to 1."""
    unit = np.random.default_rng(0).uniform(-0.9, 0.9, (15, 2))
    unit[:2] = [[0.99, 0.98], [-0.99, -0.98]]
    return npz(path, {**arrays(True), "actions": (unit + 1) / 2 * [3000, 1], **changes})


def test_every_entry_of_an_action_has_its_own_bounds(tmp_path: Path) -> None:
    path = heater(tmp_path / "a.npz")
    found = rows(path, low=(0.0, 0.0), high=(3000.0, 1.0))
    assert found.spec.actions == box(2, (0.0, 0.0), (3000.0, 1.0))
    led = found.columns["is_first"] == 0
    expected = np.load(path)["actions"] / [1500, 0.5] - 1
    np.testing.assert_allclose(found.columns["action"][led], expected, atol=1e-5)
    assert rows(path, low=0.0, high=(3000.0, 1.0)).checksum == found.checksum
    env = EnvSpec("toy", {"state": ObsSpec((2,), "float32")}, box(2, (0.0, -1.0), (3000.0, 1.0)))
    assert load_rows(DataConfig(name=str(path)), env).notes == ()
    moved = load_rows(DataConfig(name=str(path), low=(0.0, 0.0), high=(3000.0, 1.0)), env)
    assert any("mapped" in note for note in moved.notes)
    np.testing.assert_array_equal(moved.columns["action"], found.columns["action"])


def test_lists_of_bounds_fit_the_actions(tmp_path: Path) -> None:
    path = heater(tmp_path / "a.npz")
    one: dict[str, Any] = {"low": (0.0,), "high": (3000.0, 1.0)}
    crossed: dict[str, Any] = {"low": (0.0, 2.0), "high": (3000.0, 1.0)}
    many: dict[str, Any] = {"low": 0.0, "high": (3000.0, 1.0, 1.0)}
    for wrong, where in ((one, "data.low"), (crossed, "data.low"), (many, "data.high")):
        with pytest.raises(UserError) as refused:
            rows(path, **wrong)
        assert (refused.value.where, bool(refused.value.found), bool(refused.value.expected)) == (where, True, True)


@pytest.mark.parametrize("given", [{}, {"low": 0.0}, {"low": (0.0, 0.0), "high": 2500.0}, {"high": (3000.0, 0.5)}])
def test_proposed_bounds_contain_the_actions(tmp_path: Path, given: dict[str, Any]) -> None:
    path = heater(tmp_path / "a.npz")
    with pytest.raises(UserError) as refused:
        rows(path, **given)
    assert "data.low=[0,0] data.high=[3000,1]" in refused.value.fix
    assert "data.high=1 " not in refused.value.fix


def test_bounds_that_are_those_of_another_entry_are_told(tmp_path: Path) -> None:
    path = heater(tmp_path / "a.npz")
    squashed, whole = rows(path, low=0.0, high=3000.0), rows(path, low=0.0, high=(3000.0, 1.0))
    assert len(squashed.notes) == len(whole.notes) + 1


def test_bounds_that_would_be_ignored_are_refused(tmp_path: Path) -> None:
    minari.write(tmp_path / "a", DATA)
    number = npz(tmp_path / "b.npz", {**arrays(True), "actions": np.arange(15) % 3})
    given: list[tuple[Path, dict[str, Any]]] = [(tmp_path / "a", {"low": -1.0}), (tmp_path / "a", {"high": (2.0,)})]
    for path, setting in (*given, (number, {"low": 0.0})):
        with pytest.raises(UserError) as refused:
            rows(path, **setting)
        assert refused.value.where == f"data.{next(iter(setting))}"


def test_a_flat_file_has_the_choices_of_its_task(tmp_path: Path) -> None:
    number = np.arange(15) % 3
    config = DataConfig(name=str(npz(tmp_path / "a.npz", {**arrays(True), "actions": number})))
    env = EnvSpec("toy", {"state": ObsSpec((2,), "float32")}, choice(5))
    found = load_rows(config, env)
    assert (found.spec.actions, found.columns["action"].shape[1]) == (choice(5), 5)
    led = found.columns["is_first"] == 0
    assert found.columns["action"][led].argmax(-1).tolist() == number.tolist()
    assert load_rows(config).spec.actions == choice(3)
    with pytest.raises(UserError) as refused:
        load_rows(config, env._replace(actions=choice(2)))
    assert (refused.value.found, refused.value.expected) == ("2 in row 2 of actions", "0 to 1, as toy has")
    floats = DataConfig(name=str(npz(tmp_path / "b.npz", arrays(True))))
    for wrong, actions in ((floats, choice(2)), (config, box(3))):
        with pytest.raises(UserError) as refused:
            load_rows(wrong, env._replace(actions=actions))
        assert "(N" in refused.value.fix


def test_data_that_do_not_fit_into_memory_are_told_what_helps(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(memory, "available_bytes", lambda device: 100)
        for path in (file, tmp_path / "d"):
            if path.suffix == "":
                minari.write(path, DATA)
            with pytest.raises(UserError) as refused:
                read_data(path)
            assert "GiB" in refused.value.found
    monkeypatch.setattr(dataset, "available_bytes", lambda device: 300)
    for top in (1.0, 0.8):
        with pytest.raises(UserError) as refused:
            trained(tmp_path, data=str(file), updates=2, **{"data.top": top})
        assert refused.value.where == f"data={file}"
        proposed = re.search(r"data\.top=(\S+)", refused.value.fix)
        assert proposed is not None
        kept = rows(file, top=top)
        share = 300 / nbytes(kept.spec, len(kept.columns["reward"]))  # of what was kept this time
        assert float(proposed[1]) == pytest.approx(0.9 * top * share, rel=0.05)


def test_what_does_not_fit_its_environment_is_one_line(file: Path) -> None:
    env = EnvSpec("toy", {"state": ObsSpec((3,), "float32")}, box(1))
    with pytest.raises(UserError) as refused:
        load_rows(DataConfig(name=str(file)), env)
    assert (refused.value.found, refused.value.expected) == ("observations state 2", "state 3, as toy has")
    with pytest.raises(UserError) as refused:
        load_rows(DataConfig(name=str(file)), env._replace(obs={"state": ObsSpec((2,), "float32")}, actions=box(2)))
    assert refused.value.found == "actions box 1"


def test_a_number_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    reward = arrays()["rewards"].copy()
    reward[4] = np.inf
    with pytest.raises(UserError) as refused:
        rows(npz(tmp_path / "a.npz", {**arrays(True), "rewards": reward}))
    assert refused.value.found == "inf in row 4 of rewards"


def test_other_rows_than_the_checksum_says_are_refused(file: Path) -> None:
    known = rows(file).checksum
    assert rows(file, checksum=known).checksum == known
    with pytest.raises(UserError) as refused:
        rows(file, checksum="00000000")
    assert known in refused.value.found


# --- whole runs -------------------------------------------------------------------------------------------------------

SMALL = {
    **{key: value for key, value in STATE_SAC.items() if key not in ("task", "frames")},
    "belief": "identity",
    "head": "sac",
    "env.obs": "state",
    "env.action_repeat": 1,
    "eval.episodes": 1,
    "eval.every": 0,
    "log.every": 10,
    "log.tensorboard": False,
    "replay.length": 2,
}


def trained(tmp_path: Path, name: str = "run", **changes: Any) -> Path:
    return worldrl.train({**SMALL, **changes}, run_dir=tmp_path / name)


def weights(run: Path) -> dict[str, torch.Tensor]:
    checkpoints = Checkpoints(run)
    return checkpoints.load(checkpoints.find())["agent"]["head"]


def test_a_run_without_an_environment(tmp_path: Path, file: Path) -> None:
    run = trained(tmp_path, data=str(file), updates=20)
    config = load_config(run)
    assert (config.task, config.frames, config.updates, config.data.name) == ("", 0, 20, str(file))
    assert len(config.data.checksum) == 8
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {(r["phase"], r["frames"]) for r in records} == {("data", 0)}
    assert [r["updates"] for r in records if "loss/critic" in r] == [10, 20]
    assert not (run / "replay").exists()
    action = worldrl.load(run, device="cpu").act(np.zeros(2, np.float32))
    assert action.shape == (1,)
    with pytest.raises(UserError) as refused:
        trained(tmp_path, "other", data=str(file), updates=20, **{"eval.every": 5})
    assert "task=" in refused.value.fix


def test_a_resumed_run_is_the_same_and_refuses_other_data(tmp_path: Path, file: Path) -> None:
    whole = trained(tmp_path, data=str(file), updates=20)
    half = trained(tmp_path, "half", data=str(file), updates=10)
    resume(half, {"updates": 20})
    for one, other in zip(weights(whole).values(), weights(half).values(), strict=True):
        assert torch.equal(one, other)
    npz(file, {**arrays(True), "rewards": arrays()["rewards"] + 1})
    with pytest.raises(UserError) as refused:
        resume(half, {"updates": 30})
    assert "checksum" in refused.value.found


def test_a_resumed_run_finds_its_data_in_a_new_place(tmp_path: Path, file: Path) -> None:
    run = trained(tmp_path, data=str(file), updates=10)
    moved = file.rename(tmp_path / "moved.npz")
    with pytest.raises(UserError) as refused:
        resume(run, {"updates": 20})
    assert "data=" in refused.value.fix
    resume(run, {"updates": 20, "data": str(moved)})
    assert load_config(run).data.name == str(moved)
    config = load_config(run)
    save_config(replace(config, data=replace(config.data, name=str(file))), run)  # as a kill may leave it
    resume(run, {"updates": 25, "data": str(moved)})
    other = npz(tmp_path / "other.npz", {**arrays(True), "rewards": arrays()["rewards"] + 1})
    with pytest.raises(UserError) as refused:
        resume(run, {"updates": 30, "data": str(other)})
    assert "checksum" in refused.value.found


def test_lists_of_bounds_are_read_back(tmp_path: Path) -> None:
    """By a resumed run, which is the same as a whole one, and by a policy."""
    bounds = {"data": str(heater(tmp_path / "h.npz")), "data.low": [0, 0], "data.high": [3000, 1]}
    whole = trained(tmp_path, "whole", updates=20, **bounds)
    half = trained(tmp_path, "half", updates=10, **bounds)
    resume(half, {"updates": 20})
    for one, other in zip(weights(whole).values(), weights(half).values(), strict=True):
        assert torch.equal(one, other)
    assert load_config(half).data.high == (3000.0, 1.0)
    policy = worldrl.load(half, device="cpu")
    np.testing.assert_allclose(policy.to_env([[-1, -1], [0, 0], [1, 1]]), [[0, 0], [1500, 0.5], [3000, 1]])


def test_vectors_are_normalised_before_the_belief(tmp_path: Path, file: Path) -> None:
    """In learning, acting, export and in a run that takes the model over."""
    run = trained(tmp_path, data=str(file), updates=3, **{"data.normalize": True})
    state = rows(file).columns["state"]
    policy = worldrl.load(run, device="cpu")
    normalizer = policy.agent.normalizer
    assert normalizer is not None
    mean, std = state.mean(0), state.std(0) + 1e-3
    scaled = normalizer({"state": torch.from_numpy(state)})["state"]
    np.testing.assert_allclose(scaled.numpy(), (state - mean) / std, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(normalizer.inverse({"state": scaled})["state"].numpy(), state, rtol=1e-4, atol=1e-5)
    action = policy.act(state[0])
    with torch.no_grad():
        expected = policy.agent.head.policy.mode(scaled[:1])[0].numpy()
    np.testing.assert_allclose(action, expected, atol=1e-6)


def test_a_normaliser_is_not_left_out_by_an_edit(tmp_path: Path, file: Path) -> None:
    run = trained(tmp_path, data=str(file), updates=3, **{"data.normalize": True})
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("normalize: true", "normalize: false"))
    with pytest.raises(UserError) as refused:
        worldrl.load(run, device="cpu")
    assert refused.value.found == "data.normalize=False"


def test_an_exported_program_normalises(tmp_path: Path, file: Path) -> None:
    run = trained(tmp_path, data=str(file), updates=3, **{"data.normalize": True})
    policy = worldrl.load(run, device="cpu")
    program = torch.export.load(policy.export(tmp_path / "p.pt2")).module()
    state = rows(file).columns["state"][:4]
    memory = policy.agent.initial(4)
    _, action = program(memory, {"state": torch.from_numpy(state)}, torch.zeros(4, 1), torch.ones(4))
    np.testing.assert_allclose(action.numpy(), policy.act(state), atol=1e-6)


def test_the_replay_of_a_run_is_data(tmp_path: Path) -> None:
    acted = trained(tmp_path, task=COUNT, frames=40, **{"schedule.prefill": 10, "replay.capacity": 100})
    found = read_data(acted)
    assert (found.task, found.unit) == (COUNT, True)
    assert found.columns["is_first"][0] == 1
    run = trained(tmp_path, "next", data=str(acted), updates=10, **{"eval.every": 10})
    assert load_config(run).task == COUNT
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["updates"] for r in records if "eval/return" in r] == [0, 10]


@pytest.mark.parametrize("capacity", [100, 14], ids=["whole", "wrapped"])
def test_the_replay_of_several_environments_is_one_stream(tmp_path: Path, capacity: int) -> None:
    """Each environment's rows in their order, as a plain loop finds them in the saved ring."""
    settings = {"env.num_envs": 2, "schedule.prefill": 10, "replay.capacity": capacity}
    acted = trained(tmp_path, task=COUNT, frames=40, **settings)
    found = read_data(acted)
    checkpoints = Checkpoints(acted)
    replay, _ = runs_data._saved_replay(acted, checkpoints, 2)
    columns = replay.columns()
    expected: dict[str, list[Any]] = {name: [] for name in columns}
    for env in range(2):
        for row in range(len(columns["reward"])):
            begins = row == 0 or columns["is_first"][row, env]
            for name, values in columns.items():
                value = values[row, env]
                if begins and name in ("action", "reward"):
                    value = 0 * value
                expected[name].append(1.0 if begins and name == "is_first" else value)
    assert found.columns["is_first"].sum() >= 2
    for name, listed in expected.items():
        np.testing.assert_array_equal(found.columns[name], np.array(listed), err_msg=name)


def test_data_without_a_step_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = npz(tmp_path / "a.npz", {**arrays(), "timeouts": np.ones(15, bool), "terminals": np.zeros(15, bool)})
    for reward in ("as_is", "min_max"):
        with pytest.raises(UserError, match="no step"):
            rows(path, reward=reward)
    assert main(["data", "info", str(path)]) == 0


def test_another_action_repeat_is_told(tmp_path: Path) -> None:
    minari.write(tmp_path / "a", DATA)
    spec = DATA.spec()
    same = load_rows(DataConfig(name=str(tmp_path / "a")), spec)
    other = load_rows(DataConfig(name=str(tmp_path / "a")), spec._replace(action_repeat=4))
    assert len(other.notes) == len(same.notes) + 1


def test_from_data_to_environment_resumed(tmp_path: Path) -> None:
    acted = trained(tmp_path, task=COUNT, frames=60, **{"schedule.prefill": 10, "replay.capacity": 100})
    settings = {"data": str(acted), "updates": 10, "schedule.prefill": 5, "replay.capacity": 100, "eval.every": 5}
    settings |= {"schedule.updates_per_1000_frames": 500, "log.every": 1}
    whole = trained(tmp_path, "whole", frames=24, **settings)
    half = trained(tmp_path, "half", frames=12, **settings)
    resume(half, {"frames": 24})
    for one, other in zip(weights(whole).values(), weights(half).values(), strict=True):
        assert torch.equal(one, other)
    records = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [r["phase"] for r in records if "eval/return" in r] == ["data"] * 3 + ["acting"] * 4
    logged = [r["frames"] for r in records if "replay/size" in r and r["phase"] == "acting"]
    assert sorted(set(logged)) == list(range(1, 25))  # from the first frame on: the clocks of a phase are its own
    checkpoints = Checkpoints(whole)
    assert checkpoints.frames() == 34
    assert checkpoints.reached(34)


def test_what_a_resumed_run_on_data_may_not_change(tmp_path: Path, file: Path) -> None:
    acted = trained(tmp_path, task=COUNT, frames=60, **{"schedule.prefill": 10, "replay.capacity": 100})
    both = {"data": str(acted), "updates": 4, "frames": 8, "schedule.prefill": 5, "replay.capacity": 100}
    run = trained(tmp_path, "both", **both)
    for changes, where in (({"updates": 9}, "updates"), ({"frames": 0}, "frames")):
        with pytest.raises(UserError) as refused:
            resume(run, changes)
        assert refused.value.where == where
    only = trained(tmp_path, "only", data=str(file), updates=4, **{"env.obs": "state"})
    with pytest.raises(UserError):
        resume(only, {"frames": 10})


def test_transformed_rewards_are_not_handed_on(tmp_path: Path) -> None:
    acted = trained(tmp_path, task=COUNT, frames=60, **{"schedule.prefill": 10, "replay.capacity": 100})
    changed = {
        "data": str(acted),
        "frames": 12,
        "schedule.prefill": 5,
        "replay.capacity": 100,
        "data.reward": "minus_1",
    }
    run = trained(tmp_path, "changed", **changed)
    with pytest.raises(UserError) as refused:
        read_data(run)
    assert "data.reward=minus_1" in refused.value.found


def test_a_normaliser_is_taken_over_or_refused(tmp_path: Path, file: Path) -> None:
    sized = {"belief": "rssm", **tiny_settings("belief", "rssm"), "replay.length": 4, "data": str(file), "updates": 2}
    run = trained(tmp_path, **sized)
    with pytest.raises(UserError) as refused:
        trained(tmp_path, "other", init_from=str(run), **{**sized, "data.normalize": True})
    assert refused.value.where == "data.normalize"


def test_scores_are_logged_where_references_are_known(tmp_path: Path) -> None:
    columns = rows_of_episodes(made())
    columns["state"] = np.repeat(columns["state"][:, :1], 3, 1)
    minari.write(tmp_path / "d", Recorded(columns, box(1), reference=(-10.0, 10.0), unit=True))
    run = trained(tmp_path, data=str(tmp_path / "d"), task=COUNT, updates=5, **{"eval.every": 5})
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    scored = [r for r in records if "eval/return" in r]
    assert scored
    for r in scored:
        assert r["eval/score"] == pytest.approx(100 * (r["eval/return"] + 10) / 20)
    assert load_config(run).data.reference == (-10.0, 10.0)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"updates": 5, "task": COUNT}, "updates"),
        ({"data.normalize": True, "task": COUNT, "frames": 5}, "data.normalize"),
        ({"frames": 0, "task": COUNT}, "frames"),
    ],
)
def test_settings_that_mean_nothing_without_data(tmp_path: Path, changes: dict[str, Any], where: str) -> None:
    with pytest.raises(UserError) as refused:
        trained(tmp_path, **changes)
    assert refused.value.where == where


FAMILIES = {  # preset -> the name of a data set, its observations and actions, the returns that score 0 and 100
    "antmaze": ("antmaze-umaze-v2", 29, 8, (0.0, 1.0)),
    "adroit": ("pen-human-v1", 45, 24, (96.262799, 3076.8331)),
    "kitchen": ("kitchen-mixed-v0", 60, 9, (0.0, 4.0)),
}


def of_d4rl(path: Path, observations: int, actions: int, n: int = 40) -> Path:
    """A file of D4RL's layout with what else is in it; every 20th step ends an episode."""
    rng, ends = np.random.default_rng(0), np.arange(n) % 20 == 19
    with h5py.File(path, "w") as file:
        file["observations"] = rng.standard_normal((n, observations)).astype(np.float32)
        file["actions"] = rng.uniform(-1, 1, (n, actions)).astype(np.float32)
        file["rewards"] = (rng.random(n) < 0.3).astype(np.float32)
        file["terminals"], file["timeouts"] = ends & (np.arange(n) < 20), ends
        file["infos/qpos"] = np.zeros((n, 15))
        file["metadata/algorithm"] = "none"
    return path


@pytest.mark.parametrize("agent", ["iql", "misa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_presets_of_d4rl_learn_from_files_of_its_layout(tmp_path: Path, family: str, agent: str) -> None:
    name, observations, actions, reference = FAMILIES[family]
    path = of_d4rl(tmp_path / f"{name}.hdf5", observations, actions)
    preset = family if agent == "iql" else f"{family}_{agent}"
    small = {"updates": 2, "head.units": 8, "replay.batch": 4, "device": "cpu", "log.tensorboard": False}
    config = load_config(worldrl.train(experiment=preset, data=str(path), run_dir=tmp_path / "run", **small))
    assert (config.agent, config.head["decay_updates"], config.eval.every) == (agent, 2, 0)
    assert config.data.reference == reference
    assert config.data.reward == {"iql": {"antmaze": "minus_1"}, "misa": {"antmaze": "antmaze"}}[agent].get(
        family, "as_is" if agent == "iql" else "min_max"
    )


def test_data_without_a_length_are_refused(tmp_path: Path, file: Path) -> None:
    with pytest.raises(UserError) as refused:
        trained(tmp_path, data=str(file))
    assert "updates=N" in refused.value.fix


def test_a_model_that_is_taken_over_keeps_its_normaliser(tmp_path: Path, file: Path) -> None:
    sized = {"belief": "rssm", **tiny_settings("belief", "rssm"), "replay.length": 4, "data": str(file)}
    run = trained(tmp_path, updates=2, **{**sized, "data.normalize": True})
    config = replace(load_config(run), init_from=str(run))
    other = npz(tmp_path / "b.npz", {**arrays(True), "observations": 5 + arrays(True)["observations"]})
    taken = trained(tmp_path, "taken", updates=2, init_from=str(run), **{**sized, "data": str(other)})
    one, two = (worldrl.load(each, device="cpu").agent.normalizer for each in (run, taken))
    assert isinstance(one, torch.nn.Module)
    assert isinstance(two, torch.nn.Module)
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert Agent(config, rows(file).spec).normalizer is not None
