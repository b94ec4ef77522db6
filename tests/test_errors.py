import ast
from pathlib import Path

import pytest

from tests.errors import refusing
from worldrl import errors
from worldrl.errors import UserError, check_out, check_writable, exit_code, one_line, writing


def test_a_failure_to_write_is_one_line_with_the_remedy() -> None:
    with (
        pytest.raises(UserError) as caught,
        writing("here", "choose another"),
    ):
        Path(__file__).mkdir()
    error = caught.value
    assert (error.where, error.found, error.fix) == ("cannot write to here", "File exists", "choose another")


def test_a_file_that_could_not_be_written_is_refused(tmp_path: Path) -> None:
    for file in (Path(__file__) / "x.json", Path("/proc/none/x.json"), tmp_path):
        with refusing(str(file), fix="file"):
            check_writable(file)


def test_looking_whether_a_file_can_be_written_leaves_things_as_they_are(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text("kept")
    check_writable(old)
    check_writable(tmp_path / "new" / "new.json")
    assert old.read_text() == "kept"
    assert list((tmp_path / "new").iterdir()) == []


def test_a_folder_for_results_is_made_or_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a folder"):
        check_out(tmp_path / "figure.png")
    assert not list(tmp_path.iterdir())
    check_out(tmp_path / "new" / "out")
    assert list((tmp_path / "new" / "out").iterdir()) == []
    for folder in (Path(__file__), Path("/proc/none")):
        with refusing(str(folder), fix="--out"):
            check_out(folder)


@pytest.mark.parametrize("other", [{"where": "x"}, {"found": "2"}, {"expected": "30"}, {"fix": "set b"}])
def test_an_error_with_other_fields_is_noticed(other: dict[str, str]) -> None:
    with refusing("key", "1", "3", "set a"):
        raise UserError("a key", "1", "3 or more", "set a=3")
    with pytest.raises(AssertionError), refusing(**other):
        raise UserError("a key", "1", "3 or more", "set a=3")


def test_every_error_of_the_package_has_more_fields_than_where() -> None:
    whole = [
        f"{path.name}:{node.lineno}"
        for path in Path(errors.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("UserError", "Diverged")
        if len(node.args) + len(node.keywords) < 2
    ]
    assert not whole, f"a sentence in where, which tests cannot compare: {', '.join(whole)}"


def test_errors_can_be_placed_and_continued() -> None:
    error = errors.wrong("seed", -1, "0 or more").inside("config.yaml").also("start again").also("or look")
    assert str(error) == "config.yaml: seed: found -1, expected 0 or more; start again; or look"


def test_a_failure_without_a_number_keeps_its_text() -> None:
    with refusing("here"), writing("here"):
        raise OSError("no video writer")


def test_a_line_is_cut_in_its_middle(capsys: pytest.CaptureFixture) -> None:
    assert exit_code(UserError("x" * 100_000, fix="do\nthis")) == 2
    told = capsys.readouterr().err
    assert len(told) < 1_600
    assert told.endswith("x; do this\n")


def test_an_error_cannot_steer_the_terminal() -> None:
    assert one_line(UserError("\x1b[2J\x9b1m\u202e", fix="do\nthis")).isprintable()
