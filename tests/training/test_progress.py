from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from worldrl.runs import checkpoint
from worldrl.training.progress import Meter, Progress

# --- meter ------------------------------------------------------------------------------------------------------------


def test_means_are_over_the_updates_that_had_the_key() -> None:
    rng = np.random.default_rng(0)
    meter, lists = Meter(), {}
    for update in range(50):
        metrics = {"loss/critic": rng.normal(), "policy/entropy": rng.normal()}
        if update % 3 == 0:
            metrics["loss/actor"] = rng.normal()
        if update % 10 == 0:
            metrics = {"belief/kl": rng.normal()}
        meter.add({key: torch.tensor(value) for key, value in metrics.items()})
        for key, value in metrics.items():
            lists.setdefault(key, []).append(np.float32(value))
    means = meter.mean()
    assert means.keys() == lists.keys()
    for key, values in lists.items():
        assert means[key] == pytest.approx(np.mean(values, dtype=np.float64), rel=1e-12)
    meter.reset()
    assert meter.mean() == {}
    meter.add({})
    assert meter.mean() == {}


def test_sums_do_not_alias_what_was_added() -> None:
    meter, static = Meter(), torch.tensor(1.0)
    meter.add({"x": static})
    static.fill_(5.0)  # a captured graph writes its results into the same tensor every time
    meter.add({"x": static})
    assert meter.mean() == {"x": 3.0}


def test_float64_sums_and_no_graph() -> None:
    meter = Meter()
    value = torch.tensor(0.1, requires_grad=True)
    for _ in range(100_000 // 100):
        meter.add({"x": value * 1.0})
    assert not next(iter(meter._sums.values())).requires_grad
    assert meter.mean()["x"] == pytest.approx(float(np.float32(0.1)), rel=1e-13)


def test_a_window_survives_a_checkpoint_bitwise(tmp_path: Path) -> None:
    def feed(meter: Meter, start: int, stop: int) -> None:
        for update in range(start, stop):
            value = torch.tensor(math.sin(update))
            meter.add({"a": value, "b": value * 3} if update % 2 else {"a": value})

    whole, part, resumed = Meter(), Meter(), Meter()
    feed(whole, 0, 40)
    feed(part, 0, 17)
    checkpoints = checkpoint.Checkpoints(tmp_path)
    state = checkpoints.load(checkpoints.save(17, {"meter": part.state_dict()}))
    resumed.load_state_dict(state["meter"])
    feed(resumed, 17, 40)
    assert resumed.mean() == whole.mean()
    assert part.mean() != whole.mean()


# --- progress ---------------------------------------------------------------------------------------------------------


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_every_half_minute() -> None:
    out, clock = io.StringIO(), FakeClock()
    progress = Progress(100_000, start=10_000, file=out, clock=clock)
    for tick in range(1, 701):
        clock.now = tick / 10
        progress.update(
            10_000 + 10 * tick, episode_return=12.34 if tick == 5 else None, shares={"env": 0.25, "save": 0.004}
        )
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0] == "frames 13,000/100,000  return 12.3  100 frames/s  left 0:14:30  env 25%"
    progress.say("a [bold]line[/bold] " + "x" * 200)  # neither markup nor wrapping
    assert out.getvalue().splitlines()[2] == "a [bold]line[/bold] " + "x" * 200
    progress.close()


def test_pretraining_has_a_line_of_its_own_and_no_part_in_the_speed() -> None:
    out, clock = io.StringIO(), FakeClock()
    progress = Progress(10_000, file=out, clock=clock)
    clock.now = 10.0
    progress.update(1_000)
    for update in range(1, 802):  # from 10.25 s to 210.25 s
        clock.now += 0.25
        progress.pretrain(update, 1_601)
    lines = out.getvalue().splitlines()
    assert lines[0] == "pretraining 1/1,601 updates  0.0 updates/s  left -:--:--"
    assert lines[-1] == "pretraining 721/1,601 updates  4.0 updates/s  left 0:03:40"
    assert len(lines) == 7
    clock.now += 30.0  # 40 s without the pretraining, and the quarter of a second before its first update
    progress.update(4_025)
    assert out.getvalue().splitlines()[7:] == ["frames 4,025/10,000  100 frames/s  left 0:01:00"]


def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("TERM", "xterm")
    out, clock = io.StringIO(), FakeClock()
    progress = Progress(1000, file=out, terminal=True, clock=clock)
    clock.now = 1.0
    progress.update(500, episode_return=1.0, eval_return=77.7)
    progress.say("hello")
    progress.close()
    progress.close()
    text = out.getvalue()
    assert "50%" in text
    assert "eval 77.7" in text
    assert "hello" in text


def test_an_evaluation_is_not_silent() -> None:
    out, clock = io.StringIO(), FakeClock()
    progress = Progress(1000, file=out, clock=clock)
    for tick in range(130):
        clock.now += 0.5
        progress.evaluate(5, tick // 50, 2 * tick)
    assert out.getvalue().splitlines() == [
        "evaluating: 1/5 episodes, 118 frames of the next",
        "evaluating: 2/5 episodes, 238 frames of the next",
    ]


def test_switched_off() -> None:
    out, clock = io.StringIO(), FakeClock()
    progress = Progress(1000, enabled=False, file=out, terminal=True, clock=clock)
    clock.now = 100.0
    progress.update(500)
    assert out.getvalue() == ""
    progress.say("hello")
    assert out.getvalue() == "hello\n"


class Gone(io.StringIO):
    gone = False

    def write(self, text: str) -> int:
        if self.gone:
            raise BrokenPipeError(32, "Broken pipe")
        return super().write(text)


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("how", ["broken", "closed"])
def test_a_lost_terminal_does_not_stop_the_run(terminal: bool, how: str) -> None:
    out, clock = Gone(), FakeClock()
    progress = Progress(1000, file=out, terminal=terminal, clock=clock)
    if how == "closed":
        out.close()
    out.gone = True
    for tick in range(5):
        clock.now += 40.0
        progress.update(10 * tick)
        progress.say("hello")
    progress.close()
