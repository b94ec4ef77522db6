"""What makes the host wait for a GPU, and what does not."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from worldrl.errors import UserError
from worldrl.testing.calls import call


@pytest.mark.parametrize(
    ("code", "waits"),
    [
        ("x.item()", True),
        ("x.to('cpu')", True),
        ("x.to(x.device)", False),
        ("x.to(torch.float64)", False),
        ("torch.where(x > 0)", True),
        ("torch.where(x > 0, x, 0 * x)", False),
        ("torch.argwhere(x)", True),
        ("x[x > 0]", True),
        ("x.__setitem__(x > 0, x.new_zeros(2))", True),
        ("x.__setitem__(x > 0, 0.0)", False),
        ("x.__setitem__(0, 0.0)", False),
    ],
)
def test_what_makes_the_host_wait(code: str, waits: bool) -> None:
    x = torch.tensor([1.0, -1.0, 2.0])
    with pytest.raises(UserError, match="read on the host") if waits else nullcontext():
        call("it", eval, code, {"x": x, "torch": torch})
