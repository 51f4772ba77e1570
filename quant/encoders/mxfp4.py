"""MXFP4: the bytes of the specification, bit by bit. A block is two vectors of sixteen, as in `plain`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from quant.blocks_32 import MXFP4_LEVELS, MXFP4_LOWEST, MXFP4_MIDDLES
from quant.compiled import compiled
from quant.encoders.lanes import absolute, first, load, splat, store_bytes, sum16, where_less

BLOCK = 32
STEP = 64  # bytes of sixteen floats
_F = np.float32
_LEVELS, _MIDDLES, _LOWEST = MXFP4_LEVELS, MXFP4_MIDDLES, MXFP4_LOWEST  # constants of the compiled code
_INVERSES = np.ldexp(_F(1), -np.arange(_LOWEST, 127)).astype(np.float32)  # of the powers from the lowest on


@compiled()
def _nearest(z: Any) -> Any:
    """The level nearest to each z, of two the smaller, and its index."""
    level, index, one = splat(_F(0)), splat(_F(0)), splat(_F(1))
    for k in range(7):
        middle = splat(_MIDDLES[k])
        level = where_less(middle, z, splat(_LEVELS[k + 1]), level)
        index = where_less(middle, z, index + one, index)
    return level, index


@compiled()
def _error(y: Any, weight: Any, scale: Any) -> Any:
    """The weighted squared error of each of sixteen y * scale."""
    z = y * splat(scale)
    level, _ = _nearest(z)
    return weight * ((level - z) * (level - z))


@compiled()
def _codes(x: Any, scale: Any) -> Any:
    """The codes of sixteen weights."""
    zero = splat(_F(0))
    _, index = _nearest(absolute(x) * splat(scale))
    negative = where_less(zero, index, index + splat(_F(8)), zero)
    return where_less(x, zero, negative, index)


@compiled()
def encode(x: Any, importance: Any, per_row: Any, out: Any) -> None:
    """float32 [blocks * 32] -> uint8 [blocks * 17]; importance: of a row's columns, or empty."""
    bits, xs, ws, to = x.view(np.uint32), x.ctypes.data, importance.ctypes.data, out.ctypes.data
    for block in range(x.size // BLOCK):
        peak = np.uint32(0)
        for i in range(BLOCK):
            peak = max(peak, bits[block * BLOCK + i] & np.uint32(0x7FFFFFFF))
        place: Any = max(np.int64(peak >> np.uint32(23)) - 127 - _LOWEST, 0)  # its power, from the lowest on
        inverse = _INVERSES[place]
        low, high = load(xs + block * 2 * STEP), load(xs + block * 2 * STEP + STEP)
        w0, w1 = splat(_F(1)), splat(_F(1))
        if importance.size:
            at = ws + block % per_row * 2 * STEP
            w0, w1 = load(at), load(at + STEP)
        y0, y1 = absolute(low) * splat(inverse), absolute(high) * splat(inverse)
        usual = first(sum16(_error(y0, w0, _F(8)) + _error(y1, w1, _F(8))))
        larger = first(sum16(_error(y0, w0, _F(4)) + _error(y1, w1, _F(4)))) * _F(4)
        up = 1 if larger < usual else 0
        scale = inverse * (_F(4) if up else _F(8))
        out[block * 17] = place + _LOWEST + 125 + up if peak else 0
        store_bytes(to + block * 17 + 1, _codes(low, scale) + _codes(high, scale) * splat(_F(16)))


def encode_rows(
    x: npt.NDArray[np.float32], importance: npt.NDArray[np.float32], out: npt.NDArray[np.uint8]
) -> None:
    """float32 [rows, cols] -> uint8 [rows, bytes] of MXFP4."""
    encode(x.reshape(-1), importance, x.shape[1] // BLOCK, out.reshape(-1))
