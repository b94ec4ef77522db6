"""The robustness grid on a toy: an episode depends on its seed and cell alone, and the files hold what was played."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats

from worldrl import train
from worldrl.acting.episodes import AgentActs, run_episodes
from worldrl.agent import Agent
from worldrl.commands.evaluate import eval_main
from worldrl.config import Config, config_from_dict
from worldrl.envs import episode_seed, make_envs
from worldrl.envs.corruption import CorruptionConfig, Noise
from worldrl.envs.stream import EVAL
from worldrl.errors import UserError
from worldrl.evaluation import playing, robustness
from worldrl.evaluation.evaluate import load_agent
from worldrl.evaluation.playing import Job, Played, cell_noise, make_clean_envs, play_grid, policy_seed
from worldrl.evaluation.robustness import evaluate_grid, grid_cells, worst_cells
from worldrl.report.grids import CLEAN, Cell
from worldrl.runs.settings import load_config

TASK = f"{__name__}:Steer"
SETTINGS = {
    "task": TASK,
    "env.obs": "both",
    "env.action_repeat": 1,
    "env.corruption.gaussian": 0.1,
    "frames": 30,
    "schedule.prefill": 15,
    "schedule.updates_per_1000_frames": 100,
    "replay.capacity": 100,
    "replay.batch": 2,
    "replay.length": 4,
    "eval.every": 0,
    "log.every": 100,
    "log.progress": False,
    "log.tensorboard": False,
    "device": "cpu",
    "threads": 1,
    "belief": "rssm",
    "belief.stoch": 4,
    "belief.deter": 8,
    "belief.hidden": 8,
    "belief.depth": 1,
    "belief.reward_units": 8,
    "belief.vector_units": 8,
    "head": "smac",
    "head.units": 8,
    "head.num_particles": 2,
}


class Steer(gymnasium.Env[Any, Any]):
    """A point that the action moves, seen as an image and by two sensors. Episodes are of different lengths."""

    metadata = {"render_modes": []}  # noqa: RUF012
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    observation_space = spaces.Dict(
        {
            "place": spaces.Box(-9, 9, (2,), np.float32),
            "speed": spaces.Box(-9, 9, (2,), np.float32),
            "camera": spaces.Box(0, 255, (64, 64, 3), np.uint8),
        }
    )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(3, 9))
        self.place, self.speed = self.np_random.normal(size=2), np.zeros(2)
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        self.speed = 0.5 * self.speed + np.asarray(action, float)
        self.place = self.place + self.speed
        return self.observe(), float(3 - np.abs(self.place).sum()), False, self.left == 0, {}

    def observe(self) -> Any:
        image = np.full((64, 64, 3), 100 + int(20 * np.tanh(self.place[0])), np.uint8)
        return {"place": self.place.astype(np.float32), "speed": self.speed.astype(np.float32), "camera": image}


class Wider(Steer):
    observation_space = spaces.Dict({**Steer.observation_space.spaces, "speed": spaces.Box(-9, 9, (3,), np.float32)})

    def observe(self) -> Any:
        return {**super().observe(), "speed": np.zeros(3, np.float32)}


class BreaksOften(Steer):
    """Every other episode, by its seed, fails in its third step."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.count, self.breaks = 0, bool(seed and seed % 2)
        return super().reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        if self.breaks and self.count == 3:
            raise RuntimeError("it diverges")
        return super().step(action)


class Breaks(Steer):
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        raise ValueError("the robot is broken")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return train(SETTINGS, tmp_path_factory.mktemp("runs") / "both")


@pytest.fixture(scope="module")
def state_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train({**SETTINGS, "env.obs": "state"}, tmp_path_factory.mktemp("runs") / "state")


@pytest.fixture
def trained(run_dir: Path) -> tuple[Agent, Config]:
    return load_agent(run_dir)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """The one line that a wrong command line ends in."""

    def run(text: str) -> str:
        assert eval_main(text.split()) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        return err

    return run


# --- the grid ---------------------------------------------------------------------------------------------------------


def test_cells_are_clean_once_and_every_kind_at_every_level() -> None:
    cells = grid_cells(["gaussian", "missing", "gaussian"], [0.2, 0.0, 0.1, 0.2])
    assert [str(cell) for cell in cells] == ["clean@0", "gaussian@0.2", "gaussian@0.1", "missing@0.2", "missing@0.1"]
    assert [str(cell) for cell in worst_cells(cells)] == ["gaussian@0.2", "missing@0.2"]


JOBS = [
    Job(cell, seed, episode)
    for cell in (CLEAN, Cell("gaussian", 0.5), Cell("stuck", 0.5), Cell("missing", 0.5))
    for seed in (1, 2)
    for episode in range(3)
]


def play(trained: tuple[Agent, Config], num_envs: int, jobs: list[Job] = JOBS, **kwargs: Any) -> list[Played]:
    agent, config = trained
    with make_clean_envs(config.env, config.task, num_envs, agent.spec) as envs:
        return play_grid(agent, envs, jobs, **kwargs)


SMALL_SLAC = {"belief.z1": 4, "belief.z2": 8, "belief.units": 8, "belief.depth": 1, "belief.vector_units": 8}
PARTS = {
    "smac": {key: value for key, value in SETTINGS.items() if key.startswith(("belief", "head"))},
    "dreamer": {"head": "dreamer", "head.units": 8, "head.mode_samples": 5, "belief.deter": 8, "belief.depth": 1},
    "slac": {"belief": "slac", "head": "slac", "head.units": 8, **SMALL_SLAC},
    "latent": {"head": "sac", "head.units": 8, "policy": "latent", "belief.deter": 8, "belief.depth": 1},
}


@pytest.mark.parametrize("explore", [False, True])
@pytest.mark.parametrize("parts", PARTS)
def test_episodes_do_not_depend_on_the_layout(parts: str, explore: bool) -> None:
    """On any number of environments, in any order, alone or among others; only rounding may differ."""
    plain = {key: value for key, value in SETTINGS.items() if not key.startswith(("belief", "head"))}
    config = config_from_dict({**plain, **PARTS[parts]})
    envs = make_envs(config.env, config.task, 1)
    untrained = Agent(config, envs.spec), config
    envs.close()
    expected = play(untrained, 1, explore=explore)
    assert len({p.episode_return for p in expected}) > len(JOBS) / 2  # cells differ, not only starts
    for num_envs in (2, 5, 40):
        torch.manual_seed(num_envs)  # torch's own generator plays no part
        for found, one in zip(play(untrained, num_envs, explore=explore), expected, strict=True):
            assert found == one._replace(episode_return=pytest.approx(one.episode_return, abs=1e-4))
    assert play(untrained, 5, explore=explore) == play(untrained, 5, explore=explore)
    backwards = play(untrained, 3, JOBS[::-1], explore=explore)
    assert [p[1] for p in backwards[::-1]] == pytest.approx([p[1] for p in expected], abs=1e-4)
    alone = play(untrained, 1, [JOBS[7]], explore=explore)
    assert alone[0][1] == pytest.approx(expected[7][1], abs=1e-4)


def test_an_episode_is_that_of_a_plain_loop(trained: tuple[Agent, Config]) -> None:
    """Its seed is the one that evaluation uses, its noise that of training environments, and its draws its own."""
    agent, _ = trained
    job = Job(Cell("gaussian", 0.5), 2, 1)
    seed = episode_seed(2, EVAL, 0, 1)
    env, noise = Steer(), cell_noise(job.cell, CorruptionConfig(), agent.spec)
    noise.begin(seed)
    torch.manual_seed(policy_seed(2, 1))
    raw, _ = env.reset(seed=seed)
    state, action, total, first, end = agent.initial(1), np.zeros((1, 2), np.float32), 0.0, 1.0, False
    while not end:
        clean = {"pixels": raw["camera"], "state": np.concatenate([raw["place"], raw["speed"]])}
        rows = {key: x[None] for key, x in noise(clean).items()}
        rows |= {"action": action, "is_first": np.full(1, first, np.float32)}
        state, action, _ = agent.act(state, rows, explore=False)
        raw, reward, _, end, _ = env.step(action[0])
        total, first = total + reward, 0.0
    (played,) = play(trained, 1, [job])
    found = played.episode_return
    assert found == pytest.approx(total, abs=1e-4)


def test_cells_share_starts_and_draws(trained: tuple[Agent, Config]) -> None:
    """Noise of a level that changes nothing changes nothing; episodes last as long in every cell."""
    jobs = [Job(cell, 1, e) for cell in (CLEAN, Cell("jpeg", 1e-9), Cell("missing", 0.9)) for e in range(3)]
    played = play(trained, 4, jobs)
    lengths = [p[2] for p in played]
    assert lengths[:3] == lengths[3:6] == lengths[6:]
    assert len(set(lengths)) > 1
    unnoticed = play(trained, 4, [job._replace(cell=Cell("blur", 0.01)) for job in jobs[:3]])
    assert [p[1] for p in unnoticed] == pytest.approx([p[1] for p in played[:3]], abs=1e-4)


def test_known_dropout_plays_the_same_episodes(trained: tuple[Agent, Config]) -> None:
    """It changes what is done where something is lost, and nothing else: what an all-dark row shows is not read."""
    cells = (CLEAN, Cell("gaussian", 0.5), Cell("flicker", 0.5), Cell("missing", 0.5))
    jobs = [Job(cell, 1, e) for cell in cells for e in range(3)]
    told, untold = (play(trained, 4, jobs, known_dropout=known) for known in (True, False))
    assert [p[2] for p in told] == [p[2] for p in untold]
    returns = np.array([[p[1] for p in played] for played in (told, untold)])
    np.testing.assert_array_equal(returns[0, :6], returns[1, :6])
    assert (returns[0, 6:] != returns[1, 6:]).any(-1)
    blind = [[p[1] for p in play(trained, 4, [Job(Cell(kind, 1.0), 1, e) for e in range(3)], known_dropout=True)]
             for kind in ("flicker", "missing", "bursts")]  # fmt: skip
    assert blind[0] == blind[1] == blind[2]


# --- files ------------------------------------------------------------------------------------------------------------


def read_csv(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "robustness.csv").read_text().splitlines()))


def test_files_hold_what_was_played(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for old in ("missing@0.5", "clean@0", "mine"):
        (tmp_path / f"{old}.mp4").touch()
    line = f"{run_dir} --corruption gaussian bursts --level 0.1 0.4 --seeds 1 2 --episodes 3 --envs 4 --out {tmp_path}"
    assert eval_main(line.split()) == 0
    out = capsys.readouterr().out
    result = json.loads((tmp_path / "robustness.json").read_text())
    assert [(c["corruption"], c["level"]) for c in result["cells"]] == [
        ("clean", 0), ("gaussian", 0.1), ("gaussian", 0.4), ("bursts", 0.1), ("bursts", 0.4)
    ]  # fmt: skip
    assert result["trained_with"] == {"gaussian": 0.1}
    assert "trained with gaussian 0.1 (switched off here" in out
    rows = read_csv(tmp_path)
    assert len(rows) == 5 * 2 * 3
    for cell in result["cells"]:
        returns = [float(r["return"]) for r in rows if (r["corruption"], float(r["level"])) == tuple(cell.values())[:2]]
        assert cell["returns"] == returns
        assert cell["return"] == pytest.approx(np.mean(returns))
        low, high = stats.t.interval(0.95, 5, np.mean(returns), stats.sem(returns))
        assert 2 * cell["interval"] == pytest.approx(high - low)
        assert result["metrics"][f"robust/{cell['corruption']}@{cell['level']:g}/return"] == cell["return"]
        assert f"{cell['return']:.1f}" in out
    assert result["frames"] == sum(int(r["frames"]) for r in rows)
    assert not result["known_dropout"]
    assert {r["known_dropout"] for r in rows} == {"0"}
    assert (tmp_path / "robustness.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.glob("*.mp4")] == ["mine.mp4"]  # those of an earlier grid are gone


def test_the_clean_cell_plays_the_episodes_of_a_plain_evaluation(trained: tuple[Agent, Config]) -> None:
    agent, config = trained
    envs = make_envs(config.env, config.task, 7, num_envs=1, training=False)
    try:
        plain = run_episodes(envs, AgentActs(agent, 1), 5)
    finally:
        envs.close()
    assert [p[2] for p in play(trained, 2, [Job(CLEAN, 7, e) for e in range(5)])] == plain.lengths


def test_one_episode_has_no_interval(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluate_grid(run_dir, ["missing"], [0.1], episodes=1, out=tmp_path, device="cpu")
    assert [(cell["interval"], cell["return_std"]) for cell in result["cells"]] == [(None, None)] * 2
    assert json.loads((tmp_path / "robustness.json").read_text())["cells"] == result["cells"]


def test_the_files_say_that_dropout_was_known(state_run: Path, tmp_path: Path) -> None:
    grid = evaluate_grid(state_run, ["flicker"], [0.5], [1], 2, known_dropout=True, out=tmp_path, device="cpu")
    assert grid["known_dropout"]
    assert {row["known_dropout"] for row in read_csv(tmp_path)} == {"1"}


def test_groups_reach_the_noise(state_run: Path, tmp_path: Path) -> None:
    """Losing nothing but the sensors that were never named is no loss."""
    returns = {}
    for groups in ((), ("speed",), ("speed", "place")):
        grid = evaluate_grid(state_run, ["missing"], [1.0], [1], 3, groups=groups, out=tmp_path, device="cpu")
        returns[groups] = grid["cells"][1]["returns"]
    assert returns[()] == returns["speed", "place"] != returns[("speed",)]


@pytest.mark.parametrize("kind", ["both", "state"])
def test_videos_of_the_worst_levels(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    import av

    run = request.getfixturevalue("run_dir" if kind == "both" else "state_run")
    evaluate_grid(run, ["missing", "flicker"], [0.1, 0.5], episodes=2, out=tmp_path, device="cpu", video=True)
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["flicker@0.5.mp4", "missing@0.5.mp4"]
    with av.open(str(tmp_path / "missing@0.5.mp4")) as video:
        shapes = [picture.to_ndarray(format="rgb24").shape for picture in video.decode(video=0)]
    assert set(shapes) == {(256, 260, 3) if kind == "both" else (256, 520, 3)}
    rows = read_csv(tmp_path)
    steps = next(
        int(r["frames"]) for r in rows if (r["corruption"], r["level"], r["episode"]) == ("missing", "0.5", "0")
    )
    assert len(shapes) == steps + 1


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--corruption gausian --level 0.1", "unknown corruption 'gausian'; did you mean: gaussian"),
        (
            "--corruption missing --level 1.5",
            "--level for missing: found 1.5, expected a share of the values in [0, 1]",
        ),
        ("--corruption missing --level nan", "--level for missing: found nan"),
        ("--corruption missing --level -0.1", "--level for missing: found -0.1"),
        ("--corruption missing --level x", "invalid float value"),
        ("--corruption missing", "--level: found none above 0"),
        ("--corruption missing --level 0", "--level: found none above 0"),
        ("--corruption blur --level 1", "corruption blur: found state, expected images"),
        ("--corruption missing --level 0.1 --groups sped", "unknown sensor group 'sped'; did you mean: speed"),
        ("--corruption missing --level 0.1 --episodes 0", "--episodes: found '0', expected a whole number, 1 or more"),
        ("--corruption missing --level 0.1 --envs 0", "--envs: found '0', expected a whole number, 1 or more"),
        ("--corruption missing --level 0.1 --seeds 1 1", "--seeds: found 1 1, expected each number once"),
        ("--corruption missing --level 0.1 --seed 1", "--seed: expected no --corruption with it"),
        ("--corruption missing --level 0.1 --json x", "--json: expected no --corruption with it"),
        ("--corruption missing --level 0.1 --video x", "--video: found a PATH, expected none with --corruption"),
        ("--corruption missing --level 0.1 --checkpoint best", "no best checkpoint"),
        ("--corruption missing --level 0.1 --out /proc/nowhere", "cannot write to /proc/nowhere"),
        ("--level 0.1", "--level: expected --corruption with it"),
        ("--groups speed", "--groups: expected --corruption with it"),
        ("--video", "--video: found no PATH, expected the path of a file"),
    ],
)
def test_mistakes_are_told_in_one_line(
    options: str, words: str, state_run: Path, refused: Callable[[str], str]
) -> None:
    assert words in refused(f"{state_run} {options}")


def test_a_file_is_no_folder_to_write_into(state_run: Path, tmp_path: Path, refused: Callable[[str], str]) -> None:
    (tmp_path / "file").touch()
    for out in ("file", "file/inside"):
        said = refused(f"{state_run} --corruption missing --level 0.1 --out {tmp_path / out}")
        assert f"cannot write to {tmp_path / out}" in said


def test_a_run_without_a_finished_checkpoint(state_run: Path, tmp_path: Path, refused: Callable[[str], str]) -> None:
    (tmp_path / "config.yaml").write_text((state_run / "config.yaml").read_text())
    assert "found no checkpoint" in refused(f"{tmp_path} --corruption missing --level 0.1")


def other_task(run: Path, folder: Path, task: type) -> Path:
    """The run's folder, as if its task had changed since."""
    text = (run / "config.yaml").read_text()
    assert TASK in text
    (folder / "config.yaml").write_text(text.replace(TASK, f"{__name__}:{task.__name__}"))
    (folder / "checkpoints").symlink_to(run / "checkpoints")
    return folder


@pytest.mark.parametrize("options", ["", "--corruption missing --level 0.1"])
def test_an_environment_that_has_changed(
    options: str, state_run: Path, tmp_path: Path, refused: Callable[[str], str]
) -> None:
    said = refused(f"{other_task(state_run, tmp_path, Wider)} {options}")
    assert "found state (5,) float32, actions box of 2, expected state (4,) float32, actions box of 2" in said


def test_an_environment_that_breaks(state_run: Path, tmp_path: Path, refused: Callable[[str], str]) -> None:
    said = refused(f"{other_task(state_run, tmp_path, Breaks)} --corruption missing --level 0.1")
    assert "ValueError: the robot is broken" in said
    assert "the first step of every episode failed" in said


def test_an_episode_that_diverges_is_cut(state_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It counts up to there, as in an evaluation, and nothing else is lost."""
    command = other_task(state_run, tmp_path, BreaksOften)
    assert eval_main(f"{command} --corruption missing --level 0.1 --episodes 6 --out {tmp_path / 'grid'}".split()) == 0
    cells = json.loads((tmp_path / "grid" / "robustness.json").read_text())["cells"]
    assert [cell["cut"] for cell in cells] == [cells[0]["cut"]] * 2
    assert 0 < cells[0]["cut"] < 6
    assert min(cells[0]["frames"]) == 2 < max(cells[0]["frames"])
    assert f"cut {2 * cells[0]['cut']} episodes" in capsys.readouterr().out


def test_the_runs_own_settings_are_left_alone(run_dir: Path) -> None:
    assert load_config(run_dir).env.corruption.gaussian == 0.1
    assert isinstance(cell_noise(CLEAN, CorruptionConfig(), load_agent(run_dir)[0].spec), Noise)
    with pytest.raises(UserError, match="unknown sensor group"):
        cell_noise(Cell("missing", 0.1), CorruptionConfig(groups=("nose",)), load_agent(run_dir)[0].spec)


def test_bursts_are_as_long_as_in_training(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, config = load_agent(run_dir)
    trained_so = replace(config, env=replace(config.env, corruption=CorruptionConfig(burst_length=20)))
    monkeypatch.setattr(robustness, "load_agent", lambda *_: (agent, trained_so))
    made, real = [], playing.cell_noise
    monkeypatch.setattr(playing, "cell_noise", lambda *args: made.append(real(*args)) or made[-1])
    robustness.evaluate_grid(run_dir, ["bursts"], [0.3], episodes=1, num_envs=1, out=run_dir / "longer")
    assert {noise._burst_length for noise in made} == {20}
