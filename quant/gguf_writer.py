"""Writes GGUF version 3 files as a stream: declare every tensor, then hand over their bytes in that order.

The header is known before the first weight is encoded, so nothing is held in memory and an interrupted file
can be gone on with: the same declarations give the same header and the same offsets.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from quant.blocks import BlockFormat, block_format
from quant.errors import QuantError
from quant.target import leads_to
from quant.tensor_files import show

ALIGNMENT = 32
_NUMBERS = {"u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "u8": 10, "i8": 11, "f8": 12}
_BOOL, _STRING, _ARRAY = 7, 8, 9


@dataclass(frozen=True)
class Declared:
    """A tensor of the file that is being written; `offset` is absolute."""

    name: str
    shape: tuple[int, ...]
    format: BlockFormat
    offset: int
    nbytes: int


class GGUFWriter:
    """A GGUF file in the making.

        with GGUFWriter(path, {"general.architecture": "llama"}) as file:
            file.declare("output_norm.weight", (4096,), "f32")
            file.write("output_norm.weight", data)          # uint8, whole or in consecutive pieces

    Metadata: bool, int (stored as u32 where it fits, else i32, u64, i64), float (f32), str, lists of those,
    NumPy arrays and scalars (stored as what they are).
    """

    def __init__(self, path: str | os.PathLike[str], metadata: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.metadata = dict(metadata)
        self._shapes: dict[str, tuple[tuple[int, ...], BlockFormat]] = {}
        self._layout: dict[str, Declared] | None = None
        self._order: list[Declared] = []
        self._file: BufferedRandom | None = None
        self._next = 0  # tensors completely written
        self._filled = 0  # bytes of the one being written

    def declare(self, name: str, shape: Sequence[int], type_name: str) -> None:
        """Announce a tensor, shape in NumPy order. All are announced before the first is written."""
        if self._layout is not None:
            raise QuantError(f"tensor {name!r} declared after the header was laid out")
        if name in self._shapes:
            raise QuantError(f"tensor {name!r} declared twice")
        kind = block_format(type_name)
        kind.row_bytes(shape[-1])  # refuses a shape that blocks do not fit
        self._shapes[name] = (tuple(int(n) for n in shape), kind)

    @property
    def layout(self) -> dict[str, Declared]:
        """Where each tensor will be; fixes the header."""
        if self._layout is None:
            self._header = self._lay_out()
            self._order = list(self._laid.values())
            self._layout = self._laid
        return self._layout

    @property
    def header(self) -> bytes:
        """Everything before the first tensor's bytes."""
        _ = self.layout
        return self._header

    @property
    def size(self) -> int:
        """Bytes of the finished file."""
        _ = self.layout
        last = self._order[-1] if self._order else None
        return _aligned(last.offset + last.nbytes) if last else len(self._header)

    def start(self, written: int = 0) -> BufferedRandom:
        """Create the file, or with `written` > 0 go on with one that holds that many whole tensors."""
        header = self.header
        if written:
            self._file = self.path.open("r+b")
            self._file.truncate(self._order[written].offset if written < len(self._order) else self.size)
            self._file.seek(0, os.SEEK_END)
        else:
            self._file = self.path.open("w+b")
            self._file.write(header)
        self._next = written
        return self._file

    def write(self, name: str, data: npt.NDArray[np.uint8]) -> None:
        """The next bytes of tensor `name`, which must be the next tensor declared."""
        file = self._file or self.start()
        tensor = self._order[self._next] if self._next < len(self._order) else None
        if tensor is None or tensor.name != name:
            raise QuantError(f"tensor {name!r} written out of order")
        if self._filled + data.nbytes > tensor.nbytes:
            raise QuantError(f"tensor {name!r} takes {tensor.nbytes} bytes, more were given")
        file.write(np.ascontiguousarray(data).data)
        self._filled += data.nbytes
        if self._filled == tensor.nbytes:
            file.write(bytes(_aligned(tensor.nbytes) - tensor.nbytes))
            self._next, self._filled = self._next + 1, 0

    def flush(self) -> None:
        """Bring what was written to the disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Check that every tensor was written and that the name leads to what was written, and close."""
        file = self._file or self.start()
        self.flush()
        own = leads_to(self.path, file.fileno())
        self.abandon()
        if self._next != len(self._order):
            raise QuantError(f"tensor {self._order[self._next].name!r} was declared and not written")
        if not own:
            raise QuantError(f"{show(self.path)} was replaced while it was written; write it again")

    def abandon(self) -> None:
        """Close the file as it is; what a full disk does not take is lost."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    def discard(self) -> None:
        """Close the file and remove it, if the name still leads to it."""
        own = self._file is not None and leads_to(self.path, self._file.fileno())
        self.abandon()
        if own:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> GGUFWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def _lay_out(self) -> bytes:
        parts = [b"GGUF", struct.pack("<IQQ", 3, len(self._shapes), len(self.metadata))]
        for key, value in self.metadata.items():
            parts += [_string(key), _value(value, key)]
        offset = 0  # in the data section
        placed = []
        for name, (shape, kind) in self._shapes.items():
            nbytes = math.prod(shape[:-1]) * kind.row_bytes(shape[-1])
            parts += [_string(name), struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))]
            parts.append(struct.pack("<IQ", kind.ggml_type, offset))
            placed.append((name, shape, kind, offset, nbytes))
            offset = _aligned(offset + nbytes)
        header = b"".join(parts)
        header += bytes(_aligned(len(header)) - len(header))
        self._laid = {n: Declared(n, s, k, len(header) + o, size) for n, s, k, o, size in placed}
        return header


def _aligned(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


def _string(text: str | bytes) -> bytes:
    # what names a model comes from file names, which need not be UTF-8
    data = text.encode(errors="replace") if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def _value(value: Any, key: str) -> bytes:
    """A metadata value with its type in front."""
    if isinstance(value, str | bytes):
        return struct.pack("<I", _STRING) + _string(value)
    if isinstance(value, list | tuple) and value and isinstance(value[0], str | bytes):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_string, value))
    if isinstance(value, np.ndarray | list | tuple):
        array = _typed(value, key)
        number = _BOOL if array.dtype == np.bool_ else _NUMBERS[array.dtype.str[1:]]
        return struct.pack("<IIQ", _ARRAY, number, array.size) + array.tobytes()
    scalar = _typed(value, key)
    number = _BOOL if scalar.dtype == np.bool_ else _NUMBERS[scalar.dtype.str[1:]]
    return struct.pack("<I", number) + scalar.tobytes()


def _typed(value: Any, key: str) -> npt.NDArray[Any]:
    """Numbers as the little-endian array that goes into the file."""
    array = np.asarray(value)
    if not isinstance(value, np.ndarray | np.generic):
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
        elif array.dtype.kind in "iu":
            low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
            choices = (np.int32, np.int64) if array.ndim else (np.uint32, np.int32, np.uint64, np.int64)
            fits = [t for t in choices if np.iinfo(t).min <= low and high <= np.iinfo(t).max]
            if not fits:
                raise QuantError(f"metadata {key!r}: {value} does not fit 64 bits")
            array = array.astype(fits[0])
    if array.dtype != np.bool_ and array.dtype.str[1:] not in _NUMBERS:
        raise QuantError(f"metadata {key!r}: a GGUF file cannot hold {value!r}")
    return array.astype(array.dtype.newbyteorder("<"))
