"""The tables of ``worldrl parts``, compared with the registry, the ``Config`` fields and the pairs that are built."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from worldrl.__main__ import main
from worldrl.heads.sac import SAC
from worldrl.presets import preset_names
from worldrl.registry import PARTS, load_class


class Mine(SAC):
    @dataclass(frozen=True)
    class Config(SAC.Config):
        own: float = 2.5  # a|b


def rows(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[list[str]]:
    assert main(["parts", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    return [[cell.strip(" `") for cell in line[1:-1].split(" | ")] for line in lines if line]


def test_every_part_and_agent_is_listed_with_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    told = {row[0]: row[-1] for row in rows(capsys)}
    for names in (*PARTS.values(), preset_names("agent")):
        assert all(told[name] for name in names)


def test_presets_of_ones_own_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "wide.yaml").write_text("# A wide one. More of it.\nbase: sac\nhead.units: 512\n")
    assert ["wide", "identity", "sac", "own", "A wide one"] in rows(capsys, f"presets={tmp_path}")


@pytest.mark.parametrize("part", [(kind, name) for kind, names in PARTS.items() for name in names], ids="=".join)
def test_every_setting_has_its_default_and_its_comment(
    part: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = {row[0]: row for row in rows(capsys, "=".join(part))[2:]}
    fields = dataclasses.fields(load_class(*part).Config)
    assert [*found] == [f"{part[0]}.{item.name}" for item in fields]
    for row, item in zip(found.values(), fields, strict=True):
        shown = item.default if isinstance(item.default, str) else json.dumps(item.default, default=str)
        assert row[2] == shown, item.name
    if "sac" in part:
        assert found["head.tau"][3] == "(0, 1]"


def test_a_class_of_ones_own_has_the_settings_that_it_inherits(capsys: pytest.CaptureFixture[str]) -> None:
    found = {row[0]: row[1:] for row in rows(capsys, "head=tests.commands.test_parts:Mine")}
    assert found["head.own"] == ["float", "2.5", "", "a\\|b"]
    assert found["head.tau"] == ["float", "0.005", "(0, 1]", ""]
    assert found["head.critic_init"][:3] == ["str", "orthogonal", "orthogonal, default"]
    assert found["head.critic_init"][3]


def test_pairs_say_what_a_refused_one_would_need(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, "pairs", "head=dreamer", "policy=own")
    box = found[: len(found) // 2]
    assert box[2:] == [
        ["dreamer", "identity, stack", "needs a belief that can imagine"],
        ["dreamer", "rssm, slac", "yes"],
    ]
    sac = rows(capsys, "pairs", "head=sac", "policy=categorical")
    assert [row[-1] for row in (sac[2], sac[5])] == ["needs actions of the kind choice", "yes"]


@pytest.mark.parametrize("argument", ["head=nope", "task=walker_walk", "head=sac,mpo"])
def test_what_is_not_there_is_one_line(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parts", argument]) == 2
    assert argument.partition("=")[0 if argument.startswith("task") else 2] in capsys.readouterr().err
