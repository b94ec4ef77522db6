"""The doctor, on this machine and on worse ones."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from worldrl.commands import doctor
from worldrl.commands.doctor import FAIL, NOTE, OK, WARN, Check, examine, main
from worldrl.data import memory
from worldrl.envs import rendering
from worldrl.errors import UserError


def by_name(*names: str) -> dict[str, Check]:
    return {check.name: check for check in examine(names)}


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.mark.usefixtures("no_gpu")
def test_no_gpu_is_no_fault() -> None:
    found = by_name("device", "update", "cpu")
    assert found["device"] == Check("device", OK, "no CUDA GPU: training runs on the CPU in fp32")
    assert found["update"].status == OK
    assert "on cpu in fp32" in found["update"].found
    assert found["compiler"].status == NOTE
    assert FAIL not in {check.status for check in found.values()}


def test_a_gpu_that_torch_does_not_see_is_named(no_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/" + name)
    for built_for, words in ((None, "install a CUDA build"), ("12.9", "built for CUDA 12.9: update the driver")):
        monkeypatch.setattr(torch.version, "cuda", built_for)
        found = by_name("device")["device"]
        assert found.status == WARN
        assert words in found.remedy


def test_versions_are_held_against_the_declared_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.9.0", "mujoco": "4.0.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    declared = ["torch>=2.4", "mujoco<4,>=3.3", "einops>=0.8", "pytest>=8; extra == 'test'"]
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: {"Requires-Python": ">=3.10"})
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: declared)
    monkeypatch.setattr(importlib.metadata, "version", version)
    found = by_name("packages")
    assert set(found) == {"python", "mujoco", "einops", "packages"}
    assert found["python"].status == OK
    assert found["packages"].found == "torch 2.9.0"
    assert found["mujoco"].status == WARN
    assert found["mujoco"].remedy == "pip install 'mujoco<4,>=3.3'"
    assert found["einops"] == Check("einops", FAIL, "einops is missing", "pip install 'einops>=0.8'")
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: {"Requires-Python": ">=4.0"})
    assert by_name("packages")["python"].status == FAIL


def test_a_package_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGE", "no-such-package-at-all")
    assert by_name("packages")["packages"].status == WARN


def test_too_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "usable_cores", lambda: 0)
    assert by_name("cpu")["cpu"].status == WARN
    monkeypatch.undo()
    assert 1 <= doctor.usable_cores() <= (os.cpu_count() or 1)


def test_little_memory_and_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1))
    found = by_name("memory")
    assert (found["memory"].status, found["disk"].status) == (FAIL, WARN)
    rows = int(found["memory"].remedy.removeprefix("set replay.capacity=").removesuffix(" or less"))
    assert 0.7 * 2**30 < rows * 12_300 < 2**30
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**40)
    assert by_name("memory")["memory"].status == OK


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, rendering.Probe]]:
    probes = {"egl": rendering.Probe(True, "Some GPU"), "osmesa": rendering.Probe(False, "no library")}
    monkeypatch.setattr(rendering, "probe_backends", lambda: probes)
    monkeypatch.setattr(rendering, "choose_backend", lambda: "egl")
    monkeypatch.setattr(rendering, "describe_backend", lambda: "rendering: egl (why)")
    monkeypatch.setattr(doctor, "frame_rates", lambda name: "70/s")
    return probes


def test_one_back_end_is_enough(backends: dict[str, rendering.Probe]) -> None:
    assert list(examine(["rendering"])) == [
        Check("rendering egl", OK, "Some GPU; 70/s"),
        Check("rendering osmesa", NOTE, "no library"),
        Check("rendering", OK, "egl (why)"),
    ]


def test_no_back_end_ends_training(backends: dict[str, rendering.Probe], monkeypatch: pytest.MonkeyPatch) -> None:
    backends["egl"] = rendering.Probe(False, "hung for 30 s")
    assert by_name("rendering")["rendering"].status == FAIL  # chosen by the environment variable, unseen

    def nothing() -> str:
        raise UserError("no OpenGL backend can render images: apt-get install libegl1")

    monkeypatch.setattr(rendering, "choose_backend", nothing)
    found = by_name("rendering")["rendering"]
    assert found.status == FAIL
    assert "apt-get install" in found.remedy


def test_frame_rates_are_measured_in_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **options: Any) -> Any:
        assert "print_frame_rates('egl')" in command[2]
        return subprocess.CompletedProcess(command, *outcome)

    monkeypatch.setattr(subprocess, "run", run)
    outcome: tuple[Any, ...] = (0, "greeting\nimages of walker_walk: 9/s full\n", "")
    assert doctor.frame_rates("egl") == "images of walker_walk: 9/s full"
    outcome = (1, "", "Traceback\nRuntimeError: broken\n")
    assert doctor.frame_rates("egl") == "walker_walk cannot be drawn: RuntimeError: broken"
    outcome = (-11, "", "")
    assert "died without a message" in doctor.frame_rates("egl")


def test_a_check_that_breaks_down_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[Check]:
        yield Check("videos", OK, "so far")
        raise RuntimeError("no\ncodec")

    monkeypatch.setitem(doctor.CHECKS, "videos", (broken, WARN, "do without"))
    last = list(examine(["videos"]))[-1]
    assert last == Check("videos", WARN, "RuntimeError: no codec", "do without")


def test_workers_and_videos_work_here() -> None:
    found = by_name("workers", "videos")
    assert {check.status for check in found.values()} == {OK}


@pytest.mark.parametrize(("status", "code"), [(OK, 0), (NOTE, 0), (WARN, 0), (FAIL, 1)])
def test_the_exit_code_says_whether_training_is_possible(
    status: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check = Check("thing", status, "[found]", "do this")
    monkeypatch.setattr(doctor, "CHECKS", {"thing": (lambda: iter([check]), FAIL, "")})
    assert main([]) == code
    assert capsys.readouterr().out.splitlines()[:2] == [f"{status:5}thing: [found]", "     -> do this"]
    assert main(["--json"]) == code
    report = json.loads(capsys.readouterr().out)
    assert report["training_possible"] == (code == 0)
    assert report["checks"] == [{"name": "thing", "status": status, "found": "[found]", "remedy": "do this"}]
