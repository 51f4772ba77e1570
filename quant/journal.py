"""The record of an unfinished conversion, beside its partial file: what was being written, and how far it
came.

The first line says what the conversion is, every further line that one more tensor is on the disk whole.
Lines are appended after the tensor's bytes were brought to the disk, so after a crash the last lines may be
missing, never wrong; a line cut short is ignored.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from quant.errors import ModelFileError, QuantError
from quant.target import leads_to
from quant.tensor_files import show

MAX_BYTES = 64 << 20
_BEGINNING = b'{"source": '  # of every journal: the first that tells what a conversion is


class Journal:
    """Open for appending, and locked against a second conversion to the same file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = self._locked()
        while not leads_to(path, self._handle):  # another conversion ended, and removed it, in between
            os.close(self._handle)
            self._handle = self._locked()

    def resume(
        self, identity: dict[str, Any], partial: Path, header: bytes, restart: bool = False
    ) -> list[dict[str, Any]]:
        """What was recorded of this same conversion, a dict per tensor; with `restart`, or if there is no
        record, begins a new one and removes `partial`.

        `header` is what the partial file begins with. ModelFileError when the record is of another
        conversion, or when one of the two files is none of a conversion; both are then left as they are.
        """
        data = os.pread(self._handle, MAX_BYTES, 0)
        if not (data.startswith(_BEGINNING) or _BEGINNING.startswith(data)):
            raise _foreign(self.path)
        lines = data.split(b"\n")[:-1]  # the last is empty, or cut short
        records = [json.loads(line) for line in lines] if all(map(_is_object, lines)) else []
        if records and not restart and partial.exists():
            _check_same(records[0], identity, partial)
        if not (data and restart) and not _begins(partial, header):
            raise _foreign(partial)
        if restart or not records or not partial.exists():
            partial.unlink(missing_ok=True)
            os.ftruncate(self._handle, 0)
            self.append(identity)
            return []
        end = sum(len(line) + 1 for line in lines)
        os.ftruncate(self._handle, end)
        return records[1:]

    def append(self, record: dict[str, Any]) -> None:
        """One more line, on the disk when this returns."""
        os.lseek(self._handle, 0, os.SEEK_END)
        line = json.dumps(record).encode() + b"\n"
        while line:  # of a disk that is nearly full, only a part is taken at first
            line = line[os.write(self._handle, line) :]
        os.fsync(self._handle)

    def discard(self) -> None:
        """Remove the file, if the name still leads to it."""
        if leads_to(self.path, self._handle):
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file, and remove it if nothing was recorded."""
        if os.fstat(self._handle).st_size == 0:
            self.discard()
        os.close(self._handle)

    def _locked(self) -> int:
        """The file, opened or made, and locked for this process."""
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock(handle)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _lock(self, handle: int) -> None:
        try:
            import fcntl
        except ImportError:  # not a POSIX system: two conversions to one file are the user's own risk
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise QuantError(
                f"{show(self.path)} is in use: another conversion writes that file; wait for it"
            ) from None


def _check_same(record: dict[str, Any], identity: dict[str, Any], partial: Path) -> None:
    differing = [key for key in identity if record.get(key) != identity[key]]
    if differing:
        raise ModelFileError(
            f"{show(partial)} was begun with another {differing[0]}; finish it as it was begun,"
            " or discard it with --restart"
        )


def _begins(path: Path, header: bytes) -> bool:
    """Is there no such file, or does it begin with `header`, as far as it goes?"""
    try:
        with path.open("rb") as file:
            return header.startswith(file.read(len(header)))
    except FileNotFoundError:
        return True


def _foreign(path: Path) -> ModelFileError:
    return ModelFileError(
        f"{show(path)} was not left by this conversion, which would overwrite it; move it away, or name"
        " another file to write"
    )


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
