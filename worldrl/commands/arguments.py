"""Reading ``key=value`` arguments: Hydra's grammar for values and sweeps, and no grammar at all for paths."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException

from worldrl.config import flatten
from worldrl.errors import UserError, given_twice, wrong
from worldrl.presets import Arguments

RUN_DIR, SWEEP_DIR = "hydra.run.dir", "hydra.sweep.dir"
FOLDERS = (RUN_DIR, SWEEP_DIR, "resume", "presets")  # never empty; init_from may be: it is a setting
PATHS = (*FOLDERS, "init_from", "dir")  # dir: of worldrl baseline
ALLOW = "allow"  # names with commas between them, which are not a sweep
HYDRA = ("hydra.", "hydra/", "+hydra", "++hydra", "~hydra")


class Argument(NamedTuple):
    """One ``key=value``; several values are a sweep."""

    text: str
    key: str
    values: tuple[Any, ...]
    several: bool = False


class CommandLine(NamedTuple):
    """The arguments of ``worldrl train``, read but not yet checked."""

    ours: tuple[Argument, ...]
    hydra: tuple[str, ...] = ()  # for Hydra itself
    multirun: bool = False
    show: bool = False
    help: bool = False
    run_dir: Path | None = None  # of hydra.run.dir=
    sweep_dir: Path | None = None  # of hydra.sweep.dir=


def read_command_line(argv: Sequence[str]) -> CommandLine:
    """Sort arguments into options, those of Hydra itself and ours.

    Raises:
        UserError: an unknown option, something that is not ``key=value``, or a key given twice.
    """
    options = {"-m": "multirun", "--multirun": "multirun", "-h": "help", "--help": "help", "--cfg": "show"}
    flags: dict[str, bool] = {}
    ours: list[Argument] = []
    hydra: list[str] = []
    for i, text in enumerate(argv):
        if text in options:
            flags[options[text]] = True
        elif i and argv[i - 1] == "--cfg":
            if text != "job":
                raise UserError("--cfg", text, "job")
        elif text.startswith("-"):
            raise UserError(
                f"unknown option '{text}'", expected=f"{', '.join(options)}, or key=value: task=walker_walk"
            )
        elif text.startswith(HYDRA) and text.partition("=")[0] not in PATHS:
            hydra.append(text)
        else:
            ours.append(read_argument(text))
    _refuse_twice(ours)
    places = {argument.key: Path(argument.values[0]) for argument in ours if argument.key in (RUN_DIR, SWEEP_DIR)}
    settings = tuple(argument for argument in ours if argument.key not in places)
    return CommandLine(settings, tuple(hydra), **flags, run_dir=places.get(RUN_DIR), sweep_dir=places.get(SWEEP_DIR))


def read_argument(text: str) -> Argument:
    """One argument. Raises UserError if it cannot be read."""
    key, sign, value = text.partition("=")
    if not sign:
        raise wrong("argument", text, "key=value such as task=walker_walk", "see --help")
    if key in PATHS:
        return Argument(text, key, (read_path(key, value),))
    if key == ALLOW:
        return Argument(text, key, (value,))
    if key.rstrip() != key or value.lstrip() != value:
        raise wrong("argument", text, f"no blanks around =: {key.rstrip()}={value.lstrip()}")
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise UserError(
            f"cannot read '{text}'", first_line(error), fix="quote unusual values: 'key=\"value\"'"
        ) from error
    if override.type != OverrideType.CHANGE:
        raise wrong("argument", text, text.lstrip("+~"), "every setting exists already; none can be added or removed")
    if override.package is not None:
        raise wrong("argument", text, "a dotted key before '=', without '@'")
    return Argument(text, override.key_or_group.removesuffix(".name"), *_values(override))


def read_path(key: str, value: str) -> str:
    """A path as written, with ``~`` expanded and without the quotes of Hydra (``"a b"``).

    Raises:
        UserError: an empty value where a folder is expected.
    """
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    path = value[1:-1].replace(f"\\{value[0]}", value[0]) if quoted and not Path(value).exists() else value
    if key in FOLDERS and not path.strip():
        raise wrong(key, value, "a folder")
    return str(Path(path).expanduser()) if path else ""


def expand(arguments: Sequence[Argument]) -> Iterator[Arguments]:
    """The arguments of every job of a sweep; one job if there is no sweep."""
    keys = [argument.key for argument in arguments]
    for values in itertools.product(*(argument.values for argument in arguments)):
        yield flatten(dict(zip(keys, values, strict=True)))


def first_line(error: Exception) -> str:
    """The first line of an error of Hydra's."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def _values(override: Override) -> tuple[tuple[Any, ...], bool]:
    if not override.is_sweep_override():
        return (override.value(),), False
    try:
        return tuple(override.sweep_iterator()), True
    except (HydraException, AssertionError) as error:
        raise wrong("sweep", override.input_line, "choices such as seed=1,2,3") from error


def _refuse_twice(arguments: Iterable[Argument]) -> None:
    seen: set[str] = set()
    for argument in arguments:
        if argument.key in seen:
            raise given_twice(argument.key)
        seen.add(argument.key)
