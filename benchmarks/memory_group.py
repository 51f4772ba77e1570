"""Runs a program in a control group (cgroup) that bounds its memory, pages of files that it reads included.

Without such a bound the kernel's page cache uses whatever memory the machine has, and a model "larger than
memory" is read from there. Linux only, and only where this process may make a group below its own: as root,
or with version 2 in a part of the tree that was delegated to it, which this gives:

    systemd-run --user --scope -p Delegate=yes python benchmarks/...

A page is charged to the group that brings it in first, so drop a file from the page cache before each run.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from localmoe.cgroups import PROC, Hierarchy, hierarchies
from localmoe.errors import LocalMoeError, UsageError

PAGE = mmap.PAGESIZE
JOIN = 'echo $$ > "$0" && exec "$@"'  # for a shell: enter the group $0, then become the program
DELEGATED = "`systemd-run --user --scope -p Delegate=yes COMMAND`"


class NoGroup(UsageError):
    """No group can bound memory here; its text says what is missing, in one line."""


class Failed(LocalMoeError):
    """The program in the group failed, or the kernel killed it: it took more memory than the bound."""


@dataclass(frozen=True)
class MemoryGroup:
    """A group that this process made; `path` is its directory."""

    path: Path
    unified: bool

    def run(self, command: Sequence[str], environment: dict[str, str] | None = None) -> str:
        """What the program writes to standard output; it is in the group from its first instruction on.
        Failed where it does not end well.
        """
        inside = ["/bin/sh", "-c", JOIN, str(self.path / "cgroup.procs"), *command]
        done = subprocess.run(inside, stdout=subprocess.PIPE, text=True, env=environment, check=False)
        if done.returncode:
            signal = f"killed by signal {-done.returncode}" if done.returncode < 0 else "failed"
            raise Failed(f"{signal} at a peak of {self.peak()} bytes: {' '.join(command)}")
        return done.stdout

    def peak(self) -> int | None:
        """The most bytes that were charged to the group at a time, the page cache among them; None where the
        kernel does not keep it (version 2 before Linux 5.19).
        """
        try:
            return int((self.path / FILES[self.unified].peak).read_text())
        except FileNotFoundError:
            return None


@dataclass(frozen=True)
class _Files:
    """The names of a group's files."""

    limit: str
    with_swap: str
    peak: str


FILES = {
    False: _Files("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max_usage_in_bytes"),
    True: _Files("memory.max", "memory.swap.max", "memory.peak"),
}


@contextmanager
def memory_group(nbytes: int, proc: Path = PROC) -> Iterator[MemoryGroup]:
    """A new group of at most `nbytes`, without swap, below this process's own, whose limits go on holding.
    At the end it is gone. NoGroup where none can be made.
    """
    reasons = []
    for hierarchy in hierarchies(proc):
        with ExitStack() as undo:
            try:
                group = make_group(hierarchy, nbytes, undo)
            except OSError as error:
                reasons.append(f"{error.filename or hierarchy.own}: {error.strerror}")
                continue
            yield group
            return
    why = "; ".join(reasons) or "no control group (cgroup) that counts memory is mounted"
    raise NoGroup(f"no group can bound memory here ({why}): run this as root, or by {DELEGATED}")


def make_group(hierarchy: Hierarchy, nbytes: int, undo: ExitStack) -> MemoryGroup:
    """A group in that hierarchy, and in `undo` what removes it. OSError where that is not allowed."""
    group = MemoryGroup(hierarchy.own / f"localmoe-{os.getpid()}", hierarchy.unified)
    files = FILES[hierarchy.unified]
    if hierarchy.unified:
        _pass_memory_on(hierarchy.own, undo)
    group.path.mkdir()
    undo.callback(_remove, group.path)
    (group.path / files.limit).write_text(str(nbytes))
    if (group.path / files.with_swap).exists():  # some kernels do not count swap
        (group.path / files.with_swap).write_text("0" if hierarchy.unified else str(nbytes))
    return group


def _pass_memory_on(own: Path, undo: ExitStack) -> None:
    """Version 2: let groups below `own` have limits on memory. Then no process may be in `own` itself, so
    this one moves one level down.
    """
    if "memory" not in (own / "cgroup.controllers").read_text().split():
        raise OSError(errno.ENOTSUP, "it counts no memory", str(own))
    control, procs, pid = own / "cgroup.subtree_control", "cgroup.procs", str(os.getpid())
    if "memory" in control.read_text().split():
        return
    leaf = own / f"localmoe-self-{pid}"
    leaf.mkdir()
    undo.callback(_remove, leaf)
    (leaf / procs).write_text(pid)
    undo.callback((own / procs).write_text, pid)
    control.write_text("+memory")
    undo.callback(control.write_text, "-memory")


def _remove(path: Path) -> None:
    """Remove an empty group; the kernel may need a moment to see that its last process has ended."""
    for _ in range(50):
        try:
            path.rmdir()
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        time.sleep(0.1)
    path.rmdir()


# -- the page cache ------------------------------------------------------------------------------------------


def drop_file(path: Path) -> int:
    """Have the kernel forget what it holds of that file; the bytes that it holds all the same: those that
    another process has mapped or is writing.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())
        for _ in range(3):  # pages that are on their way to a list are not dropped at once
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            left = cached_bytes(path)
            if not left:
                break
            time.sleep(0.2)
    return left


def cached_bytes(path: Path) -> int:
    """Bytes of that file in the page cache, by mincore(2); of a file that this user may not write the kernel
    claims to hold all.
    """
    size = path.stat().st_size
    if not size:
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as mapped:
        view = np.frombuffer(mapped, np.uint8)
        pages = np.zeros(-(-size // PAGE), np.uint8)
        failed = libc.mincore(
            ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(size), ctypes.c_void_p(pages.ctypes.data)
        )
        del view  # a mapping that is looked at cannot be closed
        if failed:
            raise OSError(ctypes.get_errno(), "mincore")
    return int((pages & 1).sum()) * PAGE
