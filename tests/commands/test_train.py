"""``worldrl train``: what a mistake looks like, which jobs run, and how often each is composed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from worldrl.commands import train as command
from worldrl.commands.arguments import expand, read_command_line
from worldrl.commands.train import help_text, train, train_main
from worldrl.compose import compose
from worldrl.config import Config, config_from_dict
from worldrl.errors import UserError
from worldrl.presets import preset_names
from worldrl.runs.checkpoint import Checkpoints
from worldrl.runs.settings import load_config, save_config
from worldrl.training import loop

ROOT = Path(__file__).resolve().parents[2]


def settings(text: str) -> Config:
    """Settings of a command line without commas."""
    (arguments,) = expand(read_command_line(text.split()).ours)
    return compose(arguments)


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
        assert train_main(text.split()) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        return err.strip()

    return run


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
            "unknown key 'head.estimator': found a setting of head=smac",
        ),
        ("agent=sac policy.num_particles=3", "found a setting of policy=latent, expected one of this policy"),
        ("batch_size=256", "unknown key 'batch_size': expected one of: replay.batch"),
        ("env.frame_skip=2", "unknown key 'env.frame_skip': expected one of: env.action_repeat"),
        ("learning_rate=1e-3", "belief.lr, head.actor_lr"),
        ("wandb=1", "unknown key 'wandb'; see --help, or list all keys with --cfg job"),
        ("head.critic_lrr=1", "head.critic_lr"),
        ("head.lr=1", "did you mean: head.alpha_lr, head.actor_lr, head.critic_lr"),
        ("task=walker_wlak", "walker_walk"),
        ("task=Pendulm-v1", "Pendulum-v1"),
        ("task=walker", "walker_walk"),
        ("seed=x", "seed: found 'x', expected an integer"),
        ("seed=1 seed=2", "seed: found two values"),
        ("agent=null", "agent: found None, expected a name"),
        ("seed=1,2", "add -m"),
        ("-m agent=smac,latent_sca seed=0,1", "latent_sac"),
        ("-m seed=0,-1", "seed: found -1"),
        ("-m replay.length=range(1,3)", "replay.length: found 1"),
        ("-m agent=glob(*)", "sweep: found 'agent=glob(*)', expected choices"),
        ("smac", "expected key=value"),
        ("--mulrirun", "--multirun"),
        ("--cfg all", "--cfg: found all, expected job"),
        ("+seed=1", "expected seed=1"),
        ("seed@x=1", "without '@'"),
        ("task=((", "cannot read"),
        ("-m hydra/launcher=slurm", "hydra-submitit-launcher"),
        ("hydra/launcher=joblib", "hydra/launcher=joblib: found a single run, expected the jobs of a sweep; add -m"),
        ("hydra.sweep.dir=x", "add -m"),
        ("-m hydra.run.dirr=x", "hydra.run.dirr"),
        ("-m seed=1 hydra.run.dir=x", "hydra.run.dir: found the jobs of a sweep, expected a single run"),
        ("resume=nowhere", "no run in 'nowhere'"),
        ("resume=nowhere init_from=x", "no run in 'nowhere'"),
        ("init_from=nowhere", "init_from: no run in 'nowhere': found no config.yaml"),
        ("schedule.model_every=0", "expected init_from=RUN_DIR"),
        ("sweep=../x", "sweep: found '../x', expected a folder name"),
        ("sweep=3", "sweep: found 3, expected a folder name"),
        ("-m sweep=x seed=1,1", "sweep=x: found the same run twice"),
        ("data.reward=minus_1", "data.reward: found 'minus_1', expected nothing"),
        ("init_from_checkpoint=best", "init_from_checkpoint: found 'best', expected nothing"),
        (
            "-m sweep=x frames=10,20",
            "sweep=x: found two runs that differ only in frames, updates, eval.*, log.*, checkpoint.*",
        ),
        (
            "sweep=x hydra.run.dir=y",
            "hydra.run.dir: found sweep=, which names the run folder already; leave out hydra.run.dir",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(line: str, words: str, refused: Callable[[str], str]) -> None:
    assert words in refused(line)


@pytest.mark.parametrize(
    ("line", "words"),
    [("agent=smca", "smac"), ("-m seed=1,2 head.critic_lrr=1", "head.critic_lr"), ("-m hydra/launcher=x", "basic")],
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
    assert train_main(["--help"]) == 0
    text = capsys.readouterr().out
    assert text.strip() == help_text()
    assert all(name in text for group in ("agent", "env", "experiment") for name in preset_names(group))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("agent=smac belief=identity head=dreamer env.obs=state --cfg job", "beliefs that can: rssm, slac"),
        ("agent=smac belief=identity --cfg job", "expected vectors of float32 only"),
        ("agent=sac belief=slac --cfg job", "replay.length: found 2, expected 9 or more: the belief keeps 7 rows"),
        ("-m agent=td3 policy=own,flow", "head=td3: found policy=flow, expected policy=own"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_anything_runs(
    refused: Callable[[str], str], arguments: str, says: str
) -> None:
    noise = torch.random.get_rng_state()
    assert says in refused(arguments)
    assert torch.equal(torch.random.get_rng_state(), noise)


def test_cfg_shows_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert train_main(["--cfg", "job", "agent=sac"]) == 0
    assert "name: identity" in capsys.readouterr().out


# --- jobs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("experiment=minatar agent=sac", "experiment=minatar_sac"),
        ("experiment=quickstart agent=slac", "experiment=quickstart_slac"),
        ("experiment=minatar agent=mirl", ""),
        ("experiment=quickstart", ""),
    ],
)
def test_an_experiment_that_was_made_for_the_agent_is_named(
    line: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_main([*line.split(), "--cfg", "job"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(told)
    assert all(told in line for line in lines)


def test_a_run_and_its_folder(runs: list[tuple[Config, Path]], tmp_path: Path) -> None:
    assert train_main(["agent=smac", "head=sac", "task=walker-walk", "head.critic_lr=1e-3"]) == 0
    ((config, run_dir),) = runs
    assert config == settings("head=sac head.critic_lr=1e-3")
    assert run_dir.parent == tmp_path / "runs" / "walker_walk" / "sac@rssm"
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert sorted(path.name for path in run_dir.iterdir()) == ["config.yaml", "metrics.jsonl"]


def test_a_folder_with_settings_of_something_else_is_left_alone(
    runs: list[tuple[Config, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "config.yaml").write_text("mine: 1\n")
    assert train_main(["agent=sac", f"hydra.run.dir={tmp_path / 'here'}"]) == 2
    assert "found a config.yaml, expected a new or empty folder" in capsys.readouterr().err
    assert (tmp_path / "here" / "config.yaml").read_text() == "mine: 1\n"
    assert not runs


def test_a_folder_holds_one_run(
    runs: list[tuple[Config, Path]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = ["agent=sac", "hydra.run.dir=here"]
    assert train_main(line) == 0
    for words in (
        "here: found a run without a checkpoint, expected a new or empty folder; delete it if it has ended",
        "here: found a run, expected a new or empty folder; continue it with python -m worldrl train resume=",
    ):
        assert train_main(line) == 2
        assert words in capsys.readouterr().err
        Checkpoints(tmp_path / "here").save(0, {})
    assert [run_dir for _, run_dir in runs] == [tmp_path / "here"]


def test_a_sweep_runs_every_combination(runs: list[tuple[Config, Path]], tmp_path: Path) -> None:
    assert train_main(["-m", "agent=smac,latent_sac", "seed=0,1"]) == 0
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
        train_main(command)
    assert [(what, seed) for what, seed, _ in done] == [("train", 1), ("train", 2)]
    assert train_main(command) == 0
    assert [(what, seed) for what, seed, _ in done[2:]] == [("resume", 2), ("train", 3)]
    assert done[2][2] == done[1][2]
    assert train_main(command) == 0  # seed 3 was stopped in its last evaluation
    assert done.pop()[:2] == ("resume", 3)
    out = capsys.readouterr().out
    assert out.count("finished before: ") == 3
    assert out.splitlines()[-1] == "curves and tables: python -m worldrl report runs/mine"
    assert train_main([*command[:-1], "frames=200"]) == 0  # a longer sweep goes on where the shorter one ended
    assert [(what, seed) for what, seed, _ in done[4:]] == [("resume", 1), ("resume", 2), ("resume", 3)]
    assert train_main(["sweep=mine", "agent=sac", "seed=4", "frames=200"]) == 0  # one more seed
    assert {run_dir.parent for *_, run_dir in done} == {tmp_path / "runs/mine/walker_walk/sac"}
    assert len({run_dir for *_, run_dir in done}) == 4


def test_a_run_of_a_sweep_that_was_killed_before_its_first_checkpoint_starts_again(
    runs: list[tuple[Config, Path]],
) -> None:
    for _ in range(2):
        assert train_main(["sweep=mine", "agent=sac"]) == 0
    assert [path.is_relative_to(Path.cwd() / "runs/mine") for _, path in runs] == [True, True]
    assert runs[0] == runs[1]


def test_a_run_of_a_sweep_that_was_killed_while_its_settings_were_written_starts_again(
    runs: list[tuple[Config, Path]], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".config.yaml.partial").write_text("agent: sa")
    command.train_or_continue(settings("agent=sac"), tmp_path / "mine")
    assert len(runs) == 1


def test_a_folder_of_somebody_else_is_not_deleted(runs: list[tuple[Config, Path]], tmp_path: Path) -> None:
    config = settings("agent=sac")
    (tmp_path / "mine" / "notes").mkdir(parents=True)
    with pytest.raises(UserError):
        command.train_or_continue(config, tmp_path / "mine")
    assert (tmp_path / "mine" / "notes").is_dir()
    save_config(config, tmp_path / "mine")
    command.train_or_continue(config, tmp_path / "mine")
    assert not (tmp_path / "mine" / "notes").exists()  # a run that had only begun
    assert len(runs) == 1


@pytest.mark.parametrize("key", ["resume", "sweep"])
def test_from_python_what_only_the_command_line_has_is_refused(key: str, runs: list[tuple[Config, Path]]) -> None:
    for given in ({key: "x"}, settings("agent=sac")):
        with pytest.raises(UserError):
            train(given, **({} if isinstance(given, dict) else {key: "x"}))
    assert not runs


@pytest.mark.parametrize("left", ["metrics", "data", "best"])
def test_a_run_of_a_sweep_that_lost_its_last_checkpoint_is_not_deleted(
    runs: list[tuple[Config, Path]], capsys: pytest.CaptureFixture[str], left: str
) -> None:
    assert train_main(["sweep=mine", "agent=sac"]) == 0
    run_dir = runs[0][1]
    later = {"metrics": '{"frames": 9}\n', "data": '{"frames": 0, "updates": 9}\n'}
    (run_dir / "metrics.jsonl").write_text('{"frames": 0}\n' + later.get(left, ""))
    if left == "best":
        Checkpoints(run_dir).save_best(40, 1.0, {})
    assert train_main(["sweep=mine", "agent=sac"]) == 2
    assert "found a run that lost its last checkpoint; delete it to train it again" in capsys.readouterr().err
    assert (run_dir / "metrics.jsonl").exists()
    assert len(runs) == 1


def test_an_error_inside_a_run_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(config: Config, run_dir: Path) -> None:
        raise UserError("no such camera")

    monkeypatch.setattr(loop, "train", fail)
    monkeypatch.chdir(tmp_path)
    assert train_main(["seed=1"]) == 2
    assert capsys.readouterr().err == "no such camera\n"


def test_resume(
    runs: list[tuple[Config, Path]],
    monkeypatch: pytest.MonkeyPatch,
    refused: Callable[[str], str],
    tmp_path: Path,
) -> None:
    resumed: list[tuple[Path, dict[str, Any]]] = []
    monkeypatch.setattr(loop, "resume", lambda run_dir, changes: resumed.append((run_dir, changes)))
    assert train_main(["agent=sac", "hydra.run.dir=here"]) == 0
    assert train_main(["resume=here", "frames=2e6", "eval.every=500"]) == 0
    assert resumed == [(Path("here"), {"frames": 2e6, "eval.every": 500})]
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    for line in ("seed=1", "agent=sac", "head=sac", "device=cpu", "experiment=smoke"):
        assert "a resumed run may change: frames, updates, eval.*, log.*, checkpoint.*" in refused(
            f"resume=here {line}"
        )
    assert "did you mean: frames" in refused("resume=here frame=3")
    assert "eval.every" in refused("resume=here eval.every=often")
    assert "leave out hydra.run.dir" in refused("resume=here hydra.run.dir=there")


def test_train_from_python(runs: list[tuple[Config, Path]]) -> None:
    run_dir = train({"agent": "sac", "env.obs": "state"})
    assert run_dir.parent == Path("runs/walker_walk/sac")
    train(Config(seed=3), Path("mine"))
    assert runs[1] == (config_from_dict({"seed": 3}), Path("mine"))
    with pytest.raises(UserError) as caught:
        train(Config(), Path("mine"))
    assert (caught.value.where, caught.value.found) == ("mine", "a run without a checkpoint")


def test_blanks_around_the_sign_are_told(refused: Callable[[str], str]) -> None:
    with pytest.raises(UserError) as caught:
        read_command_line(["agent = smac"])
    assert (caught.value.found, caught.value.expected) == ("'agent = smac'", "no blanks around =: agent=smac")
    assert "unknown option '--agent': expected -m, " in refused("--agent smac")


# --- composed once ----------------------------------------------------------------------------------------------------


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every call of ``compose``."""
    calls: list[dict[str, Any]] = []

    def counted(arguments: dict[str, Any]) -> Config:
        calls.append(arguments)
        return compose(arguments)

    monkeypatch.setattr(command, "compose", counted)
    return calls


@pytest.mark.parametrize(
    ("line", "jobs"),
    [("agent=sac", 1), ("agent=sac sweep=mine", 1), ("-m agent=sac seed=1,2,3", 3), ("-m sweep=x agent=sac seed=4", 1)],
)
def test_every_job_is_composed_once(
    runs: list[tuple[Config, Path]], composed: list[dict[str, Any]], line: str, jobs: int
) -> None:
    assert train_main(line.split()) == 0
    assert len(composed) == len(runs) == jobs


def test_a_resumed_run_is_not_composed(
    runs: list[tuple[Config, Path]], composed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "resume", lambda run_dir, changes: None)
    assert train_main(["agent=sac", "hydra.run.dir=here"]) == 0
    assert train_main(["resume=here", "frames=2e6"]) == 0
    assert len(composed) == 1


def test_python_composes_what_the_shell_composes(
    runs: list[tuple[Config, Path]], composed: list[dict[str, Any]]
) -> None:
    assert train_main(["agent=sac", "task=cheetah_run", "head.critic_lr=1e-3"]) == 0
    train(agent="sac", task="cheetah_run", head={"critic_lr": 1e-3})
    train({"agent": "sac", "task": "cheetah_run", "head.critic_lr": 1e-3}, "mine")
    train({"agent": "td3", "task": "cheetah_run"}, "other", agent="sac", **{"head.critic_lr": 1e-3})
    assert len(composed) == 4
    assert len({config_id(config) for config, _ in runs}) == 1


def config_id(config: Config) -> str:
    return repr(config)


def test_a_failing_run_of_a_sweep_does_not_stop_the_others(
    runs: list[tuple[Config, Path]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fine = loop.train

    def fail_once(config: Config, run_dir: Path) -> None:
        if config.seed == 2:
            raise UserError("no such camera")
        fine(config, run_dir)

    monkeypatch.setattr(loop, "train", fail_once)
    assert train_main(["-m", "agent=sac", "seed=1,2,3"]) == 2
    assert [config.seed for config, _ in runs] == [1, 3]
    first, last = capsys.readouterr().err.splitlines()
    assert first == "no such camera"
    assert last.startswith("sweep: found that 1 of 3 runs failed: ")
    assert last.endswith(": no such camera")


def test_a_crash_of_a_run_of_a_sweep_names_it_and_does_not_stop_the_others(
    runs: list[tuple[Config, Path]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fine = loop.train

    def crash_once(config: Config, run_dir: Path) -> None:
        if config.seed == 2:
            raise ValueError("a bug")
        fine(config, run_dir)

    monkeypatch.setattr(loop, "train", crash_once)
    assert train_main(["-m", "agent=sac", "seed=1,2,3"]) == 2
    assert [config.seed for config, _ in runs] == [1, 3]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith(" failed:")
    assert "Traceback (most recent call last):" in lines
    assert lines[-1].startswith("sweep: found that 1 of 3 runs failed: ")
    assert lines[-1].endswith(": ValueError: a bug")
