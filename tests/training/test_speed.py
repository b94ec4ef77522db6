"""Every way to run an update gives the eager update's losses, and leaves the same agent behind."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import PIXEL_SPEC, STATE_SPEC
from tests.errors import refusing
from tests.fake_cuda import tapes
from worldrl.acting.noise import RowNoise
from worldrl.agent import MODEL_ONLY, Agent
from worldrl.config import Config
from worldrl.errors import UserError
from worldrl.training import speed
from worldrl.training.speed import (
    LONG,
    Graphs,
    Update,
    _Snapshot,
    _written_tensors,
    capture_acting,
    captured_update,
    compile_parts,
    make_update,
)
from worldrl.types import NOISE, Batch, EnvSpec, Extra, Metrics, Noise

SAC = {"name": "sac", "units": 32, "actor_layers": 2, "critic_layers": 2, "activation": "relu", "policy_std": "log"}
SMAC = {"name": "smac", "units": 16, "actor_layers": 2, "critic_layers": 2, "num_particles": 4}
DREAMER = {"name": "dreamer", "units": 16, "actor_layers": 2, "value_layers": 2, "horizon": 4}
RSSM = {"name": "rssm", "stoch": 4, "deter": 8, "hidden": 8, "depth": 2, "reward_units": 8}
SLAC = {"name": "slac", "z1": 4, "z2": 8, "units": 8, "depth": 2, "history": 3, "model_batch": 2}
MIRACLE = {"name": "miracle", "units": 16, "marginal_samples": 3, "marginal_batch": 8}
VIREL = {"name": "virel", "units": 16, "temperature": "residual", "residual_batch": 12}
MISA = {"name": "misa", "units": 16, "samples": 3}
TD3 = {"name": "td3", "units": 16, "policy_delay": 2}
MPO = {"name": "mpo", "units": 16, "policy_period": 2}
PAIRS = {
    "td3@identity": (STATE_SPEC, {"name": "identity"}, TD3),
    "mpo@identity": (STATE_SPEC, {"name": "identity"}, MPO),
    "virel@identity": (STATE_SPEC, {"name": "identity"}, VIREL),
    "misa@identity": (STATE_SPEC, {"name": "identity"}, MISA),
    "miracle@identity": (STATE_SPEC, {"name": "identity"}, MIRACLE),
    "virel@rssm": (STATE_SPEC, {**RSSM, "vector_units": 16}, VIREL),
    "sac@identity": (STATE_SPEC, {"name": "identity"}, SAC),
    "smac@rssm": (STATE_SPEC, {**RSSM, "vector_units": 16}, SMAC),
    "smac@rssm pixels": (PIXEL_SPEC, RSSM, SMAC),
    "dreamer@rssm": (STATE_SPEC, {**RSSM, "vector_units": 16}, DREAMER),
    "slac@slac pixels": (PIXEL_SPEC, SLAC, {"name": "slac", "units": 16}),
}


def build(pair: str, device: str = "cpu", precision: str = "fp32") -> Agent:
    spec, belief, head = PAIRS[pair]
    torch.manual_seed(0)
    return Agent(Config(belief=belief, head=head, device=device, precision=precision), spec)


def extra_of(batch: Batch) -> Extra:
    """As the loop gives it to the heads that need it; others leave it alone."""
    return {"td": batch.windows(slice(2)), "recent": batch.drop_rows(batch.reward.shape[1] - 1)._replace(obs={})}


def losses(run: Update, batches: list[Batch], phase: str = "update") -> list[dict[str, Any]]:
    """Of consecutive updates from one seed."""
    torch.manual_seed(1)
    return [losses_of(run(phase, batch, extra_of(batch))) for batch in batches]


def learned(agent: Agent, speed: str, batches: list[Batch]) -> list[dict[str, Any]]:
    """The same in all phases of the head, as a run learns."""
    run = make_update(agent, speed)
    torch.manual_seed(1)
    return [losses_of(run(agent.next_phase(), batch, extra_of(batch))) for batch in batches]


def losses_of(record: Metrics) -> dict[str, Any]:
    return {name: x.item() for name, x in record.items() if name.startswith("loss/")}


def assert_close(found: list[dict[str, Any]], expected: list[dict[str, Any]], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance)


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize(
    "pair",
    ["sac@identity", "smac@rssm", "miracle@identity", "dreamer@rssm", "misa@identity", "td3@identity", "mpo@identity",
     "virel@identity"],
)  # fmt: skip
def test_compiled_equals_eager(pair: str, make_batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses, and the way of every parameter from its start: that of a target is short."""
    batches = [make_batch(PAIRS[pair][0], border=2) for _ in range(4)]
    eager, compiled, start = build(pair), build(pair), build(pair)
    phases = {eager.head.phase(n) for n in range(4)}
    monkeypatch.setattr(torch._dynamo.config, "error_on_recompile", len(phases) == 1)  # a graph for each phase
    expected, found = learned(eager, "eager", batches), learned(compiled, "compile", batches)
    assert_close(found, expected, 1e-4)
    assert compiled.updates == 4
    for (name, first), one, other in zip(
        start.head.named_parameters(), compiled.head.parameters(), eager.head.parameters(), strict=True
    ):
        way, apart, size = (float(x.detach().norm()) for x in (other - first, one - other, first))
        assert apart <= 0.03 * way + 1e-7 * (1 + size), (name, apart, way)


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh_compiler")
def test_every_agent_of_a_sweep_is_compiled(make_batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler gives up on a function after eight recompilations, and agents share the function."""
    graphs: list[Any] = []
    backend, compile_ = lambda graph, _: graphs.append(graph) or graph, torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **_: compile_(function, dynamic=False, backend=backend))
    monkeypatch.setattr(torch._dynamo.config, "error_on_recompile", False)
    for n in range(10):
        agent, before = build("sac@identity"), len(graphs)
        agent.head.optimizers["critic"].lr = 1e-4 * (n + 1)
        learned(agent, "compile", [make_batch(PAIRS["sac@identity"][0])])
        assert len(graphs) > before


def test_on_a_cpu_the_whole_update_of_a_head_is_compiled() -> None:
    agent = build("sac@identity")
    compile_parts(agent)
    assert [name for name in vars(agent.head) if name in (*type(agent.head).compiled, "update")] == ["update"]


def test_without_a_tracer_of_gradients_its_methods_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._dynamo.config, "trace_autograd_ops")
    agent = build("sac@identity")
    compile_parts(agent)
    names = type(agent.head).compiled
    assert [name for name in names if name in vars(agent.head)] == list(names)


@pytest.mark.parametrize(
    ("pair", "updates", "compiler", "expected"),
    [
        ("sac@identity", LONG, "g++ 12", "compile"),
        ("sac@identity", LONG - 1, "g++ 12", "eager"),
        ("sac@identity", LONG, "", "eager"),
        ("smac@rssm", LONG, "g++ 12", "eager"),
    ],
)
def test_auto_compiles_what_repays_it(
    monkeypatch: pytest.MonkeyPatch, pair: str, updates: int, compiler: str, expected: str
) -> None:
    monkeypatch.setattr(speed, "cpp_compiler", lambda: compiler)
    agent = build(pair)
    assert speed.form_of("auto", agent, updates) == expected
    assert speed.form_of("eager", agent, updates) == "eager"


def test_auto_is_eager_where_the_compiler_would_end_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(wanted_by: str) -> None:
        raise UserError(wanted_by, "")

    monkeypatch.setattr(speed, "load_compiler", refuse)
    assert speed.form_of("auto", build("sac@identity"), LONG) == "eager"


def test_capture_needs_a_gpu() -> None:
    with refusing("speed=capture", expected="CUDA", fix="eager"):
        make_update(build("sac@identity"), "capture")


@pytest.mark.parametrize("pair", list(PAIRS))
def test_a_captured_update_is_the_eager_one(pair: str, make_batch: Callable[..., Batch]) -> None:
    """By a graph that runs the recorded operators again: other rows, shapes and phases, bit for bit."""
    spec = PAIRS[pair][0]
    batches = [make_batch(spec, border=2) for _ in range(3)]
    short = [batch.windows(slice(2)) for batch in batches]
    eager, captured = build(pair), build(pair)
    with tapes():
        update = captured_update(captured, Graphs(captured))
        for phase in ("update", MODEL_ONLY) if list(eager.model.parameters()) else ("update",):
            for given in (batches, short, batches):
                assert losses(update, given, phase) == losses(eager.update, given, phase)
    assert all(map(torch.equal, _written_tensors(captured), _written_tensors(eager)))


def play(agent: Agent, n: int, particles: int, noise: Noise = NOISE, **how: bool) -> list[Tensor]:
    """What an agent did, knew and remembered in three steps from one seed; the first row of all is a first one."""
    spec, rng = agent.spec, np.random.default_rng(n)
    torch.manual_seed(3)
    state, seen = agent.initial(n, particles), []
    for step in range(3):
        obs = {key: (rng.uniform(0, 255, (n, *o.shape))).astype(o.dtype) for key, o in spec.obs.items()}
        action = rng.uniform(-1, 1, (n, spec.action_dim)).astype(np.float32)
        first = (np.arange(n) < n * (step != 1)).astype(np.float32)
        state, chosen, belief = agent.act(state, {**obs, "action": action, "is_first": first}, noise=noise, **how)
        seen += [torch.from_numpy(chosen), *state.values(), *belief]
    return seen


@pytest.mark.parametrize("pair", list(PAIRS))
def test_captured_acting_is_the_eager_one(pair: str, make_batch: Callable[..., Batch]) -> None:
    """For every way of acting, other numbers of rows and paths, and after the weights have changed, bit for bit."""
    eager, captured = build(pair), build(pair)
    batch = make_batch(PAIRS[pair][0])
    for agent in (eager, captured):
        agent.action_noise = 0.1
    with tapes():
        graphs = Graphs(captured)
        capture_acting(captured, graphs)
        for n, particles in ((1, 0), (3, 0), (3, 2)):
            for explore, deterministic, perturb in itertools.product((False, True), repeat=3):
                how = {"explore": explore, "deterministic": deterministic, "perturb": perturb}
                found, expected = play(captured, n, particles, **how), play(eager, n, particles, **how)
                assert all(map(torch.equal, found, expected))
            for agent in (eager, captured):
                torch.manual_seed(4)
                agent.update("update", batch, extra_of(batch))
    assert len(graphs.graphs) == (18 if captured.initial(1) else 12)  # perturb means nothing unless it explores


def test_noise_of_single_rows_is_not_captured() -> None:
    eager, captured = build("smac@rssm"), build("smac@rssm")
    with tapes():
        graphs = Graphs(captured)
        capture_acting(captured, graphs)
        found, expected = (
            play(agent, 2, 0, RowNoise([torch.Generator().manual_seed(i) for i in range(2)]), explore=True)
            for agent in (captured, eager)
        )
    assert all(map(torch.equal, found, expected))
    assert not graphs.graphs


def test_results_of_a_graph_stay_what_they_are() -> None:
    """The state of a player is his own, though another one acts by the same graph."""
    agent = build("smac@rssm")
    with tapes():
        capture_acting(agent, Graphs(agent))
        first = play(agent, 2, 0, explore=True)
        kept = [x.clone() for x in first]
        with torch.no_grad():
            torch._foreach_zero_(list(agent.model.parameters()))
        assert not all(map(torch.equal, play(agent, 2, 0, explore=True), kept))
    assert all(map(torch.equal, first, kept))


@pytest.mark.parametrize("pair", list(PAIRS))
def test_a_snapshot_undoes_updates(pair: str, make_batch: Callable[..., Batch]) -> None:
    """The warm-up before a capture must leave no trace: the same updates follow."""
    agent, batches = build(pair), [make_batch(PAIRS[pair][0]) for _ in range(2)]
    agent.update("update", batches[0], extra_of(batches[0]))  # Adam's moments are not zero, something is latched
    torch.manual_seed(5)
    snapshot = _Snapshot(agent)
    first = [x for batch in batches for x in agent.update("update", batch, extra_of(batch)).values()]
    snapshot.restore()
    second = [x for batch in batches for x in agent.update("update", batch, extra_of(batch)).values()]
    assert torch.equal(torch.stack(first), torch.stack(second))
    assert agent.counter == 3


def test_a_snapshot_keeps_what_was_latched_and_forgets_the_rest(make_batch: Callable[..., Batch]) -> None:
    agent, batch = build("smac@rssm"), make_batch(STATE_SPEC)
    broken = batch._replace(reward=torch.full_like(batch.reward, torch.inf))
    agent.update(MODEL_ONLY, batch)
    agent.update(MODEL_ONLY, broken)
    before = agent.first_non_finite()
    snapshot = _Snapshot(agent)
    agent.update("update", batch)
    snapshot.restore()
    assert before is not None
    assert agent.first_non_finite() == before
    assert (agent._bad["update"] == -1).all()


def test_loading_keeps_every_tensor_where_it_is(make_batch: Callable[..., Batch]) -> None:
    """Captured graphs hold addresses, so a checkpoint must be copied into what exists."""
    agent, other, batch = build("smac@rssm"), build("smac@rssm"), make_batch(STATE_SPEC)
    for _ in range(3):
        other.update("update", batch)
        other.updates += 1
    snapshot = _Snapshot(agent)
    addresses = [x.data_ptr() for x in snapshot.live]
    agent.load_state_dict(other.state_dict())
    assert [x.data_ptr() for x in _Snapshot(agent).live] == addresses
    assert all(torch.equal(x, y) for x, y in zip(_Snapshot(agent).saved, _Snapshot(other).saved, strict=True))


# --- on a GPU ---------------------------------------------------------------------------------------------------------


def cuda_batches(make_batch: Callable[..., Batch], spec: EnvSpec, n: int) -> list[Batch]:
    batches = [make_batch(spec, border=2) for _ in range(n)]
    return [Batch({k: v.cuda() for k, v in b.obs.items()}, *(x.cuda() for x in b[1:])) for b in batches]


@pytest.mark.cuda
@pytest.mark.parametrize("pair", list(PAIRS))
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 2e-2), ("fp16", 2e-2)])
def test_captured_equals_eager(pair: str, precision: str, tolerance: float, make_batch: Callable[..., Batch]) -> None:
    batches = cuda_batches(make_batch, PAIRS[pair][0], 4)
    expected = learned(build(pair, "cuda", precision), "eager", batches)
    agent = build(pair, "cuda", precision)
    found = learned(agent, "capture", batches)
    assert_close(found, expected, tolerance)
    assert agent.counter.item() == agent.updates == 4
    assert agent.first_non_finite() is None


@pytest.mark.cuda
@pytest.mark.parametrize("pair", list(PAIRS))
@pytest.mark.parametrize("explore", [True, False])
def test_captured_acting_equals_eager(pair: str, explore: bool) -> None:
    eager, captured = build(pair, "cuda"), build(pair, "cuda")
    make_update(captured, "capture")
    for n, particles in ((1, 0), (3, 2)):
        expected = play(eager, n, particles, explore=explore)
        for one, other in zip(play(captured, n, particles, explore=explore), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.cuda
def test_captured_follows_a_loaded_checkpoint_and_other_shapes(make_batch: Callable[..., Batch]) -> None:
    batches = cuda_batches(make_batch, STATE_SPEC, 3)
    agent = build("smac@rssm", "cuda")
    update = make_update(agent, "capture")
    saved = {key: _copy(value) for key, value in agent.state_dict().items()}
    first = losses(update, batches)
    agent.load_state_dict(saved)
    assert_close(losses(update, batches), first, 1e-5)
    longer = [Batch({k: v[:2] for k, v in b.obs.items()}, *(x[:2] for x in b[1:])) for b in batches]
    losses(update, longer)
    losses(update, batches, MODEL_ONLY)
    agent.load_state_dict(saved)
    assert_close(losses(update, batches), first, 1e-5)


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    return {key: _copy(x) for key, x in value.items()} if isinstance(value, dict) else value
