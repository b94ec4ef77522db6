"""The command line: which preset wins, what a mistake looks like, and which jobs Hydra runs."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from worldrl.cli import compose, eval_main, help_text, preset_names, read_command_line, run_name, train, train_main
from worldrl.config import Config, config_from_dict, load_config, save_config
from worldrl.envs.corruption import CorruptionConfig
from worldrl.errors import UserError
from worldrl.registry import AGENTS
from worldrl.runs.checkpoint import Checkpoints
from worldrl.training import loop

ROOT = Path(__file__).resolve().parents[1]
PRESETS = ROOT / "configs"
TOY_HEAD, TOY_BELIEF, TOY_POLICY = (f"tests.test_config:Toy{part}" for part in ("Head", "Belief", "Policy"))


def settings(text: str) -> Config:
    """Settings of a command line without commas."""
    return compose({o.key_or_group: o.value() for o in read_command_line(text.split()).ours}, PRESETS)


def parts(config: Config) -> tuple[str, str, str]:
    return config.agent, config.belief["name"], config.head["name"]


def policy(text: str) -> tuple[str, str]:
    """Label and policy of a command line."""
    config = settings(text)
    return config.agent, config.policy["name"]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Config, Path]]:
    """Runs that were started, in place of training them, in an empty working directory."""
    started: list[tuple[Config, Path]] = []

    def fake(config: Config, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        save_config(config, run_dir)
        (run_dir / "metrics.jsonl").touch()
        started.append((config, run_dir))

    monkeypatch.setattr(loop, "train", fake)
    monkeypatch.chdir(tmp_path)
    return started


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """The one line that a wrong command line ends in."""

    def run(text: str) -> str:
        assert train_main(text.split(), PRESETS) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        return err.strip()

    return run


# --- presets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", AGENTS)
def test_agent_files_agree_with_the_registry(agent: str) -> None:
    assert parts(settings(f"agent={agent}")) == (agent, AGENTS[agent]["belief"], AGENTS[agent]["head"])
    assert policy(f"agent={agent}") == (agent, AGENTS[agent].get("policy", "own"))


def test_agents_that_are_more_than_their_parts_are_presets_alone() -> None:
    """From Python, without a preset, they would be other agents under these names."""
    assert set(preset_names(PRESETS, "agent")) - set(AGENTS) == {"virel_beta", "virel1", "virel2"}
    assert settings("agent=virel_beta").head["temperature"] == "residual"
    with pytest.raises(UserError, match="unknown agent 'virel_beta'; did you mean: virel"):
        config_from_dict({"agent": "virel_beta", "env.obs": "state"})


@pytest.mark.parametrize("agent", preset_names(PRESETS, "agent"))
@pytest.mark.parametrize("experiment", preset_names(PRESETS, "experiment"))
def test_every_experiment_takes_every_agent(experiment: str, agent: str) -> None:
    config = settings(f"experiment={experiment} agent={agent}")
    assert config.agent == agent
    on_states = config.belief["name"] == "identity" or "states" in experiment
    assert config.env.obs == ("state" if on_states else "pixels")


@pytest.mark.parametrize("experiment", ["states_100k", "quickstart_states"])
@pytest.mark.parametrize("agent", ["smac", "slac", "dreamer", "sac"])
def test_experiments_on_states_are_on_states_for_every_agent(experiment: str, agent: str) -> None:
    config = compose({"experiment": experiment, "agent": agent}, PRESETS)
    assert config.env.obs == "state"
    assert config.env.action_repeat == {"states_100k": 8, "quickstart_states": 4}[experiment]


@pytest.mark.parametrize("head", ["virel", "miracle", "value_sac"])
def test_a_constant_temperature_is_not_where_a_learned_one_starts(head: str) -> None:
    found = compose({"experiment": "quickstart", "head": head}, PRESETS).head
    assert (found["init_alpha"], found["tune_alpha"], found["units"]) == (1.0, False, 128)


@pytest.mark.parametrize("env", preset_names(PRESETS, "env"))
def test_every_env_preset(env: str) -> None:
    assert settings(f"env={env}").task == ("Pendulum-v1" if env == "gym" else "walker_walk")


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


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("agent=smca", "unknown agent 'smca'; did you mean: smac"),
        ("experiment=smoek", "smoke"),
        ("env=dmc_pixel", "dmc_pixels"),
        ("hed=sac", "did you mean: head"),
        ("head=sca", "did you mean: sac"),
        (
            "head=sac head.estimator=nested",
            "unknown key 'head.estimator': this head has no such setting; head=smac has",
        ),
        ("agent=sac policy.num_particles=3", "this policy has no such setting; policy=latent has"),
        ("batch_size=256", "unknown key 'batch_size': expected one of: replay.batch"),
        ("env.frame_skip=2", "unknown key 'env.frame_skip': expected one of: env.action_repeat"),
        ("learning_rate=1e-3", "belief.lr, head.actor_lr"),
        ("wandb=1", "unknown key 'wandb'; see --help, or all keys by --cfg job"),
        ("head.critic_lrr=1", "head.critic_lr"),
        ("head.lr=1", "did you mean: head.alpha_lr, head.actor_lr, head.critic_lr"),
        ("task=walker_wlak", "walker_walk"),
        ("task=Pendulm-v1", "Pendulum-v1"),
        ("task=walker", "walker_walk"),
        ("seed=x", "seed: found 'x', expected an integer"),
        ("seed=1 seed=2", "seed is given twice"),
        ("agent=null", "agent: found None, expected a name"),
        ("seed=1,2", "add -m"),
        ("-m agent=smac,latent_sca seed=0,1", "latent_sac"),
        ("-m seed=0,-1", "seed: found -1"),
        ("-m replay.length=range(1,3)", "replay.length: found 1"),
        ("-m agent=glob(*)", "cannot sweep"),
        ("smac", "expected key=value"),
        ("--mulrirun", "--multirun"),
        ("--cfg all", "found '--cfg all', expected --cfg job"),
        ("+seed=1", "expected seed=1"),
        ("seed@x=1", "without '@'"),
        ("task=((", "cannot read"),
        ("hydra/launcher=slurm", "hydra-submitit-launcher"),
        ("hydra.run.dirr=x", "hydra.run.dirr"),
        ("resume=nowhere", "no run in 'nowhere'"),
        ("resume=nowhere init_from=x", "no run in 'nowhere'"),
        ("init_from=nowhere", "init_from: no run in 'nowhere'"),
        ("schedule.model_every=0", "expected init_from=RUN_DIR"),
        ("sweep=../x", "sweep: found '../x', expected a folder name"),
        ("sweep=3", "sweep: found 3, expected a folder name"),
        ("-m sweep=x frames=10,20", "two runs of sweep=x differ in nothing but frames, eval.*, log.*, checkpoint.*"),
        ("sweep=x hydra.run.dir=y", "sweep= names the run folder already; leave out hydra.run.dir"),
    ],
)
def test_mistakes_are_told_in_one_line(line: str, words: str, refused: Callable[[str], str]) -> None:
    assert words in refused(line)


@pytest.mark.parametrize(
    ("line", "words"),
    [("agent=smca", "smac"), ("-m seed=1,2 head.critic_lrr=1", "head.critic_lr"), ("hydra/launcher=x", "basic")],
)
def test_train_py_ends_with_code_2_and_one_line(line: str, words: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *line.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
    assert not list(tmp_path.iterdir())


def test_help_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_main(["--help"], PRESETS) == 0
    text = capsys.readouterr().out
    assert text.strip() == help_text(PRESETS)
    assert all(name in text for group in ("agent", "env", "experiment") for name in preset_names(PRESETS, group))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("agent=smac belief=identity head=dreamer env.obs=state --cfg job", "beliefs that can: rssm, slac"),
        ("agent=smac belief=identity --cfg job", "needs state vectors"),
        ("agent=sac belief=slac --cfg job", "replay.length=2: the belief keeps 7 rows to itself, expected 9 or more"),
        ("-m agent=td3 policy=own,flow", "head=td3 has its own policy"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_anything_runs(
    refused: Callable[[str], str], arguments: str, says: str
) -> None:
    noise = torch.random.get_rng_state()
    assert says in refused(arguments)
    assert torch.equal(torch.random.get_rng_state(), noise)


def test_cfg_shows_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_main(["--cfg", "job", "agent=sac"], PRESETS) == 0
    assert "name: identity" in capsys.readouterr().out


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_a_run_and_its_folder(runs: list[tuple[Config, Path]], tmp_path: Path) -> None:
    assert train_main(["agent=smac", "head=sac", "task=walker-walk", "head.critic_lr=1e-3"], PRESETS) == 0
    ((config, run_dir),) = runs
    assert config == settings("head=sac head.critic_lr=1e-3")
    assert run_dir.parent == tmp_path / "runs" / "walker_walk" / "sac@rssm"
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert sorted(path.name for path in run_dir.iterdir()) == ["config.yaml", "metrics.jsonl"]


def test_a_folder_holds_one_run(
    runs: list[tuple[Config, Path]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = ["agent=sac", "hydra.run.dir=here"]
    assert train_main(line, PRESETS) == 0
    for words in (
        "a run without a checkpoint; delete it if it has ended",
        "already holds a run; continue it with resume=",
    ):
        with pytest.raises(SystemExit) as ended:
            train_main(line, PRESETS)
        assert ended.value.code == 2
        assert words in capsys.readouterr().err
        Checkpoints(tmp_path / "here").save(0, {})
    assert [run_dir for _, run_dir in runs] == [tmp_path / "here"]


def test_a_sweep_runs_every_combination(runs: list[tuple[Config, Path]], tmp_path: Path) -> None:
    assert train_main(["-m", "agent=smac,latent_sac", "seed=0,1"], PRESETS) == 0
    assert {(config.agent, config.seed) for config, _ in runs} == {
        (agent, seed) for agent in ("smac", "latent_sac") for seed in (0, 1)
    }
    assert len({run_dir for _, run_dir in runs}) == 4
    assert all(run_dir.is_relative_to(tmp_path / "runs" / "walker_walk") for _, run_dir in runs)


def test_a_named_sweep_skips_what_has_finished_and_goes_on_with_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    done: list[tuple[str, int, Path]] = []

    def fake_train(config: Config, run_dir: Path) -> None:
        done.append(("train", config.seed, run_dir))
        interrupted = config.seed == 2 and len(done) == 2
        Checkpoints(run_dir).save(40 if interrupted else config.frames, {}, done=config.seed == 1)
        save_config(config, run_dir)
        if interrupted:
            raise SystemExit(130)

    def fake_resume(run_dir: Path, changes: dict[str, Any]) -> None:
        config = load_config(run_dir, **changes)
        done.append(("resume", config.seed, run_dir))
        Checkpoints(run_dir).save(config.frames, {}, done=True)

    monkeypatch.setattr(loop, "train", fake_train)
    monkeypatch.setattr(loop, "resume", fake_resume)
    monkeypatch.chdir(tmp_path)
    command = ["-m", "sweep=mine", "agent=sac", "seed=1,2,3", "frames=100"]
    with pytest.raises(SystemExit):
        train_main(command, PRESETS)
    assert [(what, seed) for what, seed, _ in done] == [("train", 1), ("train", 2)]
    assert train_main(command, PRESETS) == 0
    assert [(what, seed) for what, seed, _ in done[2:]] == [("resume", 2), ("train", 3)]
    assert done[2][2] == done[1][2]
    assert train_main(command, PRESETS) == 0  # seed 3 was stopped in its last evaluation
    assert done.pop()[:2] == ("resume", 3)
    out = capsys.readouterr().out
    assert out.count("finished before: ") == 3
    assert out.splitlines()[-1] == "curves and tables: worldrl report runs/mine"
    assert train_main([*command[:-1], "frames=200"], PRESETS) == 0  # a longer sweep goes on where the shorter one ended
    assert [(what, seed) for what, seed, _ in done[4:]] == [("resume", 1), ("resume", 2), ("resume", 3)]
    assert train_main(["sweep=mine", "agent=sac", "seed=4", "frames=200"], PRESETS) == 0  # one more seed
    assert {run_dir.parent for *_, run_dir in done} == {tmp_path / "runs/mine/walker_walk/sac"}
    assert len({run_dir for *_, run_dir in done}) == 4


def test_a_run_of_a_sweep_that_was_killed_before_its_first_checkpoint_starts_again(
    runs: list[tuple[Config, Path]],
) -> None:
    for _ in range(2):
        assert train_main(["sweep=mine", "agent=sac"], PRESETS) == 0
    assert [path.is_relative_to(Path.cwd() / "runs/mine") for _, path in runs] == [True, True]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("left", ["metrics", "best"])
def test_a_run_of_a_sweep_that_lost_its_last_checkpoint_is_not_deleted(
    runs: list[tuple[Config, Path]], capsys: pytest.CaptureFixture[str], left: str
) -> None:
    assert train_main(["sweep=mine", "agent=sac"], PRESETS) == 0
    run_dir = runs[0][1]
    (run_dir / "metrics.jsonl").write_text('{"frames": 0}\n' + '{"frames": 9}\n' * (left == "metrics"))
    if left == "best":
        Checkpoints(run_dir).save_best(40, 1.0, {})
    with pytest.raises(SystemExit):
        train_main(["sweep=mine", "agent=sac"], PRESETS)
    assert "lost its last checkpoint; delete the folder" in capsys.readouterr().err
    assert (run_dir / "metrics.jsonl").exists()
    assert len(runs) == 1


def test_an_error_inside_a_run_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(config: Config, run_dir: Path) -> None:
        raise UserError("no such camera")

    monkeypatch.setattr(loop, "train", fail)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        train_main(["seed=1"], PRESETS)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "no such camera\n"


def test_resume(
    runs: list[tuple[Config, Path]],
    monkeypatch: pytest.MonkeyPatch,
    refused: Callable[[str], str],
    tmp_path: Path,
) -> None:
    resumed: list[tuple[Path, dict[str, Any]]] = []
    monkeypatch.setattr(loop, "resume", lambda run_dir, changes: resumed.append((run_dir, changes)))
    assert train_main(["agent=sac", "hydra.run.dir=here"], PRESETS) == 0
    assert train_main(["resume=here", "frames=2e6", "eval.every=500"], PRESETS) == 0
    assert resumed == [(Path("here"), {"frames": 2e6, "eval.every": 500})]
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    for line in ("seed=1", "agent=sac", "head=sac", "device=cpu", "experiment=smoke"):
        assert "may change: frames, eval.*, log.*, checkpoint.*" in refused(f"resume=here {line}")
    assert "did you mean: frames" in refused("resume=here frame=3")
    assert "eval.every" in refused("resume=here eval.every=often")
    assert "leave out hydra.run.dir" in refused("resume=here hydra.run.dir=there")


def test_train_from_python(runs: list[tuple[Config, Path]]) -> None:
    run_dir = train({"agent": "sac", "env.obs": "state"})
    assert run_dir.parent == Path("runs/walker_walk/sac")
    train(Config(seed=3), Path("mine"))
    assert runs[1] == (config_from_dict({"seed": 3}), Path("mine"))
    with pytest.raises(UserError, match="holds a run without a checkpoint"):
        train(Config(), Path("mine"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "RUN_DIR"),
        ("nowhere", "no run in 'nowhere'"),
        (". --episodes x", "--episodes"),
        (". --checkpoint first", "--checkpoint"),
    ],
)
def test_eval_mistakes(
    line: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert eval_main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert words in err


def test_blanks_around_the_sign_are_told(refused: Callable[[str], str]) -> None:
    with pytest.raises(UserError, match="found 'agent = smac', expected no blanks around =: agent=smac"):
        read_command_line(["agent = smac"])
    assert "unknown option '--agent'; expected -m, " in refused("--agent smac")
