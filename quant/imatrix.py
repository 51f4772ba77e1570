"""Importance matrices: how much each column of a weight matrix matters, from activations on a text.

For each matrix, and each expert of it, the mean square of the activations that it was multiplied with.
llama.cpp stores them as GGUF (`NAME.in_sum2` sums of squares [experts, cols], `NAME.counts` [experts]), and
before 2025 in a binary file of its own, which is read too.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quant.errors import ModelFileError
from quant.gguf import GGUFFile
from quant.gguf_writer import GGUFWriter
from quant.tensor_files import refuse_special, show

Floats = npt.NDArray[np.float32]
_SUMS, _COUNTS = ".in_sum2", ".counts"
MAX_DAT_BYTES = 1 << 30


@dataclass
class Statistics:
    """What was seen of one matrix: sums of squared activations [experts, cols] (1 if dense), tokens
    [experts].
    """

    sums: Floats
    counts: Floats

    @property
    def means(self) -> Floats:
        """float32 [experts, cols]; all ones for an expert that no token reached."""
        seen = self.counts[:, None] > 0
        with np.errstate(over="ignore"):  # `read_imatrix` refuses an infinite mean
            means: Floats = np.where(seen, self.sums / np.where(seen, self.counts[:, None], 1), 1)
        return means.astype(np.float32)


@dataclass
class Importance:
    """An importance matrix, by tensor name ("blk.0.ffn_up_exps.weight")."""

    entries: dict[str, Statistics]
    datasets: list[str] = field(default_factory=list)
    chunk_count: int = 0
    chunk_size: int = 512
    path: Path = Path("imatrix")

    @property
    def digest(self) -> str:
        """Of all values; goes into the metadata of what is quantized with it."""
        digest = hashlib.sha256()
        for name in sorted(self.entries):
            entry = self.entries[name]
            digest.update(name.encode() + b"\0" + entry.sums.tobytes() + entry.counts.tobytes())
        return digest.hexdigest()[:32]

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """ModelFileError where what is recorded of this tensor has another shape."""
        entry = self.entries.get(name)
        if entry is None:
            return
        wanted = (shape[0] if len(shape) == 3 else 1, shape[-1])
        if entry.sums.shape == (1, wanted[0] * wanted[1]):  # the older format does not say how many experts
            self.entries[name] = Statistics(entry.sums.reshape(wanted), np.repeat(entry.counts, wanted[0]))
        elif entry.sums.shape != wanted:
            raise ModelFileError(
                f"{show(self.path)}: {name!r} was recorded as {list(entry.sums.shape)}, the model's tensor is"
                f" {list(shape)}; it is of another model"
            )

    def of(self, name: str, expert: int) -> Floats | None:
        """float32 [cols] for one matrix, or None where nothing is known of it."""
        entry = self.entries.get(name)
        return None if entry is None else np.ascontiguousarray(entry.means[expert])

    def unreached(self) -> dict[str, list[int]]:
        """The experts of each tensor that the text never reached."""
        missed = {name: np.flatnonzero(e.counts == 0).tolist() for name, e in self.entries.items()}
        return {name: experts for name, experts in missed.items() if experts}

    def write(self, path: Path) -> None:
        """As llama.cpp's GGUF importance matrices are."""
        metadata: dict[str, Any] = {
            "general.type": "imatrix",
            "imatrix.datasets": self.datasets or ["unknown"],
            "imatrix.chunk_count": self.chunk_count,
            "imatrix.chunk_size": self.chunk_size,
        }
        with GGUFWriter(path, metadata) as file:
            for name, entry in self.entries.items():
                file.declare(name + _SUMS, entry.sums.shape, "f32")
                file.declare(name + _COUNTS, (len(entry.counts), 1), "f32")
            for name, entry in self.entries.items():
                file.write(name + _SUMS, np.ascontiguousarray(entry.sums, "<f4").view(np.uint8))
                file.write(name + _COUNTS, np.ascontiguousarray(entry.counts, "<f4").view(np.uint8))


def read_imatrix(path: Path) -> Importance:
    """An importance matrix in either of llama.cpp's formats; ModelFileError says what is wrong with it."""
    try:
        refuse_special(path)
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelFileError(f"{show(path)} cannot be read: {error.strerror or error}") from None
    importance = _read_gguf(path) if magic == b"GGUF" else _read_dat(path)
    for name, entry in importance.entries.items():
        values = (entry.sums, entry.counts, entry.means)
        if not all(np.isfinite(v).all() and (v >= 0).all() for v in values):
            raise ModelFileError(
                f"{show(path)}: {name!r} holds values that are no mean squares; make it again"
            )
    if not importance.entries:
        raise ModelFileError(f"{show(path)} holds no importance matrix; make one with localmoe imatrix")
    return importance


def _read_gguf(path: Path) -> Importance:
    with GGUFFile.open(path) as file:
        if file.metadata.get("general.type") != "imatrix":
            raise ModelFileError(f"{show(path)} is a GGUF file, but no importance matrix; make one first")
        entries = {}
        for name, tensor in file.tensors.items():
            if not name.endswith(_SUMS):
                continue
            base = name.removesuffix(_SUMS)
            counts = file.tensors.get(base + _COUNTS)
            experts = tensor.shape[0] if len(tensor.shape) > 1 else 1
            if counts is None or counts.type != "f32" or tensor.type != "f32":
                raise ModelFileError(f"{show(path)}: {base!r} has no counts, or not as f32; it is damaged")
            seen = counts.format.decode(counts.data).reshape(-1)
            if seen.size != experts:
                raise ModelFileError(f"{show(path)}: {base!r} has {seen.size} counts for {experts} experts")
            sums = tensor.format.decode(tensor.data).reshape(experts, -1)
            entries[base] = Statistics(sums, seen)
        datasets = file.metadata.get("imatrix.datasets")
        return Importance(
            entries,
            datasets if isinstance(datasets, list) else [],
            _count(file.metadata, "imatrix.chunk_count", 0),
            _count(file.metadata, "imatrix.chunk_size", 512),
            path,
        )


def _count(metadata: Mapping[str, Any], key: str, default: int) -> int:
    value = metadata.get(key, default)
    return value if type(value) is int else default


def _read_dat(path: Path) -> Importance:
    """i32 entries; each: i32 length, name, i32 calls, i32 values, f32 values (sums over calls); i32
    chunks, text.
    """
    if path.stat().st_size > MAX_DAT_BYTES:
        raise ModelFileError(f"{show(path)} is larger than any importance matrix")
    data, at = path.read_bytes(), 0

    def number() -> int:
        nonlocal at
        (value,) = struct.unpack_from("<i", data, at)
        at += 4
        return int(value)

    entries: dict[str, Statistics] = {}
    try:
        count = number()
        if not 0 < count <= 1 << 17:
            raise ValueError
        for _ in range(count):
            length = number()
            if not 0 < length <= 255 or length > len(data) - at:
                raise ValueError
            name = data[at : at + length].decode()
            at += length
            calls, values = number(), number()
            if calls < 0 or not 0 < values <= (len(data) - at) // 4:
                raise ValueError
            sums = np.frombuffer(data, "<f4", values, at).astype(np.float32)
            at += 4 * values
            entries[name] = Statistics(sums[None], np.array([max(calls, 1)], np.float32))
        chunks = number() if at + 4 <= len(data) else 0
    except (ValueError, struct.error):
        raise ModelFileError(f"{show(path)} is no importance matrix, or damaged; make it again") from None
    return Importance(entries, [], chunks, 512, path)
