"""Every agent on a GPU that is not there: devices, synchronisation, branches on data, autocast, capture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tests.conftest import BOTH_SPEC, PIXEL_SPEC, STATE_SPEC
from tests.fake_cuda import GPU, WAITS, OffTheGpuError, Strict, Transfers, fake_cuda, fake_graphs, storages
from worldrl.agent import HEAD_ONLY, MODEL_ONLY, Agent
from worldrl.compose import compose
from worldrl.data.replay import Replay
from worldrl.presets import preset_names
from worldrl.training.speed import WARMUP_RUNS, Graphs, _written_tensors, capture_acting, captured_update, make_update
from worldrl.types import Batch, EnvSpec, Extra, choice

AGENTS = preset_names("agent")


def build(agent: str, precision: str = "fp32") -> Agent:
    """At full size: fake tensors have no memory, so that only the number of operators costs time."""
    config = compose({"agent": agent, "precision": precision})
    spec = PIXEL_SPEC if config.env.obs == "pixels" else STATE_SPEC
    return Agent(config, spec._replace(actions=choice(2)) if config.schedule.epsilon.start else spec)


def rows(spec: EnvSpec, windows: int, length: int, obs: bool = True) -> Batch:
    """A slice on the GPU."""
    lead = (windows, length)
    seen = {
        key: torch.zeros(*lead, *o.shape, dtype=getattr(torch, o.dtype), device=GPU)
        for key, o in (spec.obs.items() if obs else ())
    }
    return Batch(seen, torch.zeros(*lead, spec.action_dim, device=GPU), *torch.zeros(3, *lead, device=GPU))


def inputs(agent: Agent, windows: int = 40) -> tuple[Batch, Extra]:
    """A short slice, and what the head asks for beside it."""
    length, needs = agent.model.lost_rows + 4, agent.head.needs
    extra = {}
    if needs.td_batch:
        extra["td"] = rows(agent.spec, needs.td_windows(4), length)
    if needs.recent_batch:
        recent = length if needs.recent_obs else 1
        extra["recent"] = rows(agent.spec, needs.recent_batch, recent, obs=needs.recent_obs)
    return rows(agent.spec, windows, length), extra


def phases(agent: Agent) -> list[str]:
    """All kinds of update that the agent's schedule may come to; a belief without losses has none of its own."""
    late = (10**digits - 1 for digits in range(1, 8))  # when targets are copied, and after the first half of a run
    heads = sorted({agent.head.phase(n) for n in (*range(8), *late)})
    alone = [MODEL_ONLY] if list(agent.model.parameters()) else []
    return [*heads, *(name + HEAD_ONLY for name in heads), *alone]


# --- the whole update -------------------------------------------------------------------------------------------------


HALF = [("smac", "bf16"), ("dreamer", "bf16"), ("slac", "bf16"), ("sac", "bf16"), ("smac", "fp16"), ("td3", "fp16")]
OTHER_HALVES = [(name, "bf16") for name in AGENTS if (name, "bf16") not in HALF]


@pytest.mark.parametrize(
    ("name", "precision"),
    [(name, "fp32") for name in AGENTS] + HALF + [pytest.param(*case, marks=pytest.mark.slow) for case in OTHER_HALVES],
)
def test_an_update_stays_on_the_gpu_and_never_waits(name: str, precision: str) -> None:
    with fake_cuda():
        agent = build(name, precision)
        assert agent.precision.name == precision
        batch, extra = inputs(agent)
        for phase in phases(agent):
            with Strict():
                metrics = agent.update(phase, batch, extra)
            assert all(value.shape == () and not value.requires_grad for value in metrics.values())
            assert all(value.dtype == torch.float32 for key, value in metrics.items() if key.startswith("loss/"))
        assert all(x.device == GPU for x in _written_tensors(agent))
        assert all(x.dtype == torch.float32 for x in (*agent.model.parameters(), *agent.head.parameters()))


def leaves_the_gpu(x: Tensor) -> object:
    return x.cpu()


def reads_a_number(x: Tensor) -> object:
    return x.sum().item()


def becomes_an_array(x: Tensor) -> object:
    return x.numpy()


def is_copied_and_becomes_an_array(x: Tensor) -> object:
    return x.cpu().numpy()


def is_listed(x: Tensor) -> object:
    return x.tolist()


def decides(x: Tensor) -> object:
    return 1 if x.mean() > 0 else 2


def selects_by_a_mask(x: Tensor) -> object:
    return x[x > 0]


def fills_by_a_mask(x: Tensor) -> object:
    x[x > 0] = x.mean()
    return x


def counts(x: Tensor) -> object:
    return x.nonzero()


def forgets_the_device(x: Tensor) -> object:
    return x + torch.ones(len(x), 1)


def forgets_the_device_of_noise(x: Tensor) -> object:
    return torch.randn(3)


def uploads(x: Tensor) -> object:
    return x * torch.tensor([2.0], device=x.device)


PLANTS: list[tuple[Callable[[Tensor], object], tuple[type[BaseException], ...]]] = [
    (leaves_the_gpu, (OffTheGpuError,)),
    (reads_a_number, WAITS),
    (becomes_an_array, (TypeError,)),
    (is_copied_and_becomes_an_array, (OffTheGpuError,)),
    (is_listed, WAITS),
    (decides, WAITS),
    (selects_by_a_mask, WAITS),
    (fills_by_a_mask, (OffTheGpuError,)),
    (counts, WAITS),
    (forgets_the_device, (OffTheGpuError, RuntimeError)),
    (forgets_the_device_of_noise, (OffTheGpuError,)),
    (uploads, (OffTheGpuError,)),
]


@pytest.mark.parametrize(("plant", "expected"), PLANTS, ids=lambda x: getattr(x, "__name__", ""))
def test_what_is_planted_is_found(
    plant: Callable[[Tensor], object], expected: tuple[type[BaseException], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_cuda():
        agent = build("sac")
        batch, extra = inputs(agent)
        update = agent.head.update

        def planted(phase: str, batch: Batch, *rest: Any) -> dict[str, Tensor]:
            plant(batch.reward)
            return update(phase, batch, *rest)

        monkeypatch.setattr(agent.head, "update", planted)
        with pytest.raises(expected), Strict():
            agent.update("update", batch, extra)


def test_autocast_is_entered() -> None:
    """bf16 in the products, float32 where the precision says so: the fake GPU tells the two apart."""
    seen = {}
    for precision in ("fp32", "bf16"):
        with fake_cuda():
            agent = build("smac", precision)
            kinds: set[torch.dtype] = set()
            agent.model.encoders["pixels"].register_forward_hook(lambda _, __, out, kinds=kinds: kinds.add(out.dtype))
            agent.update("update", *inputs(agent))
            seen[precision] = kinds
    assert seen == {"fp32": {torch.float32}, "bf16": {torch.bfloat16}}


# --- capture ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AGENTS)
def test_capture_up_to_the_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Static inputs, copied into; everything that a graph writes stays where it is; metrics are copied out."""
    with fake_cuda(), fake_graphs() as recorder:
        agent = build(name)
        batch, extra = inputs(agent)
        phase = agent.next_phase()
        calls: list[tuple[bool, list[int], list[int], list[int]]] = []
        update = agent.update

        def watched(phase: str, batch: Batch, extra: Extra) -> dict[str, Tensor]:
            read = storages(tree_leaves((batch, extra)))
            before = storages([*_written_tensors(agent), *agent._bad.values()])
            with Strict():
                metrics = update(phase, batch, extra)
            calls.append((recorder.capturing, read, before, storages([*_written_tensors(agent), *agent._bad.values()])))
            return metrics

        monkeypatch.setattr(agent, "update", watched)
        graphs = Graphs(agent)
        run = captured_update(agent, graphs)
        results = [run(phase, batch, extra) for _ in range(2)]
        assert [capturing for capturing, *_ in calls] == [False] * WARMUP_RUNS + [True]
        (graph,) = graphs.graphs.values()
        given = storages(tree_leaves((batch, extra)))
        for _, read, before, after in calls:
            assert read == storages(graph.inputs)
            assert not set(read) & set(given)
            assert after[: len(before)] == before
        assert calls[-1][2] == calls[-1][3]  # nothing that lives on is made while the graph is recorded
        assert recorder.replays == 2
        assert recorder.restored_rng == 1
        assert not set(storages(graph.outputs)) & set(storages([*results[0].values(), *results[1].values()]))
        run(phase, inputs(agent, windows=48)[0], extra)
        assert len(graphs.graphs) == 2


def test_capture_counts_updates_and_acts_by_graphs() -> None:
    with fake_cuda(), fake_graphs() as recorder:
        agent = build("sac")
        run = make_update(agent, "capture")
        run(agent.next_phase(), *inputs(agent))
        assert agent.updates == recorder.replays == 1
        agent.act(agent.initial(3), given(agent, 3), explore=True)
        assert agent.updates == 1
        assert recorder.replays == 2


def test_a_tensor_that_moves_while_it_is_captured_would_be_found() -> None:
    with fake_cuda():
        agent = build("sac")
        before = storages(_written_tensors(agent))
        agent.update("update", *inputs(agent))
        assert storages(_written_tensors(agent)) == before
        agent.head.log_alpha.data = agent.head.log_alpha.data.clone()
        assert storages(_written_tensors(agent)) != before


# --- acting and the replay --------------------------------------------------------------------------------------------


def given(agent: Agent, n: int) -> dict[str, np.ndarray]:
    """Rows as they come from the environments."""
    seen = {key: np.zeros((n, *o.shape), o.dtype) for key, o in agent.spec.obs.items()}
    return {**seen, "action": np.zeros((n, 2), np.float32), "is_first": np.ones(n, np.float32)}


@pytest.mark.parametrize("explore", [True, False])
@pytest.mark.parametrize("speed", ["eager", "capture"])
@pytest.mark.parametrize("name", AGENTS)
def test_acting_reads_one_tensor_back(name: str, speed: str, explore: bool) -> None:
    """Rows go up, the actions come back, and nothing else crosses."""
    with fake_cuda(), fake_graphs() as recorder:
        agent = build(name)
        make_update(agent, speed)
        rows_in = given(agent, 3)
        state = agent.initial(3)
        for _ in range(2):
            with Transfers() as transfers:
                state, action, belief = agent.act(state, rows_in, explore)
            assert action.shape == (3, 2)
            assert transfers.to_host == [(3, 2)]
            assert len(transfers.to_gpu) == len(rows_in)
            assert all(x.device == GPU for x in (*belief, *state.values()))
        assert recorder.replays == (2 if speed == "capture" else 0)


@pytest.mark.parametrize("explore", [True, False])
@pytest.mark.parametrize("name", AGENTS)
def test_acting_can_be_captured(name: str, explore: bool) -> None:
    """It neither waits for a value nor leaves the GPU, and its results are no graph's memory."""
    with fake_cuda(), fake_graphs():
        agent = build(name)
        eager = agent.choose

        def strict(*args: Any, **kwargs: Any) -> Any:
            with Strict():
                return eager(*args, **kwargs)

        agent.choose = strict
        graphs = Graphs(agent)
        capture_acting(agent, graphs)
        state, _, belief = agent.act(agent.initial(3), given(agent, 3), explore)
        (graph,) = graphs.graphs.values()
        kept = {*storages(graph.inputs), *storages(graph.outputs)}
        assert not kept & set(storages([*state.values(), *belief]))


@pytest.mark.parametrize("device", ["cuda:0", "cpu"])
def test_a_replay_gives_batches_on_the_gpu(device: str) -> None:
    """Wherever its rows lie; a batch from the host comes in one copy for each kind of column."""
    with fake_cuda():
        replay = Replay(BOTH_SPEC, 64, device=device)
        for _ in range(8):
            seen = {key: np.zeros((1, *o.shape), o.dtype) for key, o in BOTH_SPEC.obs.items()}
            flags = {key: np.zeros(1, np.float32) for key in ("reward", "is_first", "is_terminal")}
            replay.add({**seen, **flags, "action": np.zeros((1, 2), np.float32)})
        with Transfers() as transfers:
            batch = replay.sample(5, 3, GPU)
        assert all(x.device == GPU for x in tree_leaves(batch))
        assert batch.obs["pixels"].shape == (5, 3, 64, 64, 3)
        assert batch.obs["pixels"].dtype == torch.uint8
        assert not transfers.to_host
        assert len(transfers.to_gpu) == (1 if device == "cuda:0" else 2)
