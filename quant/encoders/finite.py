"""What happens to every weight before it is encoded, at the memory's speed: widened, and checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from quant.compiled import compiled
from quant.encoders.lanes import load_halves, store


@compiled()
def _widen(halves: Any, out: Any) -> None:
    """uint8 [2 * n], n a multiple of 16, of float16 -> float32 [n]."""
    source, target = halves.ctypes.data, out.ctypes.data
    for i in range(out.size // 16):
        store(target + i * 64, load_halves(source + i * 32))


def widened(data: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """uint8 [rows, 2 * cols] of float16 -> float32 [rows, cols]; NumPy does it ten times as slowly."""
    out = np.empty((data.shape[0], data.shape[1] // 2), np.float32)
    whole = out.size // 16 * 16
    _widen(data.reshape(-1)[: 2 * whole], out.reshape(-1)[:whole])
    out.reshape(-1)[whole:] = data.reshape(-1)[2 * whole :].view("<f2")
    return out


@compiled()
def within(x: Any, limit: Any) -> bool:
    """Is every weight of float32 [n] at most `limit` in size? A NaN is not."""
    bits = x.view(np.uint32)
    top = np.uint32(0)
    for i in range(bits.size):  # as integers, sizes of floats sort as they are, infinity and NaN above all
        top = max(top, bits[i] & np.uint32(0x7FFFFFFF))
    return bool(top <= limit)


def refused(x: np.ndarray[Any, np.dtype[np.float32]], limit: float) -> tuple[int, ...] | None:
    """The index of the first weight that is not finite or is larger than `limit`, or None."""
    largest = np.float32(min(limit, float(np.finfo(np.float32).max))).view(np.uint32)
    if within(x.reshape(-1), largest):
        return None
    with np.errstate(invalid="ignore"):
        return tuple(int(i) for i in np.argwhere(~(np.abs(x) <= limit) | ~np.isfinite(x))[0])
