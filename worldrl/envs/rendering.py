"""The OpenGL backend: the only module that touches ``MUJOCO_GL``.

MuJoCo and dm_control read the variable when they are imported, and a backend that is installed may still be unable to
render, or may hang. So a child process has to render one image within a time limit; the choice is then exported, and
worker processes inherit it instead of probing again.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from worldrl.errors import UserError, unknown, wrong
from worldrl.fields import OneOf, Range

T = TypeVar("T")

BACKENDS = ("egl", "osmesa", "glfw")
QUALITIES = ("full", "fast")
SIZE = 64
PROBE_TIMEOUT_S = 120.0  # software OpenGL on a busy machine is slow
DRAWN = "WORLDRL_DRAWN"  # the backend that has rendered an image for this run, so its workers do not probe again
LIKE_UNSET = ("on", "enable", "enabled", "true", "1")  # values of MUJOCO_GL that name no backend

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
    """How pixels are rendered."""

    backend: Annotated[str, OneOf("auto", "egl", "osmesa", "glfw")] = "auto"  # auto probes them in this order
    quality: Annotated[str, OneOf("full", "fast")] = "full"  # fast: cheaper shadows and meshes, 3 x; MuJoCo only
    size: Literal[64] = 64  # the networks are built only for 64 x 64 images
    camera: Annotated[int, Range(-1, 1_000)] = -1  # -1: the task's usual camera (0; quadruped 2)


class Probe(NamedTuple):
    """Whether a backend can render here."""

    works: bool
    text: str  # the GL renderer, or why it does not work
    slow: bool = False  # there was no answer in time, which also happens on a busy machine


class _Choice(NamedTuple):
    backend: str
    why: str


_probes: dict[str, Probe] = {}
_choice: _Choice | None = None


def load_triton_first() -> None:
    """Load Triton's LLVM; call this before anything may load OpenGL.

    PyTorch's Triton and software OpenGL each have an LLVM; if they are loaded in the other order, the process crashes.
    Worker processes never load PyTorch, and if dm_control is already imported it is too late.
    """
    if multiprocessing.parent_process() is None and "dm_control" not in sys.modules:
        with contextlib.suppress(ImportError):
            importlib.import_module("triton")


def choose_backend(requested: str = "auto") -> str:
    """Choose, export and return the OpenGL backend: ``egl``, ``osmesa`` or ``glfw``.

    ``auto`` takes the one that ``MUJOCO_GL`` names, else the first that works. A backend requested by name has priority
    over ``MUJOCO_GL``. Each must first render an image in a child process; one that ``MUJOCO_GL`` names is used even if
    there is no answer in time. The first choice applies to the whole process and its workers.

    Raises:
        UserError: for an unknown name, and if no backend works; it names the packages to install.
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
    """One line that says which backend was chosen and why."""
    if _choice is None:
        return "rendering: by the task itself"
    return f"rendering: {_choice.backend} ({_choice.why})"


def probe_backends() -> dict[str, Probe]:
    """Let every backend of this platform render an image, each in a child process with a time limit."""
    return {name: _probe(name) for name in _candidates()}


def gl_string() -> str:
    """Name of the renderer: backend, GL renderer, MuJoCo version. Images are bitwise equal only if this is equal.

    Takes up to a second on the first call if the backend was not probed. Without a backend: ``"none"``.
    """
    if _choice is None:
        return "none"
    import mujoco

    return f"{_choice.backend}, {_probe(_choice.backend).text}, mujoco {mujoco.__version__}"


def check_size(size: int) -> None:
    """Raise UserError unless ``size`` is 64, the only image size of the encoders and decoders."""
    if size != SIZE:
        raise wrong("render.size", size, str(SIZE), "remove the setting")


def apply_quality(model: Any, quality: str) -> None:
    """Set the rendering quality of a ``mujoco.MjModel``; must be called before its first render.

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
    """Import mujoco and dm_control's renderer without an OpenGL backend; a later ``choose_backend`` still works.

    By itself, dm_control tries GLFW first, which is slow and prints warnings on machines without a display; and with
    a ``MUJOCO_GL`` that cannot draw here, neither can be imported.
    """
    load_triton_first()
    if _choice is None and "dm_control._render" not in sys.modules:
        with _environment(MUJOCO_GL="off"):
            importlib.import_module("mujoco")
            importlib.import_module("dm_control._render")


def mujoco_is_loaded() -> bool:
    """Whether MuJoCo or dm_control has been imported, successfully or not."""
    return any(name.partition(".")[0] in ("mujoco", "dm_control") for name in sys.modules)


def with_backend(action: Callable[[], T], requested: str = "auto") -> T:
    """Run a user's code that may render with MuJoCo; if it fails, run it again with a backend that works.

    So nothing is probed for code that does not render. If no backend works, the code's own error is raised with a note.
    """
    try:
        with _no_glfw_without_a_display():
            return action()
    except Exception as error:
        if _choice is not None or not mujoco_is_loaded():
            raise
        try:
            choose_backend(requested)
        except UserError as cannot:
            error.add_note(str(cannot))
            raise error from cannot
        return action()


@contextlib.contextmanager
def _no_glfw_without_a_display() -> Iterator[None]:
    """Without a choice, MuJoCo would try GLFW, and a process in which that fails may crash when it renders."""
    present = os.environ.get("MUJOCO_GL")
    if _choice is not None or present or not sys.platform.startswith("linux") or _has_display():
        yield
        return
    os.environ["MUJOCO_GL"] = "off"
    try:
        yield
    finally:
        if os.environ.get("MUJOCO_GL") == "off":  # else the code has set it
            os.environ.pop("MUJOCO_GL") if present is None else os.environ.update(MUJOCO_GL=present)


def _find(requested: str) -> _Choice:
    present = os.environ.get("MUJOCO_GL", "").strip().lower()
    present = "" if present in LIKE_UNSET else {"glx": "glfw"}.get(present, present)
    if requested == "auto" and present:
        return _named(present, "set by MUJOCO_GL")
    if requested == present:
        return _named(present, "asked for, and set by MUJOCO_GL")
    return _first_that_draws(_candidates() if requested == "auto" else (requested,), requested)


def _named(name: str, why: str) -> _Choice:
    """The backend that ``MUJOCO_GL`` names, if it renders or is only slow."""
    if name not in BACKENDS:
        raise UserError("MUJOCO_GL", name, f"one that draws images: {', '.join(BACKENDS)}", "unset the variable")
    if os.environ.get(DRAWN) != name and not (probe := _probe(name)).works and not probe.slow:
        fix = f"unset the variable, or install what it needs: {_INSTALL}"
        raise UserError(f"MUJOCO_GL={name}", f"that it cannot draw ({probe.text})", "a backend that draws", fix)
    return _Choice(name, why)


def _first_that_draws(names: tuple[str, ...], requested: str) -> _Choice:
    for name in names:
        if _probe(name).works:
            return _Choice(name, f"{'first that works' if requested == 'auto' else 'asked for'}: {_probe(name).text}")
    reasons = "; ".join(f"{name}: {_probe(name).text}" for name in names)
    slow = [name for name in names if _probe(name).slow]
    busy = f"if the machine is only busy, MUJOCO_GL={slow[0]} uses that one anyway; " if slow else ""
    raise UserError(f"no OpenGL backend can render images ({reasons})", fix=busy + _INSTALL)


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
        return Probe(False, f"no image within {PROBE_TIMEOUT_S:.0f} s", slow=True)
    return Probe(done.returncode == 0, _last_line(done.stdout if done.returncode == 0 else done.stderr))


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "died without a message"


def _export(name: str) -> None:
    os.environ["MUJOCO_GL"] = os.environ[DRAWN] = name
    if name == "glfw":
        os.environ.pop("PYOPENGL_PLATFORM", None)
    else:  # dm_control refuses EGL and OSMesa if PyOpenGL uses another platform
        os.environ["PYOPENGL_PLATFORM"] = name
    _switch_mujoco()
    _switch_dm_control(name)


def _switch_mujoco() -> None:
    """Point an already imported mujoco at the backend; its Renderer looks the context up at each use."""
    for name in ("mujoco.rendering.classic.gl_context", "mujoco.gl_context"):
        if name in sys.modules:
            importlib.reload(sys.modules[name])


def _switch_dm_control(name: str) -> None:
    """Point an already imported dm_control at the backend; its engine looks the renderer up at each use."""
    module = sys.modules.get("dm_control._render")
    if module is None or getattr(module, "BACKEND", None) == name:
        return
    try:
        importlib.reload(module)
    except (ImportError, RuntimeError, AttributeError) as error:
        found = f"that it was imported before {name} was chosen and cannot change to it ({error})"
        raise UserError("dm_control", found, fix=f"set MUJOCO_GL={name} before starting Python") from error


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {k: os.environ.get(k) for k in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for k, v in before.items():
            os.environ.pop(k) if v is None else os.environ.update({k: v})
