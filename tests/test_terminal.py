import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from worldrl.__main__ import main
from worldrl.errors import UserError
from worldrl.terminal import Parser, command, number, number_or_list, positive, to_json, whole


def test_what_ends_a_command_is_one_line_and_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def main(error: BaseException | None = None) -> int:
        """Its own words."""
        if error:
            raise error
        return 1

    assert [main(), main(UserError("two\n  lines")), main(error=KeyboardInterrupt())] == [1, 2, 130]
    assert capsys.readouterr().err == "two lines\nstopped\n"
    assert main.__doc__ == "Its own words."
    with pytest.raises(ZeroDivisionError):  # a fault of ours keeps its traceback
        main(ZeroDivisionError())


def test_ctrl_c_inside_of_an_import_is_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    """A module in C that is interrupted while it is imported fails with an error of its own."""

    @command
    def main(cause: BaseException) -> int:
        raise ImportError("initialization failed") from cause

    assert main(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "stopped\n"
    with pytest.raises(ImportError):
        main(ValueError())


def test_a_wrong_option_is_one_line_without_the_usage() -> None:
    parser = Parser()
    parser.add_argument("--n", type=whole(2))
    for argv, found in ((["--m"], "--m"), (["--n", "1"], "--n")):
        with pytest.raises(UserError, match=rf"{found}\b.*--help"):
            parser.parse_args(argv)


def test_negative_numbers_are_no_options() -> None:
    parser = Parser()
    parser.add_argument("--low", type=number_or_list)
    for text, value in (("-1", -1.0), ("-1e3", -1000.0), ("-1,0", (-1.0, 0.0)), ("-.5,0", (-0.5, 0.0))):
        assert parser.parse_args(["--low", text]).low == value
    with pytest.raises(UserError):
        parser.parse_args(["--low", "-x"])


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (number, {"-1e3": -1000.0, "0": 0.0}, ["nan", "inf", "1.7e308", "x", ""]),
        (number_or_list, {"-1": -1.0, "0,-2.5": (0.0, -2.5), "[1]": (1.0,)}, ["", "1,", "0,x", "0,inf"]),
        (positive, {"0.5": 0.5}, ["0", "-1", "nan", "x"]),
        (whole(), {"1": 1, "12": 12}, ["0", "-1", "1.5", "x", ""]),
        (whole(0), {"0": 0}, ["-1", "x"]),
    ],
)
def test_numbers_keep_their_bounds(kind: object, good: dict[str, float], bad: list[str]) -> None:
    assert callable(kind)
    assert {text: kind(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=f"found '{text}', expected a"):
            kind(text)


def test_numbers_that_are_not_finite_are_null() -> None:
    found = to_json({"a": [1, {"b": float("nan")}], "c": float("-inf"), "d": 0.5})
    assert json.loads(found) == {"a": [1, {"b": None}], "c": None, "d": 0.5}


def test_a_reader_that_has_enough_is_no_error() -> None:
    code = "from worldrl.terminal import command; import sys; sys.exit(command(lambda: print('x' * 10**6) or 0)())"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_a_broken_pipe_of_another_kind_is_not_hidden() -> None:
    def main() -> int:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        command(main)()


def test_the_installed_command_finds_modules_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Behind everything that is installed, so that no file there takes the place of a library."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/elsewhere"])
    monkeypatch.setattr(sys, "argv", ["worldrl", "--help"])
    assert main() == 0
    assert sys.path == ["/elsewhere", str(tmp_path)]
