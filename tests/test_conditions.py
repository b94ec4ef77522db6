"""What the machine refuses, in one line with the true cause: modes, open files, shared memory, a closed stdout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.toy_runs import STATE_SAC, make_run

ROOT = Path(__file__).resolve().parents[1]
CODE = "import sys; from worldrl.__main__ import main; sys.exit(main())"
ALLOW = ("--allow", "tests")
RESUME = """
import sys
from pathlib import Path
from worldrl.__main__ import main
from worldrl.terminal import command
from worldrl.training.loop import resume
from worldrl.trust import allow
allow("tests")
*runs, unreadable = sys.argv[1:]
codes = [command(lambda: resume(Path(run), {"frames": 60}) or 0)() for run in runs]
print(codes, main(["eval", unreadable, "--allow", "tests"]))
"""
START = """
import sys
from resource import RLIMIT_NOFILE, getrlimit, setrlimit
from subprocess import run
from worldrl.envs import make_envs
from worldrl.envs.make import EnvConfig
from worldrl.terminal import command
def start():
    make_envs(EnvConfig(obs="state", action_repeat=1), "tests.envs.toy_envs:Rich", 0, num_envs=2).close()
    return 0
if __name__ == "__main__":
    soft, hard = getrlimit(RLIMIT_NOFILE)
    setrlimit(RLIMIT_NOFILE, (9, hard))
    codes = [command(start)()]
    setrlimit(RLIMIT_NOFILE, (soft, hard))
    for options in sys.argv[1:]:
        run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", "/dev/shm"], check=True)
        codes.append(command(start)())
    print(codes)
"""


def said(shell: str, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a line of shell, in which ``$@`` is this interpreter with the arguments."""
    command = ["bash", "-c", shell, "bash", sys.executable, *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def told(shell: str, *arguments: object) -> str:
    """The one line on stderr of a command that gives up."""
    code, _, line = said(shell, *arguments)
    assert (code, line.count("\n")) == (2, 1), line
    return line


@pytest.fixture
def modes_count() -> str:
    """What goes before a command so that file modes are heeded: root does not, with all its capabilities."""
    if os.geteuid() != 0:
        return ""
    if shutil.which("setpriv") is None:
        pytest.skip("root ignores file modes, and there is no setpriv to make it heed them")
    rights = "-dac_override,-dac_read_search"
    return f"setpriv --bounding-set={rights} --inh-caps={rights} "


def test_folders_that_take_no_writes_and_one_that_may_not_be_read(tmp_path: Path, modes_count: str) -> None:
    places = {"run": ".", "checkpoints": "checkpoints", "lock": "lock"}
    runs = [make_run(tmp_path / kind, STATE_SAC, frames=20) for kind in (*places, "unreadable")]
    (tmp_path / "lock" / "lock").touch()
    closed = [run / place for run, place in zip(runs, (*places.values(), "checkpoints"), strict=True)]
    modes = [path.stat().st_mode for path in closed]
    for path, mode in zip(closed, modes, strict=True):
        path.chmod(0o000 if path == closed[-1] else mode & ~0o222)
    code, codes, lines = said(f'{modes_count}"$@"', "-c", RESUME, *runs)
    for path, mode in zip(closed, modes, strict=True):
        path.chmod(mode)
    assert (code, codes.split("\n")[-2]) == (0, "[2, 2, 2] 2"), lines
    *unwritten, unread = lines.splitlines()
    for line, path, kind in zip(unwritten, closed[:-1], places, strict=True):
        assert line.startswith(f"cannot write to {path}: found Permission denied; make it writable")
        assert kind in line
    assert unread == f"cannot read {closed[-1]}: found Permission denied"


def test_open_files_and_shared_memory_that_do_not_suffice(tmp_path: Path) -> None:
    """Memory only where there is a mount namespace of its own."""
    script = tmp_path / "start.py"
    script.write_text(START)
    own = os.geteuid() == 0 and said("unshare -m mount -t tmpfs tmpfs /dev/shm")[0] == 0
    causes = {"size=4k": "No space left", "size=4m,ro": "Read-only file system"} if own else {}
    code, codes, lines = said('unshare -m "$@"' if own else '"$@"', script, *causes)
    assert (code, codes) == (0, f"{[2] * (1 + len(causes))}\n"), lines
    files, *memory = lines.splitlines()
    assert files.startswith("too many open files: found a limit of 9")
    for line, cause in zip(memory, causes.values(), strict=True):
        assert line.startswith(f"worker processes cannot start: found {cause}")
        assert "/dev/shm" in line


def test_a_closed_stdout_is_no_failure_and_no_file_takes_its_place(tmp_path: Path) -> None:
    assert said('exec "$@" >&-', "-c", CODE, "--help") == (0, "", "")
    run = make_run(tmp_path / "run", STATE_SAC)
    result = tmp_path / "x.json"
    assert said('exec "$@" <&- >&- 2>&-', "-c", CODE, "eval", run, *ALLOW, "--episodes", 1, "--json", result)[0] == 0
    assert json.loads(result.read_text())["cut"] == 0


def test_a_full_stdout() -> None:
    line = told('exec "$@" >/dev/full', "-c", CODE, "--help")
    assert line == "cannot write to standard output: found No space left on device\n"
