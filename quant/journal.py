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
from quant.tensor_files import show

MAX_BYTES = 64 << 20


class Journal:
    """Open for appending, and locked against a second conversion to the same file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock()
        except BaseException:
            os.close(self._handle)
            raise

    def resume(self, identity: dict[str, Any], partial: Path) -> list[dict[str, Any]]:
        """What was recorded of this same conversion, a dict per tensor; starts a new record if there is none.

        ModelFileError when the record is of another conversion.
        """
        lines = os.pread(self._handle, MAX_BYTES, 0).split(b"\n")[:-1]  # the last is empty, or cut short
        records = [json.loads(line) for line in lines] if all(map(_is_object, lines)) else []
        if not records or not partial.exists():
            os.ftruncate(self._handle, 0)
            self.append(identity)
            return []
        differing = [key for key in identity if records[0].get(key) != identity[key]]
        if differing:
            raise ModelFileError(
                f"{show(partial)} was begun with another {differing[0]}; finish it as it was begun,"
                " or discard it with --restart"
            )
        end = sum(len(line) + 1 for line in lines)
        os.ftruncate(self._handle, end)
        os.lseek(self._handle, end, os.SEEK_SET)
        return records[1:]

    def append(self, record: dict[str, Any]) -> None:
        """One more line, on the disk when this returns."""
        os.lseek(self._handle, 0, os.SEEK_END)
        os.write(self._handle, json.dumps(record).encode() + b"\n")
        os.fsync(self._handle)

    def close(self) -> None:
        os.close(self._handle)

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # not a POSIX system: two conversions to one file are the user's own risk
            return
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise QuantError(
                f"{show(self.path)} is in use: another conversion writes that file; wait for it"
            ) from None


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
