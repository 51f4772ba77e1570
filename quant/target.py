"""Where a conversion writes: what is in the way, whether there is room, and what the system refuses."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quant.errors import ModelFileError
from quant.tensor_files import show

_MARGIN = 16 << 20  # bytes left free on the disk
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def partial_of(out: Path) -> Path:
    """Where `out` is written until it is whole."""
    return out.with_name(out.name + ".partial")


def journal_of(out: Path) -> Path:
    """Where it is recorded how far that came."""
    return out.with_name(out.name + ".journal")


def check_place(out: Path) -> None:
    """ModelFileError where no file can be written under that name."""
    if not out.parent.is_dir():
        raise ModelFileError(f"{show(out.parent)}: no such directory; make it first")
    if out.is_dir():
        raise ModelFileError(f"{show(out)} is a directory; name a file in it")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise ModelFileError(f"{show(out)}: its directory may not be written to; write elsewhere")


def check_target(out: Path, inputs: Iterable[Path], force: bool) -> None:
    """ModelFileError where writing `out` would destroy one of the `inputs`, or an `out` without `force`."""
    check_place(out)
    statuses = [path.stat() for path in inputs if path.exists()]
    for path in (out, partial_of(out), journal_of(out)):
        if path.exists() and any(os.path.samestat(path.stat(), status) for status in statuses):
            raise ModelFileError(f"{show(path)} is a file of the source itself; name another file to write")
    if out.exists() and not force:
        raise ModelFileError(f"{show(out)} exists; name another file, or replace it with --force")


def check_space(size: int, out: Path) -> None:
    """ModelFileError where the disk has no room for what is still to be written of `size` bytes."""
    partial = partial_of(out)
    there = partial.stat().st_size if partial.exists() else 0
    free = shutil.disk_usage(out.parent).free
    if size - there + _MARGIN > free:
        raise ModelFileError(
            f"{show(out.parent)} has {free / 1e9:.1f} GB free, the file needs {size / 1e9:.1f} GB;"
            " make room, or write elsewhere"
        )


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Says what the system refuses as a ModelFileError about `out`; errors that are not of writing pass."""
    try:
        yield
    except OSError as error:
        refusal = _refusal(out, error)
        if refusal is None:
            raise
        raise ModelFileError(refusal) from None


def _refusal(out: Path, error: OSError) -> str | None:
    goes_on = "give the same command: it goes on from here"
    if error.errno in _FULL:
        return f"{show(out)}: the disk is full; make room and {goes_on}"
    if error.errno == errno.EFBIG:
        return (
            f"{show(out)}: its disk or `ulimit -f` allows no file so large; write elsewhere, or raise the"
            f" limit and {goes_on}"
        )
    for path in (out, partial_of(out), journal_of(out)):
        if error.filename == str(path) or (error.filename is None and error.errno in _REFUSED):
            return f"{show(path)} cannot be written: {error.strerror}; write elsewhere"
    return None


def sync_directory(path: Path) -> None:
    """Bring a new name to the disk, where directories can be synchronised."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def leads_to(path: Path, handle: int) -> bool:
    """Is the open file still the one of that name?"""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
