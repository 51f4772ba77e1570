"""Where weights come from: a source is metadata and a list of named tensors whose rows can be read one range
at a time.

Nothing is read before it is asked for, and never more than the rows asked for, so the size of a model does
not matter. `open_source` finds out what a path holds.
"""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quant.blocks import FORMATS
from quant.errors import ModelFileError
from quant.tensor_files import show

Floats = npt.NDArray[np.float32]


class Files:
    """Open files by path, read at any offset from any thread."""

    def __init__(self) -> None:
        self._open: dict[Path, int] = {}
        self._lock = threading.Lock()

    def read(self, path: Path, offset: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """uint8 [nbytes]; ModelFileError when the file has become shorter."""
        with self._lock:
            if path not in self._open:
                self._open[path] = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            handle = self._open[path]
        data = np.empty(nbytes, np.uint8)
        view, filled = data.data, 0
        while filled < nbytes:
            got = self._some(handle, view[filled:], offset + filled)
            if got == 0:
                raise ModelFileError(f"{show(path)} became shorter while it was read; start again")
            filled += got
        return data

    def _some(self, handle: int, into: memoryview, offset: int) -> int:
        """As many bytes as one call reads."""
        if hasattr(os, "preadv"):
            return os.preadv(handle, [into], offset)
        with self._lock:  # Windows has one position per file
            os.lseek(handle, offset, os.SEEK_SET)
            piece = os.read(handle, min(len(into), 1 << 24))
        into[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        with self._lock:
            for handle in self._open.values():
                os.close(handle)
            self._open.clear()


@dataclass(frozen=True)
class Scale:
    """Multipliers of an 8-bit float matrix, each for a block of `rows` x `cols` weights."""

    values: Floats  # [blocks down, blocks across]
    rows: int
    cols: int

    def of(self, start: int, stop: int, width: int) -> Floats:
        """float32 [stop - start, width]."""
        down = np.arange(start, stop) // self.rows
        across = np.arange(width) // self.cols
        scales: Floats = self.values[down[:, None], across[None, :]]
        return scales


@dataclass(frozen=True)
class Matrix:
    """Rows of weights in a file, of any type that can be decoded."""

    path: Path
    offset: int  # of the first row
    rows: int
    cols: int
    dtype: str  # "f32", "f16", "bf16", "f8_e4m3" or a block format
    halves: int = 0  # > 0: so many heads, whose rotary pairs lie half a head apart and become neighbours
    scale: Scale | None = None
    every: int = 1  # of so many rows in the file, one is of this matrix:
    first: int = 0  # this one

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that it is read from."""
        return (self.path,)

    def row_bytes(self) -> int:
        return self.cols if self.dtype == "f8_e4m3" else FORMATS[self.dtype].row_bytes(self.cols)

    def read(self, files: Files, start: int, stop: int) -> Floats:
        """Rows start..stop-1 in the order in which GGUF wants them: float32 [stop - start, cols]."""
        if not self.halves:
            return self._stored(files, start, stop)
        head = self.rows // self.halves  # rows of a head
        first, last = start // head * head, -(-stop // head) * head
        wanted = np.arange(start, stop)
        inside = wanted % head
        order = wanted - inside + inside % 2 * (head // 2) + inside // 2
        rows: Floats = self._stored(files, first, last)[order - first]
        return rows

    def read_bytes(self, files: Files, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Rows start..stop-1 as they are stored: uint8 [stop - start, row_bytes]."""
        return self._rows(files, self.path, self.offset, self.row_bytes(), start, stop)

    def _rows(
        self, files: Files, path: Path, offset: int, row_bytes: int, start: int, stop: int
    ) -> npt.NDArray[np.uint8]:
        """Rows start..stop-1 of an array that begins at `offset`: uint8 [stop - start, row_bytes]."""
        step = self.every * row_bytes
        data = files.read(path, offset + start * step, (stop - start) * step)
        return data.reshape(stop - start, self.every, row_bytes)[:, self.first]

    def _stored(self, files: Files, start: int, stop: int) -> Floats:
        data = self.read_bytes(files, start, stop)
        if self.dtype == "f8_e4m3":
            weights: Floats = e4m3_values()[data]
            return weights if self.scale is None else weights * self.scale.of(start, stop, self.cols)
        if self.dtype == "f16":
            # here, since it imports numba, which looking at a source does not need
            from quant.encoders.finite import widened

            return widened(data)
        return FORMATS[self.dtype].decode(data)


@dataclass(frozen=True)
class SourceTensor:
    """A tensor as GGUF will hold it: of one matrix, or of one per expert, which become a three-dimensional
    tensor.
    """

    name: str
    shape: tuple[int, ...]  # NumPy order
    parts: tuple[Matrix, ...]

    @property
    def dtype(self) -> str:
        """The type of the stored weights; of differing parts, the first's."""
        return self.parts[0].dtype

    @property
    def nbytes(self) -> int:
        """Bytes to read."""
        return sum(part.rows * part.row_bytes() for part in self.parts)

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(part.rows * part.cols for part in self.parts)


@dataclass
class Source:
    """A model that can be converted. `metadata` is GGUF's, complete but for what the conversion itself
    adds.
    """

    path: Path
    kind: str  # for the summary: "Hugging Face", "Mistral", "GGUF"
    metadata: dict[str, Any]
    tensors: list[SourceTensor]
    paths: list[Path]  # the model's files, also those without weights
    files: Files = field(default_factory=Files)

    @property
    def name(self) -> str:
        return str(self.metadata.get("general.name", self.path.name))

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])

    @property
    def experts(self) -> int:
        return int(self.metadata.get(f"{self.architecture}.expert_count", 0))

    @property
    def layers(self) -> int:
        return int(self.metadata[f"{self.architecture}.block_count"])

    def fingerprint(self) -> str:
        """Changes when a file of the source is replaced or edited: names, sizes and times, not contents."""
        digest = hashlib.sha256()
        parts = (part for tensor in self.tensors for part in tensor.parts)
        for path in sorted({path for part in parts for path in part.paths}):
            status = path.stat()
            digest.update(os.fsencode(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n"))
        return digest.hexdigest()[:32]

    def close(self) -> None:
        self.files.close()


def open_source(path: str | os.PathLike[str]) -> Source:
    """The model at a path: a directory of safetensors, or a GGUF file. ModelFileError says what is
    missing.
    """
    path = Path(path)
    if path.is_dir():
        if _is_mistrals_own(path):
            from quant.source_mistral import open_mistral

            return open_mistral(path)
        from quant.source_hf import open_hugging_face

        return open_hugging_face(path)
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"):
        raise ModelFileError(
            f"{show(path)} is a pickle, which can run any program when it is opened;"
            " get the model's .safetensors files and name their directory"
        )
    if path.suffix == ".safetensors":
        raise ModelFileError(f"{show(path)} is one file of a model; name its directory")
    from quant.source_gguf import open_gguf

    return open_gguf(path)


def _is_mistrals_own(directory: Path) -> bool:
    """Is it in Mistral's layout, not in Hugging Face's? ModelFileError where its weights are GGUF."""
    stored, files = sorted(directory.glob("*.safetensors*")), sorted(directory.glob("*.gguf"))
    if files and not stored:
        raise ModelFileError(f"{show(directory)} is a directory; name the GGUF file in it: {show(files[0])}")
    if not (directory / "params.json").exists():
        return False
    if not (directory / "config.json").exists():
        return True
    # both are published, together or apart: what is there of the weights decides
    return bool(stored) and all(path.name.startswith("consolidated") for path in stored)


@cache
def e4m3_values() -> Floats:
    """What each byte means as an 8-bit float of 4 exponent and 3 mantissa bits (OCP's "fn": no
    infinities).
    """
    byte = np.arange(256)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    size = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(8 + mantissa, exponent - 10))
    size = np.where(byte & 127 == 127, np.nan, size)
    return np.where(byte & 128, -size, size).astype(np.float32)


