"""What every block format has: its geometry, and the loop over rows that decoding and encoding share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from quant.errors import QuantError

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_BLOCKS_AT_ONCE = 1 << 20  # weights per step of the loops: temporaries stay a few MB whatever the tensor


class BlockFormat(ABC):
    """One GGUF tensor type: `block_size` consecutive weights of a row stored in `block_bytes` bytes.

    Subclasses define the mapping for a batch of blocks in plain NumPy, which is the specification that the
    compiled encoders and the engine's kernels are tested against.
    """

    name: ClassVar[str]  # as in recipes: "q4_k"
    ggml_type: ClassVar[int]  # the number in a GGUF file
    block_size: ClassVar[int]  # weights
    block_bytes: ClassVar[int]
    halves: ClassVar[tuple[int, ...]] = ()  # where in a block its float16 scales are
    writable: ClassVar[bool] = True  # False: files in circulation open, but we do not write this format

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.block_bytes / self.block_size

    def row_bytes(self, cols: int) -> int:
        """Bytes of a row of `cols` weights; QuantError when blocks do not divide it."""
        if cols % self.block_size:
            raise QuantError(f"{self.name}: a row of {cols} weights is no multiple of {self.block_size}")
        return cols // self.block_size * self.block_bytes

    def decode(self, data: npt.NDArray[Any]) -> Floats:
        """uint8 [..., bytes] -> float32 [..., cols]; bit-exact with ggml's reference."""
        data = np.ascontiguousarray(data).view(np.uint8)
        row_bytes = data.shape[-1]
        if row_bytes % self.block_bytes:
            raise QuantError(f"{self.name}: a row of {row_bytes} bytes is no multiple of {self.block_bytes}")
        cols = row_bytes // self.block_bytes * self.block_size
        blocks = data.reshape(-1, self.block_bytes)
        out = np.empty((len(blocks), self.block_size), np.float32)
        step = max(1, _BLOCKS_AT_ONCE // self.block_size)
        with np.errstate(invalid="ignore", over="ignore"):  # a file may hold infinite scales
            for at in range(0, len(blocks), step):
                out[at : at + step] = self._decode_blocks(blocks[at : at + step])
        return out.reshape(*data.shape[:-1], cols)

    def encode(self, x: npt.NDArray[Any], importance: npt.NDArray[Any] | None = None) -> Bytes:
        """float32 [..., cols] -> uint8 [..., bytes]; importance [cols] weights the columns' errors."""
        x = np.asarray(x, np.float32)
        row_bytes = self.row_bytes(x.shape[-1])
        if not self.writable:
            raise QuantError(f"{self.name} can be read, not written")
        weights = None
        if importance is not None:
            weights = np.asarray(importance, np.float32)
            if weights.shape != (x.shape[-1],):
                raise QuantError(f"importance has shape {weights.shape}, the rows have {x.shape[-1]} columns")
            weights = weights.reshape(-1, self.block_size)  # [blocks of a row, block_size]
        rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
        out = np.empty((len(rows), row_bytes), np.uint8)
        step = max(1, _BLOCKS_AT_ONCE // max(1, x.shape[-1]))
        # 1 / d overflows for blocks of denormals; their d is zero in 16 bits, so their levels do not matter
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            for at in range(0, len(rows), step):
                part = rows[at : at + step]
                blocks = part.reshape(-1, self.block_size)
                repeated = None if weights is None else np.tile(weights, (len(part), 1))
                out[at : at + step] = self._encode_blocks(blocks, repeated).reshape(len(part), row_bytes)
        return out.reshape(*x.shape[:-1], row_bytes)

    def not_finite(self, blocks: Bytes) -> npt.NDArray[np.bool_]:
        """uint8 [n, block_bytes] -> bool [n]: has the block a scale that is NaN or infinite?"""
        bad = np.zeros(len(blocks), np.bool_)
        for at in self.halves:
            bad |= ~np.isfinite(half(blocks[:, at : at + 2])[:, 0])
        return bad

    @abstractmethod
    def _decode_blocks(self, blocks: Bytes) -> Floats:
        """uint8 [n, block_bytes] -> float32 [n, block_size]."""

    def _encode_blocks(self, x: Floats, importance: Floats | None) -> Bytes:
        """float32 [n, block_size] (and as many weights) -> uint8 [n, block_bytes]."""
        raise QuantError(f"{self.name} can be read, not written")


def half(data: Bytes) -> Floats:
    """Two bytes per row, a float16 -> float32 [n, 1]."""
    return np.ascontiguousarray(data).view(np.float16).astype(np.float32)


def half_bytes(x: Floats) -> Bytes:
    """float32 [n] or [n, 1] -> the bytes of float16 [n, 2]."""
    return x.astype(np.float16).reshape(-1, 1).view(np.uint8)


def nibbles(data: Bytes) -> Bytes:
    """uint8 [n, k] -> the low halves of all bytes, then the high halves: uint8 [n, 2k]."""
    return np.concatenate([data & np.uint8(15), data >> np.uint8(4)], axis=-1)


def pack_nibbles(q: Bytes) -> Bytes:
    """The inverse of `nibbles`: uint8 [..., 2k] -> uint8 [..., k]."""
    middle = q.shape[-1] // 2
    return q[..., :middle] & np.uint8(15) | q[..., middle:] << np.uint8(4)


def bits(data: Bytes, width: int) -> Bytes:
    """uint8 [..., k] -> its fields of `width` bits, lowest first, a plane of k each: [..., 8 // width, k]."""
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    return data[..., None, :] >> shifts & np.uint8((1 << width) - 1)


def inverse(d: Floats) -> Floats:
    """1 / d, and 0 where d is 0."""
    return np.where(d == 0, np.float32(0), np.float32(1) / d)
