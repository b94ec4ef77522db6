"""The OpenGL back-end: the only module that touches ``MUJOCO_GL``.

MuJoCo and dm_control read the variable when they are imported, and a back-end that is installed may still be unable to
render, or may hang. So the choice is made by letting a child process draw one image within a time limit, and is then
exported, so that worker processes inherit it instead of probing again.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from worldrl.errors import UserError, unknown

BACKENDS = ("egl", "osmesa", "glfw")
QUALITIES = ("full", "fast")
SIZE = 64
PROBE_TIMEOUT_S = 30.0

_INSTALL = (
    "on Debian or Ubuntu: apt-get install libegl1 libgl1-mesa-dri (EGL; an NVIDIA driver brings its own) or "
    "libosmesa6 (OSMesa); runs with env.obs=state and eval.video=false need none"
)

# os._exit: the destructors of GL contexts complain when the interpreter shuts down.
_PROBE = """
import os, sys, mujoco
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><light/><geom size="1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 16, 16)
renderer.update_scene(data)
assert renderer.render().any(), 'rendered a black image'
try:
    from OpenGL import GL
    name = GL.glGetString(GL.GL_RENDERER).decode() + ', OpenGL ' + GL.glGetString(GL.GL_VERSION).decode()
except Exception:
    name = 'unnamed renderer'
print('\\n' + name, flush=True)
os._exit(0)
"""


@dataclass(frozen=True)
class RenderConfig:
    """How pixels are made."""

    backend: str = "auto"  # auto | egl | osmesa | glfw: auto probes them in this order
    quality: str = "full"  # full: dm_control's own; fast: cheaper shadows and meshes, about 3 x in software OpenGL
    size: int = 64  # only 64 is supported
    camera: int = -1  # -1: the task's usual camera (0; quadruped 2)


class Probe(NamedTuple):
    """Whether a back-end can draw here."""

    works: bool
    text: str  # the GL renderer, or why it does not work


class _Choice(NamedTuple):
    backend: str
    why: str


_probes: dict[str, Probe] = {}
_choice: _Choice | None = None


def load_triton_first() -> None:
    """Call this before anything may load OpenGL.

    PyTorch's Triton and software OpenGL each bring an LLVM; loaded in the other order the process crashes. Worker
    processes never load PyTorch, and where dm_control is already there it is too late.
    """
    if multiprocessing.parent_process() is None and "dm_control" not in sys.modules:
        with contextlib.suppress(ImportError):
            importlib.import_module("triton")


def choose_backend(requested: str = "auto") -> str:
    """Choose, export and return the OpenGL back-end: ``egl``, ``osmesa`` or ``glfw``.

    ``auto`` honours a ``MUJOCO_GL`` that is already set, else takes the first back-end that can draw. A back-end asked
    for by name wins over ``MUJOCO_GL`` and must be able to draw. The first choice holds for the whole process.

    Raises:
        UserError: for an unknown name, and when nothing can draw; names the packages to install.
    """
    global _choice
    load_triton_first()
    if requested not in ("auto", *BACKENDS):
        raise unknown("render.backend", requested, ("auto", *BACKENDS))
    if _choice is None or requested not in ("auto", _choice.backend):
        _choice = _find(requested)
        _export(_choice.backend)
        logging.getLogger(__name__).info(describe_backend())
    return _choice.backend


def describe_backend() -> str:
    """One line that says which back-end was chosen and why."""
    if _choice is None:
        return "rendering: no OpenGL back-end chosen"
    return f"rendering: {_choice.backend} ({_choice.why})"


def probe_backends() -> dict[str, Probe]:
    """Let every back-end of this platform draw an image, each in a child process with a time limit."""
    return {name: _probe(name) for name in _candidates()}


def gl_string() -> str:
    """Name of what draws: back-end, GL renderer, MuJoCo version. Images are bitwise the same only where this is.

    Takes up to a second on the first call if the back-end was not probed. Without a back-end: ``"none"``.
    """
    if _choice is None:
        return "none"
    import mujoco

    return f"{_choice.backend}, {_probe(_choice.backend).text}, mujoco {mujoco.__version__}"


def check_size(size: int) -> None:
    """Raise UserError unless ``size`` is 64, the only image size that encoders and decoders are made for."""
    if size != SIZE:
        raise UserError(f"render.size={size}: only {SIZE} is supported; remove the setting")


def apply_quality(model: Any, quality: str) -> None:
    """Set the drawing quality of a ``mujoco.MjModel``; must come before its first render.

    ``full`` leaves the model's own settings, ``fast`` takes coarser shadows and meshes: about three times faster in
    software OpenGL.
    """
    if quality not in QUALITIES:
        raise unknown("render.quality", quality, QUALITIES)
    if quality == "fast":
        model.vis.quality.shadowsize = 512
        model.vis.quality.numslices = 12
        model.vis.quality.numstacks = 8


def prepare_without_backend() -> None:
    """Let dm_control be imported without an OpenGL back-end; a later ``choose_backend`` still works.

    Left alone, dm_control tries GLFW first, which is slow and prints warnings on machines without a display.
    """
    load_triton_first()
    if _choice is None and "dm_control._render" not in sys.modules:
        with _environment(MUJOCO_GL="off"):
            importlib.import_module("dm_control._render")


def _find(requested: str) -> _Choice:
    present = os.environ.get("MUJOCO_GL", "").strip().lower()
    if requested == "auto" and present:
        return _honour(present)
    if requested == present:
        return _Choice(present, "asked for, and set by MUJOCO_GL")
    return _first_that_draws(_candidates() if requested == "auto" else (requested,), requested)


def _honour(present: str) -> _Choice:
    if present not in BACKENDS:
        raise UserError(f"MUJOCO_GL={present} cannot render images; unset it or set it to one of {', '.join(BACKENDS)}")
    return _Choice(present, "set by MUJOCO_GL")


def _first_that_draws(names: tuple[str, ...], requested: str) -> _Choice:
    for name in names:
        if _probe(name).works:
            return _Choice(name, f"{'first that works' if requested == 'auto' else 'asked for'}: {_probe(name).text}")
    reasons = "; ".join(f"{name}: {_probe(name).text}" for name in names)
    raise UserError(f"no OpenGL back-end can render images ({reasons}). {_INSTALL}")


def _candidates() -> tuple[str, ...]:
    return BACKENDS if sys.platform.startswith("linux") else ("glfw",)


def _probe(name: str) -> Probe:
    if name not in _probes:
        _probes[name] = _draw_in_child(name)
    return _probes[name]


def _draw_in_child(name: str) -> Probe:
    if name == "glfw" and sys.platform.startswith("linux") and not _has_display():
        return Probe(False, "no display")
    environment = {k: v for k, v in os.environ.items() if k != "PYOPENGL_PLATFORM"} | {"MUJOCO_GL": name}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], env=environment, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return Probe(False, f"hung for {PROBE_TIMEOUT_S:.0f} s")
    return Probe(done.returncode == 0, _last_line(done.stdout if done.returncode == 0 else done.stderr))


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "died without a word"


def _export(name: str) -> None:
    os.environ["MUJOCO_GL"] = name
    if name == "glfw":
        os.environ.pop("PYOPENGL_PLATFORM", None)
    else:  # dm_control refuses EGL and OSMesa when PyOpenGL was told something else
        os.environ["PYOPENGL_PLATFORM"] = name
    _switch_dm_control(name)


def _switch_dm_control(name: str) -> None:
    """Point an already imported dm_control at the back-end; its engine looks the renderer up at each use."""
    module = sys.modules.get("dm_control._render")
    if module is None or getattr(module, "BACKEND", None) == name:
        return
    try:
        importlib.reload(module)
    except (ImportError, RuntimeError, AttributeError) as error:
        raise UserError(
            f"dm_control was imported before the back-end {name} was chosen and cannot change to it ({error}); "
            f"set MUJOCO_GL={name} before starting Python"
        ) from error


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {k: os.environ.get(k) for k in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for k, v in before.items():
            os.environ.pop(k) if v is None else os.environ.update({k: v})
