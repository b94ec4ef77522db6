"""Free memory, as the system tells it."""

from __future__ import annotations

from pathlib import Path

from worldrl.data import memory


def test_cgroup_limits(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("1:cpu:/x\n0::/job/step\n")
    root = tmp_path / "sys"
    (root / "job/step").mkdir(parents=True)
    assert memory._cgroup_room(root, own) is None
    for group, limit, used in ((root / "job/step", "max", "10"), (root / "job", "5000", "3000")):
        (group / "memory.max").write_text(limit)
        (group / "memory.current").write_text(used)
    assert memory._cgroup_room(root, own) == 2000
    (root / "job/memory.stat").write_text("anon 5\ninactive_file 700\n")
    assert memory._cgroup_room(root, own) == 2700
