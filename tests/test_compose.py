"""Which setting wins: presets, parts and arguments, the same from a shell and from Python."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from worldrl.agent import check_parts
from worldrl.commands.arguments import expand, read_command_line
from worldrl.compose import compose, run_name
from worldrl.config import Config
from worldrl.envs.corruption import CorruptionConfig
from worldrl.errors import UserError
from worldrl.presets import preset_names

TOY_HEAD, TOY_BELIEF, TOY_POLICY = (f"tests.test_config:Toy{part}" for part in ("Head", "Belief", "Policy"))


def settings(text: str) -> Config:
    """Settings of a command line without commas."""
    (arguments,) = expand(read_command_line(text.split()).ours)
    return compose(arguments)


def parts(config: Config) -> tuple[str, str, str]:
    return config.agent, config.belief["name"], config.head["name"]


def policy(text: str) -> tuple[str, str]:
    """Label and policy of a command line."""
    config = settings(text)
    return config.agent, config.policy["name"]


# --- presets ----------------------------------------------------------------------------------------------------------


def test_a_camera_that_would_be_ignored_is_refused() -> None:
    assert compose({"agent": "smac", "task": "walker_walk", "env.render.camera": 1}).env.render.camera == 1
    with pytest.raises(UserError, match=r"env\.render\.camera"):
        compose({"agent": "sac", "env": "gym", "task": "Pendulum-v1", "env.render.camera": 1})


@pytest.mark.parametrize("agent", preset_names("agent"))
def test_every_agent_is_a_preset_under_its_own_name(agent: str) -> None:
    assert settings(f"agent={agent}").agent == agent


def test_state_sized_sac_is_one_thing_with_three_policies() -> None:
    """Written once, in a base that is not an agent itself."""
    shared = [settings(f"agent={agent} head.units=9").head for agent in ("smac_state", "flow_sac", "moe_sac")]
    assert shared[0] == shared[1] == shared[2]
    assert "_state_sac" not in preset_names("agent")
    assert (settings("agent=sac").head["units"], settings("agent=sac").replay.batch) == (256, 256)


ON_DATA = {f"{name}{of}" for name in ("antmaze", "adroit", "kitchen") for of in ("", "_misa")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flat arrays without an environment."""
    path = tmp_path_factory.mktemp("data") / "mine.npz"
    np.savez(path, observations=np.zeros((4, 3)), actions=np.zeros((4, 1)))
    return path


@pytest.mark.parametrize("agent", preset_names("agent"))
@pytest.mark.parametrize("experiment", preset_names("experiment"))
def test_every_experiment_takes_every_agent(experiment: str, agent: str, data: Path) -> None:
    config = settings(f"experiment={experiment} agent={agent}" + f" data={data}" * (experiment in ON_DATA))
    assert config.agent == agent
    choices = ("cartpole", "minatar", "minatar_sac", "atari", "useless", "useless_cartpole")
    of_vectors = "states" in experiment or experiment in ("tutorial", *choices, *ON_DATA)
    on_states = config.belief["name"] == "identity" or of_vectors
    assert config.env.obs == ("state" if on_states else "pixels")


@pytest.mark.parametrize("head", ["dqn", "soft_q", "mirl"])
def test_atari_has_the_schedule_of_its_protocol_under_every_head(head: str) -> None:
    config = settings(f"experiment=atari head={head} task=ALE/Breakout-v5")
    actions = 1000 / config.env.action_repeat  # in 1000 frames
    assert actions / config.schedule.updates_per_1000_frames == 4
    assert config.schedule.prefill == 20_000 * config.env.action_repeat
    assert (config.schedule.epsilon.start, config.schedule.epsilon.end) == (1.0, 0.01)
    assert config.schedule.epsilon.frames == 250_000 * config.env.action_repeat
    assert (config.belief["name"], config.head["target_period"], config.head["huber"]) == ("stack", 2_000, True)
    check_parts(config)


def test_sac_has_its_own_settings_on_minatar() -> None:
    sac, dqn = settings("experiment=minatar_sac"), settings("experiment=minatar")
    assert (sac.replay, sac.eval, sac.env, sac.frames) == (dqn.replay, dqn.eval, dqn.env, dqn.frames)
    assert sac.head["units"] == dqn.head["units"]
    assert sac.head["actor_layers"] == sac.head["critic_layers"] == dqn.head["layers"]
    assert (dqn.schedule.epsilon.start, dqn.schedule.epsilon.end, sac.schedule.epsilon.end) == (1.0, 0.1, 0.0)


@pytest.mark.parametrize("experiment", ["states_100k", "quickstart_states"])
@pytest.mark.parametrize("agent", ["smac", "slac", "dreamer", "sac"])
def test_experiments_on_states_are_on_states_for_every_agent(experiment: str, agent: str) -> None:
    config = compose({"experiment": experiment, "agent": agent})
    assert config.env.obs == "state"
    assert config.env.action_repeat == {"states_100k": 8, "quickstart_states": 4}[experiment]


@pytest.mark.parametrize(
    ("task", "repeat"), [("cartpole_swingup", 4), ("walker_walk", 2), ("finger_spin", 2), ("cheetah_run", 4)]
)
def test_both_agents_of_pixels_100k_see_the_same(task: str, repeat: int) -> None:
    smac, slac = (compose({"experiment": name, "task": task}) for name in ("pixels_100k", "pixels_100k_slac"))
    assert (smac.head["name"], slac.head["name"]) == ("smac", "slac")
    assert smac.env.action_repeat == repeat
    assert (smac.env, smac.frames, smac.eval, smac.schedule) == (slac.env, slac.frames, slac.eval, slac.schedule)
    assert smac.replay.capacity > smac.frames / 2 + 200  # every row of a run


@pytest.mark.parametrize("head", ["virel", "miracle", "value_sac"])
def test_a_constant_temperature_is_not_where_a_learned_one_starts(head: str) -> None:
    found = compose({"experiment": "quickstart", "head": head}).head
    assert (found["init_alpha"], found["tune_alpha"], found["units"]) == (1.0, False, 128)


@pytest.mark.parametrize("env", preset_names("env"))
def test_every_env_preset(env: str) -> None:
    tasks = {"gym": "Pendulum-v1", "cartpole": "CartPole-v1", "minatar": "MinAtar/Breakout-v0", "atari": "ALE/Pong-v5"}
    assert settings(f"env={env}").task == {**tasks, "grid": "grid8corner"}.get(env, "walker_walk")


def test_paper_settings() -> None:
    config = settings("experiment=paper_smac")
    assert config.task == "walker_walk"
    assert (config.head["estimator"], config.head["num_particles"], config.belief["particles"]) == (
        "mlmc",
        32,
        "history",
    )
    assert (config.replay.batch, config.replay.length, config.env.action_repeat) == (50, 50, 2)
    assert settings("agent=smac").head["estimator"] == "nested"


def test_paper_settings_of_slac() -> None:
    config = settings("experiment=paper_slac")
    assert (config.belief["name"], config.head["name"], config.head["actor_input"]) == ("slac", "slac", "context")
    assert (config.replay.batch, config.replay.length, config.belief["model_batch"]) == (256, 9, 32)
    assert config.schedule == settings("agent=slac").schedule
    assert config.schedule.pretrain == 100_000


@pytest.mark.parametrize(
    ("agent", "published"),
    [
        ("virel", (300, 0.001, 128, 128)),
        ("virel_beta", (300, 0.001, 128, 128)),
        ("virel1", (256, 0.005, 256, 1_000)),
        ("virel2", (256, 0.005, 256, 1_000)),
    ],
)
def test_paper_settings_of_virel(agent: str, published: tuple[float, ...]) -> None:
    """Appendix I.1: its own values on Gym's second MuJoCo tasks, those of the first SAC's program on the first."""
    found = settings(f"agent={agent}")
    assert (found.head["units"], found.head["tau"], found.replay.batch, found.schedule.prefill) == published


@pytest.mark.parametrize("noise", ["gaussian", "missing"])
@pytest.mark.parametrize("agent", ["smac", "latent_sac"])
def test_table_1_is_the_papers_agent_with_noise_on_all_its_images(noise: str, agent: str) -> None:
    found = settings(f"experiment=paper_table1_{noise} agent={agent}")
    clean = settings(f"experiment=paper_{agent} task=finger_spin belief.particles=history")
    assert found.env.corruption == CorruptionConfig(**{noise: 0.05}, apply="both")
    assert dataclasses.replace(found, env=clean.env) == clean


# --- precedence -------------------------------------------------------------------------------------------------------


def test_arguments_beat_experiment_beats_agent_beats_env() -> None:
    assert settings("agent=sac").schedule.prefill == 5_000
    assert settings("agent=sac env.action_repeat=4").env.action_repeat == 4
    assert settings("experiment=smoke agent=sac").schedule.prefill == settings("experiment=smoke").schedule.prefill
    assert settings("experiment=smoke env=dmc_pixels").env.action_repeat == 8
    assert settings("experiment=smoke frames=10").frames == 10
    assert settings("experiment=smoke").task == "cartpole_balance"
    assert settings("experiment=smoke task=walker-run").task == "walker_run"
    assert settings("experiment=minatar env=cartpole").task == "CartPole-v1"
    assert settings("experiment=minatar env=cartpole task=Acrobot-v1").task == "Acrobot-v1"
    assert settings("experiment=pixels_100k env=dmc_pixels").task == settings("experiment=pixels_100k").task


def test_experiment_chooses_the_agent_and_the_arguments_another() -> None:
    assert parts(settings("experiment=paper_latent_sac")) == ("latent_sac", "rssm", "sac")
    assert parts(settings("experiment=paper_latent_sac agent=smac")) == ("smac", "rssm", "smac")


def test_a_part_in_the_arguments_beats_agent_and_experiment() -> None:
    assert parts(settings("agent=smac head=sac")) == ("sac@rssm", "rssm", "sac")
    assert parts(settings("experiment=paper_smac head=sac head.critic_lr=1e-3")) == ("sac@rssm", "rssm", "sac")
    assert parts(settings("agent=latent_sac head=latent_sac")) == ("latent_sac", "rssm", "sac")
    assert parts(settings("agent=sac head=smac")) == ("smac@identity", "identity", "smac")
    assert settings("head.critic_lr=1e-2").head["critic_lr"] == 0.01


def test_a_policy_is_a_part() -> None:
    assert policy("agent=smac head=sac") == ("sac@rssm", "own")
    assert policy(f"agent=smac policy={TOY_POLICY}") == ("smac@rssm+ToyPolicy", TOY_POLICY)
    assert settings(f"agent=sac policy={TOY_POLICY} policy.width=3").policy == {"name": TOY_POLICY, "width": 3}


def test_a_swapped_part_takes_the_settings_that_it_inherits_and_no_others() -> None:
    config = settings("experiment=smoke head=sac")
    assert config.head["units"] == settings("experiment=smoke").head["units"]
    assert "num_particles" not in config.head
    assert settings("agent=sac belief=rssm").belief["lr"] == settings("agent=smac").belief["lr"]


def test_a_users_own_parts() -> None:
    config = settings(f"head={TOY_HEAD} belief={TOY_BELIEF} head.units=[3,4] belief.size=2")
    assert config.agent == "ToyHead@ToyBelief"
    assert config.head["units"] == (3, 4)
    assert config.belief == {"name": TOY_BELIEF, "size": 2}


def test_names_of_tasks() -> None:
    assert settings("task=walker-walk").task == "walker_walk"
    assert settings("task=Pendulum-v1 agent=sac").task == "Pendulum-v1"
    config = settings("task=my_pkg.mod:MyEnv")
    assert run_name(config).startswith("my_pkg.mod_MyEnv/smac/1-")
    assert run_name(config) != run_name(config)


def test_a_path_may_be_given_as_one(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compose({"agent": "bc", "data": data, "updates": 10}).data.name == str(data)
    monkeypatch.chdir(data.parent)  # a run may be resumed in another folder
    monkeypatch.setenv("HOME", str(data.parent))
    for written in (data.name, f"./{data.name}", f"~/{data.name}"):
        assert compose({"agent": "bc", "data": written, "updates": 10}).data.name == str(data)


def test_a_preset_tells_what_data_do_not(data: Path, tmp_path: Path) -> None:
    """A flat file knows no task and no action repeat; what it does know beats a preset."""
    (tmp_path / "experiment").mkdir()
    preset = "task: Pendulum-v1\nenv.action_repeat: 2\nenv.obs: pixels\neval.every: 50\nupdates: 10\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(f"agent: bc\ndata: {data}\n{preset}")
    found = compose({"experiment": "mine", "presets": str(tmp_path)})
    assert (found.task, found.env.action_repeat, found.env.obs, found.eval.every) == ("Pendulum-v1", 2, "state", 50)
    without = compose({"agent": "bc", "data": data, "updates": 10})
    assert (without.task, without.env.action_repeat, without.eval.every) == ("", 1, 0)
