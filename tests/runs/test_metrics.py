from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import pytest

from tests.errors import refusing
from worldrl.errors import UserError
from worldrl.runs.metrics import Logger, read_records

START = {"bytes": 0, "crc32": 0}


def records(folder: Path) -> list[dict[str, float | None]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# --- writing ----------------------------------------------------------------------------------------------------------


def test_records(tmp_path: Path) -> None:
    logger = Logger(tmp_path / "run", tensorboard=False)
    logger.write(1000, 500, 100, {"loss/critic": 0.1, "episode/return": math.nan, "x": math.inf})
    counted = {"frames": 1000, "agent_steps": 500, "updates": 100, "phase": "acting"}
    assert records(tmp_path / "run") == [  # readable before it is closed
        {**counted, "loss/critic": 0.1, "episode/return": None, "x": None}
    ]
    data = (tmp_path / "run/metrics.jsonl").read_bytes()
    assert logger.position() == {"bytes": len(data), "crc32": zlib.crc32(data)}
    logger.close()
    assert list((tmp_path / "run").glob("events*")) == []


def test_resume_cuts_off_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    logger = Logger(tmp_path, tensorboard=False)
    logger.write(1, 1, 1, {"x": 1.0})
    position = logger.position()
    logger.write(2, 2, 2, {"x": 2.0})
    logger.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"half a li')
    logger = Logger(tmp_path, False, resume=position, resume_frames=1)
    assert logger.position() == position
    logger.write(2, 2, 2, {"x": 3.0})
    logger.close()
    assert [record["x"] for record in records(tmp_path)] == [1.0, 3.0]


def test_a_full_disk_is_one_line_and_closing_is_silent(tmp_path: Path) -> None:
    logger = Logger(tmp_path, tensorboard=False)
    logger._file.close()
    logger._file = Path("/dev/full").open("ab")  # noqa: SIM115
    with refusing("/dev/full", fix="intact"):
        logger.write(1, 1, 1, {"x": 1.0})
    logger.close()


def test_resume_from_the_very_beginning(tmp_path: Path) -> None:
    Logger(tmp_path, tensorboard=False, resume=START).close()
    assert records(tmp_path) == []


def written(folder: Path) -> tuple[Path, dict[str, int]]:
    """A metrics file of two records, and the position after them."""
    logger = Logger(folder, tensorboard=False)
    logger.write(1, 1, 1, {"x": 1.0})
    logger.write(2, 2, 2, {"x": 1.0})
    position = logger.position()
    logger.close()
    return folder / "metrics.jsonl", position


def refusal(folder: Path, position: dict[str, int]) -> UserError:
    with pytest.raises(UserError) as caught:
        Logger(folder, False, resume=position)
    return caught.value


def test_a_changed_digit_is_told(tmp_path: Path) -> None:
    path, position = written(tmp_path)
    good = path.read_bytes()
    path.write_bytes(good.replace(b"1.0", b"7.0", 1))
    error = refusal(tmp_path, position)
    assert (error.where, error.found) == (f"{path} is damaged", "other content")
    assert "worldrl eval" in error.fix
    assert path.read_bytes() == good.replace(b"1.0", b"7.0", 1)  # an error changes nothing
    path.write_bytes(good)
    resumed = Logger(tmp_path, False, resume=position)
    assert resumed.position() == position
    resumed.write(3, 3, 3, {"x": 1.0})
    later = resumed.position()
    resumed.close()
    Logger(tmp_path, False, resume=later).close()  # the checksum went on from where it was
    path.write_bytes(path.read_bytes().replace(b'"updates": 1', b'"updates": 0', 1))
    assert refusal(tmp_path, later).found == "other content"


def test_metrics_that_do_not_belong_to_the_checkpoint(tmp_path: Path) -> None:
    path, position = written(tmp_path)
    with pytest.raises(UserError) as caught:
        Logger(tmp_path, tensorboard=False)
    assert (caught.value.where, caught.value.found) == (str(path), "the metrics of another run")
    longer = {**position, "bytes": position["bytes"] + 1}
    assert refusal(tmp_path, longer).found == f"{position['bytes']} bytes"
    path.unlink()
    error = refusal(tmp_path, position)
    assert (error.where, error.found) == (str(path), "no such file")
    path.mkdir()
    assert refusal(tmp_path, position).where == str(path)


def test_tensorboard_has_the_same_keys_and_forgets_the_lost_future(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = Logger(tmp_path)
    logger.write(1000, 500, 1, {"loss/critic": 1.0})
    position = logger.position()
    logger.write(2000, 1000, 2, {"loss/critic": 2.0})
    logger.close()
    logger = Logger(tmp_path, True, resume=position, resume_frames=1000)
    logger.write(2500, 1250, 2, {"loss/critic": 3.0})
    logger.write(2600, 1300, 2, {"loss/critic": 4.0}, tensorboard=False)
    logger.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/critic")] == [(1000, 1.0), (2500, 3.0)]
    assert [(r["frames"], r["loss/critic"]) for r in records(tmp_path)] == [(1000, 1.0), (2500, 3.0), (2600, 4.0)]


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "half"),
    [
        (b"{\n", False),
        (b"[]\n", False),
        (b"3\n", False),
        (b"[" * 100_000 + b"\n", False),
        (b'{"fra', True),
        (b"\xff", True),
    ],
)
def test_a_line_that_is_no_record(tmp_path: Path, line: bytes, half: bool) -> None:
    path, _ = written(tmp_path)
    path.write_bytes(path.read_bytes() + line)
    if half:  # as the run left it that was killed there
        found, ignored = read_records(path)
        assert ([record["frames"] for record in found], ignored) == ([1, 2], True)
        return
    with pytest.raises(UserError) as caught:
        read_records(path)
    assert caught.value.where.startswith(f"{path}, line 3,")


def test_blank_lines_and_a_last_line_without_its_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"frames": 0}\n\n{"frames": 1}')
    assert read_records(path) == ([{"frames": 0}, {}, {"frames": 1}], False)
