"""Rules of all parts: settings."""

from __future__ import annotations

import pytest
from torch import nn

from worldrl.errors import UserError
from worldrl.testing import check_head


def test_a_class_without_settings_and_a_setting_that_does_not_exist() -> None:
    with pytest.raises(UserError) as refused:
        check_head(nn.Linear)
    assert (refused.value.where, refused.value.found) == ("head 'Linear'", "no Config")
    with pytest.raises(UserError) as refused:
        check_head("sac", unit=8)
    assert refused.value.where == "head SAC: Config"
    assert "unexpected keyword argument 'unit'" in refused.value.found


def test_settings_are_checked_as_those_of_a_run() -> None:
    for value in ("a", 0):
        with pytest.raises(UserError) as refused:
            check_head("sac", units=value)
        assert refused.value.where == "head.units"
