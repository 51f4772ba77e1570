"""What the control groups (cgroups) of this process leave it of the machine's memory.

A container, a systemd unit or a job of a batch system may use less memory than the machine has, and
/proc/meminfo does not tell: whoever goes by that alone is killed. Groups nest, and each one's limit holds for
all that is in it. Linux has two versions of them, and a system may have both; on others there are none.
Source: the kernel's Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst, proc(5).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PROC = Path("/proc/self")


@dataclass(frozen=True)
class Hierarchy:
    """The groups that count this process's memory, from the outermost one in sight, where they are mounted,
    down to its `own`; `unified` are those of version 2.
    """

    mount: Path
    own: Path
    unified: bool

    def groups(self) -> list[Path]:
        """Their directories, outermost first."""
        steps = self.own.relative_to(self.mount).parts
        return [self.mount.joinpath(*steps[:count]) for count in range(len(steps) + 1)]


def free_in_groups(proc: Path = PROC) -> int | None:
    """Bytes that this process may take before a group's limit is reached, where the kernel first gives back
    the file pages of its cache; None where nothing limits memory or nothing can be read. `proc` is the
    process's directory.
    """
    rooms = [
        _room(group, hierarchy.unified) for hierarchy in hierarchies(proc) for group in hierarchy.groups()
    ]
    return min((room for room in rooms if room is not None), default=None)


def hierarchies(proc: Path = PROC) -> Iterator[Hierarchy]:
    """Those that may limit memory, and are mounted."""
    try:
        mounts = (proc / "mountinfo").read_text().splitlines()
        own = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
    except OSError:
        return
    paths = {"memory" if number != "0" else "": path for number, controllers, path in own
             if number == "0" or "memory" in controllers.split(",")}  # fmt: skip
    for line in mounts:
        place, _, kind = line.partition(" - ")
        system, *_, options = kind.split() or ["", ""]
        controller = {"cgroup": "memory", "cgroup2": ""}.get(system)
        if controller in paths and (not controller or controller in options.split(",")):
            root, mount = place.split()[3:5]
            yield Hierarchy(Path(mount), _inside(Path(mount), root, paths[controller]), not controller)


def _inside(mount: Path, root: str, path: str) -> Path:
    """The directory of the group `path` where the group `root` is mounted: in a container that is its own,
    and `path` may be as seen from outside.
    """
    group = PurePosixPath(path)
    below = group.relative_to(root) if group.is_relative_to(root) else group.relative_to("/")
    own = mount / below
    return own if ".." not in below.parts and os.path.isdir(own) else mount


def _room(group: Path, unified: bool) -> int | None:
    """What one group leaves: its limit, less what is used, and the cache that can be dropped. None without
    a limit.
    """
    limits = ("memory.max", "memory.high") if unified else ("memory.limit_in_bytes",)
    used = "memory.current" if unified else "memory.usage_in_bytes"
    of_all = "" if unified else "total_"  # version 1 tells a group's own pages apart from all below it
    try:
        given = [text for name in limits if (text := (group / name).read_text().strip()) != "max"]
        if not given:
            return None
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        cache = sum(int(stat[f"{of_all}{kind}_file"]) for kind in ("active", "inactive"))
        return max(0, min(map(int, given)) - int((group / used).read_text()) + cache)
    except (OSError, ValueError, KeyError):
        return None
