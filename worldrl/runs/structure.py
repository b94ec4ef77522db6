"""The structure of a checkpoint's tensors, a pickle from anybody, checked before it is loaded.

torch runs no code from it, but lets it construct more than tensors: ``bytearray(10**9)``, or copies of copies of a long
list, take any amount of memory from a few bytes. What a checkpoint needs takes only a few times its own size.
"""

from __future__ import annotations

import pickletools
import re
from typing import Any

CONSTRUCTED = re.compile(
    r"torch\._utils _rebuild_tensor_v[23]|torch(\.storage)? \w+Storage|torch u?int\d+|collections OrderedDict"
)
REFUSED = {"BUILD", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4", "DUP"}
PUT, GET = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"GET", "BINGET", "LONG_BINGET"}
REUSED = {"GLOBAL", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"}  # values that may occur again
SMALL = 10_000  # characters of such a value
MOST_OPCODES = 4_000_000


def check_pickle(data: bytes) -> None:
    """Check the pickle of a state.

    Raises:
        ValueError: It constructs something other than tensors, uses a large value again, or is not a pickle.
    """
    reusable: set[Any] = set()  # places of its memo
    last, size = "", 0  # the last operation with a value, and the length of that
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        name = opcode.name
        if count > MOST_OPCODES:
            raise ValueError(f"a structure of more than {MOST_OPCODES:,} operations")
        if name == "GLOBAL" and not CONSTRUCTED.fullmatch(str(argument)):
            raise ValueError(f"{argument} in its structure")
        if name in REFUSED:
            raise ValueError(f"{name} in its structure")
        if name in PUT:
            if last in REUSED and size <= SMALL:
                reusable.add(argument)
            else:  # a place may have held another value before
                reusable.discard(argument)
            continue
        if name in GET and argument not in reusable:
            raise ValueError("a value that is used again in its structure")
        last, size = name, len(argument) if isinstance(argument, str) else 0
