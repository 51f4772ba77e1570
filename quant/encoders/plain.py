"""Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 without a search: the bytes of the specification, bit by bit.

A block is two vectors of sixteen, and those are also the low and the high halves of its bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from quant.compiled import compiled
from quant.encoders.lanes import (
    absolute,
    bits_not_less,
    greatest,
    highest,
    least,
    load,
    lowest,
    splat,
    store_bytes,
    store_half,
    truncated,
    where_less,
)

BLOCK = 32
STEP = 64  # bytes of sixteen floats
_F = np.float32


@compiled()
def _farthest(x: Any, at: Any, low: Any, high: Any) -> Any:
    """The weight farthest from zero; of two that are equally far the first, as in the specification."""
    top = max(highest(low), highest(high))
    bottom = -min(lowest(low), lowest(high))
    if top > bottom:
        return top
    if bottom > top:
        return -bottom
    for i in range(BLOCK):
        if abs(x[at + i]) == top:
            return x[at + i]
    return _F(0)


@compiled()
def _bits(out: Any, at: Any, low: Any, high: Any, threshold: Any) -> None:
    """The fifth bits of 32 levels, four bytes."""
    bits = bits_not_less(low, threshold) | bits_not_less(high, threshold) << np.uint32(16)
    for i in range(4):
        out[at + i] = bits >> np.uint32(8 * i) & np.uint32(255)


@compiled()
def encode_symmetric(x: Any, half_range: Any, out: Any) -> None:
    """float32 [blocks * 32] -> uint8 [blocks * 18 or 22]: Q4_0 (half_range 8) or Q5_0 (16)."""
    five = half_range == 16
    size = 22 if five else 18
    shift, top, sixteen = splat(_F(half_range) + _F(0.5)), splat(_F(2 * half_range - 1)), splat(_F(16))
    xs, to = x.ctypes.data, out.ctypes.data
    for block in range(x.size // BLOCK):
        low, high = load(xs + block * 2 * STEP), load(xs + block * 2 * STEP + STEP)
        d = _farthest(x, block * BLOCK, low, high) / _F(-half_range)
        inv = splat(_F(1) / d if d != 0 else _F(0))
        low, high = least(truncated(low * inv + shift), top), least(truncated(high * inv + shift), top)
        at = block * size
        store_half(to + at, d)
        if five:
            _bits(out, at + 2, low, high, sixteen)
            low = low - where_less(low, sixteen, splat(_F(0)), sixteen)
            high = high - where_less(high, sixteen, splat(_F(0)), sixteen)
        store_bytes(to + at + size - 16, low + high * sixteen)


@compiled()
def encode_affine(x: Any, top_level: Any, out: Any) -> None:
    """float32 [blocks * 32] -> uint8 [blocks * 20 or 24]: Q4_1 (top_level 15) or Q5_1 (31)."""
    five = top_level == 31
    size = 24 if five else 20
    half, top, sixteen, zero = splat(_F(0.5)), splat(_F(top_level)), splat(_F(16)), splat(_F(0))
    xs, to = x.ctypes.data, out.ctypes.data
    for block in range(x.size // BLOCK):
        low, high = load(xs + block * 2 * STEP), load(xs + block * 2 * STEP + STEP)
        most = max(highest(low), highest(high))
        minimum = min(lowest(low), lowest(high))
        d = (most - minimum) / _F(top_level)
        inv, m = splat(_F(1) / d if d != 0 else _F(0)), splat(minimum)
        low = least(truncated((low - m) * inv + half), top)
        high = least(truncated((high - m) * inv + half), top)
        at = block * size
        store_half(to + at, d)
        store_half(to + at + 2, minimum)
        if five:
            _bits(out, at + 4, low, high, sixteen)
            low = low - where_less(low, sixteen, zero, sixteen)
            high = high - where_less(high, sixteen, zero, sixteen)
        store_bytes(to + at + size - 16, low + high * sixteen)


@compiled()
def _round_away(x: Any) -> Any:
    """To the nearest whole number, halves away from zero."""
    whole, zero, one = truncated(x), splat(_F(0)), splat(_F(1))
    away = where_less(x, zero, zero - one, one)
    return whole + where_less(absolute(x - whole), splat(_F(0.5)), zero, away)


@compiled()
def encode_q8(x: Any, out: Any) -> None:
    """float32 [blocks * 32] -> uint8 [blocks * 34]: Q8_0."""
    xs, to = x.ctypes.data, out.ctypes.data
    for block in range(x.size // BLOCK):
        low, high = load(xs + block * 2 * STEP), load(xs + block * 2 * STEP + STEP)
        d = highest(greatest(absolute(low), absolute(high))) / _F(127)
        inv = splat(_F(1) / d if d != 0 else _F(0))
        at = to + block * 34
        store_half(at, d)
        store_bytes(at + 2, _round_away(low * inv))
        store_bytes(at + 18, _round_away(high * inv))


def encode_rows(x: npt.NDArray[np.float32], name: str, out: npt.NDArray[np.uint8]) -> None:
    """float32 [rows, cols] -> uint8 [rows, bytes] of "q4_0", "q4_1", "q5_0", "q5_1" or "q8_0"."""
    weights, data = x.reshape(-1), out.reshape(-1)
    if name == "q8_0":
        encode_q8(weights, data)
    elif name in ("q4_0", "q5_0"):
        encode_symmetric(weights, 8 if name == "q4_0" else 16, data)
    else:
        encode_affine(weights, 15 if name == "q4_1" else 31, data)
