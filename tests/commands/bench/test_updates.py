"""Forms, precisions, costs and growth, on the smallest sizes."""

from __future__ import annotations

import pytest

from tests.commands.bench.conftest import CPU, SMALL
from worldrl.commands.bench import cases, updates
from worldrl.commands.bench.measuring import Bench, Row, Step


def rows_of(step: Step, bench: Bench) -> list[Row]:
    return [row for job in step(bench) for row in job.measure()]


def test_every_form_is_compared_with_the_reference(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    forms = [cases.REFERENCE, cases.Mode("eager", "bf16")]
    monkeypatch.setattr(updates, "modes", lambda device: forms)
    monkeypatch.setitem(updates.TOLERANCE, "bf16", 0.0)
    plain, half = rows_of(updates.updates, bench)
    assert [plain["form"], half["form"]] == ["eager fp32", "eager bf16"]
    assert plain["agrees"]
    assert plain["loss difference"] == 0.0
    assert 0 < half["loss difference"] < 0.1
    assert not half["agrees"]
    assert plain["GFLOP/s"] == pytest.approx(1e3 * plain["GFLOP"] / plain["ms"])
    assert plain["of the matmul"] == pytest.approx(plain["GFLOP/s"] / plain["matmul, GFLOP/s"])


def test_agents_with_a_batch_of_their_own_keep_it(bench: Bench) -> None:
    bench = bench._replace(agents=["sac", "smac"], threads=[1, 2])
    assert [job.name for job in updates.updates(bench)] == [
        "sac 256x2, 1 threads",
        "sac 256x2, 2 threads",
        "smac 2x4, 1 threads",
        "smac 2x4, 2 threads",
    ]


def test_losses_in_both_precisions_are_means(bench: Bench) -> None:
    rows = rows_of(updates.precision, bench)
    case = cases.make_case("sac")
    agent = cases.make_agent(case, cases.REFERENCE, CPU)
    expected = cases.first_losses(
        agent, updates.make_update(agent, "eager"), cases.make_batch(case.spec, 256, 2, CPU), 3
    )
    assert {row["loss"] for row in rows} == set(expected[0])
    for row in rows:
        assert row["fp32"] == pytest.approx(sum(losses[row["loss"]] for losses in expected) / 3)
        assert 0 < row["difference"] < 0.1


def test_losses_of_some_phases_only_are_means_over_those(bench: Bench) -> None:
    rows = rows_of(updates.precision, bench._replace(agents=["td3"]))
    assert {"loss/critic", "loss/actor"} <= {row["loss"] for row in rows}


def test_acting_is_timed_for_some_environments(bench: Bench) -> None:
    assert [(row["environments"], row["form"]) for row in rows_of(updates.acting, bench)] == [
        (1, "eager"),
        (8, "eager"),
    ]
    assert all(row["ms"] > 0 for row in rows_of(updates.acting, bench))


@pytest.mark.parametrize("what", ["model only", "Dreamer", "SMAC, K=0", "SMAC, K=2, history", "SMAC, K=2, last_step"])
def test_costs_are_relative_to_latent_sac(what: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "make_case", lambda name, **settings: cases.make_case(name, **(settings or SMALL)))
    (row,) = next(job for job in updates.costs(bench) if job.name == f"{what}, 1 threads").measure()
    ratio = row["ratio of GFLOP"]
    assert row["ratio of times"] > 0
    assert (ratio < 1) is (what == "model only")
    assert (ratio == 1) is (what == "SMAC, K=0")


def test_all_kinds_of_particles_are_there() -> None:
    smac = {
        what: cases.make_case(found[0], **found[1]).config
        for what, found in updates.COSTS.items()
        if found[0] == "smac"
    }
    assert {(c.head["num_particles"], c.belief["particles"], c.head["critic_particles"]) for c in smac.values()} == {
        (0, "history", False),
        *((k, "last_step", False) for k in (2, 8, 32)),
        *((k, "history", critic) for k in (2, 8, 32) for critic in (False, True)),
    }


@pytest.mark.parametrize("what", list(updates.GROWING))
def test_growth_has_a_slope(what: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    values = (4, 8) if what in ("B", "T") else (2, 4)
    monkeypatch.setitem(updates.GROWING, what, (updates.GROWING[what][0], values))
    small = {key: value for key, value in SMALL.items() if key != updates.GROWING[what][0]}
    monkeypatch.setattr(updates, "make_case", lambda name, **settings: cases.make_case(name, **{**small, **settings}))
    first, second, slope = next(job for job in updates.growth(bench) if job.name == what).measure()
    assert second["value"] == 2 * first["value"]
    assert second["GFLOP"] > first["GFLOP"]
    assert slope["GFLOP"] == pytest.approx(updates.np.log2(second["GFLOP"] / first["GFLOP"]))
    assert slope["GFLOP"] < 1.05 or what == "depth"
