"""Settings of a run folder: to the file and back, and files that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.errors import refusing
from worldrl.config import config_from_dict
from worldrl.errors import UserError
from worldrl.runs.settings import load_config, save_config


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    settings = {"head": {"name": "ddpg", "critic_lr": 1e-8}, "belief": "identity", "env.obs": "state", "seed": 7}
    config = config_from_dict({**settings, "task": "cartpole-swingup"})
    save_config(config, tmp_path)
    assert load_config(tmp_path) == config
    assert load_config(tmp_path, **{"eval.every": 5}).eval.every == 5
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_the_protocol_is_told_in_one_line_of_the_settings(tmp_path: Path) -> None:
    config = config_from_dict({"head": "ddpg", "belief": "identity", "env.obs": "state", "task": "cartpole-swingup"})
    save_config(config, tmp_path, "a game 1.2, sticky actions\nseed: 9")
    lines = (tmp_path / "config.yaml").read_text().splitlines()
    assert lines[1] == r"# a game 1.2, sticky actions\nseed: 9"
    assert load_config(tmp_path) == config


def test_a_file_that_is_wrong_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("frames: many\n")
    with pytest.raises(UserError, match=r"config\.yaml: frames"):
        load_config(tmp_path)
    (tmp_path / "config.yaml").write_text("belief: {name: identity, lr: 0.0}\nhead: sac\n")  # of version 0.1.0
    with refusing("key 'belief.lr'") as refused:
        load_config(tmp_path)
    assert "worldrl 0.1.0" in refused.value.fix
    (tmp_path / "config.yaml").write_text("head.units: 1\nhead: {units: 2}\n")
    with refusing("config.yaml: head.units", found="two values"):
        load_config(tmp_path)
    (tmp_path / "config.yaml").write_text("frames: [1\n")
    with pytest.raises(UserError, match="cannot read"):
        load_config(tmp_path)
    with pytest.raises(UserError, match="no run in"):
        load_config(tmp_path / "elsewhere")
