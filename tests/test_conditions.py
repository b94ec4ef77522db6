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
from worldrl.terminal import command
from worldrl.training.loop import resume
from worldrl.trust import allow
allow("tests")
run = lambda: resume(Path(sys.argv[1]), {"frames": 60}) or 0
sys.exit(command(run)())
"""
START = """
import sys
from worldrl.config import config_from_dict
from worldrl.envs import make_envs
from worldrl.terminal import command
def start():
    config = config_from_dict({"task": "tests.envs.toy_envs:Rich", "env.action_repeat": 1, "env.obs": "state"})
    make_envs(config.env, config.task, 0, num_envs=2).close()
    return 0
if __name__ == "__main__":
    sys.exit(command(start)())
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


@pytest.mark.parametrize(("place", "kind"), [(".", "run"), ("checkpoints", "checkpoints"), ("lock", "lock")])
def test_a_folder_that_takes_no_writes(tmp_path: Path, modes_count: str, place: str, kind: str) -> None:
    run = make_run(tmp_path / "run", STATE_SAC, frames=20)
    (run / "lock").touch()
    (run / place).chmod((run / place).stat().st_mode & ~0o222)
    line = told(f'{modes_count}"$@"', "-c", RESUME, run)
    (run / place).chmod(0o755)
    assert line.startswith(f"cannot write to {(run / place)}: found Permission denied; make it writable")
    assert kind in line


def test_a_folder_that_may_not_be_read(tmp_path: Path, modes_count: str) -> None:
    run = make_run(tmp_path / "run", STATE_SAC)
    (run / "checkpoints").chmod(0o000)
    line = told(f'{modes_count}"$@"', "-c", CODE, "eval", run, *ALLOW)
    (run / "checkpoints").chmod(0o755)
    assert line == f"cannot read {run / 'checkpoints'}: found Permission denied\n"


def test_too_few_open_files() -> None:
    assert told('ulimit -n 9; exec "$@"', "-c", START).startswith("too many open files: found a limit of 9")


@pytest.mark.parametrize(("options", "cause"), [("size=4k", "No space left"), ("size=4m,ro", "Read-only file system")])
def test_shared_memory(tmp_path: Path, options: str, cause: str) -> None:
    mount = f"unshare -m bash -c 'mount -t tmpfs -o {options} tmpfs /dev/shm"
    if os.geteuid() != 0 or said(f"{mount}'")[0] != 0:
        pytest.skip("needs a mount namespace of its own")
    script = tmp_path / "start.py"
    script.write_text(START)
    line = told(f"""{mount} && exec "$@"' bash "$@" """, script)
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
