"""How a check refuses a class."""

from __future__ import annotations

from typing import Any

import pytest

from worldrl.errors import UserError


def check_refusal(check: Any, cls: type, settings: dict[str, Any], where: str, found: str) -> None:
    with pytest.raises(UserError) as refused:
        check(cls, **settings)
    assert where in refused.value.where
    assert found in refused.value.found
    assert "\n" not in str(refused.value)
