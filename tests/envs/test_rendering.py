from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tests.errors import refusing
from worldrl.envs import rendering
from worldrl.envs.families.dmc import DMCEnv
from worldrl.envs.rendering import RenderConfig
from worldrl.errors import UserError


@pytest.fixture
def undecided(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No backend chosen yet, no variable set, and nothing exported afterwards."""
    monkeypatch.setattr(rendering, "_choice", None)
    monkeypatch.setattr(rendering, "_probes", {})
    monkeypatch.setattr(rendering, "_switch_dm_control", lambda name: None)
    monkeypatch.setattr(rendering, "_switch_mujoco", lambda: None)
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM", rendering.DRAWN):
        monkeypatch.setenv(name, "")
    return monkeypatch


def can_draw(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[str]:
    asked: list[str] = []

    def draw(name: str) -> rendering.Probe:
        asked.append(name)
        return rendering.Probe(name in names, "Some GPU" if name in names else "no library")

    monkeypatch.setattr(rendering, "_draw_in_child", draw)
    return asked


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have GLFW only")
def test_auto_takes_the_first_that_draws_and_asks_once(undecided: pytest.MonkeyPatch) -> None:
    asked = can_draw(undecided, "osmesa", "glfw")
    assert rendering.choose_backend() == rendering.choose_backend("auto") == "osmesa"
    assert asked == ["egl", "osmesa"]
    assert rendering.describe_backend() == "rendering: osmesa (first that works: Some GPU)"
    assert rendering.os.environ["MUJOCO_GL"] == rendering.os.environ["PYOPENGL_PLATFORM"] == "osmesa"


@pytest.mark.parametrize("value", ["egl", "EGL", " egl "])
def test_a_variable_that_is_set_is_taken_if_it_draws(undecided: pytest.MonkeyPatch, value: str) -> None:
    asked = can_draw(undecided, "egl", "osmesa")
    undecided.setenv("MUJOCO_GL", value)
    assert rendering.choose_backend() == "egl"
    assert asked == ["egl"]
    assert rendering.describe_backend() == "rendering: egl (set by MUJOCO_GL)"
    assert rendering.os.environ["MUJOCO_GL"] == "egl"


@pytest.mark.parametrize("requested", ["auto", "osmesa"])
def test_a_variable_that_cannot_draw_is_refused(undecided: pytest.MonkeyPatch, requested: str) -> None:
    can_draw(undecided, "egl")
    undecided.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(UserError) as caught:
        rendering.choose_backend(requested)
    assert (caught.value.where, caught.value.found) == ("MUJOCO_GL=osmesa", "that it cannot draw (no library)")
    assert caught.value.fix.startswith("unset the variable")


@pytest.mark.parametrize("value", ["off", "disable", "0", "cuda"])
def test_a_variable_that_names_nothing_that_draws(undecided: pytest.MonkeyPatch, value: str) -> None:
    can_draw(undecided, "egl")
    undecided.setenv("MUJOCO_GL", value)
    with pytest.raises(UserError) as caught:
        rendering.choose_backend()
    assert (caught.value.where, caught.value.found, caught.value.fix) == ("MUJOCO_GL", value, "unset the variable")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have GLFW only")
@pytest.mark.parametrize(("value", "expected"), [("1", "egl"), ("on", "egl"), ("glx", "glfw")])
def test_other_words_of_mujoco(undecided: pytest.MonkeyPatch, value: str, expected: str) -> None:
    can_draw(undecided, "egl", "glfw")
    undecided.setenv("MUJOCO_GL", value)
    assert rendering.choose_backend() == expected


def test_workers_do_not_probe_what_has_drawn(undecided: pytest.MonkeyPatch) -> None:
    can_draw(undecided, "egl")
    assert rendering.choose_backend("egl") == "egl"
    undecided.setattr(rendering, "_choice", None)  # as in a worker, which inherits the variables
    undecided.setattr(rendering, "_probes", {})
    asked = can_draw(undecided)
    assert rendering.choose_backend() == "egl"
    assert asked == []


def slow(undecided: pytest.MonkeyPatch) -> None:
    undecided.setattr(rendering, "_draw_in_child", lambda name: rendering.Probe(False, "no image in time", slow=True))


def test_a_busy_machine_is_no_missing_library(undecided: pytest.MonkeyPatch) -> None:
    slow(undecided)
    with pytest.raises(UserError) as caught:
        rendering.choose_backend("egl")
    assert caught.value.fix.startswith("if the machine is only busy, MUJOCO_GL=egl uses that one anyway")


@pytest.mark.parametrize("requested", ["auto", "egl"])
def test_a_variable_is_believed_on_a_busy_machine(undecided: pytest.MonkeyPatch, requested: str) -> None:
    slow(undecided)
    undecided.setenv("MUJOCO_GL", "egl")
    assert rendering.choose_backend(requested) == "egl"


def test_a_name_wins_over_the_variable(undecided: pytest.MonkeyPatch) -> None:
    can_draw(undecided, "egl", "osmesa")
    undecided.setenv("MUJOCO_GL", "egl")
    assert rendering.choose_backend("osmesa") == "osmesa"


def test_nothing_works(undecided: pytest.MonkeyPatch) -> None:
    can_draw(undecided)
    with refusing("egl: no library", fix="libegl1 libgl1-mesa-dri"):
        rendering.choose_backend()
    with refusing("render.backend 'elg'", fix="egl"):
        rendering.choose_backend("elg")


def test_a_probe_that_hangs_or_fails(undecided: pytest.MonkeyPatch) -> None:
    undecided.setattr(rendering, "PROBE_TIMEOUT_S", 0.2)
    undecided.setattr(rendering, "_PROBE", "import time; time.sleep(60)")
    assert rendering._draw_in_child("egl") == (False, "no image within 0 s", True)
    undecided.setattr(rendering, "PROBE_TIMEOUT_S", 30.0)
    undecided.setattr(rendering, "_PROBE", "raise SystemExit('no such device')")
    assert rendering._draw_in_child("egl") == (False, "no such device", False)


@pytest.mark.parametrize("variables", [{}, {"MUJOCO_GL": "osmesa"}, {"MUJOCO_GL": "cuda"}])
def test_state_only_needs_no_backend_and_imports_no_torch(variables: dict[str, str]) -> None:
    """Not even where ``MUJOCO_GL`` cannot draw, and MuJoCo could not be imported."""
    code = (
        "import os, sys; from worldrl.envs.make import EnvConfig, make_env; "
        "make_env(EnvConfig(obs='state'), 'cartpole_balance').reset(seed=0); "
        "print(os.environ.get('MUJOCO_GL'), 'torch' in sys.modules, sys.modules['dm_control._render'].BACKEND)"
    )
    environment = {k: v for k, v in rendering.os.environ.items() if k not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    environment |= variables
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(variables.get("MUJOCO_GL")), "False", "off"]
    assert done.stderr == ""


def test_rendering_after_state_only_start() -> None:
    env = DMCEnv("reacher_easy", "state")
    env.reset(seed=0)
    frame = env.video_frame(48, 80)
    assert frame.shape == (48, 80, 3)
    assert frame.std() > 1
    assert rendering.gl_string().startswith(rendering.choose_backend() + ", ")


@pytest.mark.parametrize("task", ["cartpole_swingup", "walker_walk", "reacher_easy"])
def test_fast_is_close_to_full(task: str) -> None:
    envs = [DMCEnv(task, "pixels", render=RenderConfig(quality=quality)) for quality in ("full", "fast")]
    full, fast = (env.reset(seed=4)[0]["pixels"] for env in envs)
    assert full.shape == fast.shape == (64, 64, 3)
    assert np.abs(full.astype(float) - fast.astype(float)).mean() < 2
