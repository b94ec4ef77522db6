"""What a run has to find again to continue exactly."""

from __future__ import annotations

import numpy as np
import torch

from worldrl.runs.exactness import compare_fingerprint, environment_fingerprint
from worldrl.runs.state import encode


def test_fingerprint() -> None:
    new = environment_fingerprint("EGL")
    assert new["torch"] == torch.__version__.split("+")[0] or new["torch"] == torch.__version__
    assert new["numpy"] == np.__version__
    assert new["torch threads"] == str(torch.get_num_threads())
    assert compare_fingerprint(new, dict(new)) == []
    old = {**new, "torch": "2.11", "renderer": "OSMesa"}
    del old["gpu"]
    assert compare_fingerprint(old, new) == [
        f"exact continuation is not guaranteed: torch 2.11 -> {new['torch']}",
        "exact continuation is not guaranteed: renderer OSMesa -> EGL",
        "exact continuation is not guaranteed: gpu unknown -> none",
    ]
    encode(new)  # it is saved
