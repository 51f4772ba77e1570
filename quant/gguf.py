"""GGUF files: a reader that trusts nothing in them, over a memory map.

Layout (version 3, little-endian): magic, version, two counts; metadata as (key, type, value); tensor
descriptions as (name, dimensions, type, offset); padding to the alignment; the tensors' bytes. Every count,
length, offset and product is checked, as Python integers, before it is used; what is refused raises
ModelFileError.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import mmap
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from quant.blocks import BY_GGML_TYPE, BlockFormat, type_name
from quant.errors import ModelFileError
from quant.gguf_writer import GGUFWriter
from quant.text import printable

__all__ = ["GGUFFile", "GGUFWriter", "Tensor"]

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # 2 and 3 have one layout; 3 allows big-endian files, which we do not read
DEFAULT_ALIGNMENT = 32

# What a real file never reaches, and what parsing within a second and 200 MB allows.
MAX_METADATA = 1 << 16
MAX_TENSORS = 1 << 17
MAX_STRINGS = 1 << 20  # in all arrays together; the largest vocabularies have 2^18, their merges 2^19
MAX_HEADER_BYTES = 96 << 20
MAX_KEY_BYTES = (1 << 16) - 1
MAX_NAME_BYTES = 255
MAX_DIMENSIONS = 4

_SCALARS: dict[int, np.dtype[Any]] = {  # GGUF's value types, by number
    0: np.dtype("<u1"), 1: np.dtype("<i1"), 2: np.dtype("<u2"), 3: np.dtype("<i2"), 4: np.dtype("<u4"),
    5: np.dtype("<i4"), 6: np.dtype("<f4"), 10: np.dtype("<u8"), 11: np.dtype("<i8"), 12: np.dtype("<f8"),
}  # fmt: skip
BOOL, STRING, ARRAY, UINT32 = 7, 8, 9, 4

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True, slots=True, repr=False)
class Tensor:
    """One tensor of an open file; its bytes stay where the file is mapped."""

    name: str
    shape: tuple[int, ...]  # NumPy order: rows first, the reverse of GGUF's
    format: BlockFormat
    offset: int  # of its first byte, from the start of the file; through all parts, in a model of several
    nbytes: int
    _map: mmap.mmap = field(compare=False)
    _begin: int = 0  # of the mapped file, in what `offset` counts through

    @property
    def type(self) -> str:
        return self.format.name

    @property
    def data(self) -> npt.NDArray[np.uint8]:
        """uint8 [*shape[:-1], row_bytes], a read-only view of the mapped file."""
        flat = np.frombuffer(self._map, np.uint8, self.nbytes, self.offset - self._begin)
        return flat.reshape(*self.shape[:-1], self.format.row_bytes(self.shape[-1]))

    @property
    def address(self) -> int:
        """Where the mapped bytes are in memory; valid while the file is open."""
        return int(np.frombuffer(self._map, np.uint8, 1, self.offset - self._begin).ctypes.data)

    def __repr__(self) -> str:
        return f"Tensor({self.name!r}, {self.shape}, {self.type})"


class _Map(mmap.mmap):
    """A file's mapping."""

    huge = False  # whether huge pages were asked for


@dataclass(frozen=True, eq=False)
class GGUFFile:
    """An open GGUF file: metadata, and tensors whose bytes are mapped, not read.

    Metadata values are int, float, bool, str, list[str], or a NumPy array for numbers; `value_types` holds
    GGUF's type number of each scalar, so that copying a file keeps them.
    """

    path: Path
    version: int
    alignment: int
    metadata: dict[str, Any]
    value_types: Mapping[str, int]
    tensors: dict[str, Tensor]
    data_offset: int
    size: int
    _map: _Map = field(repr=False)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> GGUFFile:
        """Open and check a file; ModelFileError when it cannot be used."""
        path = Path(path)
        mapped = _map_file(path)
        try:
            return _Parser(path, mapped).parse(cls)
        except BaseException:
            mapped.close()
            raise

    @property
    def parts(self) -> tuple[GGUFFile, ...]:
        """The files that are mapped: this one. A model of several has more (`quant.parts`)."""
        return (self,)

    def ask_for_huge_pages(self) -> None:
        """Have what is not in the page cache yet read and mapped 2 MiB at a time, where the system can: for
        whoever will read all of it again and again, and so many addresses would have to be translated.

        Linux, on file systems with large folios: https://docs.kernel.org/admin-guide/mm/transhuge.html
        """
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without huge pages
                self._map.madvise(mmap.MADV_HUGEPAGE)
                # Nothing is read ahead of a piece: read-ahead of megabytes, as some systems set it, begins
                # the next one in small pages.
                self._map.madvise(mmap.MADV_RANDOM)
                self._map.huge = True

    def expect_reuse(self) -> None:
        """To be called when most of the file has been read: the system takes pages of a mapping that is read
        at random for used once, and they would be the first to go when memory is short.
        """
        if self._map.huge:
            self._map.madvise(mmap.MADV_NORMAL)

    def bytes_at(self, start: int, count: int) -> bytes:
        """So many bytes of the file: past the mapping, which would read megabytes around them; through it
        where huge pages are wanted, for a few bytes read past it keep all of their 2 MiB in small ones.
        """
        if self._map.huge:
            return self._map[start : start + count]
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(count)

    def close(self) -> None:
        """Unmap the file; arrays that still view it keep it mapped until they go."""
        try:
            self._map.close()
        except BufferError:
            return

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _map_file(path: Path) -> _Map:
    shown = printable(str(path))
    try:
        status = path.stat()  # before opening: a FIFO would block
        if stat.S_ISDIR(status.st_mode):
            raise ModelFileError(f"{shown} is a directory, not a GGUF file; name the .gguf file")
        if not stat.S_ISREG(status.st_mode):
            raise ModelFileError(f"{shown} is not a regular file; name a .gguf file on disk")
        if status.st_size < 24:
            raise ModelFileError(f"{shown} is too short to be a GGUF file; get it again")
        with path.open("rb") as file:
            return _Map(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise ModelFileError(f"{shown}: no such file; check the path") from None
    except ValueError as error:  # a NUL in the path, or the file became empty
        raise ModelFileError(f"{shown} cannot be opened: {error}") from None
    except OSError as error:
        raise ModelFileError(f"{shown} cannot be opened: {error.strerror or error}") from None


class _Parser:
    """Reads the header front to back; `at` never passes `end`."""

    def __init__(self, path: Path, mapped: _Map) -> None:
        self.path, self.map, self.size = path, mapped, len(mapped)
        self.end = min(self.size, MAX_HEADER_BYTES)
        self.at = 0
        self.strings_left = MAX_STRINGS

    def parse(self, kind: type[GGUFFile]) -> GGUFFile:
        version, tensor_count, metadata_count = self.preamble()
        metadata: dict[str, Any] = {}
        types: dict[str, int] = {}
        for _ in range(metadata_count):
            key = self.name("a metadata key", MAX_KEY_BYTES)
            if key in metadata:
                raise self.error(f"metadata key {key!r} occurs twice")
            types[key] = self.u32()
            metadata[key] = self.value(key, types[key])
        alignment = self.alignment(metadata, types)
        described = [self.tensor_description() for _ in range(tensor_count)]
        data_offset = -(-self.at // alignment) * alignment
        tensors: dict[str, Tensor] = {}
        for name, shape, number, offset in described:
            if name in tensors:
                raise self.error(f"tensor {name!r} occurs twice")
            tensors[name] = self.tensor(name, shape, number, data_offset, offset, alignment)
        self.refuse_overlaps(tensors)
        return kind(
            self.path, version, alignment, metadata, types, tensors, data_offset, self.size, self.map
        )

    # -- parts of the header ---------------------------------------------------------------------------------

    def preamble(self) -> tuple[int, int, int]:
        magic = self.take(4, "the magic number")
        if magic != MAGIC:
            raise self.error(f"not a GGUF file (it begins with {magic!r})", "name a .gguf file")
        version = self.u32()
        if version == 0x03000000 or version == 0x02000000:
            raise self.error("a big-endian GGUF file", "convert it on a little-endian machine")
        if version not in VERSIONS:
            age = "too old" if version < min(VERSIONS) else "newer than this program, or damaged"
            raise self.error(f"GGUF version {version} is {age}", "get a version 3 file")
        tensor_count, metadata_count = self.u64(), self.u64()
        # a description takes 24 bytes at least (name length, dimensions, type, offset), a metadata entry 13
        if tensor_count > min(MAX_TENSORS, self.end // 24):
            raise self.error(f"it claims {tensor_count} tensors, more than it can hold")
        if metadata_count > min(MAX_METADATA, self.end // 13):
            raise self.error(f"it claims {metadata_count} metadata entries, more than it can hold")
        return version, tensor_count, metadata_count

    def value(self, key: str, number: int) -> Any:
        if number in _SCALARS:
            dtype = _SCALARS[number]
            return np.frombuffer(self.take(dtype.itemsize, key), dtype)[0].item()
        if number == BOOL:
            byte = self.take(1, key)[0]
            if byte > 1:
                raise self.error(f"metadata {key!r} is a boolean of value {byte}")
            return bool(byte)
        if number == STRING:
            return self.string(key)
        if number == ARRAY:
            return self.array(key)
        raise self.error(f"metadata {key!r} has the unknown type {number}")

    def array(self, key: str) -> Any:
        number, count = self.u32(), self.u64()
        if number == STRING:
            return self.strings(key, count)
        if number == ARRAY:
            raise self.error(f"metadata {key!r} is an array of arrays, which no model has")
        if number not in _SCALARS and number != BOOL:
            raise self.error(f"metadata {key!r} is an array of the unknown type {number}")
        dtype = _SCALARS.get(number, np.dtype("<u1"))
        values = np.frombuffer(self.take(count * dtype.itemsize, key), dtype)
        if number == BOOL:
            if count and values.max() > 1:
                raise self.error(f"metadata {key!r} holds booleans other than 0 and 1")
            return values.astype(np.bool_)
        return values

    def strings(self, key: str, count: int) -> list[str]:
        if count > self.strings_left or count * 8 > self.end - self.at:
            raise self.error(f"metadata {key!r} claims {count} strings, more than the file can hold")
        self.strings_left -= count
        # the hot loop of opening a file: 32,000 tokens and more
        data, at, unpack = self.map, self.at, _U64.unpack_from
        result, last = [], self.end - 8
        try:
            for _ in range(count):
                if at > last:
                    raise self.error(f"it ends inside {key!r}")
                (length,) = unpack(data, at)
                at += 8
                if length > self.end - at:
                    raise self.error(f"a string of {length} bytes in {key!r} runs past the end of the file")
                result.append(data[at : at + length].decode())
                at += length
        except UnicodeDecodeError:
            raise self.error(f"a string in {key!r} is not UTF-8") from None
        self.at = at
        return result

    def alignment(self, metadata: Mapping[str, Any], types: Mapping[str, int]) -> int:
        value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if types.get("general.alignment", UINT32) != UINT32:
            raise self.error("general.alignment is not a 32-bit number")
        if value < 8 or value > 1 << 16 or value & (value - 1):
            raise self.error(f"general.alignment is {value}, not a power of two from 8 to 65536")
        return int(value)

    def tensor_description(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.name("a tensor's name", MAX_NAME_BYTES)
        dimensions = self.u32()
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise self.error(f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(reversed([self.u64() for _ in range(dimensions)]))
        return name, shape, self.u32(), self.u64()

    def tensor(
        self, name: str, shape: tuple[int, ...], number: int, data_offset: int, offset: int, alignment: int
    ) -> Tensor:
        if 0 in shape:
            raise self.error(f"tensor {name!r} has a dimension of zero: {_shape(shape)}")
        block = BY_GGML_TYPE.get(number)
        if block is None:
            readable = ", ".join(sorted(f.name for f in BY_GGML_TYPE.values()))
            raise self.error(
                f"tensor {name!r} has the unsupported type {type_name(number)}",
                f"get or make a file of these types: {readable}",
            )
        if shape[-1] % block.block_size:
            raise self.error(
                f"tensor {name!r} {_shape(shape)} has rows that blocks of {block.block_size} do not divide"
            )
        nbytes = math.prod(shape[:-1]) * block.row_bytes(shape[-1])
        if offset % alignment:
            raise self.error(f"tensor {name!r} begins at {offset}, which is not aligned to {alignment}")
        if data_offset + offset + nbytes > self.size:
            wanted = f"{nbytes} bytes at {data_offset + offset}"
            raise self.error(
                f"tensor {name!r} {_shape(shape)} {block.name} is {wanted}, the file has {self.size}"
            )
        return Tensor(name, shape, block, data_offset + offset, nbytes, self.map)

    def refuse_overlaps(self, tensors: Mapping[str, Tensor]) -> None:
        ordered = sorted(tensors.values(), key=lambda t: t.offset)
        for before, after in itertools.pairwise(ordered):
            if before.offset + before.nbytes > after.offset:
                raise self.error(f"tensors {before.name!r} and {after.name!r} overlap")

    # -- primitives ------------------------------------------------------------------------------------------

    def take(self, count: int, what: str) -> bytes:
        if count > self.end - self.at:
            raise self.error(f"it ends inside {what!r}")
        data = self.map[self.at : self.at + count]
        self.at += count
        return data

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4, "the header"))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(8, "the header"))[0])

    def string(self, what: str, limit: int = MAX_HEADER_BYTES) -> str:
        length = self.u64()
        if length > min(limit, self.end - self.at):
            raise self.error(f"a string of {length} bytes in {what!r} is too long, or runs past the end")
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError:
            raise self.error(f"a string in {what!r} is not UTF-8") from None

    def name(self, what: str, limit: int) -> str:
        name = self.string(what, limit)
        if not name:
            raise self.error(f"{what} is empty")
        if not name.isprintable():
            raise self.error(f"{what} holds control characters: {name!r}")
        return name

    def error(self, problem: str, advice: str = "it is damaged: get it again") -> ModelFileError:
        return ModelFileError(f"{printable(str(self.path))}: {problem}; {advice}")


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
