"""What the structure of a checkpoint may construct, and what it may use again."""

from __future__ import annotations

import io
import zipfile

import pytest
import torch

from worldrl.runs.state import encode
from worldrl.runs.structure import check_pickle

BEGIN, TEXT, LIST = b"\x80\x02](", b"X\x01\x00\x00\x00aq\x01", b"]q\x01(K\x01e"  # the last two are put in place 1
AGAIN, END = b"h\x01", b"e."


def test_what_a_checkpoint_has_is_taken() -> None:
    out, weight = io.BytesIO(), torch.ones(3)
    torch.save(encode({"w": weight, "same": [weight, (1, 2.5, None, "w")], "again": {"w": weight}}), out)
    with zipfile.ZipFile(out) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith("data.pkl"))
        check_pickle(archive.read(name))
    check_pickle(BEGIN + TEXT + AGAIN + END)  # a text may occur again


@pytest.mark.parametrize(
    "data",
    [
        BEGIN + b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R" + END,
        BEGIN + LIST + AGAIN + END,
        BEGIN + TEXT + LIST + AGAIN + END,  # in the place of the text
        BEGIN + b"X\x20\x4e\x00\x00" + b"a" * 20_000 + b"q\x01" + AGAIN + END,
        BEGIN + b"ccollections\nOrderedDict\n)\x81" + END,
        b"no pickle",
    ],
    ids=["bytearray", "list", "replaced", "long text", "new object", "garbage"],
)
def test_what_could_grow_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"structure|opcode"):
        check_pickle(data)
