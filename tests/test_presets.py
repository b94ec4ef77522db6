"""Presets: where they are found, a user's own beside those of the package, and one as the base of another."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldrl.compose import compose
from worldrl.envs.families import canonical_name
from worldrl.errors import UserError
from worldrl.presets import own_folder, preset_names, read_preset, shipped


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of presets, ``./configs`` of the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "agent").mkdir(parents=True)
    (tmp_path / "configs" / "experiment").mkdir()
    return tmp_path / "configs"


def write(own: Path, name: str, text: str) -> None:
    path = own / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def refused(**arguments: str) -> UserError:
    with pytest.raises(UserError) as caught:
        compose(arguments)
    return caught.value


def test_the_shipped_ones_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (shipped() / "train.yaml").is_file()
    assert "smac" in preset_names("agent", own_folder())
    assert compose({"agent": "sac"}).replay.batch == 256


def test_own_presets_lie_in_the_current_folder_or_where_presets_says(own: Path, tmp_path: Path) -> None:
    write(own, "experiment/mine", "agent: sac\nhead.units: 7\n")
    assert compose({"experiment": "mine"}).head["units"] == 7
    own.rename(tmp_path / "my presets")
    assert refused(experiment="mine").where == "unknown experiment 'mine'"
    assert compose({"experiment": "mine", "presets": str(tmp_path / "my presets")}).head["units"] == 7
    assert refused(presets="nowhere").where == "presets"


def test_a_shipped_name_means_one_thing(own: Path) -> None:
    write(own, "agent/sac", (shipped() / "agent" / "sac.yaml").read_text())
    assert compose({"agent": "sac"}).head["units"] == 256
    write(own, "agent/sac", "base: smac\n")
    found = refused(agent="sac")
    assert found.where == str(Path("configs/agent/sac.yaml"))
    assert "my_sac" in found.fix
    assert compose({"agent": "td3"}).agent == "td3"


def test_a_base_is_under_a_preset(own: Path) -> None:
    write(own, "agent/wide", "base: sac\nhead.units: 999\n")
    write(own, "agent/wider", "base: wide\nreplay.batch: 3\n")
    config, sac = compose({"agent": "wider"}), compose({"agent": "sac"})
    assert (config.agent, config.head["units"], config.replay.batch) == ("wider", 999, 3)
    assert config.schedule == sac.schedule


def test_a_base_with_another_head_gives_what_both_heads_inherit(own: Path) -> None:
    write(own, "agent/mine", "base: smac_state\nhead: value_sac\npolicy: own\n")
    found = read_preset("agent", "mine", own)
    assert found["head.units"] == 256
    assert not [key for key in found if key.startswith("policy.")]


@pytest.mark.parametrize(
    ("base", "agent"),
    [
        ("quickstart", "dreamer"),
        ("quickstart_dreamer", "latent_sac"),
        ("quickstart_states", "td3"),
        ("smoke", "dreamer"),
    ],
)
def test_a_base_with_another_agent_is_as_on_the_command_line(own: Path, base: str, agent: str) -> None:
    write(own, "experiment/mine", f"base: {base}\nagent: {agent}\n")
    ours, theirs = compose({"experiment": "mine"}), compose({"experiment": base, "agent": agent})
    assert (ours.head, ours.belief, ours.policy) == (theirs.head, theirs.belief, theirs.policy)


@pytest.mark.parametrize(
    ("preset", "text", "chosen"),
    [
        ("env/mine", "belief: stack\n", {"env": "mine"}),
        ("agent/mine", "base: sac\nexperiment: smoke\n", {"agent": "mine"}),
        ("experiment/mine", "allow: my_module\n", {"experiment": "mine"}),
    ],
)
def test_a_choice_that_a_preset_cannot_make_is_refused(
    own: Path, preset: str, text: str, chosen: dict[str, str]
) -> None:
    write(own, preset, text)
    assert refused(**chosen).where.endswith(f"{preset}.yaml")


@pytest.mark.parametrize("part", ["belief: 5", "head: [a]"])
def test_a_part_is_a_name(own: Path, part: str) -> None:
    write(own, "experiment/mine", f"base: smoke\n{part}\n")
    assert refused(experiment="mine").where == part.partition(":")[0]


@pytest.mark.parametrize(("base", "where"), [("two", "agent 'one'"), ("nobody", "agent preset")])
def test_a_base_that_is_none(own: Path, base: str, where: str) -> None:
    write(own, "agent/one", f"base: {base}\n")
    write(own, "agent/two", "base: one\n")
    assert refused(agent="one").where == where


def test_settings_of_a_task_count_over_the_experiments_for_this_task(own: Path) -> None:
    write(own, "experiment/mine", "base: smoke\nenv.action_repeat: 4\ntasks: {walker_walk: {env.action_repeat: 2}}\n")
    write(own, "experiment/more", "base: mine\ntasks.walker_walk.schedule.prefill: 77\n")
    write(own, "experiment/home", "base: mine\ntask: walker_walk\n")
    repeats = [
        compose({"experiment": "mine", **asked}).env.action_repeat
        for asked in ({"task": "cheetah_run"}, {"task": "walker-walk"}, {"task": "walker_walk", "env.action_repeat": 8})
    ]
    assert repeats == [4, 2, 8]
    more = compose({"experiment": "more", "task": "walker_walk"})
    assert (more.env.action_repeat, more.schedule.prefill) == (2, 77)
    assert compose({"experiment": "home"}).env.action_repeat == 2


@pytest.mark.parametrize("settings", ["5", "{head.units: 3}", "{agent: sac}", "{task: hopper_hop}", "{env.repeat: 3}"])
def test_what_a_task_cannot_have_is_refused(own: Path, settings: str) -> None:
    write(own, "experiment/mine", f"base: smoke\ntasks: {{walker_walk: {settings}}}\n")
    assert compose({"experiment": "mine", "task": "cheetah_run"}).task == "cheetah_run"
    assert "experiment 'mine'" in str(refused(experiment="mine", task="walker_walk"))


def test_tasks_of_shipped_presets_have_their_canonical_names() -> None:
    for name in preset_names("experiment"):
        keys = [key.split(".")[1] for key in read_preset("experiment", name, own_folder()) if key.startswith("tasks.")]
        assert keys == [canonical_name(key) for key in keys]
