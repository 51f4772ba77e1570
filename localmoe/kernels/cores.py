"""How many cores this process may use. Importing this compiles nothing."""

from __future__ import annotations

import os
from typing import Any


def usable_cores() -> int:
    """Cores this process may use: its affinity mask, capped by a cgroup CPU quota, one thread per physical
    core.
    """
    affinity: Any = getattr(os, "sched_getaffinity", None)
    logical = set(affinity(0)) if affinity else set(range(os.cpu_count() or 1))
    physical = _one_per_core(logical)
    quota = _cgroup_quota()
    return max(1, min(len(physical), quota) if quota else len(physical))


def _one_per_core(logical: set[int]) -> set[int]:
    """One logical CPU of each physical core; on hybrid machines the performance cores only."""
    keep: dict[tuple[str, str], int] = {}
    speeds: dict[int, int] = {}
    for cpu in sorted(logical):
        base = f"/sys/devices/system/cpu/cpu{cpu}"
        try:
            package = _read(f"{base}/topology/physical_package_id")
            core = _read(f"{base}/topology/core_id")
        except OSError:
            return logical
        keep.setdefault((package, core), cpu)
        try:
            speeds[cpu] = int(_read(f"{base}/cpufreq/cpuinfo_max_freq"))
        except (OSError, ValueError):
            speeds[cpu] = 0
    chosen = set(keep.values())
    fastest = max((speeds[cpu] for cpu in chosen), default=0)
    return {cpu for cpu in chosen if speeds[cpu] >= 0.75 * fastest}


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def _cgroup_quota() -> int:
    """Whole CPUs that the cgroup's quota allows, rounded up; 0 when there is no quota."""
    try:
        quota, period = _read("/sys/fs/cgroup/cpu.max").split()
        return -(-int(quota) // int(period)) if quota != "max" else 0
    except (OSError, ValueError):
        return 0
