"""Runs to evaluate, and command lines that are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.evaluation.toy_grids import SETTINGS
from worldrl import train
from worldrl.agent import Agent
from worldrl.commands.evaluate import eval_main
from worldrl.config import Config
from worldrl.runs.trained import load_agent


@pytest.fixture(scope="package")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return train(SETTINGS, tmp_path_factory.mktemp("runs") / "both")


@pytest.fixture(scope="package")
def state_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train({**SETTINGS, "env.obs": "state"}, tmp_path_factory.mktemp("runs") / "state")


@pytest.fixture
def trained(run_dir: Path) -> tuple[Agent, Config]:
    return load_agent(run_dir)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """The one line that a wrong command line ends in."""

    def run(text: str) -> str:
        assert eval_main(text.split()) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        return err

    return run
