"""What an agent can be made of: ``worldrl parts``.

It lists beliefs, heads, policies and agents; ``worldrl parts pairs`` lists the compatible ones, and ``worldrl parts
head=mpo`` the settings of a part, as Markdown tables. Your own class is ``head=my_mod:MyHead``.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import typing
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from worldrl.commands.arguments import expand, read_argument
from worldrl.config import config_from_dict
from worldrl.errors import UserError, unknown
from worldrl.fields import rules
from worldrl.presets import own_folder, preset_names, preset_path, read_preset
from worldrl.registry import DEFAULTS, PARTS, canonical, load_class
from worldrl.terminal import command


def table(*rows: Iterable[str]) -> str:
    """A Markdown table; ``head`` has the names of the columns."""
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])


def first_sentence(text: str) -> str:
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    return re.split(r"(?<=[.:])\s(?=[A-Z`])", paragraph)[0].rstrip(".:")


def list_parts(own: Path) -> Iterator[str]:
    """Tables of the registered parts, and of the agents, a user's own presets included."""
    for kind, names in PARTS.items():
        told = [(name, first_sentence(sys.modules[load_class(kind, name).__module__].__doc__ or "")) for name in names]
        yield table((f"`{kind}=`", "what it is"), *((f"`{name}`", text) for name, text in told))
    rows = []
    for name in preset_names("agent", own):
        lines = preset_path("agent", name, own).read_text(encoding="utf-8").splitlines()
        comment = "\n".join(line.strip("# ") for line in takewhile(lambda line: line.startswith("#"), lines))
        parts = {**DEFAULTS, **read_preset("agent", name, own)}
        rows.append((f"`{name}`", *(f"`{parts[kind]}`" for kind in PARTS), first_sentence(comment)))
    yield table(("`agent=`", *PARTS, "what it is"), *rows)


def list_pairs(chosen: dict[str, list[str]]) -> Iterator[str]:
    """For each kind of action: what runs, and what a refused pair would need. Beliefs with equal rows share one."""
    from worldrl.types import box, choice

    for actions in (box(2), choice(2)):
        rows: dict[tuple[str, ...], list[str]] = {}
        for head in chosen["head"]:
            for belief in chosen["belief"]:
                cells = (_cell(actions, belief=belief, head=head, policy=policy) for policy in chosen["policy"])
                rows.setdefault((head, *cells), []).append(belief)
        body = [(head, ", ".join(beliefs), *cells) for (head, *cells), beliefs in rows.items()]
        yield table((f"{actions.kind}: head", "belief", *(f"`policy={name}`" for name in chosen["policy"])), *body)


def _cell(actions: Any, **parts: str) -> str:
    from worldrl.agent import ANY_OBS, sketch_parts
    from worldrl.types import EnvSpec

    try:
        built = sketch_parts(config_from_dict(parts), EnvSpec("any", {"state": ANY_OBS["state"]}, actions))
    except UserError as error:
        return f"needs {error.expected}" if error.expected else str(error)
    return "yes" if built else "not known before it is built"


def list_settings(kind: str, name: str) -> str:
    """The settings of a part: name, type, default, what a value may be, and the comment of its source."""
    cls = load_class(kind, name).Config
    hints, said, rows = typing.get_type_hints(cls, include_extras=True), comments(cls), []
    for item in dataclasses.fields(cls):
        hint = hints[item.name]
        bare = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
        words = typing.get_args(bare) if typing.get_origin(bare) is typing.Literal else ()
        of_kind = "str" if words else bare.__name__ if isinstance(bare, type) else str(bare)
        shown = item.default if isinstance(item.default, str) else json.dumps(item.default, default=str)
        allowed = ", ".join(map(str, words or rules(hint)))
        rows.append((f"`{kind}.{item.name}`", of_kind, f"`{shown}`", allowed, said.get(item.name, "")))
    return table(("setting", "type", "default", "values", "what it is"), *rows)


def comments(cls: type[Any]) -> dict[str, str]:
    """Field -> the comment after it, for a dataclass and its bases."""
    found: dict[str, str] = {}
    for base in filter(dataclasses.is_dataclass, reversed(cls.__mro__)):
        found |= dict(re.findall(r"^ +(\w+): [^#\n]*(?:  # (.*))?$", inspect.getsource(base), re.MULTILINE))
    return found


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & {*words}:
        print((__doc__ or "").strip())
        return 0
    arguments = [read_argument(word) for word in words if word != "pairs"]
    for argument in arguments:
        if argument.several:
            raise UserError(argument.text, "several values", "one")
    given = next(expand(arguments))
    for key in given.keys() - {*PARTS, "presets"}:
        raise unknown("argument", key, ["pairs", *PARTS, "presets"])
    asked = {kind: canonical(kind, str(given[kind])) for kind in PARTS if kind in given}
    if "pairs" in words:
        found = list_pairs({kind: [asked[kind]] if kind in asked else [*names] for kind, names in PARTS.items()})
    else:
        own = own_folder(given.get("presets"))
        found = (list_settings(*part) for part in asked.items()) if asked else list_parts(own)
    print("\n\n".join(found))
    return 0
