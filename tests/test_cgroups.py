"""What control groups leave of the memory, in both versions, and that plans are made for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from localmoe.cgroups import free_in_groups, hierarchies
from localmoe.experts import plan

GIB, UNLIMITED = 1 << 30, 9223372036854771712
NAMES = {False: ("memory.limit_in_bytes", "memory.usage_in_bytes"), True: ("memory.max", "memory.current")}


def group(
    path: Path, unified: bool, limit: int | str, used: int = 0, cache: int = 0, own_cache: int = 0
) -> None:
    """A group's files. Version 1's memory.stat has the group's own pages, and those below it too in
    `total_`.
    """
    path.mkdir(parents=True, exist_ok=True)
    for name, value in zip(NAMES[unified], (limit, used), strict=True):
        (path / name).write_text(f"{value}\n")
    if unified:
        (path / "memory.high").write_text("max\n")
        (path / "memory.stat").write_text(f"anon 7\ninactive_file {cache}\nactive_file 0\n")
    else:
        stat = f"active_file 0\ninactive_file {own_cache}\ntotal_active_file {cache}\ntotal_inactive_file 0\n"
        (path / "memory.stat").write_text(stat)


def process(tmp_path: Path, unified: bool, own: str, root: str = "/") -> tuple[Path, Path]:
    """A process's directory, and where its groups are mounted, as the kernel writes them."""
    proc, mount = tmp_path / "proc", tmp_path / "mount"
    proc.mkdir()
    mount.mkdir()
    kind = "cgroup2 cgroup2 rw" if unified else "cgroup cgroup rw,memory"
    lines = [
        "23 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw",
        f"35 31 0:32 {root} {mount} rw,relatime shared:9 - {kind}",
        f"36 31 0:33 / {tmp_path} rw,relatime - cgroup cgroup rw,cpu,cpuacct",
        "37 31 0:34 / /nameless rw - tmpfs  rw",
    ]
    (proc / "mountinfo").write_text("\n".join(lines) + "\n")
    groups = "0::" + own if unified else f"4:memory:{own}\n1:cpu,cpuacct:/elsewhere\n0::/"
    (proc / "cgroup").write_text(groups + "\n")
    return proc, mount


@pytest.mark.parametrize("unified", [False, True])
def test_of_nested_groups_the_one_with_least_room_counts(tmp_path, unified):
    proc, mount = process(tmp_path, unified, "/outer/inner")
    if not unified:
        group(mount, unified, UNLIMITED, 3 * GIB)  # the root; in version 2 it has no such files
    group(mount / "outer", unified, 12 * GIB, 9 * GIB, cache=5 * GIB, own_cache=1 * GIB)
    group(mount / "outer" / "inner", unified, UNLIMITED if not unified else "max", 9 * GIB)
    assert free_in_groups(proc) == 8 * GIB  # cached pages of files can be dropped
    group(mount / "outer" / "inner", unified, 10 * GIB, 9 * GIB)
    assert free_in_groups(proc) == 1 * GIB
    group(mount / "outer" / "inner", unified, 8 * GIB, 9 * GIB)  # lowered below what is used
    assert free_in_groups(proc) == 0


def test_version_2_slows_a_process_down_from_memory_high_on(tmp_path):
    proc, mount = process(tmp_path, True, "/unit")
    group(mount / "unit", True, "max", GIB)
    assert free_in_groups(proc) is None
    (mount / "unit" / "memory.high").write_text(f"{4 * GIB}\n")
    assert free_in_groups(proc) == 3 * GIB


@pytest.mark.parametrize("unified", [False, True])
@pytest.mark.parametrize("own", ["/docker/abc", "/not/seen/here", "/../../outside"])
def test_in_a_container_its_own_group_is_what_is_mounted(tmp_path, unified, own):
    proc, mount = process(tmp_path, unified, own, root="/docker/abc")
    group(mount, unified, 2 * GIB, GIB)
    assert [each.own for each in hierarchies(proc)] == [mount]
    assert free_in_groups(proc) == GIB


def test_what_cannot_be_read_limits_nothing(tmp_path):
    assert free_in_groups(tmp_path / "no such process") is None
    proc, mount = process(tmp_path, False, "/own")
    assert free_in_groups(proc) is None
    group(mount / "own", False, "damaged")
    assert free_in_groups(proc) is None


def test_a_plan_is_made_for_the_group_not_for_the_machine(monkeypatch):
    monkeypatch.setattr(plan, "_free_of_machine", lambda: GIB)
    for free, expected in ((1 << 20, 1 << 20), (UNLIMITED, GIB), (None, GIB)):
        monkeypatch.setattr(plan, "free_in_groups", lambda free=free: free)
        assert plan.available_memory() == expected
