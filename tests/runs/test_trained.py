"""The policy of a run folder: it acts as training did, alone and in batches, and as an exported program."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import worldrl
from tests.errors import refusing
from tests.toy_runs import SLAC, SMALL, STATE_SAC, make_run
from worldrl.config import config_from_dict
from worldrl.errors import UserError
from worldrl.registry import tiny_settings
from worldrl.runs.checkpoint import Checkpoints
from worldrl.runs.settings import save_config
from worldrl.runs.trained import TrainedPolicy, load_agent, share
from worldrl.runs.transfer import load_model
from worldrl.training.loop import resume
from worldrl.types import box, choice

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("pixels") / "run")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("both") / "run", SMALL, **{"env.obs": "both"})


@pytest.fixture(scope="module")
def slac(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("slac") / "run", SLAC, **{"env.obs": "both"})


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("states") / "run", STATE_SAC)


def observations(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """``n`` observations of the run on both."""
    rng = np.random.default_rng(seed)
    return {
        "pixels": rng.integers(0, 256, (n, 64, 64, 3), dtype=np.uint8),
        "state": rng.standard_normal((n, 5)).astype(np.float32),
    }


def entry(obs: dict[str, np.ndarray], i: int) -> dict[str, np.ndarray]:
    return {key: value[i] for key, value in obs.items()}


@pytest.mark.parametrize("mode", [{}, {"explore": True}, {"deterministic": True}])
@pytest.mark.parametrize(("kind", "particles"), [("both", 0), ("both", 3), ("slac", 0)])
def test_acts_as_the_training_loop_does(
    kind: str, mode: dict[str, bool], particles: int, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue(kind)
    agent, _ = load_agent(run, device="cpu")
    rows = [observations(2, t) | {"is_first": np.full(2, float(t in (0, 3)), np.float32)} for t in range(5)]
    torch.manual_seed(3)
    state, action, wanted = agent.initial(2, particles), np.zeros((2, 1), np.float32), []
    for row in rows:
        known = {**row, "action": action * (1 - row["is_first"])[:, None]}
        state, action, _ = agent.act(state, known, perturb=False, **({"explore": False} | mode))
        wanted.append(action)
    policy = worldrl.load(run, device="cpu", act_particles=particles)
    torch.manual_seed(3)
    found = [policy.act({key: row[key] for key in agent.spec.obs}, row["is_first"], **mode) for row in rows]
    np.testing.assert_array_equal(found, wanted)


def test_a_batch_is_its_entries(both: Path) -> None:
    batched = worldrl.load(both, device="cpu")
    single = [worldrl.load(both, device="cpu") for _ in range(3)]
    for t in range(4):
        obs = observations(3, t)
        first = np.array([False, t == 2, False])
        actions = batched.act(obs, first, deterministic=True)
        alone = [p.act(entry(obs, i), first[i], deterministic=True) for i, p in enumerate(single)]
        assert actions.shape == (3, 1)
        assert alone[0].shape == (1,)
        np.testing.assert_allclose(actions, alone, atol=1e-6)
        torch.testing.assert_close(batched.belief.feat[1], single[1].belief.feat)
        assert single[1].belief.entropy.shape == ()


def test_reset_forgets_and_is_first_forgets_in_one_entry(both: Path) -> None:
    policy = worldrl.load(both, device="cpu")
    obs = [observations(2, t) for t in range(3)]
    fresh = policy.act(obs[2], deterministic=True)
    policy.reset()
    for o in obs[:2]:
        policy.act(o, deterministic=True)
    mixed = policy.act(obs[2], [True, False], deterministic=True)
    np.testing.assert_allclose(mixed[0], fresh[0], atol=1e-6)
    assert not np.allclose(mixed[1], fresh[1], atol=1e-5)
    policy.reset()
    with refusing("belief", fix="act()"):
        _ = policy.belief
    assert policy.act(entry(obs[0], 0)).shape == (1,)  # another batch size is fine after a reset


def test_the_executed_action_is_what_the_belief_hears_of(both: Path) -> None:
    a, b, c = (worldrl.load(both, device="cpu") for _ in range(3))
    for policy, told in ((a, None), (b, a), (c, [0.9])):
        first = policy.act(entry(observations(1), 0), deterministic=True)
        told = first if isinstance(told, TrainedPolicy) else told
        policy.act(entry(observations(1, 1), 0), deterministic=True, prev_action=told)
    assert torch.equal(a.belief.feat, b.belief.feat)
    assert not torch.equal(a.belief.feat, c.belief.feat)


def test_a_bare_array_is_taken_where_there_is_one_key(pixels: Path, states: Path) -> None:
    image, vector = observations(1)["pixels"][0], np.arange(5)
    for run, obs, key in ((pixels, image, "pixels"), (states, vector, "state")):
        bare, named = (worldrl.load(run, device="cpu") for _ in range(2))
        np.testing.assert_array_equal(bare.act(obs, deterministic=True), named.act({key: obs}, deterministic=True))


def acted(run: Path, obs: list[dict[str, Any]], seen: list[dict[str, np.ndarray] | None]) -> TrainedPolicy:
    """The policy after these rows."""
    policy = worldrl.load(run, device="cpu")
    for row, masks in zip(obs, seen, strict=True):
        policy.act(row, deterministic=True, seen=masks)
    return policy


@pytest.mark.parametrize("run", ["both", "slac"])
def test_what_is_lost_does_not_matter(run: str, request: pytest.FixtureRequest) -> None:
    run_dir = request.getfixturevalue(run)
    first, second = observations(2), observations(2, 1)
    seen = {"state": np.array([[True] * 4 + [False], [True] * 5])}
    damaged = second | {"state": np.where(seen["state"], second["state"], np.nan)}
    told, other, untold = (
        acted(run_dir, [first, row], [None, masks]).belief.feat
        for row, masks in ((second, seen), (damaged, seen), (second, None))
    )
    torch.testing.assert_close(told, other)
    assert not torch.equal(told[0], untold[0])
    torch.testing.assert_close(told[1], untold[1])
    everything = {key: np.ones(x.shape, bool) for key, x in second.items()}
    torch.testing.assert_close(acted(run_dir, [first, second], [None, everything]).belief.feat, untold)


def test_masks_that_do_not_fit_are_refused_in_one_line(both: Path, states: Path) -> None:
    obs = observations(1)
    for masks, words in (
        (np.ones((1, 5), bool), "dict with the keys pixels, state"),
        ({"sound": [True]}, "the keys sound"),
        ({"state": [True] * 5}, r"bools of the observation's shape \(1, 5\)"),
        ({"state": np.ones((1, 5))}, "float64"),
    ):
        with pytest.raises(UserError, match=words):
            worldrl.load(both, device="cpu").act(obs, seen=masks)
    with refusing("seen", found="Identity"):
        worldrl.load(states, device="cpu").act(np.zeros(5), seen=np.ones(5, bool))


def test_reconstruction_is_the_decoded_belief(both: Path, states: Path) -> None:
    policy = worldrl.load(both, device="cpu")
    policy.act(observations(2))
    images = policy.reconstruct()["pixels"]
    assert images.shape == (2, 64, 64, 3)
    assert images.dtype == np.uint8
    policy.reset()
    policy.act(entry(observations(2), 0))
    assert policy.reconstruct()["state"].shape == (5,)
    point = worldrl.load(states, device="cpu")
    point.act(np.zeros(5))
    with refusing("belief", found="Identity", expected="rssm"):
        point.reconstruct()


@pytest.mark.parametrize(
    ("obs", "words"),
    [
        (np.zeros((64, 64, 3), np.uint8), "dict with the keys pixels, state"),
        ({"pixels": np.zeros((64, 64, 3), np.uint8)}, "observation: found the keys pixels, expected pixels, state"),
        (observations(1) | {"reward": 0.0}, "keys pixels, state, reward"),
        (observations(1) | {"state": np.zeros(4)}, r"'state': found shape \(4,\), expected \(5,\) or \(B, 5\)"),
        (observations(1) | {"state": np.zeros((0, 5))}, r"'state': found shape \(0, 5\)"),
        (observations(1) | {"state": np.zeros(5)}, "different batch sizes"),
        (observations(2) | {"state": np.zeros((3, 5))}, "different batch sizes"),
        (observations(1) | {"state": np.full((1, 5), "x")}, "found <U1, expected numbers"),
        (observations(1) | {"state": np.full((1, 5), np.nan)}, "not finite"),
        (observations(1) | {"pixels": np.zeros((1, 64, 64, 3))}, "'pixels': found float64, expected uint8"),
        (
            observations(1) | {"pixels": np.zeros((1, 3, 64, 64), np.uint8)},
            r"expected \(64, 64, 3\) or \(B, 64, 64, 3\)",
        ),
    ],
)
def test_wrong_observations_are_refused_in_one_line(both: Path, obs: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as refused:
        worldrl.load(both, device="cpu").act(obs)
    assert "\n" not in str(refused.value)


def test_wrong_calls_are_refused_in_one_line(both: Path, pixels: Path, tmp_path: Path) -> None:
    policy = worldrl.load(both, device="cpu")
    policy.act(observations(2))
    for words, arguments in (
        ("found a batch of 3, expected 2 as before", (observations(3),)),
        ("is_first: found", (observations(2), [True])),
        ("is_first: found", (observations(2), [0, 7])),
    ):
        with pytest.raises(UserError, match=words):
            policy.act(*arguments)
    with refusing("prev_action", found="shape (1, 2)", expected="(2, 1) or (1,)"):
        policy.act(observations(2), prev_action=[0.0, 1.0])
    for action, found in (([[0.0], [np.nan]], "nan"), ([[0.0], [-1.5]], "-1.5")):
        with refusing("prev_action", found, "[-1, 1]"):
            policy.act(observations(2), prev_action=action)
    with pytest.raises(UserError, match="no run in"):
        worldrl.load(tmp_path)
    with refusing("'lost'", fix="last"):
        worldrl.load(pixels, checkpoint="lost")
    with pytest.raises(UserError, match="no best checkpoint"):
        worldrl.load(pixels, checkpoint="best", device="cpu")
    with refusing("act_particles", found="-1"):
        worldrl.load(pixels, device="cpu", act_particles=-1)
    with refusing(found="'step.onnx'", expected=".pt2"):
        policy.export(tmp_path / "step.onnx")
    with refusing(__file__):
        policy.export(Path(__file__) / "step.pt2")


def test_a_run_in_half_precision_acts_on_the_cpu(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(re.sub("(?m)^precision: auto", "precision: fp16", text))
    assert worldrl.load(run, device="cpu").act(observations(1)["pixels"]).shape == (1, 1)


def test_a_shared_run_acts_like_the_whole_one(both: Path, tmp_path: Path) -> None:
    folder = share(both, tmp_path / "small")
    whole, small = (worldrl.load(run_dir, device="cpu") for run_dir in (both, tmp_path / "small"))
    obs = observations(3)
    np.testing.assert_array_equal(*(policy.act(obs, deterministic=True) for policy in (whole, small)))
    assert sorted(path.name for path in folder.iterdir()) == ["COMPLETE.json", "state.pt"]
    assert "optimizers" not in Checkpoints(tmp_path / "small").load(folder)["agent"]
    with pytest.raises(UserError) as caught:
        share(both, tmp_path / "small")
    assert caught.value.where == str(tmp_path / "small")
    with pytest.raises(UserError):  # there is no past to continue from
        resume(tmp_path / "small")


def test_a_shared_run_gives_its_world_model_to_a_new_one(states: Path, both: Path, tmp_path: Path) -> None:
    share(both, tmp_path / "small")
    config = config_from_dict({**SMALL, "env.obs": "both", "init_from": str(tmp_path / "small")})
    agent, _ = load_agent(both, device="cpu")
    for weight in agent.model.parameters():
        torch.nn.init.zeros_(weight)
    load_model(agent, config)
    there = load_agent(tmp_path / "small", device="cpu")[0].model.state_dict()
    assert all(torch.equal(weight, there[name]) for name, weight in agent.model.state_dict().items())


def test_best_is_the_best_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", STATE_SAC)
    checkpoints = Checkpoints(run)
    state = checkpoints.load(checkpoints.find())
    state["agent"]["updates"] = 7
    checkpoints.save_best(5, 1.0, state)
    assert worldrl.load(run, checkpoint="best", device="cpu").agent.updates == 7
    assert worldrl.load(run, device="cpu").agent.updates == 0


OTHERS = ["dreamer", "td3", "miracle", "sac+flow", "sac+mixture", "sac+latent"]


@pytest.mark.parametrize("run", ["both", "slac", "states", *OTHERS])
def test_an_exported_program_acts_alike(run: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if run not in OTHERS:
        folder = request.getfixturevalue(run)
    else:
        head, _, chosen = run.partition("+")
        plain = {key: value for key, value in STATE_SAC.items() if not key.startswith("head.")}
        settings = plain | tiny_settings("head", head)
        if head == "dreamer":
            settings |= {"belief": "rssm", **tiny_settings("belief", "rssm")}
        folder = make_run(tmp_path / "run", settings, head=head, policy=chosen or "own")
    policy = worldrl.load(folder, device="cpu")
    program = torch.export.load(policy.export(tmp_path / "deep" / "step.pt2"))
    step, state = program.module(), policy.agent.initial(3)
    previous = torch.zeros(3, 1)
    for t in range(3):
        obs = {key: value for key, value in observations(3, t).items() if key in policy.spec.obs}
        first = torch.tensor([t == 0, t == 0, t != 1]).float()
        tensors = {key: torch.from_numpy(value) for key, value in obs.items()}
        torch.manual_seed(t)  # Dreamer's deterministic action is the densest of many draws
        state, previous = step(state, tensors, previous, first)  # which first rows do not read
        torch.manual_seed(t)
        np.testing.assert_allclose(previous, policy.act(obs, first, deterministic=True), atol=1e-6)


USE = """
import sys, torch
program = torch.export.load(sys.argv[1])
torch.save(program.module()(*program.example_inputs[0])[1], sys.argv[2])
assert not any(name.split(".")[0] == "worldrl" for name in sys.modules)
"""


def test_weights_that_the_file_does_not_have_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of a stranger's folder, in both of its files, may ask for terabytes."""
    run = make_run(tmp_path / "run", STATE_SAC)
    checkpoints = Checkpoints(run)
    _, state = checkpoints.read()
    state["config"]["head"] |= {"units": 65_536, "critic_layers": 64}
    save_config(config_from_dict(state["config"]), run)
    checkpoints.save(1, state)
    monkeypatch.setattr("worldrl.runs.trained.Agent", lambda *given: pytest.fail("was built"))
    with pytest.raises(UserError) as refused:
        worldrl.load(run, device="cpu")
    assert "65536" in refused.value.found


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("pendulum") / "run", STATE_SAC, task="Pendulum-v1")


def test_an_action_can_be_given_to_the_environment_itself(pendulum: Path) -> None:
    policy, env = worldrl.load(pendulum, device="cpu"), gymnasium.make("Pendulum-v1")
    assert (policy.spec.actions.low, policy.spec.actions.high) == ((-2.0,), (2.0,))
    action = policy.act(env.reset(seed=0)[0])
    given = policy.to_env(action)
    assert env.action_space.contains(given)
    np.testing.assert_allclose(given, 2 * action, rtol=1e-6)
    env.step(given)
    env.close()


def test_actions_in_the_units_of_the_environment(pendulum: Path) -> None:
    policy = worldrl.load(pendulum, device="cpu")
    policy.spec = policy.spec._replace(actions=box(2, low=(0, 20), high=(1, 40)))
    batch = np.array([[[-1, -1], [1, 1]], [[0, 0.5], [3, -3]]], np.float32)
    found = policy.to_env(batch)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[[0, 20], [1, 40]], [[0.5, 35], [1, 20]]])
    policy.spec = policy.spec._replace(actions=box(1, low=(-0.1,), high=(0.1,)))  # no float32 numbers
    assert policy.to_env([1.0]).item() == 0.1
    policy.spec = policy.spec._replace(actions=choice(3))
    np.testing.assert_array_equal(policy.to_env([[0, 0, 1], [1, 0, 0]]), [2, 0])
    policy.spec = policy.spec._replace(actions=choice(3, first=-1))
    np.testing.assert_array_equal(policy.to_env([[0, 0, 1], [1, 0, 0]]), [1, -1])


def test_actions_that_cannot_be_mapped(pendulum: Path) -> None:
    policy = worldrl.load(pendulum, device="cpu")
    with pytest.raises(UserError) as caught:
        policy.to_env([0.0, 0.0])
    assert (caught.value.where, caught.value.found, caught.value.expected) == ("action", "shape (2,)", "(..., 1)")
    policy.spec = policy.spec._replace(actions=box(1))
    with pytest.raises(UserError) as caught:
        policy.to_env([0.0])
    assert caught.value.where == "to_env"


def test_an_exported_program_knows_the_bounds(pendulum: Path, tmp_path: Path) -> None:
    extra = {"actions.json": ""}
    torch.export.load(worldrl.load(pendulum, device="cpu").export(tmp_path / "step.pt2"), extra_files=extra)
    assert json.loads(extra["actions.json"]) == {
        "kind": "box", "size": 1, "low": [-2.0], "high": [2.0], "first": 0, "action_repeat": 1
    }  # fmt: skip


def test_an_exported_program_needs_torch_alone(both: Path, tmp_path: Path) -> None:
    policy = worldrl.load(both, device="cpu")
    path = policy.export(tmp_path / "step.pt2")
    subprocess.run([sys.executable, "-I", "-c", USE, path, tmp_path / "out.pt"], check=True, cwd=tmp_path, timeout=300)
    nothing = {key: np.zeros_like(value) for key, value in observations(2).items()}
    wanted = policy.act(nothing, deterministic=True)
    np.testing.assert_allclose(torch.load(tmp_path / "out.pt", weights_only=True), wanted, atol=1e-6)


def test_an_exported_program_can_draw_and_leaves_the_agent_as_it_was(both: Path, tmp_path: Path) -> None:
    policy = worldrl.load(both, device="cpu", act_particles=2)
    path = policy.export(tmp_path / "step.pt2", explore=True, deterministic=False)
    assert all(parameter.requires_grad for parameter in policy.agent.model.parameters())
    program = torch.export.load(path)
    parts = (policy.agent.model, policy.agent.head)
    weights = sum(p.nbytes for part in parts for p in part.parameters())
    assert 0 < sum(x.nbytes for x in program.constants.values()) < 0.7 * weights  # neither decoders nor critics
    arguments = program.example_inputs[0]
    torch.manual_seed(1)
    state, action = program.module()(*arguments)
    torch.manual_seed(1)
    wanted, belief = policy.agent.model.step(*arguments)
    assert state["stoch"].shape == (2, 3, 4)
    torch.testing.assert_close(state["stoch"], wanted["stoch"])
    torch.testing.assert_close(action, policy.agent.head.act(belief, explore=True))


@pytest.mark.parametrize("chosen", ["flow", "mixture", "latent"])
def test_an_exported_program_draws_from_a_chosen_policy(chosen: str, tmp_path: Path) -> None:
    policy = worldrl.load(make_run(tmp_path / "run", STATE_SAC, policy=chosen), device="cpu")
    program = torch.export.load(policy.export(tmp_path / "step.pt2", explore=True)).module()
    obs = observations(7)["state"]
    torch.manual_seed(1)
    _, action = program({}, {"state": torch.from_numpy(obs)}, torch.zeros(7, 1), torch.ones(7))
    torch.manual_seed(1)
    np.testing.assert_allclose(action, policy.act(obs, explore=True), atol=1e-6)


def test_loading_and_acting_import_no_simulator(pixels: Path) -> None:
    code = f"""
import sys, numpy, worldrl
assert "torch" not in sys.modules
worldrl.load({str(pixels)!r}, device="cpu", allow="tests").act(numpy.zeros((64, 64, 3), numpy.uint8))
assert not {{"dm_control", "mujoco", "gymnasium", "cv2"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=300)


def test_the_examples_of_the_document_run(
    pixels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    demo, shared, act, use = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "inside.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(demo, found)
    assert abs(found["action"]).max() <= 1
    exec(shared.replace("RUN_DIR", str(pixels)), found)
    assert worldrl.load("small_copy", device="cpu").spec.obs.keys() == {"pixels"}
    exec(act.replace("RUN_DIR", str(pixels)), found)
    assert "(64, 64, 3)" in capsys.readouterr().out
    worldrl.load(pixels, device="cpu").export("step.pt2")
    exec(use, found)
    assert found["action"].shape == (2, 1)


def test_an_observation_is_copied(pixels: Path) -> None:
    policy, seen, taken = worldrl.load(pixels, device="cpu"), [], observations(1)["pixels"]
    policy.agent.act = lambda state, rows, *_, **__: seen.append(rows) or (state, np.zeros((1, 1), np.float32), None)  # type: ignore[method-assign]
    policy.act(taken)
    before = seen[0]["pixels"].copy()
    taken += 1
    np.testing.assert_array_equal(seen[0]["pixels"], before)


def test_loading_draws_nothing_from_torchs_generator(states: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    worldrl.load(states, device="cpu")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"obs": [[1.0, 2.0], [3.0]]}, "observation 'state'"),
        ({"obs": np.full(5, 1e300)}, "observation 'state'"),
        ({"obs": np.ones(5), "prev_action": "x"}, "prev_action"),
        ({"obs": np.ones(5), "is_first": "x"}, "is_first"),
    ],
)
def test_what_is_no_array_of_numbers_is_one_line(states: Path, arguments: dict[str, Any], where: str) -> None:
    policy = worldrl.load(states, device="cpu")
    policy.act(np.ones(5))
    with pytest.raises(UserError) as refused:
        policy.act(**arguments)
    assert refused.value.where == where
