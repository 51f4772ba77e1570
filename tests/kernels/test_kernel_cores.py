"""Which cores count: affinity, the cgroup's quota, one thread a core, performance cores only."""

from __future__ import annotations

import os

import pytest

from localmoe.kernels import cores

QUOTA, SMT, HYBRID = "/sys/fs/cgroup/cpu.max", {0: 0, 1: 0, 2: 1, 3: 1}, {0: 0, 1: 1, 2: 2, 3: 3}


def machine(
    monkeypatch: pytest.MonkeyPatch, core_of: dict[int, int], speeds: dict[int, int], quota: str
) -> None:
    """A machine whose logical CPU c is on core core_of[c] and reaches speeds[c] kHz."""

    def read(path: str) -> str:
        if path == QUOTA:
            return quota
        cpu = int(path.split("/cpu/cpu")[1].split("/")[0])
        values = {"physical_package_id": 0, "core_id": core_of[cpu], "cpuinfo_max_freq": speeds.get(cpu)}
        value = values[path.rpartition("/")[2]]
        if value is None:
            raise FileNotFoundError(path)
        return str(value)

    monkeypatch.setattr(cores, "_read", read)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(core_of), raising=False)


@pytest.mark.parametrize(
    ("core_of", "speeds", "quota", "expected"),
    [
        (SMT, {}, "max 100000", 2),
        (HYBRID, {0: 5_000_000, 1: 5_000_000, 2: 3_600_000, 3: 3_600_000}, "max 100000", 2),
        (HYBRID, {0: 5_000_000, 1: 5_000_000, 2: 4_800_000, 3: 4_800_000}, "max 100000", 4),
        (HYBRID, {}, "150000 100000", 2),
        (HYBRID, {}, "50000 100000", 1),
        (HYBRID, {}, "900000 100000", 4),
        (HYBRID, {}, "of another kind", 4),
    ],
)
def test_the_cores_that_count(core_of, speeds, quota, expected, monkeypatch):
    machine(monkeypatch, core_of, speeds, quota)
    assert cores.usable_cores() == expected


def test_a_system_that_does_not_tell_of_its_cores_counts_all(monkeypatch):
    def read(path: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(cores, "_read", read)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 5}, raising=False)
    assert cores.usable_cores() == 3


def test_the_cores_counted_are_those_this_process_may_use():
    assert 1 <= cores.usable_cores() <= len(os.sched_getaffinity(0))
