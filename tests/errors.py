"""Bad input is compared by the fields of its error; the wording is free."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from worldrl.errors import UserError

Found = Iterator[pytest.ExceptionInfo[UserError]]


@contextmanager
def refusing(where: str = "", found: str = "", expected: str = "", fix: str = "") -> Found:
    """The block raises a UserError whose fields have these texts: keys, values, names and commands."""
    with pytest.raises(UserError) as caught:
        yield caught
    error = caught.value
    for field, text in {"where": where, "found": found, "expected": expected, "fix": fix}.items():
        assert text in getattr(error, field), f"{field}={getattr(error, field)!r} without {text!r}: {error}"
